"""The synthetic faces: what is written, what it means, and which classes need time."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression

from svfap.data.prepared import read_dataset
from svfap.data.video import VideoError, open_video, write_video
from svfap.errors import UserError
from svfap.synth.behaviour import ACTION_UNITS, AFFECT_PROTOTYPES, PROTOTYPES, make_behaviour
from svfap.synth.camera import _background, render_clip
from svfap.synth.config import AFFECT, CLASSES, TRAITS, RenderConfig, SynthConfig
from svfap.synth.dataset import Synthesized, synthesize
from svfap.synth.identity import make_identity

SMALL = dict(
    size_px=64, num_frames=12, num_pretrain=4, num_train=14, num_val=2, num_test=7, clips_per_identity=7, seed=3
)
SPLITS = ("pretrain", "train", "val", "test")
CLIP = RenderConfig()


def small(out: Path, **changes) -> SynthConfig:
    return SynthConfig(out=out, **{**SMALL, **changes})


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("synth") / "data"
    synthesize(small(out))
    return out


@pytest.fixture(scope="module")
def tables(dataset) -> dict[str, pd.DataFrame]:
    return {split: pd.read_csv(dataset / f"{split}.csv") for split in SPLITS}


# What is written -----------------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_bytes_in_one_process_or_two(dataset, tmp_path):
    synthesize(small(tmp_path / "again", num_workers=2))
    first, second = contents(dataset), contents(tmp_path / "again")
    assert len([name for name in first if name.endswith(".mp4")]) == 27
    assert first == second


def test_another_seed_gives_other_videos_and_values(dataset, tmp_path):
    synthesize(small(tmp_path, seed=4))
    first, second = contents(dataset), contents(tmp_path)
    assert first.keys() == second.keys()
    same = [name for name in first if first[name] == second[name] and not name.startswith(("frames/", "dataset"))]
    assert same == []


def test_manifests_have_exactly_the_documented_columns(tables):
    labelled = ["path", "label", *AFFECT, *TRAITS, "subject", "frame_values"]
    assert list(tables["pretrain"].columns) == ["path", "subject"]
    for split in ("train", "val", "test"):
        assert list(tables[split].columns) == labelled


def test_a_split_of_no_clips_still_has_a_header_and_is_no_part_of_the_dataset(tmp_path):
    synthesize(small(tmp_path, num_pretrain=0, num_train=1, num_val=0, num_test=0))
    assert (tmp_path / "pretrain.csv").read_text() == "path,subject\n"
    assert (tmp_path / "val.csv").read_text() == (tmp_path / "train.csv").read_text().splitlines()[0] + "\n"
    dataset = read_dataset(tmp_path)
    (fold,) = dataset.folds
    assert (dataset.pretrain, fold.val, fold.test) == (None, None, None) and fold.train == tmp_path / "train.csv"
    synthesize(small(tmp_path / "unlabelled", num_pretrain=1, num_train=0, num_val=0, num_test=0))
    assert read_dataset(tmp_path / "unlabelled").folds == ()


def test_counts_classes_and_files(dataset, tables):
    assert {split: len(table) for split, table in tables.items()} == {"pretrain": 4, "train": 14, "val": 2, "test": 7}
    assert tables["train"]["label"].value_counts().to_dict() == dict.fromkeys(CLASSES, 2)
    assert tables["test"]["label"].value_counts().to_dict() == dict.fromkeys(CLASSES, 1)
    # Each face shows every class once, so who it is says nothing about what it shows.
    for _, clips in tables["train"].groupby("subject"):
        assert sorted(clips["label"]) == sorted(CLASSES)
    paths = [path for table in tables.values() for path in table["path"]]
    assert len(set(paths)) == 27
    assert {f"videos/{p.name}" for p in (dataset / "videos").iterdir()} == set(paths)


def test_identities_are_disjoint_across_splits(tables):
    subjects = [set(tables[split]["subject"]) for split in SPLITS]
    assert [len(s) for s in subjects] == [1, 2, 1, 1]
    assert len(set.union(*subjects)) == sum(map(len, subjects))


def test_identities_of_two_seeds_do_not_overlap(dataset, tmp_path, tables):
    synthesize(small(tmp_path, seed=4, num_pretrain=0, num_train=7, num_val=0, num_test=0))
    assert not set(pd.read_csv(tmp_path / "train.csv")["subject"]) & {s for t in tables.values() for s in t["subject"]}


def test_videos_are_as_configured(dataset, tables):
    for path in [tables["train"]["path"][0], tables["pretrain"]["path"][3]]:
        with open_video(dataset / path) as source:
            assert (source.num_frames, source.width, source.height, source.fps) == (12, 64, 64, 25)
            frames = source.read(range(12))
        assert frames.std() > 10 and np.abs(np.diff(frames.astype(int), axis=0)).mean() > 0.3


def test_frame_values_have_a_row_a_frame_and_peak_at_the_clips_values(dataset, tables):
    for split in ("train", "val", "test"):
        for row in tables[split].to_dict("records"):
            frames = pd.read_csv(dataset / row["frame_values"])
            assert list(frames.columns) == list(AFFECT) and len(frames) == SMALL["num_frames"]
            peak = frames.abs().sum(axis=1).idxmax()
            assert frames.loc[peak].tolist() == pytest.approx([row[name] for name in AFFECT], abs=1e-6)
            if row["label"] == "neutral":
                assert (frames == 0).all(axis=None)
            else:
                assert frames.abs().sum(axis=1).iloc[peak] > 0.3 > frames.abs().sum(axis=1).min()
                ratio = frames.loc[peak].to_numpy() / np.array(AFFECT_PROTOTYPES[row["label"]])
                np.testing.assert_allclose(ratio, ratio[0], rtol=1e-4)


# Resuming, and refusing ----------------------------------------------------------------------------------------------


def test_only_missing_videos_are_rendered_again(tmp_path):
    config = small(tmp_path, num_pretrain=2, num_train=3, num_val=1, num_test=1)
    synthesize(config)
    whole = contents(tmp_path)
    videos = sorted((tmp_path / "videos").iterdir())
    before = {video: video.stat().st_mtime_ns for video in videos}
    # Broken off: two videos, all manifests and the closing synth.json are not there yet.
    (tmp_path / "synth.json").rename(tmp_path / "synth.part.json")
    for path in [videos[1], videos[4], *tmp_path.glob("*.csv")]:
        path.unlink()
    synthesize(config)
    assert contents(tmp_path) == whole
    assert [v for v in videos if v.stat().st_mtime_ns != before[v]] == [videos[1], videos[4]]
    # Lost later, from a finished dataset.
    before = {video: video.stat().st_mtime_ns for video in videos}
    videos[0].unlink()
    synthesize(config)
    assert contents(tmp_path) == whole
    assert [v for v in videos if v.stat().st_mtime_ns != before[v]] == [videos[0]]


def test_a_video_that_cannot_be_written_is_told_and_the_others_are_kept(tmp_path, monkeypatch):
    config = small(tmp_path, num_pretrain=0, num_train=3, num_val=0, num_test=0)

    def disk_full(path, *args, **kwargs):
        if "train_000001" in path.name:
            path.write_bytes(b"half")
            raise VideoError(path, "cannot be written (No space left on device)")
        write_video(path, *args, **kwargs)

    monkeypatch.setattr("svfap.synth.dataset.write_video", disk_full)
    with pytest.raises(UserError, match=r"^1 of 3 videos .*/train_000001\.mp4: cannot be written \(No space"):
        synthesize(config)
    videos = tmp_path / "videos"
    assert sorted(path.name for path in videos.iterdir()) == ["train_000000.mp4", "train_000002.mp4"]
    assert not (tmp_path / "synth.json").exists()
    monkeypatch.undo()
    (videos / ".train_000001.0.mp4").write_bytes(b"left behind by a process that was killed")
    assert synthesize(config) == Synthesized(3, 1)
    assert sorted(path.name for path in videos.iterdir()) == [f"train_00000{k}.mp4" for k in range(3)]


def test_a_finished_dataset_is_left_alone(dataset):
    before = {path: path.stat().st_mtime_ns for path in dataset.rglob("*")}
    assert synthesize(small(dataset)) == Synthesized(27, 0)
    assert {path: path.stat().st_mtime_ns for path in dataset.rglob("*")} == before


@pytest.mark.parametrize("state", ["finished", "broken off"])
def test_another_config_in_the_folder_is_refused_by_name(tmp_path, state):
    config = small(tmp_path, num_pretrain=1, num_train=0, num_val=0, num_test=0)
    synthesize(config)
    if state == "broken off":
        (tmp_path / "synth.json").rename(tmp_path / "synth.part.json")
    before = contents(tmp_path)
    with pytest.raises(
        UserError, match=r"other settings \(nuisance: 1\.0 then, 0\.5 now, seed: 3 then, 9 now\); delete it"
    ):
        synthesize(replace(config, seed=9, nuisance=0.5))
    assert contents(tmp_path) == before


@pytest.mark.parametrize("content", ["{broken", "[1, 2]"])
def test_a_damaged_record_is_refused(tmp_path, content):
    (tmp_path / "synth.json").write_text(content)
    with pytest.raises(UserError, match="delete"):
        synthesize(small(tmp_path))


def test_a_foreign_folder_or_file_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="not empty"):
        synthesize(small(tmp_path))
    with pytest.raises(UserError, match="cannot write there"):
        synthesize(small(tmp_path / "thesis.txt"))
    assert contents(tmp_path) == {"thesis.txt": b"mine"}


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"size_px": 33}, "size_px=33: must be even"),
        ({"size_px": 30}, "size_px=30: must be at least 32"),
        ({"num_frames": 9}, "num_frames=9: must be at least 10"),
        ({"fps": 0}, "fps=0"),
        ({"clips_per_identity": 0}, "clips_per_identity=0"),
        ({"num_test": -1}, "num_test=-1"),
        ({"num_workers": -1}, "num_workers=-1"),
        ({"seed": -1}, "seed=-1"),
        ({"nuisance": float("nan")}, "nuisance=nan"),
        ({"expression_gain": -0.1}, "expression_gain=-0.1"),
    ],
)
def test_a_config_that_cannot_be_is_refused(wrong, message):
    with pytest.raises(UserError, match=message):
        SynthConfig(out=Path("unused"), **wrong)


@pytest.mark.parametrize("fps", [1, 10, 60])
def test_the_shortest_clip_works_at_any_rate_and_shows_its_expression(fps):
    config = RenderConfig(size_px=32, num_frames=10, fps=fps)
    peaks = [make_behaviour(config, make_identity(0), seed, "fear").intensity.max() for seed in range(100)]
    assert np.mean(peaks) > 0.5 and np.isfinite(peaks).all()
    assert render_clip(config, 0, 0, "fear")[0].shape == (10, 32, 32, 3)


# Action units, affect and traits -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "label, units",
    [
        ("happy", {6, 12}),
        ("sad", {1, 4, 15}),
        ("surprise", {1, 2, 5, 26}),
        ("fear", {1, 2, 4, 5, 20, 26}),
        ("angry", {4, 5, 7, 23}),
        ("disgust", {9, 15, 16}),
    ],
)
def test_prototypes_hold_the_units_of_the_literature_and_the_clip_shows_them(label, units):
    assert units <= PROTOTYPES[label].keys()
    assert PROTOTYPES["neutral"] == {}
    behaviour = make_behaviour(CLIP, make_identity(1), 1, label)
    shown = {unit for unit, strength in zip(ACTION_UNITS, behaviour.expression.max(0), strict=True) if strength > 0}
    assert shown == PROTOTYPES[label].keys()
    peak = behaviour.expression[behaviour.intensity.argmax()]
    assert (behaviour.expression.max(0) == peak).all()  # all units rise and fall together


def test_one_expression_a_clip_from_nothing_over_an_apex_to_nothing():
    for seed in range(20):
        intensity = make_behaviour(CLIP, make_identity(seed), seed, "happy").intensity
        assert intensity.min() == 0 and 0.5 < intensity.max() <= 1
        rising = np.sign(np.diff(intensity))
        turns = np.diff(rising[rising != 0])
        assert (turns != 0).sum() <= 1  # up, then down


def test_only_the_expression_differs_between_labels():
    happy, angry = (make_behaviour(CLIP, make_identity(2), 5, label) for label in ("happy", "angry"))
    for part in ("blink", "talk", "gaze", "pose"):
        np.testing.assert_array_equal(getattr(happy, part), getattr(angry, part))
    assert not np.array_equal(happy.action_units, angry.action_units)


def test_traits_lie_in_0_1_and_spread_over_it():
    traits = [make_behaviour(CLIP, make_identity(i // 7), i, CLASSES[i % 7]).traits for i in range(210)]
    assert np.min(traits) >= 0 and np.max(traits) <= 1
    assert (np.std(traits, axis=0) > 0.1).all()


@pytest.mark.parametrize(
    "habit, low, high, raised, lowered",
    [
        ("talkativeness", 0.1, 0.75, "extraversion", "agreeableness"),
        ("blink_rate", 0.1, 1.1, "neuroticism", "conscientiousness"),
        ("liveliness", 0.2, 1.0, "extraversion", "conscientiousness"),
        ("expressiveness", 0.5, 1.0, "openness", "conscientiousness"),
    ],
)
def test_traits_follow_behaviour(habit, low, high, raised, lowered):
    def mean_traits(value):
        identity = replace(make_identity(0), **{habit: value})
        clips = [make_behaviour(CLIP, identity, seed, CLASSES[seed % 7]).traits for seed in range(70)]
        return dict(zip(TRAITS, np.mean(clips, axis=0), strict=True))

    less, more = mean_traits(low), mean_traits(high)
    assert more[raised] > less[raised] + 0.05
    assert more[lowered] < less[lowered] - 0.02


def test_a_clip_with_more_talk_is_more_extravert_and_a_smile_more_agreeable():
    clips = [make_behaviour(CLIP, make_identity(i), i, "neutral") for i in range(100)]
    talk, extraversion = [c.talk.mean() for c in clips], [c.traits[TRAITS.index("extraversion")] for c in clips]
    assert np.corrcoef(talk, extraversion)[0, 1] > 0.7
    place = TRAITS.index("agreeableness")
    for seed in range(10):
        happy, angry = (make_behaviour(CLIP, make_identity(seed), seed, label) for label in ("happy", "angry"))
        assert happy.traits[place] > angry.traits[place]


# The pair that needs time --------------------------------------------------------------------------------------------


def test_fear_is_surprise_backwards():
    for seed in range(50):
        surprise, fear = (make_behaviour(CLIP, make_identity(seed), seed, label) for label in ("surprise", "fear"))
        np.testing.assert_array_equal(fear.expression, surprise.expression[::-1])  # so the same set of frames
        assert not np.allclose(fear.expression, surprise.expression)
    sad, angry = (make_behaviour(CLIP, make_identity(0), 0, label).expression for label in ("sad", "angry"))
    assert not np.allclose(np.sort(sad, axis=0), np.sort(angry, axis=0))


def onset_minus_offset(behaviour) -> float:
    """Frames from half the apex up to it, less those from it down to half: seen from the action units alone."""
    strength = behaviour.action_units[:, [ACTION_UNITS.index(u) for u in (1, 2, 5)]].sum(1)
    above = np.flatnonzero(strength > 0.5 * strength.max())
    apex = strength.argmax()
    return float((apex - above[0]) - (above[-1] - apex))


def test_single_frames_do_not_tell_surprise_from_fear_and_their_order_does():
    clips = {
        label: [make_behaviour(CLIP, make_identity(s), s, label) for s in range(first, first + 150)]
        for label, first in (("surprise", 0), ("fear", 1000), ("angry", 2000))
    }

    def by_frame(one, other):
        """Accuracy of a classifier of single frames that are well in the expression, on clips it did not see."""
        x, y, is_test = [], [], []
        for target, label in enumerate((one, other)):
            for number, clip in enumerate(clips[label]):
                picked = clip.action_units[clip.intensity > 0.3]
                x.append(np.hstack([picked, picked**2]))
                y += [target] * len(picked)
                is_test += [number >= 75] * len(picked)
        x, y, is_test = np.concatenate(x), np.array(y), np.array(is_test)
        model = LogisticRegression(max_iter=500).fit(x[~is_test], y[~is_test])
        return model.score(x[is_test], y[is_test])

    assert by_frame("surprise", "fear") < 0.57
    assert by_frame("surprise", "angry") > 0.95  # the same test sees a difference where there is one
    late = [onset_minus_offset(clip) > 0 for clip in clips["fear"]]
    early = [onset_minus_offset(clip) < 0 for clip in clips["surprise"]]
    assert np.mean(late) > 0.85 and np.mean(early) > 0.85


def test_other_classes_run_in_either_direction():
    directions = [onset_minus_offset(make_behaviour(CLIP, make_identity(s), s, "sad")) > 0 for s in range(100)]
    assert 0.3 < np.mean(directions) < 0.7


# Pixels --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("label", [label for label in CLASSES if label != "neutral"])
def test_the_expression_shows_in_the_face_alone(label):
    """Against the neutral rendering of the same face and clip, where all else is equal to the pixel."""
    config = RenderConfig(size_px=64, num_frames=12)
    inside, outside = [], []
    for seed in range(4):
        frames, behaviour = render_clip(config, seed, seed, label)
        neutral, _ = render_clip(config, seed, seed, "neutral")
        difference = np.abs(frames.astype(int) - neutral).mean(axis=-1)
        apex = behaviour.intensity.argmax()
        inside.append(difference[apex, 14:56, 14:50].mean())
        outside.append(difference[apex, :, [0, 1, -2, -1]].mean())
        still = behaviour.intensity == 0
        assert difference[still].max(initial=0) == 0
    assert np.mean(inside) > 2.5 and min(inside) > 1.0
    assert max(outside) == 0


def test_no_gain_no_expression():
    config = RenderConfig(size_px=32, num_frames=10, expression_gain=0.0)
    np.testing.assert_array_equal(render_clip(config, 1, 1, "happy")[0], render_clip(config, 1, 1, "neutral")[0])


def test_identity_clip_and_label_each_change_the_pixels_and_nothing_else_does():
    config = RenderConfig(size_px=32, num_frames=10)
    first = render_clip(config, 1, 2, "happy")[0]
    np.testing.assert_array_equal(first, render_clip(config, 1, 2, "happy")[0])
    for other in ((9, 2, "happy"), (1, 3, "happy"), (1, 2, "sad")):
        assert not np.array_equal(first, render_clip(config, *other)[0])


def test_nuisance_scales_background_noise_and_pose():
    def spread(nuisance):
        backgrounds = [_background(48, nuisance, np.random.default_rng(seed)) for seed in range(5)]
        return np.mean([background.astype(float).std() for background in backgrounds])

    assert spread(0.0) == 0
    assert spread(0.5) == pytest.approx(0.5 * spread(1.0), rel=0.05)
    assert spread(1.0) > 15

    def corner(nuisance):
        """What moves and varies beside the head: grain over time, and light and room from clip to clip."""
        config = RenderConfig(size_px=48, num_frames=10, nuisance=nuisance)
        patches = np.stack([render_clip(config, 0, seed, "neutral")[0][:, :4, :4] for seed in range(4)]).astype(float)
        return patches.std(axis=1).mean(), patches.mean(axis=(1, 2, 3)).std(axis=0).mean()

    (still_grain, still_room), (grain, room) = corner(0.0), corner(1.0)
    assert still_grain < 0.2 < 0.5 < grain
    assert still_room < 10 < room

    def movement(nuisance):
        return np.ptp(make_behaviour(replace(CLIP, nuisance=nuisance), make_identity(0), 0, "sad").pose, axis=0)

    np.testing.assert_allclose(movement(0.0), 0)
    np.testing.assert_allclose(movement(2.0), 2 * movement(1.0))


def test_the_record_beside_the_data_is_the_config(dataset):
    assert SynthConfig(out=dataset, **json.loads((dataset / "synth.json").read_text())) == small(dataset)
    assert not (dataset / "synth.part.json").exists()
