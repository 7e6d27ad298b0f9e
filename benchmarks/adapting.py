"""What it costs and what it gives to train all of an encoder, its head, its last blocks, or adapters.

`cost`: one step of fine-tuning for each choice, on random clips: what the backward pass keeps of the forward pass, gradients and
optimiser, the peak of a GPU's memory, and clips a second.

    python benchmarks/adapting.py cost --preset svfap_base --batch 16

`scores`: fine-tunes an encoder on a prepared dataset of one fold with each choice. A fifth of the training people is set aside;
each choice gets the learning rate, of --rates, with the best score on them in its first run (or that of --chosen), and is then
run once for each encoder. The test people are read at the end. Finished runs are kept in OUT and not done again.

    python benchmarks/adapting.py scores --dataset DIR --init ENCODER ENCODER ENCODER --config FILE.yaml --out DIR

`windows`: makes such a dataset of a corpus as `real_faces.py` has it: windows of about two seconds with teacher labels.

    python benchmarks/adapting.py windows --corpus DIR --out DIR
"""

from __future__ import annotations

import argparse
import gc
import json
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from common import machine
from torch import Tensor

from svfap.data.prepared import Fold, PreparedDataset, read_dataset, write_dataset_file
from svfap.device import make_accelerator, pick_device
from svfap.evaluation.compare import compare_runs
from svfap.evaluation.config import CompareConfig
from svfap.formats import read_settings_file
from svfap.metric_table import main_metric
from svfap.model.base import Model
from svfap.model.build import create_model
from svfap.model.config import ENCODER_SETTINGS, ModelConfig
from svfap.model.layers import checkpoint_activations
from svfap.train.config import FinetuneConfig
from svfap.train.finetune import run_fold
from svfap.train.losses import cross_entropy
from svfap.train.optim import apply_lr, build_optimizer, parameter_groups
from svfap.train.parallel import run_all
from svfap.train.trainable import Trainable
from svfap.view.tables import to_markdown

CHOICES = ("all", "last:4", "last:2", "head", "lora")
SMALL_CHOICES = ("all", "last:2", "head", "lora")
MEASURES = ["mouth_open", "smile_width", "brow_height", "eye_open"]
NUM_CLASSES, STEPS = 7, 6


def cost(preset: str, batch: int, precision: str) -> pd.DataFrame:
    """A row for each choice, without and with recomputed activations."""
    device, rows = pick_device(), []
    for checkpointed in (False, True):
        for choice in CHOICES:
            if choice == "head" and checkpointed:
                continue  # keeps nothing
            rows.append(cost_of(preset, choice, checkpointed, batch, precision, device))
            gc.collect()
    return pd.DataFrame(rows)


