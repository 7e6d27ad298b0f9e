"""Speed of exported models: onnxruntime in float32 and int8 beside torch, and beside the published code's way to compute.

Times the forward pass of one clip, in processor seconds of one thread; all are measured alternately in one process. The weights
are random: how exact int8 is on trained weights is what `svfap export --int8 --check VIDEOS` measures. Prints Markdown. Needs
`pip install -e '.[onnx]'`.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from common import machine, ratio, table, time_alternating
from plain import plain
from torch import Tensor

from svfap.device import PRECISIONS
from svfap.export.config import ExportConfig
from svfap.export.export import export_model
from svfap.model.build import create_model
from svfap.weights.exported import ExportedModel

CPU = torch.device("cpu")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--presets", nargs="+", default=["svfap_small", "svfap_base"])
    parser.add_argument("--repeats", type=int, default=7, help="rounds; the median is reported")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print("\n".join(machine(CPU)), flush=True)
    for preset in options.presets:
        print(f"\n### {preset}, one clip\n", flush=True)
        print(measure(preset, options.repeats), flush=True)


@torch.inference_mode()
def measure(preset: str, rounds: int) -> str:
    """Measure all ways to run a preset alternately; returns a Markdown table."""
    torch.manual_seed(0)
    model = create_model(preset, "classification", num_outputs=7).eval()
    config, unoptimised = model.config, plain(model)
    clip = torch.randn(1, 3, config.num_frames, config.img_size, config.img_size)
    with TemporaryDirectory() as folder:
        ways: dict[str, Callable[[Tensor], Tensor]] = {
            "published way, torch fp32": unoptimised,
            "published way, torch bf16": in_bfloat16(unoptimised),
            "svfap, torch fp32": model,
            "svfap, torch bf16": in_bfloat16(model),
        }
        for precision in ("fp32", "int8"):
            out = Path(folder) / f"{precision}.onnx"
            export_model(model, ExportConfig(out=out, int8=precision == "int8", num_clips=1))
            ways[f"svfap, onnx {precision}"] = ExportedModel(out)
        expected = model(clip)
        errors = {
            name: float((way(clip).float() - expected).abs().max() / expected.abs().max()) for name, way in ways.items()
        }
        runs = {name: (lambda way=way: way(clip)) for name, way in ways.items()}
        taken = time_alternating(runs, rounds, CPU, time.process_time)
    reference = taken["published way, torch fp32"]
    rows = [
        [name, f"{1e3 * float(np.median(times)):.0f}", ratio(reference, times), f"{errors[name]:.1e}"]
        for name, times in taken.items()
    ]
    return table(("", "processor ms", "times faster", "largest error ÷ largest output"), rows)


def in_bfloat16(model: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    def run(clip: Tensor) -> Tensor:
        with torch.autocast("cpu", PRECISIONS["bf16"]):
            return model(clip)

    return run


if __name__ == "__main__":
    main()
