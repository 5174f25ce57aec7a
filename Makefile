# `make help` lists the commands. Everything runs in .venv and needs no root.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
USER_READY := $(VENV)/.installed
DEV_READY  := $(VENV)/.installed-dev
ACCEPTANCE := tests/stack/test_first_minute.py

.DEFAULT_GOAL := help
# A .venv that could not be finished (Debian without python3-venv) is not taken for one the next time.
.DELETE_ON_ERROR:
.PHONY: help up test lint types bench chaos check generate picture clean

help:  ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | awk -F '\t' '{printf "  make %-10s %s\n", $$1, $$2}'

up: $(USER_READY)  ## run everything here, with a demo shop to break (Ctrl+C stops it)
	@$(BIN)/tocsin fetch prometheus || true
	@exec $(BIN)/tocsin up --demo

test: $(DEV_READY)  ## all tests but the slow ones
	@$(BIN)/tocsin fetch prometheus prometheus-alertmanager || true
	@$(BIN)/tocsin fetch --with-dependencies chromium fonts-dejavu-core postgresql || true
	@$(BIN)/python -m pytest -q -m "not slow and not quiet" -n 3 --dist loadfile --ignore=$(ACCEPTANCE)
	@# By themselves: they print what they measured, and measure best on a quiet machine.
	@$(BIN)/python -m pytest -m quiet $(ACCEPTANCE) tests/alerting

lint: $(DEV_READY)  ## style, import rules, generated files
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports
	@$(BIN)/python -m tocsin_dashboards.build --check
	@$(BIN)/python -m tocsin.reference --check docs/metrics.md

types: $(DEV_READY)  ## mypy --strict on all packages
	@$(BIN)/mypy

check: lint types test  ## what CI runs

bench: $(DEV_READY)  ## ratios against the named peers, in one run each
	@for file in benchmarks/*/bench.py; do echo "== $$file"; $(BIN)/python $$file || exit 1; done

chaos: $(DEV_READY)  ## the slow tests: kill -9 at random instants
	@$(BIN)/python -m pytest -m slow

generate: $(DEV_READY)  ## write dashboards, rules and the list of metrics again
	@$(BIN)/python -m tocsin_dashboards.build
	@$(BIN)/python -m tocsin.reference docs/metrics.md

picture: $(DEV_READY)  ## take the README's picture of the console again
	@TOCSIN_PICTURE=$(CURDIR)/docs/console.png $(BIN)/python -m pytest -q $(ACCEPTANCE) -k rings

clean:  ## remove the environment and the data of `make up`
	rm -rf $(VENV) tocsin-data

$(VENV)/bin/python:
	@echo "making $(VENV) ..."
	@$(PYTHON) -m venv $(VENV)

$(USER_READY): pyproject.toml | $(VENV)/bin/python
	@echo "installing tocsin into $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[all]'
	@touch $@

$(DEV_READY): pyproject.toml | $(VENV)/bin/python
	@echo "installing tocsin and what its tests need into $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@ $(USER_READY)
