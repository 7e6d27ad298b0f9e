"""Several manifests joined into one, and how often each is drawn."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from svfap.data.clip_dataset import ClipDataset
from svfap.data.manifest import Manifest, Mixture
from svfap.data.manifest_rows import ManifestError
from svfap.data.mixing import read_manifests, say_mixture
from svfap.data.order import sharded_batches
from svfap.data.split import carve_validation, take_fraction
from svfap.errors import UserError
from svfap.weighted import WeightedPath


def write(file: Path, *rows: str, header: str = "path,label") -> Path:
    """A manifest of empty files."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join([header, *rows]) + "\n")
    for row in rows:
        (file.parent / row.split(",")[0]).touch()
    return file


def join(*paths: Path, weights: tuple[float, ...] | None = None, **columns) -> Manifest:
    given = weights or (None,) * len(paths)
    return read_manifests([WeightedPath(*each) for each in zip(paths, given, strict=True)], **columns)


@pytest.fixture
def two(tmp_path) -> tuple[Path, Path]:
    """Manifests of 30 and 6 videos, the second with half of them sad, in folders of their own with the same names in them."""
    first = [f"{n:02d}.mp4,{'sad' if n < 3 else 'happy'},p{n}" for n in range(30)]
    second = [f"{n:02d}.mp4,{'sad' if n % 2 else 'happy'},p{n}" for n in range(6)]
    header = "path,label,subject"
    return write(tmp_path / "a" / "m.csv", *first, header=header), write(tmp_path / "b/m.csv", *second, header=header)


def drawn(mixture: Mixture | None, epoch: int = 0, labels=None, **how) -> list[int]:
    batches = sharded_batches(
        36, how.pop("batch_size", 1), True, seed=3, epoch=epoch, labels=labels, mixture=mixture, **how
    )
    return [number for batch in batches for number in batch]


def test_joined_videos_are_those_of_all_manifests_with_their_labels(two):
    joined, parts = join(*two), [join(path) for path in two]
    assert [each.path for each in joined] == [each.path for part in parts for each in part]
    assert [each.label for each in joined] == [each.label for part in parts for each in part]
    assert joined.label_names == ("happy", "sad")
    assert len({each.key for each in joined}) == 36, "videos of the same name in two folders are not told apart"
    assert [[each.path for each in part] for part in joined.parts] == [[each.path for each in part] for part in parts]
    assert [part.path for part in joined.parts] == list(two)
    assert join(two[0]).mixture is None


def test_without_weights_every_video_is_drawn_once(two):
    order = drawn(join(*two).mixture)
    assert sorted(order) == list(range(36)) and order == drawn(None), (
        "it is not the order of one manifest with these rows"
    )


@pytest.mark.parametrize("weights", [(1, 1), (1, 3), (2.5, 0.1)])
def test_weights_are_shares_of_the_draws(two, weights):
    mixture, share = join(*two, weights=weights).mixture, weights[1] / sum(weights)
    found = []
    for epoch in range(40):
        order = drawn(mixture, epoch)
        assert len(order) == 36, "an epoch has another length"
        videos = Counter(number % 36 for number in order)
        for members in (range(30), range(30, 36)):
            times = [videos[number] for number in members]
            assert max(times) - min(times) <= 1, "videos of one manifest are not drawn equally often"
        assert len(set(order)) == 36, "a video drawn again in an epoch has the same random draws"
        found.append(sum(number % 36 >= 30 for number in order))
    assert max(found) - min(found) <= 1
    assert np.mean(found) == pytest.approx(36 * share, abs=0.2)
    assert drawn(mixture, 0) != drawn(mixture, 1)


def test_processes_and_resumption_share_the_order(two):
    mixture = join(*two, weights=(1, 2)).mixture
    whole = drawn(mixture, batch_size=6)
    ranks = [sharded_batches(36, 2, True, 3, rank=rank, world_size=3, mixture=mixture) for rank in range(3)]
    assert [number for step in zip(*ranks, strict=True) for batch in step for number in batch] == whole
    assert drawn(mixture, batch_size=6, start_batch=4) == whole[24:]


def test_balanced_sampling_is_within_each_manifest(two):
    joined = join(*two, weights=(2, 1))
    order = drawn(joined.mixture, labels=joined.labels)
    counts = Counter((number % 36 >= 30, joined.labels[number % 36]) for number in order)
    assert counts == {(False, 0): 12, (False, 1): 12, (True, 0): 6, (True, 1): 6}


