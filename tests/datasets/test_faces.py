"""`svfap prepare` with folders of face frames, with placeholders, and with the layouts in which faces are released."""

from __future__ import annotations

import csv
import json
import os
import pickle
from itertools import product
from pathlib import Path

import pytest
from large_files import make_large

from svfap.cli.main import main
from svfap.data.prepared import PreparedDataset, read_dataset
from svfap.datasets import prepare as writing
from svfap.datasets.dataset import NAMES, get_dataset
from svfap.datasets.voxceleb2 import BROKEN
from svfap.errors import UserError

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935\nsize 130982\n"


def touch(root: Path, *paths: str) -> None:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        make_large(root / path)


def write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def prepare(name: str, root: Path, **options: object) -> PreparedDataset:
    config = get_dataset(name).config(root=root, out=root.parent / "prepared", validation="none", **options)
    writing.prepare(name, config)
    return read_dataset(root.parent / "prepared")


def rows(file: Path | None) -> list[dict[str, str]]:
    assert file is not None
    with file.open(newline="") as lines:
        return list(csv.DictReader(lines))


def clips(dataset: PreparedDataset) -> dict[str, dict[str, str]]:
    """Path -> row, of all manifests."""
    return {row["path"]: row for file in dataset.manifests().values() for row in rows(file)}


def found(dataset: PreparedDataset, kind: str) -> dict[str, str]:
    return {row["path"]: row["why"] for row in rows(next(iter(dataset.manifests().values())).parent / f"{kind}.csv")}


# a release of each dataset in miniature: {path of a clip: what the row must say}


def crema_d(root: Path) -> dict[str, dict[str, str]]:
    names = [f"{actor}_DFA_{emotion}_XX" for actor in (1001, 1019, 1037, 1055, 1073) for emotion in ("ANG", "SAD")]
    return {f"VideoFlash/{name}.flv": {"label": name[9:12], "subject": name[:4]} for name in names}


def ravdess(root: Path) -> dict[str, dict[str, str]]:
    names = [f"Actor_{actor:02d}/02-01-03-01-01-01-{actor:02d}.mp4" for actor in (1, 5, 9, 13, 17, 21)]
    return {name: {"label": "happy", "subject": name[6:8]} for name in names}


def enterface05(root: Path) -> dict[str, dict[str, str]]:
    names = [f"subject {s}/fear/sentence 1/s{s}_fe_1.avi" for s in (1, 10, 19, 28, 37)]
    return {name: {"label": "fear", "subject": name.split("/")[0][8:]} for name in names}


def chalearn(root: Path) -> dict[str, dict[str, str]]:
    files = {"train": "annotation_training.pkl", "val": "annotation_validation.pkl", "test": "annotation_test.pkl"}
    traits = ("openness", "conscientiousness", "extraversion", "agreeableness", "neuroticism")
    for number, (part, file) in enumerate(files.items()):
        root.mkdir(exist_ok=True)
        (root / file).write_bytes(pickle.dumps({trait: {f"{part:_<11}.000.mp4": number / 4} for trait in traits}))
    return {f"{part}/{part:_<11}.000.mp4": {"openness": str(n / 4)} for n, part in enumerate(files)}


def avcaffe(root: Path) -> dict[str, dict[str, str]]:
    write(root / "ground_truths/arousal.txt", "aiim001_task_1, Calm\naiim002_task_2, Dull\n")
    write(root / "info/train.txt", "aiim001\n")
    write(root / "info/val.txt", "aiim002\n")
    return {
        f"videos/shorter_segments/{s}/{t}/{s}_{t}_clip_00{n}.avi": {"label": label, "subject": s, "group": f"{s}_{t}"}
        for s, t, label in (("aiim001", "task_1", "Calm"), ("aiim002", "task_2", "Dull"))
        for n in (1, 2)
    }


def werewolf_xl(root: Path) -> dict[str, dict[str, str]]:
    names = ("01_01_128", "07_01_7", "13_02_003", "19_03_04", "25_04_005")
    labels = ("01_01_128", "07_01_007", "13_02_3", "19_03_4", "25_04_005")
    lines = [f"{name},{n},1,0" for n, name in enumerate(labels)]
    write(root / "labels.csv", "\n".join(["clip,arousal,valence,dominance", *lines]) + "\n")
    return {f"Speaker/{name}.mp4": {"arousal": f"{float(n)}", "subject": name[:5]} for n, name in enumerate(names)}


