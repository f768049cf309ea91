"""Attention without softmax against JAX's softmax attention, 4096 tokens."""

from benchmarks._attention import attention_row
from benchmarks._timing import Row


def build(size: str) -> Row:
  """One head of normal tokens."""
  return attention_row(4096, size)
