"""Checkpoints that other programs wrote: names with prefixes of wrappers, and objects beside the weights."""

from __future__ import annotations

import argparse
import collections
import pathlib
import types

import numpy as np
import pytest
import torch

import svfap
from svfap.errors import UserError
from svfap.weights.checkpoint import read_checkpoint, read_published
from svfap.weights.published import export_published

ARGS = {"num_frames": 16, "input_size": 32, "stage_depths": [2, 2, 2], "sampling_rate": 2, "num_heads": 2}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return svfap.create_model("svfap_debug", "classification", label_names=("happy", "sad"), sampling_stride=2).eval()


@pytest.fixture(scope="module")
def state(model):
    return export_published(model)


def assert_same(path: pathlib.Path, model: svfap.Model) -> svfap.Model:
    """A file gives the model's weights to the bit."""
    loaded = svfap.import_published(path)
    assert loaded.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in loaded.state_dict().items())
    return loaded


@pytest.mark.parametrize(
    "rename",
    [
        "module.{}", "_orig_mod.{}", "module._orig_mod.{}", "_orig_mod.module.{}", "model.{}", "model._orig_mod.{}",
        "model.module.{}", "backbone.{}", "module.backbone.{}", "_fsdp_wrapped_module.{}", "module.model.backbone._orig_mod.{}",
    ],
)  # fmt: skip
def test_prefixes_of_wrappers_are_dropped(rename, model, state, tmp_path):
    torch.save(
        {"model": {rename.format(name): tensor for name, tensor in state.items()}, "args": ARGS}, tmp_path / "a.pth"
    )
    assert assert_same(tmp_path / "a.pth", model).config.sampling_stride == 2


def test_a_wrapper_inside_a_name_is_dropped(model, state, tmp_path):
    inside = {
        name.replace("blocks.1.", "blocks.1._checkpoint_wrapped_module."): tensor for name, tensor in state.items()
    }
    assert inside.keys() != state.keys()
    torch.save({"model": inside, "args": ARGS}, tmp_path / "a.pth")
    assert_same(tmp_path / "a.pth", model)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"state_dict": {f"model.{n}": t for n, t in state.items()}, "pytorch-lightning_version": "2.1",
                       "callbacks": {"EarlyStopping{'monitor': 'uar'}": {"best": torch.tensor(0.5)}},
                       "hyper_parameters": {"lr": 1e-3, "out": pathlib.PurePosixPath("/data")}},
        lambda state: {"module": state, "optimizer": None, "ds_version": "0.14", "param_shapes": [torch.Size([2, 2])]},
        lambda state: {"module": {"model": {"state_dict": state}}},
        lambda state: {"model": collections.OrderedDict(state)},
        lambda state: {"model": None, "model_ema": state},
        lambda state: state,
    ],
)  # fmt: skip
def test_containers_of_the_state_dict(wrap, model, state, tmp_path):
    torch.save({**wrap(state), "args": ARGS}, tmp_path / "a.pth")
    assert_same(tmp_path / "a.pth", model)


def test_an_unknown_prefix_is_named(state, tmp_path):
    torch.save({"net.encoder." + name: tensor for name, tensor in state.items()}, tmp_path / "a.pth")
    with pytest.raises(UserError, match=r"names of tensors begin with the unknown prefix 'net\.encoder\.'"):
        svfap.import_published(tmp_path / "a.pth")
    lightning = {f"model.{name}": tensor for name, tensor in state.items()} | {"loss.weight": torch.ones(2)}
    with pytest.raises(UserError, match=r"unknown prefix 'model\.', and others do not \(loss\.weight\)"):
        svfap.import_published({"state_dict": lightning})


class Config(dict):
    """As of yacs and addict: a dict with attributes."""


def odd_arguments() -> dict[str, object]:
    return {
        "betas": np.array([0.9, 0.95]), "names": np.array(["a", None], dtype=object), "dtype": np.dtype("float32"),
        "scalar": np.float32(0.5), "flag": np.bool_(True), "output_dir": pathlib.PurePosixPath("/data/x"),
        "device": torch.device("cuda", 0), "half": torch.float16, "size": torch.Size([1, 2]),
        "group": collections.defaultdict(list, {"a": [1]}), "counts": collections.Counter("abc"), "deque": collections.deque([1]),
        "simple": types.SimpleNamespace(a=1), "inner": argparse.Namespace(b=2), "config": Config(c=3), "set": {1, 2},
        "complex": 1j, "bytes": b"\x00\xff", "range": range(3), "slice": slice(1, 2), "function": read_published,
        "class": Config, "random": np.random.default_rng(0), "generator": torch.Generator().get_state(),
        "optimizer": torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], lr=0.1), "frozen": frozenset("a"),
    }  # fmt: skip


@pytest.mark.parametrize(
    "as_args", [dict, Config, lambda d: argparse.Namespace(**d), lambda d: types.SimpleNamespace(**d)]
)
@pytest.mark.parametrize("form", [{}, {"_use_new_zipfile_serialization": False}, {"pickle_protocol": 5}])
def test_objects_in_the_arguments_are_data(as_args, form, model, state, tmp_path):
    args = as_args({**ARGS, "num_frames": np.int64(16), "sampling_rate": np.int32(2), **odd_arguments()})
    torch.save(
        {"model": state, "args": args, "epoch": np.int64(99), "best": np.float64(71.2)}, tmp_path / "a.pth", **form
    )
    loaded = assert_same(tmp_path / "a.pth", model)
    assert (loaded.config.sampling_stride, loaded.config.provenance["epoch"]) == (2, 99)
    assert "guessed" not in loaded.config.provenance
    loaded.save_pretrained(tmp_path / "folder")
    assert svfap.load_model(tmp_path / "folder").config == loaded.config


