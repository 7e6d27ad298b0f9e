# `make demo` and `make test` create the virtual environment .venv with all dependencies.
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test test-all lint docs clean

# Each module is compiled once, when a test or a command first imports it, even where the environment forbids to store that.
export PYTHONDONTWRITEBYTECODE :=

# Without --no-compile half of the time would go to compiling modules of which most are never imported.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || python3 -m venv $(VENV)
	$(BIN)/pip install --quiet --no-compile --constraint constraints.txt torch
	$(BIN)/pip install --quiet --no-compile --constraint constraints.txt --editable '.[dev]'
	touch $(STAMP)

# Two tests at a time, so one thread for each and for the commands that they start. The tests of a file go to one process,
# so that what they share is made once.
TEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

test: $(STAMP) lint
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

# The complete method on synthetic faces, verb by verb. Two things run at a time, each on one core; what is finished is not done
# again. The last command prints the table: what is pre-training good for? Other faces and first weights: make demo SEED=1.
SEED := 0
DEMO := runs/demo$(addprefix _,$(filter-out 0,$(SEED)))
SVFAP := OMP_NUM_THREADS=1 TTY_COMPATIBLE=0 $(BIN)/svfap
TUNE := $(SVFAP) finetune --config configs/demo/finetune.yaml --manifest $(DEMO)/data/train.csv --seed $(SEED) --resume
VIDEO := $(DEMO)/data/videos/test_000000.mp4
TITLE := SVFAP demo on synthetic faces

demo: $(STAMP)
	$(MAKE) --no-print-directory -j2 $(DEMO)/report.html
	$(BIN)/python benchmarks/demo.py $(DEMO)

$(DEMO)/data/synth.json:
	$(SVFAP) synth $(DEMO)/data --config configs/demo/synth.yaml --seed $(SEED) --num_workers 2

$(DEMO)/pretrain/metrics.json: $(DEMO)/data/synth.json
	$(SVFAP) pretrain --config configs/demo/pretrain.yaml --manifest $(DEMO)/data/pretrain.csv --seed $(SEED) \
		--out $(DEMO)/pretrain --resume

# From scratch it takes more steps to learn anything.
$(DEMO)/scratch/metrics.json: $(DEMO)/data/synth.json
	$(TUNE) --epochs 360 --warmup_epochs 28 --out $(DEMO)/scratch

$(DEMO)/finetuned/metrics.json: $(DEMO)/pretrain/metrics.json
	$(TUNE) --init $(DEMO)/pretrain --out $(DEMO)/finetuned

# From weights that come with the repository: the same pre-training, longer.
$(DEMO)/longer/metrics.json: $(DEMO)/data/synth.json
	$(TUNE) --init configs/demo/longer --out $(DEMO)/longer

$(DEMO)/%/evaluation/metrics.json: $(DEMO)/%/metrics.json
	$(SVFAP) evaluate --model $(DEMO)/$* --manifest $(DEMO)/data/test.csv

$(DEMO)/longer/prediction/affect.csv: $(DEMO)/longer/metrics.json
	$(SVFAP) predict $(VIDEO) --faces none --model $(DEMO)/longer --hop_s 0.2 --out $@ --overwrite

$(DEMO)/pretrain/reconstruction/reconstruction.png: $(DEMO)/pretrain/metrics.json
	$(SVFAP) reconstruct $(VIDEO) --model $(DEMO)/pretrain --out $(@D)

$(DEMO)/pretrain/probe/probe.json: $(DEMO)/pretrain/metrics.json
	$(SVFAP) probe $(DEMO)/pretrain --dataset $(DEMO)/data --kind linear --num_crops 1

$(DEMO)/report.html: $(DEMO)/scratch/evaluation/metrics.json $(DEMO)/finetuned/evaluation/metrics.json \
		$(DEMO)/longer/evaluation/metrics.json $(DEMO)/pretrain/probe/probe.json \
		$(DEMO)/pretrain/reconstruction/reconstruction.png $(DEMO)/longer/prediction/affect.csv
	$(SVFAP) report $(DEMO)/longer $(DEMO)/finetuned $(DEMO)/scratch $(DEMO)/pretrain --out $@ --title "$(TITLE)"

clean:
	rm -rf $(VENV) runs build dist site
