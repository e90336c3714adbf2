# Each target sets itself up: it makes .venv and installs what is missing.
PYTHON ?= python3
BIN := .venv/bin
CODE := packages tests benchmarks examples docs/hooks
export OMP_NUM_THREADS ?= 1
# Compiled modules, and tests with their rewritten assertions, are kept for the next process.
export PYTHONDONTWRITEBYTECODE =

.PHONY: quickstart docs test test-numeric test-all check fix clean

quickstart: .venv/.installed
	$(BIN)/unified-reward run quickstart

# The tests of a file stay in one process, so that what they share is made once.
test: .venv/.installed check
	$(BIN)/pytest -n 2 --dist loadfile -m "not slow" --durations=10

# The site, in site/index.html: no server and no network are needed to read it.
docs: .venv/.installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

# Tests of computed numbers as other processors and thread counts round them, in random order.
# The libraries pick their kernels by these variables; idle threads must not spin.
NUMERIC = -n 2 --dist loadfile -m "numeric and not slow" -p randomly $$(grep -rl --include='*.py' mark.numeric tests)
test-numeric: export OMP_WAIT_POLICY = passive
test-numeric: .venv/.installed
	ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41 MKL_ENABLE_INSTRUCTIONS=SSE4_2 \
	  OMP_NUM_THREADS=1 $(BIN)/pytest $(NUMERIC)
	ATEN_CPU_CAPABILITY=avx2 OMP_NUM_THREADS=2 $(BIN)/pytest $(NUMERIC)

# Before an issue is resolved: the slow tests too.
test-all: .venv/.installed check test-numeric
	$(BIN)/pytest -n 2 --dist loadfile

check: .venv/.installed
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/ruff check $(CODE)
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

fix: .venv/.installed
	$(BIN)/ruff check --fix $(CODE)
	$(BIN)/ruff format $(CODE)

clean:
	rm -rf .venv runs site

.venv/.installed: requirements-dev.txt packages/unified-reward/pyproject.toml packages/unified-reward-lab/pyproject.toml packages/unified-reward-client/pyproject.toml
	test -d .venv || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --requirement requirements-dev.txt
	touch $@
