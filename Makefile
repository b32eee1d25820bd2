# A convenience: every step is one of the README's own commands.

# The first that runs, is new enough and can make environments; 3.11 before newer ones: the pins are tested with it.
# A name on the path need not run (pyenv's shims), so each is asked. PYTHON= wins.
NEW_ENOUGH = import sys, venv, ensurepip; print(sys.version_info >= (3, $(1)))
ifeq ($(origin PYTHON),undefined)
PYTHON := $(firstword $(foreach name,python3.11 python3.12 python3.13 python3,\
    $(if $(filter True,$(shell $(name) -c "$(call NEW_ENOUGH,11)" 2>/dev/null)),$(name))))
endif
VENV := .venv
BIN := $(VENV)/bin
RUN := $(BIN)/passionsr-trt
OUT := demo/out
MODEL ?= demo/model
RUNTIME := .venv-runtime-$(notdir $(PYTHON))

.PHONY: demo test test-runtime lint setup clean made-anew

# an environment of another Python than this one is made anew
ANEW := $(if $(filter-out $(PYTHON),$(shell cat $(VENV)/.ready 2>/dev/null)),made-anew)

setup: $(VENV)/.ready

# asks the Python in PYTHON for its version and its venv module; one line where it will not do
python-3.%:
	@test "$$($(if $(PYTHON),$(PYTHON),false) -c '$(call NEW_ENOUGH,$*)' 2>/dev/null)" = True || \
	    { echo "error: no Python 3.$* or newer with its venv module$(if $(PYTHON), in PYTHON=$(PYTHON)); \
	install one (Debian: python3 and python3-venv), or name it: make PYTHON=/path/to/python" >&2; exit 1; }

$(VENV)/.ready: setup.cfg constraints.txt $(ANEW)
	@$(MAKE) --no-print-directory PYTHON='$(PYTHON)' python-3.11
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/pip install -q torch==2.13.0
	$(BIN)/pip install -q -c constraints.txt -e '.[cpu,compare,export,rtx,dev]'
	@echo '$(PYTHON)' > $@

$(RUNTIME)/.ready: setup.cfg constraints.txt
	@$(MAKE) --no-print-directory PYTHON='$(PYTHON)' python-3.10
	$(PYTHON) -m venv --clear $(RUNTIME)
	$(RUNTIME)/bin/pip install -q -c constraints.txt -e '.[cpu,compare]' pytest hypothesis
	touch $@

demo: setup
	@$(BIN)/python demo/run.py --model $(MODEL) --output $(OUT)

test: setup
	$(BIN)/python -m pytest

# the runtime and the engines as a machine without PyTorch has them, by any Python from 3.10 on
test-runtime: $(RUNTIME)/.ready
	$(RUNTIME)/bin/python -m pytest tests/runtime tests/engines tests/test_cli.py tests/test_imports.py

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy export engines runtime benchmarks demo

clean:
	rm -rf $(OUT) $(VENV) .venv-runtime-*
