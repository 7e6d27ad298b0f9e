"""Tables with a vector in each row, written in chunks: parquet, NumPy's npz, HDF5.

All formats hold the same columns under the same names: text as UTF-8 strings, `feature` as (rows, D) float32. parquet:
`feature` is a list of fixed size. npz: an array per column; all columns but `feature` are in memory until the end. h5: a
dataset per column.
"""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from svfap.errors import require_package
from svfap.files import make_folder, replacing_file

Chunk = tuple[pd.DataFrame, np.ndarray]  # the other columns, and feature (rows, D) float32


def check_table(path: Path) -> None:
    """Raise `UserError` if the folder is not writable or a package for the format is missing."""
    if path.suffix == ".h5":
        require_package("h5py", "h5", f"out={path}", "use .parquet")
    make_folder(path.absolute().parent)


def write_table(path: Path, chunks: Iterable[Chunk]) -> int:
    """Write chunks, at least one, in the format of the suffix; returns the number of rows.

    The file is complete or absent. Raises `UserError` if it cannot be written.
    """
    with replacing_file(path) as part:
        return WRITERS[path.suffix](part, iter(chunks))


def _write_parquet(path: Path, chunks: Iterator[Chunk]) -> int:
    def arrow(meta: pd.DataFrame, features: np.ndarray) -> pa.Table:
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(features.ravel()), features.shape[1])
        return pa.Table.from_pandas(meta, preserve_index=False).append_column("feature", vectors)

    tables = (arrow(*chunk) for chunk in chunks)
    first = next(tables)
    num_rows = 0
    with pq.ParquetWriter(path, first.schema) as writer:
        for table in chain([first], tables):
            writer.write_table(table)  # a row group each
            num_rows += table.num_rows
    return num_rows


def _write_npz(path: Path, chunks: Iterator[Chunk]) -> int:
    metas: list[pd.DataFrame] = []
    with tempfile.TemporaryFile(dir=path.parent) as spool, zipfile.ZipFile(path, "w") as archive:
        for meta, features in chunks:
            metas.append(meta)
            spool.write(np.ascontiguousarray(features).data)
        spool.flush()
        table = pd.concat(metas, ignore_index=True)
        columns = {str(name): table[name].to_numpy() for name in table.columns}
        columns["feature"] = np.memmap(spool, features.dtype, "r", shape=(len(table), features.shape[1]))
        for name, column in columns.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, column.astype(str) if column.dtype == object else column)
    return len(table)


def _write_h5(path: Path, chunks: Iterator[Chunk]) -> int:
    import h5py

    with h5py.File(path, "w") as file:
        for meta, features in chunks:
            arrays = {str(name): meta[name].to_numpy() for name in meta.columns}
            for name, values in {**arrays, "feature": features}.items():
                if name not in file:
                    kind = h5py.string_dtype() if values.dtype == object else values.dtype
                    shape = values.shape[1:]
                    file.create_dataset(name, (0, *shape), kind, maxshape=(None, *shape), chunks=(1024, *shape))
                data = file[name]
                data.resize(len(data) + len(values), axis=0)
                data[-len(values) :] = values
        return len(file["feature"])


WRITERS: dict[str, Callable[[Path, Iterator[Chunk]], int]] = {
    ".parquet": _write_parquet,
    ".npz": _write_npz,
    ".h5": _write_h5,
}
