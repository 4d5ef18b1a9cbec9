# `make quickstart` and `make test` do all their set-up from a fresh clone.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin
# Two test processes: torch's threads of both would wait for each other.
PYTEST := OMP_NUM_THREADS=1 $(RUN)/pytest -n 2 --dist loadfile

.PHONY: quickstart serve docs test test-all check bench format trlx-env

quickstart: $(VENV)/.runtime
	$(RUN)/rlhf run quickstart

serve: $(VENV)/.runtime
	$(RUN)/rlhf serve

test: $(VENV)/.development
	$(PYTEST) --no-loadscope-reorder --durations 10 -m "not exhaustive"

test-all: $(VENV)/.development
	$(PYTEST)

check: $(VENV)/.development
	$(RUN)/ruff format --check .
	$(RUN)/ruff check .
	$(RUN)/mypy
	$(RUN)/lint-imports
	$(PYTEST) -m "not slow"

format: $(VENV)/.development
	$(RUN)/ruff format .
	$(RUN)/ruff check --fix .

docs: $(VENV)/.runtime
	$(RUN)/python -m flows.cli.reference

bench: $(VENV)/.development
	$(RUN)/python -m tests.benchmarks

$(VENV)/bin/pip:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.runtime: pyproject.toml requirements.lock | $(VENV)/bin/pip
	$(RUN)/pip install --quiet --constraint requirements.lock --editable .
	touch $@

$(VENV)/.development: pyproject.toml requirements.lock | $(VENV)/bin/pip
	$(RUN)/pip install --quiet --constraint requirements.lock --editable '.[dev]'
	touch $@ $(VENV)/.runtime

trlx-env: .trlx-venv/.ready

.trlx-venv/.ready: deployments/trlx/requirements.txt
	$(PYTHON) -m venv .trlx-venv
	.trlx-venv/bin/pip install --quiet --requirement $< || { \
	  echo "trlx-env: not built; it needs github.com and PyPI. Build it where those are reached, from $<," >&2; \
	  echo "and let TRLX_PYTHON name its python." >&2; exit 1; }
	touch $@
