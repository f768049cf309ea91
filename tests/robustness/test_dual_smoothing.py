"""Dual smoothing on linear halves, whose probabilities, decision and smallest attack are exact."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.stats

from jaxopt_robust import robustness

PHI = scipy.stats.norm
MARGINS = [(0.6, 0.9), (-0.2, 1.0), (1.5, -0.3), (0.4, 0.4), (0.05, 0.01)]


def smallest_attack(m, sigma):
  """Least sqrt(a^2 + b^2) with Phi((m_1 - a)/s_1) + Phi((m_2 - b)/s_2) = 1, found numerically."""
  s = np.broadcast_to(np.asarray(sigma, float), 2)

  def length(angle):
    a, b = np.cos(angle), np.sin(angle)
    rest = lambda r: PHI.cdf((m[0] - r * a) / s[0]) + PHI.cdf((m[1] - r * b) / s[1]) - 1
    return scipy.optimize.brentq(rest, 0, 50, xtol=1e-13)

  found = scipy.optimize.minimize_scalar(
    length, bounds=(1e-3, np.pi / 2 - 1e-3), method="bounded", options={"xatol": 1e-10}
  )
  return found.fun


@pytest.mark.parametrize("m", MARGINS)
@pytest.mark.parametrize("sigma", [0.5, (0.3, 0.8), (2.0, 0.25)])
def test_radius_is_the_smallest_attack_on_linear_halves(m, sigma):
  s = np.broadcast_to(np.asarray(sigma, float), 2)
  p = PHI.cdf(np.array(m) / s)
  found = float(robustness.dual_radius(p, sigma=sigma))
  if p.sum() <= 1:
    assert found == 0
    return
  np.testing.assert_allclose(found, smallest_attack(m, sigma), rtol=1e-5)
  if np.ndim(sigma) == 0:
    np.testing.assert_allclose(found, sum(m) / np.sqrt(2), rtol=1e-6)


def test_the_other_rules_exceed_the_true_radius():
  """sqrt(r_1^2 + r_2^2), and negative quantiles clipped to 0, are no certificates."""
  m, sigma = np.array([-0.2, 1.0]), 0.5
  true = smallest_attack(m, sigma)
  singles = np.maximum(m, 0)  # sigma Phi^{-1}(p), clipped as in the code
  np.testing.assert_allclose([true, singles.sum() / np.sqrt(2), np.hypot(*singles)],
                             [0.566, 0.707, 1.0], atol=5e-4)  # fmt: skip
  ours = float(robustness.dual_radius(PHI.cdf(m / sigma), sigma=sigma))
  assert ours <= true * (1 + 1e-9) < singles.sum() / np.sqrt(2) < np.hypot(*singles)
  rng = np.random.default_rng(0)
  for m in rng.uniform(0.05, 1, (50, 2)):  # equal only where both are
    radius = float(robustness.dual_radius(PHI.cdf(m / sigma), sigma=sigma))
    assert radius < np.hypot(*m) * (1 - 1e-3 * abs(m[0] - m[1]))


@pytest.mark.x64
def test_special_cases_of_the_radius():
  p = np.array([0.501, 0.7, 0.99, 1 - 1e-6])
  single = np.asarray(robustness.smoothed_radius(p, sigma=0.5))
  equal = robustness.dual_radius(np.stack([p, p], axis=1), sigma=0.5)
  np.testing.assert_allclose(equal, np.sqrt(2) * single, rtol=1e-12)
  blind = robustness.dual_radius(np.stack([p, 0 * p + 0.5], axis=1), sigma=0.5)
  np.testing.assert_allclose(blind, single / np.sqrt(2), rtol=1e-12)
  pair, sigma = np.array([[0.3, 0.95], [0.9, 0.6]]), np.array([0.2, 0.7])
  np.testing.assert_allclose(
    robustness.dual_radius(pair, sigma=sigma),
    robustness.dual_radius(pair[:, ::-1], sigma=sigma[::-1]),
    rtol=1e-14,
  )
  for scale in (1e-200, 1e200):  # no square overflows
    np.testing.assert_allclose(
      robustness.dual_radius(pair, sigma=scale * sigma),
      scale * np.asarray(robustness.dual_radius(pair, sigma=sigma)),
      rtol=1e-14,
    )
  inside = jax.jit(lambda p, s: robustness.dual_radius(p, sigma=s))(pair, sigma)
  np.testing.assert_allclose(inside, robustness.dual_radius(pair, sigma=sigma), rtol=1e-12)


@pytest.mark.x64
def test_positive_exactly_where_the_probabilities_exceed_one():
  grid = np.linspace(0, 1, 41)
  p = np.stack(np.meshgrid(grid, grid), axis=-1)
  radius = np.asarray(robustness.dual_radius(p, sigma=(0.3, 0.5)))
  np.testing.assert_array_equal(radius > 0, p.sum(-1) > 1)
  assert not np.any(np.isnan(radius))


@pytest.mark.parametrize("shape", [(2, 2), (4, 6), (5, 7), (28, 28)])
def test_masks_partition_the_pixels(shape):
  masks = np.asarray(robustness.checkerboard_masks(*shape))
  np.testing.assert_array_equal(masks.sum(0), 1)
  assert abs(int(masks[0].sum()) - int(masks[1].sum())) == shape[0] * shape[1] % 2
  blocks = masks[0][: shape[0] // 2 * 2, : shape[1] // 2 * 2]
  blocks = blocks.reshape(shape[0] // 2, 2, shape[1] // 2, 2)
  np.testing.assert_array_equal(blocks.sum((1, 3)), 2)  # a diagonal of each block
  assert masks[0, 0, 0] and not masks[0, 0, 1] and not masks[0, 1, 0]


@pytest.mark.parametrize("fill", ["zero", "block_max"])
def test_sub_images_depend_on_their_pixels_alone(fill, rng):
  x = jnp.asarray(rng.normal(size=(3, 4, 6, 2)), jnp.float32)
  masks = robustness.checkerboard_masks(4, 6)
  part = np.asarray(robustness.sub_image(x, masks[0], fill=fill))
  other = x + 5.0 * masks[1][None, :, :, None]
  np.testing.assert_array_equal(robustness.sub_image(other, masks[0], fill=fill), part)
  np.testing.assert_array_equal(part * np.asarray(masks[1])[None, :, :, None], 0)
  if fill == "zero":
    rest = robustness.sub_image(x, masks[1])
    np.testing.assert_array_equal(part + rest, x)
  else:
    kept = np.asarray(robustness.sub_image(x, masks[0]))
    for i, j in ((0, 0), (1, 1), (3, 5)):
      block = kept[:, i // 2 * 2 : i // 2 * 2 + 2, j // 2 * 2 : j // 2 * 2 + 2]
      np.testing.assert_allclose(part[:, i, j], kept[:, i, j] + block.max((1, 2)), rtol=1e-6)


SIDE, SIGMA = 4, 0.5
W = np.random.default_rng(3).normal(size=(2, SIDE, SIDE, 1))
MASKS = np.asarray(robustness.checkerboard_masks(SIDE, SIDE))[..., None]
W = W * MASKS / np.sqrt(np.sum((W * MASKS) ** 2, axis=(1, 2, 3), keepdims=True))  # unit halves


def halves(weights, images):
  """f_s: class 0 where <w_s, x> > 0."""
  score = jnp.sum(images * weights[None], axis=(1, 2, 3))
  return jnp.stack([score, -score], axis=1)


def image(m):
  return jnp.asarray(m[0] * W[0] + m[1] * W[1], jnp.float32)


@functools.cache
def compiled(num_samples, num_keys):
  one = lambda x, key: robustness.dual_smoothing_votes(
    halves, jnp.asarray(W, jnp.float32), x, key, sigma=SIGMA, num_samples=num_samples,
    num_selection=50,
  )  # fmt: skip
  return jax.jit(jax.vmap(one, in_axes=(None, 0)))


def test_votes_follow_the_exact_probabilities(key):
  keys, n = jax.random.split(key, 100), 500
  votes = compiled(n, 100)(image((-0.2, 1.0)), keys)
  assert votes.counts.shape == (100, 2, 2) and np.all(votes.counts.sum(-1) == n)
  share = np.asarray(votes.counts)[..., 0].mean(0) / n
  p = PHI.cdf(np.array([-0.2, 1.0]) / SIGMA)
  np.testing.assert_allclose(share, p, atol=4 * np.sqrt(0.25 / (100 * n)))
  assert votes.selection[0, 0].tolist() != votes.selection[0, 1].tolist()
  # Sub-images have keys of their own: equal margins give different counts.
  same = compiled(n, 100)(image((0.3, 0.3)), keys).counts
  assert np.mean(np.asarray(same)[:, 0] == np.asarray(same)[:, 1]) < 0.2


def test_certificates_exceed_the_true_radius_at_most_in_the_share_alpha(key):
  keys, n, alpha = jax.random.split(key, 100), 500, 0.1
  for m in ((-0.2, 1.0), (0.3, 0.35), (0.05, 0.02)):
    votes = compiled(n, 100)(image(m), keys)
    found = robustness.certify_dual_votes(votes, num_samples=n, sigma=SIGMA, alpha=alpha)
    radius, said = np.asarray(found.radius), np.asarray(found.label) >= 0
    wrong = said & ((np.asarray(found.label) != 0) | (radius > sum(m) / np.sqrt(2)))
    assert wrong.mean() <= alpha + 4 * np.sqrt(alpha / 100)
    assert np.all((radius > 0) == said)
    # Each bound is the one at alpha / 2.
    top = np.asarray(votes.counts)[..., 0]
    lower = robustness.clopper_pearson_lower(top, n, alpha=alpha / 2)
    is_zero = np.argmax(np.asarray(votes.selection).sum(1), axis=1) == 0
    np.testing.assert_array_equal(np.asarray(found.lower)[is_zero], np.asarray(lower)[is_zero])


def test_no_attack_inside_the_radius_flips_the_exact_model(key):
  """Gradient ascent through the noise at the certified length, judged by the exact model."""
  m = np.array([-0.2, 1.0])
  x = jnp.repeat(image(m)[None], 20, axis=0)
  radius = float(robustness.dual_radius(PHI.cdf(m / SIGMA), sigma=SIGMA))
  weights = jnp.asarray(W, jnp.float32)
  noise = SIGMA * jax.random.normal(jax.random.fold_in(key, 1), (64, SIDE, SIDE, 1))

  def objective(points):  # minus the smoothed score of class 0, by samples
    noisy = (points[:, None] + noise[None]).reshape(-1, SIDE, SIDE, 1)
    soft = [jax.nn.softmax(4 * halves(w, noisy))[:, 0].reshape(len(points), -1) for w in weights]
    return -jnp.mean(soft[0] + soft[1], axis=1)

  attack = jax.jit(
    lambda r: robustness.pgd_attack(
      objective, x, key, radius=r, stepsize=0.1, num_steps=60, norm="l2"
    )
  )

  def score(points):  # exact: positive where class 0 is answered
    margins = np.einsum("bijc,sijc->bs", np.asarray(points, np.float64), W)
    return PHI.cdf(margins / SIGMA).sum(1) - 1

  assert np.all(score(attack(0.999 * radius)) > 0)
  assert np.any(score(attack(1.02 * radius)) < 0)  # the radius is tight, and the attack good


def test_two_deviations_are_used_each_on_its_side(key):
  votes = jax.jit(
    lambda s: robustness.dual_smoothing_votes(
      halves, jnp.asarray(W, jnp.float32), image((0.5, 0.5)), key, sigma=s, num_samples=20_000
    )
  )(jnp.array([0.25, 1.0]))
  p = PHI.cdf([2.0, 0.5])
  np.testing.assert_allclose(np.asarray(votes.counts)[:, 0] / 20_000, p, atol=0.015)
  found = robustness.certify_dual_votes(votes, num_samples=20_000, sigma=(0.25, 1.0))
  true = smallest_attack((0.5, 0.5), (0.25, 1.0))
  assert 0.85 * true < float(found.radius) < true


def test_training_loss_is_the_sum_of_both_sub_images(key, rng):
  x = jnp.asarray(rng.normal(size=(3, SIDE, SIDE, 1)), jnp.float32)
  labels, weights = jnp.array([0, 1, 0]), jnp.asarray(W, jnp.float32)
  options = {"sigma": 0.3, "num_copies": 2, "kl_weight": 15.0, "entropy_weight": 0.75}
  loss = jax.jit(
    lambda w, where: robustness.dual_smoothing_loss(
      halves, w, x, labels, key, where=where, **options
    )
  )
  all_rows = jnp.ones(3, bool)
  parts = [
    robustness.consistency_smoothing_loss(
      halves, weights[s], robustness.sub_image(x, MASKS[s, ..., 0]), labels, own, **options
    )
    for s, own in enumerate(jax.random.split(key))
  ]
  # halves() sees its own pixels only, so noise on the others changes nothing
  np.testing.assert_allclose(loss(weights, all_rows), parts[0] + parts[1], rtol=1e-5)
  slope = jax.jit(jax.grad(lambda w: jnp.sum(loss(w, all_rows))))(weights)
  np.testing.assert_array_equal(np.asarray(slope) * (1 - MASKS), 0)
  assert np.all(np.any(np.asarray(slope) != 0, axis=(1, 2, 3)))
  masked = loss(weights, jnp.array([True, False, True]))
  np.testing.assert_allclose(masked[::2], loss(weights, all_rows)[::2], rtol=1e-6)
  assert float(masked[1]) == 0


def test_traced_votes_that_cannot_be_abstain():
  selection = jnp.array([[90, 10], [90, 10]])
  with jax.enable_x64(True):
    certify = jax.jit(
      lambda counts, sigma, alpha: robustness.certify_dual_votes(
        (selection, counts), num_samples=1000, sigma=sigma, alpha=alpha
      )
    )
    assert certify(jnp.array([[900, 100]] * 2), 0.5, 0.001).label == 0
    for counts, sigma, alpha in (
      ([[900, 900], [900, 100]], 0.5, 0.001),  # more votes than draws
      ([[900, 100]] * 2, -0.5, 0.001),
      ([[1000, 0]] * 2, 0.5, 3.0),
    ):
      found = certify(jnp.array(counts), sigma, alpha)
      assert found.label == -1 and found.radius == 0
