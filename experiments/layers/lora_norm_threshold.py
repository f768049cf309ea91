"""Fast gradients of low-rank adapters: accurate below a norm, useless above it, and their cost."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import _figures
from experiments._claims import Claim, Side
from experiments._protocol import Paper, Progress, Row, Settings, Size, new_figure
from experiments.layers._lora_heads import (
  EXACT,
  FAST,
  Head,
  exact_gradient,
  fine_tune,
  gradient_errors,
  make_head,
)  # fmt: skip
from jaxopt_robust import layers

PAPER = Paper(
  title="Computational limits of low-rank adaptation (LoRA) fine-tuning for transformer models",
  authors="Hu, Su, Kuo, Song and Liu",
  year=2024,
  claim="While norms of projected tokens stay below a threshold of order sqrt(log n), gradients of "
  "adapters in an attention head are approximated in time almost linear in the n tokens, by a "
  "low-rank softmax carried through the chain rule; above it they are not.",
  section="Theorems 3.1, 4.1 and A.1",
  url="https://arxiv.org/abs/2406.03136",
)
TAYLOR, CHEBYSHEV = "taylor", "chebyshev"
NORM, FIRST = "norm / sqrt(log n)", "gap, share of the first loss"


@dataclasses.dataclass(frozen=True)
class Config(Settings):
  """Settings.

  Attributes:
    length: tokens.
    size: features of a token, and of a query, a key and a value.
    rank: of the adapters.
    bounds: largest logits, by scaling the kernel of the queries.
    degrees: of the polynomials.
    lengths: numbers of tokens at which cost is counted.
    cost_degree: degree of the fast gradient there.
    train_bounds: largest logits before fine-tuning.
    train_degree: degree of Taylor's series in fine-tuning.
    steps: of Adam.
    exact_rates: learning rates with the exact gradient, one a bound: of .0001, .0003, .001,
      .003, .01, .03, .1 and .3 the best by the last loss on development seeds 0 to 7.
    fast_rates: the same with the fast gradient, chosen alike.
    change: standard deviation of the change of the teacher's kernels, as a share of theirs.
  """

  seeds: int = 16
  length: int = 256
  size: int = 4
  rank: int = 2
  bounds: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
  degrees: tuple[int, ...] = (2, 4, 6, 8)
  lengths: tuple[int, ...] = (512, 1024, 2048, 4096, 8192)
  cost_degree: int = 2
  train_bounds: tuple[float, ...] = (0.5, 1.0, 4.0, 8.0)
  train_degree: int = 4
  steps: int = 200
  exact_rates: tuple[float, ...] = (0.03, 0.03, 0.1, 0.1)
  fast_rates: tuple[float, ...] = (0.03, 0.03, 0.001, 0.001)
  change: float = 0.5


OURS = "One head of size 4; the paper proves theorems, and times whole transformers in one figure."
SIZES = {
  "toy": Size(
    Config(
      seeds=2, length=32, size=2, bounds=(1.0, 8.0), degrees=(4,), lengths=(128, 256),
      train_bounds=(1.0, 8.0), exact_rates=(0.01, 0.01), fast_rates=(0.01, 0.01), steps=5, rank=1,
    ),
    OURS + " 32 tokens of size 2.",
  ),
  "desk": Size(Config(), OURS),
  "large": Size(
    Config(seeds=32, length=4096, lengths=(512, 1024, 2048, 4096, 8192, 16384, 32768)), OURS
  ),
}  # fmt: skip


def run_errors(heads: Head, config: Config, progress: Progress) -> dict[str, Any]:
  """Of both series and all degrees: metric -> [bounds, seeds]; and the norms."""
  found: dict[str, Any] = {}
  over = lambda fun, axes: jax.jit(
    jax.vmap(jax.vmap(fun, in_axes=(0, None, *axes)), (None, 0, *axes))
  )
  with jax.enable_x64(True):
    data, bounds = jax.tree.map(jnp.asarray, heads), jnp.asarray(config.bounds)
    exact, norms = progress.clock.call(over(exact_gradient, ()), data, bounds, name="exact")
    found[NORM] = np.asarray(norms) / np.sqrt(np.log(config.length))
    for series in (TAYLOR, CHEBYSHEV):
      for degree in config.degrees:
        one = functools.partial(gradient_errors, degree, series, series == TAYLOR)
        name = f"{series} {degree}"
        cell = progress.clock.call(over(one, (0,)), data, bounds, exact, name=name)
        found[name] = {metric: np.asarray(value) for metric, value in cell.items()}
  return found


def run_cost(config: Config) -> dict[str, dict[str, list[float]]]:
  """Operations and bytes beside arguments and results of a gradient, as the compiler counts."""
  exact = jax.grad(lambda a, w, x, y: layers.lora_attention_loss(a, w, x, target=y))
  fast = lambda a, w, x, y: layers.lora_attention_grads_fast(
    a, w, x, target=y, degree=config.cost_degree
  )[0]
  found: dict[str, dict[str, list[float]]] = {}
  for name, function in ((EXACT, exact), (FAST, fast)):
    cell: dict[str, list[float]] = {"flops": [], "bytes": []}
    for length in config.lengths:
      head = make_head(0, dataclasses.replace(config, length=length))
      arguments = head.adapters, head.weights, head.x, head.target
      shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, jnp.float32), arguments)
      program = jax.jit(function).lower(*shapes).compile()
      cell["flops"].append(float(program.cost_analysis()["flops"]))
      cell["bytes"].append(float(program.memory_analysis().temp_size_in_bytes))
    found[name] = cell
  return found


def run_training(heads: Head, config: Config, progress: Progress) -> dict[str, Any]:
  """Method -> losses after every twentieth of the steps; the largest gaps of both, of all steps."""
  keys = jax.vmap(jax.random.key)(jnp.asarray(config.seed_numbers()))
  rates = jnp.stack([jnp.asarray(config.exact_rates), jnp.asarray(config.fast_rates)], axis=1)
  one = functools.partial(fine_tune, config)
  over_seeds = jax.vmap(one, in_axes=(0, 0, None, None))
  program = jax.jit(jax.vmap(over_seeds, in_axes=(None, None, 0, 0)))
  data, bounds = jax.tree.map(jnp.float32, heads), jnp.asarray(config.train_bounds, jnp.float32)
  found = progress.clock.call(program, data, keys, bounds, rates, name="fine-tuning")
  every = max(config.steps // 20, 1)
  apart = np.abs(found[FAST] - found[EXACT])
  gaps = {"gap": np.max(apart / found[EXACT], axis=-1), FIRST: np.max(apart, axis=-1)}
  return gaps | {kind: losses[..., every - 1 :: every] for kind, losses in found.items()}


def run(config: Config, progress: Progress) -> dict[str, Any]:
  """Errors over logits and degrees, cost over tokens, and fine-tuning on both sides."""
  made = [make_head(seed, config) for seed in config.seed_numbers()]
  heads = jax.tree.map(lambda *leaves: np.stack(leaves), *made)
  return {
    "errors": run_errors(heads, config, progress),
    "cost": run_cost(config),
    "training": run_training(heads, config, progress),
  }


def _slope(metrics: dict[str, Any], config: Config, kind: str, what: str) -> float:
  """Growth of a cost from the first to the last length, as a power of the length."""
  values = metrics["cost"][kind][what]
  return float(np.log(values[-1] / values[0]) / np.log(config.lengths[-1] / config.lengths[0]))


def _errors(
  metrics: dict[str, Any], config: Config, series: str, degree: int, bound: float,
  what: str = "error",
) -> Side:  # fmt: skip
  values = metrics["errors"][f"{series} {degree}"][what][config.bounds.index(bound)]
  return Side(f"{series} {degree}, logits {bound:g}", values)


def _last(metrics: dict[str, Any], kind: str, place: int) -> list[float]:
  return [losses[-1] for losses in metrics["training"][kind][place]]


def claims(metrics: dict[str, Any], config: Config) -> list[Claim]:
  """Cost and the certificate, which are proved; where errors are small and where they are not."""
  made: list[Claim] = []
  add = lambda *parts, **options: made.append(Claim(*parts, **options))
  lower: dict[str, Any] = {"better": "lower"}
  ratio = lower | {"scale": "ratio"}
  words = {"flops": "operations", "bytes": "memory beside arguments and results"}
  for what, metric in words.items():
    for kind, bound, better in ((FAST, 1.1, "lower"), (EXACT, 1.8, "higher")):
      text = f"{kind}: {metric} grow{'s' * (what == 'bytes')} " + (
        "at most like the number of tokens (power 1.1)." if kind == FAST else
        "like its square (power 1.8 at least)."
      )  # fmt: skip
      # The same for every seed.
      side = Side(kind, [_slope(metrics, config, kind, what)] * config.seeds)
      key = f"{what}_{kind.split()[0]}"
      add(key, text, "theory", f"power of {metric}", side, Side("bound", bound), better=better)
  cells = [cell for name, cell in metrics["errors"].items() if name != NORM]
  shares = [np.asarray(cell["share of its bound"], float) for cell in cells]
  side = Side("error / bound", np.max(np.stack(shares), axis=(0, 1)).tolist())
  text = "No error of a gradient exceeds its proven bound, in all cells of logits and degrees."
  metric = "largest error as a share of its bound"
  add("certificate", text, "theory", metric, side, Side("bound", 1.0), **lower)
  at = functools.partial(_errors, metrics, config)
  expect = lambda key, text, *sides, **options: add(
    key, text, "expected", "relative error of the gradient", *sides, **options
  )
  has = lambda bounds, degrees: {*bounds} <= {*config.bounds} and {*degrees} <= {*config.degrees}
  if has({1.0}, {4}):
    text = "Logits up to 1 and degree 4: the gradient is within one percent."
    expect("small", text, at(TAYLOR, 4, 1.0), Side("1 %", 0.01), **lower)
    text = "The chained factors are more accurate than the derivative of the approximate loss."
    other = at(TAYLOR, 4, 1.0, "of the approximate loss")
    expect("chained", text, at(TAYLOR, 4, 1.0), other, **ratio)
  if has({1.0}, {2}):
    text = "At degree 2 Chebyshev's polynomial is the worse one."
    expect("chebyshev_low", text, at(TAYLOR, 2, 1.0), at(CHEBYSHEV, 2, 1.0), **ratio)
  if has({8.0}, {4}):
    text = "Logits up to 8 and degree 4: the gradient is off by more than half."
    expect("large", text, at(TAYLOR, 4, 8.0), Side("half", 0.5), statistic="median")
  if has({1.0, 4.0}, {4}):
    text = "At degree 4 logits four times as large give ten times the error at least."
    expect("norm", text, at(TAYLOR, 4, 1.0), at(TAYLOR, 4, 4.0), margin=10.0, **ratio)
  if has({2.0}, {4, 8}):
    text = "Logits up to 2: degree 8 has a tenth of the error of degree 4 at most."
    expect("degree", text, at(TAYLOR, 8, 2.0), at(TAYLOR, 4, 2.0), margin=10.0, **ratio)
    text = "At degree 8 Chebyshev's polynomial is the better one."
    expect("chebyshev_high", text, at(CHEBYSHEV, 8, 2.0), at(TAYLOR, 8, 2.0), **ratio)
  for i, bound in enumerate(config.train_bounds):
    if bound <= 1:
      text = f"Logits up to {bound:g}: both curves of the loss agree within one percent throughout."
      metric, side = "largest relative gap of the losses", Side(FAST, metrics["training"]["gap"][i])
      add(f"agree_{bound:g}", text, "expected", metric, side, Side("1 %", 0.01), **lower)
    elif bound >= 8:
      text = f"Logits up to {bound:g}: the fast gradient ends at a larger loss than the exact one."
      sides = (Side(kind, _last(metrics, kind, i)) for kind in (EXACT, FAST))
      metric = "last loss, share of the first"
      add(f"differ_{bound:g}", text, "expected", metric, *sides, **ratio)
  return made


def table(metrics: dict[str, Any], config: Config) -> list[Row]:
  """Errors of all cells, with the norm beside sqrt(log n); cost; last losses."""
  rows = []
  for series in (TAYLOR, CHEBYSHEV):
    for degree in config.degrees:
      for bound in config.bounds:
        side = _errors(metrics, config, series, degree, bound)
        if not np.isfinite(np.mean(np.asarray(side.values, float))):
          continue
        base = None if series == TAYLOR else _errors(metrics, config, TAYLOR, degree, bound)
        norm = metrics["errors"][NORM][config.bounds.index(bound)]
        note = f"Norm / sqrt(log n): {np.mean(np.asarray(norm, float)):.2f}."
        metric = f"relative error of the gradient, degree {degree}, logits {bound:g}"
        rows.append(Row(metric, Side(series, side.values), base, better="lower", note=note))
  for what in ("flops", "bytes"):
    ours, base = (Side(k, _slope(metrics, config, k, what)) for k in (FAST, EXACT))
    rows.append(Row(f"power of the tokens, {what}", ours, base, better="lower"))
    ours, base = (Side(k, metrics["cost"][k][what][-1]) for k in (FAST, EXACT))
    rows.append(Row(f"{what}, {config.lengths[-1]} tokens", ours, base, better="lower"))
  for i, bound in enumerate(config.train_bounds):
    last = (Side(kind, _last(metrics, kind, i)) for kind in (FAST, EXACT))
    rows.append(Row(f"last loss, share of the first, logits {bound:g}", *last, better="lower"))
    if bound <= 1:
      side = Side(FAST, metrics["training"][FIRST][i])
      note = (
        "Recorded a second time for this row, since both losses end at a thousandth of the first."
      )
      rows.append(Row(f"largest {FIRST}, logits {bound:g}", side, better="lower", note=note))
  return rows


def figure(record: dict[str, Any]) -> Any:
  """Errors over logits, operations over tokens, losses of fine-tuning."""
  metrics, settings = record["metrics"], record["settings"]
  fig, axes = new_figure(2, 2)
  for ax, series in zip(axes, (TAYLOR, CHEBYSHEV), strict=False):
    lines = {
      f"degree {degree}": np.asarray(metrics["errors"][f"{series} {degree}"]["error"], float).T
      for degree in settings["degrees"]
    }
    _figures.curves(
      ax, lines, settings["bounds"], xlabel="largest logit", log="xy",
      ylabel="relative error of the gradient", title=series.title(),
    )  # fmt: skip
    ax.set_ylim(1e-12, 1e3)
  lines = {kind: np.asarray(cell["flops"], float) for kind, cell in metrics["cost"].items()}
  _figures.curves(axes[2], lines, settings["lengths"], xlabel="tokens", ylabel="operations",
                  log="xy", title=f"One gradient, degree {settings['cost_degree']}")  # fmt: skip
  ends = (0, len(settings["train_bounds"]) - 1)
  lines = {
    f"{kind}, logits {settings['train_bounds'][i]:g}": np.asarray(values[i], float)
    for i in ends for kind, values in metrics["training"].items() if kind in (EXACT, FAST)
  }  # fmt: skip
  every = max(settings["steps"] // 20, 1)
  steps = np.arange(every, settings["steps"] + 1, every)
  _figures.curves(axes[3], lines, steps, xlabel="step of Adam", ylabel="loss, share of the first",
                  log="y", title="Fine-tuning")  # fmt: skip
  return fig
