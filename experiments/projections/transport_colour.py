"""The colours of one photograph moved to another by sparse and by entropic optimal transport."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import datasets
from experiments._claims import Claim, Side
from experiments._protocol import Paper, Progress, Row, Settings, Size, new_figure
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
DEMO = True


@dataclasses.dataclass(frozen=True)
class Config(Settings):
  """Settings. A seed draws the start of k-means and the pixels that are compared.

  Attributes:
    source: a colour picture bundled with scikit-image, the one that is recoloured.
    target: the one whose colours are wanted.
    width: columns of the pictures after averaging blocks.
    colours: size of each palette.
    quadratic: falling strengths of the quadratic penalty for masses relative to a palette's mean
      weight, in units of the mean cost.
    entropic: falling strengths of the entropic penalty, in units of the mean cost.
    samples: pixels of which the distance between two pictures' colours is computed.
  """

  source: str = "coffee"
  target: str = "rocket"
  width: int = 144
  colours: int = 128
  quadratic: tuple[float, ...] = (100.0, 30.0, 10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01)
  entropic: tuple[float, ...] = (3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001)
  samples: int = 500


SIZES = {
  "toy": Size(
    Config(seeds=2, width=48, colours=16, quadratic=(10.0, 1.0), entropic=(1.0, 0.1), samples=60),
    "Palettes of 16 colours, two strengths.",
  ),
  "desk": Size(Config(), "Other pictures, palettes of 128 colours instead of 4096."),
  "large": Size(
    Config(width=288, colours=256, samples=2000), "Other pictures, palettes of 256 colours."
  ),
}


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


def recolour(picture: np.ndarray, index: np.ndarray, moved: np.ndarray) -> np.ndarray:
  """Each pixel moves as the centre of its cluster does, and stays within the screen's colours."""
  from skimage.color import lab2rgb, rgb2lab

  return rgb2lab(np.clip(lab2rgb(picture + moved[index].reshape(picture.shape)), 0, 1))


def match_moments(picture: np.ndarray, other: np.ndarray) -> np.ndarray:
  """Mean and deviation of each channel of CIELAB (Reinhard et al. use another Lab space)."""
  scaled = (picture - picture.mean((0, 1))) / picture.std((0, 1))
  return scaled * other.std((0, 1)) + other.mean((0, 1))


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
_LOWEST = 1e-6  # smallest mass, relative to the mean, that the drawing of a plan shows


@jax.enable_x64(True)
def run(config: Config, progress: Progress) -> dict[str, Any]:
  """Computes the plans of both penalties along their strengths, and recolours the picture."""
  source, target = (load_picture(n, config.width) for n in (config.source, config.target))
  strengths = {"quadratic": config.quadratic, "entropic": config.entropic}
  metrics: dict[str, Any] = {n: {"above_exact": [], "positive": []} for n in PENALTIES}
  distances: dict[str, list[float]] = {n: [] for n in (*RESULTS, "floor")}
  drawing: dict[str, Any] = {}
  for seed in progress.track(config.seed_numbers(), "palettes"):
    centres, a, index = palette(source, config.colours, seed)
    others, b, other_index = palette(target, config.colours, seed)
    cost = ((centres[:, None] - others[None]) ** 2).sum(-1)
    cost = cost / cost.mean()
    plans = {"exact": exact_plan(cost, a, b)}
    best = float((plans["exact"] * cost).sum())
    for name, solve in PENALTIES.items():
      above, positive = [], []
      for strength in strengths[name]:
        args = [jnp.asarray(v, jnp.float64) for v in (cost, strength, a, b)]
        plan = np.asarray(progress.clock.call(solve, *args, name=name))
        above.append(float((plan * cost).sum()) / best - 1)
        positive.append(float(np.mean(plan > 0)))
      plans[name] = plan  # of the smallest strength
      metrics[name]["above_exact"].append(above)
      metrics[name]["positive"].append(positive)

    moved = {n: p @ others / a[:, None] - centres for n, p in plans.items()}
    pictures = {n: recolour(source, index, m) for n, m in moved.items()}
    pictures |= {"unchanged": source, "histograms": match_histograms(source, target)}
    pictures["moments"] = recolour(match_moments(source, target), index, np.zeros_like(centres))
    rng = np.random.default_rng(seed)
    wanted = target.reshape(-1, 3)[rng.choice(len(other_index), config.samples, replace=False)]
    chosen = rng.choice(len(index), config.samples, replace=False)
    for name in RESULTS:
      distances[name].append(colour_distance(pictures[name].reshape(-1, 3)[chosen], wanted))
    again = rng.choice(len(other_index), config.samples, replace=False)
    distances["floor"].append(colour_distance(target.reshape(-1, 3)[again], wanted))
    drawing = drawing or {
      "shapes": [source.shape[:2], target.shape[:2]],
      "source": _bytes(index),
      "target": _bytes(other_index),
      "target_palette": _colours(others),
      "palettes": {n: _colours(_means(pictures[n], index, config.colours)) for n in RESULTS},
      "plans": {n: _digits(plans[n] * config.colours) for n in PENALTIES},
    }
  return metrics | {"distance": distances, "drawing": drawing}


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


