"""The gallery: complete, current, and able to catch a wrong operator."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import _records
from experiments._protocol import to_json
from experiments.prox import _gallery_drawing as drawing
from experiments.prox import prox_gallery as gallery
from jaxopt_robust import prox

CONFIG = gallery.SIZES["toy"].config


def test_every_record_of_the_catalogue_has_one_line():
  lines = [*gallery.CURVES, *gallery.SLICES]
  assert len(set(lines)) == len(lines)
  missing = set(gallery.records()) - set(lines)
  assert not missing, f"add a line to CURVES or SLICES of {gallery.__file__}: {sorted(missing)}"
  assert not set(lines) - set(gallery.records()), "a line without a record"


def test_a_record_without_a_line_is_found(monkeypatch):
  monkeypatch.delitem(gallery.CURVES, "lasso")
  assert set(gallery.records()) - {*gallery.CURVES, *gallery.SLICES} == {"lasso"}


def test_the_committed_record_draws_the_present_tables():
  record = json.loads((_records.RECORDS / "prox_gallery.json").read_text())
  drawn = record["metrics"]["curves"]
  again = "run: python -m experiments record prox_gallery"
  assert {n: d["hyper"] for n, d in drawn.items()} == to_json(gallery.CURVES), again
  planes = {n: d["text"] for n, d in record["metrics"]["slices"].items()}
  assert planes == {n: s.text for n, s in gallery.SLICES.items()}, again


@pytest.mark.parametrize("name", gallery.SLICES)
def test_a_plane_is_an_isometry_with_its_inverse(name):
  plane, uv = gallery.SLICES[name], jnp.array([3.0, -4.0])
  array = plane.embed(uv)
  np.testing.assert_array_equal(plane.read(array), uv)
  assert float(jnp.sum(array**2)) == 25.0


@pytest.mark.x64
def test_the_search_catches_a_wrong_operator():
  curve, plane = 1.0, gallery.Slice(1.0)
  moved = lambda x, lam=1.0, s=1.0: prox.prox_lasso(x, lam, s) + 0.05
  wrong = gallery.check_curve(prox.Penalty(prox.penalty_lasso, moved), curve, CONFIG)
  right = gallery.check_curve(prox.lasso, curve, CONFIG)
  assert min(wrong["excess"]) > 1e-4 and max(right["excess"]) <= 1e-12
  # Soft thresholding in the place of block soft thresholding.
  swapped = prox.Penalty(prox.penalty_group_lasso, prox.prox_lasso)
  assert gallery.check_slice(swapped, plane, CONFIG)["excess"][0] > 1e-2
  assert gallery.check_slice(prox.group_lasso, plane, CONFIG)["excess"][0] <= 1e-12


def test_excess_is_the_relative_height_above_the_search():
  points, found, value = np.array([[2.0]]), np.array([[0.0]]), np.array([0.0])
  search = (np.array([[0.0], [1.0]]), np.array([0.0, 1.0]))
  # |y| + 1/2 (y - 2)^2 is 2 at the point 0 and 1.5 at the candidate 1.
  assert gallery.excess(points, found, value, search, 1.0) == pytest.approx(0.5 / 3)


def test_packed_numbers_come_back():
  values = np.array([[1.234, -0.5], [np.inf, 0.0]])
  text = drawing.pack(values)
  assert text == "1.23 -0.5 - 0"
  np.testing.assert_array_equal(drawing.unpack(text), [1.23, -0.5, np.nan, 0.0])


def test_the_toy_run_leaves_precision_alone():
  assert not jax.config.jax_enable_x64
