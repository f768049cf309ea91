"""A training step of a small CNN with the X-risk losses, against cross entropy and LibAUC."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks._timing import Contender, Row, first_call, peer
from jaxopt_robust import compositional

STEPS = 10


def patches(x: jax.Array) -> jax.Array:
  """The 3 x 3 neighbourhood of every pixel, zero outside: [..., side, side, 9 channels]."""
  padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
  side = x.shape[1]
  parts = [padded[:, i : i + side, j : j + side] for i in range(3) for j in range(3)]
  return jnp.concatenate(parts, axis=-1)


def network(params: Any, x: jax.Array) -> jax.Array:
  """Two 3 x 3 convolutions, each with ReLU and 2 x 2 mean pooling, and a linear layer: float[n].

  The convolutions are matrix products, which is the fastest way on CPUs.
  """
  for name in ("first", "second"):
    x = jax.nn.relu(patches(x) @ params[name])
    n, side, _, channels = x.shape
    x = x.reshape(n, side // 2, 2, side // 2, 2, channels).mean((2, 4))
  return x.reshape(x.shape[0], -1) @ params["last"]


def init(key: jax.Array, side: int, widths: tuple[int, int]) -> Any:
  """He initialisation."""
  first, second = widths
  keys = jax.random.split(key, 3)
  shapes = {
    "first": (9, first),
    "second": (9 * first, second),
    "last": ((side // 4) ** 2 * second,),
  }
  return {
    name: jax.random.normal(k, shape) * np.sqrt(2 / shape[0])
    for k, (name, shape) in zip(keys, shapes.items(), strict=True)
  }


def trainer(loss: Any, state: Any, params: Any, data: Any, name: str, **options: Any) -> Contender:
  """Ten steps of Adam, one call a step as in a training loop; parameters and state are donated."""
  tx = optax.adam(1e-3)

  def objective(params: Any, state: Any, x: jax.Array, y: jax.Array, index: jax.Array) -> Any:
    return loss(network(params, x), y, index, state)

  def step(carry: Any, x: jax.Array, y: jax.Array, index: jax.Array) -> Any:
    params, opt_state, state = carry
    grads, (state, info) = jax.grad(objective, has_aux=True)(params, state, x, y, index)
    updates, opt_state = tx.update(grads, opt_state, params)
    return (optax.apply_updates(params, updates), opt_state, state), info

  jitted = jax.jit(step, donate_argnums=0)

  def run() -> Any:
    copy = jax.tree.map(jnp.array, params)
    carry = (copy, tx.init(copy), jax.tree.map(jnp.array, state))
    for batch in data:
      carry, info = jitted(carry, *batch)
    return jax.block_until_ready((carry, info))

  return Contender(name, run, compile_s=first_call(run), **options)


def build(size: str) -> Row:
  """The row: ten steps on random images, a tenth of them positive."""
  side, batch, examples, widths = (
    (8, 16, 100, (4, 4)) if size == "toy" else (28, 128, 50000, (16, 32))
  )
  rng = np.random.default_rng(0)
  images = rng.standard_normal((STEPS, batch, side, side, 1)).astype(np.float32)
  labels = np.tile((np.arange(batch) % 10 == 0).astype(np.int32), (STEPS, 1))
  index = np.stack([rng.choice(examples, batch, replace=False) for _ in range(STEPS)])
  data = [tuple(jnp.asarray(v[i]) for v in (images, labels, index)) for i in range(STEPS)]
  params = init(jax.random.key(0), side, widths)

  def cross_entropy(scores: jax.Array, labels: jax.Array, index: jax.Array, state: Any) -> Any:
    value = jnp.mean(optax.sigmoid_binary_cross_entropy(scores, labels))
    return value, (state, value)

  x_risk = lambda loss: (
    lambda scores, labels, index, state: loss(jax.nn.sigmoid(scores), labels, index, state)
  )
  contenders = [
    trainer(
      x_risk(compositional.sopas_loss), compositional.sopas_init(examples), params, data,
      "jaxopt_robust: partial AUC (SOPA-s)", ours=True,
    ),
    trainer(
      x_risk(compositional.soap_loss), compositional.soap_init(examples), params, data,
      "jaxopt_robust: average precision (SOAP)", ours=True, counts=False,
    ),
    trainer(cross_entropy, jnp.zeros(()), params, data, "the same CNN, cross entropy"),
  ]  # fmt: skip
  contenders += libauc(images, labels, index, side, widths, examples)
  return Row(
    name="compositional_step",
    work=f"{STEPS} Adam steps, batch {batch} of {side} x {side}, two convolutions, "
    f"state of {examples} examples",
    contenders=contenders,
    goal=1.05,
    limit="the network's own matrix products are the cross-entropy row",
    note="The peer that counts is the same network with cross entropy: the overhead of pairs and "
    "state. LibAUC's loss on PyTorch's convolutions is shown for information.",
  )


def libauc(
  images: Any, labels: Any, index: Any, side: int, widths: tuple[int, int], examples: int
) -> list[Contender]:
  """The same network and loss in PyTorch with LibAUC, where both are installed."""
  torch, library = peer("torch"), peer("libauc")
  if torch is None or library is None:
    return []
  from libauc.losses import pAUC_DRO_Loss

  nn = torch.nn
  first, second = widths
  torch.manual_seed(0)
  net = nn.Sequential(
    nn.Conv2d(1, first, 3, padding=1, bias=False), nn.ReLU(), nn.AvgPool2d(2),
    nn.Conv2d(first, second, 3, padding=1, bias=False), nn.ReLU(), nn.AvgPool2d(2),
    nn.Flatten(), nn.Linear((side // 4) ** 2 * second, 1, bias=False), nn.Flatten(0),
  )  # fmt: skip
  x = torch.from_numpy(np.ascontiguousarray(images[..., 0]))[:, :, None]
  y, place = torch.from_numpy(labels), torch.from_numpy(index)
  # LibAUC indexes its state by the number of the positive example.
  x_risk = pAUC_DRO_Loss(examples, gamma=0.9, Lambda=1.0)
  adam = torch.optim.Adam(net.parameters(), lr=1e-3)

  def loop(loss: Any) -> Any:
    def run() -> Any:
      for i in range(STEPS):
        adam.zero_grad()
        value = loss(net(x[i]), y[i], place[i])
        value.backward()
        adam.step()
      return value.item()

    return run

  entropy = nn.functional.binary_cross_entropy_with_logits
  return [
    Contender(
      "LibAUC on PyTorch: partial AUC (SOPA-s)",
      loop(lambda s, y, i: x_risk(torch.sigmoid(s), y, i)),
      counts=False,
    ),
    Contender("PyTorch, cross entropy", loop(lambda s, y, i: entropy(s, y.float())), counts=False),
  ]
