"""Wrong labels and foreign pictures among clothes: detectors, and what training makes of them."""

import dataclasses
from typing import Any

from experiments._claims import Claim
from experiments._protocol import Progress, Row, Size
from experiments._training import train_all, train_seeds
from experiments.robustness import web_label_noise

PAPER = web_label_noise.PAPER


@dataclasses.dataclass(frozen=True)
class Config(web_label_noise.Config):
  """Settings. A seed draws clothes, textures, labels, weights, minibatches and views.

  Attributes:
    digits: training images of known classes, clothes.
    shrink: pixels a side whose mean is a pixel of the clothes.
    contrast_rate: its learning rate at the start of a cosine: of .001, .003 and .01 the best by the
      first AUC of the plane on early features, development seeds 0 and 1.
    rates: learning rate of each method, at the start of a cosine: of .01, .03, .1, .3 and (where .3
      was best) 1 the best by accuracy on the validation images of development seed 0.
  """

  data: str = "fashion_mnist"
  network: str = "small cnn"
  digits: int = 2000
  textures: int = 1500
  validation: int = 1000
  shrink: int = 2
  contrast_steps: int = 1000
  contrast_rate: float = 3e-3
  rates: tuple[float, ...] = (0.1, 0.3, 0.3, 0.3, 0.3)


OURS = (
  "Fashion-MNIST of 14 x 14 pixels among patches of six photographs instead of web images; three "
  "convolutions; wrong labels made; shifts, gains and noise as views; no test-time augmentation; "
  "one network (PLS-LSA)."
)
SIZES = {
  "toy": Size(
    Config(
      data="digits", network="mlp", seeds=2, digits=100, textures=60, validation=20,
      contrast_steps=4, batch=32, steps=6, warm_up=2, period=2, ridge=0.1,
    ),
    "Digits of 8 x 8 pixels, a perceptron, six updates.",
  ),
  "desk": Size(Config(), OURS),
  "large": Size(
    Config(
      network="cnn", shrink=1, digits=20_000, textures=15_000, validation=5000,
      contrast_steps=20_000, batch=256, steps=20_000, warm_up=2000, period=1000,
    ),
    "Fashion-MNIST among patches of six photographs instead of web images; three convolutions; "
    "wrong labels made; one network (PLS-LSA). For an accelerator.",
  ),
}  # fmt: skip


def run(config: Config, progress: Progress) -> dict[str, Any]:
  """The detection table at every level, then the training at the last one."""
  # Perceptrons, as in the toy, are faster in a batch; its programs are then those of the digits.
  train = train_all if config.network == "mlp" else train_seeds
  return web_label_noise.run(config, progress, train)


def _clothes(text: str) -> str:
  return text.replace("digits", "clothes")


def claims(metrics: dict, config: Config) -> list[Claim]:
  """Those of the digits, of clothes."""
  made = web_label_noise.claims(metrics, config)
  return [c._replace(text=_clothes(c.text), metric=_clothes(c.metric)) for c in made]


def table(metrics: dict, config: Config) -> list[Row]:
  """Every detector at every level beside small losses, then accuracies and shares flagged."""
  rows = web_label_noise.table(metrics, config)
  return [row._replace(metric=_clothes(row.metric)) for row in rows]


def figure(record: dict) -> Any:
  """ROC of the detectors, what is kept and caught, accuracies."""
  fig = web_label_noise.figure(record)
  fig.axes[0].set_xlabel(_clothes(fig.axes[0].get_xlabel()))
  return fig
