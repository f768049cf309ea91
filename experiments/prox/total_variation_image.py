"""A noisy and a blurred photograph restored by total variation, with three splitting methods."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments._earlier import Claim, Outcome, Row
from experiments._pictures import decode, encode, load_picture, psnr
from experiments._protocol import Paper, Progress, new_figure
from jaxopt_robust import debug, prox, solvers, sweeps

PAPER = Paper(
  title="Nonlinear total variation based noise removal algorithms",
  authors="Rudin, Osher and Fatemi; splitting: Chambolle and Pock (2011), Condat (2013), Vu (2013)",
  year=1992,
  claim="Total variation removes noise, and blur with noise, and keeps edges. ADMM and the "
  "primal-dual methods of Chambolle and Pock and of Condat and Vu reach one minimum, differently "
  "fast; the restored picture is closer to the original than by Wiener's filter or the iteration "
  "of Richardson and Lucy.",
  section="Our own trial on one photograph; the papers quote no number for it",
  url="https://doi.org/10.1016/0167-2789(92)90242-F",
)

_CURVE_POINTS = 80  # of a curve in the record
_TASKS = ("denoising", "deblurring")
_LUCY_STEPS = (10, 20, 35, 50, 70, 100)


@dataclasses.dataclass(frozen=True)
class Config:
  """Settings.

  Attributes:
    seeds: number of draws of the noise.
    picture: a grey picture bundled with scikit-image.
    top: first row of the square that is cut out.
    left: first column of the square that is cut out.
    pixels: side of the picture after averaging blocks.
    block: side of an averaged block.
    noise: standard deviation of the noise for denoising; grey values are in [0, 1].
    blur: standard deviation of the Gaussian blur, in pixels.
    blur_noise: standard deviation of the noise on the blurred picture.
    strengths: number of strengths in the grid of each task.
    lowest: smallest strength, one for denoising and one for deblurring.
    highest: largest strength of the two grids.
    grid_steps: ADMM steps for each point of the grids.
    steps: steps of each method at the chosen strength.
    jump: jump between neighbouring pixels that the first step cuts to zero: the weight of ADMM and
      the dual step of the others are the strength divided by it.
    accelerated_jump: the same for the accelerated method, whose steps change by themselves.
    goal: relative distance to the minimum up to which steps are counted.
  """

  seeds: int = 5
  picture: str = "camera"
  top: int = 30
  left: int = 80
  pixels: int = 96
  block: int = 4
  noise: float = 0.1
  blur: float = 1.5
  blur_noise: float = 0.01
  strengths: int = 8
  lowest: tuple[float, ...] = (0.02, 1e-4)
  highest: tuple[float, ...] = (0.2, 3e-3)
  grid_steps: int = 80
  steps: int = 1000
  jump: float = 0.03
  accelerated_jump: float = 1.0
  goal: float = 1e-4


SIZES = {
  "toy": Config(seeds=1, pixels=24, block=16, strengths=3, grid_steps=40, steps=80),
  "desk": Config(),
  "large": Config(
    seeds=10, top=0, left=0, pixels=512, block=1, strengths=16, grid_steps=150, steps=2000
  ),
}


class Problem(NamedTuple):
  """One picture to be restored.

  The borders reflect, so that the blur and the Laplacian are both diagonal in the cosine basis.

  Attributes:
    observed: float[n, n], y.
    basis: float[n, n], the orthonormal cosines (DCT-II) as rows.
    laplacian: float[n, n], eigenvalues of K^T K.
    blur: float[n, n], eigenvalues of A, ones for denoising: one program then serves both tasks.
  """

  observed: jax.Array
  basis: jax.Array
  laplacian: jax.Array
  blur: jax.Array


def cosine_basis(n: int) -> np.ndarray:
  """The orthonormal type-II cosine transform as a matrix."""
  k, i = np.arange(n)[:, None], np.arange(n)[None, :]
  return np.sqrt(np.where(k == 0, 1, 2) / n) * np.cos(np.pi * k * (2 * i + 1) / (2 * n))


def kernel(sigma: float) -> np.ndarray:
  """Samples of a Gaussian up to four deviations, of sum 1."""
  radius = int(4 * sigma + 0.5)
  weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
  return weights / weights.sum()


def make_problem(pixels: int, blur: float | None) -> Problem:
  """The operators of a task; ``observed`` is zero, ``blur`` None the identity."""
  frequency = np.pi * np.arange(pixels) / pixels
  second = 2 - 2 * np.cos(frequency)
  values = np.ones((pixels, pixels))
  if blur is not None:
    weights = kernel(blur)
    shifts = np.arange(len(weights)) - len(weights) // 2
    row = np.cos(np.outer(frequency, shifts)) @ weights
    values = np.outer(row, row)
  return Problem(
    jnp.zeros((pixels, pixels)),
    jnp.asarray(cosine_basis(pixels)),
    jnp.asarray(second[:, None] + second[None, :]),
    jnp.asarray(values),
  )


def differences(x: jax.Array, problem: Problem | None = None) -> jax.Array:
  """K x: float[n, n, 2], forward differences down and across, zero at the far border."""
  del problem
  down, across = jnp.diff(x, axis=0), jnp.diff(x, axis=1)
  return jnp.stack([jnp.pad(down, ((0, 1), (0, 0))), jnp.pad(across, ((0, 0), (0, 1)))], -1)


def filtered(x: jax.Array, factors: jax.Array, problem: Problem) -> jax.Array:
  """The operator with the eigenvalues ``factors`` in the cosine basis."""
  c = problem.basis
  return c.T @ (factors * (c @ x @ c.T)) @ c


def misfit(x: jax.Array, problem: Problem) -> jax.Array:
  """1/2 ||A x - y||^2."""
  return 0.5 * jnp.sum((filtered(x, problem.blur, problem) - problem.observed) ** 2)


def objective(x: jax.Array, hyper: Any, problem: Problem) -> jax.Array:
  """1/2 ||A x - y||^2 + lam sum_ij ||(K x)_ij||_2, isotropic total variation."""
  return misfit(x, problem) + prox.penalty_l21(differences(x), hyper[1])


def quadratic_argmin(v: jax.Array, weight: Any, problem: Problem, penalty: Any) -> jax.Array:
  """argmin_x 1/2 ||A x - y||^2 + weight (1/2 <x, P x> - <v, x>), P with eigenvalues ``penalty``."""
  right = filtered(problem.observed, problem.blur, problem) + weight * v
  return filtered(right, 1 / (problem.blur**2 + weight * penalty), problem)


def admm(lam: jax.Array, jump: Any) -> solvers.Solver:
  """Its step in x is one solve in the cosine basis."""

  def argmin(v: jax.Array, _: Any, rho: jax.Array, problem: Problem) -> jax.Array:
    (adjoint,) = jax.linear_transpose(differences, problem.observed)(v)
    return quadratic_argmin(adjoint, rho, problem, problem.laplacian)

  return solvers.admm(argmin, prox.prox_l21, differences, weight=lam / jump, objective=objective)


def _prox_misfit(x: jax.Array, problem: Problem, scaling: Any) -> jax.Array:
  return quadratic_argmin(x, 1 / scaling, problem, 1.0)


def chambolle_pock(
  lam: jax.Array, jump: Any, norm: Any, *, convexity: float = 0.0
) -> solvers.Solver:
  """With the exact operator of the misfit; accelerated where that is strongly convex."""
  sigma = lam / jump
  return solvers.chambolle_pock(
    _prox_misfit, prox.prox_l21, differences, stepsize=0.99 / (sigma * norm**2),
    dual_stepsize=sigma, strong_convexity=convexity, objective=objective,
  )  # fmt: skip


def condat_vu(lam: jax.Array, jump: Any, norm: Any) -> solvers.Solver:
  """With gradients of the misfit, whose Lipschitz constant is 1 for any blur."""
  sigma = lam / jump
  return solvers.condat_vu(
    misfit, prox.prox_none, prox.prox_l21, differences,
    stepsize=1 / (0.5 + sigma * norm**2), dual_stepsize=sigma, objective=objective,
  )  # fmt: skip


_FAST = "Chambolle-Pock, accelerated"
# name -> (solver of (strength, jump, norm of K), tasks)
METHODS: dict[str, tuple[Callable[..., solvers.Solver], tuple[str, ...]]] = {
  "ADMM": (lambda lam, jump, norm: admm(lam, jump), _TASKS),
  "Chambolle-Pock": (chambolle_pock, _TASKS),
  _FAST: (functools.partial(chambolle_pock, convexity=1.0), ("denoising",)),
  "Condat-Vu": (condat_vu, _TASKS),
}


def _hyper(name: str, lam: Any, problem: Problem) -> tuple:
  return (problem if name.startswith("Chambolle") else None, lam)


def make_grid_search(config: Config) -> tuple[Callable[..., Any], debug.TraceCounter]:
  """``search(strengths, observed, *shared) -> errors``, one point a row; and its trace counter."""

  @debug.count_traces
  def solve(lam: Any, observed: Any, jump: Any, problem: Problem, truth: Any) -> jax.Array:
    problem = problem._replace(observed=observed)
    solver, hyper = admm(lam, jump), (None, lam)
    x, _ = solvers.run_steps(solver, observed, hyper, problem, num_steps=config.grid_steps)
    return jnp.linalg.norm(x - truth)

  mapped = sweeps.sweep(solve, lanes=config.seeds)  # bounds the memory
  return jax.jit(lambda lams, observed, *shared: mapped(lams, observed, shared=shared)), solve


@functools.cache
def make_solve(name: str, steps: int) -> Callable[..., Any]:
  """``solve(observed, lam, jump, norm, problem)``: pictures, duals and the values of each step."""

  def one(observed: Any, lam: Any, jump: Any, norm: Any, problem: Problem) -> tuple:
    problem = problem._replace(observed=observed)
    solver, hyper = METHODS[name][0](lam, jump, norm), _hyper(name, lam, problem)

    def body(state: Any, _: None) -> tuple[Any, jax.Array]:
      state, info = solver.step(state, hyper, problem)
      return state, info.value

    state = solver.init(observed, hyper, problem)
    state, values = jax.lax.scan(body, state, None, length=steps)
    dual = state.dual * (state.weight if name == "ADMM" else 1.0)
    return state.params, dual_value(dual, lam, problem), values

  mapped = sweeps.sweep(one)
  return jax.jit(lambda observed, *shared: mapped(observed, shared=shared))


def dual_value(p: jax.Array, lam: Any, problem: Problem) -> jax.Array:
  """A lower bound of the denoising minimum: 1/2 ||y||^2 - 1/2 ||y - K^T p||^2, ||p_ij|| <= lam."""
  size = jnp.sqrt(jnp.sum(p**2, -1, keepdims=True))
  feasible = p * jnp.minimum(1.0, lam / jnp.maximum(size, lam))
  y = problem.observed
  (back,) = jax.linear_transpose(differences, y)(feasible)
  return 0.5 * jnp.sum(y**2) - 0.5 * jnp.sum((y - back) ** 2)


def best_setting(
  restore: Callable[[np.ndarray, Any], np.ndarray],
  grid: Any, observed: np.ndarray, truth: np.ndarray,
) -> tuple[Any, np.ndarray, np.ndarray]:  # fmt: skip
  """The setting with the best mean PSNR over the draws, its PSNRs, and its first picture."""
  found = []
  for setting in grid:
    images = [restore(y, setting) for y in observed]
    found.append(([psnr(np.linalg.norm(x - truth), len(truth)) for x in images], images[0]))
  best = int(np.argmax([np.mean(levels) for levels, _ in found]))
  return grid[best], np.asarray(found[best][0]), found[best][1]


def wiener(sigma: float) -> Callable[[np.ndarray, float], np.ndarray]:
  """scikit-image's Wiener filter, on the mirrored picture: the borders then fit exactly."""
  from skimage import restoration

  point_spread = np.outer(kernel(sigma), kernel(sigma))

  def restore(y: np.ndarray, balance: float) -> np.ndarray:
    n = len(y)
    mirrored = np.pad(y, ((0, n), (0, n)), mode="symmetric")
    return restoration.wiener(mirrored, point_spread, balance, clip=False)[:n, :n]

  return restore


