"""Bins of equal width and of equal mass, and sums over sorted events."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxopt_robust.calibration._events import Events
from jaxopt_robust.typing import Array

BINNINGS = ("width", "mass")
_BLOCK = 64


class Sums(NamedTuple):
  """Of each bin: number of events, sum of confidences, sum of outcomes, float[num_bins] each."""

  count: Array  # type: ignore[assignment]
  confidence: Array
  outcome: Array


def width_edges(num_bins: int, dtype: jnp.dtype) -> Array:
  """Inner edges 1/B, ..., (B-1)/B; the bins are (lo, hi], the first one holds 0 too."""
  return jnp.arange(1, num_bins).astype(dtype) / num_bins


def find_bin(edges: Array, x: Array) -> Array:
  """Bin of each number: how many inner edges lie strictly below it."""
  return jnp.searchsorted(edges, x, side="left", method="compare_all").astype(jnp.int32)


def sort_events(events: Events) -> Events:
  """Sorted by confidence, kept events first. Equal confidences share their mean outcome.

  So the order of examples does not matter, and bins may cut through ties.
  """
  last = jnp.where(events.keep, events.confidence, jnp.inf)
  ordered, outcome, keep = jax.lax.sort((last, events.outcome, events.keep), num_keys=1)
  confidence = jnp.where(keep, ordered, 0)
  tie = tie_groups(ordered)
  # Outcomes are 0 or 1: whole numbers add up exactly, whatever their number.
  happened = jnp.where(keep, outcome, 0).astype(jnp.int32)
  total = jax.ops.segment_sum(happened, tie, num_segments=len(tie))
  count = jax.ops.segment_sum(jnp.ones_like(happened), tie, num_segments=len(tie))
  mean = total[tie].astype(outcome.dtype) / jnp.maximum(count, 1)[tie].astype(outcome.dtype)
  return events._replace(confidence=confidence, outcome=jnp.where(keep, mean, 0), keep=keep)


def tie_groups(ordered: Array) -> Array:
  """Number of the group of equal values that each entry of a sorted array belongs to."""
  is_new = jnp.concatenate([jnp.zeros(1, bool), ordered[1:] != ordered[:-1]])
  return jnp.cumsum(is_new.astype(jnp.int32))


def mass_ends(count: Array, num_bins: int | Array, bins: Array) -> Array:
  """round(count * b / num_bins), halves upwards, of whole numbers without overflow."""
  whole, rest = count // num_bins, count % num_bins
  return whole * bins + (2 * rest * bins + num_bins) // (2 * num_bins)


def mass_bins(keep: Array, num_bins: int | Array, most: int) -> Array:
  """Bin of each rank of sorted events: bin b holds [round(n b/B), round(n (b+1)/B))."""
  count = jnp.sum(keep, dtype=jnp.int32)
  bins = jnp.arange(1, most + 1, dtype=jnp.int32)
  ends = mass_ends(count, num_bins, jnp.minimum(bins, num_bins))
  ranks = jnp.arange(len(keep), dtype=jnp.int32)
  return jnp.minimum(jnp.searchsorted(ends, ranks, side="right"), num_bins - 1)


def bin_sums(events: Events, index: Array, num_bins: int) -> Sums:
  """Sums over the kept events of each bin."""
  index = jnp.where(events.keep, index, num_bins)  # out of range: dropped
  add = lambda v: _blocked_sum(v, index, num_bins)
  ones = jnp.ones_like(events.confidence)
  return Sums(add(ones), add(events.confidence), add(events.outcome))


def _blocked_sum(values: Array, index: Array, num_bins: int) -> Array:
  """Sums by bin of short blocks, then of those: a running sum of 10^6 numbers near 1 in float32
  rounds every one of them to 1/16."""
  length = max(_BLOCK, num_bins)
  blocks = -(-len(values) // length)
  place = jnp.arange(len(values), dtype=index.dtype) // length * num_bins + index
  place = jnp.where(index < num_bins, place, blocks * num_bins)  # out of range: dropped
  sums = jax.ops.segment_sum(values, place, num_segments=blocks * num_bins)
  sums = sums.reshape(blocks, num_bins)
  while len(sums) > 1:
    short = -len(sums) % _BLOCK
    sums = jnp.pad(sums, ((0, short), (0, 0))).reshape(-1, _BLOCK, num_bins).sum(axis=1)
  return sums[0]


def binned(events: Events, num_bins: int, binning: str) -> Sums:
  """Sums over bins of equal width, or of equal mass by ranks."""
  if binning == "width":
    edges = width_edges(num_bins, events.confidence.dtype)
    return bin_sums(events, find_bin(edges, events.confidence), num_bins)
  events = sort_events(events)
  return bin_sums(events, mass_bins(events.keep, num_bins, num_bins), num_bins)


def gaps(sums: Sums) -> Array:
  """|accuracy - confidence| of each bin, 0 for those without events."""
  return jnp.abs(sums.outcome - sums.confidence) / jnp.maximum(sums.count, 1)


def shares(sums: Sums) -> Array:
  """Share of the events in each bin; zeros if there are none."""
  return sums.count / jnp.maximum(jnp.sum(sums.count), 1)
