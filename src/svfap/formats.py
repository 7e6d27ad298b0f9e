"""Versions of the files that users keep, and how a file of an older version is read.

A rename is one line in `CHANGES`. A new setting needs an entry only if files without it mean something else than its
default. An entry of a released version is never edited: a later change is a further `Change` of its format, and
`tests/fixtures/write.py` then writes a folder for the new version. Names of tensors are not covered here.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from svfap.errors import UserError

KEY = "format_version"


@dataclass(frozen=True)
class Change:
    """How a version differs from the one before it.

    renamed: old name -> new name. added: name -> value that files without it mean. converted: name -> function of the value
    it has had. A dot leads into a nested mapping, or into each mapping of a list: {"folds.train": "folds.training"} renames
    `train` in every fold.
    """

    renamed: Mapping[str, str] = field(default_factory=dict)
    added: Mapping[str, Any] = field(default_factory=dict)
    converted: Mapping[str, Callable[[Any], Any]] = field(default_factory=dict)


def _counted_from_one(epoch: int | None) -> int | None:
    return None if epoch is None else epoch + 1


# Version 1 is a file without `format_version` or with 1; entry i of a list leads from version i + 1 to i + 2.
CHANGES: dict[str, list[Change]] = {
    "model config": [  # config.json of a saved model: fields of ModelConfig
        Change(added={"frame_fit": "centre"}),  # version 1 knew nothing else
    ],
    "dataset description": [],  # dataset.json of a prepared dataset: fields of PreparedDataset
    "training settings": [],  # config.yaml of a run, and the files of --config: fields of TrainConfig
    "training state": [Change(converted={"best_epoch": _counted_from_one})],  # last/state.json of a run: TrainState
    "training metrics": [Change(converted={"best_epoch": _counted_from_one})],  # metrics.json of a run
    "packed clips": [],  # pack.json of a folder of `svfap pack`
    "tracked runs": [],  # tracking.json of a run: tracker -> by what it finds the run again
    "sweep": [],  # sweep.json of a folder of `svfap sweep`
    "run data": [],  # data.json of a run: fields of RunData
}


def current_version(kind: str) -> int:
    """The version that this program writes."""
    return 1 + len(CHANGES[kind])


def stamped(kind: str, content: Mapping[str, Any]) -> dict[str, Any]:
    """The content of a file to be written: `format_version`, then `content`."""
    return {KEY: current_version(kind), **content}


def upgrade(kind: str, content: Any, path: object, known: Collection[str] | None = None) -> dict[str, Any]:
    """The content of a file, as the current version has it, without `format_version`; `content` stays as it is.

    kind: a key of `CHANGES`. path: of the file, for messages. known: the names there are now; None allows any.
    Raises `UserError` if `content` is no mapping, its version is unknown, a setting is given under both its old and its new
    name, or a name is unknown.
    """
    if not isinstance(content, dict):
        raise UserError(f"{path}: not a {kind} (holds a {type(content).__name__}, not names with values)")
    content, newest = copy.deepcopy(content), current_version(kind)
    version = content.pop(KEY, 1)
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise UserError(f"{path}: {KEY}={version!r} must be a whole number, at least 1")
    if version > newest:
        raise UserError(
            f"{path}: {KEY} is {version}, and this svfap reads a {kind} up to {newest}; upgrade svfap to read it"
        )
    for change in CHANGES[kind][version - 1 :]:
        for old, new in change.renamed.items():
            name, new_name = (key.rpartition(".")[2] for key in (old, new))
            for part in _holders(content, old):
                if name in part:
                    if new_name in part:
                        raise UserError(f"{path}: gives both {old} and {new}, its name since; remove {old}")
                    part[new_name] = part.pop(name)
        for key, value in change.added.items():
            for part in _holders(content, key):
                part.setdefault(key.rpartition(".")[2], copy.deepcopy(value))
        for key, convert in change.converted.items():
            for part in _holders(content, key):
                if (name := key.rpartition(".")[2]) in part:
                    part[name] = convert(part[name])
    if known is not None and (unknown := sorted(str(name) for name in content if name not in known)):
        raise UserError(f"{path}: unknown settings {', '.join(unknown)}")
    return content


def _holders(content: dict[str, Any], key: str) -> Iterator[dict[str, Any]]:
    """The mappings that may hold the last part of a dotted key."""
    first, _, rest = key.partition(".")
    if not rest:
        yield content
        return
    inner = content.get(first)
    for part in inner if isinstance(inner, list) else [inner]:
        if isinstance(part, dict):
            yield from _holders(part, rest)


def read_settings_file(file: Path, known: Collection[str] | None = None) -> dict[str, Any]:
    """The settings in a YAML file, a recipe or a run's `config.yaml`, under their current names.

    known: names that are allowed; None: all. Raises `UserError` naming the file.
    """
    return upgrade("training settings", read_yaml(file), file, known)


def read_yaml(file: Path) -> dict[str, Any]:
    """The names with values in a YAML file; none if it is empty. Raises `UserError` naming the file."""
    import yaml
    from jsonargparse import get_loader

    try:
        # reads 1e-3 as a number, as yaml.safe_load does not
        settings = get_loader("yaml")(file.read_text(encoding="utf-8"))
    except UnicodeDecodeError:
        raise UserError(f"{file}: is not UTF-8 text; save it as UTF-8") from None
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror or error})") from None
    except (ValueError, yaml.YAMLError) as error:
        raise UserError(f"{file}: cannot be read as YAML ({' '.join(str(error).split())})") from None
    if not isinstance(settings, dict | None):
        raise UserError(f"{file}: holds a {type(settings).__name__}, not names with values")
    return settings or {}
