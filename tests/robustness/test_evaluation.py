"""FMR: constraint kept, prefixes, limits; scores by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_robust import losses, robustness

BATCH, SIZE, LATENT, CLASSES = 40, 8, 5, 3


def network(params, x):
  first, second = params
  return jnp.tanh(x @ first) @ second


@pytest.fixture
def data(rng):
  """A model, an oracle that knows the labels nearly everywhere, a linear generator."""
  weights = [rng.normal(size=(SIZE, 6)), rng.normal(size=(6, CLASSES))]
  basis = np.linalg.qr(rng.normal(size=(SIZE, LATENT)))[0]
  x = 0.7 * rng.normal(size=(BATCH, LATENT)) @ basis.T + 0.3 * rng.normal(size=(BATCH, SIZE))
  truth = rng.normal(size=(SIZE, CLASSES))
  labels = np.argmax(x @ truth, axis=1)
  cast = functools.partial(jax.tree.map, np.float32)
  return cast((weights, basis, x, truth)), labels


@functools.partial(jax.jit, static_argnames=("num_steps", "penalised", "same"))
def generate(arrays, labels, *, num_steps, stepsize=0.1, penalised=False, same=False):
  weights, basis, x, truth = arrays
  oracle = lambda x: jnp.argmax(x @ truth, axis=1)
  entropy = lambda x: 2.0 * losses.cross_entropy_loss(x @ truth, labels)
  return robustness.fmr_generate(
    network, weights, x, labels, encode=lambda x: x @ basis, decode=lambda z: z @ basis.T,
    oracle=(lambda x: jnp.argmax(network(weights, x), axis=1)) if same else oracle,
    num_steps=num_steps, stepsize=stepsize, penalty=entropy if penalised else None,
    loss=losses.cross_entropy_loss,
  )  # fmt: skip


def test_without_steps_it_is_the_reconstruction(data):
  (_, basis, x, truth), labels = data
  found = generate(*data, num_steps=0)
  np.testing.assert_allclose(found.x, x @ basis @ basis.T, atol=1e-6)
  valid = np.argmax(x @ basis @ basis.T @ truth, axis=1) == labels
  np.testing.assert_array_equal(found.valid, valid)
  np.testing.assert_array_equal(found.alive, valid)
  assert 0 < valid.sum() < BATCH


def test_every_valid_image_satisfies_the_oracle_and_the_loss_rises(data):
  (weights, basis, x, truth), labels = data
  loss = lambda x: np.asarray(losses.cross_entropy_loss(network(weights, x), labels))
  start = x @ basis @ basis.T
  for penalised in (False, True):
    found = generate(*data, num_steps=30, penalised=penalised)
    valid = np.asarray(found.valid)
    np.testing.assert_array_equal(np.argmax(found.x @ truth, axis=1)[valid], labels[valid])
    np.testing.assert_allclose(found.x[~valid], start[~valid], atol=1e-6)
    assert np.all(found.alive <= found.valid) and np.any(found.alive)
    if not penalised:
      assert np.any(found.alive < found.valid)
      small = generate(*data, num_steps=3, stepsize=1e-3)
      assert np.all(loss(small.x)[valid] >= loss(start)[valid])
  plain, pulled = (generate(*data, num_steps=30, penalised=p) for p in (False, True))
  assert np.sum(pulled.alive) > np.sum(plain.alive)  # the penalty keeps away from the edge


def test_a_smaller_budget_is_the_beginning_of_the_path_and_scores_fall(data):
  (weights, _, x, _), labels = data
  latents, accuracies = [], []
  clean = network(weights, x)
  for steps in (0, 1, 2, 8, 40):
    found = generate(*data, num_steps=steps)
    score = robustness.fmr_score(clean, network(weights, found.x), labels, valid=found.valid)
    latents.append(np.asarray(found.latent))
    accuracies.append(float(score.perturbed))
    if steps:
      moved = np.linalg.norm(latents[-1] - latents[0], axis=1)
      assert np.all(moved <= 0.1 * steps + 1e-5)
      if steps <= 2:
        one = np.linalg.norm(latents[-1] - latents[-2], axis=1)
        np.testing.assert_allclose(one[np.asarray(found.alive)], 0.1, rtol=1e-4)
  assert np.all(np.diff(accuracies) <= 0) and accuracies[-1] < accuracies[0] - 0.1


def test_a_model_that_is_its_own_oracle_is_never_fooled(data):
  (weights, _, x, _), labels = data
  found = generate(*data, num_steps=20, same=True)
  logits, moved = network(weights, x), network(weights, found.x)
  score = robustness.fmr_score(logits, moved, labels, valid=found.valid)
  assert score.perturbed == 1
  np.testing.assert_allclose(score.fmr, 100 / score.standard, rtol=1e-6)


def test_perfect_generator_and_consenting_oracle_are_plain_normalised_ascent(data):
  (weights, _, x, _), labels = data
  same = lambda z: z
  found = robustness.fmr_generate(
    network, weights, x, labels, encode=same, decode=same, oracle=lambda x: jnp.asarray(labels),
    num_steps=6, stepsize=0.2, loss=losses.cross_entropy_loss,
  )  # fmt: skip
  loss = lambda x: jnp.sum(losses.cross_entropy_loss(network(weights, x), labels))
  point = jnp.asarray(x)
  for _ in range(6):
    slope = jax.grad(loss)(point)
    point = point + 0.2 * slope / jnp.linalg.norm(slope, axis=1, keepdims=True)
  np.testing.assert_allclose(found.x, point, atol=1e-5)
  assert np.all(found.alive)


def test_score_by_hand():
  z = jnp.array([[2.0, 1.0], [0.0, 1.0], [3.0, 0.0], [0.0, 1.0]])
  labels, valid = jnp.array([0, 1, 0, 0]), jnp.array([True, True, False, True])
  moved = jnp.array([[0.0, 1.0], [0.0, 1.0], [0.0, 1.0], [1.0, 0.0]])
  score = robustness.fmr_score(z, moved, labels, valid=valid)
  found = [float(v) for v in score]
  np.testing.assert_allclose(found, [100 * (2 / 3) / 0.75, 0.75, 2 / 3, 0.75], rtol=1e-6)
  # What an invalid image has become does not matter.
  other = robustness.fmr_score(z, moved.at[2].set(jnp.nan), labels, valid=valid)
  np.testing.assert_array_equal(other, score)
  none = robustness.fmr_score(z, moved, labels, valid=jnp.zeros(4, bool))
  assert none.perturbed == 0 and none.valid == 0
  assert np.isnan(robustness.fmr_score(z, moved, 1 - jnp.argmax(z, 1), valid=valid).fmr)


def test_oracle_is_the_mean_of_probabilities(rng):
  params = [rng.normal(size=(SIZE, CLASSES)).astype(np.float32) for _ in range(3)]
  x = rng.normal(size=(30, SIZE)).astype(np.float32)
  apply_fn = lambda weights, x: 3 * x @ weights
  shares = sum(np.asarray(jax.nn.softmax(apply_fn(p, x))) for p in params)
  for functions in (apply_fn, [apply_fn] * 3):
    oracle = robustness.oracle_ensemble(functions, params)
    np.testing.assert_array_equal(jax.jit(oracle)(x), np.argmax(shares, axis=1))
  votes = np.argmax([x @ p for p in params], axis=2)
  assert np.any(np.argmax(shares, axis=1) != votes[0])