def richardson_lucy(sigma: float) -> Callable[[np.ndarray, int], np.ndarray]:
  """scikit-image's Richardson-Lucy iteration, on a picture with a mirrored rim."""
  from skimage import restoration

  point_spread = np.outer(kernel(sigma), kernel(sigma))

  def restore(y: np.ndarray, steps: int) -> np.ndarray:
    rim = min(len(y), 4 * len(point_spread) // 2)
    padded = np.maximum(np.pad(y, rim, mode="symmetric"), 0.0)
    out = restoration.richardson_lucy(padded, point_spread, num_iter=steps, clip=False)
    return out[rim:-rim, rim:-rim]

  return restore


def run(config: Config, progress: Progress) -> Outcome:
  """Restores the noisy and the blurred picture."""
  with jax.enable_x64(True):
    return _run(config, progress)


def _run(config: Config, progress: Progress) -> Outcome:
  truth = load_picture(
    config.picture, top=config.top, left=config.left, pixels=config.pixels, block=config.block
  ).astype(np.float64)
  call = progress.clock.call
  search, counter = make_grid_search(config)
  norm = solvers.operator_norm(differences, jnp.asarray(truth), key=jax.random.key(0))
  metrics: dict[str, Any] = {}
  drawing: dict[str, Any] = {"pictures": {"original": encode(truth)}, "curves": {}}
  for number, task in enumerate(progress.track(_TASKS, "tasks")):
    problem = make_problem(config.pixels, config.blur if task == "deblurring" else None)
    noise = config.noise if task == "denoising" else config.blur_noise
    clean = filtered(jnp.asarray(truth), problem.blur, problem)
    keys = jax.random.split(jax.random.fold_in(jax.random.key(1), number), config.seeds)
    observed = clean[None] + noise * jax.vmap(lambda k: jax.random.normal(k, truth.shape))(keys)
    result: dict[str, Any] = {"norm": float(norm)}
    result["observed"] = _levels(observed, truth)
    drawing["pictures"][f"{task}, observed"] = encode(observed[0])

    # The strength: every pair of a strength and a draw is one point of one sweep.
    grid = np.geomspace(config.lowest[number], config.highest[number], config.strengths)
    lams = jnp.repeat(jnp.asarray(grid), config.seeds)
    tiled = jnp.tile(observed, (config.strengths, 1, 1))
    jump = jnp.asarray(config.jump)
    errors = call(search, lams, tiled, jump, problem, jnp.asarray(truth), name=f"{task}: grid")
    levels = psnr(errors, config.pixels).reshape(config.strengths, config.seeds)
    lam = float(grid[int(np.argmax(levels.mean(1)))])
    result |= {"strengths": grid, "grid_psnr": levels, "strength": lam}

    values, images = {}, {}
    for name, (_, tasks) in METHODS.items():
      if task in tasks:
        solve = make_solve(name, config.steps)
        own_jump = jnp.asarray(config.accelerated_jump) if name == _FAST else jump
        arguments = (observed, jnp.asarray(lam), own_jump, norm, problem)
        images[name], bound, values[name] = jax.tree.map(
          np.asarray, call(solve, *arguments, name=f"{task}: {name}")
        )
        result[name] = {"psnr": _levels(images[name], truth), "value": values[name][:, -1]}
        if task == "denoising":
          gap = (values[name][:, -1] - bound) / values[name][:, -1]
          result[name]["duality_gap"] = gap
    least = np.min([v.min(axis=1) for v in values.values()], axis=0)
    drawing["curves"][task] = {}
    for name, value in values.items():
      gaps = value / least[:, None] - 1
      reached = gaps <= config.goal
      first = np.where(reached.any(1), reached.argmax(1) + 1, config.steps + 1)
      result[name] |= {"relative_gap": gaps[:, -1], "steps_to_goal": first}
      apart = images[name] - images["ADMM"]
      result[name]["rms_difference"] = np.sqrt(np.mean(apart**2, axis=(1, 2)))
      result[name]["largest_difference"] = float(np.abs(apart).max())
      index = np.unique(np.geomspace(1, config.steps, _CURVE_POINTS).astype(int))
      curve = np.maximum(gaps[0][index - 1], 1e-12)
      drawing["curves"][task][name] = [index, [float(f"{g:.3g}") for g in curve]]
    drawing["pictures"][f"{task}, total variation"] = encode(images["ADMM"][0])
    result["least"] = least
    metrics[task] = result

    evaluate = functools.partial(_peer_values, problem, lam)
    if task == "denoising":
      result["scikit-image"] = _denoise_peer(config, observed, truth, lam, least, evaluate)
    else:
      for name, tool, settings in (
        ("Wiener", wiener(config.blur), np.geomspace(1e-4, 1.0, 3 * config.strengths)),
        ("Richardson-Lucy", richardson_lucy(config.blur), _LUCY_STEPS),
      ):
        best, levels, image = best_setting(tool, settings, np.asarray(observed), truth)
        result[name] = {"psnr": levels, "setting": float(best)}
        drawing["pictures"][name] = encode(image)
  metrics["sweep"] = {"points": 2 * len(lams), "traces": counter.traces}
  metrics["drawing"] = drawing
  return Outcome(metrics, _table(config, metrics), _claims(config, metrics))


def _levels(images: Any, truth: np.ndarray) -> np.ndarray:
  return psnr(np.linalg.norm(np.asarray(images) - truth, axis=(1, 2)), len(truth))


def _peer_values(problem: Problem, lam: float, images: Any, observed: Any) -> np.ndarray:
  """Our objective at pictures made elsewhere."""

  def value(x: Any, y: Any) -> jax.Array:
    return objective(x, (None, lam), problem._replace(observed=y))

  return np.asarray(jax.vmap(value)(jnp.asarray(images), observed))


def _denoise_peer(
  config: Config, observed: Any, truth: Any, lam: float, least: Any, evaluate: Any
) -> dict[str, Any]:
  """scikit-image's solver of the same objective: as it comes, and with as many steps as ours."""
  from skimage import restoration

  result = {}
  for name, extra in (
    ("default", {}),
    ("long", {"eps": 0.0, "max_num_iter": config.steps}),
  ):
    images = [restoration.denoise_tv_chambolle(np.asarray(y), lam, **extra) for y in observed]
    excess = evaluate(np.stack(images), observed) / least - 1
    result[name] = {"psnr": _levels(images, truth), "relative_excess": excess}
  return result


def _mean(metrics: dict[str, Any], task: str, *path: str) -> float:
  value = metrics[task]
  for key in path:
    value = value[key]
  return float(np.mean(value))


def _table(config: Config, metrics: dict[str, Any]) -> list[Row]:
  size = f"{config.pixels} x {config.pixels} pixels"
  what = {
    "denoising": f"PSNR in dB, noise {config.noise:g}, {size}",
    "deblurring": f"PSNR in dB, blur {config.blur:g} px, noise {config.blur_noise:g}, {size}",
  }
  rows = []
  for task, baseline, path in (
    ("denoising", "noisy picture", ("observed",)),
    ("denoising", "scikit-image, same strength, its own stop", ("scikit-image", "default", "psnr")),
    ("deblurring", "blurred picture", ("observed",)),
    ("deblurring", "Wiener, tuned", ("Wiener", "psnr")),
    ("deblurring", "Richardson-Lucy, tuned", ("Richardson-Lucy", "psnr")),
  ):
    rows.append(
      Row(
        f"total variation, {task}",
        what[task],
        _mean(metrics, task, "ADMM", "psnr"),
        baseline=_mean(metrics, task, *path),
        baseline_name=baseline,
        spread=float(np.std(metrics[task]["ADMM"]["psnr"])),
        note=f"Strength {metrics[task]['strength']:.2g}, the best of the grid in the mean over the "
        "draws; the tuned baselines are tuned in the same way, with the original at hand."
        if path == ("observed",)
        else "",
      )
    )
  rows.append(
    Row(
      "ADMM, denoising",
      f"objective above the minimum after {config.steps} steps, relative",
      _mean(metrics, "denoising", "ADMM", "duality_gap"),
      baseline=_mean(metrics, "denoising", "scikit-image", "long", "relative_excess"),
      baseline_name="scikit-image, as many steps",
      better="lower",
      spread=float(np.std(metrics["denoising"]["ADMM"]["duality_gap"])),
      note="For ADMM the certified bound (duality gap), for scikit-image the excess over the least "
      "objective found.",
    )
  )
  for task in _TASKS:
    for name, (_, tasks) in METHODS.items():
      if task in tasks and name != "ADMM":
        rows.append(
          Row(
            f"{name}, {task}",
            f"steps until within {config.goal:g} of the minimum",
            _mean(metrics, task, name, "steps_to_goal"),
            baseline=_mean(metrics, task, "ADMM", "steps_to_goal"),
            baseline_name="ADMM",
            better="lower",
            spread=float(np.std(metrics[task][name]["steps_to_goal"])),
            note="Step sizes chosen by hand. A pixel differs from ADMM's by up to "
            f"{metrics[task][name]['largest_difference']:.1g} of the grey range after "
            f"{config.steps} steps.",
          )
        )
  return rows


def _claims(config: Config, metrics: dict[str, Any]) -> list[Claim]:
  claims = []
  for task in _TASKS:
    result = metrics[task]
    names = [n for n, (_, tasks) in METHODS.items() if task in tasks]
    gaps = {n: float(np.max(result[n]["relative_gap"])) for n in names}
    apart = {f"RMS of {n} - ADMM": float(np.max(result[n]["rms_difference"])) for n in names[1:]}
    claims.append(
      Claim(
        f"{task.capitalize()}: after {config.steps} steps all methods are within {config.goal:g} "
        "of the least objective in every draw; the pictures differ by 0.01 of the grey range at "
        "most (root mean square).",
        max(gaps.values()) <= config.goal and max(apart.values()) <= 0.01,
        {**gaps, **apart},
      )
    )
  denoising, deblurring = (metrics[task] for task in _TASKS)
  certified = {
    n: float(np.max(denoising[n]["duality_gap"])) for n in METHODS if "duality_gap" in denoising[n]
  }
  claims.append(
    Claim(
      f"Denoising: the duality gaps certify a minimum within {config.goal:g} of its value.",
      max(certified.values()) <= config.goal,
      certified,
    )
  )
  peer = {k: float(np.min(v["relative_excess"])) for k, v in denoising["scikit-image"].items()}
  claims.append(
    Claim(
      "Denoising: scikit-image's objective is never below ours, and approaches it with more steps.",
      min(peer.values()) > -1e-6 and peer["long"] < peer["default"] + 1e-12,
      {**peer, "long, worst": float(np.max(denoising["scikit-image"]["long"]["relative_excess"]))},
    )
  )
  gain = {
    task: float(np.min(np.subtract(metrics[task]["ADMM"]["psnr"], metrics[task]["observed"])))
    for task in _TASKS
  }
  claims.append(
    Claim(
      "Total variation gains at least 5 dB by denoising and 2 dB by deblurring, in every draw.",
      gain["denoising"] > 5 and gain["deblurring"] > 2,
      gain,
    )
  )
  best = float(np.min(deblurring["ADMM"]["psnr"]))
  peers = {n: float(np.max(deblurring[n]["psnr"])) for n in ("Wiener", "Richardson-Lucy")}
  claims.append(
    Claim(
      "Deblurring: the worst draw by total variation beats the best draws of the tuned Wiener "
      "filter and the tuned Richardson-Lucy iteration.",
      best > max(peers.values()),
      {"total variation": best, **peers},
    )
  )
  claims.append(
    Claim(
      "All strengths, draws and both tasks cost one trace and one compile of the solver.",
      metrics["sweep"]["traces"] == 1,
      metrics["sweep"],
    )
  )
  return claims


def figure(record: dict[str, Any]) -> Any:
  """A row a task: the pictures, the choice of the strength, the ways to the minimum."""
  metrics, settings = record["metrics"], record["settings"]
  drawing, pixels = metrics["drawing"], settings["pixels"]
  fig, axes = new_figure(2, 5, width=3.0, height=3.0)
  first = lambda task, *path: functools.reduce(lambda v, k: v[k], path, metrics[task])[0]
  panels = {
    "denoising": (
      ("original", "original", None),
      ("denoising, observed", "noisy", first("denoising", "observed")),
      (
        "denoising, total variation",
        "total variation",
        first("denoising", "ADMM", "psnr"),
      ),
    ),
    "deblurring": (
      ("deblurring, observed", "blurred", first("deblurring", "observed")),
      ("Wiener", "Wiener, tuned", first("deblurring", "Wiener", "psnr")),
      (
        "deblurring, total variation",
        "total variation",
        first("deblurring", "ADMM", "psnr"),
      ),
    ),
  }
  for row, task in enumerate(_TASKS):
    for column, (name, text, level) in enumerate(panels[task]):
      ax = axes[5 * row + column]
      ax.imshow(decode(drawing["pictures"][name], pixels), cmap="gray", vmin=0, vmax=1)
      ax.set_title(text if level is None else f"{text}: {level:.1f} dB", fontsize=10)
      ax.set_axis_off()
    result = metrics[task]
    ax = axes[5 * row + 3]
    levels = np.asarray(result["grid_psnr"])
    ax.semilogx(result["strengths"], levels, ".", color="C0", ms=3, alpha=0.5)
    ax.semilogx(result["strengths"], levels.mean(1), "o-", ms=4, label="total variation")
    lines = [("observed", "noisy" if task == "denoising" else "blurred")]
    lines += [(n, f"{n}, tuned") for n in ("Wiener", "Richardson-Lucy") if n in result]
    for style, (key, label) in zip((":", "--", "-."), lines, strict=False):
      value = result[key]["psnr"] if isinstance(result[key], dict) else result[key]
      ax.axhline(float(np.mean(value)), color="k", ls=style, lw=1, label=label)
    ticks = [result["strengths"][0], result["strength"], result["strengths"][-1]]
    ax.set_xticks(ticks, [f"{t:.2g}" for t in ticks])
    ax.tick_params(axis="x", which="minor", labelbottom=False)
    ax.set(xlabel="strength λ", ylabel="PSNR (dB)")
    ax.set_title(f"{task}, {record['seeds']} draws of the noise", fontsize=10)
    ax.legend(fontsize=7)
    ax = axes[5 * row + 4]
    for name, (steps, gaps) in drawing["curves"][task].items():
      style = "--" if name == "Condat-Vu" else "-"  # its curve may cover that of Chambolle-Pock
      ax.loglog(steps, gaps, style, label=name, color=f"C{list(METHODS).index(name)}")
    ax.axhline(settings["goal"], color="k", ls=":", lw=1)
    ax.set(
      xlabel="step", ylabel="objective above the least found, relative", ylim=(1e-6, 500)
    )  # room for the legend
    ax.set_title(f"{task}, λ = {result['strength']:.2g}", fontsize=10)
    ax.yaxis.label.set_size(8)
    ax.legend(fontsize=7, loc="upper right")
  return fig
