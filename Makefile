# One environment in .venv, made on first use from pyproject.toml with the tested versions of constraints.txt.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# The models here are so small that threads spend their time waiting for each other; one is faster than two.
export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM ?= false
export HF_HUB_OFFLINE ?= 1
# Where an image sets it, every process compiles torch and transformers anew: ten seconds each, and tests start many.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo test test-all docs notebook style format clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

demo: $(READY)  ## best-of-5 with the two embedded mini models; writes outputs/demo/report.html
	$(BIN)/python recipes/best_of_n.py

test: $(READY)  ## the fast tests, offline, on the CPU: two to five minutes on two cores
	$(BIN)/python -m pytest -n auto --dist loadfile --durations=10

test-all: $(READY)  ## the slow tests too: trainings, a browser, the published numbers
	$(BIN)/python -m pytest -m ""

docs: $(READY)  ## the documentation as a site: outputs/docs/index.html
	$(BIN)/python -m sphinx -W --keep-going -q -b html -d outputs/docs-trees docs outputs/docs

notebook: $(READY)  ## run the notebook of the documentation and store its outputs in it
	$(BIN)/python docs/notebooks/store_outputs.py

style: $(READY)  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY)  ## let ruff rewrite what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## forget the environment and everything written
	rm -rf $(VENV) outputs runs

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("cac-align needs Python 3.11 or newer, this is " + sys.version.split()[0]) if sys.version_info < (3, 11) else None'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m uv --version >/dev/null 2>&1 || $(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@echo 'Installing the packages into $(VENV), about 6 GB, once ...'
	VIRTUAL_ENV=$(abspath $(VENV)) $(BIN)/python -m uv pip install --quiet --compile-bytecode -c constraints.txt -e '.[all,dev]'
	@touch $(READY)
