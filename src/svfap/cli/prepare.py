"""`svfap prepare`: one subcommand per dataset."""

from __future__ import annotations

from rich.table import Column, Table

from svfap.cli.parser import Variant
from svfap.console import say, show
from svfap.data.prepared import PreparedDataset
from svfap.datasets.config import PrepareConfig
from svfap.datasets.dataset import FINDINGS, NAMES, Dataset, get_dataset


def datasets() -> dict[str, Variant]:
    """The datasets as choices of the verb."""
    known = {name: get_dataset(name) for name in NAMES}
    return {name: Variant(dataset.summary, describe(dataset), dataset.config) for name, dataset in known.items()}


def describe(dataset: Dataset) -> str:
    """The description of a dataset in its `--help`."""
    layout = "\n".join(f"    {line}" for line in dataset.layout.splitlines())
    fed = f"\nThe authors of SVFAP fed: {dataset.authors_fed}." if dataset.authors_fed else ""
    source = f"Where to get it: {dataset.source}\n" if dataset.source else ""
    return (
        f"{dataset.title}: {dataset.summary}.\n\n{source}Licence: {dataset.licence}\n\n"
        f"What --root must contain:\n{layout}\n\nProtocol: {dataset.protocol}\nChecked: {dataset.checked}{fed}"
    )


def run(config: PrepareConfig, dataset: str) -> int:
    """Prepare a dataset and show what was found; status 1 if it is incomplete, unless `allow_missing`."""
    from svfap.datasets.prepare import is_complete, prepare

    prepared = prepare(dataset, config)
    show(_table(prepared))
    say(f"validation: {prepared.notes['validation']}")
    for kind in FINDINGS:
        if prepared.notes[kind]:
            say(f"{kind.replace('_', ' ')}: {prepared.notes[kind]:,}, listed in {config.out / kind}.csv")
    if count := prepared.notes["placeholders"]:
        say(
            f"warning: {count:,} of the missing were not downloaded: their files are empty, placeholders as git-lfs makes "
            "them, or links to nothing"
        )
    for name, counts in prepared.notes["count_mismatch"].items():
        part, _, what = name.partition(" ")
        say(f"warning: {part} has {counts['found']:,} {what or 'clips'}; the official number is {counts['official']:,}")
    fed = get_dataset(dataset).authors_fed
    if prepared.notes["faces"]:
        say(f"clips: face frames in {prepared.notes['faces']}")
    elif prepared.pictures == "frames":
        say(
            f"warning: whole frames; the authors fed {fed}: run `svfap crop --dataset {config.out} --out FOLDER` next, or give "
            "face frames with --faces"
        )
    if is_complete(prepared) or config.allow_missing:
        return 0
    say("the dataset is incomplete: add what is missing, or accept it as it is with --allow_missing true")
    return 1


def _table(prepared: PreparedDataset) -> Table:
    """Rows of each manifest beside the listed and, if there are any, the official numbers."""
    listed, official = prepared.notes["listed"], prepared.notes["official"]
    columns = {"rows": prepared.counts, "listed": listed} | ({"official": official} if official else {})
    table = Table("manifest", *(Column(name, justify="right") for name in columns), title=prepared.title)
    for name in {**prepared.counts, **official}:  # some official numbers are not of a manifest: `train subjects`
        style = "red" if name in prepared.notes["count_mismatch"] else None
        counts = (numbers.get(name) for numbers in columns.values())
        table.add_row(
            f"{name}.csv" if name in prepared.counts else name,
            *("" if count is None else f"{count:,}" for count in counts),
            style=style,
        )
    return table
