"""Arguments that are no arrays: functions, records, options, tuples of hyper-parameters."""

import contextlib
import inspect
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxopt_robust import _names
from jaxopt_robust._checks import describe, is_jax
from jaxopt_robust.typing import Penalty, ProxFn


def did_you_mean(word: Any, words: Iterable[Any]) -> str:
  """' Did you mean ...?' where a known word is close to this one, otherwise nothing."""
  texts = [w for w in words if isinstance(w, str)]
  close = _names.closest(word, texts) if isinstance(word, str) else None
  return f" Did you mean {close!r}?" if close else ""


def check_option(name: str, value: Any, allowed: Iterable[Any]) -> None:
  """A mode string (or None) out of a fixed list."""
  allowed = tuple(allowed)
  if not isinstance(value, str | bool | int | np.bool_ | None) or value not in allowed:
    raise ValueError(
      f"{name} must be one of {', '.join(map(repr, allowed))}; got {value!r:.60}."
      f"{did_you_mean(value, allowed)}"
    )


def check_callable(name: str, value: Any) -> None:
  """A function."""
  if not callable(value):
    raise TypeError(f"{name} must be callable; got {describe(value)}.")


def check_function_of(name: str, value: Any, *arguments: str) -> None:
  """A function of some positional arguments; a factory that was not called is told to be."""
  check_callable(name, value)
  try:
    inspect.signature(value).bind(*arguments)
  except TypeError:
    called = getattr(value, "__name__", type(value).__name__)
    raise TypeError(
      f"{name} must be a function of ({', '.join(arguments)}); got {called}, which takes other "
      f"arguments: if it makes such a function, call it, {called}(...)."
    ) from None
  except ValueError:  # a function without a signature
    return


def as_prox(name: str, value: Any) -> ProxFn:
  """A proximal operator, given as it is or within a ``Penalty``."""
  if isinstance(value, Penalty):
    return value.prox
  if not callable(value):
    raise TypeError(
      f"{name} must be a proximal operator or a Penalty, such as prox.prox_lasso or prox.lasso; "
      f"got {describe(value)}."
    )
  return value


def check_solver(name: str, value: Any) -> None:
  """A solver; a factory that was not called is told to be."""
  if callable(getattr(value, "init", None)) and callable(getattr(value, "step", None)):
    return
  if inspect.isfunction(value):
    takes = [p.name for p in inspect.signature(value).parameters.values() if p.default is p.empty]
    raise TypeError(
      f"{name} must be a Solver; got the function {value.__name__}: call it, "
      f"{value.__name__}({', '.join(takes)})."
    )
  raise TypeError(f"{name} must be a Solver(init, step); got {describe(value)}.")


def check_optimizer(name: str, value: Any) -> None:
  """An optax transformation; a factory that was not called is told to be."""
  if callable(getattr(value, "init", None)) and callable(getattr(value, "update", None)):
    return
  hint = f": call it, {value.__name__}(...)" if inspect.isfunction(value) else ""
  raise TypeError(
    f"{name} must be an optax.GradientTransformation, such as optax.sgd(0.1); "
    f"got {describe(value)}{hint}."
  )


def check_state(name: str, value: Any, kind: type) -> Any:
  """A state of one kind, with leaves that a checkpoint may have restored as NumPy arrays."""
  if not isinstance(value, kind):
    raise TypeError(f"{name} must be a {kind.__name__}; got {describe(value)}.")
  return jax.tree.map(lambda leaf: leaf if is_jax(leaf) else jnp.asarray(leaf), value)


def parts(hyperparams: Any, *names: str, name: str = "hyperparams", example: Any = None) -> tuple:
  """The members of a tuple of hyper-parameters, by name; ``example`` is shown where it is none."""
  if not isinstance(hyperparams, tuple | list) or len(hyperparams) != len(names):
    kind = {2: "pair", 3: "triple"}.get(len(names), f"tuple of {len(names)}")
    usage = "" if example is None else f": pass {example}"
    if isinstance(hyperparams, tuple | list):
      got = f"{len(hyperparams)} of them"
    elif hasattr(hyperparams, "dtype"):
      got = describe(hyperparams)  # of a traced array too
    else:
      got = f"a {type(hyperparams).__name__}"
    raise ValueError(f"{name} must be a {kind} ({', '.join(names)}){usage}; got {got}.")
  return tuple(hyperparams)


@contextlib.contextmanager
def within(argument: str) -> Iterator[None]:
  """Errors about a part of an argument, raised where only the part is known, name the argument."""
  try:
    yield
  except (TypeError, ValueError) as error:
    if type(error) not in (TypeError, ValueError) or argument in str(error):
      raise
    raise type(error)(f"{argument}: {error}") from error


def check_penalty(name: str, value: Any) -> None:
  """A ``Penalty`` record."""
  if not isinstance(value, Penalty):
    raise TypeError(f"{name} must be a Penalty(value, prox); got {type(value).__name__}.")
