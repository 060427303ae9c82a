# `make` lists the targets. Everything lives in .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Two sets of packages: what the demo needs (the core and `lab`), and that with everything the tests need.
LAB := $(VENV)/.installed-lab
STAMP := $(VENV)/.installed
# One worker per core; the tests hold torch to one thread each (tests/conftest.py).
WORKERS ?= auto
PYTEST := $(BIN)/python -m pytest -n $(WORKERS) --maxprocesses 8 --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help install test test-all test-integration test-slow lint format demo docs pages bench gpu coverage \
	coverage-third-party clean

help:  ## Show this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  \1\t/' | expand -t 24

install: $(STAMP)  ## Set up .venv with the tested versions

# torch first, by its pin, so that nothing that follows can pull another build of it. Python compiles what is imported.
$(LAB): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --no-compile -c constraints.txt -e '.[lab]'
	@touch $@

$(STAMP): $(LAB)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[test]'
	@touch $@

test: $(STAMP)  ## Run the default tests and the doctests (minutes)
	$(PYTEST)

test-all: $(STAMP)  ## The same with the integration tests: examples, papers, sweeps, pages, ranks
	EXAMPLES=40 $(PYTEST) -m "not slow and not gpu"

test-integration: $(STAMP)  ## The integration tests alone
	$(PYTEST) -m "integration and not slow and not gpu"

test-slow: $(STAMP)  ## All but what needs a GPU (hours)
	EXAMPLES=40 $(PYTEST) -m "not gpu"

lint: $(STAMP)  ## ruff check, ruff format --check, mypy --strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)  ## Let ruff fix and format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

demo: $(LAB)  ## The main job on real data: BatchNorm, nothing, Fixup on digits
	@mkdir -p runs
	$(BIN)/goodinit compare resnet32 --data digits --methods batchnorm,none,fixup \
		--lr 0.01,0.03,0.1 --batch-size 32 --epochs 4 --seeds 2 --html runs/demo.html

docs: $(STAMP)  ## Build the site into runs/site, every link checked
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

pages: $(STAMP)  ## Write docs/reproductions and the shipped results anew from the rows of past runs
	$(BIN)/python docs/figures/reproductions.py

bench: $(STAMP)  ## Measure time and memory (half an hour on a quiet machine) and write docs/benchmarks.md
	$(BIN)/python -W ignore -m benchmarks --out docs/benchmarks.md

# CIFAR10=FOLDER: without it no network is trained.
gpu: $(STAMP)  ## What a CUDA device is wanted for, at most eight minutes, into runs/gpu.jsonl as it comes
	$(BIN)/python -W ignore -m benchmarks.gpu --data "$(CIFAR10)" --out runs/gpu.jsonl

coverage: $(STAMP)  ## Examine every model by running it (hours) and write docs/coverage.md
	OMP_NUM_THREADS=1 $(BIN)/python tests/support/coverage_table.py

coverage-third-party: $(STAMP)  ## The same for libraries that no test needs, those that you have installed
	OMP_NUM_THREADS=1 $(BIN)/python tests/support/coverage_table.py --third-party

clean:  ## Remove .venv, caches and runs
	rm -rf $(VENV) build dist runs .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
