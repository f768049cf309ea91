"""Patch denoisers learned from photographs, and reconstructions with them or total variation."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import datasets
from experiments.prox import _total_variation as tv
from jaxopt_robust import nets, prox, solvers, sweeps

PICTURES = ("astronaut", "camera", "chelsea", "coffee", "coins", "rocket")
LEARNED, PLAIN, TV = METHODS = ("learned proximal network", "plain network", "total variation")
TASKS = ("deblurring", "compressed sensing")
SHORT = {"deblurring": "deblurring", "compressed sensing": "sensing"}
PATCH = 8
BLOCK = 2  # pictures are averaged over blocks, which takes the sensor's noise away
# Thirds of the pictures: report, tuning, training.
REPORT, TUNING, TRAINING = range(3)


@functools.cache
def third(name: str, part: int) -> np.ndarray:
  """One of three vertical strips of a grey picture, averaged over blocks."""
  image = datasets.load(name)["image"]
  image = image.mean(-1) if image.ndim == 3 else image
  rows, cols = (size // BLOCK for size in image.shape)
  image = image[: rows * BLOCK, : cols * BLOCK].reshape(rows, BLOCK, cols, BLOCK).mean((1, 3))
  return np.array_split(image, 3, axis=1)[part].astype(np.float32)


def make_square(seed: int, part: int, pixels: int) -> tuple[np.ndarray, np.ndarray]:
  """A random square of one of the pictures, and noise of unit variance a task."""
  rng = np.random.default_rng([seed, part])
  image = third(PICTURES[seed % len(PICTURES)], part)
  top, left = (int(rng.integers(0, size - pixels + 1)) for size in image.shape)
  square = image[top : top + pixels, left : left + pixels]
  return square, rng.standard_normal((2, pixels, pixels)).astype(np.float32)


def make_patches(num: int, seed: int, part: int, size: int = PATCH) -> np.ndarray:
  """float32[num, size, size] from all pictures in turn."""
  rng, out = np.random.default_rng([seed, part, 1]), []
  for k in range(num):
    image = third(PICTURES[k % len(PICTURES)], part)
    top, left = (int(rng.integers(0, side - size + 1)) for side in image.shape)
    out.append(image[top : top + size, left : left + size])
  return np.stack(out)


# Networks


class Network(NamedTuple):
  """init(key) -> params; patch(params, x) and image(params, x), the operators of one sample."""

  init: Callable[..., Any]
  patch: Callable[..., jax.Array]
  image: Callable[..., jax.Array]
  potential: Callable[..., jax.Array] | None


def mirrored(x: jax.Array) -> jax.Array:
  """The image and its reflections: as a torus it has no seams; every pixel is there four times."""
  return jnp.pad(x, [(0, x.shape[0]), (0, x.shape[1])], "symmetric")


def averaged(patch: Callable[..., Any], stride: int) -> Callable[..., Any]:
  """The mean over overlapping patches of an operator that has no potential."""

  def image(params: Any, x: jax.Array) -> jax.Array:
    def tiles(x: jax.Array) -> jax.Array:
      big = mirrored(x)
      wrapped = jnp.pad(big, ((0, PATCH), (0, PATCH)), mode="wrap")
      starts = range(0, PATCH, stride)
      n, m = (size // PATCH for size in big.shape)
      cut = [wrapped[i : i + n * PATCH, j : j + m * PATCH] for i in starts for j in starts]
      return jnp.swapaxes(jnp.stack(cut).reshape(-1, n, PATCH, m, PATCH), 2, 3)

    parts = tiles(x)
    done = jax.vmap(patch, in_axes=(None, 0))(params, parts.reshape(-1, PATCH, PATCH))
    (back,) = jax.linear_transpose(tiles, x)(done.reshape(parts.shape))
    return back / (4 * (PATCH // stride) ** 2)

  return image


def make_network(name: str, config: Any) -> Network:
  """The gradient of a convex network, or a network of the same depth and width without convexity.

  Both see a patch without its mean, which they leave as it is.
  """
  flat = jnp.zeros(PATCH**2)
  if name == LEARNED:
    start = nets.log_normal(config.log_weight)
    net = nets.ICNN(
      features=config.features, layers=config.layers, beta=config.beta, alpha=config.alpha,
      nonnegative_init=start,
    )  # fmt: skip

    def potential(params: Any, x: jax.Array) -> jax.Array:
      mean = jnp.mean(x)
      return net.apply(params, jnp.ravel(x - mean)) + PATCH**2 / 2 * mean**2

    whole = prox.make_patch_potential(potential, patch=(PATCH, PATCH), stride=config.stride)
    ops = [
      prox.make_prox_from_potential(f)
      for f in (potential, lambda params, x: whole(params, mirrored(x)) / 4)
    ]
    patch, image = (lambda params, x, f=f: f(x, params) for f in ops)
    return Network(lambda key: net.init(key, flat), patch, image, potential)
  mlp = nets.MLP(features=(config.features,) * (config.layers + 1) + (PATCH**2,))
  s = config.sigma  # in units of the noise it learns faster and denoises better
  noise_of = lambda params, x: s * mlp.apply(params, jnp.ravel(x - jnp.mean(x)) / s)
  patch = lambda params, x: x - noise_of(params, x).reshape(x.shape)
  return Network(lambda key: mlp.init(key, flat), patch, averaged(patch, config.stride), None)


Maker = Callable[[str, Any], Network]


@functools.cache
def make_training(name: str, config: Any, make: Maker = make_network) -> Callable[..., Any]:
  """``train(keys, patches)``: parameters of all seeds.

  The convex network learns by the absolute loss, then by proximal matching; the plain one, as
  denoisers for plug-and-play do, by the squared loss.
  """
  network, steps = make(name, config), config.steps
  rate = optax.cosine_decay_schedule(
    config.learning_rate if name == LEARNED else config.plain_learning_rate, steps
  )
  optimizer: Any = optax.adam(rate)
  if name == LEARNED:
    projection = optax.masked(optax.keep_params_nonnegative(), nets.nonnegative_mask)
    optimizer = optax.chain(optimizer, projection)
  half = steps // 2
  gamma = prox.matching_schedule(config.gamma, num_steps=steps - half, stages=config.stages)

  def loss(params: Any, clean: jax.Array, noise: jax.Array, count: jax.Array) -> jax.Array:
    out = jax.vmap(network.patch, in_axes=(None, 0))(params, clean + config.sigma * noise)
    if name == PLAIN:
      return jnp.mean((out - clean) ** 2)
    matching = prox.proximal_matching_loss(out, clean, gamma=gamma(count - half))
    return jnp.where(count < half, jnp.mean(jnp.abs(out - clean)), jnp.mean(matching))

  def train(key: jax.Array, patches: jax.Array) -> Any:
    key_init, key_steps = jax.random.split(key)

    def step(carry: Any, count: jax.Array) -> tuple[Any, None]:
      params, state = carry
      key_rows, key_noise = jax.random.split(jax.random.fold_in(key_steps, count))
      rows = jax.random.randint(key_rows, (config.batch,), 0, len(patches))
      noise = jax.random.normal(key_noise, (config.batch, *patches.shape[1:]))
      grads = jax.grad(loss)(params, patches[rows], noise, count)
      updates, state = optimizer.update(grads, state, params)
      return (optax.apply_updates(params, updates), state), None

    params = network.init(key_init)
    start = (params, optimizer.init(params))
    return jax.lax.scan(step, start, jnp.arange(steps))[0][0]

  over_seeds = sweeps.sweep(train)
  return jax.jit(lambda keys, patches: over_seeds(keys, shared=(patches,)))


# Measurements


class Task(NamedTuple):
  """A linear measurement A with A^T A = D C^T diag(weights) C D, C the cosine basis, D signs.

  One program serves all tasks.
  """

  weights: jax.Array
  signs: jax.Array
  basis: jax.Array


def make_task(name: str, config: Any) -> Task:
  """Gaussian blur with reflecting borders, or some cosines of the picture with random signs."""
  n = config.pixels
  basis = tv.cosine_basis(n)
  if name == "deblurring":
    weights, signs = tv.make_problem(n, config.blur).blur ** 2, np.ones((n, n))
  else:
    rng = np.random.default_rng(0)
    weights = np.zeros(n * n)
    weights[rng.permutation(n * n)[: round(config.rate * n * n)]] = 1
    weights, signs = weights.reshape(n, n), rng.choice([-1.0, 1.0], (n, n))
  return Task(*(jnp.asarray(v, jnp.float32) for v in (weights, signs, basis)))


def inner(x: jax.Array, factors: Any, task: Task) -> jax.Array:
  """D C^T diag(factors) C D x."""
  c = task.basis
  return task.signs * (c.T @ (factors * (c @ (task.signs * x) @ c.T)) @ c)


def observe(x: jax.Array, noise: jax.Array, task: Task, level: float) -> jax.Array:
  """A^T y of the measurements y = A x + noise: all that a reconstruction needs."""
  root = jnp.sqrt(task.weights)
  return inner(x, task.weights, task) + level * inner(noise, root, task)


def measure(config: Any, truths: Any, noise: Any, task: str) -> tuple[Task, jax.Array]:
  """The task's operator, and A^T y of each square."""
  operator = make_task(task, config)
  level = config.blur_noise if task == TASKS[0] else config.sensing_noise
  of = jax.vmap(lambda x, e: observe(x, e, operator, level))
  return operator, of(jnp.asarray(truths), jnp.asarray(noise)[:, TASKS.index(task)])


