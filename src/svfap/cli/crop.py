"""`svfap crop`: the command."""

from __future__ import annotations

from svfap.console import say
from svfap.crop.config import CropConfig


def run(config: CropConfig, sources: list[str]) -> int:
    from svfap.crop.crop import MANIFEST, NO_FACE, crop_videos
    from svfap.jobs.run import FAILURES

    done = crop_videos(sources, config)
    num_done = done.num_sources - len(done.failures)
    say(
        f"{done.num_clips} clips ({done.duration_s / 60:.1f} minutes) of {done.num_tracks} face tracks in {num_done} of "
        f"{done.num_sources} videos: {config.out / MANIFEST}"
    )
    if done.no_face:
        say(f"no_face: {len(done.no_face)} videos, listed in {config.out / NO_FACE}")
    if done.failures:
        say(
            f"svfap crop: error: {len(done.failures)} videos failed; they are listed in {config.out / FAILURES}, and the "
            "same command tries them again"
        )
    return 1 if done.failures else 0
