"""Splits that tear nothing apart: which samples belong together, and how near the parts come to what was asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from svfap.data.manifest import Manifest, read_manifest
from svfap.data.manifest_rows import ManifestError
from svfap.data.split import Units, carve_validation, hold_out, units_of

SEEDS = range(30)


def manifest_of(folder: Path, **columns: object) -> Manifest:
    pd.DataFrame(columns).to_csv(folder / "list.csv", index=False)
    return read_manifest(folder / "list.csv")


def units(sizes: list[int]) -> Units:
    return Units(np.repeat(np.arange(len(sizes)), sizes), "subject", [f"subject {n}" for n in range(len(sizes))])


def torn(unit_of: np.ndarray, held: np.ndarray) -> set[int]:
    return set(unit_of[held].tolist()) & set(unit_of[~held].tolist())


# What belongs together

ROOT = Path("/data")


def test_a_unit_is_a_subject_else_a_group_else_a_source_else_a_file():
    table = pd.DataFrame(
        {
            "path": ["1.mp4", "1.mp4", "2.mp4", "3.mp4", "4.mp4", "5.mp4", "6.mp4", "./x/../6.mp4"],
            "source": ["", "", "long.mp4", "long.mp4", "other.mp4", "", "", ""],
            "group": ["", "", "", "", "g", "g", "", ""],
            "subject": ["anna", "anna", "anna", "", "", "", "", ""],
        }
    )
    # 3.mp4 is of the source of a clip of anna; 4 and 5 are a group; 6.mp4 is one file
    for found, of, kind in (
        (units_of(table, ROOT), [0, 0, 0, 0, 1, 1, 2, 2], "subject"),
        (units_of(table, ROOT, ignore_subjects=True), [0, 0, 1, 1, 2, 2, 3, 3], "group"),
        (units_of(table[["path", "source"]], ROOT), [0, 0, 1, 1, 2, 3, 4, 4], "source"),
        (units_of(table[["path"]], ROOT), [0, 0, 1, 2, 3, 4, 5, 5], "file"),
    ):
        assert (found.of.tolist(), found.kind, found.num) == (of, kind, max(of) + 1)
    assert units_of(table, ROOT).names == ["subject anna", "group g", "/data/6.mp4"]


def test_equal_names_of_different_columns_are_different_units():
    table = pd.DataFrame({"path": ["a", "b", "c"], "group": ["", "a", ""], "subject": ["a", "", ""]})
    assert units_of(table, ROOT).of.tolist() == [0, 1, 2]


def test_a_name_in_two_unicode_forms_is_one_file():
    assert units_of(pd.DataFrame({"path": ["Zoe\u0308.mp4", "Zo\u00eb.mp4"]}), ROOT).num == 1


@pytest.mark.parametrize("column", ["subject", "group", "source", None])
def test_validation_shares_nothing_with_training(tmp_path, column):
    """50 files of 8 spans each, or clips of 50 subjects, groups or sources."""
    rows = np.arange(400)
    path = rows // 8 if column is None else rows
    columns = {"path": [f"{n}.mp4" for n in path], "label": rows // 8 % 5, "start_s": rows % 8, "end_s": rows % 8 + 1}
    columns |= {column: [f"u{n}" for n in rows // 8]} if column else {}
    manifest = manifest_of(tmp_path, **columns)
    for seed in SEEDS:
        train, val = carve_validation(manifest, 0.2, seed)
        sides = [{int(Path(sample.key.split("#")[0]).stem) for sample in part} for part in (train, val)]
        sides = sides if column is None else [{n // 8 for n in side} for side in sides]
        assert not sides[0] & sides[1]
        assert len(val) == 80
        assert np.bincount(val.labels, minlength=5).tolist() == [16] * 5


def test_one_unit_cannot_be_divided(tmp_path):
    spans = manifest_of(tmp_path, path=["a.mp4"] * 6, label=[0, 1] * 3, start_s=range(6), end_s=range(1, 7))
    for fraction in (0.1, 0.5, 0.9):
        with pytest.raises(ManifestError, match="only one file to divide"):
            carve_validation(spans, fraction, seed=0)


# How much is held out


def test_a_unit_larger_than_the_part_stays_in_training(capsys):
    """900 clips of one subject and 10 of ten others."""
    one = units([900, *[10] * 10])
    for seed in SEEDS:
        held = hold_out(1000, 0.1, seed, one)
        assert held.sum() == 100
        assert not held[:900].any()
    text = capsys.readouterr().err
    assert (
        "100 of 1000 samples are set aside: no subject is divided, and the largest has 900 (subject 0), alone in its part"
        in text
    )
    assert "if it is several people, name each apart; else leave out some of its samples, or choose" in text
    for seed in SEEDS:
        assert hold_out(1000, 0.2, seed, one).sum() == 100  # there is no nearer set without the 900
    text = capsys.readouterr().err
    assert (
        "100 of 1000 samples are set aside, in place of 200: no subject is divided, and the largest has 900 (subject 0)"
        in text
    )
    assert hold_out(1000, 0.05, 0, one).sum() == 50  # five others stay in training, too
    assert hold_out(900, 0.1, 0, units([100] * 9)).sum() == 100
    assert hold_out(20, 0.5, 0, units([10, 10])).sum() == 10
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "sizes", [[300, 300, 400], [90, *[10] * 91], [7, 1, 1, 1, 1], [5] * 12, [50, *[3] * 30, *[11] * 9]]
)
@pytest.mark.parametrize("fraction", [0.05, 0.1, 0.25, 0.5])
def test_the_part_is_near_what_was_asked_for(sizes, fraction):
    num, wanted = sum(sizes), fraction * sum(sizes)
    for seed in SEEDS:
        held = hold_out(num, fraction, seed, one := units(sizes))
        assert 0 < held.sum() < num
        assert not torn(one.of, held)
        if min(sizes) <= wanted:
            assert held.sum() <= 1.5 * wanted
            fitting = [size for size in sizes if size <= wanted]
            assert held.sum() > wanted - max(fitting) or held.sum() == sum(fitting)
        else:
            assert held.sum() == min(sizes)


def test_many_subjects_rather_than_one_large(tmp_path):
    sizes = [95, *[5] * 181]  # a tenth of 1000 is the large one and a small one, or twenty small ones
    assert not any(hold_out(1000, 0.1, seed, units(sizes))[:95].any() for seed in range(200))


def test_classes_keep_their_shares_among_whole_subjects():
    rng = np.random.default_rng(0)
    sizes = rng.integers(2, 30, 80).tolist()
    one = units(sizes)
    labels = np.concatenate([np.full(size, subject % 4) for subject, size in enumerate(sizes)])  # one class for each
    shares = np.bincount(labels) / len(labels)
    for seed in range(20):
        held = hold_out(len(labels), 0.2, seed, one, labels)
        found = np.bincount(labels[held], minlength=4) / held.sum()
        assert np.abs(found - shares).max() < 0.05
    chosen = {tuple(np.unique(one.of[hold_out(len(labels), 0.2, seed, one, labels)])) for seed in range(20)}
    assert len(chosen) == 20


def test_a_rare_class_is_held_out_if_a_sample_of_it_is_due():
    labels = np.repeat([0, 1], [380, 20])
    one = units([10] * 40)
    for seed in SEEDS:
        assert (labels[hold_out(400, 0.1, seed, one, labels)] == 1).any()


def test_units_of_one_sample_each_are_stratified_exactly():
    labels = np.repeat([0, 1, 2], [60, 30, 10])
    for seed in range(5):
        plain = hold_out(100, 0.2, seed, None, labels)
        assert np.bincount(labels[plain]).tolist() == [12, 6, 2]
        assert np.array_equal(plain, hold_out(100, 0.2, seed, units([1] * 100), labels))


def test_a_large_part_leaves_a_small_one():
    for seed in SEEDS:
        held = hold_out(1000, 0.9, seed, one := units([900, *[10] * 10]))
        assert held.sum() == 900 and not torn(one.of, held)


def test_a_file_is_one_unit_however_its_path_is_written():
    table = pd.DataFrame({"path": ["a/v.mp4", "./a/v.mp4", "../data/a/v.mp4", "/data/a/v.mp4", "v.mp4"]})
    assert units_of(table, ROOT).of.tolist() == [0, 0, 0, 0, 1]
