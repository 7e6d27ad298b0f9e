"""The verb that runs the paper's experiments."""

from __future__ import annotations

from pathlib import Path

from jsonargparse import Namespace

from svfap.cli.parser import Parser, Verb, say

EXPERIMENTS = """all; scratch: pre-trained against from scratch (Fig. 4); schedule: length of pre-training (Fig. 5); scale:
amount of pre-training data (Table 1); masking: ratio (2); variants: without pyramid, bottleneck, or both (3); fusion: of the
stages in either phase (4); bottleneck: number of tokens (5); downsampling: conv, average, maximum (6); videomae: against
its encoder (7); few_shot: few labels (Fig. 7); reconstructions: of hidden pixels (Fig. 6)"""


def _experiment_arguments(parser: Parser) -> None:
    parser.add_argument("name", help=EXPERIMENTS)
    parser.add_argument(
        "--out", type=Path, default=Path("runs/experiments"), help="folder for runs, tables and figures"
    )
    parser.add_argument("--dataset", type=Path | None, help="folder of `svfap prepare`; default: synthetic faces")
    parser.add_argument("--fold", type=str | None, help="fold of the dataset; default: its first, as in the paper")
    parser.add_argument(
        "--pretrain_dataset", type=Path | None, help="prepared videos to pre-train on; default: --dataset"
    )
    parser.add_argument(
        "--pretrain_config", type=Path | None, help="YAML with settings of pre-training; default: the paper's"
    )
    parser.add_argument(
        "--finetune_config", type=Path | None, help="YAML with settings of fine-tuning; default: the paper's"
    )
    parser.add_argument("--preset", type=str | None, help="model size; default: that of the settings, else svfap_base")
    parser.add_argument(
        "--weights",
        type=str | None,
        help="pre-trained weights that stand for the base pre-training; default: init in --finetune_config",
    )
    parser.add_argument(
        "--videomae", type=str | None, help="checkpoint of VideoMAE-Base, for the comparison of Table 7"
    )
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each row: seeds 0, 1, …")
    parser.add_argument(
        *("--share_pretraining",), type=bool, default=True, help="one pre-training for the fine-tunings of all seeds"
    )
    parser.add_argument("--parallel", type=int | None, help="runs at a time; default: one per GPU, else one")


def _experiment(args: Namespace) -> None:
    from rich.console import Console

    from svfap.experiments.run import Setup, experiment
    from svfap.view.tables import to_terminal

    words = {k: v for k, v in vars(args).items() if k != "name"}
    for name, table in experiment(args.name, Setup(**words)).items():
        Console().print(to_terminal(table, name))
    say(f"tables and figures: {args.out}")


VERBS = {
    "experiment": Verb(
        "Run one of the paper's experiments: train what it compares, score it, write the table and the figure with the "
        "paper's numbers beside. Example: svfap experiment masking --out runs/experiments",
        _experiment_arguments,
        _experiment,
    ),
}
