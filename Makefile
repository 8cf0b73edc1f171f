# Two commands do all the set-up on a fresh machine: `make run` and `make test`. Both need only Python 3.11 or newer.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SUITE ?= reference
RESULTS ?= results

.PHONY: run test test-long check clean

run: $(VENV)/.run  ## measure, judge and publish the reference suite on the embedded model
	$(BIN)/evalsuite run $(SUITE) --results $(RESULTS)

test: $(VENV)/.test  ## the quick, whole test of the product, the browser's included
	bash tests/chromium.sh
	$(BIN)/ruff check evalsuite tests benchmarks
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadgroup -m "not long and not engines and not gpu" tests

test-long: $(VENV)/.test  ## what takes minutes: verdicts known in advance over whole runs, rehearsals of benchmarks
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadgroup -m "long" tests

$(VENV)/bin/pip:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: pyproject.toml constraints.txt | $(VENV)/bin/pip
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[run]'
	touch $@

$(VENV)/.test: pyproject.toml constraints.txt | $(VENV)/bin/pip
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[run,test]'
	touch $@ $(VENV)/.run

check: $(VENV)/.test  ## lint and types only
	$(BIN)/ruff check evalsuite tests benchmarks
	$(BIN)/mypy

clean:  ## remove the virtual environment and caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis dist build