def data_prox(v: jax.Array, hyper: tuple[jax.Array, Task], scaling: Any) -> jax.Array:
  """argmin_x 1/2 ||A x - y||^2 + 1/(2 scaling) ||x - v||^2."""
  back, task = hyper
  return inner(back + v / scaling, 1 / (task.weights + 1 / scaling), task)


def misfit(x: jax.Array, back: jax.Array, task: Task) -> jax.Array:
  """1/2 ||A x - y||^2 up to a constant."""
  return jnp.sum(x * (inner(x, task.weights, task) / 2 - back))


class Solved(NamedTuple):
  """The picture and the error of each step."""

  image: jax.Array
  errors: jax.Array


@functools.cache
def make_solve(name: str, config: Any, make: Maker = make_network) -> Callable[..., Solved]:
  """``solve(params, settings, backs, task)``: plug-and-play ADMM, or that of total variation.

  The setting is the weight of the augmented Lagrangian for networks, whose operator is the same at
  every weight, and the strength of the total variation.
  """
  if name != TV:
    network = make(name, config)

  def one(params: Any, setting: jax.Array, back: jax.Array, task: Task) -> Solved:
    if name == TV:
      weight, hyper = setting / config.jump, ((back, task), setting)
      solver = solvers.admm(data_prox, prox.prox_tv2d, weight=weight, relaxation=1.0)
    else:
      # The operator first, as in the paper: its x is the network's output.
      operator = lambda v, params, scaling: network.image(params, v)
      solver = solvers.admm(operator, data_prox, weight=setting, relaxation=1.0)
      hyper = (params, (back, task))

    def step(state: Any, _: None) -> tuple[Any, jax.Array]:
      state, info = solver.step(state, hyper)
      return state, info.error

    state, errors = jax.lax.scan(step, solver.init(back, hyper), None, length=config.iterations)
    return Solved(state.params, errors)

  mapped = sweeps.sweep(one)
  return jax.jit(lambda params, settings, backs, task: mapped(
    params, settings, backs, shared=(task,)
  ))  # fmt: skip


@functools.cache
def make_descent(name: str, config: Any, make: Maker = make_network) -> Callable[..., jax.Array]:
  """``descend(params, backs, task)``: errors of plug-and-play proximal gradient, of step .9."""
  network = make(name, config)
  solver = solvers.ista(misfit, lambda v, params, s: network.image(params, v), stepsize=0.9)

  def one(params: Any, back: jax.Array, task: Task) -> jax.Array:
    step = lambda state, _: solver.step(state, params, back, task)
    start = solver.init(back, params, back, task)
    return jax.lax.scan(step, start, None, length=config.iterations)[1].error

  mapped = sweeps.sweep(one)
  return jax.jit(lambda params, backs, task: mapped(params, backs, shared=(task,)))


@functools.cache
def make_prior(config: Any) -> Callable[..., Any]:
  """``prior(params, patches)``: the regulariser of each patch, and the status of its inversion."""
  potential = make_network(LEARNED, config).potential
  assert potential is not None

  def one(params: Any, patches: jax.Array) -> Any:
    of = lambda x: solvers.potential_regularizer(potential, params, x, tol=1e-3)
    values, info = jax.vmap(of)(patches)
    return values, info.status

  return jax.jit(sweeps.sweep(one))
