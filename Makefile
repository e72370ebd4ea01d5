# Two commands for a newcomer: `make bench` and `make test`. Both set up what they need.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Arguments for vitbench run: make bench RUN="quick --device cpu"
RUN ?= quick

# Each worker process imports torch, which takes half as long once its files are compiled.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help bench setup test test-all lint format type check docs benchmarks cuda clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

bench: $(READY) ## measure five mechanisms on this machine's best device; CSV and charts in reports/
	$(BIN)/vitbench run $(RUN)

setup: $(READY) ## create the environment in .venv and install everything in it

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version.split()[0]; sys.version_info >= (3, 11) or sys.exit("vitbench needs Python 3.11 or newer, $(PYTHON) is " + v)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@# Tests read single modules of birder, which need none of the 14 packages (260 MB) of the whole.
	$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check --constraint constraints.txt --no-deps birder
	@touch $@

# Tests share the cores: threads that spin while they wait took five times as long.
PYTEST := OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -n 2 --dist worksteal --durations=20

test: $(READY) ## run the tests (set-up included), in at most 6 minutes on 2 cores
	$(PYTEST) -m "not slow"

test-all: $(READY) ## run all tests: more draws and larger sizes of what `make test` checks
	$(PYTEST)

lint: $(READY) ## check style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(READY) ## format the code and mend what ruff can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

type: $(READY) ## check types (mypy --strict)
	$(BIN)/mypy

check: lint type test ## all of the above, as CI does

docs: $(READY) ## build the documentation as a site in site/; a warning is an error
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

benchmarks: $(READY) ## judge the engine against independent clocks; reports in reports/benchmarks/
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[benchmarks]'
	$(BIN)/python -m tests.benchmarks

cuda: $(READY) ## on a machine with a GPU: tests, quick, catalogue, doctor, ab; a report in reports/
	$(BIN)/python -m tests.device_report $(or $(REPORT),reports/cuda-$(shell date +%Y-%m-%d))

clean: ## remove the environment and caches; reports stay
	rm -rf $(VENV) site .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
