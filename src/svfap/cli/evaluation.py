"""Verbs that score."""

from __future__ import annotations

import os
from pathlib import Path

from jsonargparse import Namespace

from svfap.cli.parser import Parser, Verb, say


def _evaluate_arguments(parser: Parser) -> None:
    parser.add_argument("--model", required=True, help="run or model folder, or Hub name")
    parser.add_argument("--manifest", type=Path | None, help="CSV of test videos with their labels or values")
    parser.add_argument("--dataset", type=Path | None, help="or a folder of `svfap prepare`: its fold's test part")
    parser.add_argument("--fold", type=str | None, help="which fold of the dataset; default: its only one")
    parser.add_argument("--out", type=Path | None, help="folder for the results; default: MODEL/evaluation")
    parser.add_argument("--root", type=Path | None, help="folder that the manifest's paths are relative to")
    parser.add_argument("--split", type=str | None, help="use only rows whose `split` column says this")
    parser.add_argument(
        "--by_group",
        type=bool | None,
        help="score the mean over each `group` of videos, not each video; default: where the manifest has groups",
    )
    parser.add_argument("--num_segments", type=int, default=2, help="temporal views of each video")
    parser.add_argument("--num_crops", type=int, default=2, help="spatial views along the longer side")
    parser.add_argument("--batch_size", type=int, default=8, help="videos at a time, over all processes")
    parser.add_argument("--num_workers", type=int, default=0, help="decoding processes for each process")
    parser.add_argument("--precision", default="auto", help="auto, fp32, bf16 or fp16")


def _evaluate(args: Namespace) -> int:
    from svfap.evaluate.evaluate import evaluate
    from svfap.view.figures.base import save_figure
    from svfap.view.figures.scores import confusion_matrix, regression_scatter

    out = args.out or Path(args.model) / "evaluation"
    words = {k: v for k, v in vars(args).items() if k not in ("out", "config")}
    metrics = evaluate(out=out, **words)
    if os.environ.get("RANK", "0") != "0":  # of several processes the first one reports
        return 0
    if "confusion" in metrics:
        save_figure(confusion_matrix(metrics["confusion"], list(metrics["per_class"])), out / "confusion.png")
        rows = {m.upper(): metrics[m] for m in ("uar", "war", "weighted_f1", "macro_f1")}
    else:
        import pandas as pd

        file = out / ("groups.csv" if "num_groups" in metrics else "predictions.csv")
        table, names = pd.read_csv(file), list(metrics["per_dimension"])
        truth, predicted = (table[[f"{kind}_{n}" for n in names]] for kind in ("target", "pred"))
        save_figure(regression_scatter(truth, predicted, names), out / "scatter.png")
        rows = {m.upper(): metrics[m] for m in ("ccc", "pcc", "mae", "rmse")}
    print("\n".join(f"{name:<12} {value:8.4f}" for name, value in rows.items()))
    say(f"{metrics['num_evaluated']} of {metrics['num_expected']} videos evaluated; results in {out}")
    missing = metrics["num_expected"] - metrics["num_evaluated"]
    if missing:
        say(f"svfap evaluate: error: {missing} videos could not be read; they are listed in {out / 'unreadable.csv'}")
    return 1 if missing else 0


VERBS = {
    "evaluate": Verb(
        "Evaluate on a manifest: multi-view testing with the field's metrics.", _evaluate_arguments, _evaluate
    ),
}
