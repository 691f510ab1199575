# `make demo` and `make test` need Python 3.11 and nothing else.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
# Files are shared out to as many processes, in their order: else the longest,
# of few tests each, come last and one process waits for the other.
WORKERS ?= 2
PYTEST := $(BIN)/python -m pytest -q -n $(WORKERS) --dist loadfile \
	--no-loadscope-reorder
export TF_CPP_MIN_LOG_LEVEL ?= 2

# What is ours in training on JAX; the whole suite there takes long, as each
# new shape is compiled.
JAX_CORE := tests/topology tests/layers/test_sparse.py tests/models/trainers \
	tests/models/test_sparse_model.py tests/models/test_ensemble.py \
	tests/models/test_mimo.py tests/models/test_side_by_side.py \
	tests/callbacks/test_drop_and_grow.py tests/callbacks/test_averaged.py \
	tests/callbacks/test_averaging.py tests/callbacks/test_snapshot.py \
	tests/losses tests/ensembles tests/integration/test_docs.py

.PHONY: demo test test-jax-core test-jax test-slow test-all torture lint bazel-check clean

demo: $(VENV)/demo.stamp
	$(BIN)/python examples/demo.py --output_dir=runs/demo

test: $(VENV)/test.stamp lint
	KERAS_BACKEND=tensorflow $(PYTEST)

test-jax-core: $(VENV)/test.stamp
	KERAS_BACKEND=jax $(PYTEST) $(JAX_CORE)

test-jax: $(VENV)/test.stamp
	KERAS_BACKEND=jax $(PYTEST)

# What takes minutes, and a test with each: run it before a release.
test-slow: $(VENV)/test.stamp
	KERAS_BACKEND=tensorflow $(PYTEST) -m slow
	KERAS_BACKEND=jax $(PYTEST) -m slow $(JAX_CORE)

test-all: test test-jax test-slow

torture: $(VENV)/test.stamp
	$(BIN)/python tests/helpers/torture.py --kills=20

lint: $(VENV)/test.stamp
	$(BIN)/ruff check .

# Of the tests only what they name: Bazel's own part of one needs a network.
BAZEL_LIBRARIES := "deps(kind(py_library, //...)) + \
	labels(deps, kind(py_test, //...))"
bazel-check:
	@if command -v bazel >/dev/null; then \
	bazel query //... && bazel query --noimplicit_deps $(BAZEL_LIBRARIES); \
	else echo "bazel is not installed: BUILD is not checked"; fi

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/demo.stamp: setup.py | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet -e '.[examples,plots]'
	touch $@

$(VENV)/test.stamp: setup.py | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet -e '.[test]'
	touch $@

# Not runs/: there lie a user's tickets.
clean:
	rm -rf $(VENV) build *.egg-info
