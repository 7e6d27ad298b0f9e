"""Does pre-training help? The demo's data and model: fine-tuned from pre-training and from scratch, over several seeds.

Prints a Markdown table of test UAR and WAR, mean ± standard deviation over the seeds. Runs that are there already in the
work folder are not done again.

    python benchmarks/learning.py --work runs/learning --pretrain "--epochs 24" --finetune "--epochs 30"
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
from pathlib import Path

from svfap.cli import main as svfap

CONFIGS = Path(__file__).resolve().parents[1] / "configs" / "demo"


def run(command: str, done: Path) -> None:
    """Run a verb of svfap unless its result is there."""
    if done.exists():
        return
    print(f"$ svfap {command}", flush=True)
    if status := svfap(shlex.split(command)):
        raise SystemExit(status)


def finetuned(work: Path, data: Path, seed: int, init: Path | None, extra: str) -> dict[str, float]:
    """Metrics on test of one fine-tuning."""
    out = work / f"{'pretrained' if init else 'scratch'}_{seed}"
    files = f"--manifest {data}/train.csv --val_manifest {data}/val.csv --out {out} --resume"
    start = f"--init {init}" if init else ""
    run(f"finetune --config {CONFIGS}/finetune.yaml {files} --seed {seed} {start} {extra}", out / "metrics.json")
    run(f"evaluate --model {out} --manifest {data}/test.csv", out / "evaluation" / "metrics.json")
    return json.loads((out / "evaluation" / "metrics.json").read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("runs/learning"), help="folder for data and runs")
    parser.add_argument("--seeds", type=int, default=3, help="fine-tunings of each kind")
    parser.add_argument("--pretrain", default="", help="further settings of pre-training, such as '--epochs 16'")
    parser.add_argument("--finetune", default="", help="further settings of both fine-tunings")
    args = parser.parse_args()
    data, pretrain = args.work / "data", args.work / "pretrain"
    run(f"synth {data} --config {CONFIGS}/synth.yaml --num_workers 2", data / "synth.json")
    files = f"--manifest {data}/pretrain.csv --out {pretrain} --resume"
    run(f"pretrain --config {CONFIGS}/pretrain.yaml {files} {args.pretrain}", pretrain / "metrics.json")
    num_videos = len((data / "test.csv").read_text().splitlines()) - 1
    print(f"\nTest: {num_videos} videos of people whom neither saw; seven classes, so chance is {100 / 7:.1f}%.\n")
    print("| fine-tuned | " + " | ".join(f"{m}, seeds 0–{args.seeds - 1}" for m in ("UAR %", "WAR %")) + " |")
    print("| --- | --- | --- |")
    for name, init in (("from pre-training", pretrain), ("from scratch", None)):
        results = [finetuned(args.work, data, seed, init, args.finetune) for seed in range(args.seeds)]
        cells = []
        for metric in ("uar", "war"):
            values = [100 * result[metric] for result in results]
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            cells.append(f"{statistics.mean(values):.1f} ± {spread:.1f} ({', '.join(f'{v:.1f}' for v in values)})")
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
