"""FMR on crops of photographs, with a network trained on ImageNet as the oracle, and graded too."""

import dataclasses
from typing import Any

import jax
import numpy as np

from experiments import _figures
from experiments._claims import Claim
from experiments._protocol import Progress, Row, Settings, Size, new_figure
from experiments.robustness import _crops, _graded
from experiments.robustness._fmr import draw_grades, grade_claims, grade_table
from experiments.robustness._graded import HEAD, ORACLE, TRAINED
from experiments.robustness.foundation_robustness import PAPER as _PAPER

PAPER = _PAPER
MODELS = (*TRAINED, HEAD)


@dataclasses.dataclass(frozen=True)
class Config(Settings):
  """Settings. A seed draws strips of photographs, crops, and initial weights.

  Rates are the best of .003, .01, .03 and, where that was the best, .1 (of the linear model of
  .0001 to .1) by accuracy on the validation crops of development seeds 0 to 3, under the attack of
  a model's own training, if any; ``c`` of .1, 1, 10 and 100 the least within half a point of the
  best.

  Attributes:
    data: "efficientnet", EfficientNet-Lite0, or "random", a small random network.
    size: width of the crops.
    strips: upright strips of a photograph for training, validation and test.
    crops: of a photograph, for training, for the oracle's heads, for validation, for test.
    patch: width of the generator's patches.
    components: numbers in the code of a patch, of 3 * patch**2.
    latent_noise: standard deviation of the noise on codes that the oracle's heads are trained on.
    budgets: steps in latent space, 0 first.
    stepsize: their length, the same in pixels.
    widths: of the layers of the models.
    kernels: of the layers of the models.
    rates: of the models linear, standard, noise and adversarial.
    c: of the logistic regressions, of the oracle's heads and of EfficientNet's own.
    epochs: passes over the training set.
    batch: batch size.
    train_steps: attack steps in training.
    test_steps: steps of plain PGD, each a quarter of its radius.
    chunk: crops whose features are computed at a time.
  """

  data: str = "efficientnet"
  size: int = 48
  strips: tuple[int, ...] = (5, 1, 2)
  crops: tuple[int, ...] = (40, 60, 10, 2)
  patch: int = 8
  components: int = 48
  latent_noise: float = 0.05
  budgets: tuple[int, ...] = (0, 10, 50)
  stepsize: float = 0.1
  widths: tuple[int, ...] = (24, 48, 48)
  kernels: tuple[int, ...] = (4, 2, 2)
  rates: tuple[float, ...] = (0.003, 0.03, 0.01, 0.01)
  c: tuple[float, ...] = (0.1, 1.0)
  epochs: int = 20
  batch: int = 48
  train_steps: int = 3
  test_steps: int = 10
  chunk: int = 120


OURS = (
  "Crops of scikit-image's photographs (which is it?) instead of ImageNet, principal components "
  "of patches instead of VQGAN, heads at three depths of EfficientNet-Lite0 instead of an ensemble "
  "of foundation models; steps and budgets are ours."
)
SIZES = {
  "toy": Size(
    Config(
      seeds=2, data="random", size=16, crops=(8, 4, 2, 2), components=24, budgets=(0, 2),
      widths=(8,), kernels=(8,), epochs=2, batch=24, train_steps=1, test_steps=2, chunk=96,
    ),
    OURS + " Smaller crops and a small random network.",
  ),
  "desk": Size(Config(), OURS),
  "large": Size(
    Config(
      seeds=20, size=64, strips=(3, 1, 2), crops=(200, 300, 50, 40), components=64, epochs=100,
      train_steps=10, test_steps=50,
    ),
    OURS + " More crops.",
  ),
}  # fmt: skip


