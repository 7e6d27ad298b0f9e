"""The test videos that a run was evaluated on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from svfap.data.loader import ClipDataset
from svfap.data.manifest import read_manifest
from svfap.errors import UserError
from svfap.reports.runs import Run


class TestVideos:
    """The videos of the manifest that a run was evaluated on, by the keys in `predictions.csv`.

    Only videos of the manifest are opened, never a path from the predictions.

    Raises:
        UserError: the manifest is not named in the metrics, not there or not readable.
    """

    __test__ = False  # not pytest's

    def __init__(self, run: Run) -> None:
        manifest, root, split = (run.metrics.get(key) for key in ("manifest", "root", "split"))
        if not manifest or not Path(str(manifest)).is_file():
            raise UserError(f"its manifest ({manifest or 'not named in its metrics'}) cannot be found")
        try:
            self._manifest = read_manifest(manifest, root=root, task="unlabelled", split=split)
        except UserError:  # its message may quote a file that is not a manifest
            raise UserError(f"its manifest ({manifest}) cannot be read") from None
        self._rows = {self._manifest[i].key: i for i in range(len(self._manifest))}

    def clip(self, key: str, num_frames: int, stride: int, size: int) -> NDArray[np.uint8]:
        """The clip of validation, uint8 (num_frames, size, size, 3): the middle of the video, centre crop.

        stride: frames of the video from one frame of the clip to the next. Raises `UserError` if the video cannot be read.
        """
        if key not in self._rows:
            raise UserError("not in the manifest")
        dataset = ClipDataset(self._manifest, "val", num_frames, stride, size, seed=0)
        item = dataset[self._rows[key]]
        if item.reason is not None:
            raise UserError(item.reason)
        return item.clips[0]
