"""The test videos that a run was evaluated on, for looking at."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from svfap.data.loader import ClipDataset
from svfap.data.manifest import Manifest, read_manifest
from svfap.errors import UserError
from svfap.report.runs import Run


class TestVideos:
    """Videos of the manifest of a run's evaluation, found by the keys that `predictions.csv` calls them.

    No path is ever taken from the predictions: only the manifest's own videos are opened.

    Raises:
        UserError: the manifest is not named, not there or not readable.
    """

    __test__ = False  # not pytest's

    def __init__(self, run: Run) -> None:
        manifest, root, split = (run.metrics.get(word) for word in ("manifest", "root", "split"))
        if not manifest or not Path(str(manifest)).is_file():
            raise UserError(f"its manifest ({manifest or 'not named in its metrics'}) is not to be found from here")
        try:
            self._manifest: Manifest = read_manifest(manifest, root=root, task="unlabelled", split=split)
        except UserError:  # its message may quote a file that is no manifest
            raise UserError(f"its manifest ({manifest}) cannot be read") from None
        self._rows = {self._manifest[i].key: i for i in range(len(self._manifest))}

    def clip(self, key: str, num_frames: int, stride: int, size: int) -> NDArray[np.uint8]:
        """The middle clip (num_frames, size, size, 3), centre crop, as in validation. Raises `UserError` with the reason."""
        if key not in self._rows:
            raise UserError("not in the manifest")
        dataset = ClipDataset(self._manifest, "val", num_frames, stride, size, seed=0)
        item = dataset[self._rows[key]]
        if item.reason is not None:
            raise UserError(item.reason)
        return item.clips[0]
