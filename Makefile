# `make quickstart` and `make test` do all their set-up from a fresh clone.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin
# Three test processes for two cores, because the end-to-end tests often wait.  torch gets one thread in each, since the
# threads of several would wait for each other.
PYTEST := OMP_NUM_THREADS=1 $(RUN)/pytest -n 3 --dist loadfile

# Packages come from the lock files, as wheels, each checked against its hashes: nothing is resolved, nothing else is
# installed, and no code of a package runs meanwhile.  torch alone is installed by its version: the machine decides
# between its CPU and its CUDA build.
INSTALL := $(RUN)/pip install --quiet --no-deps --only-binary=:all: --require-hashes --requirement
TORCH := $(shell sed -n 's/^\(torch==[^ ;]*\).*/\1/p' torch.lock)
EDITABLE := $(RUN)/pip install --quiet --no-deps --no-build-isolation --editable .
LOCKS := requirements.lock torch.lock development.lock

.PHONY: quickstart serve docs test test-all check bench format lock audit trlx-env

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

$(VENV)/.runtime: pyproject.toml requirements.lock torch.lock | $(VENV)/bin/pip
	$(INSTALL) requirements.lock
	$(RUN)/pip install --quiet $(TORCH)
	$(EDITABLE)
	touch $@

$(VENV)/.development: development.lock $(VENV)/.runtime
	$(INSTALL) development.lock
	touch $@

# Known vulnerabilities of the locked packages; skipped, with the reason, if the database of them cannot be reached.
audit: $(VENV)/.development
	.ci/audit $(LOCKS)

# Locks what pyproject.toml needs and keeps the versions in the lock files; delete a package there to get its newest.
UV := $(VENV)/uv/bin/uv
COMPILE := $(UV) pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes --no-header --no-annotate
TORCH_PACKAGES := /^(torch|triton|nvidia-.*|cuda-.*)==/,/[^\\]$$/
lock: $(UV)
	cat $(LOCKS) > $(VENV)/all.lock
	$(COMPILE) --quiet --extra dev --output-file $(VENV)/all.lock
	cp $(VENV)/all.lock $(VENV)/runtime.lock
	$(COMPILE) --quiet --output-file $(VENV)/runtime.lock
	sed -nE '$(TORCH_PACKAGES)p' $(VENV)/runtime.lock > torch.lock
	sed -E '$(TORCH_PACKAGES)d' $(VENV)/runtime.lock > requirements.lock
	cp $(VENV)/all.lock development.lock
	$(COMPILE) --quiet --extra dev --output-file development.lock --no-emit-package pip \
	  $$(sed -nE 's/^([a-z0-9._-]+)==.*/--no-emit-package \1/p' $(VENV)/runtime.lock)

$(UV): | $(VENV)/bin/pip
	$(PYTHON) -m venv $(VENV)/uv
	$(VENV)/uv/bin/pip install --quiet uv==0.13.9

trlx-env: .trlx-venv/.ready

.trlx-venv/.ready: deployments/trlx/requirements.txt
	$(PYTHON) -m venv .trlx-venv
	.trlx-venv/bin/pip install --quiet --requirement $< || { \
	  echo "trlx-env: not built; it needs github.com and PyPI. Build it where those are reached, from $<," >&2; \
	  echo "and let TRLX_PYTHON name its python." >&2; exit 1; }
	touch $@
