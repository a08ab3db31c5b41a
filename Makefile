# The front door of Duetto. `make demo` and `make test` set everything up by themselves.
#
#   make VERB RECIPE=configs/recipes/demo.yaml ARGS="key=value ..."

RECIPE ?= configs/recipes/demo.yaml
ARGS ?=
PYTHON ?= python3
VENV := .venv
INSTALLED := $(VENV)/.installed
JOBS ?= 2

# A folder of local wheels that pip knows of serves uv too.
export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)
# No GPU and no local wheels: take the CPU build of torch, not gigabytes of CUDA libraries.
ifeq ($(UV_FIND_LINKS)$(shell command -v nvidia-smi),)
export UV_TORCH_BACKEND ?= cpu
endif

# Where .pyc files are forbidden (many container images), every process would compile the engines again: 10 s each.
export PYTHONDONTWRITEBYTECODE :=

VERBS := plan doctor fetch tokenize pretrain convert sft dpo masks eval card export push chat report submit status
BENCHES := $(filter-out __init__ common variants,$(basename $(notdir $(wildcard bench/*.py))))

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint lock bench clean $(VERBS)

help:  ## this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1|/' | column -t -s '|'
	@echo "  make VERB RECIPE=FILE ARGS='key=value ...'   VERB: $(VERBS)"

setup: $(INSTALLED)  ## create .venv and install the pinned packages (demo and test do it when needed)

$(INSTALLED): constraints.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("duetto needs Python 3.11 or later: set PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	@echo "setup: installing the pinned packages into $(VENV) (about 20 s from a warm cache)"
	@test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt uv 2>&1 | { grep -v '^WARNING: Location' || true; }
	@$(VENV)/bin/uv pip install --quiet --python $(VENV)/bin/python -c constraints.txt -e '.[dev]'
	@touch $(INSTALLED)

demo: $(INSTALLED)  ## the whole pipeline, from text to model card, then one table
	@$(VENV)/bin/duetto run --recipe $(RECIPE) $(ARGS)

test: $(INSTALLED)  ## the whole suite, on real engines
	@$(VENV)/bin/python -m pytest -n $(JOBS) --dist loadgroup $(ARGS)

lint: $(INSTALLED)  ## ruff and the type checker
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/mypy

bench: $(INSTALLED)  ## every script in bench/, one line of JSON each
	@for b in $(BENCHES); do echo "== bench.$$b"; $(VENV)/bin/python -m bench.$$b || exit 1; done

lock: $(INSTALLED)  ## resolve pyproject.toml into constraints.txt again
	@head -n 2 constraints.txt > constraints.new
	@$(VENV)/bin/uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --no-annotate --no-header --quiet | sed 's/+cpu//' >> constraints.new
	@mv constraints.new constraints.txt

clean:  ## remove caches (never runs/ and .venv)
	@rm -rf build .pytest_cache .ruff_cache .mypy_cache .hypothesis
	@find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

$(VERBS): $(INSTALLED)
	@$(VENV)/bin/duetto $@ --recipe $(RECIPE) $(ARGS)
