# Two commands set up everything: `make demo` and `make test`. Both install into .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export HF_HUB_OFFLINE ?= 1

.PHONY: install demo test test-fast chaos card lint format docs clean

install: $(VENV)/installed

$(VENV)/installed: pyproject.toml requirements.lock
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --quiet -c requirements.lock -e '.[dev]'
	touch $@

demo: install
	$(BIN)/maskgen run --split demo --out shards/demo

test: install
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-fast: install
	$(BIN)/python -m pytest -n 2 --dist loadfile -m 'not slow'

# N random SIGKILLs, half a minute each, and FAULTS failing file operations (or all of them): see tests/chaos.
N ?= 200
FAULTS ?= 500
chaos: install
	MASKGEN_CHAOS_KILLS=$(N) MASKGEN_CHAOS_FAULTS=$(FAULTS) $(BIN)/python -m pytest -s tests/chaos

card:
	benchmarks/card.sh

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: install
	$(BIN)/python -m pip install --disable-pip-version-check --quiet -c requirements.lock -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean:
	rm -rf $(VENV) site shards/demo shards/demo-scenes
