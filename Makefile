# Everything a fresh machine needs is done by the first target that asks for it.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: quickstart smoke test commit-checks lint type format clean

quickstart: $(VENV)/.installed
	$(BIN)/vla-rl quickstart

smoke: $(VENV)/.installed
	$(BIN)/vla-rl quickstart --smoke

# a core each: the tests of one file share what they have built; threads of their own would only get in each other's way
test: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

$(VENV)/.installed: setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	touch $@

commit-checks: format lint type test

format: $(VENV)/.installed
	$(BIN)/ruff format .

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

type: $(VENV)/.installed
	$(BIN)/mypy

clean:
	rm -rf $(VENV) build dist *.egg-info
