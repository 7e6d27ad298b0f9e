from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from svfap.data import clips


def test_published_recipe_is_reproduced(golden: Path) -> None:
    entries = json.loads((golden / "recipe.json").read_text())["clip_sampling"]
    assert len(entries) >= 20
    for entry in entries:
        num_frames, stride = entry["num_frames"], entry["sampling_rate"]
        drawn = clips.train_indices(num_frames, 16, stride, np.random.RandomState(5))
        assert drawn.dtype == np.int64
        assert drawn.tolist() == entry["train_seed5"], entry
        assert clips.test_indices(num_frames, 16, stride, 2).tolist() == entry["test_segments"], entry


def test_published_pretraining_clips_are_reproduced(golden: Path) -> None:
    recorded = json.loads((golden / "pretrain_clips.json").read_text())
    assert {entry["num_samples"] for entry in recorded["clips"]} == {1, 2, 4} and len(recorded["clips"]) == 70
    for entry in recorded["clips"]:
        num_frames, stride, num_clips = entry["num_frames"], entry["sampling_rate"], entry["num_samples"]
        drawn = clips.pretrain_indices(num_frames, 16, stride, num_clips, np.random.RandomState(recorded["seed"]))
        assert drawn.dtype == np.int64
        assert drawn.tolist() == entry["frames"], entry


def test_pretraining_clips_by_hand() -> None:
    rng = np.random.RandomState(0)
    assert clips.pretrain_indices(64, 16, 4, 1, rng).tolist() == [list(range(0, 64, 4))]
    assert clips.pretrain_indices(14, 4, 4, 1, rng).tolist() == [[0, 4, 8, 12]]
    assert clips.pretrain_indices(13, 4, 4, 1, rng).tolist() == [[0, 4, 8, 8]], "the last frame is never shown"
    assert clips.pretrain_indices(1, 4, 4, 2, rng).tolist() == [[0, 0, 0, 0]] * 2
    # 9 starts in 2 parts of 4: the clips start in 0 ... 3 and in 4 ... 7
    starts = np.stack([clips.pretrain_indices(16, 4, 2, 2, rng)[:, 0] for _ in range(200)])
    assert [sorted(set(column)) for column in starts.T.tolist()] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    # 3 starts for 4 clips: any of them, in order
    starts = np.stack([clips.pretrain_indices(18, 4, 4, 4, rng)[:, 0] for _ in range(200)])
    assert set(starts.ravel().tolist()) == {0, 1, 2} and (np.diff(starts) >= 0).all()


def test_training_clip_draws_once_for_long_videos_and_never_for_short_ones() -> None:
    rng, reference = np.random.RandomState(0), np.random.RandomState(0)
    clips.train_indices(64, 16, 4, rng)
    assert rng.randint(1 << 30) == reference.randint(1 << 30)
    clips.train_indices(65, 16, 4, rng)
    reference.randint(64, 65)
    assert rng.randint(1 << 30) == reference.randint(1 << 30)


def test_training_clips_reach_the_first_frame_and_the_last_but_one() -> None:
    rng = np.random.RandomState(0)
    drawn = np.stack([clips.train_indices(12, 4, 2, rng) for _ in range(200)])
    # ends are 8, 9, 10 or 11, so the frames lie in [0, 10]
    assert (drawn.min(), drawn.max()) == (0, 10)
    assert len(np.unique(drawn[:, 0])) == 4


def test_validation_clip_is_the_middle_one_and_matches_training_where_short() -> None:
    assert clips.validation_indices(100, 16, 4)[0] == 18
    assert clips.validation_indices(100, 16, 4)[-1] == 81
    rng = np.random.RandomState(0)
    for num_frames in (1, 3, 16, 63, 64):
        short = clips.train_indices(num_frames, 16, 4, rng)
        assert clips.validation_indices(num_frames, 16, 4).tolist() == short.tolist()


def test_one_segment_starts_at_zero_and_three_are_even() -> None:
    assert clips.test_indices(40, 4, 2, 1).tolist() == [[0, 2, 4, 6]]
    assert clips.test_indices(40, 4, 2, 3)[:, 0].tolist() == [0, 16, 32]


def test_every_index_lies_in_the_video() -> None:
    rng = np.random.RandomState(1)
    for num_frames in range(1, 80):
        for stride in (1, 2, 4, 5):
            every = [
                clips.pretrain_indices(num_frames, 16, stride, 3, rng),
                clips.train_indices(num_frames, 16, stride, rng),
                clips.validation_indices(num_frames, 16, stride),
                clips.test_indices(num_frames, 16, stride, 2),
            ]
            for indices in every:
                assert indices.shape[-1] == 16
                assert indices.min() >= 0
                assert indices.max() < num_frames
                assert (np.diff(indices, axis=-1) >= 0).all()


@pytest.mark.parametrize("arguments", [(0, 16, 4), (10, 0, 4), (10, 16, 0)])
def test_nonsense_is_refused(arguments: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        clips.validation_indices(*arguments)
    with pytest.raises(ValueError, match="at least 1"):
        clips.pretrain_indices(*arguments, 1, np.random.RandomState(0))
    with pytest.raises(ValueError, match="num_clips"):
        clips.pretrain_indices(10, 16, 4, 0, np.random.RandomState(0))
