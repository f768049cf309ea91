"""Noisy and blurred photographs restored by total variation, with three splitting methods."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import _figures, _statistics
from experiments._claims import Claim, Side
from experiments._pictures import decode, encode
from experiments._protocol import Paper, Progress, Row, Settings, Size, new_figure
from experiments.prox import _photographs as photos
from experiments.prox import _total_variation as tv

PAPER = Paper(
  title="Nonlinear total variation based noise removal algorithms",
  authors="Rudin, Osher and Fatemi; splitting: Chambolle and Pock (2011), Condat (2013), Vu (2013)",
  year=1992,
  claim="Total variation removes noise, and blur with noise, and keeps edges better than Wiener's "
  "filter. ADMM and the primal-dual methods of Chambolle and Pock and of Condat and Vu reach one "
  "minimum; acceleration by strong convexity brings the distance to it down like one over the "
  "number of steps.",
  section="Rudin et al. section 3; Chambolle and Pock theorem 2 and section 6",
  url="https://doi.org/10.1016/0167-2789(92)90242-F",
)
TASKS = ("denoising", "deblurring")
# The last two: its solver of the same objective, with its own stop, and with as many steps as ours.
WIENER, LUCY, OTHER, OTHER_LONG = (
  "Wiener", "Richardson-Lucy", "scikit-image", "scikit-image, long",
)  # fmt: skip
_POINTS = 60  # of a curve in the record


@dataclasses.dataclass(frozen=True)
class Config(Settings):
  """Settings.

  Each seed draws its own square of the picture's left half and its noise. Strengths, first steps,
  and the numbers of the filters are chosen on squares of the right half.

  Attributes:
    picture: a grey picture bundled with scikit-image.
    tuning: number of squares on which all is chosen; half of them for the first steps.
    pixels: side of a square after averaging blocks.
    block: side of an averaged block.
    noise: standard deviation of the noise for denoising; grey values are in [0, 1].
    blur: standard deviation of the Gaussian blur, in pixels.
    blur_noise: standard deviation of the noise on the blurred picture.
    methods: which of ``_total_variation.METHODS`` are compared; ADMM among them.
    strengths: number of strengths in the grid of each task.
    lowest: smallest strength, one for denoising and one for deblurring.
    highest: largest strength of the two grids.
    steps: steps of each solve.
    jumps: first steps that every method tries, see ``_total_variation.Point``; the best reaches the
      goal in the fewest steps.
    grid_jump: that of ADMM while strengths are compared.
    goals: relative distances to the minimum up to which steps are counted, one a task.
    balances: of the Wiener filter.
    lucy_steps: of the Richardson-Lucy iteration.
  """

  seeds: int = 16
  picture: str = "camera"
  tuning: int = 4
  pixels: int = 64
  block: int = 2
  noise: float = 0.1
  blur: float = 1.5
  blur_noise: float = 0.01
  methods: tuple[str, ...] = tv.METHODS
  strengths: int = 10
  lowest: tuple[float, ...] = (0.01, 5e-5)
  highest: tuple[float, ...] = (0.3, 5e-3)
  steps: int = 1000
  jumps: tuple[float, ...] = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 10.0, 100.0)
  grid_jump: float = 0.03
  goals: tuple[float, ...] = (1e-6, 1e-4)
  balances: tuple[float, ...] = (
    1e-4, 3e-4, 1e-3, 3e-3, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0,
  )  # fmt: skip
  lucy_steps: tuple[float, ...] = (5.0, 10.0, 20.0, 35.0, 50.0, 70.0, 100.0, 150.0, 200.0)


SIZES = {
  "toy": Size(
    Config(
      seeds=2, pixels=24, block=8, tuning=2, methods=tv.METHODS[:3], strengths=2, steps=100,
      jumps=(0.03, 1.0), balances=(0.03, 0.3), lucy_steps=(10.0, 20.0),
    ),
    "Squares of 24 x 24 pixels, few steps, without Condat and Vu.",
  ),
  "desk": Size(Config(), "Squares of 64 x 64 pixels of a public photograph."),
  "large": Size(
    Config(seeds=20, pixels=256, block=1, strengths=16, steps=4000),
    "Squares of 256 x 256 pixels of a public photograph.",
  ),
}  # fmt: skip


def solve_all(
  progress: Progress, name: str, config: Config, points: tv.Point, problem: tv.Problem
) -> tv.Solved:
  """Any number of solves, as many at a time as there are seeds: one program for all of them."""
  solve, convexity = tv.make_solve(name, config.steps)
  num, parts = len(points.lam), []
  for start in range(0, num, config.seeds):
    rows = np.minimum(np.arange(start, start + config.seeds), num - 1)
    part = tv.Point(*(jnp.asarray(np.asarray(v)[rows]) for v in points))
    arguments = (part, jnp.asarray(convexity), problem)
    parts.append(jax.tree.map(np.asarray, progress.clock.call(solve, *arguments, name=name)))
  return tv.Solved(*(np.concatenate(v)[:num] for v in zip(*parts, strict=True)))


def make_points(observed: Any, lams: Sequence[float], jumps: Sequence[float]) -> tv.Point:
  """All pictures with the first pair of settings, then with the second, and so on."""
  num, pairs = len(observed), len(lams)
  y = np.tile(observed, (pairs, 1, 1))
  return tv.Point(y, np.repeat(lams, num), np.repeat(jumps, num), y)


def steps_to(values: np.ndarray, least: np.ndarray, goal: float) -> np.ndarray:
  """The first step within a relative distance of the least value; one more than all where none."""
  reached = values <= least[..., None] * (1 + goal)
  return np.where(reached.any(-1), reached.argmax(-1) + 1, values.shape[-1] + 1)


def run_task(
  task: str, squares: Any, tuning: Any, config: Config, progress: Progress, choices: list
) -> dict[str, Any]:
  """One task: what is chosen on the tuning squares, then every method on the others."""
  number, deblur = TASKS.index(task), task == "deblurring"
  blur, goal = (config.blur if deblur else 0.0), config.goals[number]
  problem = tv.make_problem(config.pixels, blur)
  sigma = config.blur_noise if deblur else config.noise
  blurred = lambda x: tv.filtered(x, problem.blur, problem)
  observe = lambda pairs: np.stack([blurred(x) + sigma * e[number] for x, e in pairs])
  truths, tuned = ([x for x, _ in pairs] for pairs in (squares, tuning))
  observed, trial = observe(squares), observe(tuning)

  grid = np.geomspace(config.lowest[number], config.highest[number], config.strengths)
  points = make_points(trial, grid, [config.grid_jump] * len(grid))
  found = solve_all(progress, tv.ADMM, config, points, problem).image
  near = [photos.decibels(*pair) for pair in zip(found, tuned * len(grid), strict=True)]
  scores = np.reshape(near, (len(grid), -1)).mean(1)
  choices.append(_statistics.choose(f"strength, {task}", grid, scores, better="higher"))
  lam = choices[-1].chosen

  methods = [m for m in config.methods if m != tv.FAST or not deblur]
  few = trial[: max(1, config.tuning // 2)]
  points, paths = make_points(few, [lam] * len(config.jumps), config.jumps), {}
  for name in methods:
    values = solve_all(progress, name, config, points, problem).values
    paths[name] = values.reshape(len(config.jumps), len(few), -1)
  least = np.min([v.min(axis=(0, 2)) for v in paths.values()], axis=0)
  solved: dict[str, tv.Solved] = {}
  for name, values in paths.items():
    score = steps_to(values, least, goal).mean(1)
    found_jump = _statistics.choose(f"first step of {name}, {task}", config.jumps, score,
                                    better="lower")  # fmt: skip
    choices.append(found_jump)
    points = make_points(observed, [lam], [found_jump.chosen])
    if tv.ADMM in solved:
      points = points._replace(reference=solved[tv.ADMM].image)
    solved[name] = solve_all(progress, name, config, points, problem)

  least = np.min([s.values.min(axis=1) for s in solved.values()], axis=0)
  place = np.unique(np.geomspace(1, config.steps, _POINTS).astype(int))
  result: dict[str, Any] = {"strength": lam, "methods": {}, "place": place}
  for name, s in solved.items():
    gaps, last = s.values / least[:, None] - 1, s.values[:, -1]
    span = np.arange(config.steps // 20, config.steps // 2)  # between the start and the reference
    slope = [np.polyfit(np.log(span), np.log(d[span - 1]), 1)[0] for d in s.distances]
    result["methods"][name] = {
      "steps": steps_to(s.values, least, goal), "gap": gaps[:, -1],
      "certified": (last - s.bound) / last, "slope": slope,
      "curve": np.exp(np.mean(np.log(np.maximum(gaps[:, place - 1], 1e-12)), axis=0)),
    }  # fmt: skip
  pictures = {"observed": observed, "total variation": solved[tv.ADMM].image}
  for name, tool, settings in (
    (WIENER, photos.wiener, config.balances),
    (LUCY, photos.richardson_lucy, config.lucy_steps),
  ):
    if name == WIENER or deblur:
      restore, pairs = tool(blur), list(zip(trial, tuned, strict=True))
      choices.append(photos.tune_filter(f"setting of {name}, {task}", restore, settings, pairs))
      pictures[name] = np.stack([restore(y, choices[-1].chosen) for y in observed])
  if not deblur:  # scikit-image's solver of the same objective
    from skimage.restoration import denoise_tv_chambolle

    for name, extra in ((OTHER, {}), (OTHER_LONG, {"eps": 0.0, "max_num_iter": config.steps})):
      pictures[name] = np.stack([denoise_tv_chambolle(y, lam, **extra) for y in observed])
    value = jax.jit(jax.vmap(lambda x, y: tv.objective(x, (None, lam), y, problem)))
    result["excess"] = np.asarray(value(pictures[OTHER_LONG], observed)) / least - 1
  result["levels"] = {name: photos.levels(v, truths) for name, v in pictures.items()}
  shown = ("observed", "total variation", WIENER)
  result["pictures"] = {n: encode(pictures[n][0]) for n in shown} | {"original": encode(truths[0])}
  return result


@jax.enable_x64(True)
def run(config: Config, progress: Progress) -> dict[str, Any]:
  """Both tasks, on squares of one half of the picture, tuned on squares of the other."""
  squares = [photos.make_square(config, seed, 0) for seed in config.seed_numbers()]
  tuning = [photos.make_square(config, k, 1) for k in range(config.tuning)]
  choices: list[_statistics.Choice] = []
  metrics = {
    task: run_task(task, squares, tuning, config, progress, choices)
    for task in progress.track(TASKS, "tasks")
  }
  return {**metrics, "choices": choices}


def claims(metrics: dict[str, Any], config: Config) -> list[Claim]:
  """Beside Wiener's filter; that all methods reach one minimum; what acceleration gives."""
  made = []
  closer = "closer to the original by total variation than by Wiener's filter."
  for key, task, kind, what in (
    ("wiener_denoising", "denoising", "psnr", "Denoised, a picture is"),
    ("wiener_edges", "denoising", "edges", "Denoised, the edges of a picture are"),
    ("wiener_deblurring", "deblurring", "psnr", "Deblurred, a picture is"),
  ):
    found = metrics[task]["levels"]
    sides = [Side(name, found[name][kind]) for name in ("total variation", WIENER)]
    where = f"the {photos.EDGES:.0%} steepest pixels" if kind == "edges" else "all pixels"
    made.append(Claim(key, f"{what} {closer}", "paper", f"PSNR in dB of {where}, {task}", *sides))
  for task, key in zip(TASKS, ("certified", "gap"), strict=True):
    found = metrics[task]["methods"]
    worst = np.max([np.asarray(v[key], float) for v in found.values()], axis=0)
    sides = [Side(f"worst of {len(found)} methods", worst), Side("1e-4", 1e-4)]
    what = "duality gap" if key == "certified" else "distance to the least objective found"
    text = (
      f"{task.capitalize()}: after {config.steps} steps every method is within 1e-4 of the minimum."
    )
    metric = f"{what}, relative"
    made.append(Claim(f"minimum_{task}", text, "theory", metric, *sides, better="lower"))
  fast, plain = (metrics["denoising"]["methods"].get(name) for name in (tv.FAST, tv.PLAIN))
  if fast:
    text = "With acceleration the distance to the solution falls like one over the steps or faster."
    metric = "slope of log ||x_k - x*|| over log k, denoising"
    sides = [Side(tv.FAST, fast["slope"]), Side("-1", -1.0)]
    made.append(Claim("rate", text, "theory", metric, *sides, better="lower"))
  if fast and plain:
    text = "Each with its best first step, the accelerated method takes fewer steps than the plain."
    metric = f"steps until within {config.goals[0]:g} of the minimum, denoising"
    sides = [Side(tv.FAST, fast["steps"]), Side(tv.PLAIN, plain["steps"])]
    made.append(Claim("acceleration", text, "paper", metric, *sides, better="lower", scale="ratio"))
  return made


