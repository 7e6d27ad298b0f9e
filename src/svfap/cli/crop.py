"""`svfap crop`: the command."""

from __future__ import annotations

from svfap.console import counted, say
from svfap.crop.config import CropConfig
from svfap.errors import UserError


def run(config: CropConfig, sources: list[str]) -> int:
    """Crop, and say what was written; the exit status is 1 if something could not be read."""
    if (config.dataset is None) == (not sources):
        raise UserError("give videos, folders or manifests, or the folder of a prepared dataset with --dataset")
    from svfap.crop.crop import MANIFEST, NO_FACE, crop_videos
    from svfap.crop.dataset import crop_dataset
    from svfap.data.prepared import DATASET_FILE
    from svfap.jobs.run import FAILURES

    if config.dataset is not None:
        of_dataset = crop_dataset(config)
        no_face, failures, title = of_dataset.no_face, of_dataset.failures, of_dataset.dataset.title
        num_given = of_dataset.num_clips + len(no_face) + len(failures)
        say(f"{of_dataset.num_clips:,} of {num_given:,} clips of {title} have a face: {config.out / DATASET_FILE}")
        without = f"{counted(len(no_face), 'clip')}, which the manifests leave out"
        failed = f"{counted(len(failures), 'clip')} could not be read and are left out"
    else:
        done = crop_videos(sources, config)
        no_face, failures = done.no_face, done.failures
        say(
            f"{counted(done.num_clips, 'clip')} ({done.duration_s / 60:.1f} minutes) of "
            f"{counted(done.num_tracks, 'face track')} in {done.num_sources - len(failures)} of "
            f"{counted(done.num_sources, 'video')}: {config.out / MANIFEST}"
        )
        without, failed = counted(len(no_face), "video"), f"{counted(len(failures), 'video')} failed"
    if no_face:
        say(f"no face: {without}, listed in {config.out / NO_FACE}")
    if failures:
        say(f"svfap crop: error: {failed}, listed in {config.out / FAILURES}; the same command tries again")
    return 1 if failures else 0
