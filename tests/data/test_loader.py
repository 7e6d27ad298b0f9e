from __future__ import annotations

import multiprocessing
import random
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import av
import numpy as np
import pandas as pd
import pytest
import torch
from odd_videos import encode

from svfap.data import clip_dataset
from svfap.data import clips as sampling
from svfap.data.clip_dataset import ClipDataset
from svfap.data.container import Container
from svfap.data.crops import fit_frames, multi_scale_crop
from svfap.data.loader import make_loader
from svfap.data.manifest import Manifest, read_manifest
from svfap.data.order import sharded_batches
from svfap.data.video import VideoError, write_video
from svfap.errors import UserError

NUM_FRAMES, HEIGHT, WIDTH = 40, 36, 48
Dimensions = ("valence", "arousal")


def picture(number: int, video: int, width: int = WIDTH) -> np.ndarray:
    """Red tells the frame, green the video, blue the left half from the right."""
    out = np.zeros((HEIGHT, width, 3), np.uint8)
    out[..., 0], out[..., 1] = 5 * number + 20, 20 * video + 20
    out[:, width // 2 :, 2] = 200
    return out


@cache
def decoded(video: Path) -> np.ndarray:
    """All pictures as they come out of the decoder: the conversion to RGB, which differs by processor, moves them by up
    to half of what lies between two."""
    with av.open(str(video)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def frame_numbers(clip: torch.Tensor, video: Path) -> list[int]:
    reds = decoded(video)[..., 0].mean(axis=(1, 2))
    return [int(np.abs(reds - float(frame[..., 0].float().mean())).argmin()) for frame in clip]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("loader")
    rows = []
    for video in range(9):
        length = 6 if video == 8 else NUM_FRAMES
        width = HEIGHT if video == 7 else WIDTH
        write_video(folder / f"{video}.mp4", [picture(i, video, width) for i in range(length)], 20, crf=4)
        frames = pd.DataFrame({"arousal": np.arange(length) / 100, "valence": np.arange(length) + 100.0 * video})
        frames.to_csv(folder / f"{video}.csv", index=False)
        rows.append(f"{video}.mp4,{video % 3},{video / 10},{-video / 10},{video}.csv")
    (folder / "list.csv").write_text("path,label,valence,arousal,frame_values\n" + "\n".join(rows) + "\n")
    return folder


@pytest.fixture(scope="module")
def manifest(folder: Path) -> Manifest:
    return read_manifest(folder / "list.csv")


def dataset(manifest: Manifest, mode: Any, **options: Any) -> ClipDataset:
    return ClipDataset(manifest, mode, clip_length=8, stride=2, size=24, seed=1, **options)


def one_batch(data: ClipDataset) -> dict[str, Any]:
    return data.collate([data[i] for i in range(len(data))])


def test_validation_batch_holds_the_right_pixels(folder: Path, manifest: Manifest) -> None:
    batch = one_batch(dataset(manifest, "val"))
    assert batch["clips"].shape == (9, 8, 24, 24, 3)
    assert batch["clips"].dtype == torch.uint8
    assert batch["index"].tolist() == list(range(9))
    assert batch["label"].tolist() == [0, 1, 2] * 3
    assert batch["label"].dtype == torch.int64
    assert "values" not in batch
    assert batch["unreadable"] == []
    assert batch["keys"] == [f"{i}.mp4" for i in range(9)]
    middle = sampling.validation_indices(NUM_FRAMES, 8, 2).tolist()
    for row, clip in enumerate(batch["clips"][:8]):
        assert frame_numbers(clip, folder / f"{row}.mp4") == batch["frames"][row].tolist() == middle
        assert abs(float(clip[..., 1].float().mean()) - (20 * row + 20)) < 3
        assert float(clip[:, :, :10, 2].float().mean()) < 20 < 180 < float(clip[:, :, 14:, 2].float().mean())
    brief = [0, 3, 5, 5, 5, 5, 5, 5]
    assert frame_numbers(batch["clips"][8], folder / "8.mp4") == sampling.validation_indices(6, 8, 2).tolist() == brief


def test_training_clips_are_those_that_are_drawn(folder: Path, manifest: Manifest) -> None:
    data = dataset(manifest, "pretrain")
    data.epoch = 4
    rng = np.random.RandomState(np.random.MT19937(np.random.SeedSequence([1, 4, 3])))
    (frames,) = sampling.pretrain_indices(NUM_FRAMES, 8, 2, 1, rng)
    assert np.diff(frames).tolist() == [2] * 7
    item = data[3]
    assert item.frames[0].tolist() == frames.tolist()
    np.testing.assert_array_equal(item.clips[0], multi_scale_crop(decoded(folder / "3.mp4")[frames], 24, rng))


def test_each_mode_draws_the_clips_of_its_recipe(manifest: Manifest) -> None:
    for mode in ("pretrain", "train"):
        rng = np.random.RandomState(np.random.MT19937(np.random.SeedSequence([1, 0, 3])))
        if mode == "pretrain":
            expected = sampling.pretrain_indices(NUM_FRAMES, 8, 2, 3, rng).tolist()
        else:
            expected = [sampling.train_indices(NUM_FRAMES, 8, 2, rng).tolist() for _ in range(3)]
        assert [frames.tolist() for frames in dataset(manifest, mode, repeats=3)[3].frames] == expected


def test_epochs_and_samples_differ_and_repeat_themselves(folder: Path, manifest: Manifest) -> None:
    data = dataset(manifest, "train", repeats=6)
    first = one_batch(data)
    assert first["index"].tolist() == [i for i in range(9) for _ in range(6)]
    assert len(np.unique(first["frames"][:6].numpy(), axis=0)) > 1
    assert len(np.unique(first["clips"][:6].reshape(6, -1).numpy(), axis=0)) == 6
    assert torch.equal(first["clips"], one_batch(data)["clips"])
    data.epoch = 1
    other = one_batch(data)
    assert not torch.equal(first["frames"], other["frames"])
    for index, frames, clip in zip(other["index"][:48].tolist(), other["frames"], other["clips"], strict=False):
        numbers = np.array(frame_numbers(clip, folder / f"{index}.mp4"))
        assert np.abs(numbers - frames.numpy()).max() <= 1  # small crops, lossy colours


def test_training_shows_whole_frames_and_leaves_the_crop_to_the_device(folder: Path, manifest: Manifest) -> None:
    for fit, number in (("squash", 0), ("centre", 0), ("squash", 7)):
        item = dataset(manifest, "train", frame_fit=fit)[number]
        frames = decoded(folder / f"{number}.mp4")[item.frames[0]]
        np.testing.assert_array_equal(item.clips[0], fit_frames(frames, 24, fit))


def test_views_in_testing_come_once_with_their_number(folder: Path, manifest: Manifest) -> None:
    batch = one_batch(dataset(manifest, "test", frame_fit="centre"))
    # 2 segments x 2 crops; the square video has one crop a segment, the short one one segment.
    assert batch["index"].tolist() == [i for i in range(7) for _ in range(4)] + [7, 7, 8, 8]
    assert batch["views"].tolist() == [1] * 28 + [2] * 4
    assert batch["label"].tolist() == [i % 3 for i in batch["index"].tolist()]
    segments = sampling.test_indices(NUM_FRAMES, 8, 2, 2).tolist()
    assert batch["frames"][:4].tolist() == [segments[0], segments[0], segments[1], segments[1]]
    for index, clip, frames in zip(batch["index"].tolist(), batch["clips"], batch["frames"], strict=True):
        assert frame_numbers(clip, folder / f"{index}.mp4") == frames.tolist()
    left, right = batch["clips"][0][..., 2].float().mean(), batch["clips"][1][..., 2].float().mean()
    assert left < 80 < 120 < right
    single = one_batch(dataset(manifest, "test", frame_fit="centre", num_segments=1, num_crops=1))
    assert single["index"].tolist() == list(range(9))
    # Squashed frames are square: all crops of a segment coincide. Of 4 segments of a short video so do all.
    squashed = one_batch(dataset(manifest, "test", num_segments=4))
    assert squashed["index"].tolist() == [i for i in range(8) for _ in range(4)] + [8]
    assert squashed["views"].tolist() == [1] * 32 + [4]
    whole = decoded(folder / "0.mp4")[squashed["frames"][0]]
    np.testing.assert_array_equal(squashed["clips"][0], fit_frames(whole, 24))


def test_values_of_clips_and_of_frames(folder: Path) -> None:
    manifest = read_manifest(folder / "list.csv", task="regression", dimensions=Dimensions)
    batch = one_batch(dataset(manifest, "val"))
    assert batch["values"].dtype == torch.float32
    assert "label" not in batch
    assert batch["values"].tolist() == [pytest.approx([i / 10, -i / 10]) for i in range(9)]
    views = one_batch(dataset(manifest, "test", frame_level=True, frame_fit="centre"))
    assert views["values"].shape == (32, 8, 2)
    frames, index = views["frames"].float(), views["index"].float()
    assert torch.equal(views["values"][..., 0], frames + 100 * index[:, None])
    assert torch.allclose(views["values"][..., 1], frames / 100)


def test_clip_values_stand_in_for_missing_frame_values(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "mixed.csv"
    path.write_text("path,valence,arousal,frame_values\n1.mp4,0.5,0.25,1.csv\n2.mp4,-0.5,-0.25,\n")
    manifest = read_manifest(path, root=folder, task="regression", dimensions=Dimensions)
    values = one_batch(dataset(manifest, "val", frame_level=True))["values"]
    assert values[0, :, 0].tolist() == [100 + i for i in sampling.validation_indices(NUM_FRAMES, 8, 2)]
    assert values[1].tolist() == [[-0.5, -0.25]] * 8


def test_broken_frame_values_are_listed(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "short.csv").write_text("valence,arousal\n1,2\n")
    (tmp_path / "other.csv").write_text("valence\n1\n")
    (tmp_path / "gap.csv").write_text("valence,arousal\n" + "1,\n" * 40)
    names = ("short", "other", "gap", "absent")
    path = tmp_path / "list.csv"
    path.write_text("path,frame_values\n" + "".join(f"{folder}/{i}.mp4,{name}.csv\n" for i, name in enumerate(names)))
    manifest = read_manifest(path, task="regression", dimensions=Dimensions)
    with pytest.raises(UserError, match="only values per frame"):
        dataset(manifest, "val")
    batch = one_batch(dataset(manifest, "val", frame_level=True))
    reasons = [reason for _, _, reason in batch["unreadable"]]
    assert batch["index"].tolist() == [2]  # no frame of it is annotated
    assert batch["values"].isnan().all() and batch["values"].shape == (1, 8, 2)
    parts = (f"1 rows, {NUM_FRAMES} pictures", "no column 'arousal'", "No such file")
    for name, reason, part in zip(("short", "other", "absent"), reasons, parts, strict=True):
        assert f"{name}.csv" in reason
        assert part in reason
        assert "\n" not in reason


def test_unlabelled_batches_have_no_targets(folder: Path) -> None:
    batch = one_batch(dataset(read_manifest(folder / "list.csv", task="unlabelled"), "pretrain", repeats=2))
    assert batch["clips"].shape == (18, 8, 24, 24, 3)
    assert set(batch) == {"clips", "index", "frames", "views", "keys", "unreadable"}


def test_span_and_box_restrict_what_is_seen(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "spans.csv"
    path.write_text(
        "path,label,start_s,end_s,box\n"
        "1.mp4,0,0.5,1.5,\n"  # frames 10 to 29 of 20 a second
        "1.mp4,0,1.9,9,\n"
        "1.mp4,0,,,24 0 24 36\n"
        "1.mp4,0,,,-10 -5 34 60\n"
        "1.mp4,0,2,3,\n"
        "1.mp4,0,,,60 0 5 5\n"
    )
    manifest = read_manifest(path, root=folder)
    batch = one_batch(dataset(manifest, "test"))
    assert set(batch["frames"][batch["index"] == 0].flatten().tolist()) == set(range(10, 30, 2))
    assert frame_numbers(batch["clips"][0], folder / "1.mp4") == list(range(10, 26, 2))
    assert set(batch["frames"][batch["index"] == 1].flatten().tolist()) == {38}
    right, left = (batch["clips"][batch["index"] == i] for i in (2, 3))
    assert right[..., 2].min() > 150
    assert left[..., 2].max() < 50
    problems = {index: reason for index, _, reason in batch["unreadable"]}
    assert problems == {
        4: "no frame from start_s to end_s; the video lasts 2.00 s",
        5: "the box 60 0 5 5 lies outside the 48x36 px picture",
    }


@pytest.fixture
def with_gaps(folder: Path, tmp_path: Path) -> Manifest:
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "empty.mp4").touch()
    path = tmp_path / "gaps.csv"
    path.write_text(f"path,label\ntext.mp4,0\n{folder}/1.mp4,1\nabsent.mp4,0\nempty.mp4,1\n{folder}/2.mp4,1\n")
    return read_manifest(path)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_unreadable_videos_are_dropped_and_reported(with_gaps: Manifest, num_workers: int) -> None:
    loader = make_loader(dataset(with_gaps, "val"), 2, shuffle=False, seed=0, num_workers=num_workers)
    first, second, third = loader
    assert first["index"].tolist() == [1]
    assert len(first["clips"]) == 1
    assert [(i, key) for i, key, _ in first["unreadable"]] == [(0, "text.mp4")]
    assert "not a readable video" in first["unreadable"][0][2]
    assert second["clips"].shape == (0, 8, 24, 24, 3)
    assert second["label"].shape == (0,)
    assert [reason for _, _, reason in second["unreadable"]] == ["no such file or folder", "the file is empty"]
    assert third["index"].tolist() == [4]
    assert third["unreadable"] == []


def everything(loader: Any) -> list[dict[str, Any]]:
    return list(loader)


def same(one: list[dict[str, Any]], other: list[dict[str, Any]]) -> bool:
    return len(one) == len(other) and all(
        a.keys() == b.keys()
        and all(torch.equal(a[k], b[k]) if isinstance(a[k], torch.Tensor) else a[k] == b[k] for k in a)
        for a, b in zip(one, other, strict=True)
    )


def test_workers_change_nothing_nor_draw_from_global_generators(manifest: Manifest) -> None:
    options: dict[str, Any] = dict(shuffle=True, seed=3, epoch=2)
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002
    random.seed(0)
    before = torch.get_rng_state()
    alone = everything(make_loader(dataset(manifest, "train"), 2, **options))
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(1)
    assert same(alone, everything(make_loader(dataset(manifest, "train"), 2, num_workers=2, **options)))
    assert not same(alone, everything(make_loader(dataset(manifest, "train"), 2, **{**options, "epoch": 3})))
    assert not same(alone, everything(make_loader(dataset(manifest, "train"), 2, **{**options, "seed": 4})))


@pytest.mark.parametrize("method", ["spawn", pytest.param("forkserver", marks=pytest.mark.slow)])
def test_how_workers_start_changes_nothing(manifest: Manifest, method: str) -> None:
    """macOS and Windows spawn them; from Python 3.14 on, Linux has a fork server."""
    options: dict[str, Any] = dict(shuffle=True, seed=3, epoch=2)
    alone = everything(make_loader(dataset(manifest, "train"), 2, **options))
    before = multiprocessing.get_start_method()
    multiprocessing.set_start_method(method, force=True)
    try:
        assert same(alone, everything(make_loader(dataset(manifest, "train"), 2, num_workers=1, **options)))
    finally:
        multiprocessing.set_start_method(before, force=True)


def test_starting_in_mid_epoch_gives_the_rest(manifest: Manifest) -> None:
    data = dataset(manifest, "train")
    whole = everything(make_loader(data, 2, shuffle=True, seed=3, epoch=1))
    loader = make_loader(data, 2, shuffle=True, seed=3, epoch=1, start_batch=2)
    assert (len(whole), len(loader)) == (4, 2)
    assert same(everything(loader), whole[2:])
    assert data.epoch == 0  # a loader's epoch is its own


def test_training_shards_are_equal_and_apart() -> None:
    for epoch in (0, 1):
        options: dict[str, Any] = dict(shuffle=True, seed=7, epoch=epoch)
        ranks = [sharded_batches(53, 4, rank=rank, world_size=3, **options) for rank in range(3)]
        assert [len(batches) for batches in ranks] == [4, 4, 4]
        seen = [number for batches in ranks for batch in batches for number in batch]
        assert len(seen) == len(set(seen)) == 48
        assert set(seen) <= set(range(53))
        together = sharded_batches(53, 12, **options)
        for step, batch in enumerate(together):
            assert batch == [number for rank in range(3) for number in ranks[rank][step]]
    one, two = (sharded_batches(53, 4, shuffle=True, seed=7, epoch=epoch) for epoch in (0, 1))
    assert one != two


@pytest.mark.parametrize("length", [1, 2, 7, 12, 13])
def test_evaluation_shards_lose_and_repeat_nothing(length: int) -> None:
    ranks = [sharded_batches(length, 4, shuffle=False, seed=0, rank=r, world_size=3) for r in range(3)]
    assert sorted(number for batches in ranks for batch in batches for number in batch) == list(range(length))
    for rank, batches in enumerate(ranks):
        assert len(batches) == -(-len(range(rank, length, 3)) // 4)
        assert all(batch for batch in batches)


def test_too_few_samples_for_one_batch(manifest: Manifest) -> None:
    data = dataset(manifest, "train")
    assert len(make_loader(data, 9, shuffle=True, seed=0)) == 1
    with pytest.raises(UserError, match=r"list\.csv: 9 samples do not fill one batch of 10; make the batch smaller"):
        make_loader(data, 10, shuffle=True, seed=0)
    with pytest.raises(UserError, match="one batch of 5 on each of 2 processes"):
        make_loader(data, 5, shuffle=True, seed=0, world_size=2)
    assert len(list(make_loader(data, 10, shuffle=False, seed=0))) == 1


def test_unknown_mode(manifest: Manifest) -> None:
    with pytest.raises(ValueError, match="mode is 'trian'"):
        dataset(manifest, "trian")


def test_workers_load_after_opencv_has_used_its_threads(manifest: Manifest) -> None:
    """A forked worker that used OpenCV's threads would wait for ever: they exist in the parent only."""
    code = (
        "import sys, cv2, numpy as np\n"
        "from svfap.data.clip_dataset import ClipDataset\n"
        "from svfap.data.loader import make_loader\n"
        "from svfap.data.manifest import read_manifest\n"
        "cv2.setNumThreads(4)\n"
        "cv2.warpAffine(np.zeros((2000, 2000, 3), np.uint8), np.eye(2, 3), (2000, 2000))\n"
        "clips = ClipDataset(read_manifest(sys.argv[1], task='unlabelled'), 'val', 4, 1, 16, 0)\n"
        "loader = make_loader(clips, 2, shuffle=False, seed=0, num_workers=2)\n"
        "assert sum(len(batch['clips']) for batch in loader) == len(clips)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(manifest.path)], check=True, timeout=120)


# time ----------------------------------------------------------------------------------------------------------------


def timed(path: Path, ticks: list[int]) -> Path:
    """Pictures of grey levels 0, 3, 6, ..., shown at multiples of 1/30 s."""
    return encode(
        path, "libx264", [np.full((32, 32, 3), 3 * n, np.uint8) for n in range(len(ticks))], ticks=ticks, crf="1"
    )


def shown_in(clip: torch.Tensor) -> list[int]:
    return [round(float(level) / 3) for level in clip.float().mean(dim=(1, 2, 3))]


@pytest.fixture(scope="module")
def odd_times(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """vfr.mp4: 40 pictures at 30, 20 at 6 a second; pause.mkv: 20 pictures, a minute's pause, 60 pictures."""
    folder = tmp_path_factory.mktemp("times")
    timed(folder / "vfr.mp4", [*range(40), *range(40, 140, 5)])
    timed(folder / "pause.mkv", [*range(20), *range(1800, 1860)])
    for name, length in (("vfr", 60), ("pause", 80)):
        pd.DataFrame({"valence": np.arange(length, dtype=float)}).to_csv(folder / f"{name}.csv", index=False)
    (folder / "list.csv").write_text("path,frame_values\nvfr.mp4,vfr.csv\npause.mkv,pause.csv\n")
    return folder


@pytest.mark.parametrize("mode", ["train", "val", "test"])
def test_the_target_of_a_frame_is_that_of_the_picture_shown(odd_times: Path, mode: str) -> None:
    manifest = read_manifest(odd_times / "list.csv", task="regression", dimensions=["valence"], frame_level=True)
    batch = one_batch(dataset(manifest, mode, frame_level=True))
    assert batch["unreadable"] == []
    for clip, targets in zip(batch["clips"], batch["values"], strict=True):
        assert shown_in(clip) == [int(value) for value in targets[:, 0]]
    assert {int(n) for n in batch["values"][batch["index"] == 0].flatten()} - set(range(40)) or mode == "train"


def test_a_variable_rate_is_sampled_by_time(odd_times: Path) -> None:
    manifest = read_manifest(odd_times / "list.csv", task="unlabelled")
    item = ClipDataset(manifest, "test", 28, 5, 24, 0, num_segments=1, num_crops=1)[0]
    assert item.frames[0].tolist() == list(range(0, 140, 5))
    assert shown_in(torch.from_numpy(item.clips[0])) == [*range(0, 40, 5), *range(40, 60)]


def test_fps_samples_all_videos_at_one_rate(odd_times: Path) -> None:
    manifest = read_manifest(odd_times / "list.csv", task="unlabelled")
    item = ClipDataset(manifest, "test", 14, 1, 24, 0, num_segments=1, num_crops=1, fps=3.0)[0]
    assert item.frames[0].tolist() == list(range(14))  # 140 thirtieths of a second
    assert shown_in(torch.from_numpy(item.clips[0])) == [0, 10, 20, 30, *range(40, 60, 2)]
    same = ClipDataset(manifest, "test", 14, 1, 24, 0, num_segments=1, num_crops=1, fps=29.0)[0]
    assert shown_in(torch.from_numpy(same.clips[0])) == list(range(14))  # as good as the video's own rate


def test_no_clip_spans_a_hole(odd_times: Path) -> None:
    """Random clips come from both sides of the pause, in proportion to their lengths; the others from the longer side."""
    manifest = read_manifest(odd_times / "list.csv", task="unlabelled")
    for mode in ("train", "pretrain"):
        data = dataset(manifest, mode)
        first = 0
        for epoch in range(120):
            data.epoch = epoch
            (frames,) = data[1].frames
            assert frames.max() < 20 or frames.min() >= 20
            first += bool(frames.max() < 20)
        assert 15 < first < 48  # a quarter of 120
    several = dataset(manifest, "train", repeats=12)[1].frames
    assert {bool(frames.max() < 20) for frames in several} == {True, False}
    for mode in ("val", "test"):
        for clip, frames in zip((item := dataset(manifest, mode)[1]).clips, item.frames, strict=True):
            assert frames.min() >= 20
            assert shown_in(torch.from_numpy(clip)) == frames.tolist()


def test_a_span_is_cut_at_a_hole(odd_times: Path, tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    path.write_text("path,start_s,end_s\npause.mkv,0.2,60.4\npause.mkv,1,59\n")
    data = dataset(read_manifest(path, root=odd_times, task="unlabelled"), "test", num_segments=1, num_crops=1)
    assert data[0].frames[0].tolist() == [6, 8, 10, 12, 14, 16, 18, 18]  # 14 frames before the pause, 12 after it
    assert data[1].reason == "no frame from start_s to end_s; the video lasts 62.00 s"


def test_one_stretch_draws_nothing_more(manifest: Manifest) -> None:
    """Clips of ordinary videos are those of `svfap.data.clips` with the same generator, whatever `fps` is close to."""
    for fps in (None, 20.5):
        rng = np.random.RandomState(np.random.MT19937(np.random.SeedSequence([1, 0, 3])))
        expected = sampling.train_indices(NUM_FRAMES, 8, 2, rng)
        assert dataset(manifest, "train", fps=fps)[3].frames[0].tolist() == expected.tolist()


class TestCache:
    @staticmethod
    def opened(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
        """The videos that are opened from now on."""
        paths: list[Path] = []
        real = clip_dataset.open_video

        def noting(path: Path, frames_fps: float) -> Any:
            paths.append(path)
            return real(path, frames_fps)

        monkeypatch.setattr(clip_dataset, "open_video", noting)
        return paths

    @staticmethod
    def epochs(data: ClipDataset) -> list[dict[str, Any]]:
        batches = []
        for epoch in range(2):
            data.epoch = epoch
            batches.append(one_batch(data))
        return batches

    @pytest.mark.parametrize(("mode", "frame_level"), [("train", False), ("pretrain", False), ("test", True)])
    def test_the_clips_are_the_same_and_each_video_is_opened_once(
        self, mode: str, frame_level: bool, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        manifest = read_manifest(folder / "list.csv", task="regression", dimensions=Dimensions, frame_level=frame_level)
        options: dict[str, Any] = {"frame_level": frame_level, "fps": 10.0}
        plain = self.epochs(dataset(manifest, mode, **options))
        paths = self.opened(monkeypatch)
        kept = self.epochs(dataset(manifest, mode, cache_bytes=10**9, **options))
        assert len(paths) == len(set(paths)) == len(manifest)
        for one, other in zip(plain, kept, strict=True):
            assert torch.equal(one["clips"], other["clips"])
            assert torch.equal(one["values"], other["values"])
            assert torch.equal(one["frames"], other["frames"])

    def test_a_video_that_is_in_the_list_again_is_kept_once(
        self, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        repeated = manifest.subset(np.resize(np.arange(3), 9))
        plain = self.epochs(dataset(repeated, "pretrain"))
        paths = self.opened(monkeypatch)
        kept = self.epochs(dataset(repeated, "pretrain", cache_bytes=3 * NUM_FRAMES * HEIGHT * WIDTH * 3))
        assert len(paths) == 3
        assert all(torch.equal(one["clips"], other["clips"]) for one, other in zip(plain, kept, strict=True))

    def test_only_videos_with_room_are_kept(self, manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
        paths = self.opened(monkeypatch)
        self.epochs(dataset(manifest, "train", cache_bytes=3 * NUM_FRAMES * HEIGHT * WIDTH * 3))
        assert len(paths) == 3 + 2 * (len(manifest) - 3)

    def test_nothing_is_kept_unless_asked_for(self, manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
        paths = self.opened(monkeypatch)
        self.epochs(dataset(manifest, "train"))
        assert len(paths) == 2 * len(manifest)

    def test_boxes_and_spans_hold(self, folder: Path) -> None:
        file = folder / "boxes.csv"
        file.write_text("path,start_s,end_s,box_x,box_y,box_w,box_h\n0.mp4,0.5,1.5,2,3,24,20\n1.mp4,0,1,0,0,30,30\n")
        rows = read_manifest(file, task="unlabelled")
        plain, kept = (self.epochs(dataset(rows, "pretrain", cache_bytes=room)) for room in (0, 10**9))
        assert all(torch.equal(a["clips"], b["clips"]) for a, b in zip(plain, kept, strict=True))

    def test_a_picture_that_cannot_be_read_is_no_matter_for_clips_without_it(
        self, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        data = dataset(manifest, "val", cache_bytes=10**9)
        real = Container.read

        def reading(self: Container, numbers: Any) -> Any:
            if len(numbers) > 8:
                raise VideoError(self.path, "frame 0 is damaged")
            return real(self, numbers)

        monkeypatch.setattr(Container, "read", reading)
        assert data[0].reason is None