def table(metrics: dict[str, Any], config: Config) -> list[Row]:
  """Signal-to-noise ratios beside every filter, and steps beside ADMM."""
  rows = []
  for task, goal in zip(TASKS, config.goals, strict=True):
    found, methods = metrics[task]["levels"], metrics[task]["methods"]
    for kind, what in (("psnr", "PSNR in dB"), ("edges", "PSNR in dB at edges")):
      ours = Side("total variation", found["total variation"][kind])
      rows += [
        Row(f"{what}, {task}", ours, Side(name, v[kind]))
        for name, v in found.items() if name != "total variation"
      ]  # fmt: skip
    base = Side(tv.ADMM, methods[tv.ADMM]["steps"])
    rows += [
      Row(f"steps until within {goal:g} of the minimum, {task}", Side(name, v["steps"]), base,
          "lower", note=f"{config.steps + 1} stands for more than {config.steps}.")
      for name, v in methods.items() if name != tv.ADMM
    ]  # fmt: skip
  sides = (
    Side(tv.ADMM, metrics["denoising"]["methods"][tv.ADMM]["gap"]),
    Side(OTHER_LONG, metrics["denoising"]["excess"]),
  )
  metric = f"objective above the least found after {config.steps} steps, relative, denoising"
  return [*rows, Row(metric, *sides, "lower")]


