# Moorline for developers. `make` alone lists the targets.
#
# Every target works on a fresh machine with Python 3.11 or newer and make: what is needed comes as wheels into .venv.

SHELL := /bin/sh
.DEFAULT_GOAL := help
.SUFFIXES:

# The interpreter that makes .venv: the oldest supported one first, because requirements*.txt are compiled with it.
PYTHON ?= $(shell for name in python3.11 python3.12 python3.13 python3.14 python3; do \
    command -v $$name 2>/dev/null && break; done)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP := PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore $(BIN)/python -m pip --quiet

# Extra words for the program behind a target: make test ARGS='tests/protocol -x', make psql ARGS='-c "SELECT 1"'.
ARGS ?=

.PHONY: help
help:  ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# Two that install at once, as the first `make up` in two terminals, take turns; the second one finds the work done.
$(STAMP): requirements.txt requirements-dev.txt pyproject.toml
ifndef INSTALLING
	@lock=$$(command -v flock) && lock="$$lock .venv.lock"; $$lock $(MAKE) --silent INSTALLING=yes $@
else
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	    echo "Moorline needs Python 3.11 or newer; found: $$("$(PYTHON)" --version 2>/dev/null || echo none)." \
	         "Name another one with: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@test -x $(BIN)/python && $(BIN)/python -m pip --version >/dev/null 2>&1 || { \
	    echo "Making $(VENV) with $(PYTHON)"; "$(PYTHON)" -m venv --clear $(VENV); } || { \
	    echo "$(PYTHON) cannot make a virtual environment; on Debian: apt-get install python3-venv" >&2; exit 1; }
	@echo "Installing requirements-dev.txt into $(VENV) (wheels only)"
	@$(PIP) install --only-binary :all: -r requirements-dev.txt
	@$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@
endif

.PHONY: install
install: $(STAMP)  ## Make .venv and install what is pinned; again only when a requirements file changes

.PHONY: up
up: $(STAMP)  ## Run everything here, with an example customer site; Ctrl-C stops it
	@exec $(BIN)/python -m quickstart up

.PHONY: psql
psql: $(STAMP)  ## Open psql through the tunnel of `make up` (ARGS='-c "SELECT 1"')
	@exec $(BIN)/python -m quickstart psql $(ARGS)

.PHONY: test
test: $(STAMP)  ## Run the default test tier (ARGS='tests/protocol -x')
	$(BIN)/python -m pytest $(ARGS)

.PHONY: test-wide
test-wide: $(STAMP)  ## Run the tests that need nginx, HAProxy and other programs, or minutes
	$(BIN)/python -m pytest -m wide $(ARGS)

# Kubernetes is built from source at first use. Its programs stay in ~/.cache/moorline-cluster; KUBEBUILDER_ASSETS names others.
NODE := tests/cluster/node

.PHONY: test-api
test-api: $(STAMP)  ## Run the tests that need a Kubernetes API server; the first run builds it, for 10 minutes
	@test -n "$$KUBEBUILDER_ASSETS$$MOORLINE_TEST_KUBECONFIG" || $(NODE)/build
	$(BIN)/python -m pytest -m api $(ARGS)

.PHONY: test-cluster
test-cluster: $(STAMP)  ## Run the tests in a whole Kubernetes node, as root; the first run builds it, for 20 minutes
	@if test -n "$$MOORLINE_TEST_KUBECONFIG"; then exec $(BIN)/python -m pytest -m cluster $(ARGS); fi; \
	    exec $(NODE)/with $(BIN)/python -m pytest -m cluster $(ARGS)

.PHONY: node-up
node-up:  ## Start a Kubernetes node with Moorline's images and keep it
	@$(NODE)/build all
	@$(NODE)/images
	@$(NODE)/up

.PHONY: node-shell
node-shell:  ## Open a shell in that node, with kubectl and helm
	@exec $(NODE)/in bash

.PHONY: node-down
node-down:  ## End that node
	@$(NODE)/down

.PHONY: images
images:  ## Build both images of the Dockerfile without a container engine, as root
	@$(NODE)/images moorline moorline-client

.PHONY: bench
bench: $(STAMP)  ## Compare direct, two HAProxy in a row and Moorline (BENCH_SECONDS=5 a run)
	$(BIN)/python -m tests.bench $(ARGS)

.PHONY: bench-reconcile
bench-reconcile: $(STAMP)  ## Reconcile BENCH_TUNNELS=1000 tunnels with a real API server, and count its calls
	@$(NODE)/build
	$(BIN)/python -m tests.bench.reconcile

.PHONY: render
render: $(STAMP)  ## Print the manifests of a tunnel, without a cluster (ARGS='acmeco/prod --tcp-port 25060')
	@MOORLINE_DEBUG=1 MOORLINE_SECRET_KEY=unused MOORLINE_DATA="$${TMPDIR:-/tmp}" $(BIN)/python manage.py render_tunnel \
	    $(if $(ARGS),$(ARGS),acmeco/prod --tcp-port 25060 --host-name identity1.local)

.PHONY: lint
lint: $(STAMP)  ## Check style, formatting, types and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy tunnels portal quickstart
	$(BIN)/lint-imports

.PHONY: format
format: $(STAMP)  ## Format, and mend what ruff can mend
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

.PHONY: chart-readme
chart-readme: $(STAMP)  ## Write chart/README.md again from the comments in chart/values.yaml
	$(BIN)/python -m tests.chart.readme

# No addresses and no paths of one machine get into the pinned files. `make requirements ARGS=--upgrade` raises the pins.
COMPILE = CUSTOM_COMPILE_COMMAND='make requirements' $(BIN)/pip-compile --quiet --strip-extras --allow-unsafe \
    --no-emit-index-url --no-emit-trusted-host --no-emit-find-links --no-emit-options $(ARGS)

.PHONY: requirements
requirements: $(STAMP)  ## Pin requirements*.txt again from pyproject.toml (ARGS=--upgrade)
	$(COMPILE) --extra server --output-file requirements.txt pyproject.toml
	$(COMPILE) --extra server --extra dev --constraint requirements.txt --output-file requirements-dev.txt pyproject.toml

.PHONY: clean
clean:  ## Remove what `make up` keeps and every cache; .venv stays
	@if test -d .moorline && test -x $(BIN)/python; then $(BIN)/python -m quickstart clean; fi
	@rm -rf .moorline .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist
	@find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +
