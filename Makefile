# Every target builds what it needs first; `make` alone lists them.

# The first Python that is new enough, or what the caller names: make venv PYTHON=...
NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11 python; do \
	$$python -c '$(NEW_ENOUGH)' 2>/dev/null && echo $$python && break; done)
CHECKED_PYTHON = test -n "$(PYTHON)" && $(PYTHON) -c '$(NEW_ENOUGH)' || \
	{ echo "error: no Python 3.11 or newer found; name one: make venv PYTHON=/path/to/python" >&2; exit 1; }
OUT ?= runs/demo

BIN := .venv/bin
READY := .venv/.ready
LOWEST := .venv-lowest
# pytest runs a worker per core, so each of them computes on one.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest -n auto

.PHONY: help venv demo test test-slow test-lowest lint types format coverage docs docs-serve clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' Makefile

venv: $(READY) ## .venv, with the versions of constraints.txt

demo: $(READY) ## make a corpus, train a model, measure it, search with it: minutes, in OUT (runs/demo)
	$(BIN)/echoic demo --out $(OUT)

test: lint types ## lint, types and every test that is not minutes long
	$(PYTEST) -m "not slow"

test-slow: $(READY) ## the tests that are minutes long
	$(PYTEST) -m slow || test $$? -eq 5  # 5: there are none

test-lowest: $(LOWEST)/.ready ## the tests on the lowest versions that pyproject.toml allows
	PATH="$(CURDIR)/$(LOWEST)/bin:$$PATH" OMP_NUM_THREADS=1 $(LOWEST)/bin/pytest -n auto -m "not slow"

lint: $(READY) ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY) ## mypy
	$(BIN)/mypy

format: $(READY) ## put the code into ruff's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

coverage: $(READY) ## which lines of echoic the tests reach: long
	$(BIN)/coverage erase
	-OMP_NUM_THREADS=1 $(BIN)/coverage run -m pytest -n auto -m "not slow" --timeout 900
	$(BIN)/coverage combine -q && $(BIN)/coverage report --sort cover

docs: $(READY) ## the docs site, into build/site; warnings are errors
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

docs-serve: $(READY) ## the docs site while you write
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve

clean: ## remove .venv and the caches of the tools; runs/ stays
	rm -rf .venv $(LOWEST) .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist

# The stamp comes last, so an install that was stopped is taken up again.
$(READY): pyproject.toml constraints.txt
	@$(CHECKED_PYTHON)
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--constraint constraints.txt --editable ".[dev]"
	@touch $@

$(LOWEST)/.ready: pyproject.toml constraints-lowest.txt
	@$(CHECKED_PYTHON)
	$(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet --disable-pip-version-check \
		--constraint constraints-lowest.txt --editable ".[dev]"
	@touch $@
