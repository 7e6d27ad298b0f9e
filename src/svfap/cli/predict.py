"""`svfap predict`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from svfap.console import counted, say

if TYPE_CHECKING:
    from svfap.predict.config import PredictConfig
    from svfap.predict.predict import Predictions


def run(config: PredictConfig, videos: list[str]) -> int:
    """Predict, and say what was found and written; 1 if a video failed."""
    from svfap.predict.predict import predict_videos

    done = predict_videos(videos, config)
    if done.was_complete:
        say(f"table: {done.out} is complete; there is nothing to resume")
        if done.about is None:  # the videos of the table are not known
            for video in done.videos:
                if done.rows_of(video).empty:
                    say(f"warning: {video} has no rows in it; to predict it, choose another --out")
        if config.overlay is not None or config.report is not None:
            say("warning: overlay and report are written by the run that predicts; use --overwrite to predict again")
        if done.summary is not None:
            say(f"summary: {done.summary}")
        return 0
    if done.out is not None:
        say(f"table: {done.out}; how it was made: {done.about}")
    for video in done.videos:
        _say_video(done, video)
    if done.summary is not None:
        say(f"summary: {done.summary}")
    for report in done.reports.values():
        say(f"report: {report}")
    for error in done.failures.values():
        say(f"svfap predict: error: {error}")
    return 1 if done.failures else 0


def _say_video(done: Predictions, video: str) -> None:
    from svfap.predict.table import value_name

    rows = done.rows_of(video)
    if rows.empty and video not in done.failures:
        say(f"{video}: no face found (--faces none uses the whole picture as a face)")
    if not rows.empty:
        num_faces = rows["track"].nunique() if "track" in rows else 0
        faces = f" of {counted(num_faces, 'face')}" if num_faces else ""
        means = rows[done.values].mean().sort_values(ascending=False)
        averages = ", ".join(f"{value_name(str(name))} {round(mean, 2) + 0.0:.2f}" for name, mean in means.items())
        picture = f"; {done.timelines[video]}" if video in done.timelines else ""
        say(f"{video}: {counted(len(rows), 'row')}{faces}; on average {averages}{picture}")
    if video in done.overlays:
        say(f"overlay: {done.overlays[video]}")
