"""Certificates from two sub-images beside those from whole images, with and without redundancy."""

import dataclasses
from typing import Any

import numpy as np

from experiments import _figures
from experiments._claims import Claim
from experiments._protocol import Paper, Progress, Row, Settings, Size, new_figure
from experiments._training import stack, train_all
from experiments.robustness import _smoothing
from experiments.robustness._dual_smoothing import (
  certify,
  levels,
  make_training,
  make_voting,
  name_of,
  pair_of,
  paper_claims,
  rows_of,
  summary,
)

PAPER = Paper(
  title="Mitigating the curse of dimensionality for certified robustness via dual randomized "
  "smoothing",
  authors="Xia, Yu, Jiang and Ding",
  year=2024,
  claim="Smoothing two sub-images of half the dimension each, at a noise level divided by the root "
  "of two, certifies more images at the same largest radius than smoothing the whole image.",
  section="Experiments on CIFAR-10 and ImageNet",
  url="https://arxiv.org/abs/2404.09586",
)
REPEATED, RAW = "pixels repeated", "raw pixels"  # 16 x 16 and 8 x 8 digits


@dataclasses.dataclass(frozen=True)
class Config(Settings):
  """Settings.

  Attributes:
    data: "digits" or "fashion_mnist".
    network: "mlp" or "cnn".
    hidden: widths of the hidden layers.
    repeat: how often each pixel is repeated in both directions, for redundancy; 1 for images that
      have their own. With more than 1 the raw images are a control.
    train: training images.
    test: test images that are certified.
    held_out: training images that stand in for test images while settings are chosen.
    steps: updates of Adam.
    batch: batch size.
    sigmas: noise levels of smoothing whole images; two sub-images get them divided by sqrt(2).
    raw_sigma: the same of the raw images.
    rate: learning rate for whole images, decayed by a cosine: of .0003, .001, .003, .01 and .03 the
      best by average certified radius on 200 held-out training images of development seeds 0 to 2.
    dual_rate: the same for sub-images, chosen likewise.
    fill: what sub-images get in addition, as in ``robustness.sub_image``: "block_max", which the
      authors use, was worse by .015 to .05 on the same development seeds.
    num_samples: votes behind a bound, of whole images and of each sub-image.
    num_selection: votes that name the class.
    alpha: one minus the confidence of a certificate.
    radii: at which certified accuracy is recorded.
  """

  data: str = "digits"
  network: str = "mlp"
  hidden: tuple[int, ...] = (128, 128)
  repeat: int = 2
  train: int = 1297
  test: int = 300
  held_out: int = 0
  steps: int = 1500
  batch: int = 128
  sigmas: tuple[float, ...] = (0.5, 0.707)
  raw_sigma: float = 0.25
  rate: float = 1e-2
  dual_rate: float = 1e-2
  fill: str = "zero"
  num_samples: int = 1000
  num_selection: int = 100
  alpha: float = 0.001
  radii: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)


OURS = "Digits, each pixel repeated 2 x 2 times, and a perceptron instead of CIFAR-10 and a ResNet"
SIZES = {
  "toy": Size(
    Config(
      seeds=2, hidden=(16,), train=200, test=10, steps=20, batch=32, sigmas=(0.5,), num_samples=50,
      num_selection=10, radii=(0.0, 0.5),
    ),
    OURS + "; 10 images, 50 draws, 20 updates.",
  ),
  "desk": Size(Config(), OURS + "; 300 images, 1000 draws instead of 100000."),
  "large": Size(
    Config(
      data="fashion_mnist", network="cnn", hidden=(128,), repeat=1, train=60_000, test=1000,
      steps=20_000, batch=256, sigmas=(0.25, 0.5), num_samples=10_000,
    ),
    "Fashion-MNIST and a network of two convolutions instead of CIFAR-10 and a ResNet.",
  ),
}  # fmt: skip


def make_run(dual: bool, config: Config) -> Any:
  """``run(setting, data) -> votes`` of the test images: training and voting at one noise level."""
  train = make_training(dual, config)
  vote = make_voting(dual, config, config.num_samples, config.num_selection)
  return lambda setting, data: vote(train(setting, data), setting["sigma"], data, data.key)