def cost_of(
    preset: str, choice: str, checkpointed: bool, batch: int, precision: str, device: torch.device
) -> dict[str, Any]:
    """One row of the table."""
    torch.manual_seed(0)
    model = create_model(preset, "classification", num_outputs=NUM_CLASSES)
    config = FinetuneConfig(out=Path("unused"), preset=preset, trainable=choice)
    trainable = Trainable(model, config)
    if checkpointed:
        checkpoint_activations(model)
    accelerator = make_accelerator(precision)
    optimizer = build_optimizer(parameter_groups(model, 0.05))
    wrapped, optimizer = accelerator.prepare(model, optimizer)
    apply_lr(optimizer, 1e-5)
    shape = model.config
    clips = torch.randn(batch, 3, shape.num_frames, shape.img_size, shape.img_size, device=device)
    targets = torch.full((batch, NUM_CLASSES), 1 / NUM_CLASSES, device=device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    kept: list[int] = []
    for step in range(STEPS):
        model.train()
        trainable.begin_epoch(1)
        if step == STEPS // 2:
            start = now(device)
        with accelerator.autocast():
            with saved_bytes(model, kept) if step == 0 else nullcontext():
                loss = cross_entropy(wrapped(clips).float(), targets)
            accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
    seconds = (now(device) - start) / (STEPS - STEPS // 2)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    peak = torch.cuda.max_memory_allocated() / 1e9 if device.type == "cuda" else float("nan")
    return {
        "trained": choice + (", recomputed" if checkpointed else ""),
        "parameters, M": f"{trained / 1e6:.2f}",
        "gradients and optimiser, MB": f"{3 * 4 * trained / 1e6:.0f}",
        "kept for the backward pass, MB a clip": f"{sum(kept) / batch / 1e6:.1f}",
        "peak on the GPU, GB": "" if np.isnan(peak) else f"{peak:.2f}",
        "clips/s": f"{batch / seconds:.3g}",
    }


def now(device: torch.device) -> float:
    """Seconds, once the device has done what it was asked for."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


@contextmanager
def saved_bytes(model: Model, found: list[int]) -> Iterator[None]:
    """Note the bytes of every storage that is kept within the block, each once, but for the model's own."""
    seen = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in seen:
            seen.add(storage.data_ptr())
            found.append(storage.nbytes())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        yield


def windows(corpus: Path, out: Path) -> None:
    """A dataset of the corpus's windows: one fold; people of "train", of "val" for validation, and of "test" for the test."""
    out.mkdir(parents=True, exist_ok=True)
    table = pd.read_csv(corpus / "windows.csv")
    known = table[table[MEASURES].notna().all(axis=1)]
    columns = ["path", "subject", "start_s", "end_s", *MEASURES]
    files = {}
    for part in ("train", "val", "test"):
        files[part] = Path(f"{part}.csv")
        known.loc[known["split"] == part, columns].to_csv(out / files[part], index=False)
    fold = Fold("1", files["train"], files["test"], files["val"])
    described = PreparedDataset(
        "real_windows", "Windows of real faces with teacher labels", "regression", corpus.resolve(), tuple(MEASURES), (fold,),
        metrics=("ccc", "pcc"), sampling_stride=1, pictures="faces",
    )  # fmt: skip
    write_dataset_file(out, described)


def with_validation(dataset: Path, out: Path) -> Path:
    """The dataset itself if its fold has a validation part, else a copy with a fifth of the training people for it."""
    read = read_dataset(dataset)
    fold = read.fold(None)
    if fold.val is not None:
        return dataset
    out.mkdir(parents=True, exist_ok=True)
    table = pd.read_csv(fold.train)
    people = np.random.default_rng(0).permutation(table["subject"].unique())
    aside = table["subject"].isin(people[: len(people) // 5])
    table[~aside].to_csv(out / "train.csv", index=False)
    table[aside].to_csv(out / "val.csv", index=False)
    assert fold.test is not None
    shutil.copyfile(fold.test, out / "test.csv")
    parts = Fold(fold.name, Path("train.csv"), Path("test.csv"), Path("val.csv"))
    write_dataset_file(out, replace(read, folds=(parts,), pretrain=None, counts={}))
    return out


def scores(args: argparse.Namespace) -> str:
    """The table of `compare_runs`, and the chosen rates."""
    dataset = with_validation(args.dataset, args.out / "dataset")
    settings = read_settings_file(args.config) if args.config else {}
    shape = ModelConfig.read(Path(args.init[0]) / "config.json")
    model = {name: getattr(shape, name) for name in (*ENCODER_SETTINGS, "img_size", "num_frames")}
    model["fuse_stages"] = True

    def run(choice: str, rate: float, number: int) -> FinetuneConfig:
        out = args.out / f"{choice.replace(':', '_')}-{rate:g}-{number}"
        changes = dict(trainable=choice, base_lr=rate, seed=number, init=args.init[number], model=model, out=out)
        fixed = dict(dataset=dataset, fold=read_dataset(dataset).folds[0].name, val_fraction=0.1, num_workers=0)
        return FinetuneConfig(**{**settings, **fixed, **changes, "preset": args.preset})

    chosen = dict(args.chosen)
    first = {choice: [run(choice, rate, 0) for rate in args.rates] for choice in SMALL_CHOICES if choice not in chosen}
    do([config for configs in first.values() for config in configs], args.jobs)
    chosen |= {choice: max(configs, key=validated).base_lr for choice, configs in first.items()}
    rest = {choice: [run(choice, chosen[choice], n) for n in range(len(args.init))] for choice in SMALL_CHOICES}
    do([config for configs in rest.values() for config in configs], args.jobs)
    compared = compare_runs(
        {choice: [config.out for config in configs] for choice, configs in rest.items()}, CompareConfig(reference="all")
    )
    rates = ", ".join(f"{choice} {rate:g}" for choice, rate in chosen.items())
    return f"{to_markdown(compared.table)}\n\n{compared.caption} Chosen base_lr: {rates}."


def do(configs: list[FinetuneConfig], jobs: int) -> None:
    """Do the runs that are not done."""
    left = [config for config in configs if not (config.out / "evaluation" / "metrics.json").is_file()]
    if left and run_all(run_fold, left, jobs):
        sys.exit(130)


def rate_of(text: str) -> tuple[str, float]:
    """("lora", 0.06) of "lora=0.06"."""
    choice, _, rate = text.rpartition("=")
    if choice not in SMALL_CHOICES:
        raise argparse.ArgumentTypeError(f"write CHOICE=RATE, with one of {', '.join(SMALL_CHOICES)}")
    return choice, float(rate)


def validated(config: FinetuneConfig) -> float:
    """The best validation score of a run."""
    lines = [json.loads(line) for line in (config.out / "log.jsonl").read_text().splitlines()]
    task = read_dataset(config.dataset or "").task
    return max(line[main_metric(task)] for line in lines if line["kind"] == "val")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    costs = verbs.add_parser("cost")
    costs.add_argument("--preset", default="svfap_base")
    costs.add_argument("--batch", type=int, default=16)
    costs.add_argument("--precision", default="auto")
    scored = verbs.add_parser("scores")
    scored.add_argument("--dataset", type=Path, required=True)
    scored.add_argument("--init", nargs="+", required=True, help="folders of encoders, one for each run of a choice")
    scored.add_argument("--preset", default="svfap_tiny")
    scored.add_argument("--config", type=Path, help="further settings of fine-tuning")
    scored.add_argument("--rates", type=float, nargs="+", default=[2e-3, 6e-3, 2e-2, 6e-2], help="base_lr")
    scored.add_argument("--chosen", type=rate_of, nargs="+", default=[], help="rates that need no choice: lora=0.06 …")
    scored.add_argument("--jobs", type=int, default=1)
    made = verbs.add_parser("windows")
    made.add_argument("--corpus", type=Path, required=True)
    for each in (scored, made):
        each.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    if args.verb == "cost":
        print(*machine(pick_device()), f"- {args.preset}, {args.batch} clips, precision {args.precision}\n", sep="\n")
        print(to_markdown(cost(args.preset, args.batch, args.precision)))
    elif args.verb == "windows":
        windows(args.corpus, args.out)
    else:
        print(scores(args))


if __name__ == "__main__":
    main()