def test_fraction_and_validation_take_their_part_of_each_manifest(two):
    joined = join(*two, weights=(1, 1))
    part = take_fraction(joined, 0.5, seed=0)
    assert [len(each) for each in part.parts] == [2 + 14, 2 + 2]  # a half of each class, rounded up
    training, validation = carve_validation(joined, 1 / 3, seed=0)
    assert [len(each) for each in (*training.parts, *validation.parts)] == [20, 4, 10, 2]
    people = [{each.subject for each in part} for part in (training, validation)]
    assert not people[0] & people[1], "people of the same name are in both parts"


def test_a_weight_of_nothing_is_an_error(two):
    joined = join(*two, weights=(1, 1))
    with pytest.raises(UserError, match=r"b/m\.csv: has a weight, but none of its videos is left for training"):
        ClipDataset(joined[:30], "train", 4, 1, 32, 0)


def test_what_is_drawn_is_said(two, capsys):
    say_mixture(join(*two, weights=(1, 1)), 36)
    said = " ".join(capsys.readouterr().err.split())
    assert "30 videos, 50.0% of those drawn, each 0.6 times an epoch" in said
    assert "6 videos, 50.0% of those drawn, each 3 times an epoch" in said


def test_manifests_with_other_columns(tmp_path):
    spans = write(
        tmp_path / "a/m.csv", "x.mp4,happy,1,2.5,p", "y.mp4,sad,,,p", header="path,label,start_s,end_s,subject"
    )
    plain = write(tmp_path / "b/m.csv", "x.mp4,sad", "y.mp4,happy")
    joined = join(spans, plain)
    assert [(each.start_s, each.end_s, each.subject) for each in joined] == [
        (1, 2.5, "p"), (None, None, "p"), (None, None, None), (None, None, None),
    ]  # fmt: skip


def test_values_of_frames_in_cells_and_files(tmp_path):
    cells = write(tmp_path / "a/m.csv", "x.mp4,0.1 0.2", header="path,valence")
    files = write(tmp_path / "b/m.csv", "x.mp4,v.csv", header="path,frame_values")
    (tmp_path / "b/v.csv").write_text("valence\n0.5\n")
    joined = join(cells, files, task="regression", frame_level=True, dimensions=["valence"])
    assert joined[0].frame_numbers.tolist() == [[0.1], [0.2]] and joined[0].frame_values is None
    assert joined[1].frame_numbers is None and joined[1].frame_values == tmp_path / "b/v.csv"


def test_what_must_be_alike(tmp_path):
    first = write(tmp_path / "a/m.csv", "x.mp4,happy", "y.mp4,sad")
    other = write(tmp_path / "b/m.csv", "x.mp4,Happy", "y.mp4,sad")
    fewer = write(tmp_path / "c/m.csv", "x.mp4,sad")
    for second in (other, fewer):
        with pytest.raises(ManifestError, match="different classes: .*a/m.csv has happy, sad; .* with `label_names`"):
            join(first, second)
    assert [each.label for each in join(first, fewer, label_names=["sad", "happy"])] == [1, 0, 0]
    values = write(tmp_path / "d/m.csv", "x.mp4,1,2", header="path,valence,arousal")
    lacking = write(tmp_path / "e/m.csv", "x.mp4,1", header="path,valence")
    with pytest.raises(ManifestError, match="different dimensions: .* with `dimensions`"):
        join(values, lacking, task="regression")
    swapped = write(tmp_path / "f/m.csv", "x.mp4,3,4", header="path,arousal,valence")
    assert [each.values for each in join(values, swapped, task="regression")] == [(1, 2), (4, 3)]


def test_a_video_has_one_truth(tmp_path):
    first = write(tmp_path / "m.csv", "x.mp4,happy", "y.mp4,sad")
    more = write(tmp_path / "more.csv", "x.mp4,sad", "z.mp4,happy")
    with pytest.raises(ManifestError, match=r"x\.mp4: two rows of the manifests give it different labels"):
        join(first, more)
    alike = write(tmp_path / "alike.csv", "x.mp4,happy", "z.mp4,sad")
    assert len(join(first, alike)) == 4


def test_every_manifest_has_videos(tmp_path):
    first = write(tmp_path / "a/m.csv", "x.mp4,happy", "y.mp4,sad")
    gone = write(tmp_path / "b/m.csv", "x.mp4,happy", "y.mp4,sad")
    for name in "xy":
        (tmp_path / f"b/{name}.mp4").unlink()
    with pytest.raises(ManifestError, match=r"b/m\.csv: none of the 2 paths looked at exists"):
        join(first, gone)
