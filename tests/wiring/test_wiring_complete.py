"""Every setting of every verb has a test of its effect: a new one without a test fails here.

Each module beside this one says in `TESTED` which settings it tests: of each settings dataclass all, in one module.
"""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest
from observe import names_of

import svfap
from svfap.cli.parser import load
from svfap.cli.verbs import VERBS
from svfap.faces.config import FaceCropConfig, TrackConfig
from svfap.model.config import ModelConfig
from svfap.settings import JobSettings, Settings

MODULES = sorted(
    path.stem for path in Path(__file__).parent.glob("test_wiring_*.py") if path.stem != Path(__file__).stem
)
SHARED = {
    "ModelConfig": ModelConfig,
    "TrackConfig": TrackConfig,
    "FaceCropConfig": FaceCropConfig,
    "JobSettings": JobSettings,
}


def settings_of_verbs() -> dict[str, type]:
    """What is given on the command line, by verb and variant."""
    found: dict[str, type] = {}
    for verb, command in VERBS.items():
        found[verb] = load(command.config)
        if command.variants is not None:
            found |= {f"{verb} {name}": variant.config for name, variant in load(command.variants.choices)().items()}
    return found


@pytest.fixture(scope="module")
def tested() -> dict[type, dict[str, set[str]]]:
    """Settings dataclass -> module -> the settings that it tests."""
    found: dict[type, dict[str, set[str]]] = {}
    for name in MODULES:
        tested: dict[Any, set[str]] = importlib.import_module(name).TESTED
        for config, names in tested.items():
            found.setdefault(config, {})[name] = names
    return found


@pytest.mark.parametrize("name", [*settings_of_verbs(), *SHARED])
def test_every_setting_has_a_test_of_its_effect(name, tested):
    config = (settings_of_verbs() | SHARED)[name]
    assert len(tested.get(config, ())) == 1, (
        f"{config.__name__}: of each settings dataclass one module tests all settings"
    )
    ((module, names),) = tested[config].items()
    assert names_of(config) - names == set(), f"settings without a test of their effect in {module}"
    assert names - names_of(config) == set(), f"{module} tests settings that there are not"


def test_there_are_no_settings_beside_those_of_the_verbs(tested):
    """Every dataclass of settings is one of those above, or a group that they share."""
    for module in pkgutil.walk_packages(svfap.__path__, "svfap."):
        if module.name.rpartition(".")[2] in ("config", "settings"):
            importlib.import_module(module.name)
    waiting, checked = [Settings], {*settings_of_verbs().values(), *SHARED.values()}
    while waiting:
        config = waiting.pop()
        waiting += config.__subclasses__()
        if config.__module__.startswith("svfap."):
            assert any(issubclass(each, config) for each in checked), f"{config.__name__} is no settings of a verb"
            if is_dataclass(config):  # `Settings` itself is none
                assert config.__dataclass_params__.frozen, f"{config.__name__} can be changed"
            if config in settings_of_verbs().values():
                assert all(field.kw_only for field in fields(config)), f"{config.__name__} can be given without names"