def mafw(root: Path) -> dict[str, dict[str, str]]:
    for fold, part in product(range(1, 6), ("train", "test")):
        numbers = [n for n in range(1, 6) if (n == fold) == (part == "test")]
        write(
            root / f"Train & Test Set/single/no_caption/set_{fold}/{part}.txt",
            "".join(f"{n:05d}.mp4 fear\n" for n in numbers),
        )
    return {f"data/clips/{n:05d}.mp4": {"label": "fear"} for n in range(1, 6)}


def dfew(root: Path) -> dict[str, dict[str, str]]:
    for fold, part in product(range(1, 6), ("train", "test")):
        numbers = [n for n in range(1, 6) if (n == fold) == (part == "test")]
        lines = "".join(f"{n},2\n" for n in numbers)
        write(root / f"EmoLabel_DataSplit/{part}(single-labeled)/set_{fold}.csv", f"video_name,label\n{lines}")
    return {f"Clip/clip_224x224/{n:05d}/1.jpg": {"label": "sad"} for n in range(1, 6)}


def ferv39k(root: Path) -> dict[str, dict[str, str]]:
    for part, clip in (("train", "Action/Sad/0001"), ("test", "Daily life/Sad/0002")):
        write(root / f"4_setups/All_scenes/{part}_All.csv", f"{clip} Sad\n")
    return {f"2_ClipsforFaceCrop/{clip}/1.jpg": {"label": "Sad"} for clip in ("Action/Sad/0001", "Daily life/Sad/0002")}


def voxceleb2(root: Path) -> dict[str, dict[str, str]]:
    names = ("id00012/a/00001", "id00012/b/00001", "id00015/a/00001")
    return {f"dev/mp4/{name}.mp4": {"subject": name[:7]} for name in names}


RELEASES = {
    function.__name__: function
    for function in (crema_d, ravdess, enterface05, chalearn, avcaffe, werewolf_xl, mafw, dfew, ferv39k, voxceleb2)
}
LAYOUTS = {
    "OpenFace's folders": "faces/{inside}/{clip}/{clip}_aligned/frame_det_00_000001.bmp",
    "one output folder": "faces/{inside}/{clip}_aligned/frame_det_00_000001.jpg",
    "named like the clips": "faces/{inside}/{clip}/000001.png",
    "all in one folder": "faces/{clip}/000001.png",
}
NAMES_REPEAT = ("voxceleb2", "ferv39k", "enterface05")  # or do not tell the class: these need the release's folders


def test_every_dataset_of_videos_is_here():
    assert set(RELEASES) == set(NAMES) - {"folder"}


