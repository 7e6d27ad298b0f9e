"""The file of a sweep: which settings are tried, as a grid or drawn, and with which seeds."""

from __future__ import annotations

import difflib
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from svfap.errors import UserError
from svfap.formats import read_yaml
from svfap.settings import checked_settings
from svfap.train.config import FinetuneConfig, PretrainConfig, TrainConfig

VERBS: dict[str, type[TrainConfig]] = {"finetune": FinetuneConfig, "pretrain": PretrainConfig}
ENTRIES = ("verb", "settings", "choices", "seeds", "trials", "draw_seed")
RANGES = ("uniform", "log_uniform")
OWN = {
    "out": "--out of the sweep",
    "seed": "`seeds`",
    "resume": "the sweep itself",
    "parallel": "--parallel of the sweep",
}
INNER = {"model": "model.SETTING", "heads": "heads.NAME.SETTING"}  # settings that hold others, and the names of these
MAX_GRID = 10_000

Choices = dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """What a file asks for.

    verb: finetune or pretrain. settings: those that all runs share. trials: of each the settings that are its own, by name;
    dots lead into `model` and into a head of `heads`. seeds: of the runs of each trial. draw_seed: of the draws; None where the
    trials are a grid.
    """

    file: Path
    verb: str
    settings: dict[str, Any]
    trials: list[Choices]
    seeds: list[int]
    draw_seed: int | None = None

    def config(self, choices: Choices, seed: int, out: Path) -> TrainConfig:
        """The settings of a run. Raises `UserError` naming the file and the trial."""
        given = self.with_choices(choices)
        where = f"{self.file}, {shown(choices)}" if choices else self.file
        values = checked_settings(VERBS[self.verb], given, where)
        try:
            return VERBS[self.verb](**{**values, "seed": seed, "out": out})
        except UserError as error:
            raise UserError(f"{where}: {error}") from None

    def with_choices(self, choices: Choices) -> dict[str, Any]:
        """The shared settings and those of a trial, as in a file of --config."""
        given = {**self.settings}
        for name, value in choices.items():
            given = _with(given, name.split("."), value)
        return given


def _with(given: Mapping[str, Any], path: Sequence[str], value: Any) -> dict[str, Any]:
    """A copy in which the value at the path is this one."""
    first, *inner = path
    return {**given, first: _with(given.get(first) or {}, inner, value) if inner else value}


def read_plan(file: Path) -> Plan:
    """Read the file of a sweep. Raises `UserError` for unknown names and values of the wrong type or out of range."""
    content = read_yaml(file)
    if unknown := [str(name) for name in content if name not in ENTRIES]:
        raise UserError(f"{file}: {unknown[0]} is none of {', '.join(ENTRIES)}{_near(unknown[0], ENTRIES)}")
    verb = content.get("verb", "finetune")
    if verb not in VERBS:
        raise UserError(f"{file}: verb: {verb!r} is none of {', '.join(VERBS)}")
    settings, choices = (_mapping(file, content, name) for name in ("settings", "choices"))
    if not choices:
        raise UserError(
            f"{file}: choices: is empty; name settings with the values to try, such as base_lr: [1e-3, 5e-4]"
        )
    for name in (*settings, *choices):
        _check_name(file, name, verb, settings)
    if twice := sorted(settings.keys() & choices.keys()):
        raise UserError(f"{file}: {twice[0]} is in settings and in choices; leave one of them out")
    for name, values in choices.items():
        _check_values(file, name, values)
    draw_seed = _whole(file, content, "draw_seed", 0, 0)
    assert draw_seed is not None
    number = _whole(file, content, "trials", None, 1)
    is_grid = _is_grid(choices, number)
    trials = _trials(file, choices, number, draw_seed)
    return Plan(file, verb, settings, trials, _seeds(file, content.get("seeds", 1)), None if is_grid else draw_seed)


def shown(choices: Choices) -> str:
    """`base_lr=0.001, epochs=5`"""
    return ", ".join(
        f"{name}={f'{value:.4g}' if isinstance(value, float) else value}" for name, value in choices.items()
    )


def _is_grid(choices: Mapping[str, Any], number: int | None) -> bool:
    """Whether all combinations are tried. number: of trials, if it is given."""
    lists = [values for values in choices.values() if isinstance(values, list)]
    return number is None or (len(lists) == len(choices) and number >= math.prod(map(len, lists)))


