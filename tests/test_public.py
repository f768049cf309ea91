"""All public names: documented, registered, refused bad input; imports one way and lazy."""

import ast
import importlib
import inspect
import pathlib
import re
import subprocess
import sys

import pytest

import jaxopt_robust as jr
from tests.test_bad_inputs import BAD_INPUTS, MODULES

PACKAGE = pathlib.Path(jr.__file__).parent
MODULES_PUBLIC = [name for name in jr.__all__ if name != "__version__"]

# Functions that take whatever they are given, or whose only bad input is Python's own TypeError.
TAKES_ANYTHING = {
  "compositional.outer_identity",
  "compositional.outer_ratio",
  "compositional.outer_square",
  "numerics.log_average",
  "numerics.safe_divide",
  "numerics.tree_all_finite",
  "numerics.tree_where",
  "numerics.upcast",
  "sweeps.gather",
  "transforms.normalized_gradient",
}

# Lower layers first: a module may import those before it only. Method folders share one layer.
LAYERS = [
  {"typing", "_version", "_names"},
  {"_checks", "_deprecations"},
  {"_arguments"},
  {"numerics"},
  {"_linear_solve"},
  {"_chain", "_designs", "_units"},
  {"_spectral"},
  {"linalg"},
  {"sweeps"},
  {"problems"},
  {"losses"},
  {"projections"},
  {"prox"},
  {"solvers"},
  {"transforms"},
  {"layers"},
  {"nets"},
  {
    "regression", "unfolding", "recovery", "compositional", "bilevel", "generative", "surrogates",
    "robustness", "calibration", "attribution",
  },
  {"debug"},
]  # fmt: skip
# What each lower-level loop over points must not know.
RANK = {name: i for i, layer in enumerate(LAYERS) for name in layer}


def public_objects():
  for module_name in MODULES_PUBLIC:
    module = importlib.import_module(f"jaxopt_robust.{module_name}")
    for name in module.__all__:
      yield f"{module_name}.{name}", getattr(module, name)


def own(kind):
  """Functions or classes that the package defines (not aliases of JAX types)."""
  for name, value in public_objects():
    if kind(value) and getattr(value, "__module__", "").startswith("jaxopt_robust"):
      yield pytest.param(name, value, id=name)


FUNCTIONS = list(own(inspect.isfunction))
CLASSES = list(own(inspect.isclass))


def section(doc, title):
  match = re.search(rf"^{title}:\n((?:[ ]+.*\n?|\n)+)", doc, re.M)
  return match.group(1) if match else None


@pytest.mark.parametrize(("name", "fn"), FUNCTIONS)
def test_docstring_is_complete(name, fn):
  doc = inspect.getdoc(fn)
  assert doc, f"{name} has no docstring"
  parameters = list(inspect.signature(fn).parameters.values())
  wanted = ["Returns", "Example", "Reference"] + (["Args"] if parameters else [])
  missing = [title for title in wanted if section(doc, title) is None]
  assert not missing, f"{name} lacks {missing}"
  assert ">>>" in section(doc, "Example")
  for parameter in parameters:
    stars = {parameter.VAR_POSITIONAL: r"\*", parameter.VAR_KEYWORD: r"\*\*"}.get(
      parameter.kind, ""
    )
    pattern = rf"^\s*(?:[\w, *]*\b)?{stars}{parameter.name}\b[^\n]*:"
    assert re.search(pattern, section(doc, "Args"), re.M), f"{name}: {parameter.name} undocumented"
  order = [
    doc.index(f"{t}:\n") for t in ("Args", "Returns", "Example", "Reference") if f"{t}:\n" in doc
  ]
  assert order == sorted(order), f"{name}: sections out of order"
  first = doc.splitlines()[0]
  assert first.endswith(".") and len(doc.splitlines()) > 1 and not doc.splitlines()[1]


@pytest.mark.parametrize(("name", "cls"), CLASSES)
def test_classes_are_documented_field_by_field(name, cls):
  doc = inspect.getdoc(cls)
  assert doc, f"{name} has no docstring"
  for field in getattr(cls, "_fields", ()):
    assert re.search(rf"\b{field}\b", doc), f"{name}: field {field} undocumented"


@pytest.mark.parametrize(("name", "fn"), FUNCTIONS)
def test_at_most_three_positional_arrays_and_keyword_hyperparameters(name, fn):
  # Functions, keys, states and operators come before or after the arrays and do not count.
  others = {
    "apply_fn",
    "encode",
    "optimizer",
    "fun",
    "fn",
    "key",
    "matvec",
    "model",
    "objective",
    "op",
    "optimality",
  }
  others |= {
    "fixed_point",
    "hyper",
    "inner",
    "inner_solver",
    "outer",
    "projection",
    "prox",
    "solve",
  }
  others |= {"solver", "state"}
  positional = [
    p.name
    for p in inspect.signature(fn).parameters.values()
    if p.kind is p.POSITIONAL_OR_KEYWORD and p.name not in others
  ]
  assert len(positional) <= 3, f"{name} has more than three positional arrays: {positional}"
  for p in inspect.signature(fn).parameters.values():
    assert not isinstance(p.default, list | dict | set), f"{name}: mutable default of {p.name}"
    assert "Array" not in type(p.default).__name__, f"{name}: array default of {p.name}"
    assert p.name not in ("rng", "seed", "prng_key", "rng_key"), f"{name}: call it key"


