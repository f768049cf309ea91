"""Segmentation with dense and empty images: adaptively weighted consistency (AdaWAC)."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import _pictures
from experiments._earlier import Claim, Outcome, Row
from experiments._protocol import Paper, Progress, new_figure
from experiments._training import batches, stack, train_all
from jaxopt_robust import compositional, losses

PAPER = Paper(
  title="Adaptively weighted data augmentation consistency regularization for robust optimization "
  "under concept shift",
  authors="Dong, Xie and Ward",
  year=2023,
  claim="The weights tell images rich in labels from empty ones without being told, and with "
  "darker empty images adapting them beats weighing both losses alike. The paper also reports "
  "AdaWAC ahead of plain training and of dropping images; here it is level with plain training, on "
  "independent images and on slices of volumes, and dropping images is at least as good.",
  section="Section 5 (Synapse and ACDC), tables 1 to 3",
  url="https://arxiv.org/abs/2210.01891",
)

# Method -> (rule for the weights, step size of the weights).
METHODS: dict[str, tuple[str, float]] = {
  "ERM": ("erm", 0.0),
  "reweighted": ("reweight", 1.0),
  "PM-DRO": ("entropic", 1.0),
  "AdaWAC 1": ("adawac", 1.0),
  "AdaWAC 8": ("adawac", 8.0),
  "consistency": ("adawac", 0.0),
  "trim by loss": ("trim_loss", 0.0),
  "split, told": ("pseudo", 0.0),
  "trim, told": ("trim", 0.0),
}
RULES = ("erm", "reweight", "entropic", "adawac", "trim_loss", "pseudo", "trim")
TOLD = ("split, told", "trim, told")  # are given which images are empty
SIDE = 16
DEPTH = 8  # slices of a volume
_ENTROPIC = 0.01  # PM-DRO's pull to equal weights
_TRIMMED = 0.421  # fraction of a batch dropped, as in the authors' code


class Kind(NamedTuple):
  """How images are trained on and scored.

  Attributes:
    dice_ratio: share of the soft Dice loss in the objective.
    group: Dice is that of ``group`` consecutive test images together.
    score: what the Dice is called.
  """

  dice_ratio: float
  group: int
  score: str


# Also tried on slices, three to six seeds each: half of the images, coefficients 0.5 and 8 of the
# consistency loss, and much more noise on one copy than on the other. AdaWAC stays between 0.04
# below and 0.01 above plain training. Without the Dice term all but the dropping of empty images
# have a Dice of about 0.3 or less. With a 3 x 3 convolution in the decoder, which takes 2.5 times
# as long, one of three seeds of plain training predicts background everywhere; so does AdaWAC with
# step size 8, and not with 1.
KINDS = {
  "distinct": Kind(0.0, 1, "mean Dice of dense test images"),
  "alike": Kind(0.0, 1, "mean Dice of dense test images"),
  "slices": Kind(0.5, DEPTH, "mean Dice of whole test volumes"),
}


@dataclasses.dataclass(frozen=True)
class Config:
  """Settings.

  Attributes:
    seeds: random data sets, initial weights and batches.
    kinds: "distinct" (independent images; the empty ones have a darker, smoother background and the
      loss has no Dice term, which shows the imbalance), "alike" (the same, but empty images are
      backgrounds like those of the dense ones) or "slices" (images are neighbouring slices of
      volumes, so that empty ones share texture and distractors with dense ones; half of the loss
      is the Dice loss, as in the paper).
    methods: which of ``METHODS`` are compared; PM-DRO, whose mean Dice differs from that of
      "reweighted" by less than 0.001, only by the size "large".
    images: training images.
    test_images: test images, and as many validation images; all of them dense but for "slices".
    dense: fraction of dense training images; not used by "slices", where it comes to 0.45.
    epochs: passes over the training images.
    batch: batch size.
    learning_rates: initial step sizes, decayed by a cosine; every method reports the one with the
      higher mean Dice on the validation images.
    momentum: of the gradient steps.
    weight_decay: coefficient of the l2 term in the gradient.
    consistency: coefficient of the consistency loss.
    gain: standard deviation of the gain that differs between the copies of an image.
    noise: standard deviation of the noise added to each copy.
  """

  seeds: int = 5
  kinds: tuple[str, ...] = ("distinct", "slices")
  methods: tuple[str, ...] = tuple(name for name in METHODS if name != "PM-DRO")
  images: int = 128
  test_images: int = 160
  dense: float = 0.4
  epochs: int = 40
  batch: int = 16
  learning_rates: tuple[float, ...] = (0.05, 0.1)
  momentum: float = 0.9
  weight_decay: float = 1e-4
  consistency: float = 2.0
  gain: float = 0.2
  noise: float = 0.15

  def __post_init__(self) -> None:
    if not set(self.kinds) <= set(KINDS) or not self.kinds:
      raise ValueError(f"kinds must be among {', '.join(KINDS)}; got {self.kinds}.")
    if not {"ERM", "AdaWAC 8"} <= set(self.methods) <= set(METHODS):
      raise ValueError(
        f"methods must hold 'ERM' and 'AdaWAC 8' and be among {', '.join(METHODS)}; "
        f"got {self.methods}."
      )
    if "slices" in self.kinds and (self.images % DEPTH or self.test_images % DEPTH):
      raise ValueError(f"images and test_images must be multiples of {DEPTH} for 'slices'.")


SIZES = {
  "toy": Config(
    seeds=1,
    kinds=("slices",),
    methods=("ERM", "AdaWAC 8"),
    images=32,
    test_images=16,
    epochs=2,
    learning_rates=(0.1,),
  ),
  "desk": Config(),
  "large": Config(
    seeds=20,
    kinds=tuple(KINDS),
    methods=tuple(METHODS),
    images=512,
    test_images=480,
    epochs=150,
    batch=24,
  ),
}


class Data(NamedTuple):
  """One data set with its minibatches, initial weights and key.

  Half of the held-out images, the first one, is for validation, the other for the test; ``shown``
  are the rows of those in the figure.
  """

  x: jax.Array
  y: jax.Array
  is_dense: jax.Array
  x_held: jax.Array
  y_held: jax.Array
  shown: jax.Array
  rows: jax.Array
  params: Any
  key: jax.Array


class Setting(NamedTuple):
  """One run: the number of its rule in ``RULES``, the step sizes of the weights and the network."""

  rule: jax.Array
  stepsize: jax.Array
  learning_rate: jax.Array


def make_images(
  rng: np.random.Generator, is_dense: np.ndarray, kind: str
) -> tuple[np.ndarray, np.ndarray]:
  """Images float32[n, 16, 16] and masks int32[n, 16, 16]; discs in the dense images only."""
  num = len(is_dense)
  blocks = rng.normal(0, 0.35, (num, 4, 4)).repeat(4, axis=1).repeat(4, axis=2)
  if kind == "distinct":  # as slices outside the body
    blocks = np.where(is_dense[:, None, None], blocks, 0.5 * blocks - 0.5)
  image = blocks + rng.normal(0, 0.35, (num, SIDE, SIDE))
  mask = np.zeros((num, SIDE, SIDE), np.int32)
  row, column = np.mgrid[:SIDE, :SIDE]
  for i in np.flatnonzero(is_dense):
    for _ in range(rng.integers(1, 3)):
      radius, contrast = rng.uniform(1.8, 3.2), rng.uniform(0.6, 1.1)
      centre = rng.uniform(radius, SIDE - 1 - radius, 2)
      disc = (row - centre[0]) ** 2 + (column - centre[1]) ** 2 <= radius**2
      image[i] += contrast * (disc & (mask[i] == 0))
      mask[i][disc] = 1
  return image.astype(np.float32), mask


def make_slices(rng: np.random.Generator, num: int) -> tuple[np.ndarray, np.ndarray]:
  """Slices float32[8 num, 16, 16] of ``num`` volumes and masks int32 of the same shape.

  A volume has a smooth background and two thin bright tubes along its depth, which every slice
  shows; the one to three balls that are to be found lie around the middle. A slice is blurred with
  its neighbours, so that the first empty slice next to a ball shows a trace of it.
  """
  depth, row, column = np.mgrid[: 2 * DEPTH, :SIDE, :SIDE]
  place = np.linspace(0, 3, SIDE)
  tent = np.maximum(0, 1 - np.abs(place[:, None] - np.arange(4)))  # linear interpolation
  images, masks = [], []
  for _ in range(num):
    smooth = np.einsum("ai,bj,ck,ijk", tent, tent, tent, rng.normal(size=(4, 4, 4)))
    volume = 0.45 * smooth / smooth.std()
    for _ in range(2):
      start, end = rng.uniform(1, SIDE - 2, (2, 2))
      along = (start + 0.4 * (end - start) * np.linspace(0, 1, 2 * DEPTH)[:, None]).T
      apart = (row - along[0][:, None, None]) ** 2 + (column - along[1][:, None, None]) ** 2
      volume += rng.uniform(0.9, 1.5) * (apart <= rng.uniform(1.0, 1.5) ** 2)
    mask, bright = np.zeros(volume.shape, np.int32), np.zeros(volume.shape)
    for _ in range(rng.integers(1, 4)):
      radius, contrast = rng.uniform(2.0, 3.6), rng.uniform(0.9, 1.5)
      centre = rng.uniform(radius, SIDE - 1 - radius, 2)
      apart = (row - centre[0]) ** 2 + (column - centre[1]) ** 2
      ball = apart + (depth - rng.uniform(5, 2 * DEPTH - 6)) ** 2 <= radius**2
      bright[ball & (mask == 0)] = contrast
      mask[ball] = 1
    volume += 0.5 * bright + 0.25 * (np.roll(bright, 1, axis=0) + np.roll(bright, -1, axis=0))
    images.append((volume + rng.normal(0, 0.25, volume.shape))[::2])
    masks.append(mask[::2])
  return np.concatenate(images).astype(np.float32), np.concatenate(masks)


def load(seed: int, kind: str, config: Config) -> Data:
  """A data set with validation and test images."""
  rng = np.random.default_rng(seed)
  if kind == "slices":
    x, y = make_slices(rng, config.images // DEPTH)
    x_held, y_held = make_slices(rng, 2 * config.test_images // DEPTH)
  else:
    filled = np.arange(config.images) < round(config.dense * config.images)
    x, y = make_images(rng, filled, kind)
    x_held, y_held = make_images(rng, np.ones(2 * config.test_images, bool), kind)
  is_dense = np.any(y, axis=(1, 2))
  tested = np.arange(len(x_held)) >= config.test_images
  shown = np.flatnonzero(np.any(y_held, axis=(1, 2)) & tested)[:4]
  params = {
    name: np.concatenate(
      [rng.normal(0, np.sqrt(2 / fan_in), (fan_in, width)), np.zeros((1, width))]
    ).astype(np.float32)
    for name, (fan_in, width) in {
      "first": (9, 8), "down": (72, 12), "deep": (108, 12), "up": (20, 8), "out": (8, 2),
    }.items()
  }  # fmt: skip
  rows = batches(config.images, config.batch, config.epochs, seed)
  arrays = [x, y, is_dense, x_held, y_held, shown, rows, params]
  return Data(*jax.tree.map(jnp.asarray, arrays), jax.random.key(seed))


def _affine(x: jax.Array, weights: jax.Array) -> jax.Array:
  bias = weights[-1].reshape((1,) * (x.ndim - 1) + (-1,))
  return x @ weights[:-1] + bias


def _convolve(x: jax.Array, weights: jax.Array, stride: int = 1) -> jax.Array:
  """3 x 3 convolution as nine shifted copies and one product, which is faster on a CPU."""
  rows, columns = x.shape[1:3]
  padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
  shifted = [
    padded[:, i : i + rows : stride, j : j + columns : stride] for i in range(3) for j in range(3)
  ]
  return _affine(jnp.concatenate(shifted, axis=-1), weights)


def segment(params: Any, x: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Features of the encoder, and the scores of background and disc at each pixel."""
  first = jax.nn.relu(_convolve(x[..., None], params["first"]))
  down = jax.nn.relu(_convolve(first, params["down"], stride=2))
  features = jax.nn.relu(_convolve(down, params["deep"]))
  up = features.repeat(2, axis=1).repeat(2, axis=2)
  up = jax.nn.relu(_affine(jnp.concatenate([up, first], axis=-1), params["up"]))
  return features, jnp.clip(_affine(up, params["out"]), -30, 30)


