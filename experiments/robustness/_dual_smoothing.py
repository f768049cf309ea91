"""Training, votes and certificates of whole images and of two sub-images, and what is claimed."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import special

from experiments._claims import Claim, Side
from experiments._protocol import Row
from experiments.robustness import _smoothing
from experiments.robustness._smoothing import Data, Network
from jaxopt_robust import robustness


def make_training(dual: bool, config: Any) -> Callable[[dict[str, jax.Array], Data], Any]:
  """``train(setting, data) -> parameters``, those of sub-images with an axis of two."""
  model = Network(config.network, config.hidden)

  def train(setting: dict[str, jax.Array], data: Data) -> Any:
    if dual:
      keys = jax.random.split(data.key)
      params = jax.vmap(lambda key: model.init(key, data.x[:1]))(keys)
      method = functools.partial(robustness.dual_smoothing_loss, fill=config.fill)
    else:
      params = model.init(data.key, data.x[:1])
      method = robustness.gaussian_augmentation_loss
    loss = lambda params, x, y, key: method(model.apply, params, x, y, key, sigma=setting["sigma"])
    return _smoothing.train(loss, params, setting["rate"], data, config.steps)

  return train


def make_voting(dual: bool, config: Any, num_samples: int, num_selection: int) -> Any:
  """``vote(params, sigma, data, key) -> votes`` of the test images, one after another."""
  model = Network(config.network, config.hidden)

  def vote(params: Any, sigma: jax.Array, data: Data, key: jax.Array) -> robustness.SmoothingVotes:
    if dual:
      fill = {"fill": config.fill}
      method = functools.partial(robustness.dual_smoothing_votes, model.apply, params, **fill)
    else:
      fn = functools.partial(model.apply, params)
      method = functools.partial(robustness.smoothing_votes, fn)
    numbers = {"num_samples": num_samples, "num_selection": num_selection}
    one = lambda pair: method(*pair, sigma=sigma, **numbers)
    return jax.lax.map(one, (data.x_test, jax.random.split(key, len(data.x_test))))

  return vote


def certify(
  votes: Any, dual: bool, sigma: float, num_samples: int, alpha: float
) -> robustness.Certificate:
  """Certificates of votes [seeds, images, ...]."""
  function = robustness.certify_dual_votes if dual else robustness.certify_votes
  votes = robustness.SmoothingVotes(*map(jnp.asarray, votes))
  return function(votes, num_samples=num_samples, sigma=sigma, alpha=alpha)


def levels(sigmas: tuple[float, ...], dual: bool) -> np.ndarray:
  """Noise levels; with those of sub-images the largest radii are the same, but for alpha / 2."""
  return np.float32(sigmas) / np.float32(np.sqrt(2) if dual else 1)


def name_of(dual: bool, sigma: float) -> str:
  """The method with its noise level, as in the record."""
  level = float(levels((sigma,), dual)[0])
  return f"{'two sub-images' if dual else 'whole image'}, {level:.3g}"


def root_rule(found: robustness.Certificate, sigma: float) -> np.ndarray:
  """Radii by the root of the sum of squares of single radii, which is no certificate."""
  singles = sigma * np.maximum(special.ndtri(np.asarray(found.lower, np.float64)), 0)
  radius = np.sqrt(np.sum(singles**2, axis=-1))
  return np.where(np.asarray(found.label) < 0, 0, radius)


def summary(
  proof: robustness.Certificate, labels: np.ndarray, dual: bool, sigma: float, radii: Any
) -> dict[str, Any]:
  """What the record keeps of certificates [seeds, images], a number a seed each."""
  cell = _smoothing.summary(proof, labels, radii)
  if dual:
    radius = root_rule(proof, sigma)
    correct = np.asarray(proof.label) == labels
    cell["root_rule"] = np.mean(radius * correct, axis=1)
    beyond = radius > np.asarray(proof.radius) * (1 + 1e-6)
    cell["beyond"] = np.mean(beyond & correct, axis=1)
  return cell


def pair_of(found: dict[str, Any], sigma: float, key: str) -> tuple[Side, Side]:
  """Two sub-images, and the whole image, of one largest radius."""
  names = name_of(True, sigma), name_of(False, sigma)
  ours, base = (Side(name, found[name][key]) for name in names)
  return ours, base


def pair_at(found: dict[str, Any], sigma: float, place: int) -> tuple[Side, Side]:
  """Certified accuracies of both at one of the radii."""
  ours, base = pair_of(found, sigma, "curve")
  pick = lambda side: Side(side.name, np.asarray(side.values, float)[:, place])
  return pick(ours), pick(base)


def paper_claims(found: dict[str, Any], config: Any) -> list[Claim]:
  """More certified at matched largest radii; the invalid rule."""
  made = []
  for i, sigma in enumerate(config.sigmas):
    where = f"largest radius of noise {sigma:g} on whole images"
    text = f"Two sub-images have the larger average certified radius, {where}."
    sides = pair_of(found, sigma, "acr")
    made.append(Claim(f"acr_{i}", text, "paper", "average certified radius", *sides))
    text = f"Two sub-images answer at most one point fewer images rightly at radius 0, {where}."
    sides = pair_at(found, sigma, config.radii.index(0.0))
    made.append(Claim(f"clean_{i}", text, "paper", "certified accuracy", *sides, margin=-0.01))
    # Half of the largest radius that so many draws can certify: where the curves fall.
    cap = float(robustness.largest_smoothed_radius(config.num_samples, sigma=sigma))
    half = max(r for r in config.radii if r <= 0.6 * cap)
    text = f"Two sub-images certify more images at radius {half:g}, {where}."
    sides = pair_at(found, sigma, config.radii.index(half))
    made.append(Claim(f"middle_{i}", text, "paper", "certified accuracy", *sides))
  name = name_of(True, config.sigmas[0])
  cell = found[name]
  text = "The root of the sum of squared single radii, which is no certificate, claims more."
  sides = Side("root of squares", cell["root_rule"]), Side("theorem", cell["acr"])
  made.append(Claim("root_rule", text, "theory", f"mean claimed radius, {name}", *sides))
  return made


def rows_of(found: dict[str, Any], sigma: float, radii: Sequence[float], where: str) -> list[Row]:
  """ACR, certified accuracy and abstentions of both at one largest radius."""
  rows = [Row(f"average certified radius, {where}", *pair_of(found, sigma, "acr"))]
  for i, radius in enumerate(radii):
    rows.append(Row(f"certified accuracy at {radius:g}, {where}", *pair_at(found, sigma, i)))
  sides = pair_of(found, sigma, "abstained")
  rows.append(Row(f"share abstained, {where}", *sides, better="lower"))
  name = name_of(True, sigma)
  text = f"mean radius by the root of squares (no certificate), {where}"
  cell = found[name]
  rows.append(Row(text, Side(name, cell["root_rule"]), Side("theorem", cell["acr"])))
  text = f"share of images right and claimed beyond the theorem, {where}"
  rows.append(Row(text, Side(name, cell["beyond"]), None, better="lower"))
  return rows
