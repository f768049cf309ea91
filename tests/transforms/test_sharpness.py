"""Sharpness-aware links: closed forms on quadratics, equality with optax, masks and recovery."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxopt_robust import transforms

A = np.array([[3.0, 1.0, 0.0], [1.0, 2.0, 0.5], [0.0, 0.5, 1.0]])
W = np.array([1.0, -2.0, 0.5])
RHO, ALPHA = 0.3, 0.4
quadratic = lambda w: 0.5 * w @ jnp.asarray(A, w.dtype) @ w
gradient = jax.grad(quadratic)


def direction(tx, w=W, **extra):
  """What the inner optimizer got: the link around sgd(1) turns it round."""
  w = jnp.asarray(w)
  extra = extra or {"grad_fn": lambda w, i: gradient(w)}
  updates, _ = tx.update(gradient(w), tx.init(w), w, **extra)
  return -np.asarray(updates)


def closed_form(w=W):
  g = A @ w
  return g, (np.eye(3) + RHO * A / np.linalg.norm(g)) @ g


@pytest.mark.x64
def test_sam_on_a_quadratic():
  g, gp = closed_form()
  np.testing.assert_allclose(direction(transforms.sam(optax.sgd(1.0), rho=RHO)), gp, rtol=1e-12)
  found = transforms.perturbed_gradient(gradient, jnp.asarray(W), jnp.asarray(g), radius=RHO)
  np.testing.assert_allclose(found, gp, rtol=1e-12)
  back = transforms.perturbed_gradient(gradient, jnp.asarray(W), 7 * jnp.asarray(g), radius=-RHO)
  np.testing.assert_allclose(back, 2 * g - gp, rtol=1e-12)


@pytest.mark.x64
@pytest.mark.parametrize("minimize", ["perturbed", "plain"])
def test_gsam_on_a_quadratic(minimize):
  g, gp = closed_form()
  tx = transforms.gsam(optax.sgd(1.0), rho=RHO, alpha=ALPHA, minimize=minimize)
  d = direction(tx)
  if minimize == "perturbed":
    orthogonal = (gp - d) / ALPHA
    expected = gp - ALPHA * (g - (g @ gp) / (gp @ gp) * gp)
    assert abs(orthogonal @ gp) < 1e-10
  else:
    orthogonal = (d - g) / ALPHA
    expected = g + ALPHA * (gp - (g @ gp) / (g @ g) * g)
    assert abs(orthogonal @ g) < 1e-10
  assert np.linalg.norm(orthogonal) > 0.01
  np.testing.assert_allclose(d, expected, rtol=1e-12)


@pytest.mark.x64
def test_gsam_limits():
  g, gp = closed_form()
  no_gap = functools.partial(transforms.gsam, optax.sgd(1.0), alpha=0.0)
  np.testing.assert_allclose(direction(no_gap(rho=RHO)), gp, rtol=1e-12)
  np.testing.assert_allclose(direction(no_gap(rho=RHO, minimize="plain")), g, rtol=1e-12)
  errors = [
    np.linalg.norm(direction(transforms.gsam(optax.sgd(1.0), rho=rho, alpha=ALPHA)) - g)
    for rho in (1e-2, 1e-4)
  ]
  assert errors[1] < 1e-3 and errors[0] / errors[1] == pytest.approx(100, rel=0.05)


@pytest.mark.x64
@pytest.mark.parametrize("alpha", [None, 0.0])
def test_sam_is_that_of_optax(alpha):
  """Five steps with momentum; None: ``sam``, 0: ``gsam`` without its gap."""
  inner = optax.sgd(0.05, momentum=0.9)
  ours = (
    transforms.sam(inner, rho=RHO)
    if alpha is None
    else transforms.gsam(inner, rho=RHO, alpha=alpha)
  )
  ascent = optax.chain(optax.contrib.normalize(), optax.sgd(RHO))
  theirs = optax.contrib.sam(inner, ascent, opaque_mode=True)
  grad_fn = lambda tree, i: jax.grad(lambda t: quadratic(t["w"]) + t["b"] ** 4)(tree)

  @functools.partial(jax.jit, static_argnums=0)
  def run(make):
    tx, start = make(), {"w": jnp.asarray(W), "b": jnp.ones(())}

    def step(carry, _):
      w, state = carry
      updates, state = tx.update(grad_fn(w, 0), state, w, grad_fn=grad_fn)
      w = optax.apply_updates(w, updates)
      return (w, state), w

    return jax.lax.scan(step, (start, tx.init(start)), length=5)[1]

  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12),
    run(lambda: ours),
    run(lambda: theirs),
  )


@pytest.mark.x64
def test_gap_of_a_convex_function_and_near_its_minimum():
  rng = np.random.default_rng(0)
  value = lambda w, g: transforms.perturbed_gradient(quadratic, w, g, radius=RHO)
  points = jnp.asarray(rng.standard_normal((20, 3)))
  slopes = jax.vmap(gradient)(points)
  gaps = jax.vmap(value)(points, slopes) - jax.vmap(quadratic)(points)
  assert bool(jnp.all(gaps >= RHO * jnp.linalg.norm(slopes, axis=1)))
  # Near the minimum along an eigenvector the gap is rho^2 sigma / 2.
  sigma, vectors = np.linalg.eigh(A)
  for s, v in zip(sigma, vectors.T, strict=True):
    w = jnp.asarray(1e-9 * v)
    gap = value(w, gradient(w)) - quadratic(w)
    np.testing.assert_allclose(gap, RHO**2 * s / 2, rtol=1e-6)


@pytest.mark.x64
def test_adaptive_norm():
  """The step maximises the slope over || s / |w| || <= 1; scaling a weight scales its step."""
  w, g = jnp.asarray(W), jnp.asarray([0.2, 1.0, -3.0])
  step = transforms.perturbed_gradient(lambda w: w, w, g, radius=1.0, norm="adaptive") - w
  assert np.linalg.norm(step / np.abs(W)) == pytest.approx(1.0, rel=1e-12)
  rng = np.random.default_rng(0)
  others = rng.standard_normal((500, 3))
  others = others / np.linalg.norm(others, axis=1, keepdims=True) * np.abs(W)
  assert (others @ g).max() <= step @ g
  factors = jnp.array([1.0, 10.0, 0.1])
  scaled = transforms.perturbed_gradient(
    lambda w: w, factors * w, g / factors, radius=1.0, norm="adaptive"
  )
  np.testing.assert_allclose(scaled, factors * (w + step), rtol=1e-12)
  tx = transforms.gsam(optax.sgd(1.0), rho=RHO, alpha=0.0, norm="adaptive")
  moved = transforms.perturbed_gradient(gradient, w, gradient(w), radius=RHO, norm="adaptive")
  np.testing.assert_allclose(direction(tx), moved, rtol=1e-12)


def test_defaults_and_what_the_functions_are_asked_for():
  defaults = lambda make: {
    name: p.default
    for name, p in inspect.signature(make).parameters.items()
    if isinstance(p.default, float)
  }
  assert defaults(transforms.sam) == {"rho": 0.05}
  assert defaults(transforms.gsam) == {"rho": 0.05, "alpha": 0.2}
  assert defaults(transforms.rsgs) == {"rho": 0.05, "alpha": 0.2, "decay": 0.9}
  asked = []
  direction(transforms.sam(optax.sgd(1.0)), grad_fn=lambda w, i: asked.append(i) or gradient(w))
  second = lambda w, i: asked.append(i) or reliable_loss(True)(w, i)
  direction(transforms.rsgs(optax.sgd(1.0)), value_and_grad_fn=second)
  assert asked == [0, 0]  # as optax counts perturbations


def test_zero_and_tiny_gradients():
  for make in (transforms.sam, transforms.gsam):
    np.testing.assert_array_equal(direction(make(optax.sgd(1.0)), np.zeros(3, np.float32)), 0)
  tiny = jnp.array([3e-30, 4e-30], jnp.float32)
  moved = transforms.perturbed_gradient(lambda w: w, jnp.zeros(2), tiny, radius=1.0)
  np.testing.assert_allclose(moved, [0.6, 0.8], rtol=1e-6)
  slope = jax.jit(
    jax.jacobian(lambda g: transforms.perturbed_gradient(lambda w: w, jnp.ones(2), g, radius=1.0))
  )
  assert bool(jnp.all(jnp.isfinite(slope(jnp.zeros(2)))))
  np.testing.assert_allclose(slope(jnp.array([0.0, 2.0])), [[0.5, 0], [0, 0]], atol=1e-6)


def test_radius_follows_the_learning_rate():
  rate = optax.linear_schedule(0.4, 0.2, 10)
  radius = transforms.gsam_radius(rate, rho=(0.0, RHO), rates=(0.2, 0.4))
  np.testing.assert_allclose([radius(c) for c in (0, 5, 10, 99)], [RHO, RHO / 2, 0, 0], atol=1e-7)
  tx = transforms.sam(optax.sgd(1.0), rho=radius)
  w = jnp.asarray(W, jnp.float32)
  grad_fn = lambda w, i: gradient(w)
  _, state = tx.update(gradient(w), tx.init(w), w, grad_fn=grad_fn)
  assert int(state.count) == 1
  late, _ = tx.update(gradient(w), state._replace(count=jnp.asarray(5)), w, grad_fn=grad_fn)
  half = transforms.sam(optax.sgd(1.0), rho=RHO / 2)
  expected, _ = half.update(gradient(w), half.init(w), w, grad_fn=grad_fn)
  np.testing.assert_allclose(late, expected, rtol=1e-6)


def reliable_loss(keep):
  """Value, mask and gradient of the quadratic, reliable or not."""

  def second(w, i):
    value, found = jax.value_and_grad(quadratic)(w)
    return (jnp.where(keep, value, 0), jnp.array([keep, False])), jnp.where(keep, found, 0)

  return second


@pytest.mark.x64
def test_rsgs_special_cases():
  g, gp = closed_form()
  extra = {"value_and_grad_fn": reliable_loss(True)}
  rsgs = functools.partial(transforms.rsgs, optax.sgd(1.0))
  np.testing.assert_allclose(direction(rsgs(rho=RHO, alpha=0.0), **extra), gp, rtol=1e-12)
  gap = direction(transforms.gsam(optax.sgd(1.0), rho=RHO, alpha=ALPHA))
  np.testing.assert_allclose(direction(rsgs(rho=RHO, alpha=ALPHA), **extra), gap, rtol=1e-12)
  np.testing.assert_allclose(direction(rsgs(rho=0.0, alpha=ALPHA), **extra), g, rtol=1e-12)


@pytest.mark.parametrize(
  "inner", [optax.sgd(0.1, momentum=0.9), optax.adam(0.1)], ids=["momentum", "adam"]
)
def test_nothing_reliable_changes_nothing(inner):
  w = jnp.asarray(W, jnp.float32)
  tx = transforms.rsgs(inner, rho=RHO)

  @jax.jit
  def update(state, keep):
    g = jnp.where(keep, gradient(w), 0)
    return tx.update(g, state, w, value_and_grad_fn=reliable_loss(keep))

  first, state = update(tx.init(w), True)
  assert np.all(np.abs(first) > 0) and int(state.count) == 1
  second, after = update(state, False)
  np.testing.assert_array_equal(second, 0)
  jax.tree.map(np.testing.assert_array_equal, after, state)
  # Reliable at w and no longer at the perturbed weights: no step either.
  only_first, after = tx.update(gradient(w), state, w, value_and_grad_fn=reliable_loss(False))
  np.testing.assert_array_equal(only_first, 0)
  jax.tree.map(np.testing.assert_array_equal, after, state)


def test_recovery_goes_back_to_the_source():
  source = jnp.asarray(W, jnp.float32)
  tx = transforms.rsgs(optax.sgd(0.1, momentum=0.9), rho=0.0, recovery=0.5, decay=0.5)
  state = tx.init(source)
  values = iter([1.0, 0.6, 0.1])  # averages 1, 0.8, 0.45

  def second(w, i):
    return (jnp.float32(next(values)), jnp.array([True])), jnp.ones(3)

  w, averages = source, []
  for _ in range(3):
    updates, state = tx.update(jnp.ones(3), state, w, value_and_grad_fn=second)
    w = optax.apply_updates(w, updates)
    averages.append(float(state.average))
    if len(averages) == 2:
      assert float(jnp.abs(w - source).min()) > 0.1
  np.testing.assert_allclose(averages, [1.0, 0.8, np.inf], rtol=1e-6)
  np.testing.assert_allclose(w, source, rtol=1e-6)
  jax.tree.map(np.testing.assert_array_equal, state.inner_state, tx.init(source).inner_state)


def test_a_grid_of_hyperparameters_is_one_program():
  """Traced rho and alpha under vmap and scan equal single runs."""
  start, traces = jnp.asarray(W, jnp.float32), []

  @jax.jit
  @jax.vmap
  def run(rho, alpha):
    traces.append(0)
    tx = transforms.gsam(optax.adam(0.05), rho=rho, alpha=alpha)

    def step(carry, _):
      w, state = carry
      updates, state = tx.update(gradient(w), state, w, grad_fn=lambda w, i: gradient(w))
      return (optax.apply_updates(w, updates), state), None

    return jax.lax.scan(step, (start, tx.init(start)), length=4)[0][0]

  rhos, alphas = jnp.array([0.0, 0.1, 0.5]), jnp.array([0.3, 0.0, 1.0])
  together = run(rhos, alphas)
  alone = jnp.concatenate(
    [run(rhos[i : i + 1].repeat(3), alphas[i : i + 1].repeat(3))[:1] for i in range(3)]
  )
  np.testing.assert_allclose(together, alone, rtol=1e-5)
  assert len(traces) == 1 and len({float(v) for v in together[:, 0]}) == 3


@pytest.mark.parametrize("sizes", [(1e-22, 1e-20), (1e20, 1e25), (1e-25, 1e30)])
def test_adaptive_norm_of_any_units(sizes):
  of_w, of_g = sizes
  w, g = of_w * jnp.array([1.0, 2.0]), of_g * jnp.array([3.0, 1.0])
  found = transforms.perturbed_gradient(lambda w: w, w, g, radius=0.5, norm="adaptive")
  # |w|^2 g / || |w| g || = (3, 4) / ||(3, 2)|| in units of w.
  expected = np.array([1.0, 2.0]) + 0.5 * np.array([3.0, 4.0]) / np.sqrt(13)
  np.testing.assert_allclose(found / of_w, expected, rtol=1e-5)


@pytest.mark.parametrize("name", ["sam", "gsam", "rsgs"])
def test_what_would_broadcast_or_has_no_direction_is_refused(name):
  w, make = jnp.array([1.0, 2.0]), getattr(transforms, name)

  def run(grads, found, rho=0.1):
    tx = make(optax.sgd(1.0), rho=rho)
    both = lambda w, i: ((0.0, jnp.ones(1, bool)), found)
    return tx.update(grads, tx.init(w), w, grad_fn=lambda w, i: found, value_and_grad_fn=both)

  assert run(w, w)[0].shape == (2,)
  for wrong in (w[0], {"w": w}, (jnp.zeros(()), w)):
    with pytest.raises(ValueError, match=r"grad_fn returns.*must be like the parameters"):
      run(w, wrong)
    with pytest.raises(ValueError, match="the gradients must be like the parameters"):
      run(wrong, w)
  with pytest.raises(ValueError, match="a schedule must return a scalar"):
    run(w, w, rho=lambda count: jnp.ones(2))
  with pytest.raises(TypeError, match="real numbers; got complex64"):
    run(w + 1j, w)


def test_rsgs_says_what_its_function_must_return():
  w, tx = jnp.ones(2), transforms.rsgs(optax.sgd(1.0))
  for out in ((jnp.zeros(()), w), w):
    with pytest.raises(TypeError, match=r"must return .*value, reliable.*gradients"):
      tx.update(w, tx.init(w), w, value_and_grad_fn=lambda w, i, out=out: out)
