"""Attention by a Gaussian kernel on landmarks: accuracy on digits, cost, approximation, norms."""

import dataclasses
import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import _amendments, _figures
from experiments._claims import Claim, Side
from experiments._protocol import Paper, Progress, Row, Settings, Size, new_figure
from experiments._training import fit, stack, train_all
from experiments.layers._attention_nets import (
  ELU,
  FULL,
  FULL_NORM,
  KINDS,
  NYSTROM,
  SOFT,
  SOFT_NORM,
  SOFTMAX,
  Classifier,
  Data,
  load_split,
)  # fmt: skip
from jaxopt_robust import layers, losses

PAPER = Paper(
  title="Softmax-free linear transformers",
  authors="Lu, Zhang, Zhu, Feng, Xiang and Zhang",
  year=2024,
  claim="With a Gaussian kernel in place of softmax a low-rank form of self-attention serves, at "
  "a cost linear in the tokens and a better trade-off of accuracy and cost than others.",
  section="Abstract; image classification (ImageNet)",
  url="https://arxiv.org/abs/2207.03341",
)
AMENDED = _amendments.SOFTMAX_FREE_ATTENTION
_WIDTH = 8  # features of the tokens of the approximation


@dataclasses.dataclass(frozen=True)
class Config(Settings):
  """Settings.

  Attributes:
    dim: features of a token.
    heads: number of heads.
    train: training images; the others are test images.
    steps: updates of AdamW.
    batch: batch size.
    kinds: of attention; softmax is one of them.
    rates: learning rate of each of them: of .001, .003, .01,
      .03, .1 and .3 the best by accuracy on 300 held-out training images of development seeds 0
      to 3 (SOFT alone is best at an end, .3, by less than its seeds differ).
    warm_up: steps in which the learning rate rises; then it falls to 0 along a cosine.
    lengths: numbers of tokens at which cost is counted, with 64 landmarks.
    sizes: numbers of tokens of the approximation.
    landmarks: their numbers, each a random choice of tokens.
    scales: standard deviations of these tokens, N(0, scale^2) in 8 dimensions.
  """

  seeds: int = 8
  dim: int = 32
  heads: int = 2
  train: int = 1297
  steps: int = 500
  batch: int = 64
  kinds: tuple[str, ...] = KINDS
  rates: tuple[float, ...] = (0.03, 0.03, 0.01, 0.03, 0.03, 0.3, 0.1)
  warm_up: int = 60
  lengths: tuple[int, ...] = (256, 512, 1024, 2048, 4096, 8192)
  sizes: tuple[int, ...] = (64, 256, 1024)
  landmarks: tuple[int, ...] = (4, 8, 16, 32, 64)
  scales: tuple[float, ...] = (0.3, 1.0)


OURS = "Digits in 16 tokens and one block instead of ImageNet and a pyramid of blocks."
SIZES = {
  "toy": Size(
    Config(
      seeds=2, kinds=(SOFTMAX, SOFT_NORM), rates=(0.03, 0.03), dim=8, train=200, steps=4, batch=32,
      warm_up=1, lengths=(128, 256), sizes=(64,), landmarks=(16,),
    ),
    OURS + " Four updates.",
  ),
  "desk": Size(Config(), OURS),
  "large": Size(Config(seeds=20, dim=128, heads=4, steps=5000, warm_up=500), OURS),
}  # fmt: skip


def make_train(kind: str, config: Config) -> Any:
  """``train(rate, data) -> accuracy`` on the test images."""
  model = Classifier(kind, config.dim, config.heads)

  def train(rate: jax.Array, data: Data) -> jax.Array:
    params = model.init(data.key, data.x[:1])
    factor = optax.warmup_cosine_decay_schedule(0.0, 1.0, config.warm_up, config.steps)
    optimizer = optax.chain(
      optax.clip_by_global_norm(1.0), optax.adamw(lambda count: rate * factor(count))
    )

    def objective(params: Any, state: Any, rows: jax.Array) -> Any:
      scores = model.apply(params, data.x[rows])
      return jnp.mean(losses.cross_entropy_loss(scores, data.y[rows])), state

    found = fit(objective, params, data.rows, optimizer, evaluate=lambda params, state: ())
    scores = model.apply(found.params, data.x_test)
    return jnp.mean(jnp.argmax(scores, axis=-1) == data.y_test)

  return train


