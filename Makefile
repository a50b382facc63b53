# Everything is set up by the first target that needs it; nothing outside this folder is touched.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin

.PHONY: test lint check bench demo slow audit lock clean

$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || python3 -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

test: $(VENV)/.installed  ## install, then run the fast tests with coverage
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --cov --cov-report=term --cov-fail-under=95

lint: $(VENV)/.installed  ## style, types, layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

check: lint test  ## what CI runs

slow: $(VENV)/.installed  ## the slow tests too
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m "not gpu and not network"

bench: $(VENV)/.installed  ## real-text benchmark; needs the data folder, see benchmarks/README.md
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev,bench]"
	$(BIN)/python benchmarks/filter.py --cases A,B,C,D,E --methods all --seeds 3 --json .bench-cache/filter.json

audit: $(VENV)/.installed  ## licences, a CycloneDX list of all packages, and known vulnerabilities of the pinned ones
	$(BIN)/python .ci/inventory.py sbom.json sentence judge
	$(BIN)/python -m pip install --quiet pip-audit
	$(BIN)/pip-audit --no-deps --disable-pip --requirement constraints.txt

lock: $(VENV)/.installed  ## requirements.lock anew: the pinned versions with the digests of their archives
	grep -v '^torch==' constraints.txt > $(VENV)/lock.txt
	$(BIN)/python -m pip install --quiet --dry-run --ignore-installed --no-deps --report $(VENV)/lock.json -r $(VENV)/lock.txt
	$(BIN)/python .ci/lock.py $(VENV)/lock.json

demo: $(VENV)/.installed  ## the main job on the embedded world
	$(BIN)/sotune demo --out runs/demo

clean:
	rm -rf $(VENV) sbom.json .pytest_cache .mypy_cache .ruff_cache build dist
