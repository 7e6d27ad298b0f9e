"""A table of predictions in short: a row per video and face or person."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from svfap.metric_table import prefixed
from svfap.predict.table import (
    by_face,
    columns_by_head,
    label_columns,
    value_columns,
)
from svfap.predict.timeline import Timeline, shares, spread


def summarize(table: pd.DataFrame, videos: Iterable[str] = ()) -> pd.DataFrame:
    """A row for each face of each video; tracks of one `person` are one face.

    videos: that were read, as in column `video`. Those without a face have a row too, of 0 seconds and 0 rows, without values.
    Rows are in this order.

    Columns: video, face (`Face 1`, the person's name, or `Whole picture`), tracks (their numbers), first_s, last_s, seen_s
    (without gaps), rows; of each column of values NAME_mean, NAME_sd, NAME_min, NAME_max, the first two over time; of each label
    share_LABEL, the part of the time seen in which it is the most probable.
    """
    columns = value_columns(table)
    labels = label_columns(columns)
    found: list[dict[str, Any]] = []
    for name, rows in by_face(table):
        line = Timeline.of_table(rows, columns)
        if not len(line.start):
            continue
        row: dict[str, Any] = {"video": rows["video"].iloc[0], "face": name}
        if "track" in rows:
            row["tracks"] = " ".join(str(int(track)) for track in sorted(rows["track"].unique()))
        row |= {"first_s": line.start.min(), "last_s": line.end.max(), "seen_s": line.covered_s, "rows": len(rows)}
        for values in spread(line, columns).to_dict("records"):
            row |= {f"{values['name']}_{what}": values[what] for what in ("mean", "sd", "min", "max")}
        for head, names in columns_by_head(columns).items():
            if (chosen := labels.get(prefixed(head, "label"))) is not None:
                part = shares(Timeline.of_table(rows, names), names).to_dict("records")
                row |= {prefixed(head, f"share_{chosen[str(each['name'])]}"): each["share"] for each in part}
        found.append(row)
    order = {video: place for place, video in enumerate(dict.fromkeys(videos))}
    tracks = {"tracks": ""} if "track" in table else {}
    nothing: dict[str, Any] = {"face": "", **tracks, "first_s": np.nan, "last_s": np.nan, "seen_s": 0.0, "rows": 0}
    with_face = {row["video"] for row in found}
    found += [{"video": video, **nothing} for video in order if video not in with_face]
    found.sort(key=lambda row: order.get(row["video"], len(order)))
    widest: dict[str, Any] = max([{"video": "", **nothing}, *found], key=lambda row: len(row))
    return pd.DataFrame(found, columns=list(widest))
