# Commands of this repository. `make demo` shows the evidence, `make test` runs every check.
#
# PYTHON=python3.12   another interpreter for a new environment (3.11 or later)
# VENV=path           another place for the environment (default .venv)
# TEST_XLA_FLAGS=     run the tests on fully optimised code (twice as long)

PYTHON ?= python3
VENV ?= .venv
JAX_CACHE ?= $(CURDIR)/.jax_cache
WORKERS ?= 2
# Most of the tests' time is compilation, most of that spent on fast code for programs that run once.
TEST_XLA_FLAGS ?= --xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false \
  --xla_cpu_parallel_codegen_split_count=1

BIN := $(VENV)/bin
PY := $(BIN)/python
UV := $(shell command -v uv 2>/dev/null)
ifdef UV
  # --seed: fetching a data set uses the environment's own pip.
  MAKE_VENV = uv venv --quiet --seed --python $(PYTHON) $(VENV)
  INSTALL = uv pip install --quiet --python $(PY)
else
  MAKE_VENV = $(PYTHON) -m venv $(VENV)
  INSTALL = $(PY) -m pip install --quiet --quiet --disable-pip-version-check
endif

# Compiled programs are kept between runs: most of the tests' time is compilation.
CACHED := JAX_COMPILATION_CACHE_DIR="$(JAX_CACHE)" JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0.02

.DELETE_ON_ERROR:
.PHONY: help demo test check static mutants docs bench notebooks format clean check-python

help:
	@echo "make demo       run the demo experiments; results/index.html shows them"
	@echo "make test       format, lint, types, tests, toy runs, wheel"
	@echo "make check      format, lint, types and the tests of what differs from main"
	@echo "make mutants    plant small faults in MODULE=... and print those that no test sees"
	@echo "make docs       build the documentation into docs/_build/html"
	@echo "make bench      run the benchmarks; results/bench.json"
	@echo "make notebooks  write and run notebooks/*.ipynb"
	@echo "make format     format the code and repair what the linter can"
	@echo "make clean      delete the environment and everything generated"

check-python:
	@command -v $(PYTHON) >/dev/null 2>&1 || { \
	  echo "error: there is no '$(PYTHON)'; name an interpreter: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "error: Python 3.11 or later is needed; '$(PYTHON)' is $$($(PYTHON) --version 2>&1). \
	Name another: make PYTHON=python3.12" >&2; exit 1; }

# One stamp a set of dependencies; each is installed again when pyproject.toml changes.
$(PY):
	@$(MAKE) --no-print-directory check-python
	@echo "Making the environment $(VENV)"
	@$(MAKE_VENV)

$(VENV)/.installed-%: pyproject.toml | $(PY)
	@echo "Installing .[$*] (minutes, once)"
	@$(INSTALL) --editable ".[$*]"
	@touch $@

demo: $(VENV)/.installed-experiments
	@$(PY) -m experiments demo

# A jaxlib that does not know a flag ends the process: then without.
WITH_TEST_FLAGS = flags="$(TEST_XLA_FLAGS)"; \
	XLA_FLAGS="$$flags" $(PY) -c 'import jax; jax.devices()' >/dev/null 2>&1 || { \
	  echo "This jaxlib does not take $$flags: testing without"; flags=; }; \
	XLA_FLAGS="$$XLA_FLAGS $$flags" $(CACHED)
PYTEST = $(WITH_TEST_FLAGS) $(PY) -m pytest -q -n $(WORKERS) --dist loadfile --doctest-modules

static: $(VENV)/.installed-test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

check: static
	@tests=$$($(PY) tools/changed_tests.py) || exit 1; $(PYTEST) $$tests

test: static
	@$(PYTEST) --durations 25 tests  # examples of docstrings: tests/calls
	$(PY) -m benchmarks --size toy --out $(VENV)/bench-toy.json
	@$(MAKE) --no-print-directory check-wheel

# The wheel installs into an empty environment and imports there with its own dependencies alone.
.PHONY: check-wheel
check-wheel: $(VENV)/.installed-test
	rm -rf build/check && mkdir -p build/check
	$(PY) -m build --no-isolation --wheel --outdir build/check . >build/check/log 2>&1 || { \
	  cat build/check/log >&2; exit 1; }
	$(PY) tools/check_wheel.py build/check

# Small faults that no test sees: make mutants MODULE=prox COUNT=20 SEED=0 FILE=jaxopt_robust/prox/l1.py
COUNT ?= 20
SEED ?= 0
mutants: $(VENV)/.installed-test
	@test -n "$(MODULE)" || { echo "make mutants MODULE=prox" >&2; exit 1; }
	@$(WITH_TEST_FLAGS) $(PY) tools/mutants.py $(MODULE) \
	  --count $(COUNT) --seed $(SEED) --workers $(WORKERS) $(if $(FILE),--file $(FILE))

NOTEBOOKS := $(patsubst %.py,%.ipynb,$(wildcard notebooks/*.py))
notebooks/%.ipynb: notebooks/%.py tools/notebooks.py | $(VENV)/.installed-notebooks
	@$(PY) tools/notebooks.py notebooks $* --run

docs: $(VENV)/.installed-docs $(NOTEBOOKS)
	$(BIN)/sphinx-build --fail-on-warning --quiet docs docs/_build/html
	@echo "Written: docs/_build/html/index.html"

# Peers that cannot be installed here are left out of the comparison, with a printed line.
$(VENV)/.peers-tried: $(VENV)/.installed-test
	@$(INSTALL) --editable ".[peers]" || echo "Some peers could not be installed."
	@touch $@

bench: $(VENV)/.peers-tried
	$(PY) -m benchmarks --out results/bench.json

notebooks: $(VENV)/.installed-notebooks
	$(PY) tools/notebooks.py notebooks --run

format: $(VENV)/.installed-test
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) .jax_cache build dist results docs/_build docs/generated
	rm -rf .pytest_cache .ruff_cache .mypy_cache notebooks/*.ipynb
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
