"""The colours of one photograph moved to another by sparse and by entropic optimal transport."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import datasets
from experiments._earlier import Claim, Outcome, Row
from experiments._protocol import Paper, Progress, new_figure
from jaxopt_robust import projections

PAPER = Paper(
  title="Smooth and sparse optimal transport",
  authors="Blondel, Seguy and Rolet",
  year=2018,
  claim="A quadratic penalty makes transport plans that are sparse and tend to the optimal one as "
  "the penalty goes to zero, where the entropic penalty (Cuturi, 2013) makes dense ones. Colours "
  "mapped by either plan come closer to the other picture than by matching moments (Reinhard et "
  "al., 2001) or the histogram of each channel.",
  section="Section 6 (colour transfer), on other pictures",
  url="https://arxiv.org/abs/1710.06276",
)


@dataclasses.dataclass(frozen=True)
class Config:
  """Settings.

  Attributes:
    seeds: number of draws of the palettes' k-means starts and of the sampled pixels.
    source: a colour picture bundled with scikit-image, the one that is recoloured.
    target: the one whose colours are wanted.
    width: columns of the pictures after averaging blocks.
    colours: size of each palette.
    quadratic: strengths of the quadratic penalty for masses relative to a palette's mean weight,
      in units of the mean cost.
    entropic: strengths of the entropic penalty, in units of the mean cost.
    samples: pixels of which the distance between two pictures' colours is computed.
    pixels: pixels of each picture that are assigned one to one.
    assignment: strengths of the quadratic penalty for that, in units of the mean cost.
  """

  seeds: int = 3
  source: str = "coffee"
  target: str = "rocket"
  width: int = 144
  colours: int = 128
  quadratic: tuple[float, ...] = (100.0, 30.0, 10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01)
  entropic: tuple[float, ...] = (3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001)
  samples: int = 500
  pixels: int = 64
  assignment: tuple[float, ...] = (1.0, 1e-2, 1e-4, 1e-6, 1e-8)


SIZES = {
  "toy": Config(seeds=1, width=48, colours=16, quadratic=(10.0, 1.0), entropic=(1.0, 0.1),
                samples=60, pixels=16),
  "desk": Config(),
  "large": Config(seeds=10, width=288, colours=256, samples=2000, pixels=256),
}  # fmt: skip


def load_picture(name: str, width: int) -> np.ndarray:
  """A picture in CIELAB, averaged over square blocks."""
  from skimage.color import rgb2lab

  image = np.asarray(datasets.load(name)["image"], np.float64)
  block = image.shape[1] // width
  rows = image.shape[0] // block
  image = image[: rows * block, : width * block]
  return rgb2lab(image.reshape(rows, block, width, block, 3).mean((1, 3)))


def palette(picture: np.ndarray, colours: int, seed: int) -> tuple[np.ndarray, ...]:
  """Centres by k-means from dark to light, their weights, and the index of each pixel."""
  from sklearn.cluster import KMeans

  pixels = picture.reshape(-1, 3)
  model = KMeans(colours, n_init=1, max_iter=50, random_state=seed).fit(pixels)
  order = np.argsort(model.cluster_centers_[:, 0])
  index = np.argsort(order)[model.labels_]
  weights = np.bincount(index, minlength=colours) / len(pixels)
  return model.cluster_centers_[order], weights, index


def exact_plan(cost: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
  """The optimal plan by linear programming."""
  import scipy.optimize
  import scipy.sparse as sparse

  rows = sparse.kron(sparse.eye(len(a)), np.ones((1, len(b))))
  columns = sparse.kron(np.ones((1, len(a))), sparse.eye(len(b)))
  constraints = sparse.vstack([rows, columns]).tocsr()
  out = scipy.optimize.linprog(cost.ravel(), A_eq=constraints, b_eq=np.r_[a, b], method="highs")
  return out.x.reshape(cost.shape)


@jax.jit
def quadratic_plan(cost: jax.Array, strength: Any, a: jax.Array, b: jax.Array) -> jax.Array:
  """argmin_P <cost, P> + gamma/2 ||P||^2 with gamma = strength * len(a)."""
  return projections.projection_transport(-cost / (strength * len(a)), (a, b))


@jax.jit
def entropic_plan(cost: jax.Array, strength: Any, a: jax.Array, b: jax.Array) -> jax.Array:
  """argmin_P <cost, P> + strength sum_ij P_ij (log P_ij - 1)."""
  return projections.kl_projection_transport(-cost / strength, (a, b))


@jax.jit
def soft_assignment(cost: jax.Array, strength: Any) -> jax.Array:
  """argmin_P <cost, P> + strength/2 ||P||^2 over doubly stochastic P."""
  return projections.projection_birkhoff(-cost / strength)


def assignment(first: np.ndarray, second: np.ndarray, strengths: tuple, clock: Any) -> dict:
  """How far the soft assignments of two sets of colours are from the optimal one."""
  from scipy.optimize import linear_sum_assignment

  cost = ((first[:, None] - second[None]) ** 2).sum(-1)
  cost = cost / cost.mean()
  best = np.zeros_like(cost)
  best[linear_sum_assignment(cost)] = 1
  above, difference = [], []
  for strength in strengths:
    args = (jnp.asarray(cost), jnp.asarray(strength))
    plan = np.asarray(clock.call(soft_assignment, *args, name="assignment"))
    above.append(float((plan * cost).sum() / (best * cost).sum()) - 1)
    difference.append(float(np.abs(plan - best).max()))
  return {
    "above_exact": np.asarray(above).round(12),
    "difference": np.asarray(difference).round(12),
  }


def recolour(picture: np.ndarray, index: np.ndarray, moved: np.ndarray) -> np.ndarray:
  """Each pixel moves as the centre of its cluster does, and stays within the screen's colours."""
  from skimage.color import lab2rgb, rgb2lab

  return rgb2lab(np.clip(lab2rgb(picture + moved[index].reshape(picture.shape)), 0, 1))


