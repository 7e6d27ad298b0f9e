# `make demo` and `make test` create the virtual environment .venv with all dependencies.
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEMO := runs/demo

.PHONY: demo test test-all lint clean

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || python3 -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(STAMP)

test: $(STAMP) lint
	$(BIN)/python -m pytest -n 2 --cov --cov-report=term

# The slow tests too.
test-all: $(STAMP) lint
	$(BIN)/python -m pytest -n 2 --cov --cov-report=term -m ''

lint: $(STAMP)
	$(BIN)/ruff check src tests benchmarks docs
	$(BIN)/ruff format --check src tests benchmarks docs
	$(BIN)/mypy

# The complete method on synthetic faces, verb by verb.
VIDEO = $(DEMO)/data/videos/test_000000.mp4
demo: $(STAMP)
	$(BIN)/svfap synth $(DEMO)/data --config configs/demo/synth.yaml --num_workers 2
	$(BIN)/svfap pretrain --config configs/demo/pretrain.yaml --out $(DEMO)/pretrain --resume
	$(BIN)/svfap finetune --config configs/demo/finetune.yaml --init $(DEMO)/pretrain --out $(DEMO)/finetuned --resume
	$(BIN)/svfap finetune --config configs/demo/finetune.yaml --out $(DEMO)/scratch --resume
	$(BIN)/svfap evaluate --model $(DEMO)/finetuned --manifest $(DEMO)/data/test.csv
	$(BIN)/svfap evaluate --model $(DEMO)/scratch --manifest $(DEMO)/data/test.csv
	$(BIN)/svfap predict $(VIDEO) --faces none --model $(DEMO)/finetuned --hop_s 0.2 --out $(DEMO)/finetuned/prediction/affect.csv --overwrite
	$(BIN)/svfap reconstruct $(VIDEO) --model $(DEMO)/pretrain --out $(DEMO)/pretrain/reconstruction
	$(BIN)/svfap report $(DEMO)/finetuned $(DEMO)/scratch $(DEMO)/pretrain --out $(DEMO)/report.html --title "SVFAP demo on synthetic faces"

clean:
	rm -rf $(VENV) runs build dist
