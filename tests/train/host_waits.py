"""Finds where a step on a GPU would let the host wait, on a machine without one.

Every tensor is followed from operation to operation: what is made of the model or of the uploaded batch would be on the device.
Reading such a tensor in Python, operations whose result has a size that depends on the data, and tensors of the host among
the operands are noted.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from svfap.train.loop import TrainingRun

WAITING = {
    *("_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive", "bincount"),
    *("equal", "is_nonzero", "repeat_interleave"),
}
READING = {"tolist", "numpy", "cpu", "__array__"}  # of a whole tensor
INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_"}


class HostWaits(TorchDispatchMode):
    """Within it, `found` collects the operations at which the host would wait for the device."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self._on_device: dict[int, torch.UntypedStorage] = {}  # kept alive, so that no address is used twice
        self._on_host: dict[int, torch.UntypedStorage] = {}

    def upload(self, *tensors: Tensor) -> None:
        for tensor in tensors:
            storage = tensor.untyped_storage()
            self._on_host.pop(storage._cdata, None)
            self._on_device[storage._cdata] = storage

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        operands = [each for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
        on_device = [each for each in operands if each.untyped_storage()._cdata in self._on_device]
        on_host = [each for each in operands if each.untyped_storage()._cdata in self._on_host]
        result = func(*args, **kwargs)
        name = func.overloadpacket.__name__
        results = [each for each in tree_leaves(result) if isinstance(each, Tensor)]
        if on_device:
            by_mask = name in INDEXING and any(each.dtype in (torch.bool, torch.uint8) for each in operands[1:])
            copied = [each for each in on_host if each.ndim or name == "copy_"]
            if name in WAITING or by_mask or copied:
                self.found.append(str(func))
            self.upload(*results)
        elif name in ("lift_fresh", "detach_") or on_host or isinstance(kwargs.get("generator"), torch.Generator):
            for each in results:
                storage = each.untyped_storage()
                self._on_host[storage._cdata] = storage
        return result


class Reads(TorchFunctionMode):
    """Notes whole tensors that are read, which is no operation where they are on the host anyway."""

    def __init__(self, waits: HostWaits) -> None:
        super().__init__()
        self._waits = waits

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name in READING and args[0].untyped_storage()._cdata in self._waits._on_device:
            self._waits.found.append(name)
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def host_waits(run: TrainingRun, monkeypatch: Any) -> Iterator[list[str]]:
    """The operations of a run's steps within the block at which the host would wait for a GPU."""
    mode = HostWaits()
    optimizer = [each for state in run.optimizer.state.values() for each in state.values()]
    mode.upload(*run.task.model.parameters(), *run.task.model.buffers(), *optimizer)
    if run.average is not None:
        mode.upload(*run.average.parameters(), *run.average.buffers())
    upload = run._upload

    def uploading(batch: dict[str, Any]) -> dict[str, Any]:
        batch = upload({name: v.clone() if isinstance(v, Tensor) else v for name, v in batch.items()})
        mode.upload(*(each for each in batch.values() if isinstance(each, Tensor)))
        return batch

    def sent(tensor: Tensor, device: Any) -> Tensor:
        mode.upload(tensor := tensor.clone())
        return tensor

    monkeypatch.setattr(run, "_upload", uploading)
    for module in ("svfap.data.rand_augment.send", "svfap.model.masking.send", "svfap.train.head.send"):
        monkeypatch.setattr(module, sent)
    with mode, Reads(mode):
        yield mode.found