def match_moments(picture: np.ndarray, other: np.ndarray) -> np.ndarray:
  """Mean and deviation of each channel of CIELAB (Reinhard et al. use another Lab space)."""
  axes = (0, 1)
  scaled = (picture - picture.mean(axes)) / picture.std(axes)
  return scaled * other.std(axes) + other.mean(axes)


def match_histograms(picture: np.ndarray, other: np.ndarray) -> np.ndarray:
  """The histogram of each channel of RGB."""
  from skimage import exposure
  from skimage.color import lab2rgb, rgb2lab

  return rgb2lab(exposure.match_histograms(lab2rgb(picture), lab2rgb(other), channel_axis=-1))


def colour_distance(first: np.ndarray, second: np.ndarray) -> float:
  """Wasserstein-2 distance of two samples of equal size, by the optimal assignment."""
  from scipy.optimize import linear_sum_assignment

  cost = ((first[:, None] - second[None]) ** 2).sum(-1)
  return float(np.sqrt(cost[linear_sum_assignment(cost)].mean()))


PENALTIES = {"quadratic": quadratic_plan, "entropic": entropic_plan}
RESULTS = ("unchanged", "moments", "histograms", "exact", "quadratic", "entropic")
_UNDERFLOW = 0.01  # entropic strength below which exp(-cost / strength) leaves float64
_LOWEST = 1e-6  # smallest mass, relative to the mean, that the drawing of a plan shows


def run(config: Config, progress: Progress) -> Outcome:
  """Computes the plans of both penalties along their strengths, and recolours the picture."""
  with jax.enable_x64(True):
    return _run(config, progress)


