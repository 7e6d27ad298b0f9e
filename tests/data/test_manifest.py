from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from svfap.data.manifest import Manifest, read_manifest
from svfap.data.manifest_rows import ManifestError
from svfap.data.split import carve_validation


def write(folder: Path, text: str, name: str = "list.csv") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def refused(path: Path, **options: object) -> str:
    with pytest.raises(ManifestError) as caught:
        read_manifest(path, **options)  # type: ignore[arg-type]
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message


def test_a_full_row(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "path,label,start_s,end_s,subject,split,box,frame_values,group\n"
        "a.mp4, happy ,1.5,2.25,s1,train,10 20 30.5 40,a.csv,folds/1\n"
        "./b.mp4,angry,,,,train,,,\n",
    )
    manifest = read_manifest(path, split="train")
    assert (manifest.path, manifest.label_names, manifest.dimensions) == (path, ("angry", "happy"), None)
    full, bare = manifest
    assert full.path == tmp_path / "a.mp4"
    assert full.key == "a.mp4#t=1.5,2.25#xywh=10,20,30.5,40"
    assert (full.label, full.values, full.start_s, full.end_s) == (1, None, 1.5, 2.25)
    assert (full.subject, full.split, full.group) == ("s1", "train", "folds/1")
    assert (full.box, full.frame_values) == ((10.0, 20.0, 30.5, 40.0), tmp_path / "a.csv")
    assert (bare.key, bare.label, bare.start_s, bare.end_s) == ("b.mp4", 0, None, None)
    assert (bare.subject, bare.box, bare.frame_values, bare.group) == (None, None, None, None)
    assert manifest.subjects is not None
    assert manifest.subjects.tolist() == ["s1", ""]
    assert manifest.labels is not None
    assert manifest.labels.tolist() == [1, 0]


def test_root_and_absolute_paths(tmp_path: Path) -> None:
    path = write(tmp_path, "path,label\nv/a.mp4,0\n/data/b.mp4,1\n")
    assert [sample.path for sample in read_manifest(path)] == [tmp_path / "v/a.mp4", Path("/data/b.mp4")]
    assert read_manifest(path, root="/videos")[0].path == Path("/videos/v/a.mp4")


def test_a_manifest_is_a_sequence(tmp_path: Path) -> None:
    manifest = read_manifest(write(tmp_path, "path,label\n" + "".join(f"{i}.mp4,{i % 3}\n" for i in range(10))))
    assert len(manifest) == 10
    assert manifest[-1].key == "9.mp4"
    part = manifest.subset([7, 2])
    assert [sample.key for sample in part] == ["7.mp4", "2.mp4"]
    assert part.label_names == manifest.label_names == ("0", "1", "2")
    assert [sample.key for sample in manifest[8:]] == ["8.mp4", "9.mp4"]
    with pytest.raises(IndexError):
        manifest[10]


def test_published_lists_without_a_header(tmp_path: Path) -> None:
    manifest = read_manifest(write(tmp_path, "Clip/00001 3\nClip/a, b 0\n\nwith space.mp4 1\n", "train.txt"))
    assert [(sample.key, sample.label) for sample in manifest] == [
        ("Clip/00001", 3),
        ("Clip/a, b", 0),
        ("with space.mp4", 1),
    ]
    assert manifest.label_names == ("0", "1", "2", "3")
    named = read_manifest(write(tmp_path, "00025.mp4 anger\n00026.mp4 fear\n", "set.txt"))
    assert named.label_names == ("anger", "fear")
    assert named[1].label == 1


def test_label_names_given_or_found(tmp_path: Path) -> None:
    names = write(tmp_path, "path,label\na,happy\nb,NA\nc,happy\n")
    assert read_manifest(names).label_names == ("NA", "happy")
    given = read_manifest(names, label_names=["sad", "happy", "NA"])
    assert given.label_names == ("sad", "happy", "NA")
    assert [sample.label for sample in given] == [1, 2, 1]
    numbers = write(tmp_path, "path,label\na,2\nb,0.0\n", "numbers.csv")
    assert [sample.label for sample in read_manifest(numbers, label_names=["x", "y", "z"])] == [2, 0]
    digits = read_manifest(numbers, label_names=["0.0", "2"])  # names that look like numbers are names
    assert [sample.label for sample in digits] == [1, 0]


