# Two commands set everything up: `make demo` and `make test`. Each makes .venv when it is missing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN ?= runs/demo
PYTEST_WORKERS ?= auto
PEERS := .venv-peers

.PHONY: demo test coverage check bench peers clean
.DEFAULT_GOAL := demo

# Two environments in one folder: what the demo needs, and on top of it what developers need.
$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "digon needs Python 3.11 or newer: make PYTHON=python3.12"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.'
	@touch $@

$(VENV)/.developer: $(VENV)/.installed
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,peers,serve]'
	@touch $@

demo: $(VENV)/.installed  ## train a small transformer, audit it, open the page
	$(BIN)/digon demo --out $(RUN)

test: $(VENV)/.developer  ## every test; warnings are errors
	$(BIN)/python -m pytest -n $(PYTEST_WORKERS) --dist loadfile --durations=40

# Apart from `test`: following every line makes the tests take 1.7 times as long.
coverage: $(VENV)/.developer  ## every test, and which lines they reach
	$(BIN)/python -m pytest -n $(PYTEST_WORKERS) --dist loadfile --cov --cov-report=term:skip-covered --cov-fail-under=90

check: $(VENV)/.developer  ## format, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/basedpyright --pythonpath $(BIN)/python

bench: $(VENV)/.developer  ## side-by-side speed against peers and limits
	@for file in benchmarks/*.py; do echo "== $$file"; $(BIN)/python $$file || exit 1; done

# The last three name packages for reading models and drawing that no training step needs, some of them in versions that
# exclude each other.
$(PEERS)/.installed: benchmarks/peers/constraints.txt
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/pip install --quiet --disable-pip-version-check -c $< torch sae-lens accelerate natsort schedulefree simple-parsing scikit-learn
	$(PEERS)/bin/pip install --quiet --disable-pip-version-check -c $< --no-deps dictionary-learning eai-sparsify overcomplete
	@touch $@

peers: $(PEERS)/.installed  ## other libraries that train sparse autoencoders, for benchmarks/sae.py

clean:  ## remove the environment and the caches, keep the runs
	rm -rf $(VENV) $(PEERS) .pytest_cache .ruff_cache .hypothesis .coverage*
