"""Ensembles: several models that predict the same, whose outputs are averaged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from svfap.errors import UserError
from svfap.evaluation.predictions import EvaluationPredictions, output_columns
from svfap.model.config import ModelConfig


def require_alike(names: Sequence[str], shapes: Sequence[ModelConfig], weights: Sequence[str]) -> None:
    """Raise `UserError` unless models, by their configs, predict the same, with other weights. weights: their digests."""
    outputs = [f"{', '.join(shape.label_names)}{' of frames' if shape.frame_level else ''}" for shape in shapes]
    kinds = [(shape.task, set(shape.label_names), shape.frame_level) for shape in shapes]
    for name, shown, kind in zip(names, outputs, kinds, strict=True):
        if kind != kinds[0]:
            raise UserError(f"{name}: predicts {shown}, and {names[0]} {outputs[0]}; an ensemble predicts one thing")
    for place, (name, digest) in enumerate(zip(names, weights, strict=True)):
        if (first := weights.index(digest)) < place:
            raise UserError(f"{name}: has the same weights as {names[first]}; each model of an ensemble counts once")


def average_predictions(found: Sequence[EvaluationPredictions]) -> EvaluationPredictions:
    """The mean outputs of an ensemble, for the videos that all could read; without features. One alone stays as it is.

    Raises `UserError` where frame-level models were shown different frames.
    """
    first = found[0]
    if len(found) == 1:
        return first
    unreadable = {path: reason for each in found for path, reason in each.unreadable.items()}
    if any(each.videos.empty for each in found):
        return replace(first, videos=pd.DataFrame(), frames=None, features=None, unreadable=unreadable)
    averaged: dict[str, pd.DataFrame] = {}
    for name, keys in (("videos", ["path"]), ("frames", ["path", "frame"])):
        every = [getattr(each, name) for each in found]
        if every[0] is None:
            continue
        kept = [table[~table["path"].isin(list(unreadable))].reset_index(drop=True) for table in every]
        if any(not table[keys].equals(kept[0][keys]) for table in kept):
            raise UserError(
                "the models of the ensemble were shown different frames; their rates and lengths must be the same"
            )
        columns = output_columns(first.task, first.names)
        table = kept[0].copy()
        table[columns] = np.mean([each[columns].to_numpy(np.float64) for each in kept], axis=0)
        if first.task == "classification":
            table["prediction"] = [first.names[i] for i in table[columns].to_numpy().argmax(axis=1)]
        averaged[name] = table
    return replace(
        first, videos=averaged["videos"], frames=averaged.get("frames"), features=None, unreadable=unreadable
    )
