"""Weights out of a file of torch's old format, without torch and without running code of the file.

The file is a row of pickles: a magic number, the version of the format, facts on the machine that
wrote it, a dict of tensors whose numbers are named by keys, and the list of those keys. Then come
the numbers, for each key in order how many there are (int64) and their bytes. A pickle may call any
function that it names; here it can name the four that a dict of tensors needs, and gets stand-ins
that only note what was said.
"""

import collections
import io
import pickle
from typing import Any, NamedTuple

import numpy as np

from experiments._fetch import DataError

_MAGIC, _VERSION = 0x1950A86A20F9469CFC6C, 1001
_DTYPES = {"FloatStorage": np.dtype("<f4"), "LongStorage": np.dtype("<i8")}


class _Kind(NamedTuple):
  """A type of storage, by name only; calling it is an error."""

  dtype: np.dtype


class _Storage(NamedTuple):
  key: str
  dtype: np.dtype
  size: int


class _Tensor(NamedTuple):
  """Which numbers of a storage belong to a tensor."""

  storage: _Storage
  offset: int
  shape: tuple[int, ...]
  strides: tuple[int, ...]


def _note_tensor(storage: Any, offset: Any, shape: Any, strides: Any, *rest: Any) -> _Tensor:
  del rest  # whether it wants gradients, and hooks
  counts = (offset, *shape, *strides)
  if (
    not isinstance(storage, _Storage)
    or len(shape) != len(strides)
    or not all(type(n) is int and n >= 0 for n in counts)
  ):
    raise DataError("A file of weights describes a tensor that cannot be.")
  return _Tensor(storage, offset, tuple(shape), tuple(strides))


_ALLOWED: dict[tuple[str, str], Any] = {
  ("collections", "OrderedDict"): collections.OrderedDict,
  ("torch._utils", "_rebuild_tensor_v2"): _note_tensor,
  **{("torch", name): _Kind(dtype) for name, dtype in _DTYPES.items()},
}


class _Unpickler(pickle.Unpickler):
  """Knows the four names that it is allowed; storages by their keys."""

  def find_class(self, module: str, name: str) -> Any:
    if (module, name) not in _ALLOWED:
      known = ", ".join(".".join(pair) for pair in _ALLOWED)
      raise DataError(f"A file of weights may name {known}; got {module}.{name}.")
    return _ALLOWED[module, name]

  def persistent_load(self, pid: Any) -> _Storage:
    word, kind, key, _, size, view = pid
    if word != "storage" or not isinstance(kind, _Kind) or view is not None:
      raise DataError("A file of weights has numbers of a kind that is not read here.")
    return _Storage(str(key), kind.dtype, int(size))


def _numbers(file: io.BytesIO, storage: _Storage) -> np.ndarray:
  """The numbers that come next in the file, for a storage."""
  count = int.from_bytes(file.read(8), "little", signed=True)
  raw = file.read(storage.size * storage.dtype.itemsize)
  if count != storage.size or len(raw) != storage.size * storage.dtype.itemsize:
    raise DataError(f"A file of weights ends within, or has other numbers for, {storage.key!r}.")
  return np.frombuffer(raw, storage.dtype)


def _array(tensor: _Tensor, numbers: np.ndarray) -> np.ndarray:
  """A copy in the usual order of the numbers of a tensor."""
  ends = [(n - 1) * step for n, step in zip(tensor.shape, tensor.strides, strict=True)]
  empty = 0 in tensor.shape
  if tensor.offset + (0 if empty else sum(ends) + 1) > len(numbers):
    raise DataError("A file of weights has a tensor that reaches beyond its numbers.")
  if empty:
    return np.zeros(tensor.shape, numbers.dtype)
  strides = [step * numbers.itemsize for step in tensor.strides]
  view = np.lib.stride_tricks.as_strided(numbers[tensor.offset :], tensor.shape, strides)
  return np.array(view, numbers.dtype.newbyteorder("="), order="C")


def read(raw: bytes) -> dict[str, np.ndarray]:
  """Tensors by name, float32 or int64, out of the bytes of a file.

  Args:
    raw: what ``torch.save(state, _use_new_zipfile_serialization=False)`` writes for a dict of
      tensors of 32-bit floats and 64-bit integers.

  Returns:
    dict of NumPy arrays.

  Raises:
    DataError: another format, a file that is cut off, or one that names anything else than such
      tensors; no code of it is run.
  """
  file = io.BytesIO(raw)
  following = lambda: _Unpickler(file).load()
  try:
    if (following(), following()) != (_MAGIC, _VERSION):
      raise DataError("This is no file of weights in torch's format before version 1.6.")
    facts, tensors, keys = following(), following(), following()
    if not facts["little_endian"] or not isinstance(tensors, dict):
      raise DataError("A file of weights is a dict of tensors of a little-endian machine.")
    if not all(isinstance(tensor, _Tensor) for tensor in tensors.values()):
      raise DataError("A file of weights has something in it that is no tensor.")
    storages = {tensor.storage.key: tensor.storage for tensor in tensors.values()}
    numbers = {key: _numbers(file, storages[key]) for key in keys}
    return {str(k): _array(tensor, numbers[tensor.storage.key]) for k, tensor in tensors.items()}
  except DataError:
    raise
  except Exception as error:  # a damaged pickle fails in any way
    raise DataError(f"This is no file of weights, or a damaged one: {error!r}.") from error
