"""Labels per picture: which row is whose, and frames that are not annotated."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from svfap.data.clip_dataset import ClipDataset, Item
from svfap.data.manifest import Manifest, read_manifest
from svfap.data.targets import all_targets, frame_targets, picture_targets, require_values
from svfap.data.video import VideoError, open_video, write_video
from svfap.errors import UserError


def draw(folder: Path, names: list[str], levels: list[int]) -> None:
    folder.mkdir()
    for name, level in zip(names, levels, strict=True):
        cv2.imwrite(str(folder / name), np.full((16, 16, 3), level, np.uint8))


def values(folder: Path, text: str, video: str = "v", **options: object) -> Manifest:
    (folder / "values.csv").write_text(text)
    (folder / "list.csv").write_text(f"path,frame_values\n{video},values.csv\n")
    words: dict = {"task": "regression", "dimensions": ["x"], "frame_level": True} | options
    return read_manifest(folder / "list.csv", **words)


def items(manifest: Manifest, mode: str = "train", count: int = 30, stride: int = 1) -> list[Item]:
    data = ClipDataset(manifest, mode, 8, stride, 16, seed=0, frame_level=True)
    return [data[index * len(manifest)] for index in range(count)]


def column(targets: np.ndarray | None) -> list[float]:
    assert targets is not None
    return targets.ravel().tolist()


# Which row is whose


@pytest.mark.parametrize(("first", "pattern"), [(1, "{:05d}.png"), (0, "{:05d}.png"), (1, "v7_{}_224.png")])
def test_numbers_in_names_tell_the_rows_of_pictures(tmp_path, first, pattern):
    """Pictures 20 to 49 of 100 are missing; picture n has grey level 2 n, and its row has the value n / 100."""
    numbers = [n for n in range(first, 100 + first) if not 20 <= n < 50]
    draw(tmp_path / "v", [pattern.format(n) for n in numbers], [2 * n for n in numbers])
    manifest = values(tmp_path, "x\n" + "".join(f"{n / 100}\n" for n in range(first, 100 + first)))
    shown = set()
    for item in items(manifest):
        assert item.reason is None
        levels = item.clips[0].reshape(8, -1).mean(axis=1)
        np.testing.assert_allclose(item.targets[0]["values"][:, 0], levels / 200, atol=1e-6)
        shown |= set(levels)
    assert len(shown) > 50


@pytest.mark.parametrize(
    ("names", "num_rows"),
    [
        ([f"{n}.png" for n in range(1, 71)], 69),  # number 70 has no row
        ([f"{n}.png" for n in range(70)], 69),
        ([f"{n}.png" for n in range(1, 71)], 210),  # no picture is missing, so the rows are of others
        ([f"{chr(97 + n % 26)}{n // 26}.png" for n in range(70)], 100),  # numbers do not ascend
        ([f"face{'x' * (n + 1)}.png" for n in range(70)], 71),  # no numbers
    ],
)
def test_rows_that_do_not_fit_are_refused_with_both_counts(tmp_path, names, num_rows):
    draw(tmp_path / "v", names, list(range(70)))
    manifest = values(tmp_path, "x\n" + "0.5\n" * num_rows)
    for item in [*items(manifest), *items(manifest, "val", 1), *items(manifest, "test", 1)]:
        assert item.reason == f"values per frame values.csv: {num_rows} rows, 70 pictures"


def test_a_picture_behind_the_last_row_is_refused(tmp_path):
    draw(tmp_path / "v", ["0.png", "1.png", "3.png", "5.png"], [0] * 4)
    manifest = values(tmp_path, "x\n" + "0.5\n" * 5)
    with open_video(tmp_path / "v") as video, pytest.raises(VideoError, match="5 rows, 4 pictures"):
        picture_targets(manifest, manifest[0], video)


@pytest.mark.parametrize("num_rows", [24, 41, 39])
def test_rows_of_a_video_file_must_be_as_many_as_pictures(tmp_path, num_rows):
    """In every clip, not only in those that show the last frame."""
    write_video(tmp_path / "v.mp4", np.full((40, 16, 16, 3), 90, np.uint8), 25)
    manifest = values(tmp_path, "x\n" + "0.5\n" * num_rows, "v.mp4")
    assert {item.reason for item in items(manifest)} == {f"values per frame values.csv: {num_rows} rows, 40 pictures"}
    cells = tmp_path / "cells.csv"
    cells.write_text(f"path,x\nv.mp4,{' '.join(['1'] * num_rows)}\n")
    manifest = read_manifest(cells, task="regression", frame_level=True)
    assert items(manifest)[0].reason == f"values per frame: {num_rows} rows, 40 pictures"


def write_variable_rate(path: Path, num_fast: int, num_slow: int) -> None:
    """Pictures 30 per second, then 5 per second; picture i has grey level 3 i."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", 30, options={"crf": "1", "bf": "0"})
        stream.width = stream.height = 16
        stream.pix_fmt, stream.time_base = "yuv420p", Fraction(1, 30)
        stream.codec_context.time_base = Fraction(1, 30)
        for number in range(num_fast + num_slow):
            frame = av.VideoFrame.from_ndarray(np.full((16, 16, 3), 3 * number, np.uint8), format="rgb24")
            frame.pts = number if number < num_fast else num_fast + 6 * (number - num_fast)
            frame.time_base = Fraction(1, 30)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def test_rows_of_a_variable_rate_are_those_of_the_pictures_shown(tmp_path):
    write_variable_rate(tmp_path / "v.mp4", 60, 20)
    manifest = values(tmp_path, "x\n" + "".join(f"{n}\n" for n in range(80)), "v.mp4")
    for item in [
        *items(manifest, stride=4, count=10),
        *items(manifest, "test", 1),
        *items(manifest, "val", 1, stride=8),
    ]:
        assert item.reason is None
        for clip, target in zip(item.clips, item.targets, strict=True):
            np.testing.assert_allclose(clip.reshape(8, -1).mean(axis=1) / 3, target["values"][:, 0], atol=0.5)


