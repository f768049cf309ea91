"""Parts of the experiment on web label noise: the data, and how detectors are judged."""

import dataclasses

import numpy as np

from experiments.robustness import _web_noise, web_label_noise

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
