"""Energy-based models: the compositional likelihood (MECO) against noise-contrastive losses."""

import dataclasses
import functools
import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import _figures, _pictures, _statistics
from experiments._claims import Claim, Side
from experiments._protocol import RECORDED_TWICE, Paper, Progress, Row, Settings, Size, new_figure
from experiments._training import grid, schedule, stack, train_all
from experiments.compositional import _energy
from jaxopt_robust import transforms

PAPER = Paper(
  title="Learning unnormalized statistical models via compositional optimization",
  authors="Jiang, Qin, Wu, Chen, Yang and Zhang",
  year=2023,
  claim="Where data and noise are far apart the noise-contrastive loss is flat and the likelihood "
  "is not. Its compositional estimate (MECO) converges faster to the mean of a distant Gaussian "
  "than noise contrast, also with normalised gradients, and fits densities better.",
  section="Section 4.1 (Gaussian mean) and 4.2 (density estimation)",
  url="https://arxiv.org/abs/2306.07485",
)
GAUSSIAN = ("MECO", "NCE", "NCE, averaged gradients", "NCE, normalised", "eNCE, normalised")
PLANE = ("MECO", "batch estimate", "NCE", "eNCE")
TABLES = ("moons", "breast_cancer", "digits")
FAR = 8.0  # distances from here on are those of the claims
_PIXELS = 80  # of the picture of the learned density


@dataclasses.dataclass(frozen=True)
class Config(Settings):
  """Settings.

  Attributes:
    distances: means of the data, which have unit variance.
    spreads: standard deviations of the noise, one a distance; its mean is 0.
    gaussian_batch: data and noise examples a step, for the Gaussian problem.
    gaussian_steps: steps of each method.
    gaussian_methods: which of ``GAUSSIAN`` are compared.
    gaussian_rates: step sizes; chosen by the median error on as many other random streams.
    tables: "moons" (synthetic), or the first two principal components of a bundled table.
    plane_methods: which of ``PLANE`` are compared.
    hidden: width of the two hidden layers of the energy.
    plane_batch: data and noise examples a step, in the plane.
    plane_steps: steps of each method.
    plane_rates: Adam's step sizes; chosen by the exact likelihood of validation rows.
    noise_scale: standard deviation of the noise in the plane; that of the data is 1.
    rate: weight of a batch in the moving average of the partition function.
    momentum: weight of a gradient in the moving average of gradients.
    grid: points along each axis of the quadrature.
    reported: curves hold this many points.
  """

  distances: tuple[float, ...] = (4.0, 8.0, 16.0)
  spreads: tuple[float, ...] = (3.0, 4.0, 8.0)
  gaussian_batch: int = 64
  gaussian_steps: int = 2000
  gaussian_methods: tuple[str, ...] = GAUSSIAN
  gaussian_rates: tuple[float, ...] = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
  tables: tuple[str, ...] = TABLES
  plane_methods: tuple[str, ...] = PLANE
  hidden: int = 64
  plane_batch: int = 64
  plane_steps: int = 2000
  plane_rates: tuple[float, ...] = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
  noise_scale: float = 1.5
  rate: float = 0.1
  momentum: float = 0.1
  grid: int = 150
  reported: int = 5

  def __post_init__(self) -> None:
    if len(self.distances) != len(self.spreads) or max(self.distances) < FAR:
      raise ValueError(f"distances and spreads must match, and one distance reach {FAR:g}.")
    for name, some, known in (
      ("tables", self.tables, TABLES),
      ("gaussian_methods", self.gaussian_methods, GAUSSIAN),
      ("plane_methods", self.plane_methods, PLANE),
    ):
      if not set(some) <= set(known) or (name != "tables" and not {"MECO", "NCE"} <= set(some)):
        raise ValueError(f"{name} must be among {', '.join(known)}, with MECO and NCE; got {some}.")
    if self.gaussian_steps % self.reported or self.plane_steps % self.reported:
      raise ValueError("reported must divide the numbers of steps.")


