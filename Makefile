# `make demo` and `make test` build .venv on first use and do their job; nothing else is needed but Python >= 3.11.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test check format golden clean

demo: .venv/ready
	$(BIN)/openflan demo --out runs/demo

test: .venv/ready
	$(BIN)/pytest -n 2 --dist worksteal

check: .venv/ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/pytest -n 2 --dist worksteal -m "not slow"

format: .venv/ready
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

golden: .venv/ready
	OPENFLAN_REWRITE_GOLDEN=1 $(BIN)/pytest -q -p no:randomly tests/catalog/test_golden.py
	$(BIN)/openflan catalog docs --out docs/datasets

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(PIP) torch==2.13.0
	$(PIP) --editable '.[dev]'
	touch $@

clean:
	rm -rf .venv runs
