"""Verbs about models."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_type_hints

from jsonargparse import Namespace

from svfap.cli.parser import Parser, Verb, say
from svfap.errors import UserError

if TYPE_CHECKING:
    from rich.table import Table

    from svfap.model.base import Model
    from svfap.weights.checkpoint import Checkpoint

PUBLISHED_SUFFIXES = (".pth", ".pt")
NOT_SETTINGS = ("preset", "task", "provenance")


def _info_arguments(parser: Parser) -> None:
    parser.add_argument("model", nargs="?", help="preset, run or model folder, or Hub name; none: list the presets")
    parser.add_argument("--mask_ratio", type=float | None, help="masking of the pre-training figures")


def _info(args: Namespace) -> None:
    from rich.console import Console

    from svfap.report.info import model_tables, preset_table

    tables = [preset_table()] if args.model is None else model_tables(args.model, args.mask_ratio)
    Console().print(*tables)


def _convert_arguments(parser: Parser) -> None:
    from svfap.model.config import ModelConfig

    parser.add_argument("model", help="published checkpoint (.pth, .pt, .bin, .safetensors); or run or model folder")
    parser.add_argument("out", type=Path, help="folder for the model; or a .pth or .pt file in the published format")
    parser.add_argument(
        "--dataset",
        type=str | None,
        help="what a fine-tuned checkpoint is for: a dataset's name, or a folder of `svfap prepare`; gives task, labels, …",
    )
    parser.add_argument(
        "--task",
        type=Literal["classification", "regression", "features", "pretraining"] | None,
        help="build a model for this task; default: the dataset's, else as the checkpoint is",
    )
    parser.add_argument("--ema", type=bool, default=False, help="take the moving average that the checkpoint holds")
    settings = parser.add_argument_group(
        "settings of the model, where the checkpoint does not tell them or they differ"
    )
    for word, kind in get_type_hints(ModelConfig).items():
        if word not in NOT_SETTINGS:
            settings.add_argument(f"--{word}", type=kind | None)


def _convert(args: Namespace) -> None:
    from svfap.files import make_folder, replacing_folder
    from svfap.weights.folder import load_model
    from svfap.weights.published import save_published

    if args.out.exists():
        raise UserError(f"{args.out}: is there already; remove it, or choose another name")
    make_folder(args.out.absolute().parent)
    if Path(args.model).is_file():
        from rich.console import Console

        model, checkpoint = _read_published(args)
        Console().print(_found(model, checkpoint))
    elif args.out.suffix not in PUBLISHED_SUFFIXES:
        what = "is a folder" if Path(args.model).is_dir() else "no such file"
        raise UserError(f"{args.model}: {what}; give a checkpoint file, or let OUT end in .pth to write one")
    elif args.dataset or args.task or args.ema or _settings(args):
        raise UserError(f"{args.model}: a model of ours says all of itself; leave the other settings out")
    else:
        model = load_model(args.model)
    if args.out.suffix in PUBLISHED_SUFFIXES:
        save_published(model, args.out)
    else:
        with replacing_folder(args.out) as fresh:
            model.save_pretrained(fresh)
    say(f"written: {args.out}")


def _settings(args: Namespace) -> dict[str, Any]:
    from svfap.model.config import ModelConfig

    words = {word: getattr(args, word) for word in ModelConfig.words() if word not in NOT_SETTINGS}
    return {word: tuple(v) if isinstance(v, list) else v for word, v in words.items() if v is not None}


def _read_published(args: Namespace) -> tuple[Model, Checkpoint]:
    """The model of a checkpoint file, with what the dataset says of its head."""
    from svfap.weights.checkpoint import read_published
    from svfap.weights.published import build_published

    words, task = _settings(args), args.task
    checkpoint = read_published(args.model, args.ema)
    if args.dataset is not None and (not checkpoint.pretrained or task in ("classification", "regression")):
        dataset = _dataset(args.dataset)
        if not dataset.label_names:
            raise UserError(f"--dataset {args.dataset}: has no labels of its own; name a folder of `svfap prepare`")
        task = task or dataset.task
        if task not in (dataset.task, "features"):
            raise UserError(f"--task {task}: {dataset.title} is for {dataset.task}; leave one of the two out")
        if task == dataset.task:
            words = {"output_activation": dataset.output_activation, "frame_level": dataset.frame_level, **words}
            words = {"label_names": tuple(dataset.label_names), **words}
        stored = checkpoint.args.get("sampling_rate")
        if stored not in (None, dataset.sampling_stride):
            say(
                f"warning: sampling stride {stored} as the checkpoint says; {dataset.title} has {dataset.sampling_stride}"
            )
        if stored is None:
            words.setdefault("sampling_stride", dataset.sampling_stride)
    elif args.dataset is not None:
        say(
            f"warning: {args.model} is pre-trained, so that --dataset says nothing of it; for a new head give --task too"
        )
    model = build_published(checkpoint, task, **words)
    if model.config.task in ("classification", "regression") and not model.config.label_names:
        say("warning: the outputs have no names; give --dataset or --label_names")
    return model, checkpoint


def _dataset(name: str) -> Any:
    """The description of a prepared folder, or of a dataset we know by name."""
    from svfap.data.prepared import read_dataset
    from svfap.prepare import NAMES, get_dataset

    if name in NAMES and not Path(name).is_dir():
        dataset = get_dataset(name)
        if hasattr(dataset.options, "target"):
            raise UserError(
                f"--dataset {name}: has several targets; name the folder that `svfap prepare` wrote for one"
            )
        return dataset
    if not Path(name).is_dir():
        raise UserError(f"--dataset {name}: neither a folder of `svfap prepare` nor one of {', '.join(NAMES)}")
    return read_dataset(name)


def _found(model: Model, checkpoint: Checkpoint) -> Table:
    """What a published checkpoint holds, and what became of it."""
    from rich.table import Table

    config = model.config
    table = Table(title=checkpoint.source, show_header=False)
    kind = "pre-trained" if checkpoint.pretrained else "fine-tuned"
    new = config.provenance.get("new_parameters", [])
    count = sum(tensor.numel() for tensor in checkpoint.tensors.values())
    outputs = ", ".join(config.label_names) or str(config.num_outputs)
    rows = {
        "checkpoint": f"{kind}, {checkpoint.naming} naming, epoch {checkpoint.epoch}",
        "tensors": f"{len(checkpoint.tensors)}, {count / 1e6:.2f} M numbers",
        "model": f"{config.preset}, {config.task}",
        "encoder": f"width {config.embed_dim}, {config.num_heads} heads, {'+'.join(map(str, config.stage_depths))} blocks",
        "clip": f"{config.num_frames}×{config.img_size}×{config.img_size}, every {config.sampling_stride} frames",
    }
    if config.task == "pretraining":
        width, heads, depth = config.decoder_embed_dim, config.decoder_num_heads, config.decoder_depth
        rows["decoder"] = f"width {width}, {heads} heads, {depth} blocks"
    elif config.task != "features":
        rows["outputs"] = outputs if config.output_activation == "none" else f"{outputs} ({config.output_activation})"
    if new:
        rows["new, untrained"] = ", ".join(new)
    if guessed := config.provenance.get("guessed"):
        rows["not said by the file"] = ", ".join(f"{word}={getattr(config, word)}" for word in guessed)
    for name, value in rows.items():
        table.add_row(name, value)
    return table


VERBS = {
    "info": Verb(
        "Show what a model costs: parameters, multiply-adds by stage, tokens, memory.", _info_arguments, _info
    ),
    "convert": Verb(
        "Convert checkpoints: those published by the authors of SVFAP and VideoMAE into a model folder, or a model into "
        "their format, if OUT ends in .pth. Code in a checkpoint is never run.",
        _convert_arguments,
        _convert,
    ),
}
