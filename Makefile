# Two commands on a fresh machine: `make figures` and `make test`. Both create the environment first; tests need more of it.
VENV   := .venv
PYTHON ?= python3
PY     := $(VENV)/bin/python
STAMP  := $(VENV)/.ready
DEV    := $(VENV)/.ready-dev

.PHONY: env figures test test-slow test-matrix gpu lint notebooks bench clean
.DEFAULT_GOAL := figures

env: $(DEV)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "precision_lab needs Python >= 3.11; run: make PYTHON=/path/to/python3.11 ..." >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet -c constraints.txt torch
	$(PY) -m pip install --quiet -c constraints.txt -e .
	@touch $@

$(DEV): $(STAMP)
	$(PY) -m pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $@

figures: $(STAMP)
	OMP_NUM_THREADS=1 $(PY) -m precision_lab run --profile quick -j 2

test: $(DEV)
	OMP_NUM_THREADS=1 $(PY) -m pytest -q -n 2 -m "not slow and not gpu" --nbmake tests notebooks

test-slow: $(DEV)
	OMP_NUM_THREADS=1 $(PY) -m pytest -q -n 2 -m slow

# Hours: the tests of the numbers under other versions of torch and other instruction sets. The same command resumes.
test-matrix: $(DEV)
	OMP_NUM_THREADS=1 $(PY) tests/matrix.py

# Four minutes on a machine with a GPU; its results go to results/gpu.
gpu: $(DEV)
	$(PY) tests/gpu.py

lint: $(DEV)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

notebooks: $(DEV)
	$(PY) -m pytest -q --nbmake notebooks

# Ten minutes, resumed by the same command; its figure is results/full/pareto.png.
bench: $(STAMP)
	OMP_NUM_THREADS=1 $(PY) -m precision_lab run pareto --profile full
	OMP_NUM_THREADS=1 $(PY) -m precision_lab bench
	$(PY) -m precision_lab bench --laws

clean:
	rm -rf $(VENV) .cache build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
