"""Effect of the two differences between the released pre-training code and the paper, separately and together.

1. Leak: the last block of the later stages attends to all tubelets, including hidden ones, instead of the bottleneck tokens.
2. Misplaced: outputs of later stages are reshaped with the number of time steps before down-sampling, so half of the
   repeated tokens are added at wrong spatial positions.

Pre-training runs with these faults, its readings with the package's encoder, on synthetic faces with the settings of
`svfap experiment`; with the same `--out` the runs of `svfap experiment` are reused. Writes the table and figure of a study.

    python benchmarks/published_faults.py --out runs/experiments
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from statistics import mean
from unittest import mock

import pandas as pd
import torch
from torch import Tensor

from svfap.experiments.config import ExperimentConfig
from svfap.experiments.experiment import experiment_runs, run_study
from svfap.experiments.runs import ExperimentRuns
from svfap.experiments.studies import Baseline, Study, StudyRow
from svfap.model.build import build_model
from svfap.model.config import ModelConfig
from svfap.model.encoder import TPSBT, Stage
from svfap.model.masking import TubeMask, tube_mask
from svfap.view.tables import to_markdown


def leaky_forward(encoder: TPSBT, clip: Tensor, mask: TubeMask | None = None) -> Tensor:
    """`TPSBT.forward` with fault 1: the last block of the later stages attends to all tubelets of the clip."""
    all_tubelets = encoder.tubelet_embed(clip, None) + encoder.positions

    def forward(stage: Stage, tokens: Tensor) -> Tensor:
        if stage.spatial_bottleneck is None:
            return stage_forward(stage, tokens)
        assert stage.temporal_downsample is not None
        tokens = stage.temporal_downsample(tokens)
        flat, bottleneck = tokens.flatten(1, 2), stage.spatial_bottleneck(tokens)
        *refine, reverse = stage.blocks
        for block in refine:
            bottleneck = block(bottleneck, flat)
        return reverse(flat, all_tubelets).view_as(tokens)

    with mock.patch.object(Stage, "forward", forward):
        return encoder_forward(encoder, clip, mask)


def misplaced_upsample(tokens: Tensor, num_time_steps: int) -> Tensor:
    """`upsample_time` with fault 2: (B, T, S, D) is read as (B, 2T, S/2, D) before its time steps are repeated."""
    batch, steps, positions, dim = tokens.shape
    if steps == num_time_steps:
        return tokens
    wrong = tokens.reshape(batch, 2 * steps, positions // 2, dim)
    return wrong.repeat_interleave(num_time_steps // steps, dim=1).reshape(batch, num_time_steps, positions, dim)


encoder_forward, stage_forward = TPSBT.forward, Stage.forward


@contextmanager
def faults(leak: bool, misplaced: bool) -> Iterator[None]:
    """Context in which the encoder has these faults."""
    with (
        mock.patch.object(TPSBT, "forward", leaky_forward if leak else encoder_forward),
        mock.patch("svfap.model.encoder.upsample_time", misplaced_upsample) if misplaced else nullcontext(),
    ):
        yield


def influence_of_hidden_pixels(config: ModelConfig) -> float:
    """Largest change of the encoder's output, for random weights, if only the hidden pixels are replaced."""
    encoder = build_model(config).eval().encoder
    clip = torch.randn(2, 3, config.num_frames, config.img_size, config.img_size)
    mask = tube_mask(2, config)
    size, steps = config.patch_size, config.num_time_steps
    hidden = mask.to_bool().view(2, 1, steps, config.grid_size, config.grid_size)
    for dim, count in ((2, config.tubelet_size), (3, size), (4, size)):
        hidden = hidden.repeat_interleave(count, dim=dim)
    with torch.no_grad():
        changed = torch.where(hidden, torch.randn_like(clip), clip)
        return float((encoder(clip, mask) - encoder(changed, mask)).abs().max())


def rows(baseline: Baseline) -> list[StudyRow]:
    """The package itself, each fault, and both."""
    return [
        StudyRow("neither (this package)", reference=True),
        StudyRow("1: leak", variant="leak", within=partial(faults, True, False)),
        StudyRow("2: misplaced", variant="misplaced", within=partial(faults, False, True)),
        StudyRow("both, as released", variant="leakmisplaced", within=partial(faults, True, True)),
    ]


STUDY = Study("Pre-training with the faults of the released code", "released code", "pre-trained with", rows)


def of_pretraining(runs: ExperimentRuns, row: StudyRow) -> dict[str, str]:
    """Cells about the pre-training of a row: its last loss, and how much hidden pixels influence the encoder's output."""
    logs = [pd.read_json(config.out / "log.jsonl", lines=True)["loss"].dropna() for config in runs.pretrainings(row)]
    with row.within():
        influence = influence_of_hidden_pixels(runs.model_configs(row)[1])
    loss = mean(float(log.tail(100).mean()) for log in logs)
    return {"pre-training loss": f"{loss:.3f}", "influence of hidden pixels": f"{influence:.2g}"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ExperimentConfig.out, help="folder for data, runs and the table")
    for name, what in (("pretrainings", "pre-trainings of each row"), ("readings", "readings of each pre-training")):
        parser.add_argument(f"--{name}", type=int, default=getattr(ExperimentConfig, name), help=what)
    runs = experiment_runs(ExperimentConfig(**vars(parser.parse_args())))
    print(to_markdown(run_study("faults", STUDY, runs, partial(of_pretraining, runs))))


if __name__ == "__main__":
    main()
