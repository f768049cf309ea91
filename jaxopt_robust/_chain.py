"""Exact minimisation on a chain, by divide and conquer on the level sets of the solution.

Solves argmin_x sum_i w_i/2 (x_i - y_i)^2 + sum_i phi(x_{i+1} - x_i) for phi(d) = rise max(d, 0) +
fall max(-d, 0): total variation (rise = fall = lam) and isotonic regression (rise = 0, fall = inf).

The solution is constant on blocks. A block whose ends are known has the weighted mean t as the
mean of its solution; which entries lie above t is a minimum cut on a chain, found by passing the
derivatives of the partial minima, clipped to [-fall, rise], from both ends. Links where both
messages are saturated are jumps of the solution; a block without one is constant. All blocks are
cut at once, so that the number of rounds is about the logarithm of the number of blocks, whatever
the data; no data can make it restart.

The messages are compositions of x -> clip(x + c, low, high), which are of the same kind: the line
is folded into lanes that run side by side, and a short scan over the lanes joins them.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxopt_robust.typing import Array, ArrayLike

# Codes of a link: not a jump (so far), a jump upwards, a jump downwards, the end of the line.
_NONE, _UP, _DOWN, _CUT = 0, 1, 2, 3


class _Clip(NamedTuple):
  """The function m -> clip(m + shift, low, high)."""

  shift: Array
  low: Array
  high: Array


def _apply(f: _Clip, m: Array) -> Array:
  return jnp.minimum(jnp.maximum(m + f.shift, f.low), f.high)


def _restart(f: _Clip, here: Array, message: Array) -> _Clip:
  """The constant function where a block begins."""
  pick = lambda new, old: jnp.where(here, new, old)
  return _Clip(pick(jnp.zeros_like(message), f.shift), pick(message, f.low), pick(message, f.high))


def _into_right(code: Array, rise: Array, fall: Array) -> Array:
  """What a jump, or the end of the line, passes to the block on its right."""
  return jnp.where(code == _UP, rise, jnp.where(code == _DOWN, -fall, 0))


def _into_left(code: Array, rise: Array, fall: Array) -> Array:
  return -_into_right(code, rise, fall)


def _lanes(n: int) -> int:
  """Number of lanes: short lines are left whole, long ones are folded into a square."""
  lanes = 1
  while lanes * lanes * 4 <= n:
    lanes *= 2
  return lanes


def _previous(row_end: Array, first: float) -> Array:
  """What the lane before hands on; the first lane gets ``first``."""
  return jnp.concatenate([jnp.full((1,), first, row_end.dtype), row_end[:-1]])


def _following(row_start: Array, last: float) -> Array:
  return jnp.concatenate([row_start[1:], jnp.full((1,), last, row_start.dtype)])


def _means(y: Array, w: Array, code: Array, rise: Array, fall: Array) -> Array:
  """Mean of the solution over each block, at every entry."""
  length = y.shape[0]
  wy = w * y

  def step(carry: tuple, row: tuple) -> tuple[tuple, tuple]:
    sf, wf, left, sb, wb = carry
    wy_f, w_f, code_f, wy_b, w_b, code_b = row
    start = left != _NONE
    sf = jnp.where(start, -_into_right(left, rise, fall), sf) + wy_f
    wf = jnp.where(start, 0, wf) + w_f
    end = code_b != _NONE
    sb = jnp.where(end, -_into_left(code_b, rise, fall), sb)
    wb = jnp.where(end, 0, wb)
    out = (sf, wf, sb, wb)  # forwards with the entry itself, backwards without
    return (sf, wf, code_f, sb + wy_b, wb + w_b), out

  zero = jnp.zeros_like(y[0])
  left = _previous(code[-1], _CUT)
  first = (zero, zero, left, zero, zero)
  rows = (wy, w, code, wy[::-1], w[::-1], code[::-1])
  (ef, ewf, _, eb, ewb), (sf, wf, sb, wb) = jax.lax.scan(step, first, rows)
  sb, wb = sb[::-1], wb[::-1]
  # Lanes whose block began in an earlier lane, or ends in a later one, take over its sums.
  rows_index = jnp.arange(length, dtype=jnp.int32)[:, None]
  starts = jnp.concatenate([left[None], code[:-1]]) != _NONE
  first_start = jnp.min(jnp.where(starts, rows_index, length), axis=0)
  last_end = jnp.max(jnp.where(code != _NONE, rows_index, -1), axis=0)
  open_f, open_b = first_start == length, last_end == -1

  def join(carry: tuple, lane: tuple) -> tuple[tuple, tuple]:
    cf, cwf, cb, cwb = carry
    f, wf_, of, b, wb_, ob = lane
    after = (
      jnp.where(of, cf, 0) + f, jnp.where(of, cwf, 0) + wf_,
      jnp.where(ob, cb, 0) + b, jnp.where(ob, cwb, 0) + wb_,
    )  # fmt: skip
    return after, carry

  none = jnp.zeros((), y.dtype)
  lanes = (ef, ewf, open_f, eb[::-1], ewb[::-1], open_b[::-1])
  _, (inf, inwf, inb, inwb) = jax.lax.scan(join, (none,) * 4, lanes)
  before, after = rows_index < first_start[None], rows_index > last_end[None]
  total = sf + jnp.where(before, inf[None], 0) + (sb + jnp.where(after, inb[None, ::-1], 0))
  weight = wf + jnp.where(before, inwf[None], 0) + (wb + jnp.where(after, inwb[None, ::-1], 0))
  return total / jnp.where(weight == 0, 1, weight)


def _cuts(d: Array, code: Array, rise: Array, fall: Array) -> Array:
  """The codes with the jumps added that the levels of this round show."""

  def step(carry: tuple, row: tuple) -> tuple[tuple, tuple]:
    f, left, b = carry
    d_f, code_f, d_b, code_b = row
    start, end = left != _NONE, code_b != _NONE
    f = _restart(f, start, _into_right(left, rise, fall))
    b = _restart(b, end, _into_left(code_b, rise, fall))
    out = (f, b)
    move = lambda v, by, low, high: jnp.minimum(jnp.maximum(v + by, low), high)
    f = _Clip(f.shift + d_f, move(f.low, d_f, -fall, rise), move(f.high, d_f, -fall, rise))
    b = _Clip(b.shift + d_b, move(b.low, d_b, -rise, fall), move(b.high, d_b, -rise, fall))
    return (f, code_f, b), out

  zero = jnp.zeros_like(d[0])
  left = _previous(code[-1], _CUT)
  first = (
    _Clip(zero, zero - fall, zero + rise),
    left,
    _Clip(zero, zero - rise, zero + fall),
  )
  (end_f, _, end_b), (f, b) = jax.lax.scan(step, first, (d, code, d[::-1], code[::-1]))

  def join(carry: tuple, lane: tuple) -> tuple[tuple, tuple]:
    m, mb = carry
    return (_apply(lane[0], m), _apply(lane[1], mb)), carry

  none = jnp.zeros((), d.dtype)
  flip = lambda tree: jax.tree.map(lambda v: v[::-1], tree)
  _, (m, mb) = jax.lax.scan(join, (none, none), (end_f, flip(end_b)))
  into, back = _apply(f, m[None]), _apply(flip(b), mb[::-1][None])
  following = lambda v: jnp.concatenate([v[1:], _following(v[0], 0.0)[None]])
  d_next, back_next = following(d), following(back)
  # Whether into + d > rise and so on; a message at its bound must not swallow a small d, and the
  # two sides of an entry must agree on which of them it belongs to.
  up = (d > rise - into) & (d_next <= -rise - back_next)
  down = (d <= -fall - into) & (d_next > fall - back_next)
  found = jnp.where(up, _UP, jnp.where(down, _DOWN, _NONE)).astype(code.dtype)
  return jnp.where(code == _NONE, found, code)


# Steps an entry that the direct method is given before the division by level sets takes over.
_PATIENCE = 8


def _direct(y: Array, lam: Array) -> tuple[Array, Array]:
  """Codes for total variation by Condat's direct method, and whether it finished.

  It walks along the line with bounds (low, high) on the level of the current block and their
  messages, and goes back to where a block must have ended. A step costs some 70 ns on a CPU, less
  than the passes of the division; smooth data make it go back too often, elsewhere than on a CPU a
  step costs far more: then it is given up.
  """
  n = y.shape[0]
  budget = jax.lax.platform_dependent(
    cpu=lambda: jnp.full((), _PATIENCE * n, jnp.int32), default=lambda: jnp.zeros((), jnp.int32)
  )

  def step(carry: tuple) -> tuple:
    code, count, _, k, k0, k_low, k_high, low, high, u_low, u_high = carry
    last = k == n - 1
    y_next = y[jnp.minimum(k + 1, n - 1)]
    down_at_end = last & (u_low < 0)
    up_at_end = last & ~down_at_end & (u_high > 0)
    down_inside = ~last & (y_next + u_low < low - lam)
    up_inside = ~last & ~down_inside & (y_next + u_high > high + lam)
    down, up = down_at_end | down_inside, up_at_end | up_inside
    jump = down | up
    inside = down_inside | up_inside
    move = ~last & ~jump
    # After a jump a new block starts at j.
    j = jnp.where(down, k_low, k_high) + 1
    y_j = y[jnp.minimum(j, n - 1)]
    code = code.at[jnp.where(jump, j - 1, n)].set(jnp.where(down, _DOWN, _UP), mode="drop")
    # Otherwise the block takes in one entry more.
    size = (k + 2 - k0).astype(y.dtype)
    in_low, in_high = u_low + y_next - low, u_high + y_next - high
    raise_low, lower_high = in_low >= lam, in_high <= -lam
    low_moved = jnp.where(raise_low, low + (in_low - lam) / size, low)
    high_moved = jnp.where(lower_high, high + (in_high + lam) / size, high)
    pick = lambda moved, old: jnp.where(move, moved, old)
    new_low = jnp.where(down, y_j, jnp.where(up_inside, y_j - 2 * lam, pick(low_moved, low)))
    new_high = jnp.where(up, y_j, jnp.where(down_inside, y_j + 2 * lam, pick(high_moved, high)))
    u_low = jnp.where(
      down | inside, lam,
      jnp.where(up_at_end, y_j - lam - low, pick(jnp.where(raise_low, lam, in_low), u_low)),
    )  # fmt: skip
    u_high = jnp.where(
      up | inside, -lam,
      jnp.where(down_at_end, y_j + lam - high, pick(jnp.where(lower_high, -lam, in_high), u_high)),
    )  # fmt: skip
    k_low = jnp.where(down | inside, j, pick(jnp.where(raise_low, k + 1, k_low), k_low))
    k_high = jnp.where(up | inside, j, pick(jnp.where(lower_high, k + 1, k_high), k_high))
    k0 = jnp.where(jump, j, k0)
    k_new = jnp.where(jump, j, jnp.where(move, k + 1, k))
    done = last & ~jump
    return code, count + 1, done, k_new, k0, k_low, k_high, new_low, new_high, u_low, u_high

  zero = jnp.zeros((), jnp.int32)
  code = jnp.full((n,), _NONE, jnp.int32).at[-1].set(_CUT)
  first = (
    code,
    zero,
    jnp.asarray(False),
    zero,
    zero,
    zero,
    zero,
    y[0] - lam,
    y[0] + lam,
    lam,
    -lam,
  )
  code, _, done, *_ = jax.lax.while_loop(lambda c: ~c[2] & (c[1] < budget), step, first)
  return code, done


def _codes(y: Array, w: Array | None, rise: Array, fall: Array, is_tv: bool) -> Array:
  """Code of the link after each entry; the last one is the end of the line."""
  n = y.shape[0]
  lanes = _lanes(n)
  length = -(-n // lanes)
  fold = lambda v: jnp.pad(v, (0, lanes * length - n)).reshape(lanes, length).T
  folded, weights = fold(y), fold(jnp.ones_like(y) if w is None else w)
  first = jnp.where(jnp.arange(n) == n - 1, _CUT, _NONE).astype(jnp.int32)
  done = jnp.asarray(False)
  if is_tv:
    found, done = _direct(y, rise)
    first = jnp.where(done, found, first)
  pad = jnp.full((lanes * length - n,), _CUT, jnp.int32)
  first = jnp.concatenate([first, pad]).reshape(lanes, length).T

  def cut_all(carry: tuple[Array, Array]) -> tuple[Array, Array]:
    code, _ = carry
    level = _means(folded, weights, code, rise, fall)
    new = _cuts(weights * (level - folded), code, rise, fall)
    return new, jnp.any(new != code)

  # Each round but the last finds a jump: at most n rounds.
  code, _ = jax.lax.while_loop(lambda carry: carry[1], cut_all, (first, ~done))
  return code.T.reshape(-1)[:n]


class Blocks(NamedTuple):
  """Where the solution is constant, and how the ends of each block pull at it.

  Attributes:
    ids: int32[n], number of the block of each entry, from 0 upwards.
    rises: int32[n], jumps upwards on the right of an entry minus those on its left.
    falls: int32[n], jumps downwards on the left of an entry minus those on its right.
  """

  ids: Array
  rises: Array
  falls: Array


def chain_blocks(
  y: Array, w: Array | None, rise: ArrayLike, fall: ArrayLike, *, is_tv: bool = False
) -> Blocks:
  """Blocks of the minimiser of sum_i w_i/2 (x_i - y_i)^2 + rise max(d_i, 0) + fall max(-d_i, 0).

  Args:
    y: float[n] of dtype float32 or wider.
    w: float[n] > 0, or None for ones.
    rise: >= 0, may be infinite.
    fall: likewise.
    is_tv: static, promises that w is None and rise = fall: total variation has a faster method for
      data that are not smooth.

  Returns:
    The blocks, which carry no derivative: where the minimiser is differentiable they are locally
    constant. One cannot tell blocks of data that are not finite.
  """
  rise, fall = (jnp.asarray(v, y.dtype) for v in (rise, fall))
  y, w, rise, fall = jax.lax.stop_gradient((y, w, rise, fall))
  code = _codes(y, w, rise, fall, is_tv)
  left = jnp.concatenate([jnp.full((1,), _CUT, code.dtype), code[:-1]])
  count = lambda c, kind: (c == kind).astype(jnp.int32)
  ids = jnp.cumsum((left != _NONE).astype(jnp.int32)) - 1
  return Blocks(ids, count(code, _UP) - count(left, _UP), count(left, _DOWN) - count(code, _DOWN))


def block_sum(v: Array, blocks: Blocks) -> Array:
  """Sum over the block of each entry, at every entry."""
  n = v.shape[0]
  sums = jax.ops.segment_sum(v, blocks.ids, n, indices_are_sorted=True)
  return sums[blocks.ids]


def block_mean(v: Array, blocks: Blocks, w: Array | None = None) -> Array:
  """Weighted mean over the block of each entry, the same number all over a block.

  This is also the derivative of the minimiser along v.
  """
  weights = jnp.ones_like(v) if w is None else w
  weight = block_sum(weights, blocks)
  mean = block_sum(weights * v, blocks) / weight
  # A long sum loses digits; the mean of what is left over gives them back.
  rest = jax.lax.stop_gradient(block_sum(weights * (v - mean), blocks) / weight)
  return mean + rest
