# `make demo` and `make test` create .venv when it is missing; nothing else is needed but Python.
PYTHON ?= python3
BIN := .venv/bin
# Two threads at most: the demo's networks are too small for more.
export OMP_NUM_THREADS ?= 2

.PHONY: demo test test-slow lint clean .venv

demo: .venv/.complete
	$(BIN)/palate demo --out demo

test: .venv/.complete
	OMP_NUM_THREADS=1 $(BIN)/pytest -m "not slow and not gpu" -n 2

test-slow: .venv/.complete
	$(BIN)/pytest -m slow

lint: .venv/.complete
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright

.venv: .venv/.complete

# The mark comes last: an installation that was interrupted is taken up again.
.venv/.complete: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --progress-bar off --editable '.[dev]'
	@mkdir -p .venv/src && ln -sfn ../.. .venv/src/palate  # type checkers find the package by its name here
	@touch $@

clean:
	rm -rf demo build dist .pytest_cache .ruff_cache