def test_regression_columns(tmp_path: Path) -> None:
    path = write(tmp_path, "path,subject,valence,note,arousal,label\na,s,-0.5,x,1e-1,3\nb,s,0.25,2,1,4\n")
    found = read_manifest(path, task="regression")
    assert found.dimensions == ("valence", "arousal")
    assert [sample.values for sample in found] == [(-0.5, 0.1), (0.25, 1.0)]
    assert found[0].label is None
    assert found.label_names is None
    chosen = read_manifest(path, task="regression", dimensions=["arousal"])
    assert chosen.dimensions == ("arousal",)
    assert chosen[1].values == (1.0,)
    assert "no column 'dominance'" in refused(path, task="regression", dimensions=["dominance", "arousal"])


@pytest.mark.parametrize("bad", ["", "oops", "nan"])
def test_a_bad_value_in_the_first_row_does_not_drop_its_column(tmp_path: Path, bad: str) -> None:
    path = write(tmp_path, f"path,valence,arousal\na,0.1,{bad}\nb,0.2,0.3\nc,0.3,0.1\n")
    assert "row 2" in (message := refused(path, task="regression"))
    assert "arousal" in message


def test_values_per_frame_alone(tmp_path: Path) -> None:
    path = write(tmp_path, "path,frame_values\na,a.csv\nb,b.csv\n")
    manifest = read_manifest(path, task="regression", dimensions=["valence"])
    assert manifest[0].values is None
    assert manifest[0].frame_values == tmp_path / "a.csv"
    assert "no column of numbers" in (text := refused(path, task="regression"))
    assert text.endswith("name those of the files of values per frame with `dimensions`")


def test_unlabelled_ignores_labels(tmp_path: Path) -> None:
    manifest = read_manifest(write(tmp_path, "path,label,valence\na,nan,x\nb,,\n"), task="unlabelled")
    assert manifest.labels is None
    assert manifest.label_names is None
    assert [(sample.label, sample.values) for sample in manifest] == [(None, None)] * 2
    assert len(read_manifest(write(tmp_path, "path\na\nb\n"), task="unlabelled")) == 2


def test_split_chooses_rows_and_keeps_all_labels(tmp_path: Path) -> None:
    path = write(tmp_path, "path,label,split\na,x,train\nb,y,test\nc,,pretrain\nd,z,train\n")
    train = read_manifest(path, split="train")
    assert [(sample.key, sample.label) for sample in train] == [("a", 0), ("d", 2)]
    assert train.label_names == ("x", "y", "z")
    assert "holds several parts, pretrain, test, train; say which one with `split`" in refused(path)
    assert "no row with split 'val'; there are pretrain, test, train" in refused(path, split="val")
    plain = write(tmp_path, "path,label\na,0\n", "plain.csv")
    assert "no column 'split'" in refused(plain, split="val")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file is empty"),
        ("\n \n", "the file is empty"),
        ("path,label\n", "holds a header and no rows"),
        ("\npath,label\na,0\nb,\n", "row 4, column 'label': is missing"),
        ("file,label\na,0\n", "no column 'path' among file, label"),
        ("path,emotion\na,0\n", "no column 'label'"),
        ("path,label\na,0\n\nb,\n", "row 4, column 'label': is missing"),
        ("path,label\na,0\nb,NaN\nc,nan\n", "row 3 (and 1 more), column 'label': is missing"),
        ("path,label\na,0\nb,-1\n", "row 3, column 'label': -1 is out of range; labels are 0 to 9999"),
        ("path,label\na,0\nb,123456789\n", "row 3, column 'label': 123456789 is out of range"),
        ("path,label\na,happy\nb,3\n", "row 3, column 'label': '3' is a number among names"),
        ("path,label\na,0\nb,1\na,1\n", "row 4, column 'path': 'a' is listed before"),
        ("path,label\na,0\n./a,1\n", "row 3, column 'path': 'a' is listed before"),
        ("path,label\n,0\n", "row 2, column 'path': is empty"),
        ("path,label,start_s,end_s\na,0,2,2\n", "row 2, column 'end_s': is not after start_s"),
        ("path,label,end_s\na,0,0\n", "row 2, column 'end_s': is not after start_s"),
        ("path,label,start_s\na,0,-1\n", "row 2, column 'start_s': is negative"),
        ("path,label,start_s\na,0,soon\n", "row 2, column 'start_s': is not a finite number"),
        ("path,label,box\na,0,\nb,0,1 2 3\n", "row 3, column 'box': is not 'x y w h'"),
        ("path,label,box\na,0,1 2 3 4 5\n", "row 2, column 'box': is not 'x y w h'"),
        ("path,label,box\na,0,1 2 0 4\n", "row 2, column 'box': is not 'x y w h'"),
        ("path,label\nb,1\na,0,surplus,more\n", "is not a CSV table"),
        ("path,label\na,b.mp4,0\n", "rows have more fields than the header"),
    ],
)
def test_mistakes_are_named_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    assert message in refused(write(tmp_path, text))


