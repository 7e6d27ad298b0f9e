"""Reconstructions of hidden pixels by a pre-trained model (Fig. 6): pictures of test videos, and the error by masking ratio."""

from __future__ import annotations

import pandas as pd

from svfap.data.clip_dataset import ClipDataset
from svfap.data.manifest import read_manifest
from svfap.errors import UserError
from svfap.experiments.runs import BASELINE, ExperimentRuns, Step, do_all
from svfap.experiments.studies import STUDIES
from svfap.predict.reconstruct import reconstruct_clip
from svfap.view.figures.base import save_figure
from svfap.view.figures.clips import reconstruction_grid
from svfap.view.tables import write_table
from svfap.weights.folder import load_model

NUM_PICTURES = 3
NUM_MEASURED = 50
TRIVIAL = {"pixels": "of each tubelet's mean", "difference": "of no change"}  # columns: the error of predicting that


def run_reconstructions(name: str, runs: ExperimentRuns) -> pd.DataFrame:
    """Reconstruct test videos with the baseline's first pre-trained model, at every masking ratio of Table 2.

    Writes `NAME.md`, `.csv`, `.tex` and `NAME_1.png`, …; returns the table. Raises `UserError`.
    """
    do_all(name, runs, [Step(1, 1, config) for config in runs.pretrainings(BASELINE)[:1]])
    weights = runs.pretrained_weights(BASELINE, runs.seeds[0])
    assert weights is not None
    model = load_model(weights)
    if model.config.task != "pretraining":
        raise UserError(f"{weights}: is a {model.config.task} model; reconstruction needs the decoder of pre-training")
    fold = runs.dataset.fold(runs.finetune["fold"])
    assert fold.test is not None
    manifest = read_manifest(fold.test, root=runs.dataset.root, task="unlabelled")
    selected = manifest[:: max(1, len(manifest) // NUM_MEASURED)][:NUM_MEASURED]
    shape = model.config
    sampling = (shape.num_frames, shape.sampling_stride, shape.img_size)
    dataset = ClipDataset(selected, "val", *sampling, seed=0, frame_fit=shape.frame_fit)
    items = [dataset[number] for number in range(len(selected))]
    for item in items:
        if item.reason is not None:
            raise UserError(f"{item.sample.path}: cannot be read ({item.reason}); repair it and run again")
    clips = [item.clips[0] for item in items]
    lines = []
    for row in runs.rows(STUDIES["masking"]):
        assert row.pretrain is not None
        ratio = row.pretrain["mask_ratio"]
        done = [reconstruct_clip(clip, model, ratio, seed=number) for number, clip in enumerate(clips)]
        errors = {
            "mean squared error": [one.loss for one in done],
            TRIVIAL[shape.target]: [one.trivial_loss for one in done],
        }
        lines.append({"masking ratio": row.name} | {name: f"{sum(of) / len(of):.3f}" for name, of in errors.items()})
    for number, clip in enumerate(clips[:NUM_PICTURES], 1):
        result = reconstruct_clip(clip, model, seed=number - 1)
        picture = reconstruction_grid(result.original, result.masked, result.reconstruction)
        save_figure(picture, runs.config.out / f"{name}_{number}.png")
    table = pd.DataFrame(lines)
    caption = (
        f"Error on hidden tubelets of {len(clips)} test videos of {runs.dataset.title}. Pre-trained at "
        f"{shape.mask_ratio:.0%} masking (the paper's Fig. 6 shows pictures only)."
    )
    if shape.target == "difference":
        caption += " Changes are predicted, and added to the true first frame."
    write_table(runs.config.out / name, table, caption)
    return table
