"""Settings are checked when they are built in Python, as they are on the command line."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import pytest

from svfap.cli.parser import load
from svfap.cli.verbs import VERBS
from svfap.errors import UserError
from svfap.settings import Settings, _choices, get_type_hints

REQUIRED: dict[str, Any] = {"out": Path("out"), "model": "m", "manifest": Path("m.csv"), "root": Path()}
FIELDS = [
    (config, name)
    for config in dict.fromkeys(load(command.config) for command in VERBS.values())
    for name, kind in get_type_hints(config).items()
    if _choices(kind)
]


def test_many_verbs_have_choices():
    assert len(FIELDS) > 15 and len({config for config, _ in FIELDS}) >= 7


@pytest.mark.parametrize(("config", "name"), FIELDS, ids=lambda value: getattr(value, "__name__", value))
def test_a_value_that_is_none_of_the_choices_is_refused_in_python(config, name):
    given = {field.name: REQUIRED[field.name] for field in fields(config) if field.name in REQUIRED}
    with pytest.raises(UserError, match=rf"^{name}='nonsense' is none of \w+"):
        config(**given, **{name: "nonsense"})


@dataclass(frozen=True)
class Mixed(Settings):
    rate: float | Literal["own"] | None = None
    mode: Literal["a", "b"] = "a"
    place: Path | None = None


def test_choices_beside_numbers():
    assert Mixed(rate=5).rate == 5 and Mixed(rate=2.5).rate == 2.5 and Mixed(rate="own").rate == "own"
    assert Mixed().rate is None and Mixed(place="x").place == Path("x")
    for wrong in ({"rate": "other"}, {"mode": "c"}, {"mode": ""}):
        with pytest.raises(UserError, match="is none of"):
            Mixed(**wrong)
