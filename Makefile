# One environment, .venv, made on first use and refreshed when requirements.txt
# changes. PYTHON=... chooses the interpreter it is made from.

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Networks as small as those of the demo are faster with one thread.
PVNAS := OMP_NUM_THREADS=1 $(BIN)/pvnas
CONFIGS := pvnas_mmaction::pvnas/pvnas

.PHONY: help venv demo test test-all lint docs format clean

help:
	@echo "make demo      from rendered clips to a network that runs: pvnas fit and predict"
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
	$(PVNAS) clips --out data/motion_clips --num-train 4096 --num-val 1024
	$(PVNAS) fit data/motion_clips --out work_dirs/demo --budget-gflops 0.0031 \
	    --lists data/motion_clips/train.txt data/motion_clips/val.txt \
	    --config $(CONFIGS)-tiny_search_1xb8-6x1x1-4e_motion-clips.py \
	    --train-config $(CONFIGS)-tiny_retrain_1xb8-6x1x1-2e_motion-clips.py
	$(PVNAS) predict work_dirs/demo data/motion_clips/val/00000.mp4 --onnx

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
