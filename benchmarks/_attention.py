"""Attention without softmax against JAX's softmax attention, one head, for a number of tokens."""

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks._timing import Row, compiled
from jaxopt_robust import layers

FEATURES, LANDMARKS = 64, 64


def attention_row(tokens: int, size: str) -> Row:
  """Self-attention of normal tokens; the results are not the same function."""
  n = 128 if size == "toy" else tokens
  rng = np.random.default_rng(0)
  q, k, v = (jnp.asarray(rng.standard_normal((n, FEATURES)), jnp.float32) for _ in range(3))
  marks = layers.segment_means(q, num_landmarks=LANDMARKS)
  soft = jax.jit(lambda q, marks, v: layers.soft_attention(q, marks, v)[0])
  softmax = jax.jit(
    lambda q, k, v: jax.nn.dot_product_attention(*(a[None, :, None] for a in (q, k, v)))
  )
  lost = lambda y: float(jnp.sum(~jnp.isfinite(y)))
  scaled = q / FEATURES**0.25
  return Row(
    name=f"soft_attention_{tokens}",
    work=f"{n} tokens, one head of {FEATURES}, {LANDMARKS} landmarks, float32",
    contenders=[
      compiled("jaxopt_robust: soft_attention", soft, scaled, marks, v, ours=True, accuracy=lost),
      compiled("jax.nn.dot_product_attention", softmax, q, k, v, accuracy=lost),
    ],
    accuracy="entries that are not finite",
    bound=0.0,
    note="Another function than softmax attention, at linear cost; what it is worth "
    "is the matter of the experiment softmax_free_attention.",
  )
