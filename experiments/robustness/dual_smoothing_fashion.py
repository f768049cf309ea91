"""Certificates from two sub-images beside those from whole images, on Fashion-MNIST."""

import dataclasses
from typing import Any

import jax
import numpy as np

from experiments import _amendments, _figures
from experiments._claims import Claim, Side
from experiments._protocol import Paper, Progress, Row, Settings, Size, new_figure
from experiments._training import train_each
from experiments.robustness import _smoothing, dual_smoothing
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
from experiments.robustness._smoothing import Data

PAPER = Paper(
  title=dual_smoothing.PAPER.title,
  authors=dual_smoothing.PAPER.authors,
  year=dual_smoothing.PAPER.year,
  claim="On images whose neighbouring pixels say much the same, two sub-images of half the "
  "dimension, at a noise level divided by the root of two, certify more images at the same largest "
  "radius than the whole image does; averaged to a few pixels they do not.",
  section=dual_smoothing.PAPER.section,
  url=dual_smoothing.PAPER.url,
)
AMENDED = _amendments.DUAL_SMOOTHING_FASHION
FULL, COARSE = "all pixels", "averaged pixels"
PARTS = 2  # votes are cast in two parts, so that sub-images with half of them can be certified


@dataclasses.dataclass(frozen=True)
class Config(Settings):
  """Settings.

  Attributes:
    data: "fashion_mnist"; the toy has digits, which need no download.
    network: "cnn" or "mlp"; averaged images always get the latter.
    hidden: widths of the hidden layers, after the convolutions.
    coarse_hidden: the same for averaged images.
    coarse: side of the blocks of pixels that are averaged for the control without redundancy.
    train: training images.
    test: test images that are certified.
    held_out: training images that stand in for test images while settings are chosen.
    steps: updates of Adam, as many as the time allows: 1500 instead of 600 raised the average
      radius by .012 for whole images and by .001 for sub-images.
    batch: batch size.
    sigmas: noise levels of smoothing whole images; two sub-images get them divided by sqrt(2).
    coarse_sigma: the same of averaged images: what averaging makes of the noise of one of the
      sigmas, divided by the side of the blocks.
    rate: learning rate for whole images, decayed by a cosine: of .001, .003, .01 and .03 the best
      by average certified radius on 100 held-out training images of development seeds 0 and 1.
    dual_rate: the same for sub-images, chosen likewise.
    coarse_rates: of both methods on averaged images, likewise, .0003 among them.
    fill: what sub-images get in addition, as in ``robustness.sub_image``: "block_max", which the
      authors use, was worse by .0006 on the same images.
    num_samples: votes behind a bound, of whole images and of each sub-image; even.
    num_selection: votes that name the class; even.
    alpha: one minus the confidence of a certificate.
    radii: at which certified accuracy is recorded.
  """

  data: str = "fashion_mnist"
  network: str = "cnn"
  hidden: tuple[int, ...] = (64,)
  coarse_hidden: tuple[int, ...] = (128, 128)
  coarse: int = 4
  train: int = 10_000
  test: int = 80
  held_out: int = 0
  steps: int = 800
  batch: int = 128
  sigmas: tuple[float, ...] = (0.25, 0.5, 1.0)
  coarse_sigma: float = 0.125
  rate: float = 3e-3
  dual_rate: float = 3e-3
  coarse_rates: tuple[float, ...] = (1e-3, 3e-3)
  fill: str = "zero"
  num_samples: int = 800
  num_selection: int = 80
  alpha: float = 0.001
  radii: tuple[float, ...] = (
    0.0, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 1.0, 1.25, 1.5, 2.0,
  )  # fmt: skip


OURS = "Fashion-MNIST and a small convolutional network instead of CIFAR-10 and a ResNet"
SIZES = {
  "toy": Size(
    Config(
      seeds=2, data="digits", hidden=(8,), coarse_hidden=(8,), coarse=2, train=200, test=6,
      steps=10, batch=32, sigmas=(0.5,), coarse_sigma=0.25,
      num_samples=40, num_selection=10, radii=(0.0, 0.5),
    ),
    "8 x 8 digits, 6 images, 40 draws, 10 updates.",
  ),
  "desk": Size(
    Config(), OURS + "; 10000 images for training, 80 for testing, 800 draws instead of 100000."
  ),
  "large": Size(
    Config(
      hidden=(128,), train=60_000, test=1000, steps=20_000, batch=256,
      num_samples=10_000, num_selection=100,
    ),
    OURS + "; 10000 draws.",
  ),
}  # fmt: skip