# Frames that are not annotated


def test_marks_empty_cells_and_values_out_of_range_are_no_targets(tmp_path):
    text = "x,y\n0,0.5\n-5,-5\n,0.25\n1,1.5\n0.5,-5\n1,1\n"
    nan = float("nan")

    def found(**options: object) -> list[float]:
        manifest = values(tmp_path, text, dimensions=["x", "y"], **options)
        return column(frame_targets(manifest, manifest[0]))

    same = {"nan_ok": True}
    assert found() == pytest.approx([0, 0.5, -5, -5, nan, nan, 1, 1.5, 0.5, -5, 1, 1], **same)
    marked = [0, 0.5, nan, nan, nan, nan, 1, 1.5, nan, nan, 1, 1]
    assert found(invalid_marks=[-5]) == pytest.approx(marked, **same)
    in_range = [0, 0.5, nan, nan, nan, nan, nan, nan, nan, nan, 1, 1]
    assert found(label_range=(-1, 1)) == pytest.approx(in_range, **same)
    manifest = values(tmp_path, text, dimensions=["x", "y"], label_range=(-1, 1))
    assert all_targets(manifest.subset([0]), True).tolist() == [[0, 0.5], [1, 1]]


def test_the_number_of_frames_left_out_is_said(tmp_path, capsys):
    all_targets(values(tmp_path, "x\n1\n\n2\n-5\n", invalid_marks=[-5]), True)
    assert "list.csv: 2 of 4 frames are not annotated; loss and scores leave them out" in capsys.readouterr().err
    with pytest.raises(UserError, match="no video has values per frame; all are empty"):
        all_targets(values(tmp_path, "x\n-5\n-5\n", invalid_marks=[-5]), True)


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_files_of_values_may_have_other_separators(tmp_path, separator):
    text = "".join(separator.join(row) + "\n" for row in (("frame", "x"), ("0", "0.5"), ("1", ""), ("2", "1.5")))
    text = text.replace(".", ",") if separator == ";" else text
    manifest = values(tmp_path, "\ufeff" + text)
    assert column(frame_targets(manifest, manifest[0])) == pytest.approx([0.5, float("nan"), 1.5], nan_ok=True)


def test_files_of_values_may_have_spaces_after_separators(tmp_path):
    manifest = values(tmp_path, "frame, x, y\n0, 0.5, 1\n1, , 2\n2, 1.5, 3\n")
    assert column(frame_targets(manifest, manifest[0])) == pytest.approx([0.5, float("nan"), 1.5], nan_ok=True)


