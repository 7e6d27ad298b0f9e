"""`svfap crop`: the command."""

from __future__ import annotations

from svfap.console import say
from svfap.crop.config import CropConfig
from svfap.errors import UserError


def run(config: CropConfig, sources: list[str]) -> int:
    if (config.dataset is None) == (not sources):
        raise UserError("give videos, folders or manifests, or the folder of a prepared dataset with --dataset")
    return _run_dataset(config) if config.dataset is not None else _run_sources(config, sources)


def _run_dataset(config: CropConfig) -> int:
    from svfap.crop.crop import NO_FACE
    from svfap.crop.dataset import crop_dataset
    from svfap.data.prepared import DATASET_FILE
    from svfap.jobs.run import FAILURES

    done = crop_dataset(config)
    num_given = done.num_clips + len(done.no_face) + len(done.failures)
    say(f"{done.num_clips:,} of {num_given:,} clips of {done.dataset.title} have a face: {config.out / DATASET_FILE}")
    if done.no_face:
        say(f"no face: {len(done.no_face):,} clips, which the manifests leave out, listed in {config.out / NO_FACE}")
    if done.failures:
        say(
            f"svfap crop: error: {len(done.failures):,} clips could not be read and are left out; they are listed in "
            f"{config.out / FAILURES}, and the same command tries them again"
        )
    return 1 if done.failures else 0


def _run_sources(config: CropConfig, sources: list[str]) -> int:
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
