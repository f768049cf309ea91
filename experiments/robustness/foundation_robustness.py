"""FMR: classifiers graded on images made against each of them, which an oracle still recognises."""

import dataclasses
from typing import Any

import jax
import numpy as np

from experiments import _figures
from experiments._claims import Claim
from experiments._protocol import Paper, Progress, Row, Settings, Size, new_figure
from experiments._training import train_all
from experiments.robustness._fmr import draw_grades, grade_claims, grade_table
from experiments.robustness._generated import MODELS, make_grading, prepare

PAPER = Paper(
  title="Foundation model-oriented robustness: robust image model evaluation with pretrained "
  "models",
  authors="Zhang, Liu, Li, Xie, Kim and Wang",
  year=2024,
  claim="Accuracy on images that a generator makes to hurt a model, while an ensemble of stronger "
  "models still gives them their label, relative to the accuracy on the images as they are, tells "
  "robust models from others: adversarially trained ones score higher.",
  section="Experiments on MNIST, CIFAR-10 and ImageNet",
  url="https://arxiv.org/abs/2308.10632",
)
KEYS = ("FMR", "SA", "PA", "valid", "oracle", "distance", "PGD", "PGD, oracle")


@dataclasses.dataclass(frozen=True)
class Config(Settings):
  """Settings.

  Rates are the best of .0003, .001, .003, .01 and .03, and of .1 and .3 for the models, on held-out
  training images of development seeds 0 to 3: by squared error for the generator, by accuracy for
  the oracle, by accuracy under the attack of its own training, if any, for each model.

  Attributes:
    sizes: training, validation and test images.
    hidden: width of the models and the generator; the oracle has twice as much.
    latent: size of the latent code.
    members: networks of the oracle.
    latent_noise: standard deviation of the noise on latent codes that the oracle is trained on.
    budgets: steps in latent space, 0 first.
    stepsize: their length.
    rates: of generator, oracle, and the models linear, standard, noise and adversarial.
    epochs: passes over the training set, of all networks.
    batch: batch size.
    train_steps: attack steps in training.
    test_steps: steps of plain PGD, each a quarter of its radius.
  """

  sizes: tuple[int, ...] = (997, 300, 500)
  hidden: int = 128
  latent: int = 24
  members: int = 3
  latent_noise: float = 0.5
  budgets: tuple[int, ...] = (0, 10, 50)
  stepsize: float = 0.1
  rates: tuple[float, ...] = (0.01, 0.01, 0.1, 0.01, 0.03, 0.03)
  epochs: int = 60
  batch: int = 64
  train_steps: int = 7
  test_steps: int = 20


SIZES = {
  "toy": Size(
    Config(
      seeds=2, sizes=(192, 40, 40), hidden=8, latent=4, members=1, budgets=(0, 2), epochs=12,
      rates=(0.03,) * 6, train_steps=1, test_steps=2,
    ),
    "A few updates of tiny networks.",
  ),
  "desk": Size(
    Config(),
    "8 x 8 digits, an autoencoder and an ensemble of perceptrons instead of photographs, VQGAN and "
    "foundation models; steps and budgets are ours.",
  ),
  "large": Size(
    Config(hidden=512, members=8, epochs=200, train_steps=20, test_steps=100),
    "8 x 8 digits, an autoencoder and an ensemble of perceptrons instead of photographs, VQGAN and "
    "foundation models; steps and budgets are ours. Wider networks than at desk size.",
  ),
}  # fmt: skip


def run(config: Config, progress: Progress) -> dict[str, Any]:
  """Trains all networks, generates images against each model with every budget, grades."""
  data, setting, params = prepare(config, progress)
  metrics: dict[str, Any] = {"grades": {}, "examples": {}}
  for budget in config.budgets:
    grade = make_grading(config, budget)

    def of_seed(_: Any, data: Any, grade: Any = grade) -> Any:
      data, params = data
      return jax.vmap(lambda one: grade(one, data))((setting, params))

    found = train_all(
      progress, of_seed, np.zeros(1, np.float32), (data, params), name=f"budget {budget}"
    )
    metrics["grades"][f"{budget}"] = {
      name: {key: found[key][:, 0, i] for key in KEYS} for i, name in enumerate(MODELS)
    }
    metrics["examples"][f"{budget}"] = {
      name: np.round(found["example"][0, 0, i], 2) for i, name in enumerate(MODELS)
    }
  return metrics


def claims(metrics: dict[str, Any], config: Config) -> list[Claim]:
  """The order of the models, what holds by construction, and no steps as a control."""
  higher = {"noise": "training on noise gives"}
  return grade_claims(metrics["grades"], config.budgets, list(MODELS), near=3.0, higher=higher)


def table(metrics: dict[str, Any], config: Config) -> list[Row]:
  """FMR beside the standard model, and accuracy under plain PGD that goes as far."""
  return grade_table(metrics["grades"], "digits")


def figure(record: dict[str, Any]) -> Any:
  """FMR by model and budget, accuracy beside plain PGD, and images of the first seed."""
  metrics, (fig, axes) = record["metrics"], new_figure(1, 3, width=4.8)
  last = draw_grades(axes, metrics["grades"], list(MODELS))
  images = {"no steps": metrics["examples"]["0"]["standard"], **metrics["examples"][last]}
  pictures = {name: np.reshape(v, (-1, 8, 8)) for name, v in images.items()}
  _figures.images(axes[2], pictures, title=f"Made against each model, {last} steps")
  return fig