def prepare(config: Config, grading: _graded.Grading) -> tuple[list[_crops.Seed], list[Any]]:
  """All seeds with the oracle's heads, and EfficientNet's own heads."""
  images, seeds, own = _crops.photographs(), [], []
  for number in config.seed_numbers():
    seed = _crops.draw(number, images, config)
    depths = grading.pooled(grading.noisy(seed))
    y = np.tile(seed.y["oracle"], 2)
    heads = [grading.head(x, y, config.c[0]) for x in depths]
    own.append(grading.head(grading.pooled(seed.x["train"])[-1], seed.y["train"], config.c[1]))
    seeds.append(seed._replace(heads=heads))
  return seeds, own


def run(config: Config, progress: Progress) -> dict[str, Any]:
  """Fits heads, trains models, generates crops against each with every budget, grades."""
  net = _crops.network(config)
  grading = _graded.Grading(net, config, progress.clock)
  seeds, own = prepare(config, grading)
  rates = [(rate,) for rate in config.rates]
  trained = _graded.train_models(config, seeds, rates, progress)
  flat = _graded.trained_scores(len(own[0].intercepts), config)
  deep = _graded.network_scores(net)
  grades: dict[str, Any] = {f"{budget}": {} for budget in config.budgets}
  examples: dict[str, Any] = {}

  def keep(i: int, name: str, budget: int, grade: dict[str, Any]) -> None:
    picture = grade.pop("example")
    shown = {config.budgets[0]: ("standard",), config.budgets[-1]: ("standard", "adversarial")}
    if not i and name in shown.get(budget, ()):
      examples.setdefault(f"{budget}", {})[name] = _small(picture)
    kept = grades[f"{budget}"].setdefault(name, {key: [] for key in grade})
    for key, value in grade.items():
      kept[key].append(float(value))

  for i, seed in enumerate(progress.track(seeds, "seeds")):
    for budget in config.budgets:
      for name in TRAINED:
        params = jax.tree.map(lambda p, i=i: p[i, 0], trained[name][0])
        keep(i, name, budget, grading(flat, (np.asarray(TRAINED[name][0]), params), seed, budget))
      for name in (HEAD, ORACLE) if budget == config.budgets[1] else (HEAD,):
        given = np.asarray(name == ORACLE), net.params, seed.heads, own[i]
        keep(i, name, budget, grading(deep, given, seed, budget))
  return {"grades": grades, "examples": examples}


def _small(x: Any) -> list[str]:
  """Some crops with half as many pixels a side, bytes as hexadecimal numbers."""
  x = np.asarray(x)[::7]
  x = x.reshape(len(x), x.shape[1] // 2, 2, x.shape[2] // 2, 2, 3).mean((2, 4))
  return [picture.tobytes().hex() for picture in np.rint(255 * x).astype(np.uint8)]


def _picture(text: str) -> np.ndarray:
  """A crop of ``_small``, float[side, side, 3] in [0, 1]."""
  pixels = np.frombuffer(bytes.fromhex(text), np.uint8)
  side = round((len(pixels) / 3) ** 0.5)
  return pixels.reshape(side, side, 3) / 255


def claims(metrics: dict[str, Any], config: Config) -> list[Claim]:
  """Those of the digits; EfficientNet's features, and the oracle graded by itself.

  Valid crops are the easier ones, so that FMR without steps may exceed 100 a little.
  """
  higher = {"noise": "training on noise gives", HEAD: "features of EfficientNet give"}
  return grade_claims(
    metrics["grades"], config.budgets, MODELS, near=5.0, higher=higher, itself=ORACLE
  )


def table(metrics: dict[str, Any], config: Config) -> list[Row]:
  """FMR beside the standard model, and accuracy under plain PGD that goes as far."""
  return grade_table(metrics["grades"], "photographs")


def figure(record: dict[str, Any]) -> Any:
  """FMR by model and budget, accuracy beside plain PGD, and images of the first seed."""
  metrics, (fig, axes) = record["metrics"], new_figure(1, 3, width=4.8)
  last = draw_grades(axes, metrics["grades"], MODELS)
  images = {"no steps": metrics["examples"]["0"]["standard"], **metrics["examples"][last]}
  pictures = {name: [_picture(text) for text in texts] for name, texts in images.items()}
  _figures.images(axes[2], pictures, title=f"Made against each model, {last} steps")
  return fig
