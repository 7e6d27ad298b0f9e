"""The paper's cost tables, reproduced from the architecture alone (Tables 2, 3, 5 and 6)."""

from __future__ import annotations

from functools import cache

import pytest

from svfap.experiments.studies import STUDIES, Baseline, StudyRow
from svfap.model.build import create_model
from svfap.model.complexity import Complexity, complexity
from svfap.model.presets import PRESETS, model_config

TABLES = ("masking", "variants", "bottleneck", "downsampling")  # Tables 2, 3, 5 and 6


def rows_of(table: str, preset: str) -> dict[str, StudyRow]:
    baseline = Baseline(model_config(preset, "features"))
    return {row.name: row for row in STUDIES[table].rows(baseline)}


ROWS = [(table, row) for table in TABLES for row in rows_of(table, "svfap_base")]


@cache
def cost(task: str, overrides: tuple[tuple[str, object], ...]) -> Complexity:
    """Of a variant of the base model; rows of several tables are the same model."""
    return complexity(model_config("svfap_base", task, **dict(overrides)))


def test_costs_that_the_paper_reports():
    """One of pre-training at each masking ratio, twelve in Table 3, six in Table 5 and six in Table 6; no others."""
    numbers = {t: [n for row in rows_of(t, "svfap_base").values() for n in row.paper.costs if n] for t in TABLES}
    assert {table: len(costs) for table, costs in numbers.items()} == dict(zip(TABLES, (4, 12, 6, 6), strict=True))


# Of these the first are enough: no other row asks more of the model, but for the number of a setting.
MORE = {("masking", "75%"), ("masking", "85%"), ("bottleneck", "4"), ("bottleneck", "16"), ("downsampling", "avg")}


@pytest.mark.parametrize(
    ("table", "name"), [pytest.param(*row, marks=[pytest.mark.slow] if row in MORE else []) for row in ROWS]
)
def test_costs_are_the_papers(table, name):
    row = rows_of(table, "svfap_base")[name]
    overrides = tuple({"num_bottleneck_tokens": 8, **row.model}.items())
    if row.paper.parameters:
        assert cost("features", overrides).parameters / 1e6 == pytest.approx(row.paper.parameters, rel=0.01)
    if row.paper.finetune:
        assert cost("features", overrides).multiply_adds / 1e9 == pytest.approx(row.paper.finetune, rel=0.015)
    if row.paper.pretrain:
        masked = (*overrides, *row.pretrain.items())
        assert cost("pretraining", masked).multiply_adds / 1e9 == pytest.approx(row.paper.pretrain, rel=0.015)


def test_what_was_inferred_is_needed():
    """As many bottleneck tokens a time step as with the pyramid would miss the paper's numbers."""
    overrides = dict(rows_of("variants", "svfap_base")["bottleneck only"].model)
    assert overrides == dict(temporal_pyramid=False, num_bottleneck_tokens=(4, 2))
    overrides["num_bottleneck_tokens"] = 8
    for task, paper in (("features", 49.9), ("pretraining", 13.5)):
        assert cost(task, tuple(overrides.items())).multiply_adds / 1e9 > 1.02 * paper


@pytest.mark.parametrize("preset", [name for name, settings in PRESETS.items() if len(settings["stage_depths"]) > 1])
def test_every_preset_with_stages_has_every_variant(preset):
    for table, name in ROWS:
        row = rows_of(table, preset)[name]
        model_config(preset, "pretraining", **row.model, **row.pretrain)


def test_variants_follow_the_size_of_the_preset():
    assert rows_of("variants", "svfap_small")["neither"].model["stage_depths"] == (8, 5, 3)
    assert rows_of("variants", "svfap_debug")["bottleneck only"].model["num_bottleneck_tokens"] == (1, 1)
    maximum = rows_of("downsampling", "svfap_debug")["max"].model
    assert create_model("svfap_debug", **maximum).encoder.stages[1] is not None


def test_the_presets_are_the_papers_sizes() -> None:
    """Sec. IV-B: width, heads, blocks of the three stages, bottleneck tokens; multiply-adds (G) for 16 frames of 160 px."""
    expected = {"svfap_base": (512, 8, (12, 6, 3), (8, 8), 43.5), "svfap_small": (384, 6, (8, 4, 2), (8, 8), 18.0)}
    for name, (width, heads, depths, tokens, gflops) in expected.items():
        config = model_config(name, "features")
        assert (config.embed_dim, config.num_heads, config.stage_depths) == (width, heads, depths)
        assert config.num_bottleneck_tokens == tokens
        assert complexity(config).multiply_adds / 1e9 == pytest.approx(gflops, abs=0.1)
