# One environment, .venv, made on first use and refreshed when requirements.txt
# changes. PYTHON=... chooses the interpreter it is made from.

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help venv demo test test-all lint docs format clean

help:
	@echo "make demo      search, derive, retrain and test a network on rendered clips"
	@echo "make test      run the tests that take less than 5 minutes together"
	@echo "make test-all  run all tests"
	@echo "make lint      ruff, codespell and mypy, changing nothing"
	@echo "make docs      build the pages of docs/ into docs/_build/html"
	@echo "make format    let ruff format and fix what it can"
	@echo "make venv      only make $(VENV) and install requirements.txt"
	@echo "make clean     remove $(VENV) and caches"

venv: $(STAMP)

$(STAMP): requirements.txt pyproject.toml setup.py scripts/bootstrap
	@VENV="$(VENV)" PYTHON="$(PYTHON)" scripts/bootstrap
	@touch $@

demo: $(STAMP)
	$(BIN)/python tools/demo.py

test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m "not slow"

test-all: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell -D - -D scripts/words.txt
	$(BIN)/mypy

docs: $(STAMP)
	$(BIN)/sphinx-build -W -q -b html docs docs/_build/html

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
