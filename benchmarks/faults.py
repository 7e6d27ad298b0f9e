"""What do the two faults of the released pre-training code cost? They are put back here, one at a time and together.

1. Leak: the last block of the later stages attends to all tubelets, hidden ones too, and not to the bottleneck tokens.
2. Misplaced: coarse stages are laid out with the number of time steps from before they were shortened, so that half of the
   repeated tokens are added at another spatial position.

Pre-training runs with the fault, fine-tuning with the package's own encoder, on the synthetic faces and with the settings of
`svfap experiment`, whose runs are shared where `--out` is the same. Prints and writes a Markdown table.

    python benchmarks/faults.py --out runs/experiments --seeds 3
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev
from unittest import mock

import pandas as pd
import torch
from torch import Tensor

from svfap.experiments.config import ExperimentConfig
from svfap.experiments.experiment import experiment_runs
from svfap.experiments.runs import BASELINE, ExperimentRuns, train_all
from svfap.model.build import create_model
from svfap.model.encoder import TPSBT, Stage
from svfap.view.tables import to_markdown, write_table


def leaky_encode(encoder: TPSBT, clip: Tensor, visible: Tensor | None) -> Tensor:
    """`TPSBT.encode` with fault 1: the reverse blocks see every tubelet of the clip."""
    everything = encoder.tubelet_embed(clip, None) + encoder.positions

    def forward(stage: Stage, tokens: Tensor) -> Tensor:
        if stage.spatial_bottleneck is None:
            return plain_forward(stage, tokens)
        assert stage.temporal_downsample is not None
        tokens = stage.temporal_downsample(tokens)
        flat, bottleneck = tokens.flatten(1, 2), stage.spatial_bottleneck(tokens)
        *refine, reverse = stage.blocks
        for block in refine:
            bottleneck = block(bottleneck, flat)
        return reverse(flat, everything).view_as(tokens)

    with mock.patch.object(Stage, "forward", forward):
        return plain_encode(encoder, clip, visible)


def misplaced_upsample(tokens: Tensor, num_time_steps: int) -> Tensor:
    """`upsample_time` with fault 2: (B, T, S, D) is read as (B, 2T, S/2, D) before its time steps are repeated."""
    batch, steps, positions, dim = tokens.shape
    if steps == num_time_steps:
        return tokens
    wrong = tokens.reshape(batch, 2 * steps, positions // 2, dim)
    return wrong.repeat_interleave(num_time_steps // steps, dim=1).reshape(batch, num_time_steps, positions, dim)


plain_encode, plain_forward = TPSBT.encode, Stage.forward


@contextmanager
def faults(leak: bool, misplaced: bool) -> Iterator[None]:
    """Within, the encoder has these faults."""
    with (
        mock.patch.object(TPSBT, "encode", leaky_encode if leak else plain_encode),
        mock.patch("svfap.model.encoder.upsample_time", misplaced_upsample) if misplaced else nullcontext(),
    ):
        yield


def influence_of_hidden_pixels(runs: ExperimentRuns) -> float:
    """Largest change of the encoder's output when the hidden pixels, and they alone, are replaced."""
    config = runs.model_configs(BASELINE)[1]
    settings = {name: getattr(config, name) for name in runs.pretrain["model"]}
    model = create_model(config.preset, "pretraining", mask_ratio=config.mask_ratio, **settings).eval()
    from svfap.model.masking import tube_mask

    clip = torch.randn(2, 3, config.num_frames, config.img_size, config.img_size)
    mask = tube_mask(2, config)
    size, steps = config.patch_size, config.num_time_steps
    hidden = mask.to_bool().view(2, 1, steps, config.grid_size, config.grid_size)
    for dim, count in ((2, config.tubelet_size), (3, size), (4, size)):
        hidden = hidden.repeat_interleave(count, dim=dim)
    with torch.no_grad():
        there, elsewhere = (model.encoder(c, mask) for c in (clip, torch.where(hidden, torch.randn_like(clip), clip)))
    return float((there - elsewhere).abs().max())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--out", type=Path, default=Path("runs/experiments"), help="folder for data, runs and the table"
    )
    parser.add_argument("--seeds", type=int, default=3, help="fine-tunings of each row")
    args = parser.parse_args()
    baseline, lines = experiment_runs(ExperimentConfig(out=args.out, seeds=args.seeds)), []
    for name, leak, misplaced in (
        ("mended", False, False),
        ("1: leak", True, False),
        ("2: misplaced", False, True),
        ("both, as released", True, True),
    ):
        folder = "runs" if name == "mended" else f"runs-{'leak' * leak}{'misplaced' * misplaced}"
        runs = replace(baseline, out=args.out / folder)
        with faults(leak, misplaced):
            influence = influence_of_hidden_pixels(runs)
            train_all(name, runs.pretrainings(BASELINE), parallel=1)
        train_all(name, runs.finetunings(BASELINE), parallel=1)
        uar, war = ([100 * seed[m] for seed in runs.scores(BASELINE)] for m in ("uar", "war"))
        loss = (
            pd.read_json(runs.pretrainings(BASELINE)[0].out / "log.jsonl", lines=True)["loss"].dropna().tail(100).mean()
        )
        spread = f" ± {stdev(uar):.1f} ({', '.join(f'{v:.1f}' for v in uar)})" if len(uar) > 1 else ""
        lines.append(
            {
                "pre-trained with": name,
                "UAR, %": f"{mean(uar):.1f}{spread}",
                "WAR, %": f"{mean(war):.1f}",
                "pre-training loss": f"{loss:.3f}",
                "influence of hidden pixels": f"{influence:.2g}",
            }
        )
    table = pd.DataFrame(lines)
    caption = (
        f"The released code's faults put back into pre-training; {baseline.dataset.title}, seeds 0 to {args.seeds - 1}"
    )
    write_table(args.out / "faults", table, caption)
    print(to_markdown(table, caption))


if __name__ == "__main__":
    main()
