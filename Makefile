# Each target sets itself up: it makes .venv and installs what is missing.
PYTHON ?= python3
BIN := .venv/bin
CODE := packages tests benchmarks
export OMP_NUM_THREADS ?= 1

.PHONY: quickstart test check fix clean

quickstart: .venv/.installed
	$(BIN)/unified-reward run quickstart

test: .venv/.installed check
	$(BIN)/pytest -n 2

check: .venv/.installed
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/ruff check $(CODE)
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

fix: .venv/.installed
	$(BIN)/ruff check --fix $(CODE)
	$(BIN)/ruff format $(CODE)

clean:
	rm -rf .venv runs

.venv/.installed: requirements-dev.txt packages/unified-reward/pyproject.toml packages/unified-reward-lab/pyproject.toml
	test -d .venv || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --requirement requirements-dev.txt
	touch $@
