# make demo: the benchmark on the embedded model, through the real harness.   make test: lint, types and tests.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
export TOKENIZERS_PARALLELISM := false

.PHONY: demo test test-slow lint format

$(VENV)/installed: setup.cfg pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

demo: $(VENV)/installed
	$(BIN)/lmms-kvtp demo

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	# mypy sees the package as it is installed: tasks and model_wrappers inside it
	rm -rf build/types && mkdir -p build/types
	cp -r lmms_kvtp build/types && cp -r tasks model_wrappers build/types/lmms_kvtp
	mkdir build/types/benchmarks && cp -r benchmarks/embedded_model build/types/benchmarks
	cd build/types && $(abspath $(BIN))/mypy --config-file ../../setup.cfg --cache-dir ../../.mypy_cache \
		--package lmms_kvtp --package benchmarks.embedded_model

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal --timeout 300

test-slow: $(VENV)/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal --timeout 1800 -m "slow and not gpu and not weights"

format: $(VENV)/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
