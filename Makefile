# make demo      set everything up, train the quickstart, evaluate it, draw predictions
# make test      set everything up, run the tests, except those marked slow
# make test-slow the tests marked slow, which take three quarters of an hour
# make test-trackers  the tests of wandb, mlflow and trackio, after installing these
# make lint      ruff (format and lint), mypy, import-linter (which module may import which)
# make bench     the benchmarks, against Detectron2, torchvision and pycocotools; writes their records
# make report    tables, plots and output/report.html from the records in results/
# make reproduce repeats table 2c at `mini` with three seeds, and compares it with the committed records
# make site      these documents and the API reference as a web site in output/site
# make setup     only the environment
#
# Targets use .venv, made on first use. `make demo VENV=folder` makes or completes another one with the
# pinned packages. `make demo VENV=` installs nothing and uses the `python` on the path as it is, with
# its own torch and Detectron2.

VENV ?= .venv
PYTHON ?= $(shell command -v python3.11 || command -v python3 || command -v python)
ifeq ($(strip $(VENV)),)
PY := python
STAMP :=
else
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed
endif
CONFIG := configs/quickstart/mask_rcnn_r18_fpn.py
RUN := output/quickstart/mask_rcnn_r18_fpn/seed0
JOBS ?= 2
TABLE ?= 2c

# with VENV= this package need not be installed
export PYTHONPATH := $(CURDIR)/projects:$(PYTHONPATH)

.PHONY: demo test test-slow test-trackers bench report reproduce lint format setup docs site clean

setup: $(STAMP)

$(VENV)/.installed: requirements/torch.txt requirements/runtime.txt requirements/detectron2.txt requirements/cityscapes.txt requirements/dev.txt setup.py
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(PY) requirements/install.py
	touch $@

demo: $(STAMP)
	$(PY) train_net.py --config-file $(CONFIG) --resume train.output_dir=$(RUN)
	$(PY) train_net.py --config-file $(CONFIG) --eval-only train.init_checkpoint=$(RUN)/model_final.pth
	@echo "Predictions beside ground truth: $(RUN)/drawings"

# Test files take half as long to collect if what they are compiled to may be kept.
PYTEST := OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(PY) -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

test: $(STAMP)
	$(PYTEST) -m "not slow"

test-slow: $(STAMP)
	$(PYTEST) -m slow

test-trackers: $(STAMP)
	$(if $(STAMP),$(PY) -m pip install --quiet --disable-pip-version-check -r requirements/trackers.txt)
	OMP_NUM_THREADS=1 $(PY) -m pytest tests/unit/test_writers.py

bench: $(STAMP)
	for script in benchmarks/*.py; do $(PY) -W ignore $$script --threads $(JOBS) --record || exit 1; done
	$(PY) tools/generate_docs --performance

lint: $(STAMP)
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy
	$(PY) -c "from importlinter.cli import lint_imports_command as lint; lint()"

format: $(STAMP)
	$(PY) -m ruff format .
	$(PY) -m ruff check --fix .

report: $(STAMP)
	$(PY) -W ignore tools/report.py

reproduce: $(STAMP)
	$(PY) -W ignore tools/run_table.py $(TABLE) --profile mini --seeds 3 --jobs $(JOBS) --reproduce train.output_root=output/reproduce

docs: $(STAMP)
	$(PY) tools/generate_docs

# stops at a link that leads nowhere
site: $(STAMP)
	$(if $(STAMP),$(PY) -m pip install --quiet --disable-pip-version-check -r requirements/site.txt)
	$(PY) -m mkdocs build

clean:
	rm -rf output build dist .mypy_cache .pytest_cache .ruff_cache
