# Every check and every build, the same ones here and in CI. `make` alone lists them.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup quickstart test test-full test-py310 check fmt lint types wheel clean

VENV ?= .venv
VENV310 ?= .venv-py310
BIN = $(VENV)/bin

# $(call find_python,NAMES,OLDEST,NEWEST): the first that answers; a name may be a shim with nothing behind it.
find_python = $(shell for name in $(1); do \
  $$name -c "import ensurepip, sys; sys.exit(not $(2) <= sys.hexversion >> 16 <= $(3))" 2>/dev/null && echo $$name && break; done)
PYTHON ?= $(call find_python,python3.11 python3.12 python3.13 python3,0x30b,0x3ff)
PYTHON310 ?= $(call find_python,python3.10 python3 $(wildcard $(HOME)/.pyenv/versions/3.10.*/bin/python),0x30a,0x30a)

# $(call install,VENV,PYTHON,WHAT,CONSTRAINTS). Left alone, pip is silent for minutes or far too loud, and
# compiles 20,000 files, of which hardly a fifth is ever imported, for a minute: Python does that as it needs them.
define install
@[ -n "$(2)" ] || { echo "no Python found for $(1). Name one: make PYTHON=... (3.11 or newer) or make PYTHON310=... (3.10)" >&2; exit 1; }
@[ -x $(1)/bin/pip ] || $(2) -m venv --clear $(1)
@echo "installing into $(1) (some minutes the first time)"
@PYTHONUNBUFFERED=1 $(1)/bin/python -m pip install --disable-pip-version-check --progress-bar off --no-compile $(3) --constraint $(4) | awk ' \
  /^Collecting/ && ++found % 20 == 0 { print "  " found " packages found"; fflush() } \
  /^Installing collected/ { print "  unpacking them"; fflush() }'
endef

# A file's tests stay in one process, which shares their fixtures; long files first. PARALLEL= runs all in one.
PARALLEL ?= --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

SPELLED = $(wildcard *.md *.toml *.txt Makefile .ci/run edge_vit tests docs examples benchmarks)
STYLED = $(wildcard edge_vit tests examples benchmarks)
PY310_TOOLS = nvidia-cuda-runtime-cu12 pytest hypothesis onnx openvino scikit-image scikit-learn scipy statsmodels
# What needs neither torch nor the tools of a desk.
PY310_TESTS = $(wildcard tests/bundle tests/runtime tests/measure tests/spec tests/data/test_folder.py tests/test_session_contract.py \
  $(patsubst %,tests/test_%.py, architecture files locks lean_import optional values))

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup: $(VENV)/.dev ## the development environment, in .venv

$(VENV)/.dev: pyproject.toml constraints.txt
	$(call install,$(VENV),$(PYTHON),--editable '.[dev]',constraints.txt)
	@touch $(VENV)/.all $@

$(VENV)/.all: pyproject.toml constraints.txt
	$(call install,$(VENV),$(PYTHON),--editable '.[all]',constraints.txt)
	@touch $@

$(VENV310)/.runtime: pyproject.toml constraints-py310.txt
	$(call install,$(VENV310),$(PYTHON310),--editable '.[cpu]' $(PY310_TOOLS),constraints-py310.txt)
	@touch $@

quickstart: $(VENV)/.all ## the main job on real data: train, export, quantize, run, verdict, report
	$(BIN)/edgevit quickstart

test: setup ## the tests, and 90 % of the lines covered
	$(BIN)/python -m pytest $(PARALLEL) --cov=edge_vit --cov-report=term:skip-covered --cov-fail-under=90

test-full: setup ## the tests and the whole-size models; writes results/
	$(BIN)/python -m pytest -m "not network" --results=results

test-py310: $(VENV310)/.runtime ## what a device needs, on Python 3.10 and its newest packages
	$(VENV310)/bin/python -m pytest $(PY310_TESTS)

check: lint types test wheel ## everything that must pass before a change is offered

fmt: setup ## rewrite the code in the one format
	$(BIN)/ruff check --fix $(STYLED)
	$(BIN)/ruff format $(STYLED)

lint: setup ## style, spelling
	$(BIN)/ruff check $(STYLED)
	$(BIN)/ruff format --check $(STYLED)
	$(BIN)/codespell $(SPELLED)

types: setup ## mypy, strict
	$(BIN)/mypy

wheel: setup ## build sdist and wheel, and use the wheel in a clean environment without extras
	rm -rf dist build
	$(BIN)/python -m build --no-isolation --outdir dist . >/dev/null
	$(BIN)/python -m venv build/clean
	build/clean/bin/python -m pip install --quiet --disable-pip-version-check dist/*.whl --constraint constraints.txt
	cd build && clean/bin/edgevit --help && clean/bin/python -c "import edge_vit; print('edge-vit', edge_vit.__version__)"

clean: ## remove what was built and cached; the environments stay
	rm -rf build dist *.egg-info .coverage .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find edge_vit tests $(wildcard examples benchmarks) -name __pycache__ -prune -exec rm -rf {} +
