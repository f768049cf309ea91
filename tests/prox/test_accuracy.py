"""Every entrywise operator against its problem in 40 digits, over twelve decades of every input."""

import functools
import itertools

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest

from jaxopt_robust import prox
from tests.prox.reference import REFERENCES, derivatives, draws, objective, stationary
from tests.registries.prox import PENALTIES
from tests.registries.prox_scalar import SCALAR

ROWS = 24
CHUNK = 256
ALL = pytest.mark.parametrize("reference", REFERENCES, ids=lambda r: r.name)
# What has no strength, or no derivative anywhere; group_lasso is no function of an entry.
ELSEWHERE = {"none", "group_lasso", "box"}


def operator(name, value=False):
  """``fun(x, scaling, strength, ...)`` of numbers."""
  if value:
    penalty = getattr(prox, f"penalty_{name}")
    return lambda x, *hyper: penalty(x, hyper if len(hyper) > 1 else hyper[0])
  fun = getattr(prox, f"prox_{name}")
  return lambda x, s, *hyper: fun(x, hyper if len(hyper) > 1 else hyper[0], s)


@functools.cache
def _program(name, value):
  fun = operator(name, value)
  one = lambda row: (fun(*row), jnp.stack(jax.grad(lambda p: fun(*p))(tuple(row))))
  return jax.jit(jax.vmap(one))


def with_slopes(name, rows, *, value=False):
  """Values and slopes of many rows, by one program a name and dtype: rows come in equal parts."""
  parts = []
  for first in range(0, len(rows), CHUNK):
    part = np.asarray(rows[first : first + CHUNK])
    full = np.concatenate([part, np.repeat(part[:1], CHUNK - len(part), axis=0)])
    parts.append([np.asarray(v)[: len(part)] for v in _program(name, value)(jnp.asarray(full))])
  return tuple(np.concatenate(column) for column in zip(*parts, strict=True))


def test_every_entrywise_operator_is_here():
  names = {case.name for case in [*PENALTIES, *SCALAR]} - ELSEWHERE
  assert names == {reference.name for reference in REFERENCES}


def _sum_of_changes(fun, exact, inputs, eps):
  """How far one rounding of each input moves ``fun``: what any algorithm may be off by."""
  moved = []
  for i, value in enumerate(inputs):
    other = fun(*inputs[:i], value * (1 + eps), *inputs[i + 1 :])
    moved.append([abs(a - b) for a, b in zip(other, exact, strict=True)])
  return [eps * abs(e) + sum(column) for e, *column in zip(exact, *moved, strict=True)]


def _is_underflow(reference, y, inputs, tiny):
  """Whether the minimiser lies between 0 and the smallest normal number."""
  x, scaling, *hyper = inputs
  return y == 0 and tiny - x + scaling * reference.slope(tiny, *hyper) > 0


