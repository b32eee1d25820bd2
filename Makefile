# A convenience: every step is one of the README's own commands.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
RUN := $(BIN)/passionsr-trt
OUT := demo/out
MODEL ?= demo/model

.PHONY: demo test lint setup clean

setup: $(VENV)/.ready

$(VENV)/.ready: setup.cfg constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q torch==2.13.0
	$(BIN)/pip install -q -c constraints.txt -e '.[cpu,compare,export,rtx,dev]'
	touch $@

demo: setup
	@$(BIN)/python demo/run.py --model $(MODEL) --output $(OUT)

test: setup
	$(BIN)/python -m pytest

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy export engines runtime benchmarks demo

clean:
	rm -rf $(OUT) $(VENV)
