"""The splits of the contrastive and the metric-learning experiments."""

import numpy as np

from experiments.compositional import _long_tail, contrastive_temperatures
from experiments.losses import metric_thresholds


def rows_of(images):
  return {row.tobytes() for row in np.asarray(images)}


def test_long_tail_sizes_and_splits():
  config = contrastive_temperatures.Config()
  sizes = _long_tail.class_sizes(config)
  np.testing.assert_array_equal(sizes, [125, 94, 71, 53, 40, 30, 23, 17, 13, 10])
  data = _long_tail.load_split(3, config)
  np.testing.assert_array_equal(np.bincount(data.y["train"]), sizes)
  np.testing.assert_array_equal(np.bincount(data.y["val"]), 19)
  np.testing.assert_array_equal(np.bincount(data.y["test"]), 30)
  train, val, test = (rows_of(data.x[name]) for name in ("train", "val", "test"))
  assert len(train) > 470 and not train & val and not train & test and not val & test
  np.testing.assert_array_equal(data.shifted[4], data.x["train"])  # neither up nor down
  side = np.asarray(data.x["train"]).reshape(-1, 8, 8)
  np.testing.assert_array_equal(
    np.asarray(data.shifted[0]).reshape(-1, 8, 8)[:, 1:, 1:], side[:, :-1, :-1]
  )


def test_no_image_is_held_out_under_another_symmetry():
  config = metric_thresholds.Config()
  data = metric_thresholds.load_split(0, config)
  np.testing.assert_array_equal(np.bincount(data.y), [40] * 20)
  parts = [(np.asarray(data.held_x[i]), np.asarray(data.is_held[i])) for i in range(3)]
  for (_, where), labels in zip(parts, data.held_y, strict=True):
    counts = np.bincount(np.asarray(labels)[where])
    assert len(counts) == 20 and min(counts) >= 35 and max(counts) <= 40

  def orbits(images):
    """Each image up to the symmetries of the square."""
    found = set()
    for image in np.asarray(images).reshape(-1, 8, 8):
      turned = [np.rot90(image, k) for k in range(4)]
      found.add(min(x.tobytes() for x in turned + [x[:, ::-1] for x in turned]))
    return found

  train, (validation, seen, unseen) = orbits(data.x), [orbits(x[where]) for x, where in parts]
  assert not train & (seen | validation | unseen) and not validation & (seen | unseen)
  batch = np.asarray(data.y)[np.asarray(data.rows[1, 2])]
  np.testing.assert_array_equal(np.bincount(batch), [8] * 20)
  assert len(np.unique(np.asarray(data.rows[3]))) == 800  # an epoch
