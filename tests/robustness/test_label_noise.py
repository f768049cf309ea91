"""Detection of wrong labels: invariances, peers, limits, the schedule of the detectors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.linear_model

from jaxopt_robust.robustness import (
  cotrain_merge,
  detect_noise,
  linear_separation,
  noise_init,
  pseudo_label_weights,
  small_loss_mask,
)

pytestmark = pytest.mark.x64  # one precision: every program is compiled once
N, D = 120, 4
ALL = np.ones(N, bool)
_flag, _weigh = jax.jit(small_loss_mask), jax.jit(pseudo_label_weights)
_separate, _detect = jax.jit(linear_separation), jax.jit(detect_noise, static_argnames="which")


def flag(values, threshold=0.95, where=ALL):
  return _flag(values, threshold=threshold, where=where)


def weigh(values, noisy):
  return _weigh(jnp.asarray(values), jnp.asarray(noisy))


def separate(x, side, ridge=1e-2, tol=1e-9, where=ALL):
  return _separate(jnp.asarray(x), jnp.asarray(side), ridge=ridge, tol=tol, where=where)


@pytest.fixture
def losses(rng):
  upper = rng.random(N) < 0.3
  return np.abs(rng.normal(0.3, 0.2, N)) + 3 * upper, upper


@pytest.fixture
def clouds(rng):
  """Features of two clouds that overlap, one column larger and one constant."""
  side = rng.random(N) < 0.3
  x = rng.normal(size=(N, D)) + side[:, None]
  x[:, 1], x[:, 3] = 1000 * x[:, 1] + 5e4, 7.0
  return x, side


def test_large_losses_are_flagged_whatever_their_units(losses):
  values, upper = losses
  noisy, probability = flag(values)
  np.testing.assert_array_equal(noisy, upper)
  np.testing.assert_array_equal(noisy, probability > 0.95)
  for other in (17 * values, values - 4, 1e-9 * values):
    again, same = flag(other)
    np.testing.assert_array_equal(again, noisy)
    np.testing.assert_allclose(same, probability, atol=1e-9)


def test_the_threshold_is_that_of_the_posterior():
  values = jnp.linspace(0.0, 1.0, N)
  counts = [int(flag(values, threshold=t)[0].sum()) for t in (0.0, 0.5, 0.95, 1.0)]
  assert counts[0] > counts[1] > counts[2] > counts[3] == 0


def test_masked_equal_and_unknown_losses(losses):
  values, upper = losses
  used = np.arange(N) >= 20
  noisy, probability = flag(np.where(used, values, np.nan), where=used)
  np.testing.assert_array_equal(noisy, upper & used)
  assert not np.any(probability[:20])
  assert not np.any(flag(np.ones(N), where=used)[0])
  values[30] = np.nan
  noisy, probability = flag(values, where=used)
  assert not np.any(noisy) and np.all(np.isnan(probability[used]))


def test_the_plane_is_that_of_scikit_learn(clouds):
  x, side = clouds
  ridge = 1e-2
  weights = np.where(side, 0.5 / side.sum(), 0.5 / (~side).sum())
  centred = x - weights @ x
  deviation = np.sqrt(weights @ centred**2)
  z = (centred / np.where(deviation < 1e-6, np.inf, deviation)).round(14)
  peer = sklearn.linear_model.LogisticRegression(
    C=1 / (ridge * N), class_weight="balanced", tol=1e-12, max_iter=10_000
  ).fit(z, side)
  noisy, probability, info = separate(x, jnp.asarray(side), ridge=ridge, tol=1e-10)
  assert int(info.status) == 0
  np.testing.assert_allclose(probability, peer.predict_proba(z)[:, 1], atol=1e-6)
  np.testing.assert_array_equal(noisy, probability > 0.5)
  assert 0 < np.sum(np.asarray(noisy) != side) < N // 3  # labels are not simply returned


def test_separable_sides_are_separated(rng):
  x = rng.normal(size=(N, D))
  side = x @ np.array([1.0, -2.0, 0.5, 0.0]) > 0.3
  found = separate(x, jnp.asarray(side), ridge=1e-8)
  np.testing.assert_array_equal(found[0], side)
  certain = np.abs(np.asarray(found[1]) - 0.5)
  assert np.mean(certain > 0.49) > np.mean(
    np.abs(np.asarray(separate(x, jnp.asarray(side), ridge=1e-2)[1]) - 0.5) > 0.49
  )


def test_repeating_a_side_or_changing_units_changes_nothing(clouds):
  x, side = clouds
  _, probability, _ = separate(x, jnp.asarray(side))
  # half of the rows, one side of them twice: N rows of the shape that is compiled already
  half, ones = np.arange(N // 2), np.flatnonzero(side[: N // 2])
  rows, used = np.resize(np.concatenate([half, ones]), N), np.arange(N) < N // 2 + len(ones)
  few = np.arange(N) < N // 2
  _, plain, _ = separate(x, side, where=few)
  _, again, _ = separate(x[rows], side[rows], where=used)
  np.testing.assert_allclose(again[: N // 2], plain[: N // 2], atol=1e-7)
  _, scaled, _ = separate(x * np.array([1e-9, 1, 1e6, -3]), jnp.asarray(side))
  np.testing.assert_allclose(scaled, probability, atol=1e-7)


def test_rows_that_do_not_count(clouds):
  x, side = clouds
  used = np.arange(N) % 3 > 0
  spoilt = np.where(used[:, None], x, np.nan)
  noisy, probability, _ = separate(spoilt, side, where=used, ridge=1e-2, tol=1e-9)
  # the rows that count in front, repeated behind them where they do not
  cut, first = (lambda v: np.resize(v[used], (N, *v.shape[1:]))), np.arange(N) < used.sum()
  _, expected, _ = separate(*map(cut, (x, side)), where=first)
  np.testing.assert_allclose(probability[used], expected[: used.sum()], atol=1e-7)
  assert not np.any(noisy[~used]) and not np.any(probability[~used])


@pytest.mark.parametrize("flag", [False, True])
def test_one_side_alone_is_returned(clouds, flag):
  noisy, probability, _ = separate(jnp.asarray(clouds[0]), jnp.full(N, flag))
  np.testing.assert_array_equal(noisy, flag)
  np.testing.assert_array_equal(probability, float(flag))


def test_weights_of_pseudo_labels(losses, rng):
  values, noisy = losses[0], rng.random(N) < 0.6
  weights = np.asarray(weigh(jnp.asarray(values), noisy))
  assert np.all((weights >= 0) & (weights <= 1)) and np.all(weights[~noisy] == 1)
  order = weights[noisy & (values > 2)].max(), weights[noisy & (values < 1)].min()
  assert order[0] < 0.01 and order[1] > 0.9
  # of a mixture of the noisy ones alone
  _, upper = flag(jnp.asarray(values), where=noisy)
  np.testing.assert_allclose(weights[noisy], 1 - upper[noisy], atol=1e-5)


def test_pseudo_losses_that_tell_nothing(losses):
  values = jnp.asarray(losses[0])
  few, all_ = jnp.zeros(N, bool).at[:2].set(True), jnp.ones(N, bool)
  for pseudo, noisy in ((values, few), (jnp.ones(N), all_), (values.at[0].set(jnp.nan), all_)):
    np.testing.assert_array_equal(weigh(pseudo, noisy), 1)
  three = few.at[2].set(True)  # one more is enough
  assert float(weigh(jnp.zeros(N).at[2].set(1.0), three)[2]) < 0.01
  infinite = weigh(values.at[0].set(jnp.inf), all_)
  np.testing.assert_allclose(infinite, weigh(values.at[0].set(values.max()), all_), atol=1e-5)


@pytest.fixture
def start():
  return noise_init(jnp.arange(N) % 3, num_classes=3)


def test_the_first_state(start):
  assert not np.any(start.noisy) and np.all(start.weights == 1) and int(start.epoch) == 0
  np.testing.assert_array_equal(jnp.argmax(start.guesses, 1), np.arange(N) % 3)
  np.testing.assert_array_equal(jnp.sum(start.guesses, 1), 1)


def test_detectors_take_turns(start, losses, clouds, rng):
  values, x = jnp.asarray(losses[0]), jnp.asarray(clouds[0][:, [0, 2, 2, 0]])
  pseudo = jnp.asarray(rng.random(N))
  z, _ = flag(values)
  rows = x / jnp.linalg.norm(x, axis=1, keepdims=True)
  w, _, _ = separate(rows, z, ridge=1e-4, tol=1e-4)
  assert np.any(z != w)
  state = start
  for epoch, mask in enumerate((w, z, w)):
    state, info = _detect(state, values, pseudo, features=x)
    np.testing.assert_array_equal(state.noisy, mask)
    np.testing.assert_allclose(state.weights, weigh(pseudo, mask), atol=1e-5)
    np.testing.assert_allclose(float(info.flagged), float(jnp.mean(mask)), rtol=1e-6)
    assert int(state.epoch) == epoch + 1
  np.testing.assert_array_equal(state.guesses, start.guesses)
  np.testing.assert_array_equal(_detect(start, values, pseudo, which="small_loss")[0].noisy, z)
  plane = _detect(state, values, pseudo, features=x, which="linear")[0]
  np.testing.assert_array_equal(plane.noisy, w)


def test_unknown_losses_flag_nothing_and_say_so(start, losses):
  values = jnp.asarray(losses[0]).at[0].set(jnp.nan)
  state, info = _detect(start, values, values, which="small_loss")
  assert int(info.status) == 2 and not np.any(state.noisy) and np.all(state.weights == 1)


def test_two_networks_agree(rng):
  n = 6
  make = lambda: noise_init(jnp.zeros(n, int), num_classes=2)._replace(
    noisy=jnp.asarray(rng.random(n) < 0.6), weights=jnp.asarray(rng.random(n)),
    guesses=jnp.asarray(rng.dirichlet([1, 1], n)),
  )  # fmt: skip
  a, b = make()._replace(epoch=jnp.int32(3)), make()
  merged = cotrain_merge(a, b)
  both = np.asarray(a.noisy) & np.asarray(b.noisy)
  np.testing.assert_array_equal(merged.noisy, both)
  np.testing.assert_allclose(merged.weights, np.where(both, (a.weights + b.weights) / 2, 1))
  np.testing.assert_allclose(merged.guesses, (a.guesses + b.guesses) / 2, rtol=1e-6)
  assert int(merged.epoch) == 3
