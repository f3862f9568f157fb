# Needs Python >= 3.10 with pip, and make; everything else is installed into $(VENV).
#   make train   trains CartPole-v1 and says where the agent, the log and the learning curve are
#   make test    runs the tests
#   make reproduce STUDY=cartpole   trains what a study is missing and writes its page (STUDY=all: every one)
#   make benchmark                  the same for VPG against A2C, PPO and TRPO
# Another interpreter: make test PYTHON=python3.12

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
CONSTRAINTS ?= constraints.txt
PYTEST_FLAGS ?= -n 2 --dist loadfile

ALGO ?= vpg
ENV ?= CartPole-v1
LOGS ?= logs
TRAIN_FLAGS ?= --seed 1 --eval-freq 10000 -P
STUDY ?= all
WORKERS ?= 1
STUDY_FLAGS ?=

CODE := sb3_pg startup build_backend hyperparams zoo_scripts tests
# What an installation depends on: nothing is installed again before one of these changes.
INSTALLED_FROM := setup.cfg pyproject.toml $(CONSTRAINTS) $(wildcard build_backend/*.py startup/*)

.DEFAULT_GOAL := help
.PHONY: help train reproduce benchmark test pytest expensive format lint type clean

help:
	@sed -n 's/^#   //p' Makefile

train: $(VENV)/.installed
	$(BIN)/python -m rl_zoo3.train --algo $(ALGO) --env $(ENV) -f $(LOGS) $(TRAIN_FLAGS)
	@$(BIN)/python zoo_scripts/show_run.py --algo $(ALGO) --env $(ENV) -f $(LOGS)

# The figures of several environments need the extra `plots`, which the tests have, too.
reproduce: $(VENV)/.installed-tests
	OMP_NUM_THREADS=1 $(BIN)/python zoo_scripts/reproduce.py "$(STUDY)" --workers $(WORKERS) $(STUDY_FLAGS)

benchmark:
	$(MAKE) reproduce STUDY=benchmark

test: pytest

# One thread for each worker: the networks are small, and several threads would only wait for each other.
pytest expensive: export OMP_NUM_THREADS = 1
pytest: $(VENV)/.installed-tests
	$(BIN)/python -m pytest $(PYTEST_FLAGS)

expensive: $(VENV)/.installed-tests
	$(BIN)/python -m pytest $(PYTEST_FLAGS) -m expensive

format: $(VENV)/.installed-tests
	$(BIN)/ruff check --select I --fix $(CODE)
	$(BIN)/ruff format $(CODE)

lint: $(VENV)/.installed-tests
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)

type: $(VENV)/.installed-tests
	$(BIN)/mypy

clean:
	rm -rf build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage htmlcov
	find $(CODE) -name __pycache__ -prune -exec rm -rf {} +

# The second half is for Debian's Python, which has pip but not the ensurepip that venv asks for.
$(BIN)/python:
	$(PYTHON) -m venv $(VENV) || \
		{ $(PYTHON) -m venv --clear --without-pip $(VENV) && $(PYTHON) -m pip --python $@ install pip; }
	$@ -m pip install --quiet "pip>=22.3"

$(VENV)/.installed: $(INSTALLED_FROM) | $(BIN)/python
	$(BIN)/python -m pip install --quiet -c $(CONSTRAINTS) -e .
	touch $@

$(VENV)/.installed-tests: $(INSTALLED_FROM) | $(BIN)/python
	$(BIN)/python -m pip install --quiet -c $(CONSTRAINTS) -e ".[plots,tests]"
	touch $(VENV)/.installed $@
