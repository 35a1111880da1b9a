# Everything runs in a virtual environment that the first command makes.
PYTHON ?= python3
STACK ?= onedl
# one for each stack, so that they do not replace each other
VENV ?= $(or $(MMXVIT_VENV),.venv$(if $(filter-out onedl,$(STACK)),-$(STACK)))
# processes that share the tests, about 4 GB of memory each
TEST_JOBS ?= 2

.PHONY: help setup demo test test-all learn installs lint docs clean

help:
	@echo 'make demo      train, test and look at a small detector on toy data'
	@echo 'make test      run the tests'
	@echo 'make test-all  also the slow ones'
	@echo 'make learn     short trainings of every family on toy data'
	@echo 'make installs  try every way to install this, into docs/installs.md'
	@echo 'make lint      check style and spelling'
	@echo 'make docs      build the documentation into docs/_build'
	@echo 'make setup     only make the environment that all of these run in'
	@echo 'make clean     remove what builds leave; environment and results stay'
	@echo
	@echo 'Variables: PYTHON=$(PYTHON)  VENV=$(VENV)  STACK=$(STACK)  TEST_JOBS=$(TEST_JOBS)'

setup:
	@$(PYTHON) tools/dev/setup_env.py --venv '$(VENV)' --stack '$(STACK)'

demo: setup
	@'$(VENV)/bin/python' demo/run_demo.py

# small tensors: more threads are slower, and on cores that others use as well
# they spin until they get one
test: export OMP_NUM_THREADS ?= 1
test: setup
	@'$(VENV)/bin/python' -m pytest tests -q -n '$(TEST_JOBS)' \
		--dist worksteal --durations=30 -m 'not slow'

test-all: export OMP_NUM_THREADS ?= 1
test-all: setup
	@'$(VENV)/bin/python' -m pytest tests -q -n '$(TEST_JOBS)' \
		--dist worksteal --durations=30

learn: setup
	@'$(VENV)/bin/python' tools/dev/learn.py

installs: setup
	@'$(VENV)/bin/python' tools/dev/check_installs.py --stack '$(STACK)'

# by python, because scripts name the folder in which they were installed
lint: setup
	@'$(VENV)/bin/python' -m ruff check .
	@'$(VENV)/bin/python' -m codespell_lib

docs: setup
	@'$(VENV)/bin/python' -m sphinx -W --keep-going -q docs docs/_build
	@echo 'docs/_build/index.html'

clean:
	rm -rf build dist *.egg-info docs/_build .pytest_cache .ruff_cache
