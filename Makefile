# `make help` lists the commands. Everything runs in .venv and needs no root.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
USER_READY := $(VENV)/.installed
DEV_READY  := $(VENV)/.installed-dev

.DEFAULT_GOAL := help
.PHONY: help up test lint types bench chaos check generate picture clean

help:  ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | awk -F '\t' '{printf "  make %-10s %s\n", $$1, $$2}'

up: $(USER_READY)  ## run everything here, with a demo shop to break (Ctrl+C stops it)
	@$(BIN)/tocsin fetch prometheus || true
	@exec $(BIN)/tocsin up --demo

test: $(DEV_READY)  ## all tests but the slow ones
	@$(BIN)/tocsin fetch prometheus prometheus-alertmanager
	@$(BIN)/tocsin fetch --with-dependencies chromium fonts-dejavu-core postgresql
	@$(BIN)/python -m pytest -m "not slow"

lint: $(DEV_READY)  ## style, import rules, generated files
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports --verbose | tail -n 8
	@$(BIN)/python -m tocsin_dashboards.build --check

types: $(DEV_READY)  ## mypy --strict on all packages
	@$(BIN)/mypy

check: lint types test  ## what CI runs

bench: $(DEV_READY)  ## ratios against the named peers, in one run each
	@for file in benchmarks/*/bench.py; do echo "== $$file"; $(BIN)/python $$file || exit 1; done

chaos: $(DEV_READY)  ## the slow tests: kill -9, soak
	@$(BIN)/python -m pytest -m slow

generate: $(DEV_READY)  ## write dashboards and rules again
	@$(BIN)/python -m tocsin_dashboards.build

picture: $(DEV_READY)  ## take the README's picture of the console again
	@TOCSIN_PICTURE=$(CURDIR)/docs/console.png $(BIN)/python -m pytest -q tests/stack/test_first_minute.py -k rings

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
