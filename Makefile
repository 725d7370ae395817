# make demo    installs into .venv, then finds the objects of one image by a packaged model;
# make train   installs into .venv, then trains and evaluates;  make test   installs into .venv, then runs ruff and the tests.
# Requires Python >= 3.10 with venv, make and access to PyPI. Everything else is installed into .venv.
PYTHON ?= python3
VENV   ?= .venv
CONFIG ?= configs/quick/fcis/fcis_R_18_shapes.yaml
OPTS   ?=
REGISTER ?=
PYTEST ?= -n 2
# Where the real Detectron2 comes from: its repository, or the folder of a checkout.
SRC    ?= https://github.com/facebookresearch/detectron2

PY    := $(VENV)/bin/python
READY := $(VENV)/.ready

.PHONY: help setup demo detectron2 train stages dots worms test test-both lint clean

help:
	@echo "make demo                                                    masks, count and picture of one image by a packaged model, in seconds"
	@echo "make train [CONFIG=configs/....yaml] [OPTS=\"KEY VALUE ...\"]   train and evaluate; continues a stopped run"
	@echo "make stages FIRST=config SECOND=config [REGISTER=NAME=JSON:IMAGES]  train both, the second from the weights of the first; continues a stopped run"
	@echo "make worms                                                   BBBC010 with and without semi-convolutional operators, three seeds"
	@echo "make dots                                                    train two small networks on identical dots, with and without coordinates; draws output/quick/dots.png"
	@echo "make test  [PYTEST=\"-n 2 -k name\"]                           run ruff and the tests"
	@echo "make detectron2 [SRC=checkout]                               build the real Detectron2 into $(VENV); train and test use it from then on"
	@echo "make test-both                                               run the tests under the embedded and under the real Detectron2"
	@echo "make setup | lint | clean"

setup: $(READY)

# pip runs again only if the requirements have changed.
$(READY): setup.cfg pyproject.toml
	@echo "== setting up $(VENV) (torch is large: a few minutes the first time)"
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check --editable ".[test]"
	@touch $@

# Detectron2's own build needs torch, hence no build isolation, and its model zoo needs pkg_resources, which setuptools 81 lacks.
detectron2: setup
	@if $(PY) -m pip --disable-pip-version-check show --quiet detectron2 2>/dev/null; then \
	    echo "== detectron2 is already in $(VENV); to build it again or to go back to the embedded one: $(PY) -m pip uninstall detectron2"; \
	else \
	    case "$(SRC)" in \
	        *://*) source="git+$(SRC:git+%=%)" ;; \
	        *) source="$(SRC)"; test -f "$$source/setup.py" || { \
	            echo "SRC=$$source holds no setup.py: expected the folder of a Detectron2 checkout, or leave SRC out"; exit 2; }; \
	            source=$$(cd "$$source" && pwd) ;; \
	    esac; \
	    echo "== building detectron2 from $(SRC) into $(VENV) (about five minutes)"; \
	    $(PY) -m pip install --quiet --disable-pip-version-check "setuptools<81" wheel ninja && \
	    PATH="$(abspath $(VENV))/bin:$$PATH" $(PY) -m pip install --quiet --disable-pip-version-check --no-build-isolation "$$source"; \
	fi

demo: setup
	@echo "== the objects of docs/images/demo.png by the packaged model nuclei_fcis"
	$(PY) -m tellapart predict docs/images/demo.png --model nuclei_fcis --output output/demo --save labels,overlay,csv
	@echo "== output/demo has the label image, a picture with the outlines, and the tables"

train: setup
	@echo "== training $(CONFIG) $(OPTS)"
	$(PY) train_net.py --resume --config-file $(CONFIG) $(OPTS)

stages: setup
	@test -n "$(FIRST)" -a -n "$(SECOND)" || { echo "make stages FIRST=config SECOND=config"; exit 2; }
	$(PY) tools/two_stages.py $(FIRST) $(SECOND) $(addprefix --register ,$(REGISTER)) --opts $(OPTS)

worms: setup
	@echo "== Mask R-CNN with and without semi-convolutional operators on BBBC010, three seeds"
	$(PY) datasets/prepare_bbbc010.py
	$(PY) tools/compare_seeds.py --output output/worms --jobs 2 \
	    --first configs/quick/mask_rcnn/mask_rcnn_R_18_FPN_bbbc010.yaml \
	    --second configs/quick/mask_rcnn/mask_rcnn_R_18_FPN_bbbc010_longer.yaml \
	        configs/quick/semiconv/semiconv_R_18_FPN_bbbc010.yaml

dots: setup
	@echo "== training two networks on dots, with and without coordinates"
	$(PY) tools/dots.py

test: lint
	@echo "== running the tests"
	$(PY) -m pytest $(PYTEST)

# PYTHONPATH precedes installed packages, so the first run uses the embedded one although the real one is installed.
test-both: lint detectron2
	@echo "== running the tests under the embedded Detectron2"
	PYTHONPATH=$(CURDIR)/projects/embedded_detectron2 $(PY) -m pytest $(PYTEST)
	@echo "== running the tests under the real Detectron2"
	$(PY) -m pytest $(PYTEST)

lint: setup
	$(VENV)/bin/ruff check .

clean:
	rm -rf $(VENV) output .pytest_cache .ruff_cache build dist projects/*.egg-info