SIZES = {
  "toy": Size(
    Config(
      seeds=2, distances=(8.0,), spreads=(4.0,), gaussian_steps=200,
      gaussian_methods=("MECO", "NCE"), gaussian_rates=(0.1,), tables=("moons",),
      plane_methods=("MECO", "NCE"), plane_rates=(1e-2,), hidden=16, plane_steps=40, grid=40,
    ),
    "One distance and one table, few steps.",
  ),
  "desk": Size(Config(), "The Gaussian mean, and densities in the plane; no images."),
  "large": Size(
    Config(seeds=20, plane_batch=256, plane_steps=20000, hidden=128),
    "The Gaussian mean, and densities in the plane; no images.",
  ),
}  # fmt: skip


def make_gaussian(method: str, config: Config) -> Callable[..., jax.Array]:
  """``train(problem, key)``: |mean - distance| after every part of the steps."""

  def train(problem: dict[str, jax.Array], key: jax.Array) -> jax.Array:
    log_density = lambda params, x: params["mean"] * x - 0.5 * x * x
    log_noise = lambda x: jax.scipy.stats.norm.logpdf(x, 0.0, problem["spread"])
    if "normalised" in method:
      first = transforms.normalized_gradient()
    else:
      first = transforms.ema_first(1.0 if method == "NCE" else config.momentum)

    def draw(number: jax.Array) -> tuple[jax.Array, jax.Array]:
      keys, size = jax.random.split(jax.random.fold_in(key, number)), (config.gaussian_batch,)
      data = problem["distance"] + jax.random.normal(keys[0], size)
      return data, problem["spread"] * jax.random.normal(keys[1], size)

    # log Z is right at the start
    params = {"mean": jnp.zeros(()), "log_z": jnp.asarray(_energy.LOG_ROOT, jnp.float32)}
    return _energy.descend(
      _energy.make_oracle(method, log_density, log_noise, config.rate),
      optax.chain(first, optax.scale_by_learning_rate(problem["learning_rate"])),
      params,
      draw,
      jnp.arange(config.gaussian_steps).reshape(config.reported, -1),
      lambda params: jnp.abs(params["mean"] - problem["distance"]),
    )[1]

  return train


def run_gaussian(config: Config, progress: Progress, choices: list[Any]) -> dict[str, Any]:
  """Every method at every distance with every step size, on streams for tuning and for the end."""
  seeds = [jax.random.key(seed) for seed in config.seed_numbers()]
  keys = jnp.stack([jax.random.fold_in(key, part) for part in (0, 1) for key in seeds])
  rates = config.gaussian_rates
  axes, shape = grid(place=range(len(config.distances)), learning_rate=rates)
  problems = {
    "distance": np.float32(config.distances)[axes["place"]],
    "spread": np.float32(config.spreads)[axes["place"]],
    "learning_rate": axes["learning_rate"],
  }
  found: dict[str, Any] = {}
  for method in progress.track(config.gaussian_methods, "Gaussian mean"):
    trainer = make_gaussian(method, config)
    error = train_all(progress, trainer, problems, keys, name=f"gaussian {method}")
    error = np.where(np.isfinite(error), error, np.inf)  # a run that diverged is the worst
    error = error.reshape(2, config.seeds, *shape, config.reported)
    found[method] = {}
    for i, distance in enumerate(config.distances):
      score = np.median(error[0, :, i, :, -1], axis=0)
      name = f"step size of {method}, R = {distance:g}"
      choices.append(_statistics.choose(name, rates, score, better="lower"))
      best = error[1, :, i, rates.index(choices[-1].chosen)]
      found[method][f"{distance:g}"] = {"error": best[:, -1], "curve": np.median(best, axis=0)}
  return found


