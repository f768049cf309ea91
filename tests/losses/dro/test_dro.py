"""Worst-case expectations against their duals, brute force, limits and finite differences."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

from jaxopt_robust import losses

SETS, N = 4, 7
DIRECTION = np.cos(np.arange(SETS * N)).reshape(SETS, N)
GROUPS = np.array([0, 1, 1, 2, 0, 3, 1], np.int32)  # of 5: the last does not occur


def kl(p):
  return np.sum(p * np.log(len(p) * np.maximum(p, 1e-300)))


def chi2(p):
  return 0.5 * len(p) * np.sum((p - 1 / len(p)) ** 2)


def project(z):
  """Euclidean projection on the simplex."""
  ordered = np.sort(z)[::-1]
  levels = (np.cumsum(ordered) - 1) / np.arange(1, len(z) + 1)
  return np.maximum(z - levels[np.nonzero(ordered > levels)[0][-1]], 0)


def tilted(loss, lam):
  return loss.max() + lam * np.log(np.mean(np.exp((loss - loss.max()) / lam)))


def chi2_penalised(loss, lam):
  p = project(1 / len(loss) + loss / (lam * len(loss)))
  return p @ loss - lam * chi2(p)


def smallest_dual(dual):
  """Minimum over the logarithm of a multiplier of a function that is convex in the multiplier."""
  grid = np.linspace(-12, 12, 97)
  best = grid[np.argmin([dual(np.exp(t)) for t in grid])]
  found = optimize.minimize_scalar(
    lambda t: dual(np.exp(t)), bounds=(best - 0.3, best + 0.3), method="bounded",
    options={"xatol": 1e-12},
  )  # fmt: skip
  return found.fun


def group_means(loss):
  return np.array([loss[k == GROUPS].mean() for k in range(4)])


def group_value(loss, lam):
  return tilted(group_means(loss), lam)


class Family(NamedTuple):
  """An objective of this module.

  Attributes:
    value: ``value(losses, hyper, where=None)``.
    weights: the same for the weights.
    hyper: one value a set, in all regimes (some weights 0, none 0, ...).
    dual: NumPy, an upper bound on the value that is tight.
    primal: NumPy, ``primal(p, loss, hyper)``, the objective at some weights.
    feasible: NumPy, ``feasible(p, hyper)``, how far p is out of its set.
    smooth: whether the second derivatives are not all 0.
  """

  value: Callable
  weights: Callable
  hyper: tuple[float, ...]
  dual: Callable
  primal: Callable
  feasible: Callable = lambda p, h: 0.0
  smooth: bool = True


def _phi(fn, conjugate):
  return lambda l, h, where=None: fn(l, h, conjugate=conjugate, where=where)


def _group(fn):
  def call(l, h, where=None):
    groups = jnp.broadcast_to(jnp.asarray(GROUPS)[: l.shape[-1]], l.shape)
    return fn(l, groups, num_groups=5, temperature=h, where=where)

  return call


def _group_example_weights(l, h, where=None):
  """Weight of each example, from that of its group."""
  q = _group(losses.group_dro_weights)(l, h, where)
  member = jnp.asarray(GROUPS[None, : l.shape[-1]] == np.arange(5)[:, None])
  member = jnp.broadcast_to(member, (*l.shape[:-1], *member.shape))
  if where is not None:
    member = member & where[..., None, :]
  size = jnp.maximum(jnp.sum(member, axis=-1), 1)
  return jnp.sum(jnp.where(member, (q / size)[..., None], 0), axis=-2).astype(q.dtype)


def _cressie(s):
  return losses.cressie_read_conjugate(s, power=1.5)


def _cressie_primal(p, loss, lam):
  t, k = len(p) * p, 1.5
  return p @ loss - lam * np.mean((t**k - k * t + k - 1) / (k * (k - 1)))


FAMILIES = {
  "kl_dro": Family(
    losses.kl_dro,
    losses.kl_dro_weights,
    (0.05, 0.5, 3.0, 100.0),
    tilted,
    lambda p, l, lam: p @ l - lam * kl(p),
  ),
  "kl_ball_dro": Family(
    losses.kl_ball_dro,
    losses.kl_ball_dro_weights,
    (0.01, 0.2, 0.7, 1.3),
    lambda l, rho: smallest_dual(lambda lam: tilted(l, lam) + lam * rho),
    lambda p, l, rho: p @ l,
    lambda p, rho: kl(p) - rho,
  ),
  "cvar": Family(
    losses.cvar,
    losses.cvar_weights,
    (0.05, 0.35, 0.5, 0.9),
    lambda l, alpha: min(s + np.maximum(l - s, 0).mean() / alpha for s in l),
    lambda p, l, alpha: p @ l,
    lambda p, alpha: p.max() - 1 / max(alpha * N, 1),
    smooth=False,
  ),
  "chi2_dro": Family(
    losses.chi2_dro,
    losses.chi2_dro_weights,
    (0.05, 0.5, 2.0, 100.0),
    chi2_penalised,
    lambda p, l, lam: p @ l - lam * chi2(p),
  ),
  "chi2_ball_dro": Family(
    losses.chi2_ball_dro,
    losses.chi2_ball_dro_weights,
    (0.02, 0.5, 1.5, 2.9),
    lambda l, rho: smallest_dual(lambda lam: chi2_penalised(l, lam) + lam * rho),
    lambda p, l, rho: p @ l,
    lambda p, rho: chi2(p) - rho,
  ),
  "phi_divergence_dro, Cressie-Read": Family(
    _phi(losses.phi_divergence_dro, _cressie),
    _phi(losses.phi_divergence_dro_weights, _cressie),
    (0.05, 0.5, 2.0, 100.0),
    lambda l, lam: optimize.minimize_scalar(
      lambda eta: (
        eta + lam * np.mean((np.maximum(0.5 * (l - eta) / lam + 1, 0) ** 3 - 1) / 1.5)
      ),
      bounds=(l.min(), l.max()), method="bounded", options={"xatol": 1e-13},
    ).fun,
    _cressie_primal,
  ),
  "group_dro": Family(
    _group(losses.group_dro),
    _group_example_weights,
    (0.01, 0.5, 2.0, 100.0),
    group_value,
    lambda p, l, lam: p @ l - lam * kl(np.array([p[k == GROUPS].sum() for k in range(4)])),
  ),
}  # fmt: skip
every_family = pytest.mark.parametrize("name", FAMILIES)


@functools.cache
def compiled(name: str):
  """Value, gradient, weights, slope in the hyperparameter; in float64 Hessian times direction."""
  family = FAMILIES[name]

  def evaluate(loss, hyper, where, direction):
    def total(loss, hyper):
      values = family.value(loss, hyper, where=where)
      return jnp.sum(values), values

    grads = jax.grad(total, argnums=(0, 1), has_aux=True)
    weights = family.weights(loss, hyper, where=where)
    if loss.dtype != jnp.float64:
      (grad, slope), values = grads(loss, hyper)
      return values, grad, weights, slope
    (grad, slope), (curved, _), values = jax.jvp(
      lambda l: grads(l, hyper), (loss,), (direction,), has_aux=True
    )
    return values, grad, weights, slope, curved

  return jax.jit(evaluate)


def evaluate(name, loss, hyper=None, where=None):
  loss = jnp.asarray(loss)
  hyper = jnp.asarray(FAMILIES[name].hyper if hyper is None else hyper, loss.dtype)
  where = jnp.ones((SETS, N), bool) if where is None else jnp.asarray(where)
  return [
    np.asarray(v) for v in compiled(name)(loss, hyper, where, jnp.asarray(DIRECTION, loss.dtype))
  ]


@pytest.fixture
def loss(rng):
  return rng.normal(size=(SETS, N)) * 1.5


@pytest.mark.x64
@every_family
def test_value_is_the_dual_and_the_weights_attain_it(name, loss):
  family = FAMILIES[name]
  values, grad, weights, *_ = evaluate(name, loss)
  for row, hyper, value, p in zip(loss, family.hyper, values, weights, strict=True):
    np.testing.assert_allclose(value, family.dual(row, hyper), rtol=1e-9, atol=1e-9)
    assert np.all(p >= 0) and abs(p.sum() - 1) < 1e-12
    assert family.feasible(p, hyper) < 1e-12
    np.testing.assert_allclose(family.primal(p, row, hyper), value, rtol=1e-10, atol=1e-10)
  np.testing.assert_allclose(grad, weights, atol=1e-11)


@pytest.mark.x64
@every_family
def test_derivatives_against_finite_differences(name, loss):
  _, grad, _, slope, curved = evaluate(name, loss)
  direction, hyper = DIRECTION, np.array(FAMILIES[name].hyper)
  eps = 1e-6 * np.min(hyper) / 0.05 if np.min(hyper) < 0.05 else 1e-6
  up, down = evaluate(name, loss + eps * direction), evaluate(name, loss - eps * direction)
  first = (up[0] - down[0]) / (2 * eps)
  np.testing.assert_allclose(np.sum(grad * direction, axis=1), first, rtol=1e-6, atol=1e-7)
  second = (up[1] - down[1]) / (2 * eps)
  # errors: f'''' eps^2 / 6 with derivatives up to lam^-3, and rounding 1e-15 / eps
  np.testing.assert_allclose(curved, second, rtol=1e-5, atol=1e-6)
  assert FAMILIES[name].smooth == bool(np.any(np.abs(curved) > 1e-3))
  step = 1e-6 * hyper
  above, below = evaluate(name, loss, hyper + step), evaluate(name, loss, hyper - step)
  np.testing.assert_allclose(slope, (above[0] - below[0]) / (2 * step), rtol=1e-5, atol=1e-7)


@every_family
def test_mask_equals_dropping_entries(name, loss):
  where = np.ones((SETS, N), bool)
  where[:, [2, 5]] = False
  where[3] = False
  hidden = np.where(where, loss, np.nan).astype(np.float32)
  hidden[0, 2] = np.inf
  values, grad, weights, slope = evaluate(name, hidden, where=where)
  for result in (grad, weights):
    np.testing.assert_array_equal(result[~where], 0)
    assert np.all(np.isfinite(result))
  assert values[3] == 0 and slope[3] == 0
  if name == "group_dro":  # the group of a dropped loss changes
    for row, hyper, value in zip(loss[:3], FAMILIES[name].hyper, values, strict=False):
      kept = [0, 1, 3, 4, 6]
      means = [row[[0, 4]].mean(), row[[1, 6]].mean(), row[3]]
      np.testing.assert_allclose(value, tilted(np.array(means), hyper), rtol=1e-5, atol=1e-6)
      assert len(kept) == 5
    return
  # the same losses, with copies of the kept ones far away masked out, in other places
  order = [5, 0, 1, 3, 4, 6, 2]
  moved = evaluate(name, hidden[:, order], where=where[:, order])
  np.testing.assert_allclose(moved[0], values, rtol=1e-6, atol=1e-6)
  np.testing.assert_allclose(moved[2], weights[:, order], rtol=1e-5, atol=1e-6)
  kept = np.asarray(loss[:3, [0, 1, 3, 4, 6]], float)
  duals = [FAMILIES[name].dual(row, h) for row, h in zip(kept, FAMILIES[name].hyper, strict=False)]
  np.testing.assert_allclose(values[:3], duals, rtol=2e-5, atol=2e-6)


@every_family
def test_nan_losses_are_not_hidden(name, loss):
  loss = np.asarray(loss, np.float32)
  loss[1, 3] = np.nan
  values, _, weights, *_ = evaluate(name, loss)
  np.testing.assert_array_equal(np.isnan(values), [False, True, False, False])
  np.testing.assert_array_equal(np.isnan(weights).all(1), [False, True, False, False])


@every_family
def test_huge_and_equal_losses(name):
  signs = np.array([[1, -1, 0, 1, -1, 0.5, 1], [1] * 7, [0] * 7, [-1, 1, -1, -1, -1, -1, -1]])
  hyper = np.full(SETS, np.median(FAMILIES[name].hyper), np.float32)
  for scale in (1e4, 1e-4):
    values, grad, weights, slope = evaluate(name, np.float32(scale * signs), hyper)
    for result in (values, grad, weights, slope):
      assert np.all(np.isfinite(result))
    assert np.all(values <= scale * signs.max(1) * (1 + 1e-6) + 1e-6 * scale)
    np.testing.assert_allclose(weights.sum(1), 1, rtol=2e-6)
    np.testing.assert_allclose(values[1:3], [scale, 0], rtol=1e-6)
    if name != "group_dro":
      np.testing.assert_allclose(weights[1:3], 1 / N, rtol=1e-5)
    np.testing.assert_allclose(grad[1:3], weights[1:3], rtol=1e-5, atol=1e-6)


@pytest.mark.x64
@every_family
def test_float32_is_near_float64_and_bfloat16_stays(name, loss):
  narrow = np.asarray(loss, np.float32)
  hyper = np.asarray(FAMILIES[name].hyper, np.float32)
  wide = evaluate(name, narrow.astype(float), hyper.astype(float))
  with jax.enable_x64(False):
    found = evaluate(name, narrow, hyper)
    half = jnp.asarray(narrow, jnp.bfloat16)
    shape = jax.eval_shape(lambda l: FAMILIES[name].value(l, 1.0), half)
    assert shape.dtype == jnp.bfloat16 and shape.shape == (SETS,)
    assert jax.eval_shape(lambda l: FAMILIES[name].weights(l, 1.0), half).dtype == jnp.bfloat16
  assert found[0].dtype == np.float32 and found[2].dtype == np.float32
  # epsilon 1e-7 over the smallest temperature 0.01, times losses of a few
  np.testing.assert_allclose(found[0], wide[0], rtol=1e-5, atol=1e-5)
  np.testing.assert_allclose(found[2], wide[2], rtol=1e-4, atol=1e-4)


@every_family
def test_vmap_jit_and_hyperparameters_as_data(name, loss):
  loss = jnp.asarray(loss, jnp.float32)
  family = FAMILIES[name]
  hyper = jnp.asarray(family.hyper, jnp.float32)
  together = evaluate(name, loss)[0]
  size = compiled(name)._cache_size()
  single = jax.jit(jax.vmap(family.value))(loss, hyper)  # sets and hyperparameters both mapped
  np.testing.assert_allclose(single, together, rtol=1e-5, atol=1e-6)
  if name == "cvar":  # the others are slow without compilation
    eager = family.value(loss[1], float(hyper[1]))
    np.testing.assert_allclose(eager, together[1], rtol=1e-5, atol=1e-6)
  other = evaluate(name, loss, 0.9 * hyper)[0]
  assert compiled(name)._cache_size() == size  # new numbers do not compile again
  if name != "cvar":
    assert np.any(other != together)


def test_limits_of_the_penalties_and_balls():
  loss = np.array([[3.0, -1.0, 0.5, 2.0, -2.0, 0.25, 1.0]], np.float32).repeat(SETS, 0)
  mean, largest = loss[0].mean(), loss[0].max()
  for name in ("kl_dro", "chi2_dro"):
    values, _, weights, *_ = evaluate(name, loss, [np.inf, 1e30, 1e-10, 1e-30])
    np.testing.assert_allclose(values[:2], mean, rtol=1e-6)
    np.testing.assert_allclose(values[2:], largest, rtol=1e-6)
    np.testing.assert_allclose(weights[:2], 1 / N, rtol=1e-6)
    np.testing.assert_allclose(weights[2:], loss[2:] == largest, atol=1e-6)
    # mean + Var / (2 lam) while no weight is 0, up to third cumulant / (6 lam^2) for KL
    values = evaluate(name, loss, np.full(SETS, 500.0))[0]
    np.testing.assert_allclose(values - mean, loss[0].var() / 1000, rtol=5e-3)
  for name, everything in (("kl_ball_dro", np.log(N) + 0.01), ("chi2_ball_dro", (N - 1) / 2)):
    values, _, weights, *_ = evaluate(name, loss, [0.0, 1e-12, everything, 100.0])
    np.testing.assert_allclose(values[:2], mean, rtol=2e-5)
    np.testing.assert_allclose(values[2:], largest, rtol=1e-6)
    np.testing.assert_allclose(weights[0], 1 / N, rtol=1e-5)
    np.testing.assert_allclose(weights[2:], loss[2:] == largest, atol=1e-6)
    values = evaluate(name, loss, np.full(SETS, 1e-4))[0]
    np.testing.assert_allclose(values - mean, np.sqrt(2e-4 * loss[0].var()), rtol=1e-2)
  values = evaluate("cvar", loss, [1.0, 1 / N, 0.01, 2 / N])[0]
  np.testing.assert_allclose(values, [mean, largest, largest, 2.5], rtol=1e-6)
  values = evaluate("group_dro", loss, [np.inf, 1e-30, 0.0, 0.0])[0]
  means = group_means(loss[0])
  np.testing.assert_allclose(values, [means.mean(), *3 * [means.max()]], rtol=1e-6)


@pytest.mark.x64
def test_ball_against_brute_force_for_all_radii(rng):
  # SLSQP over the simplex knows nothing of duals, sorting or bisection
  loss = rng.normal(size=(SETS, N))
  loss[1] = np.round(loss[1])  # ties
  for name, distance, radii in (
    ("kl_ball_dro", kl, (0.05, 0.4, 1.0, 1.6)),
    ("chi2_ball_dro", chi2, (0.1, 0.8, 1.9, 2.6)),
  ):
    values = evaluate(name, loss, radii)[0]
    for row, rho, value in zip(loss, radii, values, strict=True):
      found = optimize.minimize(
        lambda p, row=row: -p @ row, np.full(N, 1 / N), jac=lambda p, row=row: -row,
        bounds=[(1e-13, 1)] * N, method="SLSQP", options={"ftol": 1e-14, "maxiter": 1000},
        constraints=[
          {"type": "eq", "fun": lambda p: p.sum() - 1},
          {"type": "ineq", "fun": lambda p, rho=rho, d=distance: rho - d(p)},
        ],
      )  # fmt: skip
      np.testing.assert_allclose(value, -found.fun, atol=1e-7)


@pytest.mark.x64
def test_chi2_ball_on_a_fine_grid_of_radii(rng):
  loss = rng.normal(size=N)
  loss[3] = loss[4] = (
    loss.max() + 0.1
  )  # two largest losses: the worst case is reached at (7 / 2 - 1) / 2
  radii = np.linspace(0, 3.5, 200)
  values = np.asarray(jax.jit(jax.vmap(lambda r: losses.chi2_ball_dro(loss, r)))(radii))
  weights = jax.jit(jax.vmap(lambda r: losses.chi2_ball_dro_weights(loss, r)))(radii)
  distances = np.array([chi2(p) for p in np.asarray(weights)])
  np.testing.assert_allclose(distances, np.minimum(radii, 1.25), atol=1e-12)
  np.testing.assert_allclose(np.asarray(weights) @ loss, values, rtol=1e-12, atol=1e-12)
  np.testing.assert_allclose(np.asarray(weights).sum(1), 1, rtol=1e-12)
  assert np.all(np.diff(values) >= -1e-13) and np.all(np.diff(values, 2) <= 1e-12)  # concave


def test_prefix_variances_keep_their_digits_in_float32():
  # one loss far above a cluster: sums of squares minus squared sums would lose all digits
  loss = np.float32(-1 + 1e-3 * np.cos(np.arange(1000)))
  loss[17] = 0
  wide = loss.astype(float)
  radii = (1e-4, 0.1, 10.0, 100.0)
  values = jax.jit(losses.chi2_ball_dro)(
    jnp.broadcast_to(jnp.asarray(loss), (4, 1000)), jnp.array(radii)
  )
  for rho, value in zip(radii, values, strict=True):
    expected = smallest_dual(lambda lam, rho=rho: chi2_penalised(wide, lam) + lam * rho)
    np.testing.assert_allclose(value, expected, rtol=1e-5)


@pytest.mark.x64
def test_kl_ball_temperature_and_its_derivative(loss):
  def values(l, radius, floor):
    options = {"min_temperature": floor}
    lam = losses.kl_ball_dro_temperature(l, radius, **options)
    return lam, losses.kl_ball_dro(l, radius, **options)

  moving = jax.jit(lambda point, direction: jax.jvp(values, point, direction))
  radii, zeros = np.array([0.01, 0.2, 0.7, 1.3]), np.zeros(SETS)
  direction = (DIRECTION, radii, zeros)
  (lam, _), (tangent, _) = moving((loss, radii, zeros), direction)
  softmax = lambda row, t: np.exp((row - row.max()) / t) / np.exp((row - row.max()) / t).sum()
  found = [kl(softmax(row, t)) for row, t in zip(loss, lam, strict=True)]
  np.testing.assert_allclose(found, radii, rtol=1e-11)
  step = 1e-6
  ends = [
    moving((loss + e * DIRECTION, radii * (1 + e), zeros), direction)[0][0] for e in (step, -step)
  ]
  np.testing.assert_allclose(tangent, (ends[0] - ends[1]) / (2 * step), rtol=1e-6)
  # with a least temperature, which binds in the last sets
  floors, radii = np.full(SETS, 0.3), np.array([0.01, 0.2, 5.0, 6.0])
  (lam, value), (slope, change) = moving(
    (loss, radii, floors), (np.zeros((SETS, N)), zeros, np.ones(SETS))
  )
  np.testing.assert_array_equal(lam[2:], 0.3)
  np.testing.assert_allclose(slope, [0, 0, 1, 1], atol=1e-12)
  for i in range(SETS):
    dual = lambda t, i=i: tilted(loss[i], 0.3 + t) + t * radii[i]
    expected = min(tilted(loss[i], 0.3), smallest_dual(dual))
    np.testing.assert_allclose(value[i], expected, rtol=1e-9)
    # the derivative in lam0 is -KL at the weights that are chosen
    np.testing.assert_allclose(change[i], -kl(softmax(loss[i], lam[i])), rtol=1e-9)


def test_cvar_ties_and_fractions():
  loss = np.array([[2.0, 1, 1, 1, 0, 0, 0], [3, 3, 3, 3, 0, 0, 0], [1] * 7, [5, 4, 3, 2, 1, 0, -1]])
  alphas = [3 / 7, 2 / 7, 0.3, 2.5 / 7]
  values, grad, weights, *_ = evaluate("cvar", np.float32(loss), alphas)
  np.testing.assert_allclose(values, [4 / 3, 3, 1, (5 + 4 + 1.5) / 2.5], rtol=1e-6)
  # ties share: two thirds over three losses, one over four, one over seven
  expected = np.zeros((4, 7))
  expected[0, 0], expected[0, 1:4] = 1 / 3, 2 / 9
  expected[1, :4], expected[2] = 1 / 4, 1 / 7
  expected[3, :3] = [0.4, 0.4, 0.2]
  np.testing.assert_allclose(weights, expected, rtol=1e-6, atol=1e-7)
  np.testing.assert_allclose(grad, expected, rtol=1e-6, atol=1e-7)
  threshold = losses.cvar_threshold(jnp.asarray(loss, jnp.float32), jnp.asarray(alphas))
  np.testing.assert_array_equal(threshold, [1, 3, 1, 3])
  many = jnp.arange(30.0)  # 0.1 * 30 rounds to just above 3 in float32
  assert float(losses.cvar_threshold(many, 0.1)) == 27


@pytest.mark.x64
def test_conjugates_give_the_other_objectives(loss):
  conjugates = {
    "kl": lambda s, h: losses.kl_conjugate(s),
    "chi2": lambda s, h: losses.chi2_conjugate(s),
    "cressie_read": lambda s, h: losses.cressie_read_conjugate(s, power=h),
    "cvar": lambda s, h: losses.cvar_conjugate(s, alpha=h),
  }

  @functools.partial(jax.jit, static_argnums=0)
  def evaluate_phi(which, lam, h):
    # hyperparameters of a conjugate are data: derivatives pass through its closure
    fun = lambda h: jnp.sum(
      losses.phi_divergence_dro(loss, lam, conjugate=lambda s: conjugates[which](s, h))
    )
    options = {"conjugate": lambda s: conjugates[which](s, h)}
    weights = losses.phi_divergence_dro_weights(loss, lam, **options)
    eta = losses.phi_divergence_dro_threshold(loss, lam, **options)
    return *jax.value_and_grad(fun)(h), weights, eta

  lam = jnp.full(SETS, 0.4)
  each, _, expected, *_ = evaluate("kl_dro", loss, lam)
  value, _, weights, eta = evaluate_phi("kl", 0.4, 0.0)
  np.testing.assert_allclose(value, each.sum(), rtol=1e-12)
  np.testing.assert_allclose(weights, expected, atol=1e-12)
  np.testing.assert_allclose(eta, each, rtol=1e-12)  # of KL, eta is the value itself
  np.testing.assert_allclose(evaluate_phi("cressie_read", 0.4, 1 + 1e-9)[0], value, rtol=1e-7)
  chi2_value = evaluate("chi2_dro", loss, lam)[0].sum()
  np.testing.assert_allclose(evaluate_phi("chi2", 0.4, 0.0)[0], chi2_value, rtol=1e-12)
  value, slope, *_ = evaluate_phi("cressie_read", 0.4, 2.0)
  np.testing.assert_allclose(value, chi2_value, rtol=1e-12)
  up, down = (evaluate_phi("cressie_read", 0.4, 2 + step)[0] for step in (1e-6, -1e-6))
  np.testing.assert_allclose(slope, (up - down) / 2e-6, rtol=1e-6)
  for alpha in (0.3, 3 / 7, 0.9):
    value, _, weights, _ = evaluate_phi("cvar", 1.0, alpha)
    each, _, expected, *_ = evaluate("cvar", loss, [alpha] * SETS)
    np.testing.assert_allclose(value, each.sum(), rtol=1e-12)
    np.testing.assert_allclose(weights, expected, atol=1e-12)


def test_conjugates_are_conjugates():
  # sup_t s t - phi(t) on a grid of t
  t = np.linspace(0, 12, 1_200_001)
  s = np.array([-3.0, -1.0, -0.2, 0.0, 0.4, 1.0, 1.7], np.float32)
  k = 1.5
  pairs = {
    "kl": (losses.kl_conjugate(s), t * np.log(np.maximum(t, 1e-300)) - t + 1),
    "chi2": (losses.chi2_conjugate(s), (t - 1) ** 2 / 2),
    "cvar": (losses.cvar_conjugate(s, alpha=0.25), np.where(t <= 4, 0, np.inf)),
    "cressie_read": (
      losses.cressie_read_conjugate(s, power=k),
      (t**k - k * t + k - 1) / (k * (k - 1)),
    ),
  }
  for name, (found, phi) in pairs.items():
    expected = [np.max(v * t - phi) for v in s.astype(float)]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.mark.x64
def test_kl_dro_over_labels_is_ldr_kl(rng):
  scores, labels = rng.normal(size=(SETS, N)), rng.integers(0, N, size=SETS)
  margins = scores - scores[np.arange(SETS), labels][:, None] + 0.3
  margins[np.arange(SETS), labels] = 0
  expected = losses.ldr_kl_loss(scores, labels, temperature=0.7, margin=0.3, normalize=None)
  np.testing.assert_allclose(evaluate("kl_dro", margins, [0.7] * SETS)[0], expected, rtol=1e-12)
  weights = losses.ldr_weights(scores, labels, temperature=0.7, margin=0.3, normalize=None)
  np.testing.assert_allclose(losses.kl_dro_weights(margins, 0.7), weights, rtol=1e-12)


def test_groups():
  loss = jnp.array([1.0, 3.0, 2.0, jnp.nan])
  groups = jnp.array([0, 0, 2, -1])
  where = jnp.array([True, True, True, False])

  @jax.jit
  def call(loss, groups, where):
    options = {"num_groups": 3, "where": where}
    both = jax.value_and_grad(losses.group_dro)(loss, groups, **options)
    return *both, losses.group_dro_weights(loss, groups, **options)

  value, grads, q = call(loss, groups, where)
  assert float(value) == 2.0  # the groups tie at 2
  np.testing.assert_allclose(grads, [0.25, 0.25, 0.5, 0], rtol=1e-6)
  np.testing.assert_allclose(q, [0.5, 0, 0.5], rtol=1e-6)
  value, _, q = call(jnp.ones(4), groups, where | True)  # a group out of range, inside jit
  assert np.isnan(value) and np.all(np.isnan(q))
  value, grads, q = call(loss, groups, where & False)
  assert value == 0 and not np.any(grads) and not np.any(q)


def test_single_losses():
  one = jnp.array([2.0])
  for name in ("cvar", "chi2_dro", "chi2_ball_dro"):
    assert float(FAMILIES[name].value(one, 0.5)) == pytest.approx(2.0, rel=1e-6), name
    np.testing.assert_allclose(FAMILIES[name].weights(one, 0.5), 1.0, rtol=1e-6)


@pytest.mark.parametrize("unit", [1e-25, 1e-20, 1.0, 1e20, 1e30])
def test_chi2_is_in_units_of_the_losses(unit):
  # The maximum over the simplex by brute force, 3/2 sum (p - 1/3)^2 being lam n / 2 times the rest.
  losses_, lam = unit * jnp.array([1.0, 2.0, 4.0]), unit
  value = losses.chi2_dro(losses_, lam)
  grid = np.linspace(0, 1, 401)
  p, q = np.meshgrid(grid, grid)
  weights = np.stack([p, q, 1 - p - q], -1)[(p + q) <= 1]
  best = weights @ [1.0, 2.0, 4.0] - 1.5 * np.sum((weights - 1 / 3) ** 2, axis=1)
  np.testing.assert_allclose(float(value) / unit, best.max(), atol=1e-4)