def test_labels_that_do_not_fit_the_given_names(tmp_path: Path) -> None:
    path = write(tmp_path, "path,label\na,happy\nb,sat\nc,sat\n")
    message = refused(path, label_names=["happy", "sad"])
    assert "row 3 (and 1 more), column 'label': 'sat' is not a known label; known are happy, sad" in message
    path = write(tmp_path, "path,label\na,0\nb,2\n")
    assert "2 is out of range; labels are 0 to 1" in refused(path, label_names=["happy", "sad"])


@pytest.mark.parametrize("value", ["", "nan", "inf", "much"])
def test_values_that_are_no_numbers(tmp_path: Path, value: str) -> None:
    path = write(tmp_path, f"path,valence,arousal\na,0.5,1\nb,{value},1\n")
    assert "row 3, column 'valence': is " in refused(path, task="regression")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    assert "no such file" in refused(tmp_path / "absent.csv")
    assert "is a folder without a manifest" in refused(tmp_path)
    (tmp_path / "a.csv").write_text("path\n")
    assert f"is a folder; give a manifest, such as {tmp_path / 'a.csv'}" in refused(tmp_path)
    latin = tmp_path / "latin.csv"
    latin.write_bytes("path,label\nmüde.mp4,0\n".encode("latin-1"))
    assert "is not UTF-8 text" in refused(latin)
    wide = tmp_path / "wide.csv"
    wide.write_bytes("path,label\na,0\n".encode("utf-16"))
    assert "is not UTF-8 text" in refused(wide)
    marked = tmp_path / "marked.csv"
    marked.write_bytes("path,label\nmüde.mp4,0\n".encode("utf-8-sig"))
    assert read_manifest(marked)[0].key == "müde.mp4"


def test_one_video_may_give_several_spans_and_boxes(tmp_path: Path) -> None:
    path = write(
        tmp_path, "path,label,start_s,end_s,box\na,0,0,1,\na,1,1,2,\na,1,1,2,0 0 5 5\n" + "a,1,1,2,5 0 5 5\na,0,,,\n"
    )
    keys = [sample.key for sample in read_manifest(path)]
    assert keys == ["a#t=0,1", "a#t=1,2", "a#t=1,2#xywh=0,0,5,5", "a#t=1,2#xywh=5,0,5,5", "a"]
    path.write_text(path.read_text() + "a,0,1.0,2.0,\n")
    assert "row 7, column 'path': 'a' is listed before" in refused(path)


def people(folder: Path, subjects: list[str]) -> Manifest:
    rows = "".join(f"{i}.mp4,{i % 2},{subject}\n" for i, subject in enumerate(subjects))
    return read_manifest(write(folder, "path,label,subject\n" + rows))


def test_validation_is_carved_by_subject(tmp_path: Path) -> None:
    manifest = people(tmp_path, [f"s{i // 5}" for i in range(100)])
    train, val = carve_validation(manifest, 0.2, seed=3)
    assert len(train) == 80
    assert len(val) == 20
    assert not {sample.subject for sample in train} & {sample.subject for sample in val}
    again = carve_validation(manifest, 0.2, seed=3)[1]
    assert [sample.key for sample in val] == [sample.key for sample in again]
    other = carve_validation(manifest, 0.2, seed=4)[1]
    assert [sample.key for sample in val] != [sample.key for sample in other]


def test_carving_by_subject_leaves_neither_side_empty(tmp_path: Path) -> None:
    for fraction in (0.01, 0.99):
        train, val = carve_validation(people(tmp_path, ["a", "a", "b"]), fraction, seed=0)
        assert {len(train), len(val)} == {1, 2}
    with pytest.raises(ManifestError, match="only one subject"):
        carve_validation(people(tmp_path, ["a", "a"]), 0.5, seed=0)
    train, val = carve_validation(people(tmp_path, ["a", "a", "", ""]), 0.5, seed=0)
    assert len(train) + len(val) == 4
    assert ("a" in {sample.subject for sample in train}) != ("a" in {sample.subject for sample in val})