def make_plane(method: str, config: Config) -> Callable[..., tuple[Any, Any]]:
  """``train(learning_rate, split)``: final weights, and exact NLLs after every part."""
  net = _energy.make_net(config.hidden)
  points, area = _energy.make_grid(config.grid)
  log_density = functools.partial(_energy.log_density, net)
  log_noise = lambda x: _energy.log_normal(x, config.noise_scale)
  oracle = _energy.make_oracle(method, log_density, log_noise, config.rate)

  def train(learning_rate: jax.Array, split: _energy.Split) -> tuple[Any, Any]:
    factor = schedule("cosine", config.plane_steps)

    def draw(given: Any) -> tuple[jax.Array, jax.Array]:
      rows, number = given
      normal = jax.random.normal(jax.random.fold_in(split.key, number), (len(rows), 2))
      return split.x["train"][rows], config.noise_scale * normal

    def exact(params: Any) -> dict[str, jax.Array]:
      log_z = jax.nn.logsumexp(log_density(params, points)) + area
      fit = lambda name: jnp.mean(log_density(params, split.x[name]), where=split.where[name])
      return {name: log_z - fit(name) for name in ("val", "test")}

    shape = (config.reported, config.plane_steps // config.reported)
    inputs = (split.rows.reshape(*shape, -1), jnp.arange(config.plane_steps).reshape(shape))
    optimizer = optax.adam(lambda count: learning_rate * factor(count))
    return _energy.descend(oracle, optimizer, split.params, draw, inputs, exact)

  return train


def run_plane(config: Config, progress: Progress, choices: list[Any]) -> dict[str, Any]:
  """Every method on every table and split, with every step size."""
  places = [(table, seed) for table in config.tables for seed in config.seed_numbers()]
  points = {place: _energy.load_points(*place) for place in places}
  sizes = {n: max(len(v[n]) for v in points.values()) for n in ("train", "val", "test")}
  splits = stack([_energy.load_split(points[place], place[1], config, sizes) for place in places])
  rates, net = config.plane_rates, _energy.make_net(config.hidden)
  picture = _energy.make_grid(_PIXELS, 3.0)[0]
  found: dict[str, Any] = {table: {} for table in config.tables}
  for method in progress.track(config.plane_methods, "densities in the plane"):
    params, nll = train_all(
      progress, make_plane(method, config), np.float32(rates), splits, name=f"plane {method}"
    )
    shape = (len(config.tables), config.seeds, len(rates), config.reported)
    nll = {k: np.where(np.isfinite(v), v, np.inf).reshape(shape) for k, v in nll.items()}
    for i, table in enumerate(config.tables):
      name, score = f"step size of {method}, {table}", nll["val"][i, ..., -1].mean(0)
      choices.append(_statistics.choose(name, rates, score, better="lower"))
      best = rates.index(choices[-1].chosen)
      entry = {"nll": nll["test"][i, :, best, -1], "curve": nll["test"][i, :, best]}
      if (i, method) == (0, "MECO"):  # what the first split learned, for the figure
        log_p = _energy.log_density(
          net, jax.tree.map(operator.itemgetter((0, best)), params), picture
        )
        density = np.exp(np.asarray(log_p - jnp.max(log_p)))
        entry["picture"] = _pictures.encode(density.reshape(_PIXELS, _PIXELS))
      found[table][method] = entry
  for table in config.tables:
    pairs = [_energy.references(points[table, seed]) for seed in config.seed_numbers()]
    found[table] |= {name: {"nll": [pair[name] for pair in pairs]} for name in pairs[0]}
  return found


def run(config: Config, progress: Progress) -> dict[str, Any]:
  """The landscape in float64, the Gaussian mean, the densities in the plane."""
  with jax.enable_x64(True):
    metrics: dict[str, Any] = {"landscape": _energy.landscape((4.0, 8.0, 16.0))}
  choices: list[_statistics.Choice] = []
  metrics["gaussian"] = run_gaussian(config, progress, choices)
  metrics["plane"] = run_plane(config, progress, choices)
  return {**metrics, "choices": choices}


def claims(metrics: dict[str, Any], config: Config) -> list[Claim]:
  """The mean of distant Gaussians beside each noise-contrastive method; densities in the plane."""
  made = []
  for distance in (f"{d:g}" for d in config.distances if d >= FAR):
    error = {n: Side(n, v[distance]["error"]) for n, v in metrics["gaussian"].items()}
    for name in config.gaussian_methods[1:]:
      made.append(
        Claim(
          f"gaussian_{distance}_{name.replace(', ', '_').replace(' ', '_')}",
          f"At R = {distance} MECO ends closer to the mean than {name}, both with their best step.",
          "paper", f"|mean - {distance}| after {config.gaussian_steps} steps",
          error["MECO"], error[name], better="lower", scale="ratio", statistic="median",
        )
      )  # fmt: skip
  nll = {
    name: np.mean([metrics["plane"][table][name]["nll"] for table in config.tables], axis=0)
    for name in ("MECO", "NCE")
  }
  text = "In the plane MECO has a lower test negative log-likelihood than noise contrast."
  metric, sides = "test NLL, mean over the tables", [Side(name, v) for name, v in nll.items()]
  return [*made, Claim("plane", text, "paper", metric, *sides, better="lower")]


def table(metrics: dict[str, Any], config: Config) -> list[Row]:
  """MECO beside each other method, at each distance and on each table."""
  rows = []
  for distance, spread in zip(config.distances, config.spreads, strict=True):
    error = {n: Side(n, v[f"{distance:g}"]["error"]) for n, v in metrics["gaussian"].items()}
    metric = f"|mean - {distance:g}|, noise N(0, {spread:g}^2)"
    rows += [Row(metric, error["MECO"], side, "lower") for n, side in error.items() if n != "MECO"]
  for name in config.tables:
    nll = {n: Side(n, v["nll"]) for n, v in metrics["plane"][name].items()}
    metric = f"test NLL, {name}, two components, exact by quadrature"
    rows += [Row(metric, nll["MECO"], side, "lower") for n, side in nll.items() if n != "MECO"]
  return [row._replace(note=RECORDED_TWICE) for row in rows]


def figure(record: dict[str, Any]) -> Any:
  """The landscape, convergence to the mean, test likelihoods in the plane, a learned density."""
  metrics, settings = record["metrics"], record["settings"]
  fig, axes = new_figure(2, 3, width=4.2)
  for number, (distance, entry) in enumerate(metrics["landscape"].items()):
    place = np.asarray(entry["mean"]) / float(distance)
    axes[0].semilogy(place, entry["mle"], "--", color=f"C{number}")
    axes[0].semilogy(place, entry["nce"], color=f"C{number}", label=f"R = {distance}")
  title = "Exact gradients: NCE (line), likelihood (dashes)"
  axes[0].set(xlabel="mean / R", ylabel="gradient norm", ylim=(1e-12, 50), title=title)
  axes[0].legend()
  steps = np.arange(1, settings["reported"] + 1) / settings["reported"] * settings["gaussian_steps"]
  for ax, distance in zip(axes[1:4], metrics["gaussian"]["MECO"], strict=False):
    lines = {name: v[distance]["curve"] for name, v in metrics["gaussian"].items()}
    title = f"Mean of a Gaussian at R = {distance}, median"
    _figures.curves(ax, lines, steps, xlabel="step", ylabel="|mean - R|", title=title, log="y")
  groups = {t: {n: v["nll"] for n, v in found.items()} for t, found in metrics["plane"].items()}
  _figures.dots(axes[4], groups, ylabel="test NLL", title="In the plane, 95 % intervals")
  name, found = next(iter(metrics["plane"].items()))
  picture = _pictures.decode(found["MECO"]["picture"], _PIXELS)
  axes[5].imshow(np.sqrt(picture), extent=(-3, 3, -3, 3), origin="lower", cmap="magma")
  axes[5].set_title(f"Learned by MECO: {name}")
  axes[5].grid(visible=False)
  return fig