def _trials(file: Path, choices: Mapping[str, Any], number: int | None, draw_seed: int) -> list[Choices]:
    """The grid, or so many draws that differ; more draws begin with the same ones."""
    lists = {name: values for name, values in choices.items() if isinstance(values, list)}
    ranges = [name for name in choices if name not in lists]
    if number is None and ranges:
        raise UserError(f"{file}: choices: {ranges[0]} is a range; say with `trials` how many draws to try")
    if _is_grid(choices, number):
        if (size := math.prod(map(len, lists.values()))) > MAX_GRID:
            raise UserError(f"{file}: choices: {size:,} combinations are too many; draw some of them with `trials`")
        return [dict(zip(lists, values, strict=True)) for values in itertools.product(*lists.values())]
    assert number is not None
    drawn: list[Choices] = []
    for attempt in itertools.count():
        rng = np.random.default_rng([draw_seed, attempt])
        one = {name: _draw(values, rng) for name, values in choices.items()}
        drawn += [] if one in drawn else [one]
        if len(drawn) == number:
            return drawn
    raise AssertionError


def _draw(values: Any, rng: np.random.Generator) -> Any:
    if isinstance(values, list):
        return values[rng.integers(len(values))]
    (kind, (low, high)) = next(iter(values.items()))
    if kind == "log_uniform":
        return float(f"{math.exp(rng.uniform(math.log(low), math.log(high))):.4g}")
    return float(f"{rng.uniform(low, high):.4g}")


def _mapping(file: Path, content: Mapping[str, Any], name: str) -> dict[str, Any]:
    found = content.get(name) or {}
    if not isinstance(found, dict):
        raise UserError(f"{file}: {name}: holds a {type(found).__name__}, not names with values")
    return found


def _check_name(file: Path, name: object, verb: str, settings: Mapping[str, Any]) -> None:
    """Raise `UserError` for what is no setting. Those of a head must be of one that `settings` has."""
    first, *inner = str(name).split(".")
    if first in OWN:
        raise UserError(f"{file}: {first} cannot be set here; it is {OWN[first]}")
    known = [setting.name for setting in fields(VERBS[verb])]
    if first not in known or (inner and first not in INNER):
        raise UserError(f"{file}: {name} is no setting of svfap {verb}{_near(first, known)}")
    if inner and len(inner) != len(INNER[first].split(".")) - 1:
        raise UserError(f"{file}: {name}: write {INNER[first]}")
    given = settings.get(first) or {}
    if inner and not isinstance(given, Mapping):
        raise UserError(f"{file}: settings: {first}: {given!r} must be names with values")
    if inner and first == "heads" and not isinstance(given.get(inner[0]), Mapping):
        there = f"there are {', '.join(map(str, given))}" if given else "give `heads` there"
        near = _near(inner[0], [*map(str, given)])
        raise UserError(f"{file}: {name}: `settings` has no head {inner[0]!r}; {there}{near}")


def _near(name: str, known: Any) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f". Did you mean {near[0]!r}?" if near else ""


def _check_values(file: Path, name: str, values: Any) -> None:
    if isinstance(values, list):
        if not values:
            raise UserError(f"{file}: choices: {name} has no values")
        if twice := next((value for place, value in enumerate(values) if value in values[:place]), None):
            raise UserError(f"{file}: choices: {name} has {twice} twice")
        return
    form = f"a list of values, or a range such as {{log_uniform: [1e-4, 1e-2]}} ({' or '.join(RANGES)})"
    if not isinstance(values, dict) or len(values) != 1 or next(iter(values)) not in RANGES:
        raise UserError(f"{file}: choices: {name} must be {form}")
    ((kind, bounds),) = values.items()
    numbers = isinstance(bounds, list) and len(bounds) == 2 and all(type(each) in (int, float) for each in bounds)
    if not numbers or not bounds[0] < bounds[1] or (kind == "log_uniform" and bounds[0] <= 0):
        least = ", above 0" if kind == "log_uniform" else ""
        raise UserError(f"{file}: choices: {name}: {kind} needs two numbers{least}, the smaller one first")


def _whole(file: Path, content: Mapping[str, Any], name: str, default: int | None, least: int) -> int | None:
    value = content.get(name, default)
    if value is not None and (type(value) is not int or value < least):
        raise UserError(f"{file}: {name}: {value!r} must be a whole number, at least {least}")
    return value


def _seeds(file: Path, given: Any) -> list[int]:
    """So many seeds from 0 on, or those that are listed."""
    seeds = list(range(given)) if type(given) is int else given
    if not isinstance(seeds, list) or not seeds or any(type(seed) is not int or seed < 0 for seed in seeds):
        raise UserError(f"{file}: seeds: {given!r} must be a number of seeds, or a list of whole numbers from 0 on")
    if len(set(seeds)) < len(seeds):
        raise UserError(f"{file}: seeds: a seed is listed twice")
    return seeds
