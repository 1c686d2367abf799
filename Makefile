PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Newer than pyproject.toml when the environment holds the codec alone, and when it holds what the tests need.
LIGHT := $(VENV)/.installed
FULL := $(VENV)/.installed-test
ALL := $(VENV)/.installed-test-all

.PHONY: help demo docs lint man test test-all test-light wheel clean

help:
	@echo "make demo    compress and decompress sample_images/, print bytes, bpp and PSNR"
	@echo "make test    run the test suite, with PyTorch and all (PYTEST_ARGS=... for pytest)"
	@echo "make test-all    the slow tests, too, with Ray and an S3 server"
	@echo "make test-light    those tests that the light install can run, in an environment of their own without PyTorch"
	@echo "make lint    rules and format (ruff) and types (mypy) of the sources; changes nothing"
	@echo "make wheel   build the wheel into dist/"
	@echo "make man     write the manual page, build/codec.1"
	@echo "make docs    build the reference of the Python interface from its docstrings, build/reference/index.html"
	@echo "make clean   remove what was built; the environment in $(VENV) stays"
	@echo "PYTHON=python3.12 chooses the interpreter of a new environment"

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(LIGHT): pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install -e .
	@touch $@

# compressai needs numpy 1.x, which exists for Python up to 3.12: say so rather than fail in compiling numpy.
$(FULL): pyproject.toml | $(BIN)/python
	@$(BIN)/python -c 'import sys; sys.exit(0 if (3, 10) <= sys.version_info[:2] <= (3, 12) else \
	    "the tests need CompressAI, and so Python 3.10 to 3.12: make test PYTHON=python3.12 VENV=.venv312")'
	$(BIN)/python -m pip install -e '.[test]'
	@touch $(LIGHT) $@

demo: $(LIGHT)
	$(BIN)/codec demo sample_images --output demo_output

test: $(FULL)
	$(BIN)/python -m pytest $(PYTEST_ARGS)

$(ALL): $(FULL)
	$(BIN)/python -m pip install -e '.[test-all]'
	@touch $@

test-all: $(ALL)
	$(BIN)/python -m pytest -m '' $(PYTEST_ARGS)

# What a user of the light install relies on, where PyTorch is not there to be imported by mistake.
LIGHT_TESTS := golden bitstream rans config image_io metadata fallback pictures pillow_plugin without_torch
LIGHT_BIN := $(VENV)-light/bin

$(VENV)-light/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)-light
	$(LIGHT_BIN)/python -m pip install -e . hypothesis pytest
	@touch $@

test-light: $(VENV)-light/.installed
	$(LIGHT_BIN)/python -c 'import importlib.util as u, sys; sys.exit(u.find_spec("torch") and "PyTorch is installed here")'
	$(LIGHT_BIN)/python -m pytest $(LIGHT_TESTS:%=tests/test_%.py) $(PYTEST_ARGS)

# An environment of its own without PyTorch, so that it says the same everywhere.
LINT_BIN := $(VENV)-lint/bin

$(VENV)-lint/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)-lint
	$(LINT_BIN)/python -m pip install -e '.[lint]'
	@touch $@

lint: $(VENV)-lint/.installed
	$(LINT_BIN)/ruff check
	$(LINT_BIN)/ruff format --check
	$(LINT_BIN)/mypy

# build/lib would carry files that have been deleted since into the wheel.
wheel: $(LIGHT)
	rm -rf build
	$(BIN)/python -m pip wheel --no-deps --wheel-dir dist .

man: $(LIGHT)
	mkdir -p build
	$(BIN)/codec man > build/codec.1

# What a program may import without PyTorch. pdoc comes with the extra "docs"; building asks nothing of the network.
DOCUMENTED := codec $(addprefix codec.,api errors quality targets image_io bitstream weights pillow_plugin view desktop) \
    codec.evaluation $(addprefix codec.evaluation.,run rate_distortion report words anchors metrics bd_rate)

$(VENV)/.installed-docs: pyproject.toml | $(LIGHT)
	$(BIN)/python -m pip install -e '.[docs]'
	@touch $@

docs: $(VENV)/.installed-docs
	$(BIN)/python -m pdoc --docformat google --output-directory build/reference $(DOCUMENTED)

clean:
	rm -rf build dist demo_output .pytest_cache .mypy_cache .ruff_cache *.egg-info
	find . -name __pycache__ -not -path './$(VENV)*/*' -prune -exec rm -rf {} +
