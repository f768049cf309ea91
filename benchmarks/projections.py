"""Projections onto balls, box sections and transport polytopes, against jaxopt and optax."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks._timing import Contender, Row, copy_seconds, first_call, peer
from jaxopt_robust import projections as ours


def build(size: str) -> Row:
  """All projections that jaxopt has too, one after the other, as one unit of work."""
  length, side = (1000, 8) if size == "toy" else (100_000, 100)
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.standard_normal(length), jnp.float32)
  sim = jnp.asarray(rng.standard_normal((side, side)), jnp.float32)
  box = (jnp.zeros(length), jnp.ones(length), jnp.ones(length), jnp.float32(0.1 * length))
  marginals = (jnp.full(side, 1 / side), jnp.full(side, 1 / side))

  def unit(calls):
    jitted = [(jax.jit(call), args) for call, *args in calls]
    seconds = sum(first_call(call, *args) for call, args in jitted)
    return lambda: [jax.block_until_ready(call(*args)) for call, args in jitted], seconds

  def accuracy(result) -> float:
    ball, section, birkhoff, plan = (np.asarray(r, np.float64) for r in result)
    errors = [
      abs(np.abs(ball).sum() / 10 - 1),
      abs(section.sum() / (0.1 * length) - 1),
      np.abs(birkhoff.sum(0) - 1).max(),
      side * np.abs(plan.sum(0) - 1 / side).max(),
    ]
    return float(np.max(errors))

  def members(library, ball):
    return [
      (ball, x),
      (library.projection_box_section, x, box),
      (library.projection_birkhoff, sim),
      (library.projection_transport, sim, marginals),
    ]

  run, seconds = unit(members(ours, lambda v: ours.projection_weighted_l1_ball(v, (1.0, 10.0))))
  contenders = [Contender("jaxopt_robust", run, True, seconds, accuracy)]
  if jaxopt := peer("jaxopt"):
    library = jaxopt.projection
    run, seconds = unit(members(library, lambda v: library.projection_l1_ball(v, 10.0)))
    contenders.append(Contender("jaxopt", run, False, seconds, accuracy))
  run, seconds = unit([(lambda v: optax.projections.projection_l1_ball(v, 10.0), x)])
  contenders.append(Contender("optax: l1 ball only", run, False, seconds, counts=False))
  return Row(
    name="projections",
    work=f"l1 ball, box section of {length}; Birkhoff, transport of {side} x {side}; float32",
    contenders=contenders,
    accuracy="largest relative error of a constraint",
    bound=1e-2,
    limit="memory bandwidth of a copy",
    limit_s=copy_seconds(4 * 2 * (2 * length + 2 * side * side)),
    note="The bound admits jaxopt's default tolerance of 1e-3.",
  )