def _run(config: Config, progress: Progress) -> Outcome:
  source, target = (load_picture(n, config.width) for n in (config.source, config.target))
  keys = ("above_exact", "colours_a_row", "positive", "marginal_error")
  strengths = {"quadratic": config.quadratic, "entropic": config.entropic}
  metrics: dict[str, Any] = {n: {k: [] for k in keys} for n in PENALTIES}
  distances: dict[str, list[float]] = {n: [] for n in (*RESULTS, "floor")}
  drawing: dict[str, Any] = {}
  assigned: list[dict[str, Any]] = []
  for seed in progress.track(range(config.seeds), "palettes"):
    centres, a, index = palette(source, config.colours, seed)
    others, b, other_index = palette(target, config.colours, seed)
    cost = ((centres[:, None] - others[None]) ** 2).sum(-1)
    cost = cost / cost.mean()
    plans = {"exact": exact_plan(cost, a, b)}
    best = float((plans["exact"] * cost).sum())
    for name, solve in PENALTIES.items():
      found: dict[str, list[float]] = {k: [] for k in keys}
      for strength in strengths[name]:
        args = [jnp.asarray(v, jnp.float64) for v in (cost, strength, a, b)]
        plan = np.asarray(progress.clock.call(solve, *args, name=name))
        error = max(np.abs(plan.sum(1) - a).max(), np.abs(plan.sum(0) - b).max())
        found["above_exact"].append(float((plan * cost).sum()) / best - 1)
        found["colours_a_row"].append(float(1 / np.mean(((plan / a[:, None]) ** 2).sum(1))))
        found["positive"].append(float(np.mean(plan > 0)))
        found["marginal_error"].append(float(error * config.colours))
      plans[name] = plan  # of the smallest strength
      for key in keys:
        metrics[name][key].append(np.asarray(found[key]).round(12))

    moved = {n: p @ others / a[:, None] - centres for n, p in plans.items()}
    pictures = {n: recolour(source, index, m) for n, m in moved.items()}
    pictures |= {"unchanged": source, "moments": match_moments(source, target)}
    pictures["histograms"] = match_histograms(source, target)
    pictures["moments"] = recolour(pictures["moments"], index, np.zeros_like(centres))
    rng = np.random.default_rng(seed)
    wanted = target.reshape(-1, 3)[rng.choice(len(other_index), config.samples, replace=False)]
    chosen = rng.choice(len(index), config.samples, replace=False)
    pair = source.reshape(-1, 3)[chosen[: config.pixels]], wanted[: config.pixels]
    assigned.append(assignment(*pair, config.assignment, progress.clock))
    for name in RESULTS:
      distances[name].append(colour_distance(pictures[name].reshape(-1, 3)[chosen], wanted))
    again = rng.choice(len(other_index), config.samples, replace=False)
    distances["floor"].append(colour_distance(target.reshape(-1, 3)[again], wanted))
    if seed == 0:
      drawing = {
        "shapes": [source.shape[:2], target.shape[:2]],
        "source": _bytes(index),
        "target": _bytes(other_index),
        "target_palette": _colours(others),
        "palettes": {n: _colours(_means(pictures[n], index, config.colours)) for n in RESULTS},
        "plans": {n: _digits(plans[n] * config.colours) for n in PENALTIES},
      }
  for name in PENALTIES:
    metrics[name]["strengths"] = strengths[name]
  metrics["assignment"] = {k: [found[k] for found in assigned] for k in assigned[0]}
  metrics["assignment"]["strengths"] = config.assignment
  metrics |= {"distance": distances, "drawing": drawing}
  return Outcome(metrics, _table(metrics), _claims(metrics))


# Drawings: pictures as indices into their palettes, plans on a logarithmic scale of 16 levels.


def _bytes(index: np.ndarray) -> str:
  return index.astype(np.uint8).tobytes().hex()


def _means(picture: np.ndarray, index: np.ndarray, colours: int) -> np.ndarray:
  pixels = picture.reshape(-1, 3)
  return np.stack([pixels[index == k].mean(0) for k in range(colours)])


def _colours(lab: np.ndarray) -> str:
  from skimage.color import lab2rgb

  return (np.clip(lab2rgb(lab[None])[0], 0, 1) * 255).round().astype(np.uint8).tobytes().hex()


