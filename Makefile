# The first command of each needs only Python 3.11 or newer, git and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: digits check test lint docs benchmark clean

digits: $(VENV)/installed  ## train and convert on the handwritten digits
	$(BIN)/python train.py
	$(BIN)/python convert.py

check: lint  ## style, types and the fast tests, about five minutes on two cores
	$(BIN)/python -m pytest -m "not slow"

test: lint  ## style, types and all tests
	$(BIN)/python -m pytest

lint: $(VENV)/installed-for-tests  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/installed-for-docs  ## the documentation site, docs/_build/html/index.html, whose code runs while it is built
	$(BIN)/sphinx-build --fail-on-warning --keep-going --nitpicky --fresh-env --jobs auto --quiet docs docs/_build/html

benchmark: $(VENV)/installed-for-benchmark  ## images a second of the input; time and memory of the simulation
	$(BIN)/python benchmarks/input_pipeline.py
	$(BIN)/python benchmarks/simulation.py

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "$$($(PYTHON) --version) is too old: name a newer Python, as in make PYTHON=python3.12 digits"; exit 2; }
	$(PYTHON) -m venv $(VENV) || { rm -f $@; exit 2; }

$(VENV)/installed: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[train,report]'
	@touch $@

$(VENV)/installed-for-tests: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@ $(VENV)/installed

$(VENV)/installed-for-benchmark: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[benchmark]'
	@touch $@ $(VENV)/installed

$(VENV)/installed-for-docs: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	@touch $@ $(VENV)/installed

clean:
	rm -rf $(VENV) docs/_build