def make_run(dual: bool, config: Any) -> Any:
  """``run(setting, data) -> votes`` with a leading axis of parts: training and voting."""
  train = make_training(dual, config)
  numbers = [n // PARTS for n in (config.num_samples, config.num_selection)]
  vote = make_voting(dual, config, *numbers)

  def run(setting: dict[str, jax.Array], data: Data) -> Any:
    params = train(setting, data)
    keys = jax.random.split(data.key, PARTS)
    return jax.lax.map(lambda key: vote(params, setting["sigma"], data, key), keys)

  return run


def averaged(data: Data, side: int) -> Data:
  """Each image as the means of its blocks of side x side pixels."""
  coarse = lambda x: x.reshape(len(x), x.shape[1] // side, side, -1, side, 1).mean((2, 4))
  return data._replace(x=coarse(data.x), x_test=coarse(data.x_test))


def run_images(
  data: list[Data],
  sigmas: tuple[float, ...],
  rates: tuple[float, ...],
  config: Any,
  progress: Progress,
) -> dict[str, Any]:
  """Both methods at all noise levels on images of one kind."""
  found, labels = {}, np.stack([one.y_test for one in data])
  for dual, rate in progress.track(list(zip((False, True), rates, strict=True)), "methods"):
    scale = levels(sigmas, dual)
    settings = {"sigma": scale, "rate": np.full(len(scale), rate, np.float32)}
    name = f"{'dual' if dual else 'whole'}, {data[0].x.shape[2]} pixels"
    votes = train_each(progress, make_run(dual, config), settings, data, name=name)
    for i, sigma in enumerate(sigmas):
      level = float(scale[i])
      first, both = ([f(v[:, i]) for v in votes] for f in (lambda v: v[:, 0], lambda v: v.sum(1)))
      proof = certify(both, dual, level, config.num_samples, config.alpha)
      cell = summary(proof, labels, dual, level, config.radii)
      proof = certify(first, dual, level, config.num_samples // PARTS, config.alpha)
      cell["half"] = _smoothing.summary(proof, labels, config.radii)
      found[name_of(dual, sigma)] = cell
  return found


def run(config: Config, progress: Progress) -> dict[str, Any]:
  """All pixels, and images without redundancy."""
  data = [_smoothing.load_split(seed, config, 1) for seed in config.seed_numbers()]
  progress.message("all pixels")
  rates = config.rate, config.dual_rate
  full = run_images(data, config.sigmas, rates, config, progress)
  progress.message("averaged pixels")
  data = [averaged(one, config.coarse) for one in data]
  small = dataclasses.replace(config, network="mlp", hidden=config.coarse_hidden)
  coarse = run_images(data, (config.coarse_sigma,), config.coarse_rates, small, progress)
  return {FULL: full, COARSE: coarse}


def gain(found: dict[str, Any], sigma: float) -> Any:
  """Average radius of two sub-images over that of the whole image, a number a seed."""
  ours, base = (np.asarray(side.values, float) for side in pair_of(found, sigma, "acr"))
  return ours / np.where(base == 0, np.nan, base)


def claims(metrics: dict[str, Any], config: Config) -> list[Claim]:
  """More certified at matched largest radii; nothing gained without redundancy."""
  full, coarse = metrics[FULL], metrics[COARSE]
  made = paper_claims(full, config)
  metric, sides = "average certified radius", pair_of(coarse, config.coarse_sigma, "acr")
  text = (
    "On averaged images, without redundancy, two sub-images differ by less than a tenth in ACR."
  )
  made.append(Claim("coarse", text, "control", metric, *sides, margin=1.1, scale="ratio"))
  text = "On averaged images two sub-images certify less than the whole image."
  made.append(Claim("coarse_less", text, "expected", metric, *sides, better="lower"))
  text = "Two sub-images gain more, as a ratio, on all pixels than on averaged ones."
  sigma = config.coarse * config.coarse_sigma  # averaging would make coarse_sigma of it
  name = f"two sub-images over whole image, noise {sigma:g}"
  ours = Side(name, gain(full, sigma))
  base = Side(f"the same, averaged, {config.coarse_sigma:g}", gain(coarse, config.coarse_sigma))
  made.append(Claim("redundancy", text, "expected", "ratio of average certified radii", ours, base))
  return made


def table(metrics: dict[str, Any], config: Config) -> list[Row]:
  """ACR and certified accuracy of both methods, at matched largest radii."""
  rows = []
  kinds = {FULL: config.sigmas, COARSE: (config.coarse_sigma,)}
  for kind, sigmas in kinds.items():
    for sigma in sigmas:
      found, where = metrics[kind], f"{config.data}, {kind}, sigma {sigma:g}"
      rows += rows_of(found, sigma, config.radii, where)
      ours, base = name_of(True, sigma), name_of(False, sigma)
      side = Side(f"{ours}, half the votes each", found[ours]["half"]["acr"])
      base = Side(base, found[base]["acr"])
      rows.append(Row(f"average certified radius, as many votes in all, {where}", side, base))
  return rows


def figure(record: dict[str, Any]) -> Any:
  """Certified accuracy over the radius; by how much two sub-images have more; ratios of radii."""
  metrics, settings = record["metrics"], record["settings"]
  sigmas, radii = settings["sigmas"], settings["radii"]
  fig, axes = new_figure(1, 3, width=5.0)
  lines, gains = {}, {}
  for sigma in sigmas:
    names = name_of(False, sigma), name_of(True, sigma)
    whole, dual = (np.asarray(metrics[FULL][name]["curve"], float) for name in names)
    lines |= {names[0]: whole.mean(0), names[1]: dual.mean(0)}
    more = {f"{r:g}": dual[:, i] - whole[:, i] for i, r in enumerate(radii)}
    gains[f"noise {sigma:g}"] = {r: v for r, v in more.items() if np.any(v)}
  _figures.curves(axes[0], lines, radii, xlabel="l2 radius", ylabel="certified accuracy",
                  title="All pixels, mean over seeds")  # fmt: skip
  _figures.dots(axes[1], gains, ylabel="difference in certified accuracy",
                title="Two sub-images over the whole image")  # fmt: skip
  axes[1].set_xlabel("l2 radius")
  axes[1].margins(y=0.3)  # room for the legend
  ratios = {f"all pixels, {sigma:g}": gain(metrics[FULL], sigma) for sigma in sigmas}
  sigma = settings["coarse_sigma"]
  ratios[f"averaged, {sigma:g}"] = gain(metrics[COARSE], sigma)
  _figures.dots(axes[2], {"": ratios}, ylabel="ratio of average certified radii",
                title="Two sub-images over the whole image")  # fmt: skip
  for ax, level in ((axes[1], 0), (axes[2], 1)):
    ax.axhline(level, color="0.6", lw=0.8, zorder=0)
  return fig