def augment(x: jax.Array, y: jax.Array, key: jax.Array, config: Config) -> tuple[Any, jax.Array]:
  """Two copies of each image under one flip, with gains and noise of their own; the flipped mask.

  The maps of features can be compared without turning them back.
  """
  flip_key, gain_key, noise_key = jax.random.split(key, 3)
  flip = jax.random.bernoulli(flip_key, shape=(2, len(x), 1, 1))
  flipped = [jnp.where(flip[0], v[:, ::-1], v) for v in (x, y)]
  image, mask = (jnp.where(flip[1], v[:, :, ::-1], v) for v in flipped)
  gain = 1 + config.gain * jax.random.normal(gain_key, (2, len(x), 1, 1))
  noise = config.noise * jax.random.normal(noise_key, (2, *x.shape))
  return gain * image[None] + noise, mask


def coefficients(
  setting: Setting,
  entropy: jax.Array,
  is_dense: jax.Array,
  log_weight: jax.Array,
  weight: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """What each image's cross entropy and consistency count in the mean of the batch.

  Also the new log weights of the rules that compete within a batch, normalised there.
  """
  size = len(entropy)
  one = jnp.ones_like(entropy)
  decay = jnp.where(setting.rule == RULES.index("entropic"), setting.stepsize * _ENTROPIC, 0)
  raised = (1 - decay) * log_weight + setting.stepsize * entropy
  raised = raised - jax.nn.logsumexp(raised) + jnp.log(size)
  rank = jnp.argsort(jnp.argsort(entropy))
  kept = rank >= round(_TRIMMED * size)
  dense = is_dense.astype(entropy.dtype)
  supervised = {
    "erm": one,
    "reweight": jnp.exp(raised),
    "entropic": jnp.exp(raised),
    "adawac": weight,
    "trim_loss": kept * (size / jnp.sum(kept)),
    "pseudo": dense,
    "trim": dense * size / jnp.maximum(jnp.sum(dense), 1),
  }
  consistency = {"adawac": 1 - weight, "pseudo": 1 - dense}
  zero = jnp.zeros_like(entropy)
  choose = lambda table: jnp.stack([table.get(rule, zero) for rule in RULES])[setting.rule]
  return choose(supervised), choose(consistency), raised


def make_trainer(config: Config, kind: Kind) -> Any:
  """``train(setting, data)``: one run; runs of one data set see the same copies."""
  steps = config.images // config.batch

  def train(setting: Setting, data: Data) -> dict[str, jax.Array]:
    optimizer = optax.chain(
      optax.add_decayed_weights(config.weight_decay),
      optax.sgd(
        optax.cosine_decay_schedule(setting.learning_rate, config.epochs * steps),
        momentum=config.momentum,
      ),
    )

    drops = jnp.isin(
      setting.rule, np.asarray([RULES.index(rule) for rule in ("trim_loss", "trim")])
    )

    def step(carry: Any, inputs: Any) -> tuple[Any, None]:
      params, opt_state, state, log_weight = carry
      rows, number = inputs
      key = jax.random.fold_in(data.key, number)
      copies, mask = augment(data.x[rows], data.y[rows], key, config)

      def objective(params: Any) -> tuple[jax.Array, Any]:
        features, scores = segment(params, copies.reshape(-1, SIDE, SIDE))
        both = jnp.concatenate([mask, mask])
        pixels = losses.cross_entropy_loss(scores, both)
        entropy = jnp.mean(pixels.reshape(2, config.batch, -1), axis=(0, 2))
        first, second = jnp.split(features, 2)
        spread = config.consistency * losses.feature_consistency_loss(first, second)
        _, (new, info) = compositional.adawac_loss(
          entropy, spread, rows, state, stepsize=setting.stepsize
        )
        a, b, raised = jax.lax.stop_gradient(
          coefficients(setting, entropy, data.is_dense[rows], log_weight[rows], info.weight)
        )
        total = jnp.mean(a * entropy + b * spread)
        if kind.dice_ratio > 0:  # it takes no part in the weights, but dropped images lose it
          overlap = jnp.mean(losses.soft_dice_loss(scores, both).reshape(2, -1), axis=0)
          shares = jnp.where(drops, a, 1)
          total = (1 - kind.dice_ratio) * total + kind.dice_ratio * jnp.mean(shares * overlap)
        return total, (new, raised)

      grads, (state, raised) = jax.grad(objective, has_aux=True)(params)
      updates, opt_state = optimizer.update(grads, opt_state, params)
      params = optax.apply_updates(params, updates)
      return (params, opt_state, state, log_weight.at[rows].set(raised)), None

    def epoch(carry: Any, inputs: Any) -> tuple[Any, dict[str, jax.Array]]:
      carry, _ = jax.lax.scan(step, carry, inputs)
      weight = jax.nn.sigmoid(carry[2].logits)
      dense = data.is_dense.astype(weight.dtype)
      means = [jnp.sum(weight * group) / jnp.sum(group) for group in (dense, 1 - dense)]
      return carry, {"dense": means[0], "sparse": means[1]}

    shape = (config.epochs, steps)
    inputs = (data.rows, jnp.arange(config.epochs * steps).reshape(shape))
    start = compositional.adawac_init(config.images)
    carry = (data.params, optimizer.init(data.params), start, jnp.zeros(config.images))
    carry, curves = jax.lax.scan(epoch, carry, inputs)
    predicted = jnp.argmax(segment(carry[0], data.x_held)[1], axis=-1)
    count = lambda masks: jnp.sum(masks.reshape(2, -1, kind.group * SIDE * SIDE), axis=2)
    sizes = count(predicted) + count(data.y_held)
    dice = jnp.mean(2 * count(predicted * data.y_held) / jnp.maximum(sizes, 1), axis=1)
    return {
      "validation": dice[0],
      "dice": dice[1],
      "predicted": predicted[data.shown],
      "weight": jax.nn.sigmoid(carry[2].logits),
      **curves,
    }

  return train


def run(config: Config, progress: Progress) -> Outcome:
  """Every method and step size on every data set; one program for each kind of images."""
  runs = [(*METHODS[name], rate) for name in config.methods for rate in config.learning_rates]
  rules, stepsizes, rates = zip(*runs, strict=True)
  settings = Setting(
    jnp.asarray([RULES.index(rule) for rule in rules], jnp.int32),
    jnp.asarray(stepsizes, jnp.float32),
    jnp.asarray(rates, jnp.float32),
  )
  metrics: dict[str, Any] = {}
  for kind in progress.track(config.kinds, "kinds of images"):
    data = stack([load(seed, kind, config) for seed in range(config.seeds)])
    found = train_all(progress, make_trainer(config, KINDS[kind]), settings, data, name=kind)
    is_dense = np.asarray(data.is_dense)
    metrics[kind] = {"methods": {}}
    chosen = {}
    for i, name in enumerate(config.methods):
      tried = range(i * len(config.learning_rates), (i + 1) * len(config.learning_rates))
      best = max(tried, key=lambda run: found["validation"][:, run].mean())
      chosen[name] = best
      entry: dict[str, Any] = {
        "learning_rate": rates[best],
        "dice": found["dice"][:, best],
        "every_rate": {str(rates[run]): found["dice"][:, run] for run in tried},
      }
      if METHODS[name][0] == "adawac":
        pairs = zip(found["weight"][:, best], is_dense, strict=True)
        entry["auc"] = [_auc(w[group], w[~group]) for w, group in pairs]
        entry["dense"], entry["sparse"] = found["dense"][:, best], found["sparse"][:, best]
      metrics[kind]["methods"][name] = entry
    shown = {name: found["predicted"][0, chosen[name]] for name in ("ERM", "AdaWAC 8")}
    metrics[kind]["pictures"] = _samples(data, shown)
  return Outcome(metrics, _table(metrics, config), _claims(metrics, config))


def _auc(above: np.ndarray, below: np.ndarray) -> float:
  """Fraction of pairs in the right order; ties count half."""
  gap = above[:, None] - below[None]
  return float(np.mean((gap > 0) + 0.5 * (gap == 0)))


def _samples(data: Data, predicted: dict[str, np.ndarray]) -> dict[str, Any]:
  """Test images of the first seed with masks and predictions, and empty training images."""
  grey = lambda image: _pictures.encode((np.asarray(image) + 1.5) / 4)
  shown, empty = data.shown[0], np.flatnonzero(~np.asarray(data.is_dense[0]))[-2:]
  pictures = {
    "images": [grey(image) for image in data.x_held[0, shown]],
    "masks": [_pictures.encode(mask) for mask in data.y_held[0, shown]],
    "empty": [grey(image) for image in data.x[0, empty]],
  }
  for name, masks in predicted.items():
    pictures[name] = [_pictures.encode(mask) for mask in masks]
  return pictures


def _mean(metrics: dict[str, Any], kind: str, name: str) -> float:
  return float(np.mean(metrics[kind]["methods"][name]["dice"]))


def _table(metrics: dict[str, Any], config: Config) -> list[Row]:
  rows = []
  for kind in config.kinds:
    for name in config.methods:
      entry = metrics[kind]["methods"][name]
      dice = np.asarray(entry["dice"])
      by_rate = ", ".join(f"{k}: {np.mean(v):.3f}" for k, v in entry["every_rate"].items())
      note = f"Worst seed {dice.min():.3f}. By learning rate {by_rate}"
      note += f"; {entry['learning_rate']:g} by validation, as for every method."
      if name in TOLD:
        note += " Is told which images are empty."
      note += " The paper has CT and MR volumes (Synapse: 0.767 to 0.790, recalled)."
      rows.append(
        Row(
          method=name,
          metric=f"{KINDS[kind].score}, images {kind}",
          ours=float(dice.mean()),
          baseline=None if name == "ERM" else _mean(metrics, kind, "ERM"),
          baseline_name="" if name == "ERM" else "ERM on both copies",
          spread=float(dice.std()),
          note=note,
        )
      )
  return rows


def _claims(metrics: dict[str, Any], config: Config) -> list[Claim]:
  methods = {kind: metrics[kind]["methods"] for kind in config.kinds}
  mean = {kind: {n: _mean(metrics, kind, n) for n in config.methods} for kind in config.kinds}
  adaptive = [name for name in config.methods if name.startswith("AdaWAC")]

  def last(kind: str, name: str, group: str) -> float:
    return float(np.mean(np.asarray(methods[kind][name][group])[:, -1]))

  if config.epochs < 10:
    kind = config.kinds[0]
    dense, sparse = (last(kind, "AdaWAC 8", group) for group in ("dense", "sparse"))
    claim = "After a few epochs the weights of dense images are not below those of empty ones."
    return [Claim(claim, dense > sparse - 0.05, {"dense": dense, "empty": sparse})]
  claims = []
  if "distinct" in config.kinds:
    gap = {n: last("distinct", n, "dense") - last("distinct", n, "sparse") for n in adaptive}
    auc = {n: float(np.mean(methods["distinct"][n]["auc"])) for n in adaptive}
    numbers = {f"{n}, {what}": v[n] for n in adaptive for what, v in (("gap", gap), ("AUC", auc))}
    claims.append(
      Claim(
        "With darker empty images, AdaWAC separates the two kinds without being told, at both step "
        "sizes: the mean weights of supervision differ by at least 0.35, and their AUC is at least "
        "0.9.",
        min(gap.values()) >= 0.35 and min(auc.values()) >= 0.9,
        numbers,
      )
    )
    if "consistency" in config.methods:
      claims.append(
        Claim(
          "With darker empty images, AdaWAC's mean Dice exceeds that of equal weights "
          "(consistency) by at least 0.03.",
          mean["distinct"]["AdaWAC 8"] >= mean["distinct"]["consistency"] + 0.03,
          mean["distinct"],
        )
      )
    others = ("reweighted", "trim by loss", "trim, told")
    if set(others) <= set(config.methods):
      claims.append(
        Claim(
          "AdaWAC ahead of dropping images is not seen here: with darker empty images, dropping "
          "them, or weighing by the loss within the batch, is ahead of it by at least 0.05.",
          min(mean["distinct"][n] for n in others) >= mean["distinct"]["AdaWAC 8"] + 0.05,
          mean["distinct"],
        )
      )
  if "slices" in config.kinds:
    ranks = {f"{n}, AUC": float(np.mean(methods["slices"][n]["auc"])) for n in adaptive}
    empty = {f"{n}, empty": last("slices", n, "sparse") for n in adaptive}
    claims.append(
      Claim(
        "On slices of volumes the weights still rank dense above empty ones (AUC at least 0.75), "
        "but those of empty ones stay above one half: AdaWAC remains close to plain training.",
        min(ranks.values()) >= 0.75 and min(empty.values()) > 0.5,
        {**ranks, **empty},
      )
    )
    others = ("consistency", "trim by loss", "trim, told")
    if set(others) <= set(config.methods):
      level = [mean["slices"][n] - mean["slices"]["AdaWAC 8"] for n in others]
      claims.append(
        Claim(
          "On whole volumes, where false alarms in empty slices count, AdaWAC, equal weights and "
          "dropping images are within 0.03; the paper's order is not seen here.",
          max(abs(value) for value in level) <= 0.03,
          mean["slices"],
        )
      )
  numbers = {f"{n}, {k}": mean[k][n] - mean[k]["ERM"] for k in config.kinds for n in adaptive}
  claims.append(
    Claim(
      "AdaWAC's gain over plain training is not seen here: its mean Dice is within 0.02 of it, at "
      "both step sizes of the weights and on every kind of images.",
      max(abs(value) for value in numbers.values()) <= 0.02,
      numbers,
    )
  )
  return claims


def figure(record: dict[str, Any]) -> Any:
  """Weights over training, Dice by seed and method, sample images with masks and predictions."""
  metrics = record["metrics"]
  kinds = list(metrics)
  fig, axes = new_figure(len(kinds), 3, width=4.6)
  for row, kind in enumerate(kinds):
    ax, scatter, picture = axes[3 * row : 3 * row + 3]
    methods = metrics[kind]["methods"]
    for number, name in enumerate(n for n in methods if n.startswith("AdaWAC")):
      for group, style in (("dense", "-"), ("sparse", "--")):
        curves = np.asarray(methods[name][group])
        epochs = np.arange(1, curves.shape[1] + 1)
        ax.plot(epochs, curves.mean(0), style, color=f"C{number}", label=f"{name}, {group}")
        ax.fill_between(epochs, curves.min(0), curves.max(0), color=f"C{number}", alpha=0.15)
    ax.set(xlabel="epoch", ylabel="weight of supervision", ylim=(-0.05, 1.05))
    ax.set_title(f"Weights, images {kind}")
    ax.legend(fontsize="x-small")
    for place, (name, entry) in enumerate(methods.items()):
      dice = np.asarray(entry["dice"])
      colour = "C7" if name in TOLD else "C0"
      scatter.plot(np.full(len(dice), place), dice, "o", color=colour, ms=4, alpha=0.6)
      scatter.plot([place - 0.3, place + 0.3], [dice.mean()] * 2, color=colour)
    scatter.set_xticks(range(len(methods)), list(methods), rotation=50, ha="right")
    scatter.set(ylabel="Dice", ylim=(-0.03, None))
    scatter.set_title(f"{KINDS[kind].score} (grey: told)", fontsize="medium")
    pictures = metrics[kind]["pictures"]
    lines = [pictures[key] for key in ("images", "masks", "ERM", "AdaWAC 8")]
    tiles = [[_pictures.decode(text, SIDE) for text in line] for line in lines]
    tiles[0] += [_pictures.decode(text, SIDE) for text in pictures["empty"]]
    canvas = np.ones((4 * (SIDE + 1), 6 * (SIDE + 1)))
    for i, line in enumerate(tiles):
      for j, tile in enumerate(line):
        top, left = i * (SIDE + 1), j * (SIDE + 1)
        canvas[top : top + SIDE, left : left + SIDE] = tile
    picture.imshow(canvas, cmap="gray", vmin=0, vmax=1)
    picture.set_xticks([])
    names = ["test images, then empty", "masks", "ERM", "AdaWAC 8"]
    picture.set_yticks([(i + 0.5) * (SIDE + 1) for i in range(4)], names)
    picture.grid(visible=False)
    picture.set_title("First seed")
  return fig
