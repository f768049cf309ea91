"""A linear layer of one token on a half to a tenth of its inputs, against the dense product."""

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks._timing import Contender, Row, compiled, peer, read_seconds
from jaxopt_robust import layers

SPARSITIES = (0.5, 0.75, 0.9)


def build(size: str) -> Row:
  """The row: square kernels in float32, inputs chosen by size and norms."""
  n = 64 if size == "toy" else 4096
  rng = np.random.default_rng(0)
  x = rng.standard_normal(n).astype(np.float32)
  kernel = (rng.standard_normal((n, n)) / np.sqrt(n)).astype(np.float32)
  norms = np.asarray(layers.column_norms(kernel))
  counts = {sparsity: round(n * (1 - sparsity)) for sparsity in SPARSITIES}
  exact = {}
  for sparsity, k in counts.items():
    mask = np.asarray(layers.wina_mask(x, norms, k=k))
    exact[sparsity] = np.where(mask, x, 0).astype(np.float64) @ kernel
  difference = lambda want: lambda y: float(np.abs(np.asarray(y, np.float64) - want).max())
  dense = jax.jit(lambda x, kernel: x @ kernel)
  whole = difference(x.astype(np.float64) @ kernel)
  arrays = jnp.asarray(x), jnp.asarray(kernel)  # not copied at every call
  contenders = [compiled("dense product", dense, *arrays, accuracy=whole)]
  for sparsity, k in counts.items():
    gather = jax.jit(
      lambda x, kernel, norms, k=k: layers.sparse_linear(x, kernel, k=k, norms=norms)
    )
    name = f"jaxopt_robust: {sparsity:.0%} of the inputs dropped"
    accuracy = difference(exact[sparsity])
    contenders.insert(
      0, compiled(name, gather, *arrays, jnp.asarray(norms), ours=True, accuracy=accuracy)
    )

  def rows_by_numpy() -> np.ndarray:
    places = np.sort(np.argpartition(-np.abs(x) * norms, counts[0.9])[: counts[0.9]])
    return x[places] @ kernel[places]

  numpy = Contender("NumPy: 90% dropped", rows_by_numpy, accuracy=difference(exact[0.9]))
  numpy.counts = False
  contenders.append(numpy)
  if torch := peer("torch"):
    x_t, kernel_t = torch.from_numpy(x), torch.from_numpy(kernel)
    product = lambda: (x_t @ kernel_t).numpy()
    contenders.append(Contender("PyTorch: dense product", product, accuracy=whole))
  return Row(
    name="sparse_linear",
    work=f"one token, kernel {n} x {n}, float32",
    contenders=contenders,
    accuracy="largest difference from the masked product in float64",
    bound=1e-3,
    limit="memory bandwidth: the dense kernel is read once",
    limit_s=read_seconds(kernel.nbytes),
    note="The ratio is that of the most sparse form; the others stand beside it. A gather copies "
    "what it reads before the product reads it again.",
  )
