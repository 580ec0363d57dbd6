# `make demo` and `make test` set everything up themselves; only Python 3.11 or newer is needed.
# PIP_ARGS goes to pip as it is, for another build of torch: make demo PIP_ARGS="--index-url <an index of your choice>"

PYTHON ?= $(shell command -v python3.11 || command -v python3)
FOLDS ?= 4
BIN := .venv/bin
INSTALLED := .venv/installed
# One thread a process: two test processes on two cores, each with threads of its own, would wait for one another.
# Each process begins with half of the files and takes from the other at the end: most fixtures of a file are made once.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

.PHONY: demo test test-slow lint clean

# Threads that wait for one another asleep: beside other work those that spin are many times slower.
demo: $(INSTALLED)
	OMP_WAIT_POLICY=PASSIVE $(BIN)/coreface demo --folds $(FOLDS)

test: $(INSTALLED)
	$(PYTEST) -m "not slow"

test-slow: $(INSTALLED)
	$(PYTEST) -m slow

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("coreface needs Python 3.11 or newer: make PYTHON=...")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -c constraints.txt -e ".[demo,report,faces,export,serve,postgres,dev]"
	touch $@