@pytest.mark.parametrize("form", [{}, {"_use_new_zipfile_serialization": False}])
def test_tensors_are_read_as_torch_reads_them(form, tmp_path):
    torch.manual_seed(0)
    base = torch.randn(6, 8)
    values = {
        "view": base[1:4, ::2], "transposed": base.t(), "scalar": torch.tensor(3.5), "empty": torch.empty(0, 4), "same": base,
        "parameter": torch.nn.Parameter(base[0].clone()), "expanded": torch.arange(4.0)[:, None],
        **{str(dtype): torch.arange(-3, 5).to(dtype) for dtype in (torch.float64, torch.float16, torch.bfloat16)},
        **{str(dtype): torch.arange(0, 8).to(dtype) for dtype in (torch.int64, torch.int32, torch.int16, torch.int8)},
        **{str(dtype): torch.arange(0, 2).to(dtype) for dtype in (torch.uint8, torch.bool)},
    }  # fmt: skip
    if not form:
        values["torch.uint16"] = torch.arange(3).to(torch.uint16)
    torch.save({"model": values, "optimizer": {"state": {0: {"exp_avg": base}}}}, tmp_path / "a.pth", **form)
    read, expected = (
        read_checkpoint(tmp_path / "a.pth")["model"],
        torch.load(tmp_path / "a.pth", weights_only=True)["model"],
    )
    assert read.keys() == expected.keys()
    for name, tensor in expected.items():
        assert read[name].dtype == tensor.dtype and torch.equal(read[name], tensor), name
        assert read[name].stride() == tensor.stride(), name


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_a_whole_model_is_told_from_its_tensors(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "a.pth")
    with pytest.raises(
        UserError, match=r"holds an object of the class torch\.nn\.modules\.linear\.Linear, not tensors by name"
    ):
        svfap.import_published(tmp_path / "a.pth")
    torch.jit.script(torch.nn.Linear(2, 2)).save(tmp_path / "b.pth")
    with pytest.raises(UserError, match="TorchScript"):
        svfap.import_published(tmp_path / "b.pth")


def test_safetensors_under_another_name(model, state, tmp_path):
    from safetensors.torch import save_file

    save_file(state, tmp_path / "a.pth")
    loaded = svfap.import_published(
        tmp_path / "a.pth", **{k: v for k, v in ARGS.items() if k not in ("input_size", "sampling_rate")}
    )
    assert torch.equal(loaded.head.weight, model.head.weight)


def test_a_head_of_another_size_is_told_in_words(model, tmp_path):
    import json

    model.save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    content = json.loads(file.read_text()) | {"num_outputs": 7, "label_names": []}
    file.write_text(json.dumps(content))
    with pytest.raises(
        UserError, match=r"model\.safetensors: .* the head in the file has 2 outputs, and num_outputs is 7"
    ):
        svfap.load_model(tmp_path)


def test_reading_draws_no_random_numbers(model, tmp_path):
    """What is compared before the model is built takes nothing from the generator that training uses after it."""
    from svfap.model.build import build_model, empty_model, shapes_of

    torch.manual_seed(3)
    build_model(model.config)
    expected = torch.rand(4)
    torch.manual_seed(3)
    shapes = shapes_of(empty_model(model.config, 1000, "a"))
    build_model(model.config)
    assert torch.equal(torch.rand(4), expected)
    assert shapes == {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def test_the_card_of_a_model_claims_no_licence_that_is_not_known(tmp_path):
    def card(**provenance: object) -> str:
        model = svfap.create_model("svfap_debug", "classification", label_names=("happy", "sad"), provenance=provenance)
        folder = tmp_path / str(len(provenance))
        model.save_pretrained(folder)
        return (folder / "README.md").read_text()

    unknown = card()
    assert "license:" not in unknown and "Licence of these weights: not stated" in unknown
    known = card(dataset="DFEW", licence="for research; clips may not be passed on", init="runs/pretrain")
    assert "\nlicense: other\n" in known and "mit" not in known.split("---")[1]
    assert "- Trained on: DFEW\n" in known
    assert (
        "- Licence of that dataset, which may bind these weights: for research; clips may not be passed on\n" in known
    )
    assert "initialised from, whose terms hold as well: runs/pretrain" in known
    assert "license:" not in card(a=1)  # that of one model is not kept for the next


def test_training_hands_on_the_terms_of_its_dataset(tmp_path):
    from svfap.data.prepared import PreparedDataset, dataset_terms, write_dataset_file

    words = {"task": "classification", "label_names": ("a", "b"), "licence": "for research"}
    write_dataset_file(tmp_path, PreparedDataset("dfew", "DFEW", root=pathlib.Path("."), **words))
    for terms in (dataset_terms(tmp_path, None), dataset_terms(None, tmp_path / "train.csv")):
        assert terms == {"dataset": "DFEW", "licence": "for research"}
    assert dataset_terms(None, tmp_path / "other" / "train.csv") == {}
