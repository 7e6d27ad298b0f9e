"""The paper's cost tables, reproduced from the architecture alone (Tables 2, 3, 5 and 6)."""

from __future__ import annotations

from functools import cache

import pytest

from svfap.errors import UserError
from svfap.model.build import create_model
from svfap.model.complexity import Complexity, complexity
from svfap.model.presets import PRESETS, model_config
from svfap.model.variants import VARIANTS, variant
from svfap.paper import COSTS

ROWS = [(experiment, row) for experiment, rows in COSTS.items() for row in rows]


@cache
def cost(task: str, overrides: tuple[tuple[str, object], ...]) -> Complexity:
    """Of a variant of the base model; rows of several tables are the same model."""
    return complexity(model_config("svfap_base", task, **dict(overrides)))


def test_variants_are_the_rows_of_the_tables():
    assert {e: list(rows) for e, rows in VARIANTS.items()} == {e: list(rows) for e, rows in COSTS.items()}


@pytest.mark.parametrize(("experiment", "row"), ROWS)
def test_costs_are_the_papers(experiment, row):
    parameters, finetuning, pretraining = COSTS[experiment][row]
    overrides = tuple({"num_bottleneck_tokens": 8, **variant(experiment, row, "svfap_base")}.items())
    if parameters:
        assert cost("features", overrides).parameters / 1e6 == pytest.approx(parameters, rel=0.01)
    if finetuning:
        assert cost("features", overrides).multiply_adds / 1e9 == pytest.approx(finetuning, rel=0.015)
    if pretraining:
        assert cost("pretraining", overrides).multiply_adds / 1e9 == pytest.approx(pretraining, rel=0.015)


def test_what_was_inferred_is_needed():
    """As many bottleneck tokens a time step as with the pyramid would miss the paper's numbers."""
    overrides = variant("variants", "bottleneck only", "svfap_base")
    assert overrides == dict(temporal_pyramid=False, num_bottleneck_tokens=(4, 2))
    overrides["num_bottleneck_tokens"] = 8
    for task, paper in (("features", 49.9), ("pretraining", 13.5)):
        assert cost(task, tuple(overrides.items())).multiply_adds / 1e9 > 1.02 * paper


@pytest.mark.parametrize("preset", [name for name, words in PRESETS.items() if len(words["stage_depths"]) > 1])
def test_every_preset_with_stages_has_every_variant(preset):
    for experiment, row in ROWS:
        model_config(preset, "features", **variant(experiment, row, preset))
    assert variant("variants", "neither", "svfap_small")["stage_depths"] == (8, 5, 3)
    assert variant("variants", "bottleneck only", "svfap_debug")["num_bottleneck_tokens"] == (1, 1)
    assert create_model("svfap_debug", **variant("downsampling", "max", "svfap_debug")).encoder.stages[1] is not None


def test_unknown_words_are_named():
    with pytest.raises(UserError, match="experiment='mask' is none of masking"):
        variant("mask", "75%", "svfap_base")
    with pytest.raises(UserError, match="row '70%' is none of 75%"):
        variant("masking", "70%", "svfap_base")