@pytest.mark.x64
@ALL
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_value_and_derivatives_in_40_digits(reference, dtype):
  """At most a few roundings of the inputs away; where minimisers tie, their objectives do."""
  eps, tiny = mp.mpf(float(np.finfo(dtype).eps)), mp.mpf(float(np.finfo(dtype).tiny))
  rows = draws(reference, 0, ROWS)
  got, slopes = with_slopes(reference.name, np.asarray(rows, dtype))
  with mp.workdps(40):
    for row, found, found_slopes in zip(rows, got, slopes, strict=True):
      inputs = [mp.mpf(float(v)) for v in row]
      x, _, *hyper = inputs
      y = mp.mpf(float(found))
      lost = tiny * (1 + inputs[1] + abs(inputs[2]))  # a factor that underflows, times an input
      kinks = [mp.mpf(k) for k in reference.kinks(*hyper)]
      assert np.isfinite(found) and np.all(np.isfinite(found_slopes)), row
      if reference.name == "entropy" and _is_underflow(reference, y, inputs, tiny):
        assert np.all(found_slopes == 0)
        continue
      exact = y
      if not any(abs(y - kink) <= 8 * eps * abs(kink) for kink in kinks):
        exact = stationary(reference, y, *inputs)
        assert exact is not None, row
        solve = lambda *p, y=exact: [stationary(reference, y, *p)]
        allowed = _sum_of_changes(solve, [exact], inputs, eps)[0]
        assert abs(y - exact) <= 4 * allowed + tiny, (row, float(exact))
        expected = derivatives(reference, exact, *inputs)
        change = lambda *p, y=exact: derivatives(reference, stationary(reference, y, *p), *p)
        bounds = _sum_of_changes(change, expected, inputs, eps)
        for slope, right, bound in zip(found_slopes, expected, bounds, strict=True):
          assert abs(mp.mpf(float(slope)) - right) <= 8 * bound + lost, (row, float(right))
      # No point of a grid from x to 0 and beyond, and no kink, is better.
      others = [x, mp.mpf(0), *kinks, *(x * mp.mpf(2) ** k for k in range(-20, 3))]
      others += [exact * mp.mpf(f) for f in (0.5, 0.9, 1.1, 2)]
      best = min(objective(reference, other, *inputs) for other in others)
      value = objective(reference, y, *inputs)
      assert value <= best + 8 * eps * (abs(value) + x * x), row


SIZES = [0.0, 1e-30, 1e-8, 1.0, 1e8, 1e30]
SECOND = {
  "mcp": SIZES[1:], "lq": [0.02, 0.5, 0.98], "scad": [2.0001, 3.7, 1e8, 1e30], "cel0": SIZES[1:],
  "log_sum": SIZES[1:], "capped_l1": SIZES[1:], "huber": SIZES[1:], "epsilon_insensitive": SIZES,
  "pinball": [0.0, 0.3, 1.0], "poisson": SIZES, "quadratic": [*SIZES, -1e30], "elastic_net": SIZES,
}  # fmt: skip


def _grid(name, sizes):
  second = [v for v in SECOND.get(name, []) if name in ("lq", "pinball") or v == 0 or v in sizes]
  signed = [*sizes, *(-v for v in sizes)]
  return list(itertools.product(signed, sizes, sizes, *([second] if second else [])))


@pytest.mark.x64
@ALL
def test_slopes_are_finite_to_the_ends_of_float32(reference):
  """The operator from 1e-30 to 1e30 in every input, by itself and with every slope."""
  grid = np.asarray(_grid(reference.name, SIZES), np.float32)
  value, slopes = with_slopes(reference.name, grid)
  assert not np.isnan(value).any()
  # A slope by a strength such as -x^2 may leave the range; it is a number nevertheless.
  assert not np.isnan(slopes).any()
  assert np.isfinite(slopes[:, 0]).all()


@pytest.mark.x64
@ALL
def test_slopes_of_penalties_are_finite(reference):
  """From 1e-8 to 1e8: powers of 1e30 do not fit."""
  grid = np.asarray(_grid(reference.name, [0.0, 1e-8, 1.0, 1e8]), np.float32)
  grid = np.unique(np.delete(grid, 1, axis=1), axis=0)
  value, slopes = with_slopes(reference.name, grid, value=True)
  assert not np.isnan(value).any() and not np.isnan(slopes).any()
  inside = np.isfinite(value)
  assert np.isfinite(slopes[inside]).all()


@pytest.mark.x64
@ALL
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_penalties_near_zero_and_at_their_kinks(reference, dtype):
  """No difference of nearly equal numbers: a few roundings of the inputs at every size."""
  eps, tiny = mp.mpf(float(np.finfo(dtype).eps)), mp.mpf(float(np.finfo(dtype).tiny))
  rng = np.random.default_rng(1)
  rows = []
  for _ in range(ROWS):
    x, strength = 10 ** rng.uniform(-12, 4), 10 ** rng.uniform(-3, 3)
    rows.append((x, strength, *reference.shape(rng, 10 ** rng.uniform(-4, 4))))
  rows = np.asarray(rows, np.float32).astype(np.float64)
  got, _ = with_slopes(reference.name, np.asarray(rows, dtype), value=True)
  with mp.workdps(40):
    for row, found in zip(rows, got, strict=True):
      inputs = [mp.mpf(float(v)) for v in row]
      exact = reference.value(*inputs)
      bound = _sum_of_changes(lambda *p: [reference.value(*p)], [exact], inputs, eps)[0]
      assert abs(mp.mpf(float(found)) - exact) <= 4 * bound + tiny, (row, float(exact))


