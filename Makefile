# Everything runs in .venv, made on first use and again when the pins change.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
CODE   := $(wildcard tilewright tests benchmarks examples docs/*.py)

.DEFAULT_GOAL := help
.PHONY: help setup run test quick fuzz lint format clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMP)  ## make .venv with everything that is needed

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

run: $(STAMP)  ## compile the DeepSeek-V4 prefill kernel, run it, check it against Torch
	$(BIN)/tilewright check prefill_qkv_proj_rope --start-pos 128

test: lint  ## everything CI runs: formatter, linter, types, tests on all cores, four at most
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

quick: $(STAMP)  ## the tests that take no time
	$(BIN)/python -m pytest -m 'not slow' -x

fuzz: $(STAMP)  ## random programs, two thousand new ones: interpreter against native code
	FUZZ_PROGRAMS=2000 $(BIN)/python -m pytest tests/fuzz

lint: $(STAMP)  ## formatter, linter and type checker, without changing a file
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/ruff check $(CODE)
	$(BIN)/mypy

format: $(STAMP)  ## let the formatter and the linter rewrite the files
	$(BIN)/ruff format $(CODE)
	$(BIN)/ruff check --fix $(CODE)

clean:  ## remove .venv and caches
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis build *.egg-info