def test_a_class_of_minus_one_is_none(tmp_path):
    text = "label\na\n-1\n1.0\n\n0\n7\nc\n\n"
    manifest = values(
        tmp_path, text, task="classification", dimensions=None, label_names=["a", "b", "c"], invalid_marks=[7]
    )
    assert column(frame_targets(manifest, manifest[0])) == [0, -1, 1, -1, 0, -1, 2]
    named = values(tmp_path, text, task="classification", dimensions=None, label_names=["a", "-1", "c", "7"])
    assert column(frame_targets(named, named[0])) == [0, 1, 1, -1, 0, 3, 2]


def test_marks_in_cells(tmp_path):
    path = tmp_path / "cells.csv"
    path.write_text("path,x,y\na,0.5 -5 1.5,1\nb,-5 -5,1 1\nc,0.25,1\n")
    manifest = read_manifest(path, task="regression", frame_level=True, invalid_marks=[-5])
    nan = float("nan")
    assert column(frame_targets(manifest, manifest[0])) == pytest.approx([0.5, 1, nan, nan, 1.5, 1], nan_ok=True)
    assert manifest[0].values == pytest.approx((1.0, 1.0))  # the mean of the others
    assert manifest[1].values == pytest.approx((nan, nan), nan_ok=True)
    assert manifest[2].values == (0.25, 1.0)
    assert all_targets(manifest, True).tolist() == [[0.5, 1], [1.5, 1], [0.25, 1]]


def check(folder: Path, rows: list[tuple[float, ...]], **options: object) -> None:
    dimensions = ["x", "y"][: len(rows[0])]
    text = "\n".join(",".join(map(str, row)) for row in [tuple(dimensions), *rows])
    bounds = options.pop("bounds", None)
    manifest = values(folder, text, dimensions=dimensions, **options)
    require_values(manifest, all_targets(manifest, True), bounds)


def test_a_mark_that_is_not_declared_is_asked_about(tmp_path):
    rows = [(n / 20 - 1, 1 - n / 20) for n in range(41)]
    with pytest.raises(UserError, match=r"-5 looks like a mark .* from -1 to 1; declare it, invalid_marks=\[-5\], or"):
        check(tmp_path, [*rows, (-5, -5)])
    with pytest.raises(UserError, match="99 looks like a mark"):
        check(tmp_path, [*rows, (99, 99), (99, 99)])
    with pytest.raises(UserError, match="-5 looks like a mark"):
        check(tmp_path, [(0.1,), (0.6,), (-5,), (-5,)])
    check(tmp_path, [*rows, (-5, -5)], invalid_marks=[-5])
    check(tmp_path, [*rows, (-5, -5)], label_range=(-1, 1))
    check(tmp_path, [(0.1,), (0.6,), (5,)])  # one outlier
    check(tmp_path, [*rows, (-5, 1)])  # not in all dimensions
    check(tmp_path, [(1, 9), (9, 1), (9, 9), (5, 2)])  # a scale from 1 to 9
    check(tmp_path, [(0, 0), (1, 1)])


def test_values_that_the_activation_cannot_reach(tmp_path):
    with pytest.raises(UserError, match=r"y is from 0 to 1\.5, but the outputs of this activation are from -1 to 1"):
        check(tmp_path, [(0, 1.5), (-1, 0)], bounds=(-1.0, 1.0))
    check(tmp_path, [(0, 1), (-1, 0)], bounds=(-1.0, 1.0))
    check(tmp_path, [(0, 1.5), (-1, 0), (0.5, 0.5)], bounds=(-1.0, 1.0), label_range=(-1, 1))


def test_a_mark_in_one_dimension_alone_is_asked_about(tmp_path):
    manifest = values(tmp_path, "x\n0\n", dimensions=["x"])
    rows = np.array([[0.1, 0.5], [-9, 0.3], [0.4, -0.2], [-9, 0.9], [-0.3, 0.1]], np.float32)
    with pytest.raises(UserError, match=r"-9 looks like a mark .* from -0\.3 to 0\.9"):
        require_values(manifest, rows)
    ratings = np.array([[1, 0.5], [9, 0.3], [2, -0.2], [9, 0.9], [3, 0.1]], np.float32)
    require_values(manifest, ratings)  # whole numbers among whole numbers
