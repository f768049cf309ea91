"""Files of torch's old format, written here by hand; what is no dict of tensors is refused."""

import collections
import io
import pickle
import struct

import numpy as np
import pytest

from experiments import _parsers, _torch_file
from experiments._fetch import DataError

MAGIC, VERSION, FACTS = 0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}
FLOATS = np.arange(12, dtype=np.float32) / 4
COUNTS = np.array([7, 2**40], np.int64)


class Named:
  """Pickles as a name in a module that need not exist."""

  def __init__(self, module, name):
    self.module, self.name = module, name


class Call:
  """Pickles as the call of a name."""

  def __init__(self, module, name, *args):
    self.function, self.args = Named(module, name), args


class Stored(tuple):
  """Pickles as a persistent id."""


class Writer(pickle._Pickler):
  """Python's own pickler, which can be told what to write for a name."""

  def persistent_id(self, obj):
    return tuple(obj) if type(obj) is Stored else None

  def save(self, obj, save_persistent_id=True):
    if type(obj) is Named:
      self.write(pickle.GLOBAL + f"{obj.module}\n{obj.name}\n".encode())
    elif type(obj) is Call:
      self.save(obj.function)
      self.save(tuple(obj.args))
      self.write(pickle.REDUCE)
    else:
      super().save(obj, save_persistent_id)


def pickled(obj):
  buffer = io.BytesIO()
  Writer(buffer, protocol=2).dump(obj)
  return buffer.getvalue()


def stored(key, numbers, view=None):
  kind = "FloatStorage" if numbers.dtype == np.float32 else "LongStorage"
  return Stored(("storage", Named("torch", kind), key, "cpu", numbers.size, view))


def tensor(key, numbers, offset, shape, strides, view=None):
  hooks = collections.OrderedDict()
  return Call(
    "torch._utils", "_rebuild_tensor_v2", stored(key, numbers, view), offset, shape, strides,
    False, hooks,
  )  # fmt: skip


def written(tensors, storages, *, magic=MAGIC, version=VERSION, facts=FACTS):
  """Bytes of a file; ``storages``: key -> numbers, in the order of the file."""
  parts = [pickled(part) for part in (magic, version, facts, tensors, list(storages))]
  parts += [struct.pack("<q", v.size) + v.tobytes() for v in storages.values()]
  return b"".join(parts)


def state(**others):
  return collections.OrderedDict(
    {
      "usual": tensor("one", FLOATS, 0, (3, 4), (4, 1)),
      "turned": tensor("one", FLOATS, 1, (2, 3), (1, 4)),
      "number": tensor("two", COUNTS, 1, (), ()),
      "empty": tensor("two", COUNTS, 0, (0, 2), (2, 1)),
      **others,
    }
  )


STORAGES = {"two": COUNTS, "one": FLOATS}
FILE = written(state(), STORAGES)


def test_tensors_are_where_their_strides_and_offsets_say():
  found = _torch_file.read(FILE)
  assert list(found) == ["usual", "turned", "number", "empty"]
  np.testing.assert_array_equal(found["usual"], FLOATS.reshape(3, 4))
  np.testing.assert_array_equal(found["turned"], FLOATS.reshape(3, 4)[:, 1:3].T)
  assert found["turned"].flags.c_contiguous and found["turned"].flags.writeable
  assert found["number"].shape == () and found["number"] == 2**40
  assert found["empty"].shape == (0, 2)
  assert found["usual"].dtype == np.float32 and found["number"].dtype == np.int64
  np.testing.assert_array_equal(_parsers.efficientnet(FILE)["usual"], found["usual"])


@pytest.mark.parametrize("other", [
  Call("os", "system", "true"), Call("builtins", "eval", "1"), Named("torch", "load"),
  Call("torch", "FloatTensor", 3), Call("collections", "deque", ()),
])  # fmt: skip
def test_other_names_are_refused_before_anything_is_called(other):
  what = other if isinstance(other, Named) else other.function
  for raw in (written(state(x=other), STORAGES), written(state(), STORAGES, facts=other)):
    with pytest.raises(DataError, match=rf"may name .*; got {what.module}\.{what.name}\."):
      _torch_file.read(raw)


@pytest.mark.parametrize(("raw", "message"), [
  (b"", "damaged"), (b"PK\x03\x04 a newer file", "damaged"), (FILE[:30], "damaged"),
  (FILE[:-1], "ends within"), (FILE[: -FLOATS.nbytes - 4], "ends within"),
  (written(state(), STORAGES, magic=1), "before version 1.6"),
  (written(state(), STORAGES, version=1002), "before version 1.6"),
  (written(state(), STORAGES, facts={"little_endian": False}), "little-endian"),
  (written([1, 2], STORAGES), "dict of tensors"), (written(state(x=3), STORAGES), "no tensor"),
  (written(state(), {"one": FLOATS}), "damaged"),
  (written(state(), {"two": COUNTS, "one": FLOATS[:-1]}), "other numbers for, 'one'"),
  (written(state(x=tensor("one", FLOATS, 1, (3, 4), (4, 1))), STORAGES), "beyond its numbers"),
  (written(state(x=tensor("one", FLOATS, -1, (2,), (1,))), STORAGES), "cannot be"),
  (written(state(x=tensor("one", FLOATS, 11, (2,), (-1,))), STORAGES), "cannot be"),
  (written(state(x=tensor("one", FLOATS, 0, (2, 2), (1,))), STORAGES), "cannot be"),
  (written(state(x=tensor("one", FLOATS, 0, (2,), (1,), view=(0, 1))), STORAGES), "not read here"),
  (written(state(x=Call("torch", "FloatStorage", 3)), STORAGES), "damaged"),
])  # fmt: skip
def test_other_and_damaged_files_are_refused(raw, message):
  with pytest.raises(DataError, match=message):
    _torch_file.read(raw)


@pytest.mark.peer
def test_what_torch_writes_is_read():
  torch = pytest.importorskip("torch")
  base = torch.arange(24, dtype=torch.float32).reshape(2, 3, 4)
  saved = collections.OrderedDict(
    a=base, b=base.permute(2, 0, 1)[1:], c=torch.tensor(5), d=torch.randn(3)
  )
  buffer = io.BytesIO()
  torch.save(saved, buffer, _use_new_zipfile_serialization=False)
  found = _torch_file.read(buffer.getvalue())
  for name, value in saved.items():
    np.testing.assert_array_equal(found[name], value.numpy())
    assert found[name].dtype == value.numpy().dtype
