"""Lists of videos: which files a source stands for, and what comes along from manifests."""

from __future__ import annotations

from pathlib import Path

import pytest

from svfap.data.prepared import PreparedDataset, write_dataset_file
from svfap.data.sources import read_sources
from svfap.errors import UserError


@pytest.fixture
def folder(tmp_path) -> Path:
    names = (
        "b.mp4",
        "a.MKV",
        "a.jpg",
        ".hidden.mp4",
        "deep/er/c.ts",
        "out/d.mp4",
        "notes.md",
        "frames/2.PNG",
        "frames/10.png",
    )
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "empty").mkdir()
    return tmp_path


def paths(folder: Path, *sources: str, **options) -> list[str]:
    samples = read_sources([folder / source for source in sources], **options).samples
    return [sample.path.relative_to(folder).as_posix() for sample in samples]


def described(folder: Path, root: str) -> None:
    write_dataset_file(folder, PreparedDataset("own", "Own", "unlabelled", Path(root), pretrain=Path("pretrain.csv")))


def test_the_manifests_of_a_dataset_have_its_root(folder):
    for name in ("pretrain.csv", "other.csv"):
        (folder / name).write_text("path\nc.ts\n")
    described(folder, "deep/er")
    assert paths(folder, "pretrain.csv") == ["deep/er/c.ts"]
    with pytest.raises(UserError, match="b.mp4: no such file or folder") as caught:
        (folder / "pretrain.csv").write_text("path\nb.mp4\n")
        paths(folder, "pretrain.csv")
    assert (
        f"Paths are relative to {folder / 'deep/er'}; correct them, or where the command has --root name their folder with it"
        in str(caught.value)
    )
    assert paths(folder, "pretrain.csv", root=folder) == ["b.mp4"]
    with pytest.raises(UserError, match=f"Paths are relative to {folder};"):
        paths(folder, "other.csv")  # is not of the dataset
    (folder / "dataset.json").write_text("[]")  # another program's
    assert paths(folder, "pretrain.csv") == ["b.mp4"]


def test_folders_are_searched_at_any_depth_for_videos_only(folder):
    assert paths(folder, ".") == ["a.MKV", "b.mp4", "deep/er/c.ts", "out/d.mp4"]
    assert paths(folder, ".", skip=folder / "out") == ["a.MKV", "b.mp4", "deep/er/c.ts"]


def test_a_folder_of_images_alone_is_one_video_as_is_an_image(folder):
    assert paths(folder, "frames", "a.jpg", "b.mp4") == ["frames", "a.jpg", "b.mp4"]


def test_one_source_needs_no_list(folder):
    (sample,) = read_sources(str(folder / "b.mp4")).samples
    assert sample.path == folder / "b.mp4"
    assert (sample.label, sample.start_s, sample.box) == (None, None, None)


def test_manifests_bring_their_columns_and_others_have_none(folder, monkeypatch):
    (folder / "one.csv").write_text("path,label,start_s,box\nb.mp4,joy,1,\nout/../b.mp4,calm,,0 0 8 8\n")
    (folder / "two.csv").write_text("path,note,split\nd.mp4,NA,test\nmissing.mp4,x,train\n")
    monkeypatch.chdir(folder)
    samples, columns, manifests = read_sources(["one.csv", "a.MKV"])
    assert manifests == [Path("one.csv"), Path("one.csv"), None]
    assert [sample.key for sample in samples] == [
        f"{folder}/b.mp4#t=1,",
        f"{folder}/b.mp4#xywh=0,0,8,8",
        f"{folder}/a.MKV",
    ]
    assert columns.to_dict("list") == {
        "path": ["b.mp4", "out/../b.mp4", "a.MKV"],
        "label": ["joy", "calm", ""],
        "start_s": ["1", "", ""],
        "box": ["", "0 0 8 8", ""],
    }
    samples, columns, _ = read_sources("two.csv", root="out", split="test")
    assert [sample.path for sample in samples] == [folder / "out" / "d.mp4"]
    assert columns.to_dict("list") == {"path": ["d.mp4"], "note": ["NA"], "split": ["test"]}


@pytest.mark.parametrize(
    ("sources", "options", "message"),
    [
        (["missing.mp4"], {}, r"missing\.mp4: no such file or folder"),
        (["empty"], {}, r"empty: holds no videos \(\.mp4, .* and no images"),
        (["b.mp4", "."], {}, r"b\.mp4: comes twice"),
        (["b.mp4"], {"root": "x"}, "`root` and `split` are for manifests, and none is given"),
        (["b.mp4"], {"split": "x"}, "`root` and `split` are for manifests, and none is given"),
        ([], {}, "no videos are given"),
    ],
)
def test_mistakes(folder, sources, options, message):
    with pytest.raises(UserError, match=message):
        read_sources([folder / source for source in sources], **options)