def figure(record: dict[str, Any]) -> Any:
  """A row a task: pictures, signal-to-noise ratios, the ways of the methods to the minimum."""
  fig, axes = new_figure(2, 6, width=2.7, height=3.2)
  for row, task in enumerate(TASKS):
    result, panels = record["metrics"][task], axes[6 * row : 6 * row + 6]
    for ax, name in zip(panels, ("original", "observed", WIENER, "total variation"), strict=False):
      picture = decode(result["pictures"][name], record["settings"]["pixels"])
      ax.imshow(picture, cmap="gray", vmin=0, vmax=1)
      level = "" if name == "original" else f": {result['levels'][name]['psnr'][0]:.1f} dB"
      ax.set_title(name + level, fontsize=9)
      ax.set_axis_off()
    kinds = {"all pixels": "psnr", "edges": "edges"}
    groups = {g: {n: v[k] for n, v in result["levels"].items()} for g, k in kinds.items()}
    _figures.dots(panels[4], groups, ylabel="PSNR (dB)", title=task)
    lines = {name: v["curve"] for name, v in result["methods"].items()}
    _figures.curves(
      panels[5], lines, result["place"], xlabel="step", log="xy",
      ylabel="relative excess", title=f"{task}, strength {result['strength']:.2g}",
    )  # fmt: skip
    panels[5].axhline(record["settings"]["goals"][row], color="k", ls=":", lw=1)
  return fig
