# A convenience: every step is one of the README's own commands.

VENV := .venv

# Does Python $(1) run, is it 3.$(2) or newer, can it make environments? A name on the path need not run (pyenv's shims).
ABLE = $(filter True,$(shell $(1) -c "import sys, venv, ensurepip; print(sys.version_info >= (3, $(2)))" 2>/dev/null))
# ends make with one line where the Python in PYTHON will not do
NEED = $(if $(and $(PYTHON),$(call ABLE,$(PYTHON),$(1))),,$(error no Python 3.$(1) or newer with its venv \
    module$(if $(PYTHON), in PYTHON=$(PYTHON)); install one (Debian: python3 and python3-venv), \
    or name it: make PYTHON=/path/to/python))
# an environment made by another Python than PYTHON is made anew
ANEW = $(if $(filter-out $(PYTHON),$(shell cat $(1)/.ready 2>/dev/null)),made-anew)

# PYTHON= wins, then the one that made the environment. 3.11 before newer ones: CI tests the pins, torch's too, with it.
ifeq ($(origin PYTHON),undefined)
PYTHON := $(firstword $(foreach name,$(shell cat $(VENV)/.ready 2>/dev/null) python3.11 python3.12 python3.13 python3,\
    $(if $(call ABLE,$(name),11),$(name))))
endif
BIN := $(VENV)/bin
RUN := $(BIN)/passionsr-trt
MODEL ?= demo/model
# another model than the demo's own leaves its results in a folder of its name
OUT := demo/out$(if $(filter-out demo/model,$(MODEL)),/$(notdir $(MODEL)))
# two processes of one thread each for PyTorch: exports are single-threaded anyway for long stretches
PYTEST = OMP_NUM_THREADS=1 $(1)/bin/python -m pytest -n 2 --dist loadscope
RUNTIME := .venv-runtime-$(if $(PYTHON),$(shell $(PYTHON) -c "import sys; print('%d.%d' % sys.version_info[:2])" 2>/dev/null))

# the network that the package brings, anew from demo/realesrgan and its calibrations
packaged: setup
	$(BIN)/python demo/package.py

.PHONY: demo packaged test quick hostile accept older-cpus test-runtime lint setup clean made-anew

setup: $(VENV)/.ready

# auto: a CPU build where there is no GPU and one can be had; TORCH=cpu or TORCH=cuda: that one, made anew for it
TORCH ?= auto
ANOTHER_TORCH = $(if $(filter-out auto,$(TORCH)),$(if $(wildcard $(VENV)/.torch-$(TORCH)),,made-anew))

$(VENV)/.ready: setup.cfg constraints.txt $(call ANEW,$(VENV)) $(ANOTHER_TORCH)
	$(call NEED,11)
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python setup_torch.py $(TORCH)
	$(BIN)/pip install -q -c constraints.txt -e '.[cpu,compare,export,networks,hub,rtx,cuda,serve,batch,video,dev]'
	@echo '$(PYTHON)' > $@

$(RUNTIME)/.ready: setup.cfg constraints.txt $(call ANEW,$(RUNTIME))
	$(call NEED,10)
	$(PYTHON) -m venv --clear $(RUNTIME)
	$(RUNTIME)/bin/pip install -q -c constraints.txt -e '.[cpu,compare,cuda,serve,video]' pytest pytest-timeout pytest-xdist hypothesis
	@echo '$(PYTHON)' > $@

demo: setup
	@$(BIN)/python demo/run.py --model $(MODEL) --output $(OUT)

test: setup
	$(call PYTEST,$(VENV))

# while one works on the engines or the runtime: their tests as a machine without PyTorch runs them, but for the slow
quick: setup
	$(call PYTEST,$(VENV)) -p tests.no_torch -m "not slow and not hostile and not accept" --ignore tests/hostile \
	    tests/runtime tests/engines tests/test_cli.py tests/test_imports.py

# whatever a user may hand the commands, about half an hour; one class: PYTEST_ADDOPTS="-k pictures"
hostile: setup
	$(call PYTEST,$(VENV)) --dist worksteal -m "" tests/hostile

# what takes long and proves a rare thing
accept: setup
	$(call PYTEST,$(VENV)) -m accept

# engines as older CPUs compute them, on a CPU that has VNNI
older-cpus: setup
	ONEDNN_MAX_CPU_ISA=AVX2 $(call PYTEST,$(VENV)) -m kernels
	ONEDNN_MAX_CPU_ISA=AVX512_CORE $(call PYTEST,$(VENV)) -k Concat tests/engines/test_wrong_kernels.py

# the runtime and the engines as a machine without PyTorch has them, by any Python from 3.10 on
test-runtime: $(RUNTIME)/.ready
	$(call PYTEST,$(RUNTIME)) tests/runtime tests/engines tests/test_cli.py tests/test_imports.py

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	@mkdir -p .types/passionsr_trt && ln -sfn ../../export ../../engines ../../runtime .types/passionsr_trt
	MYPYPATH=.types:benchmarks $(BIN)/mypy -p passionsr_trt.engines -p passionsr_trt.export -p passionsr_trt.runtime
	MYPYPATH=.types:benchmarks $(BIN)/mypy benchmarks demo docs/pictures.py setup_torch.py

clean:
	rm -rf $(OUT) $(VENV) .venv-runtime-*
