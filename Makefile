# `make demo` and `make test` need Python 3.11 and nothing else.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
# Files are shared out to as many processes, in their order: else the longest,
# of few tests each, come last and one process waits for the other.
WORKERS ?= 2
PYTEST_OPTIONS := -q -n $(WORKERS) --dist loadfile --no-loadscope-reorder
PYTEST := $(BIN)/python -m pytest $(PYTEST_OPTIONS)
export TF_CPP_MIN_LOG_LEVEL ?= 2
# Most programs of the tests run a few times: the code that XLA makes of them is
# not optimized. `make test TEST_XLA_FLAGS=` compiles as users do, and so do the
# targets that are run before a release.
TEST_XLA_FLAGS ?= --xla_backend_optimization_level=0 \
	--xla_cpu_use_fusion_emitters=false

# Many tests train the same small network. What JAX compiled for one of them
# serves the next one, the other process and the next run.
ON_JAX := KERAS_BACKEND=jax JAX_COMPILATION_CACHE_DIR=$(CURDIR)/build/jax \
	JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0 \
	JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES=-1

# What is ours in training on JAX; the whole suite there takes long, as each
# new shape is compiled.
JAX_CORE := tests/topology tests/layers/test_sparse.py tests/trainers \
	tests/models/test_sparse_model.py tests/models/test_hooks.py \
	tests/models/test_mimo.py \
	tests/ensembles/test_ensemble_model.py tests/ensembles/test_regression.py \
	tests/callbacks/test_drop_and_grow.py tests/callbacks/test_moon.py \
	tests/callbacks/test_weight_averaging.py tests/callbacks/test_snapshot.py \
	tests/losses tests/recipes tests/integration/test_docs.py
# Members in one step and alone are rounded alike by optimized programs only.
JAX_OPTIMIZED := tests/models/test_side_by_side.py

# Environments beside .venv, each for one check.
OTHER := build/venv-$(notdir $(PYTHON))
EMPTY := build/venv-empty

.PHONY: demo test test-jax-core test-jax test-compiled test-slow test-all \
	test-python torture lint docs dist check-dist bazel-check clean

demo: $(VENV)/demo.stamp
	$(BIN)/python examples/demo.py --output_dir=runs/demo

test: $(VENV)/test.stamp lint
	KERAS_BACKEND=tensorflow XLA_FLAGS="$(TEST_XLA_FLAGS)" $(PYTEST)

test-jax-core: $(VENV)/test.stamp
	$(ON_JAX) XLA_FLAGS="$(TEST_XLA_FLAGS)" $(PYTEST) $(JAX_CORE)
	$(ON_JAX) $(PYTEST) $(JAX_OPTIMIZED)

test-jax: $(VENV)/test.stamp
	$(ON_JAX) $(PYTEST)

# Also those tests with graphs that `make test` runs without (see `eagerly` in
# tests/conftest.py).
test-compiled: $(VENV)/test.stamp
	COMPILED=1 KERAS_BACKEND=tensorflow $(PYTEST)

# What takes minutes, and a test with each: run it before a release.
test-slow: $(VENV)/test.stamp
	KERAS_BACKEND=tensorflow $(PYTEST) -m slow
	$(ON_JAX) $(PYTEST) -m slow $(JAX_CORE) $(JAX_OPTIMIZED)

test-all: test-compiled test-jax test-slow lint

# On another Python: `make test-python PYTHON=python3.13`.
test-python: $(OTHER)/test.stamp
	$(ON_JAX) $(OTHER)/bin/python -m pytest $(PYTEST_OPTIONS) \
		$(JAX_CORE) $(JAX_OPTIMIZED)

torture: $(VENV)/test.stamp
	$(BIN)/python tests/helpers/torture.py --kills=20

lint: $(VENV)/test.stamp
	$(BIN)/ruff check .
	$(BIN)/python -m mypy

# The site, in build/site; see mkdocs.yml.
docs: $(VENV)/test.stamp
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

# The source distribution, and the wheel that is built from it.
dist: $(VENV)/test.stamp
	rm -rf dist
	$(BIN)/python -m build --outdir dist
	$(BIN)/python -m twine check --strict dist/*

# The wheel alone, where there is neither the checkout nor TensorFlow.
check-dist: dist
	rm -rf $(EMPTY)
	$(PYTHON) -m venv $(EMPTY)
	$(EMPTY)/bin/python -m pip install --quiet "$$(ls dist/*.whl)[jax]"
	$(EMPTY)/bin/python -I tests/helpers/check_install.py

# Of the tests only what they name: Bazel's own part of one needs a network.
BAZEL_LIBRARIES := "deps(kind(py_library, //...)) + \
	labels(deps, kind(py_test, //...))"
bazel-check:
	@if command -v bazel >/dev/null; then \
	bazel query //... && bazel query --noimplicit_deps $(BAZEL_LIBRARIES); \
	else echo "bazel is not installed: BUILD is not checked"; fi

$(VENV)/bin/python $(OTHER)/bin/python: %/bin/python:
	$(PYTHON) -m venv $*

$(VENV)/demo.stamp: pyproject.toml setup.py | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet -e '.[examples,plots]'
	touch $@

$(VENV)/test.stamp $(OTHER)/test.stamp: %/test.stamp: pyproject.toml setup.py | %/bin/python
	$*/bin/python -m pip install --quiet -e '.[test]'
	touch $@

# Not runs/: there lie a user's tickets.
clean:
	rm -rf $(VENV) build dist *.egg-info