@pytest.mark.parametrize("with_videos", [True, False], ids=["beside the videos", "alone"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", RELEASES)
def test_face_frames_take_the_place_of_the_clips(tmp_path, name, layout, with_videos):
    """Labels, subjects and groups are those of the release, in whatever way the folders are arranged."""
    root = tmp_path / "root"
    release = RELEASES[name](root)
    if "{inside}" not in LAYOUTS[layout] and name in (NAMES_REPEAT[:1] if with_videos else NAMES_REPEAT):
        return
    expected = {}
    for path, says in release.items():
        clip = Path(path).parent if path.endswith(".jpg") else Path(path).with_suffix("")
        inside = str(clip.parent)
        if not with_videos:  # the folders below that of the clips
            for media in ("VideoFlash", "videos/shorter_segments", "data/clips", "Clip/clip_224x224", "dev/mp4"):
                inside = inside.removeprefix(media).removeprefix("/")
            inside = inside.removeprefix("2_ClipsforFaceCrop/")
        frames = LAYOUTS[layout].format(inside=inside, clip=clip.name)
        beside = Path(frames).parent.parent  # where OpenFace puts its other files
        touch(root, frames, f"{beside}/{clip.name}.csv", f"{beside}/{clip.name}.avi")
        expected[str(Path(frames).parent)] = says
        if with_videos:
            touch(root, path)
    dataset = prepare(name, root, faces="faces")
    made = clips(dataset)
    assert made.keys() == expected.keys()
    for path, says in expected.items():
        assert says.items() <= made[path].items() and not made[path].get("box")
    assert (dataset.pictures, dataset.notes["faces"]) == ("faces", "faces")
    missing = {path for path in found(dataset, "missing") if not path.startswith("subject ")}  # of eNTERFACE'05's 44
    assert not missing and not found(dataset, "extra")


def test_flat_folders_outside_of_the_release_and_clips_without_faces(tmp_path):
    """The authors' layout, elsewhere: face_aligned/CLIP; one clip in which OpenFace found nothing."""
    root, faces = tmp_path / "root", tmp_path / "face_aligned"
    release = enterface05(root)
    touch(root, *release)
    touch(faces, *(f"{Path(path).stem}/1.jpg" for path in release))
    (faces / "s19_fe_1" / "1.jpg").unlink()
    (faces / "s1_fe_1.hog").touch()
    with pytest.raises(UserError, match=r"no clip of fold_3_test \(1 listed\) can be used, "):
        prepare("enterface05", root, faces=str(faces))
    touch(root, "subject 20/fear/sentence 1/s20_fe_1.avi")
    touch(faces, "s20_fe_1/1.jpg")
    dataset = prepare("enterface05", root, faces="../face_aligned")
    made = clips(dataset)
    assert made.keys() == {f"{faces}/s{s}_fe_1" for s in (1, 10, 20, 28, 37)}
    assert made[f"{faces}/s28_fe_1"] == {"path": f"{faces}/s28_fe_1", "label": "fear", "subject": "28"}
    missing = found(dataset, "missing")
    assert missing["subject 19/fear/sentence 1/s19_fe_1.avi"] == f"no face frames of it in {faces}"


def test_a_folder_of_the_usual_name_is_used_unless_refused(tmp_path, capsys):
    root = tmp_path / "root"
    release = crema_d(root)
    touch(root, *release, *(f"face_aligned/{Path(path).stem}/1.jpg" for path in release))
    args = ["prepare", "crema_d", "--root", str(root), "--out", str(tmp_path / "out"), "--allow_missing"]
    assert main(args) == 0
    assert "clips: face frames in face_aligned" in capsys.readouterr().err
    assert all(path.startswith("face_aligned/") for path in clips(read_dataset(tmp_path / "out")))
    assert main([*args, "--faces", "none"]) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "warning: whole frames; the authors fed face crops by OpenFace: run `svfap crop --dataset" in said
    dataset = read_dataset(tmp_path / "out")
    assert clips(dataset).keys() == release.keys() and dataset.pictures == "frames"
    assert main([*args, "--faces", "nowhere"]) == 1
    assert "faces=nowhere: no folder of this name in" in capsys.readouterr().err


def test_one_folder_of_faces_does_not_serve_two_clips(tmp_path):
    root = tmp_path / "root"
    touch(root, *voxceleb2(root), "faces/00001/1.jpg")
    with pytest.raises(UserError, match=r"could be the face frames of .*00001\.mp4 and of .*00001\.mp4"):
        prepare("voxceleb2", root, faces="faces")


@pytest.mark.parametrize(
    ("name", "path", "shown"),
    [
        ("mafw", "data/clips/{}.mp4", "frames"),
        ("mafw", "data/frames/{}/1.png", "faces"),
        ("avcaffe", "videos/shorter_segments/{1}/{2}/{0}.avi", "frames"),
        ("avcaffe", "images/shorter_segments_face/{1}/{2}/{0}/1.jpg", "faces"),
        ("werewolf_xl", "clips/{}.mp4", "frames"),
        ("werewolf_xl", "clips/{}_aligned/1.bmp", "faces"),
        ("werewolf_xl", "clips/{}/1.bmp", None),  # whole or cropped: not known
        ("ravdess", "Actor_{3}/{}.mp4", "frames"),
        ("dfew", "Clip/jpg_256/{}/1.jpg", "faces"),
        ("ferv39k", "2_ClipsforFaceCrop/{4}/1.jpg", "faces"),
        ("voxceleb2", "dev/mp4/{5}.mp4", "faces"),
    ],
)
def test_the_dataset_says_what_its_clips_show(tmp_path, name, path, shown):
    root = tmp_path / "root"
    for clip in RELEASES[name](root):
        stem = Path(clip).parent if clip.endswith(".jpg") else Path(clip).with_suffix("")
        actor, inside = stem.name[-2:], "/".join(stem.parts[-3:])
        touch(root, path.replace("{}", "{0}").format(stem.name, stem.name[:7], stem.name[8:14], actor, inside, inside))
    assert prepare(name, root).pictures == shown


def test_mafws_clips_and_what_the_authors_fed_are_told(tmp_path, capsys):
    root = tmp_path / "root"
    touch(root, *mafw(root))
    assert main(["prepare", "mafw", "--root", str(root), "--out", str(tmp_path / "out"), "--allow_missing"]) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "warning: whole frames; the authors fed the release's face frames, data/frames" in said
    with pytest.raises(SystemExit):
        main(["prepare", "dfew", "--help"])
    assert (
        "The authors of SVFAP fed: the release's clip_224x224, which they renamed jpg_256." in capsys.readouterr().out
    )


# layouts of releases


def test_avcaffes_archives_of_face_crops(tmp_path):
    root = tmp_path / "root"
    expected = {}
    for path, says in avcaffe(root).items():
        clip = Path(path).stem
        subject, task = clip[:7], clip[8:14]
        nested = f"face_crops/{clip[:14]}/{clip}/shorter_segments_face/{subject}/{task}/{clip}"
        touch(root, f"{nested}/0001.jpg")
        expected[nested] = says
    dataset = prepare("avcaffe", root)
    made = clips(dataset)
    assert made.keys() == expected.keys()
    assert all(says.items() <= made[path].items() for path, says in expected.items())
    assert dataset.pictures == "faces" and not found(dataset, "missing") and not found(dataset, "extra")
    (root / "face_crops").rename(root / "shorter_segments_face")
    (root / "face_crops").mkdir()
    (root / "shorter_segments_face").rename(root / "face_crops/shorter_segments_face")
    made = clips(prepare("avcaffe", root))
    assert made.keys() == {path.replace("face_crops/", "face_crops/shorter_segments_face/", 1) for path in expected}


def test_ferv39k_in_a_folder_of_its_own_name(tmp_path):
    root = tmp_path / "root"
    touch(root, *(f"2_ClipsforFaceCrop/{path}" for path in ferv39k(root)))
    (root / "4_setups").rename(root / "setups")
    (root / "4_setups").mkdir()
    (root / "setups").rename(root / "4_setups/4_setups")
    dataset = prepare("ferv39k", root)
    assert clips(dataset).keys() == {
        f"2_ClipsforFaceCrop/2_ClipsforFaceCrop/{clip}" for clip in ("Action/Sad/0001", "Daily life/Sad/0002")
    }
    assert not found(dataset, "extra")


def test_werewolfs_numbers_with_and_without_zeros_are_the_same(tmp_path):
    root = tmp_path / "root"
    release = werewolf_xl(root)
    touch(root, *release)
    dataset = prepare("werewolf_xl", root)
    made = clips(dataset)
    assert made.keys() == release.keys() and all(says.items() <= made[p].items() for p, says in release.items())
    touch(root, "Speaker/07_01_0007.mp4")
    with pytest.raises(UserError, match=r"07_01_0007\.mp4 and .*07_01_7\.mp4 have the same number"):
        prepare("werewolf_xl", root)


def test_voxceleb2_without_the_clips_that_the_authors_could_not_read(tmp_path):
    root = tmp_path / "root"
    broken = BROKEN.read_text().split()
    assert len(set(broken)) == 283 and broken == sorted(broken)
    # The first, one in the middle, and the last of the authors' log, and one that alone has another cause.
    named = ["id08423/oEx3CRfDXMQ/00048.mp4", "id04606/kzxvSCW9fzo/00295.mp4", "id03965/MmpzE5-VO9E/00047.mp4"]
    named.append("id07622/ev3OPTvuT7A/00193.mp4")
    assert set(named) <= set(broken)
    touch(root, *voxceleb2(root), *(f"dev/mp4/{clip}" for clip in named))
    dataset = prepare("voxceleb2", root)
    assert clips(dataset).keys() == voxceleb2(root).keys()
    assert found(dataset, "left_out") == {f"dev/mp4/{clip}": "broken for the authors of SVFAP" for clip in named}
    assert dataset.notes["official"] == {"pretrain": 1_091_726}
    (tmp_path / "none.txt").touch()
    dataset = prepare("voxceleb2", root, exclude=tmp_path / "none.txt")
    assert len(clips(dataset)) == 7 and dataset.notes["official"] == {"pretrain": 1_092_009}


def test_crema_ds_clip_that_is_left_out_is_called_an_inference(tmp_path):
    root = tmp_path / "root"
    touch(root, *crema_d(root), "VideoFlash/1040_ITH_SAD_XX.flv", "VideoFlash/1064_IEO_DIS_MD.flv")
    reasons = found(prepare("crema_d", root), "left_out")
    assert "inferred" in reasons["VideoFlash/1040_ITH_SAD_XX.flv"]
    assert reasons["VideoFlash/1064_IEO_DIS_MD.flv"] == "broken video"


# files that are not what they should be


def test_placeholders_are_missing_and_counted_once(tmp_path, capsys):
    root = tmp_path / "root"
    release = crema_d(root)
    touch(root, *release)
    pointers = [path for path in release if "SAD" in path][:3]
    for path in pointers:
        (root / path).write_text(POINTER)
    assert main(["prepare", "crema_d", "--root", str(root), "--out", str(tmp_path / "out")]) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "warning: 3 of the missing were not downloaded" in said
    dataset = read_dataset(tmp_path / "out")
    assert found(dataset, "missing") == dict.fromkeys(pointers, "is a git-lfs pointer, not the video; run git lfs pull")
    assert len(clips(dataset)) == len(release) - 3 and dataset.notes["placeholders"] == 3
    for path in release:
        (root / path).write_text(POINTER)
    assert main(["prepare", "crema_d", "--root", str(root), "--out", str(tmp_path / "out")]) == 1
    assert "can be used, e.g. VideoFlash/" in (said := capsys.readouterr().err) and "git lfs pull" in said


@pytest.mark.parametrize("unlabelled", [False, True])
def test_empty_files_and_links_to_nothing_are_missing(tmp_path, unlabelled):
    root = tmp_path / "own"
    touch(root, *(f"{label}/{n}.mp4" for label in "ab" for n in range(4)))
    (root / "a" / "empty.mp4").touch()
    (root / "a" / "gone.mp4").symlink_to(tmp_path / "unmounted" / "1.mp4")
    (root / "a" / "linked.mp4").symlink_to(root / "a" / "1.mp4")
    (root / "b" / "pointer.mp4").write_text(POINTER)
    dataset = prepare("folder", root, unlabelled=unlabelled, **({} if unlabelled else {"test_fraction": 0.25}))
    assert found(dataset, "missing") == {
        "a/empty.mp4": "the file is empty",
        "a/gone.mp4": "is a link to a file that is not there",
        "b/pointer.mp4": "is a git-lfs pointer, not the video; run git lfs pull",
    }
    assert sum(dataset.counts.values()) == 9 and dataset.notes["placeholders"] == 3


def test_names_that_are_not_utf_8_are_listed(tmp_path):
    root = tmp_path / "root"
    touch(root, *crema_d(root))
    for name in (b"1001_DFA_ANG_\xe9.flv", b"caf\xe9.txt"):
        with open(str(root / "VideoFlash").encode() + b"/" + name, "wb"):
            pass
    dataset = prepare("crema_d", root)
    assert found(dataset, "extra").keys() == {"VideoFlash/1001_DFA_ANG_\\udce9.flv", "VideoFlash/caf\\udce9.txt"}
    root = tmp_path / "own"
    touch(root, *(f"{label}/{n}.mp4" for label in "ab" for n in range(4)))
    make_large(os.fsdecode(str(root).encode() + b"/a/caf\xe9.mp4"))
    config = get_dataset("folder").config(root=root, out=tmp_path / "out", validation="none", test_fraction=0.25)
    prepared = writing.prepare("folder", config)
    assert sum(prepared.counts.values()) == 8 and not writing.is_complete(prepared)
    assert "not UTF-8" in found(read_dataset(tmp_path / "out"), "missing")["a/caf\\udce9.mp4"]


def test_what_the_clips_show_is_in_the_file_and_older_files_do_not_tell(tmp_path):
    root = tmp_path / "root"
    touch(root, *ravdess(root))
    prepare("ravdess", root)
    file = tmp_path / "prepared" / "dataset.json"
    content = json.loads(file.read_text())
    assert content.pop("pictures") == "frames"
    file.write_text(json.dumps(content))
    assert read_dataset(tmp_path / "prepared").pictures is None