def test_validation_is_carved_by_class_where_no_subject_is_known(tmp_path: Path) -> None:
    labels = [0] * 60 + [1] * 30 + [2] * 10
    manifest = read_manifest(write(tmp_path, "path,label\n" + "".join(f"{i},{y}\n" for i, y in enumerate(labels))))
    train, val = carve_validation(manifest, 0.2, seed=1)
    assert val.labels is not None
    assert np.bincount(val.labels).tolist() == [12, 6, 2]
    assert {sample.key for sample in train} | {sample.key for sample in val} == {sample.key for sample in manifest}
    assert len(train) + len(val) == 100
    assert [sample.key for sample in val] == [sample.key for sample in carve_validation(manifest, 0.2, seed=1)[1]]
    assert [sample.key for sample in val] != [sample.key for sample in carve_validation(manifest, 0.2, seed=2)[1]]
    pair = manifest.subset([0, 1])
    for fraction in (0.01, 0.99):
        assert [len(part) for part in carve_validation(pair, fraction, seed=0)] == [1, 1]
    with pytest.raises(ManifestError, match="too few to divide"):
        carve_validation(manifest.subset([0]), 0.5, seed=0)
    with pytest.raises(ManifestError, match="not between 0 and 1"):
        carve_validation(manifest, 1.0, seed=0)


def test_many_rows_stay_a_table(tmp_path: Path) -> None:
    rows = "".join(f"videos/id{i // 100}/{i}.mp4,{'abc'[i % 3]},s{i // 100}\n" for i in range(100_000))
    manifest = read_manifest(write(tmp_path, "path,label,subject\n" + rows))
    assert manifest[99_999].subject == "s999"
    assert manifest[99_999].label == 0
    assert manifest.table.memory_usage(deep=True).sum() < 100 * len(manifest)


# What may be wrong in a file without being noticed


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_the_separator_is_that_of_the_header(tmp_path: Path, separator: str) -> None:
    rows = [("path", "label", "valence", "note"), ("a.mp4", "happy", "0.5", "x y"), ("b.mp4", "sad", "-1.25", "")]
    path = write(tmp_path, "".join(separator.join(row) + "\n" for row in rows))
    manifest = read_manifest(path)
    assert [(sample.key, sample.label) for sample in manifest] == [("a.mp4", 0), ("b.mp4", 1)]
    assert manifest.label_names == ("happy", "sad")
    values = read_manifest(path, task="regression")
    assert (values.dimensions, [sample.values for sample in values]) == (("valence",), [(0.5,), (-1.25,)])


def test_semicolons_come_with_decimal_commas(tmp_path: Path) -> None:
    path = write(tmp_path, "path;valence;start_s;subject\na, b.mp4;0,5;1,5;p 1,2\nb.mp4;-1;;p 3\n")
    first, second = read_manifest(path, task="regression")
    assert (first.key, first.values, first.start_s, first.subject) == ("a, b.mp4#t=1.5,", (0.5,), 1.5, "p 1,2")
    assert second.values == (-1.0,)
    frames = write(tmp_path, "path;x\na.mp4;0,5 1,5 2\n", "frames.csv")
    manifest = read_manifest(frames, task="regression", frame_level=True)
    assert manifest[0].frame_numbers.tolist() == [[0.5], [1.5], [2]]


@pytest.mark.parametrize("header", ["file\tlabel", "path label", "Video emotion", "name class"])
def test_a_header_is_not_the_first_row_of_a_list(tmp_path: Path, header: str) -> None:
    message = refused(write(tmp_path, f"{header}\na.mp4 happy\nb.mp4 sad\n", "list.txt"))
    assert f"the first line, '{header}', is a header without a column 'path'" in message
    assert "write it as path,label" in message


