"""The command `svfap`: verbs that parse, call, and print. What needs torch is imported when a verb runs."""

from __future__ import annotations

import dataclasses
import difflib
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from jsonargparse import ArgumentParser, Namespace, set_parsing_settings

from svfap.config import FinetuneConfig, PretrainConfig
from svfap.console import console
from svfap.errors import UserError
from svfap.files import make_folder, write_atomically

set_parsing_settings(docstring_parse_attribute_docstrings=True)


class Parser(ArgumentParser):
    """Says a user's mistake in one line, with the nearest name where a name is unknown."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        text = " ".join(str(message).split())
        parser = getattr(ex, "subcommand_parser", None) or self
        known = {action.dest for action in parser._actions}
        for word in re.findall(r"(?:Key |arguments: ?|option |Option |accepted:? ?)['\"]?-{0,2}([\w.]+)", text):
            if near := difflib.get_close_matches(word, known - {word}, n=1, cutoff=0.5):
                text = f"{text.removesuffix('.')}. Did you mean {near[0]!r}?"
                break
        print(f"{parser.prog}: error: {text}", file=sys.stderr)
        raise SystemExit(2)


class Verb(NamedTuple):
    describe: str
    arguments: Callable[[Parser], None]
    run: Callable[[Any], int | None]


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
    for name, verb in VERBS.items():
        sub = Parser(description=verb.describe)
        verb.arguments(sub)
        verbs.add_subcommand(name, sub, help=verb.describe.split(":")[0].split(".")[0])
    args = parser.parse_args(argv)
    try:
        return VERBS[args.verb].run(args[args.verb]) or 0
    except UserError as error:
        print(f"svfap {args.verb}: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        say(f"svfap {args.verb}: interrupted")
        return 130


def say(text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)


# synth ---------------------------------------------------------------------------------------------------------------


def _synth_arguments(parser: Parser) -> None:
    from svfap.data.synth import SynthConfig

    parser.add_argument("out", type=Path, help="folder to write videos and manifests into")
    parser.add_argument("--config", action="config", help="YAML file with any of these settings")
    parser.add_class_arguments(SynthConfig)
    parser.add_argument("--num_workers", type=int, default=0, help="rendering processes; 0: one, in this process")


def _synth(args: Namespace) -> None:
    from svfap.data.synth import SynthConfig, write_dataset

    write_dataset(args.out, _config(SynthConfig, args), args.num_workers)


# training ------------------------------------------------------------------------------------------------------------


def _training_arguments(config: type) -> Callable[[Parser], None]:
    def add(parser: Parser) -> None:
        parser.add_argument("--config", action="config", help="YAML file with any of these settings; flags override it")
        parser.add_class_arguments(config)
        parser.add_argument("--resume", action="store_true", help="continue from last/ in `out`, if there is one")

    return add


def _config(cls: Any, args: Namespace) -> Any:
    names = {f.name for f in dataclasses.fields(cls)}
    values = {k: v for k, v in vars(args).items() if k in names}
    return cls(
        **{
            k: tuple(v) if isinstance(v, list) and k in ("betas", "crop_scale", "crop_scales") else v
            for k, v in values.items()
        }
    )


def _pretrain(args: Namespace) -> None:
    from svfap.train.pretrain import pretrain

    _said(pretrain(_config(PretrainConfig, args), args.resume), args.out)


def _finetune(args: Namespace) -> None:
    from svfap.train.finetune import finetune

    _said(finetune(_config(FinetuneConfig, args), args.resume), args.out)


def _said(result: dict[str, Any], out: Path) -> None:
    if result["finished"]:
        validation = result["last_validation"]
        scores = ", ".join(f"{k.upper()} {validation[k]:.3f}" for k in ("uar", "war", "ccc", "pcc") if k in validation)
        say(f"{out}: trained {result['epochs']} epochs; best/ is from epoch {result['best_epoch'] + 1}, chosen by "
            f"{result['chosen_by']}{'; last validation: ' + scores if scores else ''}")  # fmt: skip


# evaluate ------------------------------------------------------------------------------------------------------------


def _evaluate_arguments(parser: Parser) -> None:
    parser.add_argument("--model", required=True, help="run or model folder, or Hub name")
    parser.add_argument("--manifest", type=Path, required=True, help="CSV of test videos with their labels or values")
    parser.add_argument("--out", type=Path | None, help="folder for the results; default: MODEL/evaluation")
    parser.add_argument("--root", type=Path | None, help="folder that the manifest's paths are relative to")
    parser.add_argument("--split", type=str | None, help="use only rows whose `split` column says this")
    parser.add_argument("--num_segments", type=int, default=2, help="temporal views of each video")
    parser.add_argument("--num_crops", type=int, default=2, help="spatial views along the longer side")
    parser.add_argument("--batch_size", type=int, default=8, help="videos at a time, over all processes")
    parser.add_argument("--num_workers", type=int, default=0, help="decoding processes for each process")
    parser.add_argument("--precision", default="auto", help="auto, fp32, bf16 or fp16")


def _evaluate(args: Namespace) -> int:
    from svfap.evaluate.run import evaluate
    from svfap.report import figures

    out = args.out or Path(args.model) / "evaluation"
    words = {k: v for k, v in vars(args).items() if k not in ("out", "config")}
    metrics = evaluate(out=out, **words)
    if os.environ.get("RANK", "0") != "0":  # of several processes the first one reports
        return 0
    if "confusion" in metrics:
        figures.save_figure(
            figures.confusion_matrix(metrics["confusion"], list(metrics["per_class"])), out / "confusion.png"
        )
        rows = {m.upper(): metrics[m] for m in ("uar", "war", "weighted_f1", "macro_f1")}
    else:
        import pandas as pd

        table, names = pd.read_csv(out / "predictions.csv"), list(metrics["per_dimension"])
        truth, predicted = (table[[f"{kind}_{n}" for n in names]] for kind in ("target", "pred"))
        figures.save_figure(figures.regression_scatter(truth, predicted, names), out / "scatter.png")
        rows = {m.upper(): metrics[m] for m in ("ccc", "pcc", "mae", "rmse")}
    print("\n".join(f"{name:<12} {value:8.4f}" for name, value in rows.items()))
    say(f"{metrics['num_evaluated']} of {metrics['num_expected']} videos evaluated; results in {out}")
    missing = metrics["num_expected"] - metrics["num_evaluated"]
    if missing:
        say(f"svfap evaluate: error: {missing} videos could not be read; they are listed in {out / 'unreadable.csv'}")
    return 1 if missing else 0


# predict and reconstruct ---------------------------------------------------------------------------------------------


def _predict_arguments(parser: Parser) -> None:
    parser.add_argument("videos", nargs="+", help="video files, folders of frames, or images")
    parser.add_argument("--model", required=True, help="run or model folder, or Hub name")
    parser.add_argument("--out", type=Path, default=Path("affect.csv"), help="table: .csv, .json or .parquet")
    parser.add_argument("--hop_s", type=float | None, help="seconds from one window to the next; default: no overlap")
    parser.add_argument("--faces", choices=["none"], default="none", help="none: the video is a face crop already")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, …")
    parser.add_argument("--precision", default="auto", help="auto, fp32, bf16 or fp16")
    parser.add_argument("--batch_size", type=int, default=8, help="windows at a time")


def _predict(args: Namespace) -> int:
    import pandas as pd

    from svfap.data.video import VideoError
    from svfap.inference.predictor import Predictor
    from svfap.report import figures

    if args.out.suffix not in TABLE_FORMATS:
        raise UserError(f"--out {args.out}: the suffix must be one of {', '.join(TABLE_FORMATS)}")
    if args.out.is_dir():
        raise UserError(f"--out {args.out}: is a folder; give the name of a file")
    make_folder(args.out.absolute().parent)
    predictor = Predictor(args.model, args.device, args.precision, args.hop_s, args.batch_size)
    tables: dict[str, pd.DataFrame] = {}
    failed = 0
    for video in args.videos:
        try:
            tables[video] = pd.DataFrame(_progress(predictor, video), columns=["start_s", "end_s", *predictor.columns])
        except VideoError as error:
            failed += 1
            say(f"svfap predict: error: {error}")
    if not tables:
        return 1
    whole = pd.concat([table.assign(video=video) for video, table in tables.items()])
    whole = whole[["video", *[column for column in whole if column != "video"]]]
    write_atomically(args.out, TABLE_FORMATS[args.out.suffix](whole))
    for number, (video, table) in enumerate(tables.items()):
        suffix = f"_{number + 1}_{Path(video).stem}" if len(tables) > 1 else ""
        picture = args.out.with_name(f"{args.out.stem}{suffix}.png")
        figures.save_figure(figures.timeline(table, Path(video).name), picture)
        means = table[predictor.columns].mean().sort_values(ascending=False)
        shown = ", ".join(f"{str(name).removeprefix('prob_')} {mean:.2f}" for name, mean in means.items())
        say(f"{video}: {len(table)} rows; on average {shown}; {picture}")
    say(f"table: {args.out}")
    return 1 if failed else 0


TABLE_FORMATS: dict[str, Callable[[Any], str | bytes]] = {
    ".csv": lambda table: table.to_csv(index=False),
    ".json": lambda table: table.to_json(orient="records", indent=2, double_precision=15),
    ".parquet": lambda table: table.to_parquet(index=False),
}


def _progress(predictor: Any, video: str) -> Any:
    from svfap.console import track
    from svfap.data.video import open_video

    with open_video(video) as source:
        total = predictor.num_rows(source.num_frames, source.fps)
    return track(predictor.stream(video), Path(video).name[:24], total)


def _reconstruct_arguments(parser: Parser) -> None:
    parser.add_argument("video", help="video file, folder of frames, or image")
    parser.add_argument("--model", required=True, help="run or model folder of a pre-training model, or Hub name")
    parser.add_argument("--out", type=Path, default=Path("reconstruction"), help="folder for the PNG and the MP4")
    parser.add_argument("--mask_ratio", type=float | None, help="part of the positions to hide; default: the model's")
    parser.add_argument("--seed", type=int, default=0, help="which positions are hidden")


def _reconstruct(args: Namespace) -> None:
    import numpy as np

    from svfap.data.video import write_video
    from svfap.inference.reconstruct import reconstruct
    from svfap.report import figures

    result = reconstruct(args.video, args.model, args.mask_ratio, args.seed)
    pictures = (result.original, result.masked, result.reconstruction)
    png, mp4 = args.out / "reconstruction.png", args.out / "reconstruction.mp4"
    figures.save_figure(figures.reconstruction_grid(*pictures), png)
    write_video(mp4, np.concatenate(pictures, axis=2), fps=result.fps)
    say(f"mean squared error on hidden tubelets {result.loss:.4f} (1 = predicting each tubelet's mean); {png}, {mp4}")


# info and report -----------------------------------------------------------------------------------------------------


def _info_arguments(parser: Parser) -> None:
    parser.add_argument("model", nargs="?", help="preset, run or model folder, or Hub name; none: list the presets")
    parser.add_argument("--mask_ratio", type=float | None, help="masking of the pre-training figures")


def _info(args: Namespace) -> None:
    from rich.console import Console

    from svfap.report.info import model_tables, preset_table

    tables = [preset_table()] if args.model is None else model_tables(args.model, args.mask_ratio)
    Console().print(*tables)


def _report_arguments(parser: Parser) -> None:
    parser.add_argument("runs", nargs="+", type=Path, help="run folders")
    parser.add_argument("--out", type=Path, default=Path("report.html"), help="the page, one self-contained file")
    parser.add_argument("--title", default="SVFAP report")


def _report(args: Namespace) -> None:
    from rich.console import Console

    from svfap.report.info import runs_table
    from svfap.report.page import run_report

    run_report(args.runs, args.out, args.title)
    Console().print(runs_table(args.runs))
    say(f"report: {args.out}")


VERBS = {
    "synth": Verb(
        "Write a synthetic face-video dataset: procedural faces whose expressions follow facial action units.",
        _synth_arguments,
        _synth,
    ),
    "pretrain": Verb(
        "Pre-train by masked autoencoding: hide 90% of each clip and predict the hidden pixels. "
        "Example: svfap pretrain --manifest videos.csv --out runs/pretrain --preset svfap_small",
        _training_arguments(PretrainConfig),
        _pretrain,
    ),
    "finetune": Verb(
        "Fine-tune for classes or affect dimensions: from pre-trained weights or from scratch. "
        "Example: svfap finetune --manifest train.csv --init runs/pretrain --out runs/finetune --preset svfap_small",
        _training_arguments(FinetuneConfig),
        _finetune,
    ),
    "evaluate": Verb(
        "Evaluate on a manifest: multi-view testing with the field's metrics.", _evaluate_arguments, _evaluate
    ),
    "predict": Verb("Predict affect over time: a table and a timeline of any video.", _predict_arguments, _predict),
    "reconstruct": Verb(
        "Reconstruct masked frames: the original, what the encoder saw, and what the model made of it.",
        _reconstruct_arguments,
        _reconstruct,
    ),
    "info": Verb(
        "Show what a model costs: parameters, multiply-adds by stage, tokens, memory.", _info_arguments, _info
    ),
    "report": Verb(
        "Write one HTML page about runs: curves, scores, confusion matrices, pictures.", _report_arguments, _report
    ),
}