def test_the_reported_points():
  """Closed forms: 22.9 away from the root before; slopes that underflow; a square of 1e-4."""
  np.testing.assert_allclose(prox.prox_logistic(jnp.array([-22.91531]), 50.0), 0.154707, rtol=1e-5)
  slopes = jax.grad(lambda z, l, s: prox.prox_entropy(z, l, s), argnums=(0, 1, 2))
  assert [float(v) for v in slopes(-1.0, 0.01, 1.0)] == [0.0, 0.0, 0.0]
  np.testing.assert_allclose(prox.penalty_cel0(1e-8, (1.0, 1.0)), 2**0.5 * 1e-8, rtol=1e-6)
  assert float(prox.penalty_cel0(0.0, (1.0, 1.0))) == 0.0


@pytest.mark.x64
@ALL
def test_nan_anywhere_is_nan(reference):
  """In x, each hyper-parameter and the scaling, traced: comparisons must not pick a branch."""
  good = draws(reference, 2, 2)[1].astype(np.float32)
  good[0] = abs(good[0])
  rows = np.stack([good, *np.where(np.eye(good.size, dtype=bool), np.nan, good)])
  out, _ = with_slopes(reference.name, rows)
  np.testing.assert_array_equal(np.isnan(out), [False] + [True] * good.size)
  keep = [i for i in range(good.size) if i != 1]
  rows = np.delete(rows[[0, *(i + 1 for i in keep)]], 1, axis=1)
  out, _ = with_slopes(reference.name, rows, value=True)
  np.testing.assert_array_equal(np.isnan(out), [False] + [True] * len(keep))


@pytest.mark.parametrize("dtype", ["float32", pytest.param("float64", marks=pytest.mark.x64)])
def test_logistic_operator_of_any_strength(dtype):
  """Bisection with 40 digits: strengths up to 1e30, where x and the shift cancel."""
  rng, kind = np.random.default_rng(0), np.dtype(dtype)
  strength = (10.0 ** rng.uniform(-3, 30, 60)).astype(kind)
  x = (-strength * rng.uniform(0, 1.2, 60) * rng.choice([1, 1e-3, 1e-6], 60)).astype(kind)
  got = prox.prox_logistic(jnp.asarray(x), jnp.asarray(strength))
  with mp.workdps(40):
    for v, g, y in zip(x.tolist(), strength.tolist(), np.asarray(got).tolist(), strict=True):
      low, high = mp.mpf(v), mp.mpf(v) + g
      for _ in range(300):
        middle = (low + high) / 2
        below = middle - v < g / (1 + mp.exp(middle))
        low, high = (middle, high) if below else (low, middle)
      p = 1 / (1 + mp.exp(low))
      gain = 1 / (1 + g * p * (1 - p))  # dy/dx; p gain is dy/dg
      slack = float(np.finfo(kind).eps) * (abs(v) * gain + g * p * gain + abs(low))
      assert abs(y - low) <= slack


def test_entropy_operator_where_its_unit_underflows():
  # y + g (1 + log y) = x: y = 1.37e-30 although y / g is below the smallest number of float32.
  x, g = np.float32(-2.6945536e18), np.float32(3.9764787e16)
  y = float(prox.prox_entropy(jnp.asarray(x), jnp.asarray(g)))
  with mp.workdps(40):
    right = mp.exp(mp.mpf(float(x)) / mp.mpf(float(g)) - 1)  # y itself is lost beside g log y
  assert abs(y / float(right) - 1) <= 70 * np.finfo(np.float32).eps