def _digits(plan: np.ndarray) -> list[str]:
  level = 1 - np.log10(np.clip(plan, _LOWEST, 1)) / np.log10(_LOWEST)
  return ["".join(f"{round(v * 15):x}" for v in row) for row in level]


def _picture(index: str, colours: str, shape: list[int]) -> np.ndarray:
  table = np.frombuffer(bytes.fromhex(colours), np.uint8).reshape(-1, 3)
  return table[np.frombuffer(bytes.fromhex(index), np.uint8)].reshape(*shape, 3)


def _mean(metrics: dict[str, Any], name: str, key: str) -> np.ndarray:
  return np.mean(metrics[name][key], axis=0)


def _table(metrics: dict[str, Any]) -> list[Row]:
  rows = []
  for name in PENALTIES:
    strength = min(metrics[name]["strengths"])
    values = metrics["distance"][name]
    rows.append(
      Row(
        f"{name} transport, strength {strength:g}",
        "Wasserstein distance of the colours to the target's, CIELAB units",
        float(np.mean(values)),
        baseline=float(np.mean(metrics["distance"]["histograms"])),
        baseline_name="histogram of each channel",
        better="lower",
        spread=float(np.std(values)),
        note=f"Two samples of the target itself: {np.mean(metrics['distance']['floor']):.2f}; "
        f"matching moments: {np.mean(metrics['distance']['moments']):.2f}; "
        f"exact plan: {np.mean(metrics['distance']['exact']):.2f}.",
      )
    )
    above = np.asarray(metrics[name]["above_exact"])[:, -1]
    rows.append(
      Row(
        f"{name} transport, strength {strength:g}",
        "transport cost above the exact optimum, %",
        float(100 * above.mean()),
        baseline=0.0,
        baseline_name="linear programming (HiGHS)",
        better="lower",
        spread=float(100 * above.std()),
        note=f"{_mean(metrics, name, 'positive')[-1]:.0%} of the plan's entries are positive.",
      )
    )
  soft = metrics["assignment"]
  rows.append(
    Row(
      f"projection on the Birkhoff polytope, strength {min(soft['strengths']):g}",
      "largest difference from the optimal assignment of single pixels",
      float(np.max([d[-1] for d in soft["difference"]])),
      baseline=0.0,
      baseline_name="linear_sum_assignment (SciPy)",
      better="lower",
      note="Its cost is above the optimum by "
      + ", ".join(
        f"{100 * v:.2g} % (strength {t:g})"
        for t, v in zip(soft["strengths"], _mean(metrics, "assignment", "above_exact"), strict=True)
      )
      + ".",
    )
  )
  return rows


def _claims(metrics: dict[str, Any]) -> list[Claim]:
  above = {n: np.asarray(metrics[n]["above_exact"]) for n in PENALTIES}
  distance = {n: float(np.mean(v)) for n, v in metrics["distance"].items()}
  positive = {n: _mean(metrics, n, "positive") for n in PENALTIES}
  errors = {n: float(np.max(metrics[n]["marginal_error"])) for n in PENALTIES}
  large = np.asarray(metrics["entropic"]["strengths"]) >= _UNDERFLOW
  return [
    Claim(
      "The cost falls towards the exact optimum with the strength of either penalty, to less than "
      "1 % above it.",
      all(bool(np.all(np.diff(v) < 0) and np.all(v[:, -1] < 0.01)) for v in above.values()),
      {n: float(v[:, -1].max()) for n, v in above.items()},
    ),
    Claim(
      "At the smallest strength a tenth of the quadratic plan's entries or less are positive; all "
      "of the entropic plan's are, until the first ones underflow below a strength of 0.01.",
      bool(positive["quadratic"][-1] < 0.1 and positive["entropic"][large].min() == 1),
      {n: float(v[-1]) for n, v in positive.items()},
    ),
    Claim(
      "At the smallest strength the projection on the Birkhoff polytope is the optimal assignment.",
      bool(np.max([d[-1] for d in metrics["assignment"]["difference"]]) < 1e-9),
      {"largest difference": float(np.max([d[-1] for d in metrics["assignment"]["difference"]]))},
    ),
    Claim(
      "Row and column sums are right to 1e-8 of the mean weight at every strength.",
      max(errors.values()) < 1e-8,
      errors,
    ),
    Claim(
      "Either plan brings the colours nearer to the target's than matching moments or the "
      "histograms of the channels.",
      max(distance["quadratic"], distance["entropic"])
      < min(distance["moments"], distance["histograms"]),
      distance,
    ),
  ]