def run_digits(config: Config, progress: Progress) -> dict[str, list[float]]:
  """Test accuracy of every kind on every seed."""
  data = stack([load_split(seed, config) for seed in config.seed_numbers()])
  found = {}
  for kind, rate in zip(config.kinds, config.rates, strict=True):
    rates = np.float32([rate])
    accuracy = train_all(progress, make_train(kind, config), rates, data, name=kind)
    found[kind] = accuracy[:, 0]
  return found


def run_cost(config: Config) -> dict[str, dict[str, list[float]]]:
  """Operations and bytes beside arguments and results, as the compiler counts them."""
  soft = lambda q, marks, v: layers.soft_attention(q, marks, v)[0]
  full = lambda q, marks, v: layers.full_gaussian_attention(q, v)
  found: dict[str, dict[str, list[float]]] = {}
  for name, function in ((SOFT_NORM, soft), (FULL_NORM, full)):
    cell: dict[str, list[float]] = {"flops": [], "bytes": []}
    for length in config.lengths:
      shapes = [jax.ShapeDtypeStruct((n, 32), jnp.float32) for n in (length, 64, length)]
      program = jax.jit(function).lower(*shapes).compile()
      cell["flops"].append(float(program.cost_analysis()["flops"]))
      cell["bytes"].append(float(program.memory_analysis().temp_size_in_bytes))
    found[name] = cell
  return found


def approximation(size: int, count: int, key: jax.Array, scale: jax.Array) -> dict[str, jax.Array]:
  """Relative error of the low-rank form of the kernel, and spectral norms of the forms."""
  key_tokens, key_marks = jax.random.split(key)
  q = scale * jax.random.normal(key_tokens, (size, _WIDTH))
  marks = q[jax.random.choice(key_marks, size, (count,), replace=False)]
  eye = jnp.eye(size)
  kernel = layers.gaussian_gram(q, q)
  plain, cheap = (layers.soft_attention(q, marks, eye, normalize=n)[0] for n in (False, True))
  whole = layers.full_gaussian_attention(q, eye)
  norm = lambda a: jnp.linalg.norm(a, 2)
  return {
    "error": jnp.linalg.norm(plain - kernel) / jnp.linalg.norm(kernel),
    FULL: norm(kernel), SOFT: norm(plain), SOFT_NORM: norm(cheap), FULL_NORM: norm(whole),
  }  # fmt: skip


def run_approximation(config: Config, progress: Progress) -> dict[str, Any]:
  """Of all scales, sizes and numbers of landmarks: [seeds] each."""
  found: dict[str, Any] = {}
  for size, count in itertools.product(config.sizes, config.landmarks):
    program = jax.jit(functools.partial(approximation, size, count))
    for scale in config.scales:
      runs = [
        progress.clock.call(program, jax.random.key(seed), jnp.float32(scale), name="norms")
        for seed in config.seed_numbers()
      ]
      cell = {key: [float(one[key]) for one in runs] for key in runs[0]}
      found[f"{scale:g}, {size}, {count}"] = cell
  return found


def run(config: Config, progress: Progress) -> dict[str, Any]:
  """Trains every kind of attention on digits, counts costs, and measures approximations."""
  return {
    "accuracy": run_digits(config, progress),
    "cost": run_cost(config),
    "approximation": run_approximation(config, progress),
  }


def _slope(metrics: dict[str, Any], config: Config, kind: str, what: str) -> float:
  """Growth of a cost from the first to the last length, as a power of the length."""
  values = metrics["cost"][kind][what]
  return float(np.log(values[-1] / values[0]) / np.log(config.lengths[-1] / config.lengths[0]))


