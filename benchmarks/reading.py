"""What reading costs. Whether it is linear in the length of a video; with --clips, clips per second from videos and packed.

Prints Markdown. First question: processor time and memory of a short video and of a four times longer one, small synthetic ones,
H.264 with B-frames and a keyframe every 250 frames, at a constant and at a variable frame rate. Second one: clips of 16 frames,
stride 4, at 160 px, as pre-training draws and crops them, per second of processor time: from H.264 as `svfap crop` writes it,
with and without x264's tune fastdecode; packed by `svfap pack`; from the same archives read from start to end, as WebDataset
does; and what of that is decoding. Other work on the machine changes wall time, and processor time a little.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from fractions import Fraction
from functools import partial
from pathlib import Path

import av
import cv2
import numpy as np
import simplejpeg
import torch
from common import machine, table

from svfap.crop.clips import TUNE
from svfap.crop.config import CropConfig
from svfap.data.clip_dataset import ClipDataset
from svfap.data.clips import pretrain_indices
from svfap.data.crops import multi_scale_crop
from svfap.data.manifest import read_manifest
from svfap.data.packed import SHARDS, packed_row
from svfap.data.video import open_video, write_video
from svfap.packing.config import PackConfig
from svfap.packing.pack import pack
from svfap.synth.camera import render_clip
from svfap.synth.config import CLASSES, RenderConfig

FPS, NUM_CLIPS, CLIP_LENGTH, SIZE = 25, 50, 16, (64, 48)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--minutes", type=float, default=30, help="length of the short video; the long one has four times that"
    )
    parser.add_argument("--clips", action="store_true", help="measure clips per second instead")
    parser.add_argument("--manifest", type=Path, help="for --clips: videos of faces; default: synthetic ones")
    parser.add_argument("--rounds", type=int, default=5, help="for --clips: rounds, of which the median is reported")
    options = parser.parse_args()
    print("\n".join(machine(torch.device("cpu"))), flush=True)
    if options.clips:
        with tempfile.TemporaryDirectory() as folder:
            measure_clips(Path(folder), options.manifest, options.rounds)
        return
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for kind in ("constant", "variable"):
            measured = []
            for minutes in (options.minutes, 4 * options.minutes):
                path = Path(folder) / f"{kind}_{minutes:g}.mp4"
                write(path, round(60 * minutes * FPS), kind == "variable")
                # A process of its own, whose peak of memory is that of this video.
                with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
                    measured.append(process.submit(measure, path).result())
                path.unlink()
                rows.append((kind, f"{minutes:g} min", *(f"{value:.3g}" for value in measured[-1])))
            ratios = [long / short for short, long in zip(*measured, strict=True)]
            rows.append((kind, "ratio", *(f"{ratio:.2f}" for ratio in ratios)))
    columns = ("opening in s", "all steady frames in s", f"{NUM_CLIPS} random clips in s", "peak memory in MB")
    print(table(("frame rate", "length", *columns), rows))


def write(path: Path, num_frames: int, variable: bool) -> None:
    """Grey pictures; with a variable rate every tenth is shown for three times as long as the others."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"preset": "ultrafast", "bf": "2"})
        stream.width, stream.height = SIZE
        stream.pix_fmt, stream.gop_size = "yuv420p", 250
        stream.codec_context.time_base = Fraction(1, FPS)
        frame = av.VideoFrame(*SIZE, "yuv420p")
        planes = [np.frombuffer(plane, np.uint8) for plane in frame.planes]
        for number in range(num_frames):
            for plane in planes:
                plane[:] = number % 256
            frame.pts, frame.time_base = number + 2 * (number // 10) * variable, Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def measure(path: Path) -> tuple[float, float, float, float]:
    """Processor seconds to open, to read all frames of the clock, and to read random clips; peak memory in MB."""
    rng = np.random.default_rng(0)
    begun = time.process_time()
    with open_video(path) as video:
        opened = time.process_time()
        num_frames = sum(1 for _ in video.steady_frames())
        assert num_frames == video.grid().num_frames
        streamed = time.process_time()
        for first in rng.integers(0, video.num_frames - CLIP_LENGTH, NUM_CLIPS):
            assert len(video.read(range(first, first + CLIP_LENGTH))) == CLIP_LENGTH
        read = time.process_time()
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    return opened - begun, streamed - opened, read - streamed, peak_mb


# clips -----------------------------------------------------------------------------------------------------------------

LENGTH, STRIDE, PX, CLIPS_A_ROUND = 16, 4, 160, 48
BUFFER = 1000  # clips in the shuffle buffer of sequential reading


def measure_clips(folder: Path, manifest: Path | None, rounds: int) -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    sources = write_sources(folder, manifest)
    datasets = {name: dataset_of(path) for name, path in sources.items()}
    packed = datasets["packed, by the index"]
    archives = sorted((sources["packed, by the index"].parent / SHARDS).iterdir())
    jpegs = [jpeg for _, clip in sequential_clips(archives, packed) for jpeg in clip]
    pictures = np.random.default_rng(0).integers(0, 255, (LENGTH, PX, PX, 3), dtype=np.uint8)
    runs: dict[str, Callable[[], int]] = {name: partial(read_clips, dataset) for name, dataset in datasets.items()}
    runs |= {
        "packed, archives from start to end": partial(read_sequentially, archives, packed),
        f"floor: {LENGTH} JPEG files decoded": partial(decode, jpegs),
        "crop and resize alone": partial(crop_only, pictures),
    }
    taken = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name in list(runs)[:: 1 if number % 2 else -1]:
            begun = time.process_time()
            count = runs[name]()
            taken[name].append((time.process_time() - begun) / count)
    rates = {name: 1 / float(np.median(seconds[1:])) for name, seconds in taken.items()}
    sizes = {
        name: bytes_of(path, dataset) for (name, path), dataset in zip(sources.items(), datasets.values(), strict=True)
    }
    sizes["packed, archives from start to end"] = bytes_in_sequence(archives, packed)
    rows = []
    for name, rate in rates.items():
        size = sizes.get(name)
        cells = (
            ("", "", "") if size is None else (f"{size[0] / 1e3:.2f}", f"{size[1] / 1e3:.0f}", f"{size[2] / 1e3:.0f}")
        )
        rows.append((name, f"{rate:.0f}", f"{1e3 / rate:.2f}", *cells))
    header = ("source", "clips per CPU second", "ms", "kB a frame", "kB read a clip", "kB in one request a clip")
    print(f"\n### Clips of {LENGTH} frames, stride {STRIDE}, {PX} px\n\n{table(header, rows)}\n")
    pairs = {name: same_shard_pairs(name == "shuffle buffer") for name in ("by the index", "shuffle buffer")}
    listed = ", ".join(f"{name} {count:.2f}" for name, count in pairs.items())
    print(f"Pairs from the same shard in a batch of 64, of 100,000 clips in 1,000 shards, buffer {BUFFER}: {listed}")


def write_sources(folder: Path, manifest: Path | None) -> dict[str, Path]:
    """The same clips as H.264 without and with fastdecode, and packed; name -> manifest."""
    if manifest is None:
        config = RenderConfig(size_px=PX, fps=FPS, num_frames=250)
        films = [render_clip(config, number, number, CLASSES[number % len(CLASSES)])[0] for number in range(8)]
    else:
        films = []
        for sample in read_manifest(manifest, task="unlabelled"):
            with open_video(sample.path) as video:
                films.append([picture for _, picture in video.frames()])
    lists = {}
    for name, tune in {"H.264": None, "H.264, fastdecode": TUNE}.items():
        place = folder / str(tune)
        place.mkdir()
        for number, film in enumerate(films):
            write_video(place / f"{number}.mp4", film, FPS, gop=CropConfig.gop, tune=tune)
        lists[name] = place / "list.csv"
        lists[name].write_text("\n".join(["path", *(f"{number}.mp4" for number in range(len(films)))]) + "\n")
    lists["packed, by the index"] = pack(lists["H.264, fastdecode"], PackConfig(out=folder / "packed")).source
    return lists


def dataset_of(manifest: Path) -> ClipDataset:
    return ClipDataset(read_manifest(manifest, task="unlabelled"), "pretrain", LENGTH, STRIDE, PX, seed=0)


def read_clips(dataset: ClipDataset) -> int:
    for number in range(CLIPS_A_ROUND):
        assert dataset[number].reason is None
    return CLIPS_A_ROUND


def sequential_clips(archives: list[Path], dataset: ClipDataset) -> Iterator[tuple[np.random.RandomState, list[bytes]]]:
    """A random clip of each video, as JPEG files, by reading the archives from start to end."""
    rng = np.random.RandomState(0)
    for archive in archives:
        with archive.open("rb") as stream:
            video: list[bytes] = []
            while size_field := stream.read(512)[124:135].strip(b"\0"):
                size = int(size_field, 8)
                content = stream.read(-(-size // 512) * 512)[:size]
                if content.startswith(b"{") and video:
                    yield rng, chosen(video, dataset, rng)
                    video = []
                if not content.startswith(b"{"):
                    video.append(content)
            yield rng, chosen(video, dataset, rng)


def chosen(video: list[bytes], dataset: ClipDataset, rng: np.random.RandomState) -> list[bytes]:
    numbers = pretrain_indices(len(video), dataset.clip_length, dataset.stride, 1, rng)[0]
    return [video[number] for number in numbers]


def read_sequentially(archives: list[Path], dataset: ClipDataset) -> int:
    """Read, shuffle in a buffer, decode and crop."""
    buffer: list[list[bytes]] = []
    count = 0
    while count < CLIPS_A_ROUND:
        for rng, clip in sequential_clips(archives, dataset):
            buffer.append(clip)
            if len(buffer) < min(BUFFER, 4):
                continue
            jpegs = buffer.pop(rng.randint(len(buffer)))
            pictures = np.stack([simplejpeg.decode_jpeg(jpeg) for jpeg in jpegs])
            multi_scale_crop(pictures, PX, rng)
            count += 1
    return count


def decode(jpegs: list[bytes]) -> int:
    height, width = simplejpeg.decode_jpeg_header(jpegs[0])[:2]
    picture = np.empty((height, width, 3), np.uint8)
    for number in range(CLIPS_A_ROUND * LENGTH):
        simplejpeg.decode_jpeg(jpegs[number % len(jpegs)], buffer=picture)
    return CLIPS_A_ROUND


def crop_only(pictures: np.ndarray) -> int:
    rng = np.random.RandomState(0)
    for _ in range(CLIPS_A_ROUND):
        multi_scale_crop(pictures, PX, rng)
    return CLIPS_A_ROUND


def bytes_of(manifest: Path, dataset: ClipDataset) -> tuple[float, float, float]:
    """Bytes a frame; bytes that reading a clip needs, and in one request from its first to its last byte, on average."""
    clips = [(dataset.manifest[n % len(dataset.manifest)].path, dataset[n].frames[0]) for n in range(CLIPS_A_ROUND)]
    if (row := packed_row(clips[0][0])) is None:
        sizes = [sample.path.stat().st_size for sample in dataset.manifest]
        frames = sum(open_video(sample.path).num_frames for sample in dataset.manifest)
        return sum(sizes) / frames, float(np.mean(sizes)), float(np.mean(sizes))
    exact, spanned, whole, frames = [], [], 0, 0
    for path, numbers in clips:
        row = packed_row(path)
        assert row is not None
        shown, starts = np.unique(numbers), row.starts()
        exact.append(int(row.sizes[shown].sum()))
        spanned.append(int(starts[shown[-1]] + row.sizes[shown[-1]] - starts[shown[0]]))
        whole, frames = whole + int(row.sizes.sum()), frames + len(row.sizes)
    return whole / frames, float(np.mean(exact)), float(np.mean(spanned))


def bytes_in_sequence(archives: list[Path], dataset: ClipDataset) -> tuple[float, float, float]:
    size = sum(archive.stat().st_size for archive in archives) / len(dataset)
    frames = np.mean([open_video(sample.path).num_frames for sample in dataset.manifest])
    return size / float(frames), size, size


def same_shard_pairs(buffered: bool, num_clips: int = 100_000, a_shard: int = 100, batch: int = 64) -> float:
    """How many pairs of clips in a batch come from one shard, on average."""
    rng = np.random.default_rng(0)
    if not buffered:
        order = rng.permutation(num_clips)
    else:
        shards = rng.permutation(num_clips // a_shard)
        stream = (shards[:, None] * a_shard + np.arange(a_shard)).ravel()
        order, held = [], stream[:BUFFER].copy()
        for place, clip in zip(rng.integers(0, BUFFER, num_clips - BUFFER), stream[BUFFER:], strict=True):
            order.append(held[place])
            held[place] = clip
    batches = np.asarray(order)[: len(order) // batch * batch].reshape(-1, batch) // a_shard
    same = (batches[:, :, None] == batches[:, None, :]).sum(axis=(1, 2)) - batch
    return float(same.mean()) / 2


if __name__ == "__main__":
    main()
