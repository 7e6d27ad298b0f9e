"""A finished table: people, smoothing, baselines and rounding, its summary, and the formats that it is written in."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

from svfap.cli.main import main
from svfap.errors import UserError
from svfap.predict.config import PredictConfig, RefineSettings, TableConfig
from svfap.predict.finish import finish_table
from svfap.predict.refine import refine
from svfap.predict.summary import summarize
from svfap.predict.table import read_predictions
from svfap.predict.writing import write_table


def table(*, values: bool = False) -> pd.DataFrame:
    """Track 1 from 0 to 4 s and, after a gap, from 6 to 8 s; track 2 from 10 to 12 s; rows every half second."""
    starts = np.concatenate([np.arange(0, 4, 0.5), np.arange(6, 8, 0.5), np.arange(10, 12, 0.5)])
    made = pd.DataFrame({"video": "a.mp4", "track": [1] * 12 + [2] * 4, "start_s": starts, "end_s": starts + 0.5})
    made["first_frame"], made["last_frame"] = (starts * 24).astype(int), (starts * 24).astype(int) + 11
    level = np.array([0.9, 0.1] * 4 + [0.3] * 4 + [0.8] * 4)
    if values:
        return made.assign(valence=level + made["track"] * 10, confidence=0.9)
    label = np.where(level > 0.5, "joy", "calm")
    return made.assign(label=label, prob_joy=level, prob_calm=1 - level, confidence=1 / 3)


def test_without_settings_nothing_changes():
    pd.testing.assert_frame_equal(refine(table(), RefineSettings()), table())


def test_smoothing_is_a_moving_average_that_crosses_no_gap_and_labels_follow():
    smooth = refine(table(), RefineSettings(smooth_s=1.0))
    given = table()["prob_joy"].to_numpy()
    assert smooth["prob_joy"][1:7].to_numpy() == pytest.approx(0.5 * given[1:7] + 0.25 * (given[:6] + given[2:8]))
    assert smooth["prob_joy"][8:].to_numpy() == pytest.approx(given[8:])
    np.testing.assert_allclose(smooth["prob_joy"] + smooth["prob_calm"], 1)
    assert (smooth["label"] == np.where(smooth["prob_joy"] >= smooth["prob_calm"], "joy", "calm")).all()
    assert smooth["label"].tolist() != refine(table(), RefineSettings(smooth_s=2.5))["label"].tolist()


def test_a_baseline_is_the_persons_median_and_not_for_probabilities(tmp_path):
    made = table(values=True)
    less = refine(made, RefineSettings(baseline="median"))
    assert less.groupby("track")["valence"].median().abs().max() < 1e-9
    (tmp_path / "neutral.csv").write_text("video;start_s;end_s\na.mp4;6;8\na.mp4;10;11\n")
    neutral = refine(made, RefineSettings(baseline=str(tmp_path / "neutral.csv")))
    assert neutral["valence"][0] == pytest.approx(0.6) and neutral["valence"][12] == pytest.approx(0)
    (tmp_path / "one.csv").write_text("video,start_s,end_s\na.mp4,6,8\n")
    with pytest.raises(UserError, match=r"no row of Face 2 of a\.mp4 lies in a neutral span"):
        refine(made, RefineSettings(baseline=str(tmp_path / "one.csv")))
    with pytest.raises(UserError, match="gives probabilities alone"):
        refine(table(), RefineSettings(baseline="median"))


def test_people_have_names_and_their_tracks_are_one_face(tmp_path):
    file = tmp_path / "people.csv"
    file.write_text("video,track,person\na.mp4,1,Anna\na.mp4,2,Anna\n")
    named = refine(table(), RefineSettings(persons=file))
    assert list(named)[:3] == ["video", "track", "person"] and set(named["person"]) == {"Anna"}
    (row,) = summarize(named).to_dict("records")
    assert (row["face"], row["tracks"], row["rows"], row["seen_s"]) == ("Anna", "1 2", 16, pytest.approx(8))
    file.write_text("video,track,person\na.mp4,3,Anna\n")
    with pytest.raises(UserError, match=r"people\.csv: video a\.mp4, track 3 is not in the table"):
        refine(table(), RefineSettings(persons=file))
    both = table().assign(track=[1, 2] * 8)
    both["start_s"], both["end_s"] = 0.0, 2.0
    file.write_text("video,track,person\na.mp4,1,Anna\na.mp4,2,Anna\n")
    with pytest.raises(UserError, match="both in view"):
        refine(both, RefineSettings(persons=file))


@pytest.mark.parametrize(
    ("span_s", "hop_s", "late_s"), [(0.2, 0.5, 0), (0.2, 0.5, 0.25), (0, 0.5, 0), (0.64, 0.5, 4.4)]
)
def test_a_person_is_no_two_faces_that_are_in_view_together(span_s, hop_s, late_s, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    starts = np.arange(0, 5, hop_s)
    first = pd.DataFrame({"video": "a.mp4", "track": 1, "start_s": starts, "end_s": starts + span_s, "valence": 0.1})
    second = first.assign(track=2, start_s=starts + late_s, end_s=starts + span_s + late_s, valence=0.9)
    write_table(pd.concat([first, second]), Path("a.csv"))
    Path("same.csv").write_text("video,track,person\na.mp4,1,Anna\na.mp4,2,Anna\n")
    assert main(["table", "a.csv", "--persons", "same.csv", "--smooth_s", "1", "--out", "s.csv"]) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert f"same.csv: Anna is track 1 and track 2 of a.mp4, which are both in view at {late_s:.2f} s" in said
    after = second.assign(start_s=starts + 6, end_s=starts + 6 + span_s)
    assert set(refine(pd.concat([first, after], ignore_index=True), RefineSettings(persons=Path("same.csv")))["person"])
    with pytest.raises(UserError, match="column `person`: Anna is track 1 and track 2"):
        refine(pd.concat([first, second], ignore_index=True).assign(person="Anna"), RefineSettings())


def test_numbers_are_rounded_and_times_keep_milliseconds():
    fine = refine(table().assign(start_s=1 / 3, end_s=2 / 3), RefineSettings(decimals=1))
    assert fine["confidence"][0] == 0.3 and fine["start_s"][0] == 0.333


def test_a_summary_has_a_row_for_each_face():
    found = summarize(table())
    assert found["face"].tolist() == ["Face 1", "Face 2"] and found["seen_s"].tolist() == pytest.approx([6, 2])
    assert found["share_joy"].tolist() == pytest.approx([1 / 3, 1]) and found["prob_joy_max"][0] == 0.9
    assert found["prob_joy_mean"][0] == pytest.approx((4 * 0.9 + 4 * 0.1 + 4 * 0.3) / 12)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_a_summary_has_a_row_for_a_video_without_a_face(suffix, tmp_path):
    write_table(table(), tmp_path / "t.csv")
    about = {"videos": ["none.mp4", "a.mp4", "broken.mp4", "last.mp4"], "failures": {"broken.mp4": "cut"}}
    (tmp_path / "t.csv.about.json").write_text(json.dumps(about))
    config = TableConfig(summary=tmp_path / f"s{suffix}")
    finish_table(tmp_path / "t.csv", config)
    text = config.summary.read_text()
    found = pd.read_csv(config.summary) if suffix == ".csv" else pd.DataFrame(map(json.loads, text.splitlines()))
    assert found["video"].tolist() == ["none.mp4", "a.mp4", "a.mp4", "last.mp4"] and "NaN" not in text
    assert found["rows"].tolist() == [0, 12, 4, 0] and found["seen_s"].tolist() == pytest.approx([0, 6, 2, 0])
    assert found.loc[[0, 3], ["first_s", "last_s", "prob_joy_mean", "share_joy"]].isna().all(axis=None)
    assert list(found) == list(summarize(table())), "the same columns"
    empty = summarize(table()[:0], ["none.mp4"])
    assert empty[["video", "seen_s", "rows"]].to_dict("records") == [{"video": "none.mp4", "seen_s": 0, "rows": 0}]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".json", ".parquet", ".xlsx"])
def test_every_format_of_a_table_is_read_again(suffix, tmp_path):
    made = table().assign(video="=1+1")
    write_table(made, tmp_path / f"t{suffix}")
    pd.testing.assert_frame_equal(read_predictions(tmp_path / f"t{suffix}"), made, check_dtype=False)


def test_elan_tiers_hold_labels_and_values_and_link_the_video(tmp_path):
    (file,) = write_table(table(), tmp_path / "t.eaf")
    root = ElementTree.parse(file).getroot()
    assert [child.tag for child in root][:2] == ["HEADER", "TIME_ORDER"] and root[-1].tag == "LINGUISTIC_TYPE"
    media = root.find("HEADER/MEDIA_DESCRIPTOR")
    assert media.get("MEDIA_URL") == Path("a.mp4").absolute().as_uri() and media.get("MIME_TYPE") == "video/mp4"
    slots = {slot.get("TIME_SLOT_ID"): int(slot.get("TIME_VALUE")) for slot in root.find("TIME_ORDER")}
    assert list(slots.values()) == sorted(set(slots.values()))
    tiers = {tier.get("TIER_ID"): tier.findall("ANNOTATION/ALIGNABLE_ANNOTATION") for tier in root.findall("TIER")}
    assert list(tiers) == ["Face 1: label", "Face 1: values", "Face 2: label", "Face 2: values"]
    for tier in tiers.values():
        spans = [[slots[each.get(f"TIME_SLOT_REF{k}")] for k in (1, 2)] for each in tier]
        assert all(a < b for a, b in spans) and all(b <= c for (_, b), (c, _) in pairwise(spans))
    last = tiers["Face 1: label"][-1]
    assert (slots[last.get("TIME_SLOT_REF1")], slots[last.get("TIME_SLOT_REF2")], last[0].text) == (6000, 8000, "calm")


@pytest.mark.parametrize("suffix", [".eaf", ".vtt"])
def test_predict_says_who_writes_annotations(suffix):
    with pytest.raises(UserError, match=rf"out=x{suffix}: `svfap table` writes this from a finished table"):
        PredictConfig(out=Path(f"x{suffix}"))


def test_captions_hold_the_label_while_it_lasts_and_there_is_a_file_per_video(tmp_path):
    two = pd.concat([table(), table(values=True).drop(columns="valence").assign(video="b.mp4")])
    files = write_table(two.fillna({"prob_joy": 0.2, "prob_calm": 0.8}), tmp_path / "t.vtt")
    assert [file.name for file in files] == ["t_1_a.vtt", "t_2_b.vtt"]
    text = files[0].read_text()
    assert text.startswith("WEBVTT\n\n00:00:00.000 --> 00:00:00.500\nFace 1: joy\n")
    assert text.endswith("00:00:10.000 --> 00:00:12.000\nFace 2: joy\n")


def test_a_list_without_rows_is_refused(tmp_path):
    (tmp_path / "p.csv").write_text("video,track,person\n")
    with pytest.raises(UserError, match=r"p\.csv: holds a header and no rows"):
        refine(table(), RefineSettings(persons=tmp_path / "p.csv"))


def test_rounded_values_have_no_negative_zero():
    made = table(values=True).assign(valence=-0.001)
    assert not np.signbit(refine(made, RefineSettings(decimals=2))["valence"]).any()


def test_single_pictures_have_no_captions(tmp_path, capsys):
    picture = table().assign(video="p.png", start_s=0.0, end_s=0.0)
    with pytest.raises(UserError, match=r"p\.png: is a single picture"):
        write_table(picture, tmp_path / "p.vtt")
    files = write_table(pd.concat([picture, table()]), tmp_path / "t.vtt")
    assert [file.name for file in files] == ["t.vtt"] and "1 single picture left out" in capsys.readouterr().err


def test_the_command_writes_table_summary_and_how_it_was_made(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_table(table(), Path("t.csv"))
    Path("t.csv.about.json").write_text(json.dumps({"methods": "It was made.", "model": "m"}))
    assert main(["table", "t.csv", "--smooth_s", "1", "--decimals", "2", "--out", "s.xlsx", "--summary", "s.csv"]) == 0
    assert main(["methods", "s.xlsx"]) == 0
    assert (
        "It was made. Values were smoothed within each track by a centred moving average over 1 s"
        in capsys.readouterr().out
    )
    about = json.loads(Path("s.xlsx.about.json").read_text())
    assert about["model"] == "m" and about["refined"] == [{"smooth_s": 1.0, "decimals": 2}]
    assert len(pd.read_csv("s.csv")) == 2
    assert main(["table", "t.csv", "--out", "s.xlsx"]) == 1 and "exists" in capsys.readouterr().err
    assert (
        main(["table", "t.csv", "--out", "t.csv", "--overwrite"]) == 1 and "the table itself" in capsys.readouterr().err
    )
    assert main(["methods", "none.csv"]) == 1 and "none.csv: no such file" in capsys.readouterr().err
    Path("s.csv").unlink()
    assert main(["table", "s.xlsx", "--smooth_s", "2", "--out", "again.csv"]) == 1
    assert "s.xlsx is smoothed over 1 s already" in capsys.readouterr().err