def claims(metrics: dict[str, Any], config: Config) -> list[Claim]:
  """Cost and norms, which are proved; accuracies."""
  made = []
  words = {"flops": "operations", "bytes": "memory beside arguments and results"}
  for what, metric in words.items():
    for kind, bound, better in ((SOFT_NORM, 1.1, "lower"), (FULL_NORM, 1.8, "higher")):
      linear = kind == SOFT_NORM
      text = f"{kind}: {metric} grow{'s' * (what == 'bytes')} " + (
        "at most like the number of tokens (power 1.1)." if linear else
        "like its square (power 1.8 at least)."
      )  # fmt: skip
      # The same for every seed.
      side = Side(kind, [_slope(metrics, config, kind, what)] * config.seeds)
      made.append(
        Claim(f"{what}_{'soft' if linear else 'full'}", text, "theory", f"power of {metric}", side,
              Side("bound", bound), better=better)  # type: ignore[arg-type]
      )  # fmt: skip
  last = metrics["approximation"][_cell(config, 0)]
  text = "The kernel that is normalised on both sides has the spectral norm 1."
  sides = Side(FULL_NORM, last[FULL_NORM]), Side("one", 1.0)
  made.append(Claim("norm", text, "control", "spectral norm", *sides, margin=1e-3))
  text = "Normalising the middle factor alone leaves the norm above 1."
  made.append(
    Claim("middle", text, "expected", "spectral norm", Side(SOFT_NORM, last[SOFT_NORM]), sides[1])
  )
  if len(config.scales) > 1:
    text = "Tokens that are near one another have a kernel of lower rank: the error is smaller."
    ours, base = (
      Side(f"scale {config.scales[i]:g}", metrics["approximation"][_cell(config, i)]["error"])
      for i in (0, -1)
    )
    made.append(Claim("rank", text, "expected", "relative error", ours, base, better="lower"))
  accuracy = lambda kind: Side(kind, metrics["accuracy"][kind])
  for kind in (k for k in (FULL, FULL_NORM, SOFT, SOFT_NORM) if k in config.kinds):
    text = f"{kind} attention is at most three points less accurate than softmax."
    made.append(
      Claim(f"accuracy_{KINDS.index(kind)}", text, "expected", "test accuracy", accuracy(kind),
            accuracy(SOFTMAX), margin=-0.03)
    )  # fmt: skip
  for base in (k for k in (ELU, NYSTROM) if k in config.kinds):
    text = f"{SOFT_NORM} is more accurate than the linear attention {base}."
    made.append(
      Claim(f"better_{KINDS.index(base)}", text, "paper", "test accuracy", accuracy(SOFT_NORM),
            accuracy(base), comparisons=2)
    )  # fmt: skip
  if SOFT in config.kinds:
    text = "The normalised form is more accurate than the plain one."
    sides = accuracy(SOFT_NORM), accuracy(SOFT)
    made.append(Claim("normalised", text, "paper", "test accuracy", *sides))
  return made


def _cell(config: Config, scale: int) -> str:
  """The largest number of tokens, and 16 landmarks or the first number of them."""
  count = 16 if 16 in config.landmarks else config.landmarks[0]
  return f"{config.scales[scale]:g}, {config.sizes[-1]}, {count}"


def table(metrics: dict[str, Any], config: Config) -> list[Row]:
  """Accuracies beside softmax, costs, errors and norms."""
  accuracy = metrics["accuracy"]
  rows = []
  for kind in config.kinds:
    base = None if kind == SOFTMAX else Side(SOFTMAX, accuracy[SOFTMAX])
    rows.append(Row("test accuracy, digits", Side(kind, accuracy[kind]), base, better="higher"))
  for what in ("flops", "bytes"):
    ours, base = (Side(k, _slope(metrics, config, k, what)) for k in (SOFT_NORM, FULL_NORM))
    rows.append(Row(f"power of the tokens, {what}", ours, base, better="lower"))
  for name, cell in metrics["approximation"].items():
    if not name.endswith(f", {_cell(config, 0).split(', ')[-1]}"):
      continue
    where = "scale {}, {} tokens, {} landmarks".format(*name.split(", "))
    rows.append(Row(f"relative error of the kernel, {where}", Side(SOFT, cell["error"]), None))
    for kind in (SOFT, SOFT_NORM, FULL_NORM):
      base = Side(FULL, cell[FULL])
      rows.append(Row(f"spectral norm, {where}", Side(kind, cell[kind]), base, better="lower"))
  return rows


def figure(record: dict[str, Any]) -> Any:
  """Accuracies, memory over the tokens, and error over the landmarks."""
  metrics, settings = record["metrics"], record["settings"]
  fig, axes = new_figure(1, 3, width=4.5)
  _figures.dots(axes[0], {"": metrics["accuracy"]}, ylabel="test accuracy", title="Digits")
  lines = {kind: np.asarray(cell["bytes"], float) / 2**20 for kind, cell in metrics["cost"].items()}
  _figures.curves(axes[1], lines, settings["lengths"], xlabel="tokens", ylabel="MiB", log="xy",
                  title="Memory beside arguments and results")  # fmt: skip
  size = settings["sizes"][-1]
  errors = {
    f"scale {scale:g}": np.transpose([
      metrics["approximation"][f"{scale:g}, {size}, {count}"]["error"]
      for count in settings["landmarks"]
    ])
    for scale in settings["scales"]
  }  # fmt: skip
  _figures.curves(axes[2], errors, settings["landmarks"], xlabel="landmarks", log="x",
                  ylabel="relative error", title=f"Kernel of {size} tokens")  # fmt: skip
  return fig