def _last(metrics: dict[str, Any], name: str, key: str) -> Side:
  """A quantity at the smallest strength, a number a seed."""
  return Side(name, np.asarray(metrics[name][key], float)[:, -1])


def claims(metrics: dict[str, Any], config: Config) -> list[Claim]:
  """Sparsity, the limit of small penalties, and colours beside the two classical matchings."""
  made = [
    Claim(
      "sparse", "At the smallest strengths the quadratic plan is sparser than the entropic one.",
      "paper", "positive entries of the plan", *(_last(metrics, n, "positive") for n in PENALTIES),
      better="lower",
    )
  ]  # fmt: skip
  for name in PENALTIES:
    made.append(
      Claim(
        f"{name}_limit", f"As the {name} penalty goes to zero the cost of its plan tends to the "
        "optimum: at the smallest strength it is less than 1 % above it.", "theory",
        "cost above the optimum", _last(metrics, name, "above_exact"), Side("1 %", 0.01),
        better="lower",
      )
    )  # fmt: skip
    for other, what in (("moments", "moments"), ("histograms", "the histograms of channels")):
      sides = (Side(n, metrics["distance"][n]) for n in (name, other))
      text = (
        f"Colours moved by the {name} plan come nearer to the target's than by matching {what}."
      )
      made.append(
        Claim(f"{name}_{other}", text, "paper", "distance of colours", *sides, better="lower")
      )
  return made


def table(metrics: dict[str, Any], config: Config) -> list[Row]:
  """Distances of colours, and cost and density of the plans at the smallest strengths."""
  distance = metrics["distance"]
  side = lambda name: Side(name, distance[name])
  what = "Wasserstein distance of the colours to the target's (CIELAB)"
  rows = [
    Row(what, side(n), side("histograms"), better="lower")
    for n in (*RESULTS, "floor")
    if n != "histograms"
  ]
  for name in PENALTIES:
    for key, what in (("above_exact", "cost above the optimum"), ("positive", "positive entries")):
      rows.append(Row(what, _last(metrics, name, key), None, better="lower"))
  return rows


def figure(record: dict[str, Any]) -> Any:
  """The recoloured pictures, the two plans, and cost and density of the plans."""
  metrics, settings = record["metrics"], record["settings"]
  drawing, distance = metrics["drawing"], metrics["distance"]
  fig, axes = new_figure(3, 4, width=3.1, height=2.6)
  axes[1].imshow(_picture(drawing["target"], drawing["target_palette"], drawing["shapes"][1]))
  axes[1].set_title(f"target: {settings['target']}", fontsize=9)
  for place, name in zip((0, 2, 3, 4, 5, 6), RESULTS, strict=True):
    axes[place].imshow(_picture(drawing["source"], drawing["palettes"][name], drawing["shapes"][0]))
    axes[place].set_title(f"{name}: {np.mean(distance[name]):.1f} from the target", fontsize=9)
    axes[place].set_axis_off()
  axes[1].set_axis_off()
  axes[7].barh(range(len(distance)), [np.mean(v) for v in distance.values()])
  axes[7].set_yticks(range(len(distance)), list(distance), fontsize=8)
  axes[7].invert_yaxis()
  axes[7].set_title("Wasserstein distance to the target", fontsize=9)
  for ax, name in zip(axes[8:10], PENALTIES, strict=True):
    levels = np.array([[int(c, 16) for c in row] for row in drawing["plans"][name]])
    ax.imshow(levels, cmap="magma_r", aspect="auto")
    ax.grid(visible=False)
    ax.set(xlabel="target colour, dark to light", ylabel="source colour", title=f"{name} plan")
    above, positive = (100 * np.mean(v, axis=0) for v in metrics[name].values())
    axes[10].loglog(settings[name], above, "o-", ms=4, label=name)
    axes[11].semilogx(above, positive, "o-", ms=4, label=name)
  axes[10].set(xlabel="strength (units of mean cost)", ylabel="cost above the optimum (%)")
  axes[11].set(xlabel="cost above the optimum (%)", ylabel="positive entries (%)", ylim=(0, 105))
  for ax in axes[10:]:
    ax.legend(fontsize=8)
  return fig
