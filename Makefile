# Everything runs in one pinned environment, made on first use: requirements/cpu.lock in $(VENV).

VENV ?= .venv
# The first Python on the PATH that will do; name another with PYTHON=...
PYTHON ?= $(or $(shell for p in python3 python3.12 python3.11 python3.13; do \
	$$p requirements/check_python.py >/dev/null 2>&1 && echo $$p && break; done),python3)
# Asked for the CPU build of torch where pip does not find one by itself.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
# Further arguments of the command behind demo or test: make test ARGS="tests/training -x"
ARGS ?=
# Test files that run at once: 0 is one after another in one process. Each may take 6 GB.
JOBS ?= 0

BIN := $(VENV)/bin
PIP := "$(BIN)/python" -m pip --disable-pip-version-check
INSTALLED := $(VENV)/.installed

.PHONY: help demo real paper test lint lock clean
.DEFAULT_GOAL := help

help: ## show this list
	@sed -n 's/^\([a-z]*\):[^#]*## /\1\t/p' $(firstword $(MAKEFILE_LIST)) | expand -t 8

demo: $(INSTALLED) ## the whole pipeline on the embedded closed world, nothing to download
	@"$(BIN)/maskdpo" demo $(ARGS)

real: $(INSTALLED) ## the whole pipeline on a real model and real facts, on a CPU
	@"$(BIN)/maskdpo" demo real $(ARGS)

paper: $(INSTALLED) ## the paper's six tables on the closed world, three seeds
	@"$(BIN)/python" jobs/paper.py jobs/configs/paper.yaml --at-once 3 $(ARGS)

test: $(INSTALLED) ## the test suite
	@"$(BIN)/python" -m pytest --numprocesses $(JOBS) --dist loadfile --no-loadscope-reorder $(ARGS)

lint: $(INSTALLED) ## ruff
	@"$(BIN)/ruff" check .

lock: ## remake requirements/cpu.lock after a change of pyproject.toml; UPGRADE=1 takes the newest
	@"$(PYTHON)" requirements/check_python.py
	@"$(PYTHON)" requirements/make_lock.py $(if $(UPGRADE),--upgrade) --torch-index "$(TORCH_INDEX)"

clean: ## remove the environment and what tools leave behind; never a run
	rm -rf "$(VENV)" build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './.*' -prune -exec rm -rf {} +

# torch first: the lock names its CPU build, which an ordinary package index does not have.
$(INSTALLED): requirements/cpu.lock pyproject.toml
	@"$(PYTHON)" requirements/check_python.py
	@echo "Installing the pinned environment into $(VENV): some minutes the first time."
	@test -x "$(BIN)/python" || "$(PYTHON)" -m venv "$(VENV)"
	@torch=$$(sed -n 's/^\(torch==[^ ]*\).*/\1/p' requirements/cpu.lock); \
	$(PIP) install -qq --no-deps "$$torch" 2>/dev/null || \
	$(PIP) install -qq --no-deps --index-url "$(TORCH_INDEX)" "$$torch"
	@$(PIP) install -qq --no-deps -r requirements/cpu.lock
	@$(PIP) install -qq --no-deps --no-build-isolation -e .
	@touch "$@"
