"""The command `svfap`: verbs that parse, call, and print. What needs torch is imported when a verb runs."""

from __future__ import annotations

import sys
from pathlib import Path

from svfap.cli import crop, experiment, extract, predict, reconstruct, synth
from svfap.cli.parser import (
    Command,
    Parser,
    Positional,
    Variants,
    add_command,
    booleans_spelt_out,
    run_command,
    say,
)
from svfap.errors import UserError

COMMANDS: dict[str, Command] = {  # verbs whose options are a settings dataclass
    "synth": synth.COMMAND,
    "predict": predict.COMMAND,
    "reconstruct": reconstruct.COMMAND,
    "prepare": Command(
        "Prepare a dataset for training: read its official release, check it, and write the manifests of its protocol. "
        "Example: svfap prepare dfew --root /data/DFEW --out prepared/dfew",
        config="svfap.datasets.config:PrepareConfig",
        run="svfap.cli.prepare:run",
        variants=Variants(
            "dataset",
            "`svfap prepare DATASET --help` explains where to get it and what the folder must look like.",
            "svfap.cli.prepare:datasets",
        ),
    ),
    "info": Command(
        "Show what a model costs: parameters, multiply-adds by stage, tokens, memory.",
        config="svfap.weights.config:InfoConfig",
        run="svfap.cli.info:run",
        positionals=(
            Positional("model", "preset, run or model folder, Hub name or checkpoint; none: list the presets", "?"),
        ),
    ),
    "convert": Command(
        "Convert checkpoints: those published by the authors of SVFAP and VideoMAE into a model folder, or a model into "
        "their format, if OUT ends in .pth. Code in a checkpoint is never executed. "
        "Example: svfap convert downloads/dfew_fold_1.pth models/dfew/fold_1 --dataset dfew",
        config="svfap.weights.config:ConvertConfig",
        run="svfap.cli.convert:run",
        positionals=(
            Positional("model", "published checkpoint (.pth, .pt, .bin, .safetensors); or run or model folder"),
            Positional("out", "folder for the model; or a .pth or .pt file in the published format", type=Path),
        ),
    ),
    "crop": crop.COMMAND,
    "extract": extract.COMMAND,
    "experiment": experiment.COMMAND,
    "evaluate": Command(
        "Evaluate a model on a test set: multi-view testing, UAR, WAR, F1, CCC, PCC and MAE. "
        "Example: svfap evaluate --model runs/finetune --manifest test.csv",
        "svfap.evaluation.config:EvaluateConfig",
        "svfap.cli.evaluate:run",
    ),
    "pool": Command(
        "Pool the evaluations of all folds: score their predictions together, beside the numbers of the paper. "
        "Example: svfap pool --models 'released/fold_{fold}' --dataset prepared/dfew --out runs/dfew_released",
        "svfap.evaluation.config:PoolConfig",
        "svfap.cli.pool:run",
        (Positional("run", "folder of `svfap finetune --fold all`, whose table is written again", "?", Path | None),),
    ),
    "report": Command(
        "Write a page about runs: training curves, scores beside the paper's, calibration, embeddings, difficult videos. "
        "Example: svfap report runs/pretrain runs/finetune --out report.html",
        "svfap.reports.config:ReportConfig",
        "svfap.cli.report:run",
        (Positional("runs", "run folders, or folders of folds, which count as one run", "+", Path),),
    ),
    "pretrain": Command(
        "Pre-train by masked autoencoding: hide 90% of each clip and predict the hidden pixels. "
        "Example: svfap pretrain --manifest videos.csv --out runs/pretrain --preset svfap_small",
        "svfap.train.config:PretrainConfig",
        "svfap.cli.pretrain:run",
    ),
    "finetune": Command(
        "Fine-tune for classes or affect dimensions: from pre-trained weights or from scratch. With --fold all every fold "
        "of a prepared dataset is trained and tested, and their predictions are pooled. "
        "Example: svfap finetune --manifest train.csv --init runs/pretrain --out runs/finetune --preset svfap_small",
        "svfap.train.config:FinetuneConfig",
        "svfap.cli.finetune:run",
    ),
}


def run() -> None:
    """Entry point of the installed command."""
    raise SystemExit(main())


def main(argv: list[str] | None = None) -> int:
    """Run a verb; returns the exit status. A user's mistake is one line, without a traceback."""
    parser = Parser(
        prog="svfap",
        allow_abbrev=False,
        description="Self-supervised video facial affect perceiver: from face videos to affect.",
    )
    verbs = parser.add_subcommands(dest="verb", metavar="VERB", description="`svfap VERB --help` explains a verb.")
    argv = sys.argv[1:] if argv is None else argv
    for name, command in COMMANDS.items():
        sub = Parser(description=command.summary)
        verbs.add_subcommand(name, sub, help=command.summary.split(":")[0].split(".")[0])
        if name in argv:  # building the parsers of the other verbs takes time
            add_command(sub, command)
            argv = booleans_spelt_out(sub, argv)
    args = parser.parse_args(argv)
    try:
        return run_command(COMMANDS[args.verb], args[args.verb])
    except UserError as error:
        print(f"svfap {args.verb}: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        say(f"svfap {args.verb}: interrupted")
        return 130