def test_every_public_name_is_registered():
  covered = {
    "typing": set(jr.typing.__all__),  # aliases
  }
  for module in MODULES:
    # A large topic has several registries: prox.py, prox_nonconvex.py, ...
    topic = module.__name__.rpartition(".")[2].partition("_")[0]
    covered.setdefault(topic, set()).update(module.COVERED)
  for module_name in MODULES_PUBLIC:
    public = set(importlib.import_module(f"jaxopt_robust.{module_name}").__all__)
    known = covered.get(module_name, set())
    assert public <= known, f"{module_name}: not in its registry: {sorted(public - known)}"
    assert known <= public, f"{module_name}: registered but not public: {sorted(known - public)}"


def test_every_public_function_has_a_bad_input():
  tested = {case.name for case in BAD_INPUTS}
  functions = {p.id for p in FUNCTIONS}
  assert tested <= {name for name, _ in public_objects()}, "a bad input of an unknown name"
  assert functions - tested == TAKES_ANYTHING & functions


def imports_of(path):
  """Modules of the package that a file imports, by name below the package."""
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("jaxopt_robust"):
      below = node.module.split(".")[1:]
      yield from [below[0]] if below else [alias.name for alias in node.names]
    elif isinstance(node, ast.Import):
      for alias in node.names:
        if alias.name.startswith("jaxopt_robust."):
          yield alias.name.split(".")[1]


@pytest.mark.parametrize(
  "path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE))
)
def test_imports_run_one_way(path):
  if path == PACKAGE / "__init__.py":
    return
  home = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
  for target in imports_of(path):
    if target in (home, "__version__"):
      continue
    assert RANK[target] < RANK[home], f"{home} must not import {target}"


@pytest.mark.parametrize(
  "path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE))
)
def test_heavy_libraries_stay_where_they_are_needed(path):
  allowed = {"jax", "numpy", "optax", "jaxopt_robust", "flax"} | set(sys.stdlib_module_names)
  for node in ast.parse(path.read_text()).body:  # the top level only
    names = []
    if isinstance(node, ast.Import):
      names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
      names = [node.module]
    for name in names:
      root = name.split(".")[0]
      assert root in allowed, f"{path.name} imports {root}"
      assert root != "flax" or path.parent.name == "nets"


def test_isinstance_tracer_is_asked_in_one_file_only():
  users = [p.name for p in PACKAGE.rglob("*.py") if "Tracer" in p.read_text()]
  assert users == ["_checks.py"]


def test_no_global_configuration_is_changed():
  for path in PACKAGE.rglob("*.py"):
    assert "config.update" not in path.read_text(), path


def test_import_is_lazy_and_light():
  code = (
    "import sys, jaxopt_robust;"
    "bad = [m for m in ('flax', 'numpyro', 'orbax', 'sklearn', 'matplotlib', 'tqdm') "
    "if m in sys.modules];"
    "subs = [m for m in sys.modules if m.startswith('jaxopt_robust.')];"
    "print(bad, subs);"
    "import jaxopt_robust.losses, jaxopt_robust.prox, jaxopt_robust.solvers, jaxopt_robust.sweeps;"
    "import jaxopt_robust.recovery, jaxopt_robust.robustness, jaxopt_robust.transforms;"
    "print([m for m in ('flax', 'numpyro', 'orbax', 'sklearn') if m in sys.modules])"
  )
  done = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True, cwd=PACKAGE.parent, check=True
  )
  assert done.stdout.splitlines() == ["[] ['jaxopt_robust._version']", "[]"]


def test_unknown_names_fail_clearly():
  with pytest.raises(AttributeError, match="has no attribute 'optimise'"):
    _ = jr.optimise
  assert set(jr.__all__) == set(dir(jr))


@pytest.mark.parametrize(
  ("get", "hint"),
  [
    (lambda: jr.fista, "It is jaxopt_robust.solvers.fista."),
    (lambda: jr.solver, "Did you mean jaxopt_robust.solvers?"),
    (lambda: jr.losses.huber_loss, "It is optax.losses.huber_loss."),
    (lambda: jr.losses.AUC, "Did you mean jaxopt_robust.losses.auc?"),
    (lambda: jr.prox.prox_l1, "Did you mean jaxopt_robust.prox.prox_lasso?"),
    (lambda: jr.prox.prox_laso, "Did you mean jaxopt_robust.prox.prox_lasso?"),
    (lambda: jr.solvers.prox_laso, "Did you mean jaxopt_robust.prox.prox_lasso?"),
    (lambda: jr.numerics.safenorm, "Did you mean jaxopt_robust.numerics.safe_norm?"),
  ],
)
def test_unknown_names_say_what_is_meant(get, hint):
  with pytest.raises(AttributeError, match=f"has no attribute .*{re.escape(hint)}"):
    get()


def test_every_module_helps_with_unknown_names():
  for name in MODULES_PUBLIC:
    module = importlib.import_module(f"jaxopt_robust.{name}")
    if name != "typing":  # below everything, aliases only
      with pytest.raises(AttributeError, match=r"Did you mean .*run_until"):
        _ = module.run_untill


def test_synonyms_lead_to_names_that_exist():
  from jaxopt_robust import _names

  public = _names._public()
  for known, ours in _names.SYNONYMS.items():
    home, name = ours.split(".")
    assert name in public[home] and not any(known in names for names in public.values())