def figure(record: dict[str, Any]) -> Any:
  """The pictures, the two plans, and the cost and density of the plans along the strengths."""
  metrics, settings = record["metrics"], record["settings"]
  drawing, distance = metrics["drawing"], metrics["distance"]
  fig, axes = new_figure(3, 4, width=3.1, height=2.6)
  titles = {
    "unchanged": f"source: {settings['source']}",
    "moments": "moments matched",
    "histograms": "histograms matched",
    "exact": "exact transport",
    "quadratic": f"quadratic, strength {min(settings['quadratic']):g}",
    "entropic": f"entropic, strength {min(settings['entropic']):g}",
  }
  shapes = drawing["shapes"]
  target = _picture(drawing["target"], drawing["target_palette"], shapes[1])
  axes[1].imshow(target)
  axes[1].set_title(f"target: {settings['target']}", fontsize=9)
  for place, name in zip((0, 2, 3, 4, 5, 6), RESULTS, strict=True):
    axes[place].imshow(_picture(drawing["source"], drawing["palettes"][name], shapes[0]))
    text = f"{titles[name]}\ncolours {np.mean(distance[name]):.1f} from the target's"
    axes[place].set_title(text, fontsize=9)
  for ax in axes[:7]:
    ax.set_axis_off()
  order = (*RESULTS, "floor")
  labels = ("unchanged", "moments", "histograms", "exact", "quadratic", "entropic", "target itself")
  axes[7].barh(range(len(order)), [np.mean(distance[n]) for n in order], color="C0")
  axes[7].set_yticks(range(len(order)), labels, fontsize=8)
  axes[7].invert_yaxis()
  axes[7].set_xlabel("distance of colours (CIELAB)", fontsize=8)
  axes[7].set_title("Wasserstein distance to the target", fontsize=9)
  for ax, name in zip(axes[8:10], PENALTIES, strict=True):
    levels = np.array([[int(c, 16) for c in row] for row in drawing["plans"][name]])
    ax.imshow(np.log10(_LOWEST) * (1 - levels / 15), cmap="magma_r", aspect="auto")
    ax.grid(False)
    share = np.mean(metrics[name]["positive"], axis=0)[-1]
    ax.set_title(f"{name} plan, {share:.0%} positive", fontsize=9)
    text = "target colour, dark to light\n(black: the mean weight, pale: below 1e-6 of it)"
    ax.set_xlabel(text, fontsize=8)
    ax.set_ylabel("source colour", fontsize=8)
  for name, marker in zip(PENALTIES, "os", strict=True):
    strengths = metrics[name]["strengths"]
    style = {"marker": marker, "ms": 4, "label": name}
    axes[10].loglog(strengths, 100 * np.mean(metrics[name]["above_exact"], axis=0), **style)
    above = 100 * np.mean(metrics[name]["above_exact"], axis=0)
    axes[11].semilogx(above, 100 * np.mean(metrics[name]["positive"], axis=0), **style)
  axes[10].set_xlabel("strength (units of mean cost)", fontsize=8)
  axes[10].set_ylabel("cost above the optimum (%)", fontsize=8)
  axes[10].set_title("Cost of the plans", fontsize=9)
  axes[11].set_xlabel("cost above the optimum (%)", fontsize=8)
  axes[11].set_ylabel("positive entries (%)", fontsize=8)
  axes[11].set_ylim(0, 105)
  axes[11].set_title("Density of the plans", fontsize=9)
  for ax in axes[10:]:
    ax.legend(fontsize=8)
  return fig
