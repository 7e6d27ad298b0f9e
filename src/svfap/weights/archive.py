"""Files of `torch.save`, in its zip format and the one before it, as tensors and inert data."""

from __future__ import annotations

import io
import math
import re
import struct
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from svfap.data.pickles import DATA, Damaged, Name, Record, Refused, load
from svfap.errors import UserError, first_line

MAX_PICKLE_BYTES = 64 * 2**20
# Keys of weights in what is saved: of the published code, DeepSpeed, Lightning and others, and its moving average.
WEIGHTS = ("model", "module", "state_dict", "model_ema")
LEGACY_MAGIC, LEGACY_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
# Storage classes of torch, by name without their module.
STORAGES = {
    **{"FloatStorage": torch.float32, "DoubleStorage": torch.float64, "HalfStorage": torch.float16},
    **{"BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32},
    **{"ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8, "BoolStorage": torch.bool},
    "UntypedStorage": torch.uint8,
}
DTYPES = {str(dtype): dtype for dtype in (*STORAGES.values(), torch.uint16, torch.uint32, torch.uint64)}


@dataclass(frozen=True)
class Storage:
    """Numbers in the file, by the key of their storage: `count` of them from number `first`."""

    key: str
    dtype: torch.dtype
    count: int
    first: int = 0


@dataclass(frozen=True)
class StoredTensor:
    """A tensor that has not been read: offset and stride count numbers of the storage."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


def read_archive(path: Path) -> Any:
    """The contents of a file of `torch.save`: plain data, and a `Record` for any other object.

    Tensors at the top, and in mappings under the keys of `WEIGHTS`, are read; others, such as the optimizer's, stay
    `StoredTensor`s. Raises `UserError`.
    """
    try:
        with path.open("rb") as file:
            archive = _Zip(file) if file.read(2) == b"PK" else _Legacy(file)
            return archive.read_weights(archive.contents)
    except Refused as refused:
        raise UserError(
            f"{path}: refused: reading it would execute code ({refused}); use a file of tensors only (.safetensors)"
        ) from None
    except Damaged as error:
        raise UserError(f"{path}: not a checkpoint ({error})") from None
    except zipfile.BadZipFile as error:
        raise UserError(f"{path}: not a checkpoint, or one that is cut short ({error}); get it again") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None
    except Exception as error:  # of a file that is damaged on purpose: sizes that overflow, and the like
        raise UserError(f"{path}: not a checkpoint ({first_line(error)})") from None


class _Archive:
    """What both formats share: tensors are read within the size of the file."""

    contents: Any

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.size = file, file.seek(0, io.SEEK_END)
        self.num_read = 0
        self.read: dict[str, Tensor] = {}

    def bytes_of(self, key: str) -> bytearray:
        raise NotImplementedError

    def storage(self, reference: Any) -> Storage | Record:
        """What a persistent reference stands for: ("storage", class, key, device, count[, view])."""
        if not isinstance(reference, tuple) or len(reference) not in (5, 6) or reference[0] != "storage":
            raise Damaged("its pickle refers to something other than numbers in the file")
        _, kind, key, _, count, *view = reference
        if not isinstance(kind, Name) or not isinstance(key, str) or not _is_size(count):
            raise Damaged("a storage in it has no valid size")
        dtype = STORAGES.get(kind.name.rpartition(".")[2])
        if dtype is None:  # quantised or complex numbers
            return Record(kind.name)
        storage = Storage(key, dtype, count)
        if view and view[0] is not None:
            _, first, part = view[0]
            if not _is_size(first) or not _is_size(part):
                raise Damaged("a part of a storage has no valid size")
            return replace(storage, first=first, count=part)
        return storage

    def read_weights(self, value: Any) -> Any:
        """The contents with tensors in place of the stored ones that are weights."""
        if isinstance(value, Record) and value.items:
            value = value.items
        if not isinstance(value, dict):
            return value
        return {
            name: self.tensor(part) if isinstance(part, StoredTensor)
            else self.read_weights(part) if name in WEIGHTS else part
            for name, part in value.items()
        }  # fmt: skip

    def tensor(self, stored: StoredTensor) -> Tensor:
        """The numbers of a tensor, on the CPU. Every storage is read once, and all together are no more than the file."""
        storage = stored.storage
        width = storage.dtype.itemsize
        reach = 1 + stored.offset + sum((n - 1) * step for n, step in zip(stored.size, stored.stride, strict=True))
        if math.prod(stored.size) > storage.count or (0 not in stored.size and reach > storage.count):
            raise Damaged(f"a tensor of shape {stored.size} has no more than {storage.count} numbers")
        if storage.key not in self.read:
            raw = self.bytes_of(storage.key)
            self.read[storage.key] = torch.frombuffer(raw, dtype=torch.uint8) if raw else torch.empty(0).byte()
        numbers = self.read[storage.key]
        start, stop = storage.first * width, (storage.first + storage.count) * width
        if stop > len(numbers):
            raise Damaged(f"the numbers of storage {storage.key} are cut short")
        return numbers[start:stop].view(storage.dtype).as_strided(stored.size, stored.stride, stored.offset)

    def take(self, count: int) -> int:
        """`count` as the bytes to read next. Raises `Damaged` where more would be read than the file has."""
        self.num_read += count
        if self.num_read > self.size:
            raise Damaged("it says to hold more numbers than the file has")
        return count


class _Zip(_Archive):
    """The format of torch.save since 1.6: NAME/data.pkl and NAME/data/KEY, uncompressed, in a zip archive."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file)
        self.zip = zipfile.ZipFile(file)
        names = self.zip.namelist()
        pickles = [name for name in names if name == "data.pkl" or re.fullmatch(r"[^/]+/data\.pkl", name)]
        if len(pickles) != 1:
            raise Damaged("a zip archive, but not one of torch.save; if the checkpoint is inside, unpack it")
        self.root = pickles[0].removesuffix("data.pkl")
        if any(name.startswith(f"{self.root}code/") for name in names):
            raise Damaged("a TorchScript archive, which is a program; save the state_dict of the model instead")
        if f"{self.root}byteorder" in names and self.entry("byteorder", 16) == b"big":
            raise Damaged("written on a machine with the other order of bytes")
        self.contents = load(io.BytesIO(self.entry("data.pkl", MAX_PICKLE_BYTES)), _CONSTRUCTORS, self.storage)

    def entry(self, name: str, limit: int | None = None) -> bytes:
        """The bytes of an entry below the archive's root; its checksum is checked."""
        try:
            entry = self.zip.getinfo(self.root + name)
        except KeyError:
            raise Damaged(f"{name} is missing in it") from None
        if entry.compress_type != zipfile.ZIP_STORED or (limit is not None and entry.file_size > limit):
            raise Damaged(f"{name} in it is compressed or too large; torch.save does not write that")
        self.take(entry.file_size)
        return self.zip.read(entry)

    def bytes_of(self, key: str) -> bytearray:
        return bytearray(self.entry(f"data/{key}"))


class _Legacy(_Archive):
    """The format of torch.save before 1.6: pickles of magic, version, system, contents and keys; then the numbers of each key."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file)
        file.seek(0)
        if load(file, DATA) != LEGACY_MAGIC or load(file, DATA) != LEGACY_PROTOCOL:
            raise Damaged("a pickle, but not one of torch.save")
        system = load(file, DATA)
        if isinstance(system, dict) and not system.get("little_endian", True):
            raise Damaged("written on a machine with the other order of bytes")
        self.widths: dict[str, int] = {}
        self.contents = load(file, _CONSTRUCTORS, self.storage)
        keys, self.places = load(file, DATA), {}
        if not isinstance(keys, list):
            raise Damaged("its list of storages is missing")
        for key in keys:
            head = file.read(8)
            if not isinstance(key, str) or len(head) < 8:
                raise Damaged("its numbers are cut short")
            count = struct.unpack("<q", head)[0] * self.widths.get(key, 0)
            self.places[key] = (file.tell(), count)
            if count < 0 or file.tell() + count > self.size:
                raise Damaged("its numbers are cut short")
            file.seek(count, io.SEEK_CUR)

    def storage(self, reference: Any) -> Storage | Record:
        storage = super().storage(reference)
        if isinstance(storage, Record):
            raise Damaged(f"holds a {storage.name}, whose size is not known here")
        self.widths[storage.key] = storage.dtype.itemsize
        return storage

    def bytes_of(self, key: str) -> bytearray:
        if key not in self.places:
            raise Damaged(f"the numbers of storage {key} are missing")
        place, count = self.places[key]
        self.file.seek(place)
        return bytearray(self.file.read(self.take(count)))


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**48


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> StoredTensor | Record:
    """A tensor by its place in a storage, as `torch._utils._rebuild_tensor` and `_rebuild_tensor_v2` get it."""
    if isinstance(storage, Record):
        return storage
    size, stride = (
        part.args[0] if isinstance(part, Record) and part.name == "torch.Size" else part for part in (size, stride)
    )
    fits = isinstance(storage, Storage) and isinstance(size, tuple) and isinstance(stride, tuple)
    if not fits or len(size) != len(stride) or not all(map(_is_size, (offset, *size, *stride))):
        raise Damaged("a tensor in it has no valid shape")
    return StoredTensor(storage, offset, size, stride)


def _tensor_of_type(storage: Any, offset: Any, size: Any, stride: Any, *rest: Any) -> StoredTensor | Record:
    """The same for `_rebuild_tensor_v3`, which gets (requires_grad, hooks, dtype) and a storage of bytes."""
    stored, dtype = _tensor(storage, offset, size, stride), DTYPES.get(getattr(rest[2], "name", ""))
    if dtype is None or isinstance(stored, Record):
        return Record("torch.Tensor")
    return replace(stored, storage=replace(stored.storage, dtype=dtype, count=stored.storage.count // dtype.itemsize))


_CONSTRUCTORS = {
    **DATA,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_of_type,
    "torch._utils._rebuild_parameter": lambda tensor, *_: tensor,
    "torch._utils._rebuild_parameter_with_state": lambda tensor, *_: tensor,
}
