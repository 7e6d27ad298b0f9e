# `make demo` and `make test` create the virtual environment .venv with all dependencies.
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test test-all lint docs clean

# Each module is compiled once, when a test or a command first imports it, even where the environment forbids to store that.
export PYTHONDONTWRITEBYTECODE :=

# The pip of Python 3.11 takes twice as long to choose versions. Without --no-compile half of the time would go to compiling
# modules of which most are never imported.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || python3 -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --no-compile --constraint constraints.txt torch
	$(BIN)/pip install --quiet --no-compile --constraint constraints.txt --editable '.[dev]'
	touch $(STAMP)

# Two tests at a time, so one thread for each and for the commands that they start. The tests of a file go to one process,
# so that what they share is made once.
TEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

# The linter beside them, which takes a minute on one core.
test: $(STAMP)
	$(MAKE) --no-print-directory -j2 lint quick

.PHONY: quick
quick: $(STAMP)
	$(TEST)

# The slow tests too, and which lines no test runs. Measuring that costs CPU time, so `test` does without.
test-all: $(STAMP) lint
	$(TEST) --cov --cov-report=term -m ''

lint: $(STAMP)
	$(BIN)/ruff check src tests benchmarks docs hubconf.py
	$(BIN)/ruff format --check src tests benchmarks docs hubconf.py
	$(BIN)/mypy

# The documentation as a site, in site/: links, anchors and names that do not exist are errors, and so is anything that a page would
# load from another machine. To read it: python -m http.server -d site
$(VENV)/.docs: $(STAMP)
	$(BIN)/pip install --quiet --no-compile --constraint constraints.txt --editable '.[docs]'
	touch $@

docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# The complete method on synthetic faces; other faces and first weights: make demo SEED=4.
SEED :=

demo: $(STAMP)
	$(BIN)/svfap demo $(addprefix --seed ,$(SEED)) --out runs/demo$(addprefix _,$(SEED))

clean:
	rm -rf $(VENV) runs build dist site
