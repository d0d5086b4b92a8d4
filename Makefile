# `make` alone lists the targets. VENV, PYTHON, ARGS and PYTEST_ARGS may be given on the command line.

VENV ?= .venv
PYTHON ?= python3
ARGS ?=
RUN ?=
# Tests of one module or class share their fixtures, so they stay on one worker; tests/conftest.py decides on the order.
PYTEST_ARGS ?= -n auto --dist loadscope --no-loadscope-reorder

PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check --quiet
STAMP := $(VENV)/.installed
LOCK_VENV := $(VENV)-lock
TORCH = $(shell sed -n 's/^\(torch==[^ ]*\).*/\1/p' requirements.lock)

.DEFAULT_GOAL := help
.PHONY: help install demo figures docs test lint format typecheck bench lock clean check-python

help: ## list the targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

install: $(STAMP) ## make the environment .venv (or VENV=...) with the locked versions and this package in it

demo: install ## run the main job; pass overrides as ARGS="seed=1 n_models=8"
	$(PY) -m dmm_exp unlearner=dmm forget=rum_high_mem $(ARGS)

figures: install ## draw the figures of a finished page as files: RUN=FOLDER, and ARGS="format=pdf width=5.5"
	$(PY) -m dmm_exp.export "$(RUN)" $(ARGS)

docs: install ## build the documentation as a site of files, site/index.html; a broken link fails it
	NO_MKDOCS_2_WARNING=true $(PY) -m mkdocs build --strict --quiet

# One thread for each test worker: the workers already fill the cores.
test: install ## run the tests; choose some with PYTEST_ARGS="-k klom"
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(PY) -m pytest $(PYTEST_ARGS)

lint: install ## check style, formatting and the direction of imports
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/lint-imports

format: install ## repair style and formatting
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

typecheck: install ## check types
	$(VENV)/bin/pyright --pythonpath $(PY)

# One thread, unless a benchmark is about threads.
bench: install ## run the benchmarks and write benchmarks/results.md; choose some with ARGS=klom
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(PY) -m benchmarks $(ARGS)

lock: check-python ## write the lock files, from the newest releases that pyproject.toml admits (torch stays)
	$(PYTHON) -m venv --clear $(LOCK_VENV)
	$(LOCK_VENV)/bin/pip --quiet install uv
	$(LOCK_VENV)/bin/python scripts/lock.py
	rm -rf $(LOCK_VENV)

clean: ## remove caches and build products (never outputs/ or the environment)
	rm -rf build dist site .pytest_cache .ruff_cache .import_linter_cache .coverage
	find . -name __pycache__ -type d -not -path './.venv*' -prune -exec rm -rf {} +

check-python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "dmm_exp needs Python 3.11 or newer, and '$(PYTHON)' is not that: name one, as in make install PYTHON=python3.11" >&2; \
	  exit 1; }

# Every file has to have a hash that a lock file lists; what is installed already, such as another build of torch, stays.
# torch comes first and by itself: with hashes given, pip would take its build for GPUs, whatever pip's settings prefer.
$(STAMP): pyproject.toml requirements.lock requirements-cuda.lock | check-python
	@echo "Installing into $(VENV) (a few minutes the first time)"
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) list --format freeze | grep -q '^$(TORCH)' || { \
	  $(PIP) download --no-deps --dest $(VENV)/torch $(TORCH) && \
	  sed -n '/^torch==/,/[^\\]$$/p' requirements.lock > $(VENV)/torch.lock && \
	  $(PIP) install --require-hashes --no-deps --no-index --find-links $(VENV)/torch -r $(VENV)/torch.lock && \
	  rm -rf $(VENV)/torch $(VENV)/torch.lock; }
	@$(PIP) install --require-hashes --no-deps -r requirements.lock
	@if $(PY) -c 'import importlib.metadata as m, sys; sys.exit("nvidia" not in str(m.requires("torch")))'; then \
	  $(PIP) install --require-hashes --no-deps -r requirements-cuda.lock; fi
	@$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@
