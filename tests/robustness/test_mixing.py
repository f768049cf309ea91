"""Mixtures of classifiers: limits, gradients through both, certificates that nothing violates."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import norm

from jaxopt_robust import nets, robustness
from tests.helpers import central_difference

ALPHAS = np.array([0.5, 0.6, 0.8, 0.9, 0.97, 1.0])


@pytest.mark.x64
def test_is_its_formula_with_its_limits(rng):
  g, h = rng.normal(size=(2, 6, 4))
  alpha = rng.uniform(size=6)
  found = robustness.mix_log_probs(g, h, alpha, scale_g=1.2, scale_h=0.5)
  mixed = (1 - alpha)[:, None] * softmax(1.2 * g, 1) + alpha[:, None] * softmax(0.5 * h, 1)
  np.testing.assert_allclose(found, np.log(mixed), rtol=1e-12)
  np.testing.assert_allclose(np.exp(found).sum(1), 1, rtol=1e-12)
  for value, only in ((0.0, g), (1.0, h)):
    ends = robustness.mix_log_probs(g, h, value)
    np.testing.assert_allclose(ends, np.log(softmax(only, 1)), rtol=1e-12)
  # Far below what exp holds it is still the one that is left.
  far = robustness.mix_log_probs(1e4 * g, 1e4 * h, 0.5)
  assert np.all(np.isfinite(far)) and np.min(far) < -800


@pytest.mark.x64
def test_gradients_flow_through_both_networks_and_alpha(rng):
  g, h = rng.normal(size=(2, 5, 3))
  weights = rng.normal(size=(5, 3))
  value = jax.jit(lambda g, h, a: jnp.sum(weights * robustness.mix_log_probs(g, h, a)))
  alpha = np.array([0.2, 0.5, 0.9, 0.999, 1e-3])
  slopes = jax.grad(value, argnums=(0, 1, 2))(g, h, alpha)
  for slope, fun, at in (
    (slopes[0], lambda v: value(v, h, alpha), g),
    (slopes[1], lambda v: value(g, v, alpha), h),
    (slopes[2], lambda v: value(g, h, v), alpha),
  ):
    np.testing.assert_allclose(slope, central_difference(fun, at, 1e-7), atol=1e-5)
    assert np.all(np.abs(slope) > 0)
  # At the ends: of one network none, of the other its own, and the limit in alpha.
  for end in (0.0, 1.0):
    ends = jax.grad(value, argnums=(0, 1, 2))(g, h, np.full(5, end))
    assert np.all(ends[int(end == 0.0)] == 0) and np.any(ends[int(end == 1.0)] != 0)
    near = jax.grad(value, argnums=2)(g, h, np.full(5, abs(end - 1e-9)))
    np.testing.assert_allclose(ends[2], near, rtol=1e-6)
  second = jax.hessian(lambda a: value(g, h, a))(alpha)
  slope = jax.jit(jax.grad(value, argnums=2))
  step = 1e-6 * np.eye(5)[0]
  expected = (slope(g, h, alpha + step) - slope(g, h, alpha - step))[0] / 2e-6
  np.testing.assert_allclose(second[0, 0], expected, rtol=1e-6)


@pytest.mark.x64
def test_radii_have_the_known_values():
  """sigma = .5, alpha = .8, a linear half-space of margin .6: values by scipy."""
  sigma, alpha, m = 0.5, 0.8, 0.6
  p = norm.cdf(m / sigma)
  h = np.array([p, 1 - p])
  rs = robustness.mixed_radius_smoothing(h[0], h[1], alpha, sigma=sigma)
  quantiles = norm.ppf(alpha * p) - norm.ppf(alpha * (1 - p) + 1 - alpha)
  np.testing.assert_allclose(rs, sigma / 2 * quantiles, rtol=1e-12)
  radii = {"sharp": 0.326, "published": 0.163}
  for constant, value in radii.items():
    lipschitz = robustness.smoothed_lipschitz(sigma, constant=constant)
    found = robustness.mixed_radius_lipschitz(h, alpha, lipschitz)
    np.testing.assert_allclose(found, value, atol=6e-4)
    expected = (alpha * (2 * p - 1) + alpha - 1) / (2 * alpha * float(lipschitz))
    np.testing.assert_allclose(found, expected, rtol=1e-12)
  np.testing.assert_allclose(rs, 0.274, atol=6e-4)
  # alpha = 1 is the usual radius of two classes, alpha = 1/2 certifies nothing, both increase.
  p1, p2 = np.array([0.6, 0.9, 0.99]), np.array([0.3, 0.05, 0.01])
  one = robustness.mixed_radius_smoothing(p1, p2, 1.0, sigma=sigma)
  np.testing.assert_allclose(one, sigma / 2 * (norm.ppf(p1) - norm.ppf(p2)), rtol=1e-12)
  rows = np.stack([p1, p2, 1 - p1 - p2], axis=1)
  lipschitz = np.array([1.0, 2.0, 0.5])
  for radius in (
    lambda a: robustness.mixed_radius_smoothing(p1, p2, a, sigma=sigma),
    lambda a: robustness.mixed_radius_lipschitz(rows, a, lipschitz),
  ):
    values = np.stack([radius(a) for a in (0.0, 0.3, *ALPHAS)])
    assert np.all(values[:3] == 0) and np.all(np.diff(values, axis=0) >= 0)
    assert np.all(values[-1] > values[-2])
  by_hand = np.min((rows[:, :1] - rows[:, 1:]) / (lipschitz[0] + lipschitz[1:]), axis=1)
  found = robustness.mixed_radius_lipschitz(rows, 1.0, lipschitz)
  np.testing.assert_allclose(found, by_hand, rtol=1e-12)


@pytest.mark.x64
def test_no_point_of_a_certified_ball_is_misclassified():
  """Exact smoothed half-spaces, the worst g there is (sure of the other class), along w."""
  sigma, margins = 0.5, np.linspace(0.05, 2, 40)
  p = norm.cdf(margins / sigma)
  h = np.stack([p, 1 - p], axis=1)
  closest = np.inf
  for alpha in ALPHAS:
    rs = robustness.mixed_radius_smoothing(h[:, 0], h[:, 1], alpha, sigma=sigma)
    lipschitz = robustness.mixed_radius_lipschitz(h, alpha, robustness.smoothed_lipschitz(sigma))
    for radius in (np.asarray(rs), np.asarray(lipschitz)):
      for part in np.linspace(0, 1 - 1e-9, 50):
        there = norm.cdf((margins - part * radius) / sigma)
        lead = alpha * there - (alpha * (1 - there) + 1 - alpha)
        assert np.all((lead > 0) | (radius == 0))
    if alpha < 1:
      # the exact distance to the flip: h_y = 1 / (2 alpha)
      true = np.maximum(margins - sigma * norm.ppf(min(1 / (2 * alpha), 1 - 1e-16)), 0)
      assert np.all(rs <= true + 1e-12) and np.all(lipschitz <= true + 1e-12)
      if alpha > 0.5:
        closest = min(closest, np.min((true - rs)[rs > 0]))
  assert closest < 0.2  # the certificates are not far from what is true


@pytest.mark.x64
def test_three_classes_on_a_line_exactly_smoothed():
  """h_k is the chance of an interval under noise; no point within the radius flips."""
  sigma, edges = 0.4, np.array([-np.inf, -0.3, 0.5, np.inf])
  smooth = lambda x: np.diff(norm.cdf((edges - np.asarray(x)[..., None]) / sigma), axis=-1)
  x = np.linspace(-1.5, 1.5, 61)
  h = smooth(x)
  y = np.argmax(h, axis=1)
  order = np.sort(h, axis=1)[:, ::-1]
  checked = 0
  for alpha in ALPHAS[1:]:
    rs = robustness.mixed_radius_smoothing(order[:, 0], order[:, 1], alpha, sigma=sigma)
    lipschitz = robustness.mixed_radius_lipschitz(
      h, alpha, robustness.smoothed_lipschitz(sigma, constant="published")
    )
    for radius in (np.asarray(rs), np.asarray(lipschitz)):
      for part in np.linspace(-1, 1, 41) * (1 - 1e-9):
        there = smooth(x + part * radius)
        own = np.take_along_axis(there, y[:, None], 1)[:, 0]
        others = np.where(np.arange(3) == y[:, None], -np.inf, there).max(1)
        assert np.all((alpha * own - alpha * others - (1 - alpha) > 0) | (radius == 0))
        checked += np.sum(radius > 0)
  assert checked > 1000


@pytest.mark.x64
def test_the_sharp_constant_is_attained_and_not_exceeded():
  sigma = 0.7
  m = np.linspace(-3, 3, 2001)
  slope = np.diff(norm.cdf(m / sigma)) / np.diff(m)
  sharp = float(robustness.smoothed_lipschitz(sigma))
  assert np.all(slope <= sharp * (1 + 1e-12)) and np.max(slope) > sharp * (1 - 1e-5)
  np.testing.assert_allclose(robustness.smoothed_lipschitz(sigma, constant="published"), 2 * sharp)


def test_float32_claims_no_more_than_float64(rng):
  p = np.float32(1 - np.exp(-rng.uniform(1, 14, 300)))
  q = np.float32(1 - p) * np.float32(0.9)
  for alpha in (0.7, 0.99, 1.0):
    single = robustness.mixed_radius_smoothing(p, q, np.float32(alpha), sigma=1.0)
    a, pp, qq = (np.float64(np.float32(v)) for v in (alpha, p, q))
    exact = 0.5 * (norm.ppf(a * pp) - norm.ppf(a * qq + 1 - a))
    assert np.all(single <= np.maximum(exact, 0) * (1 + 1e-6) + 1e-7)
  extreme = robustness.mixed_radius_smoothing(jnp.array([1.0, 0.0]), jnp.zeros(2), 1.0, sigma=1.0)
  assert np.isfinite(extreme[0]) and extreme[0] > 4 and extreme[1] == 0


def test_no_radius_comes_of_traced_numbers_out_of_range():
  @jax.jit
  def radii(p, alpha, scale):
    h = jnp.stack([p, 1 - p])
    return jnp.stack([
      robustness.mixed_radius_smoothing(p, 1 - p, alpha, sigma=scale),
      robustness.mixed_radius_lipschitz(h, alpha, scale),
      robustness.mixed_radius_lipschitz(h, alpha, robustness.smoothed_lipschitz(scale)),
      robustness.alpha_for_margin(2 * p - 1) + robustness.margin_for_alpha(alpha) + 0 * scale,
    ])  # fmt: skip

  assert np.all(radii(0.9, 0.9, 0.5) > 0)
  for p, alpha in ((1.1, 0.9), (jnp.nan, 0.9), (0.9, 1.1), (0.9, -0.1)):
    assert np.all(np.isnan(radii(p, alpha, 0.5)))
  for scale in (0.0, -1.0):
    assert np.all(np.isnan(radii(0.9, 0.9, scale)[:3]))
  assert np.isnan(jax.jit(robustness.mix_log_probs)(np.zeros(2), np.zeros(2), 1.5)).all()


def test_margins_and_alphas_are_inverse():
  margin = np.linspace(0, 1, 11, dtype=np.float32)
  alpha = robustness.alpha_for_margin(margin)
  np.testing.assert_allclose(robustness.margin_for_alpha(alpha), margin, atol=1e-6)
  assert np.isinf(robustness.margin_for_alpha(0.0)) and alpha.min() == 0.5
  # the lemma: at this margin, and no less, the worst g does not change the answer
  for mu, a in zip(margin[1:-1], alpha[1:-1], strict=True):
    for slack, decides in ((1e-3, True), (-1e-3, False)):
      lead = a * (mu + slack) - (1 - a)
      assert (lead > 0) == decides


def test_mixing_loss_by_hand(rng):
  log_probs = np.log(softmax(rng.normal(size=(4, 3)), 1)).astype(np.float32)
  gamma, labels = rng.normal(size=4).astype(np.float32), np.array([0, 1, 2, 0])
  attacked = np.array([True, False, True, False])
  alpha = 1 / (1 + np.exp(-gamma))
  ce = -log_probs[np.arange(4), labels]
  bce = -np.log(np.where(attacked, alpha, 1 - alpha))
  options = {"ce_weight": 0.5, "bce_weight": 1.0, "product_weight": 0.1}
  found = robustness.mixing_loss(log_probs, gamma, labels, attacked=attacked, **options)
  np.testing.assert_allclose(found, 0.5 * ce + bce + 0.1 * ce * bce, rtol=1e-5)
  where = np.array([True, False, True, True])
  holes = np.where(where, gamma, np.nan)
  masked = robustness.mixing_loss(
    log_probs, holes, labels, attacked=attacked, where=where, **options
  )
  np.testing.assert_allclose(masked, np.where(where, found, 0), rtol=1e-6)


def both(params, x):
  return jnp.tanh(x @ params[0]) @ params[1], x @ params[2]


def test_tradeoff_curve_is_each_mixture_attacked(rng, key):
  params = tuple(rng.normal(size=s).astype(np.float32) for s in ((6, 8), (8, 3), (6, 3)))
  x = rng.normal(size=(20, 6)).astype(np.float32)
  labels = np.argmax(both(params, x)[1], axis=1)
  attack = functools.partial(robustness.pgd_worst_case, radius=0.1, num_steps=4)
  alphas = np.array([0.0, 0.6, 1.0], np.float32)
  run = jax.jit(
    lambda params, alphas: robustness.tradeoff_curve(
      both, params, x, labels, key, alphas=alphas, attack=attack, scale_h=2.0
    )
  )
  curve = run(params, alphas)
  assert curve.right.shape == (3, 20) and curve.clean[-1] == 1

  @jax.jit
  def alone(alpha):
    f = lambda p, x: robustness.mix_log_probs(*both(p, x), alpha, scale_h=2.0)
    return attack(f, params, x, labels, key)[1].broken, jnp.argmax(f(params, x), axis=1)

  for i, alpha in enumerate(alphas):
    broken, answer = alone(alpha)
    np.testing.assert_array_equal(curve.survives[i], ~broken)
    np.testing.assert_allclose(curve.clean[i], np.mean(answer == labels))
  assert np.all(curve.robust <= curve.clean)


@pytest.mark.parametrize("image", [False, True])
def test_mixing_net_trains_and_its_statistics_freeze(rng, key, image):
  places = (8, 8) if image else ()
  coarse = (4, 4) if image else ()
  shallow = [rng.normal(size=(16, *places, n)).astype(np.float32) for n in (5, 6)]
  deep = [rng.normal(size=(16, *coarse, n)).astype(np.float32) for n in (7, 7)]
  model = nets.MixingNet(width=8, blocks=1)
  variables = jax.jit(model.init)(key, shallow, deep)

  @jax.jit
  def train(params, first):
    rest = {"params": params, "batch_stats": variables["batch_stats"]}

    def value(params, first):
      out, new = model.apply(
        {**rest, "params": params}, [first, shallow[1]], deep, train=True, mutable=["batch_stats"]
      )
      return jnp.sum(out[0] ** 2), (out, new)

    slopes, kept = jax.grad(value, argnums=(0, 1), has_aux=True)(params, first)
    return jax.tree.leaves(slopes), *kept

  answer = jax.jit(model.apply)
  slopes, (gamma, alpha), new = train(variables["params"], shallow[0])
  assert gamma.shape == alpha.shape == (16,)
  np.testing.assert_allclose(alpha, 1 / (1 + np.exp(-gamma)), rtol=1e-5)
  np.testing.assert_allclose(np.mean(gamma), 0.4, atol=1e-4)  # normalised: the bias
  assert np.any(jax.tree.leaves(new["batch_stats"])[0] != 0)
  assert all(np.all(np.isfinite(s)) for s in slopes) and np.any(slopes[-1] != 0)
  flat = train(jax.tree.map(np.zeros_like, variables["params"]), shallow[0])[0]
  assert np.all(flat[-1] == 0) and all(np.all(np.isfinite(s)) for s in flat)
  gamma, alpha = answer(variables, shallow, deep)
  np.testing.assert_allclose(alpha, 0.84 / (1 + np.exp(-gamma)) + 0.15, rtol=1e-5)
  # In evaluation an example does not depend on the others.
  other = [np.concatenate([a[:1], 3 * a[1:]]) for a in shallow]
  np.testing.assert_allclose(answer(variables, other, deep)[0][0], gamma[0], rtol=1e-4, atol=1e-5)


def test_traced_numbers_out_of_range_certify_nothing():
  h = jnp.array([0.1, 0.8, 0.1])
  lipschitz = jax.jit(robustness.mixed_radius_lipschitz)
  smoothing = jax.jit(lambda p, q, a, s: robustness.mixed_radius_smoothing(p, q, a, sigma=s))
  for value in (
    lipschitz(h, 2.0, 1.0), lipschitz(h, -0.5, 1.0), lipschitz(2 * h, 0.9, 1.0),
    lipschitz(h, 0.9, -1.0), lipschitz(h, 0.9, 0.0),
    smoothing(0.9, 0.1, 1.5, 0.5), smoothing(1.5, 0.1, 1.0, 0.5), smoothing(0.9, -0.5, 1.0, 0.5),
    smoothing(0.9, 0.1, 1.0, -0.5),
    jax.jit(robustness.alpha_for_margin)(-0.5), jax.jit(robustness.margin_for_alpha)(2.0),
    jax.jit(robustness.smoothed_lipschitz)(-0.5),
  ):  # fmt: skip
    assert np.isnan(value)
  assert abs(lipschitz(h, 0.8, 1.0) - 0.225) < 1e-5  # (.8 * .7 - .2) / (.8 * 2)
