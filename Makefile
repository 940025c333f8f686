# One command each: what a newcomer, a contributor and CI need.

VENV := .venv
BIN := $(VENV)/bin
JOBS ?= 2

.PHONY: help demo test check lint fix cov bench clean

help:
	@echo "make demo    build and run a small web program, on a machine without docker"
	@echo "make test    every test (as root: also those that need namespaces)"
	@echo "make check   format, lint, types, import contracts, unit tests"
	@echo "make fix     format, and fix what can be fixed"
	@echo "make cov     unit tests with coverage"
	@echo "make bench   measurements beside other builders"

$(VENV)/.demo: pyproject.toml tools/setup-venv
	tools/setup-venv $(VENV)
	@touch $@

$(VENV)/.dev: pyproject.toml tools/setup-venv
	tools/setup-venv $(VENV) dev
	@touch $@ $(VENV)/.demo

demo: $(VENV)/.demo
	examples/demo.sh

test: $(VENV)/.dev
	tools/run-tests -n $(JOBS) --dist loadfile tests

lint: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

check: lint
	tools/run-tests -n $(JOBS) -q $(wildcard tests/unit tests/property tests/golden tests/architecture)

fix: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

cov: $(VENV)/.dev
	$(BIN)/coverage erase
	$(BIN)/coverage run --parallel-mode -m pytest -q $(wildcard tests/unit tests/property tests/golden)
	$(BIN)/coverage combine -q
	$(BIN)/coverage report --skip-covered

bench: $(VENV)/.demo
	$(BIN)/python bench

clean:
	rm -rf $(VENV) .demo build *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
