"""Verbs that make datasets."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import DefaultHelpFormatter, Namespace
from rich.table import Column, Table

from svfap.cli.parser import Parser, Verb, config_of, say
from svfap.console import console

if TYPE_CHECKING:
    from svfap.data.prepared import PreparedDataset
    from svfap.prepare.dataset import Dataset


def _synth_arguments(parser: Parser) -> None:
    from svfap.synth.config import SynthConfig

    parser.add_argument("out", type=Path, help="folder to write videos and manifests into")
    parser.add_argument("--config", action="config", help="YAML file with any of these settings")
    parser.add_class_arguments(SynthConfig)
    parser.add_argument("--num_workers", type=int, default=0, help="rendering processes; 0: one, in this process")


def _synth(args: Namespace) -> None:
    from svfap.synth.config import SynthConfig
    from svfap.synth.dataset import write_dataset

    write_dataset(args.out, config_of(SynthConfig, args), args.num_workers)


class _Verbatim(argparse.RawDescriptionHelpFormatter, DefaultHelpFormatter):
    """Help that leaves the lines of a description as they are."""


def _prepare_arguments(parser: Parser) -> None:
    from svfap.prepare import NAMES, get_dataset
    from svfap.prepare.dataset import Settings

    datasets = parser.add_subcommands(
        dest="dataset",
        metavar="DATASET",
        description="`svfap prepare DATASET --help` says where to get it and what the folder must look like.",
    )
    for name in NAMES:
        dataset = get_dataset(name)
        sub = Parser(description=describe(dataset))
        sub.add_argument(
            "--root", type=Path, required=True, help="folder of the release, laid out as above; it is only read"
        )
        sub.add_argument("--out", type=Path, required=True, help="folder to write manifests and dataset.json into")
        sub.add_class_arguments(dataset.options)
        sub.add_class_arguments(Settings)
        datasets.add_subcommand(name, sub, help=dataset.summary)
        sub.formatter_class = _Verbatim  # it was given its parent's


def describe(dataset: Dataset) -> str:
    """What `--help` says of a dataset."""
    layout = "\n".join(f"    {line}" for line in dataset.layout.splitlines())
    source = f"Where to get it: {dataset.source}\n" if dataset.source else ""
    return (
        f"{dataset.title}: {dataset.summary}.\n\n{source}Licence: {dataset.licence}\n\n"
        f"What --root must hold:\n{layout}\n\nProtocol: {dataset.protocol}\nChecked: {dataset.checked}"
    )


def _prepare(args: Namespace) -> int:
    from svfap.prepare import get_dataset
    from svfap.prepare.dataset import Settings
    from svfap.prepare.write import is_complete, prepare

    words = args[args.dataset]
    dataset, settings = get_dataset(args.dataset), config_of(Settings, words)
    prepared = prepare(dataset, words.root, words.out, config_of(dataset.options, words), settings)
    console.print(_table(prepared))
    _say_findings(prepared, words.out)
    if is_complete(prepared) or settings.allow_missing:
        return 0
    say("the dataset is not whole: mend it, or say --allow_missing true to take it as it is")
    return 1


def _table(prepared: PreparedDataset) -> Table:
    """Rows of each manifest beside the official numbers."""
    table = Table(
        "manifest", *(Column(name, justify="right") for name in ("rows", "listed", "official")), title=prepared.title
    )
    listed, official = prepared.notes["listed"], prepared.notes["official"]
    for name in {**prepared.counts, **official}:  # some official numbers are not of a manifest: `train subjects`
        style = "red" if name in prepared.notes["count_mismatch"] else None
        counts = (prepared.counts.get(name), listed.get(name), official.get(name))
        table.add_row(
            f"{name}.csv" if name in prepared.counts else name,
            *("" if count is None else f"{count:,}" for count in counts),
            style=style,
        )
    return table


def _say_findings(prepared: PreparedDataset, out: Path) -> None:
    from svfap.prepare.dataset import KINDS

    notes = prepared.notes
    say(f"validation: {notes['validation']}")
    for kind in KINDS:
        if notes[kind]:
            say(f"{kind.replace('_', ' ')}: {notes[kind]:,}, listed in {out / kind}.csv")
    for name, counts in notes["count_mismatch"].items():
        whose, _, what = name.partition(" ")
        say(f"warning: {whose} has {counts['found']:,} {what or 'clips'} and officially {counts['official']:,}")


VERBS = {
    "prepare": Verb(
        "Prepare a dataset for training: read its official release, check it, and write the manifests of its protocol. "
        "Example: svfap prepare dfew --root /data/DFEW --out prepared/dfew",
        _prepare_arguments,
        _prepare,
    ),
    "synth": Verb(
        "Write a synthetic face-video dataset: procedural faces whose expressions follow facial action units.",
        _synth_arguments,
        _synth,
    ),
}
