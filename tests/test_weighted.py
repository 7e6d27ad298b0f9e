"""Paths with weights in one setting."""

from __future__ import annotations

from pathlib import Path

import pytest

from svfap import settings
from svfap.errors import UserError
from svfap.train.config import FinetuneConfig, PretrainConfig
from svfap.weighted import described, split_weight, weighted_paths


@pytest.mark.parametrize(
    ("text", "path", "weight"),
    [
        ("a.csv:2", "a.csv", 2.0), ("a.csv:.5", "a.csv", 0.5), ("a.csv:1e-3", "a.csv", 1e-3), ("a.csv", "a.csv", None),
        ("a:b.csv", "a:b.csv", None), ("a.csv:", "a.csv:", None), ("a.csv:2x", "a.csv:2x", None),
        ("C:\\data\\a.csv", "C:\\data\\a.csv", None), ("C:\\data\\a.csv:2", "C:\\data\\a.csv", 2.0),
        ("s3://x.csv", "s3://x.csv", None), ("s3://bucket/a.csv:3", "s3://bucket/a.csv", 3.0), ("s3://b:3", "s3://b", 3.0),
        ("http://host:8000", "http://host:8000", None), ("http://host:8000/a.csv", "http://host:8000/a.csv", None),
        ("http://host:8000:2", "http://host:8000", 2.0), ("a.csv:nan", "a.csv", pytest.approx(float("nan"), nan_ok=True)),
    ],
)  # fmt: skip
def test_weights_and_other_colons(text, path, weight):
    assert split_weight(text) == (path, weight)


def test_a_file_with_such_a_name_has_no_weight(tmp_path):
    (tmp_path / "a:2").touch()
    assert split_weight(f"{tmp_path}/a:2") == (f"{tmp_path}/a:2", None)
    assert PretrainConfig(out=Path("o"), manifest=tmp_path / "a:2").manifest == tmp_path / "a:2"


def test_settings_of_one_and_of_several():
    assert PretrainConfig(out="o", manifest="a.csv").manifest == Path("a.csv")
    assert PretrainConfig(out="o", manifest=["a.csv"]).manifest == Path("a.csv")
    several = PretrainConfig(out="o", manifest=["a.csv:2", "b.csv:1.50"]).manifest
    assert several == ["a.csv:2", "b.csv:1.5"]
    assert weighted_paths(several) == [(Path("a.csv"), 2.0), (Path("b.csv"), 1.5)]
    assert PretrainConfig(out="o", manifest=[Path("a.csv"), Path("b.csv")]).manifest == ["a.csv", "b.csv"]
    assert described(several) == "a.csv:2, b.csv:1.5" and described(Path("a.csv")) == "a.csv" and described(None) == ""


def test_urls_have_weights(monkeypatch):
    monkeypatch.setattr(settings, "local_copy", lambda url: Path("/copy") / url.rpartition("/")[2])
    config = PretrainConfig(out="o", manifest=["s3://bucket/a.csv:2", "b.csv:1"])
    assert config.manifest == ["/copy/a.csv:2", "b.csv:1"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("a.csv:2", "manifest=a.csv:2: a weight is for one of several; give a.csv alone"),
        (["a.csv:2", "b.csv"], "manifest: b.csv has no weight, and others have one"),
        ("a.csv:x", "manifest=a.csv:x: what follows the colon, 'x', is no number above 0"),
        (["a.csv:1/3", "b.csv:1"], "manifest=a.csv:1/3: what follows the colon, '1/3', is no number above 0"),
        ("a.csv,b.csv", "manifest=a.csv,b.csv: no such file; several are separated by spaces, as a.csv b.csv"),
        ("a.csv:2,b.csv:1", "several are separated by spaces, as a.csv:2 b.csv:1"),
        (["a.csv:0", "b.csv:1"], "manifest=a.csv:0: a weight must be a number above 0"),
        (["a.csv:1", "b.csv:-2"], "manifest=b.csv:-2: a weight must be a number above 0"),
        (["a.csv:inf", "b.csv:1"], "manifest=a.csv:inf: a weight must be a number above 0"),
        (["a.csv:1", "a.csv:2"], "manifest: a.csv is given twice"),
        ([], "manifest: is an empty list"),
    ],
)
def test_what_is_no_weight(given, message):
    with pytest.raises(UserError, match=message):
        PretrainConfig(out="o", manifest=given)


def test_validation_has_no_weights():
    with pytest.raises(UserError, match=r"val_manifest=a\.csv:2: every video of validation counts once"):
        FinetuneConfig(out="o", manifest="m.csv", val_manifest=["a.csv:2", "b.csv:1"])
