# make train   sets up .venv and runs the main job;  make test   sets up .venv and runs the tests.
# Needs: Python >= 3.9 with venv, make, the package index. Everything else is installed into .venv.
PYTHON ?= python3
VENV   ?= .venv
CONFIG ?= configs/quick/fcis_R_18_shapes.yaml
OPTS   ?=
PYTEST ?= -n 2

PY    := $(VENV)/bin/python
READY := $(VENV)/.ready

.PHONY: help setup train test lint clean

help:
	@echo "make train [CONFIG=configs/....yaml] [OPTS=\"KEY VALUE ...\"]   train and evaluate; goes on where a stopped run ended"
	@echo "make test  [PYTEST=\"-n 2 -k name\"]                           lint and run the tests"
	@echo "make setup | lint | clean"

setup: $(READY)

# pip runs again only when what is to be installed has changed.
$(READY): setup.cfg pyproject.toml
	@echo "== setting up $(VENV) (torch is large: a few minutes the first time)"
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check --editable ".[test]"
	@touch $@

train: setup
	@echo "== training $(CONFIG) $(OPTS)"
	$(PY) train_net.py --resume --config-file $(CONFIG) $(OPTS)

test: lint
	@echo "== running the tests"
	$(PY) -m pytest $(PYTEST)

lint: setup
	$(VENV)/bin/ruff check .

clean:
	rm -rf $(VENV) output .pytest_cache .ruff_cache build dist projects/*.egg-info
