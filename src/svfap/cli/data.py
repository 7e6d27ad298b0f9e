"""`svfap synth`."""

from __future__ import annotations

from pathlib import Path

from jsonargparse import Namespace

from svfap.cli.parser import Parser, Verb, config_of


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


VERBS = {
    "synth": Verb(
        "Write a synthetic face-video dataset: procedural faces whose expressions follow facial action units.",
        _synth_arguments,
        _synth,
    ),
}