def test_lists_with_the_number_of_frames(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, "clips/v 00 20 1\nclips/v01 7 0\n\nclips/v02 20 1\n", "raw.txt")
    found = [(sample.key, sample.label) for sample in read_manifest(path)]
    assert found == [("clips/v 00", 1), ("clips/v01", 0), ("clips/v02", 1)]
    text = capsys.readouterr().err
    assert f"{path}: lines of three columns; read as path, number of frames (ignored), label" in text
    (tmp_path / "clip 1").mkdir()  # a name of two words is there
    path = write(tmp_path, "clip 1 0\nclip 2 1\n", "two.txt")
    assert [sample.key for sample in read_manifest(path)] == ["clip 1", "clip 2"]
    path = write(tmp_path, "a 1 0\nb 1\n", "mixed.txt")
    assert [sample.key for sample in read_manifest(path)] == ["a 1", "b"]
    assert capsys.readouterr().err == ""


def test_classes_counted_from_one_and_holes_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, "path,label\n" + "".join(f"{n}.mp4,{n}\n" for n in range(1, 8)))
    assert read_manifest(path).label_names == tuple("01234567")
    text = capsys.readouterr().err
    assert f"{path}: no row has label 0: 8 outputs for 7 classes; if classes are counted from 1, subtract 1" in text
    assert "labels are 0 to 6, not counted from 1" in refused(path, label_names=list("abcdefg"))
    path = write(tmp_path, "path,label\na,0\nb,1\nc,4\n", "holes.csv")
    assert len(read_manifest(path).label_names or ()) == 5
    assert "no row has label 2, 3: 5 outputs for 3 classes\n" in capsys.readouterr().err
    read_manifest(write(tmp_path, "path,label\na,0\nb,1\n", "whole.csv"))
    assert capsys.readouterr().err == ""


def test_codes_with_leading_zeros_are_names(tmp_path: Path) -> None:
    path = write(tmp_path, "path,label\na,01\nb,02\nc,08\n")
    manifest = read_manifest(path)
    assert manifest.label_names == ("01", "02", "08")
    assert manifest.labels is not None
    assert manifest.labels.tolist() == [0, 1, 2]
    assert "'01' is not a known label; known are x, y, z" in refused(path, label_names=["x", "y", "z"])
    assert "'1' is a number among names" in refused(write(tmp_path, "path,label\na,01\nb,1\n", "both.csv"))


def test_classes_that_differ_only_in_case_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, "path,label\na,Happy\nb,happy\nc,HAPPY\nd,sad\n")
    assert read_manifest(path).label_names == ("HAPPY", "Happy", "happy", "sad")
    assert f"{path}: classes HAPPY, Happy, happy differ only in case" in capsys.readouterr().err


def test_a_class_in_two_unicode_forms_is_one(tmp_path: Path) -> None:
    path = write(tmp_path, "path,label\na,fro\u0308hlich\nb,fr\u00f6hlich\n")
    assert read_manifest(path).label_names == ("fr\u00f6hlich",)
    assert [sample.label for sample in read_manifest(path, label_names=["x", "fro\u0308hlich"])] == [1, 1]


def test_files_that_are_all_missing_are_one_error(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "77.mp4").touch()
    path = write(tmp_path, "path,label\n" + "".join(f"videos\\{n}.mp4,0\n" for n in range(100)))
    with pytest.raises(ManifestError) as caught:
        read_manifest(path).require_files()
    message = str(caught.value)
    assert f"none of the 20 paths looked at exists, such as {tmp_path}/videos\\0.mp4: no such file" in message
    assert (
        f"Paths are relative to {tmp_path}; correct them, or where the command has --root name their folder with it"
        in message
    )
    path = write(tmp_path, "path,label\n" + "".join(f"videos/{n}.mp4,0\n" for n in range(60, 79)))
    read_manifest(path).require_files()  # one of them exists
    with pytest.raises(ManifestError, match="relative to /elsewhere"):
        read_manifest(path, root="/elsewhere").require_files()


def test_values_of_clips_that_are_marks_or_out_of_range(tmp_path: Path) -> None:
    path = write(tmp_path, "path,x,y\na,0.5,1\nb,-5,-5\nc,1.5,0\n")
    options = {"task": "regression", "invalid_marks": [-5]}
    assert "row 3, column 'x': -5 is a mark of what is not annotated; correct it or" in refused(path, **options)
    message = refused(path, task="regression", label_range=(-5, 1))
    assert "row 4, column 'x': 1.5 is outside label_range (-5, 1)" in message
    rounded = write(tmp_path, "path,x\na,1.0000001\nb,0\n", "rounded.csv")
    assert len(read_manifest(rounded, task="regression", label_range=(0, 1))) == 2
