"""Parts of the experiment on web label noise: the data, and how detectors are judged."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import datasets
from experiments._protocol import Progress
from experiments._training import train_all, train_seeds
from experiments.robustness import _web_noise, web_label_noise, web_label_noise_fashion

CONFIG = dataclasses.replace(web_label_noise.SIZES["toy"].config, levels=(0.1, 0.5))


def test_labels_are_wrong_as_often_as_said_and_images_do_not_overlap():
  data = _web_noise.load_seed(0, CONFIG)
  known, foreign = CONFIG.digits, np.asarray(data.foreign)
  assert data.x.shape == (160, 8, 8) and not foreign[:known].any() and foreign[known:].all()
  wrong = np.asarray(data.labels) != np.asarray(data.truth)
  np.testing.assert_array_equal(wrong[:, :known].sum(1), (10, 50))
  assert not wrong[:, known:].any()
  assert data.pre.shape == (4, 32) and data.rows.shape == (6, 32)
  parts = [np.asarray(v).reshape(len(v), -1) for v in (data.x[:known], data.x_val, data.x_test)]
  assert [len(part) for part in parts] == [100, 20, 1677]
  rows = {tuple(row) for part in parts for row in part.round(4)}
  assert len(rows) == 1797
  other = _web_noise.load_seed(1, CONFIG)
  assert np.any(np.asarray(other.labels) != np.asarray(data.labels))


def test_detectors_are_judged_by_what_they_flag():
  data = _web_noise.load_seed(0, CONFIG)
  foreign = np.asarray(data.foreign)
  wrong = np.asarray(data.labels[0]) != np.asarray(data.truth)
  sees_textures = np.where(foreign, 0.9, 0.1)
  found = web_label_noise.judge(sees_textures, data, 0, 0.5)
  assert found["auc"] == found["clean kept"] == found["foreign caught"] == 1
  assert found["wrong caught"] == 0 and found["auc wrong"] == 0.5
  assert np.all(found["roc"][1:] == 1)
  strict = web_label_noise.judge(np.where(wrong, 0.97, sees_textures), data, 0, 0.95)
  assert strict["wrong caught"] == strict["auc wrong"] == 1 and strict["foreign caught"] == 0


def test_methods_differ_in_what_they_use():
  settings = web_label_noise._settings(CONFIG.rates)
  parts = zip(settings["mixup"], settings["detects"], settings["parity"], strict=True)
  assert dict(zip(web_label_noise.METHODS, parts, strict=True)) == {
    "cross entropy": (0, 0, 1), "mixup": (1, 0, 1), "Z only": (1, 1, 1), "W only": (1, 1, 0),
    "alternate": (1, 1, 2),
  }  # fmt: skip


def test_clothes_are_averaged_and_parts_do_not_overlap(monkeypatch):
  config = dataclasses.replace(
    web_label_noise_fashion.Config(), digits=30, textures=12, validation=10, batch=6,
    contrast_steps=3, steps=4,
  )  # fmt: skip
  rng = np.random.default_rng(0)
  x = rng.random((70, 784), np.float32)
  fake = {"x_train": x[:50], "y_train": np.arange(50) % 10}
  fake |= {"x_test": x[50:], "y_test": np.arange(20) % 10}
  load = datasets.load
  take = lambda name: fake if name == "fashion_mnist" else load(name)
  monkeypatch.setattr(datasets, "load", take)
  data = _web_noise.load_seed(0, config)
  assert data.x.shape == (42, 14, 14) and data.x_val.shape == (10, 14, 14)
  assert data.x_test.shape == (20, 14, 14)
  means = x.reshape(-1, 14, 2, 14, 2).mean((2, 4))
  center = means[50:].mean() - 0.3 * np.asarray(data.x_test).mean()  # what load_seed takes off
  np.testing.assert_allclose(0.3 * np.asarray(data.x_test) + center, means[50:], atol=1e-5)
  known = np.concatenate([data.x[:30], data.x_val]) * 0.3 + center
  far = np.abs(known[:, None] - means[None, :50]).max((2, 3))
  assert far.min(1).max() < 1e-5 and len(set(far.argmin(1))) == 40
  np.testing.assert_array_equal(far.argmin(1)[:30] % 10, data.truth[:30])
  np.testing.assert_array_equal(far.argmin(1)[30:] % 10, data.y_val)


@pytest.mark.parametrize("kind", list(_web_noise.WIDTHS))
def test_a_convolutional_encoder_has_all_heads(kind, key):
  net, x = _web_noise.Net(kind), jnp.ones((2, 14, 14))
  shapes = jax.eval_shape(lambda x: net.apply(net.init(key, x), x), x)
  widths = _web_noise.WIDTHS[kind]
  assert {name: leaf.shape for name, leaf in shapes.items()} == {
    "early": (2, widths[1]), "late": (2, 128), "logits": (2, 10), "contrast": (2, 32),
  }  # fmt: skip


def test_one_seed_after_another_gives_what_all_at_once_give():
  train = lambda setting, data: {
    "product": setting["a"] * data["x"],
    "sum": setting["a"] + data["b"],
  }
  settings = {"a": jnp.arange(3.0)}
  data = {"x": jnp.arange(8.0).reshape(2, 4), "b": jnp.arange(2.0)}
  both = [way(Progress(), train, settings, data, name="x") for way in (train_all, train_seeds)]
  assert both[1]["product"].shape == (2, 3, 4) and both[1]["sum"][1, 2] == 3
  jax.tree.map(np.testing.assert_array_equal, *both)


def test_nothing_is_called_a_digit_among_clothes():
  config = web_label_noise_fashion.Config(seeds=2)
  detector = {name: [0.5, 0.6] for name in web_label_noise.NAMES}
  names = (web_label_noise.Z, *(f"W, {part}" for part in ("early", "late", "pixels")), "oracle")
  metrics = {
    "detection": {f"{level:g}": dict.fromkeys(names, detector) for level in config.levels},
    "training": {
      name: {"test": [0.5, 0.6], "flagged": [[0.1], [0.2]]} for name in web_label_noise.METHODS
    },
  }
  made = web_label_noise_fashion.claims(metrics, config)
  assert len(made) == 12 and not any("digit" in c.text + c.metric for c in made)
  assert sum("clothes" in c.text for c in made) == 5
  rows = web_label_noise_fashion.table(metrics, config)
  assert rows and not any("digit" in row.metric for row in rows)