def run_images(repeat: int, sigmas: tuple[float, ...], config: Config, progress: Progress) -> Any:
  """Both methods at all noise levels on images of one kind."""
  data = stack([_smoothing.load_split(seed, config, repeat) for seed in config.seed_numbers()])
  found = {}
  for dual in progress.track((False, True), "methods"):
    rate = config.dual_rate if dual else config.rate
    scale = levels(sigmas, dual)
    settings = {"sigma": scale, "rate": np.full(len(scale), rate, np.float32)}
    name = f"{'dual' if dual else 'whole'}, {data.x.shape[2]} pixels"
    votes = train_all(progress, make_run(dual, config), settings, data, name=name)
    for i, sigma in enumerate(sigmas):
      level = float(scale[i])
      proof = certify([v[:, i] for v in votes], dual, level, config.num_samples, config.alpha)
      cell = summary(proof, np.asarray(data.y_test), dual, level, config.radii)
      found[name_of(dual, sigma)] = cell
  return found


def run(config: Config, progress: Progress) -> dict[str, Any]:
  """Images with redundancy; with repeated pixels also the raw ones."""
  metrics = {kind_of(config.repeat): run_images(config.repeat, config.sigmas, config, progress)}
  if config.repeat > 1:
    metrics[RAW] = run_images(1, (config.raw_sigma,), config, progress)
  return metrics


def kind_of(repeat: int) -> str:
  """Kind of the images that the method is for."""
  return REPEATED if repeat > 1 else RAW


def claims(metrics: dict[str, Any], config: Config) -> list[Claim]:
  """More certified at matched largest radii; nothing gained without redundancy."""
  made = paper_claims(metrics[kind_of(config.repeat)], config)
  if config.repeat > 1:
    text = "On raw digits, without redundancy, two sub-images differ by less than .04 in ACR."
    metric, sides = "average certified radius", pair_of(metrics[RAW], config.raw_sigma, "acr")
    made.append(Claim("raw", text, "control", metric, *sides, margin=0.04))
    text = "On raw digits two sub-images certify less than the whole image."
    made.append(Claim("raw_less", text, "expected", metric, *sides, better="lower"))
  return made


def table(metrics: dict[str, Any], config: Config) -> list[Row]:
  """ACR and certified accuracy of both methods, at matched largest radii."""
  rows = []
  kinds = {RAW: (config.raw_sigma,), kind_of(config.repeat): config.sigmas}
  for kind, found in metrics.items():
    for sigma in kinds[kind]:
      where = f"{config.data}, {kind}, sigma {sigma:g}"
      rows += rows_of(found, sigma, config.radii, where)
  return rows


def figure(record: dict[str, Any]) -> Any:
  """Certified accuracy over the radius, a panel a noise level, and the average radii."""
  metrics, settings = record["metrics"], record["settings"]
  panels = [(kind_of(settings["repeat"]), s) for s in settings["sigmas"]]
  panels += [(RAW, settings["raw_sigma"])] if settings["repeat"] > 1 else []
  fig, axes = new_figure(1, len(panels) + 1, width=4.2)
  for ax, (kind, sigma) in zip(axes, panels, strict=False):
    lines = {name: metrics[kind][name]["curve"] for name in
             (name_of(False, sigma), name_of(True, sigma))}  # fmt: skip
    _figures.curves(ax, lines, settings["radii"], xlabel="l2 radius", ylabel="certified accuracy",
                    title=f"{kind}, noise {sigma:g} on whole images")  # fmt: skip
  short = lambda kind, sigma: f"{kind.replace('pixels', '').strip()}, {sigma:g}"
  groups = {
    title: {short(kind, s): metrics[kind][name_of(dual, s)]["acr"] for kind, s in panels}
    for title, dual in (("whole image", False), ("two sub-images", True))
  }
  _figures.dots(axes[-1], groups, ylabel="average certified radius", title="Average")
  return fig
