"""What searches a surrogate: the bases of offline optimisation, as one program each."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments._protocol import Progress
from experiments.surrogates import _cma, _qei
from experiments.surrogates._offline import COMS, apply_fn, flat_call
from jaxopt_robust import surrogates, transforms

ASCENT, REINFORCE, CMA, CBAS, QEI = "gradient ascent", "REINFORCE", "CMA-ES", "CbAS", "BO-qEI"
MEAN, LEAST = "ensemble, mean", "ensemble, least"
BASES = (ASCENT, REINFORCE, CMA, CBAS, QEI, COMS, MEAN, LEAST)
Predict = Callable[[jax.Array], jax.Array]


def members_of(base: str, config: Any) -> int:
  """How many networks a base searches together."""
  return config.members if base in (MEAN, LEAST) else 1


def search_designs(base: str, config: Any, predict: Predict, data: dict) -> jax.Array:
  """float[starts, dimension], what a base finds with a model; the same draws for every model."""
  box, starts = (-1.0, 1.0), data["starts"]
  if base in (ASCENT, MEAN, LEAST):
    return surrogates.gradient_ascent_search(
      predict, starts, num_steps=config.steps, bounds=box
    )[0]  # fmt: skip
  if base == COMS:  # as far as it was trained
    return surrogates.gradient_ascent_search(
      predict, starts, num_steps=config.conservative_steps, stepsize=config.conservative_length(),
      bounds=box,
    )[0]  # fmt: skip
  # The others in units of the data's mean and standard deviation.
  key, last = jax.random.split(jax.random.key(data["seed"]))
  middle, scale = jnp.mean(data["x"], 0), jnp.std(data["x"], 0)
  away = lambda u: jnp.clip(u * scale[None] + middle[None], *box)
  home = lambda x: (x - middle[None]) / scale[None]
  objective = lambda u: predict(away(u))
  inside = tuple(home(jnp.full((1, config.dimension), b))[0] for b in box)
  if base == CMA:
    found = _cma.search(
      objective, home(starts), key, sigma=0.5, num_steps=config.generations, bounds=inside
    )
    return away(found)
  if base == QEI:
    found = _qei.search(
      objective, home(starts), data["starts_y"], key, num_steps=config.rounds,
      batch=config.round_designs, restarts=config.restarts, climbs=config.climbs, samples=64,
      bounds=inside,
    )  # fmt: skip
    return away(found)
  if base == REINFORCE:
    first = surrogates.GaussianDesigns(
      jnp.mean(home(starts), 0), jnp.full(config.dimension, np.log(0.1), jnp.float32)
    )
    found, _ = surrogates.reinforce_search(
      objective, first, key, num_samples=config.samples, num_steps=config.steps
    )
  else:
    prior = surrogates.fit_gaussian_designs(home(data["x"]), min_std=0.01)
    noise = jnp.sqrt(jnp.mean((predict(data["x"]) - data["y"]) ** 2))
    found, _ = surrogates.cbas_search(
      objective, prior, key, noise=noise, num_samples=4 * config.samples,
      num_steps=config.conditionings,
    )  # fmt: skip
  return away(surrogates.sample_designs(last, found, num=len(starts)))


@functools.cache
def base_program(base: str, config: Any) -> Any:
  """Searches of pairs of weights[members] and data by one base."""
  one = apply_fn(config)
  reduce = "min" if base == LEAST else "mean"

  def search(weights: Any, data: dict) -> dict[str, jax.Array]:
    model = lambda w, x: surrogates.ensemble_prediction(one, w, x, reduce=reduce)
    designs = search_designs(base, config, lambda x: model(weights, x), data)
    hidden = data["hidden"]
    error = model(weights, hidden) - data["hidden_y"]
    mean = lambda w: jnp.mean(model(w, hidden))
    return {
      "designs": designs, "predictions": model(weights, designs) * data["std"] + data["mean"],
      "sharpness": transforms.surrogate_sharpness(mean, weights, rho=0.05),
      "error": jnp.sqrt(jnp.mean(error**2)),
    }  # fmt: skip

  return jax.jit(jax.vmap(search))


def search_base(
  base: str, config: Any, progress: Progress, weights: Any, data: Any, name: str
) -> dict[str, np.ndarray]:
  """What a base finds with weights[seeds, models, members]."""
  program = base_program(base, config)
  return flat_call(progress, program, weights, data, config.pairs(), f"{name}, {base}")
