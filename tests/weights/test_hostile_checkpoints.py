"""Files made to run code, to take all memory or never to end: each is one line of error, and nothing runs."""

from __future__ import annotations

import json
import os
import pickle
import resource
import struct
import sys
import time
import warnings
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch

import svfap
from svfap.errors import UserError
from svfap.weights.published import export_published

MAX_SECONDS, MAX_MIB = 10, 400
MARK, REDUCE, STOP = b"(", b"R", b"."


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return svfap.create_model("svfap_debug", "classification", label_names=("happy", "sad"))


@pytest.fixture
def sentinel(tmp_path, monkeypatch) -> Path:
    """The file that every payload would make, and a module whose import makes it."""
    file = tmp_path / "sentinel"
    (tmp_path / "evil_module.py").write_text(
        f"open({str(file)!r}, 'w')\nclass Thing: pass\ndef call(*args): return args\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("SENTINEL", str(file))
    yield file
    assert not file.exists(), "the file ran code"
    assert "evil_module" not in sys.modules


def refused(path: Path, *, load: Callable = svfap.load_model) -> str:
    """The one line of error with which a file ends, in little time and memory."""
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(UserError) as error:
        load(path)
    assert time.process_time() - start < MAX_SECONDS
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024 < MAX_MIB
    text = str(error.value)
    assert len(text.splitlines()) == 1 and len(text) < 2000
    assert path.name in text
    return text


def in_zip(path: Path, pickled: bytes, **entries: bytes) -> Path:
    """A file in the zip format of torch.save."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        for name, content in entries.items():
            archive.writestr(f"archive/data/{name}", content)
    return path


def text(value: str) -> bytes:
    """The instruction BINUNICODE."""
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def entry(value: bytes) -> bytes:
    """A dict with `value` under "model"."""
    return b"}" + text("model") + value + b"s."


COMMAND = "import os; open(os.environ['SENTINEL'], 'w')"
SHELL = "touch $SENTINEL"
CALLS = {
    "os.system": SHELL, "posix.system": SHELL, "nt.system": SHELL, "os.popen": SHELL, "os.execvp": SHELL,
    "subprocess.Popen": SHELL, "subprocess.check_output": SHELL, "subprocess.getoutput": SHELL, "commands.getoutput": SHELL,
    "builtins.eval": COMMAND, "builtins.exec": COMMAND, "builtins.compile": COMMAND, "builtins.open": "sentinel",
    "builtins.__import__": "evil_module", "builtins.breakpoint": "", "__builtin__.eval": COMMAND, "__builtin__.file": "sentinel",
    "importlib.import_module": "evil_module", "runpy.run_module": "evil_module", "runpy._run_code": COMMAND, "pty.spawn": "touch",
    "shutil.rmtree": "evil_module.py", "ctypes.CDLL": "evil_module.py", "marshal.loads": "x", "types.FunctionType": "x",
    "pickle.loads": "x", "_pickle.loads": "x", "timeit.timeit": COMMAND, "code.interact": "", "pdb.run": COMMAND,
    "webbrowser.open": "file:///", "socket.create_connection": "x", "sys.exit": "0", "cProfile.run": COMMAND,
    "urllib.request.urlopen": "file:///", "signal.raise_signal": "9",
}  # fmt: skip
UNKNOWN = {
    "evil_module.call": "x", "numpy.testing._private.utils.runstring": COMMAND, "torch.hub.load": "x", "torch.load": "x",
    "pandas.read_pickle": "x", "builtins.getattr": "x", "operator.attrgetter": "system", "functools.partial": "x",
    "torch.utils.cpp_extension.load": "evil_module", "pip.main": "x", "joblib.load": "x", "numpy.load": "x",
}  # fmt: skip


def call(name: str, argument: str, how: str) -> bytes:
    """Instructions that call a function by its name with one text."""
    module, _, function = name.rpartition(".")
    by_name = b"c" + module.encode() + b"\n" + function.encode() + b"\n"
    arguments = text(argument) + b"\x85"  # TUPLE1
    return {
        "GLOBAL": by_name + arguments + REDUCE,
        "STACK_GLOBAL": text(module) + text(function) + b"\x93" + arguments + REDUCE,
        "INST": MARK + text(argument) + b"i" + module.encode() + b"\n" + function.encode() + b"\n",
        "OBJ": MARK + by_name + text(argument) + b"o",
        "NEWOBJ": by_name + arguments + b"\x81",
        "NEWOBJ_EX": by_name + arguments + b"}\x92",
        "BUILD": by_name + b")" + b"\x81" + b"}" + text("__setstate__") + text(argument) + b"sb",
        "nested": by_name + by_name + arguments + REDUCE + b"\x85" + REDUCE,
    }[how]


HOW = ("GLOBAL", "STACK_GLOBAL", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "BUILD", "nested")


@pytest.mark.parametrize("name", CALLS)
def test_functions_that_act_are_refused_by_name(name, sentinel, tmp_path):
    for how in HOW:
        for pickled in (call(name, CALLS[name], how) + STOP, entry(call(name, CALLS[name], how))):
            message = refused(in_zip(tmp_path / f"{how}.pth", pickled))
            assert f"refused: reading it would execute code ({name})" in message


@pytest.mark.parametrize("name", UNKNOWN)
def test_functions_that_are_not_known_are_not_called(name, sentinel, tmp_path):
    for how in HOW:
        refused(in_zip(tmp_path / f"{how}.pth", call(name, UNKNOWN[name], how) + STOP))
        message = refused(in_zip(tmp_path / f"{how}.pth", entry(call(name, UNKNOWN[name], how))))
        assert "no patch_embed.proj.weight in it" in message


class Payload:
    """Makes the sentinel where it is unpickled."""

    def __reduce__(self):
        return (exec, (COMMAND,))


def test_the_payload_runs_where_a_file_is_unpickled_without_care(tmp_path, monkeypatch):
    monkeypatch.setenv("SENTINEL", str(tmp_path / "sentinel"))
    pickle.loads(pickle.dumps(Payload()))
    assert (tmp_path / "sentinel").exists()
    (tmp_path / "sentinel").unlink()
    torch.save({"model": Payload()}, tmp_path / "a.pth")
    torch.load(tmp_path / "a.pth", weights_only=False)
    assert (tmp_path / "sentinel").exists()
    (tmp_path / "sentinel").unlink()
    assert "refused: reading it would execute code (__builtin__.exec)" in refused(tmp_path / "a.pth")
    assert not (tmp_path / "sentinel").exists()


@pytest.mark.parametrize("protocol", range(6))
def test_payloads_of_every_protocol(protocol, sentinel, model, tmp_path):
    evil = {
        "plain": Payload(),
        "list": {"model": [{"a": (1, Payload())}]},
        "array": {"model": {"patch_embed.proj.weight": np.array([Payload()], dtype=object)}},
        "beside": {"model": export_published(model), "args": Payload()},
    }
    for name, value in evil.items():
        (tmp_path / f"{name}_raw.pth").write_bytes(pickle.dumps(value, protocol))
        refused(tmp_path / f"{name}_raw.pth")
        for old in (True, False):
            file = tmp_path / f"{name}_{old}.pth"
            torch.save(value, file, pickle_protocol=protocol, _use_new_zipfile_serialization=not old)
            message = refused(file)
            # in protocol 0 torch writes references to tensors as text, which torch itself does not read
            assert "refused: reading it would execute code" in message or (name, protocol) == ("beside", 0)


def test_objects_beside_the_weights_are_passed_over(sentinel, model, tmp_path):
    """Weights load where what is beside them is of a class that is not there; its module is not imported."""
    pickled = BytesIO()
    torch.save({"model": export_published(model)}, pickled)
    archive = zipfile.ZipFile(pickled)
    root = archive.namelist()[0].split("/")[0]
    evil = (
        text("args") + call("evil_module.call", "x", "GLOBAL") + text("more") + call("evil_module.Thing", "x", "BUILD")
    )
    inner = archive.read(f"{root}/data.pkl")
    with zipfile.ZipFile(tmp_path / "a.pth", "w") as changed:
        for name in archive.namelist():
            content = inner[:-1] + MARK + evil + b"u." if name.endswith("data.pkl") else archive.read(name)
            changed.writestr(name, content)
    loaded = svfap.import_published(
        tmp_path / "a.pth",
        label_names=("happy", "sad"),
        num_frames=16,
        img_size=32,
        num_heads=2,
        stage_depths=(2, 2, 2),
    )
    assert torch.equal(loaded.head.weight, model.head.weight)


# pickles that are made to take memory or time ----------------------------------------------------------------------------


def storage(key: str = "0", count: bytes = b"K\x04") -> bytes:
    """A persistent reference to numbers."""
    parts = text("storage") + b"ctorch\nFloatStorage\n" + text(key) + text("cpu") + count
    return MARK + parts + b"t" + b"Q"


def tensor(size: bytes, stride: bytes, offset: bytes = b"K\x00", of: bytes = b"") -> bytes:
    """A tensor of a storage; size and stride are instructions of tuples."""
    start = b"ctorch._utils\n_rebuild_tensor_v2\n" + MARK
    return start + (of or storage()) + offset + size + stride + b"\x89" + b"}" + b"t" + REDUCE


def weights(value: bytes) -> bytes:
    return b"}" + text("patch_embed.proj.weight") + value + b"s."


REBUILD = b"ctorch._tensor\n_rebuild_from_type_v2\n"
BIG = b"\x8a\x08" + struct.pack("<q", 2**62)  # LONG1
BIG_SIZE = b"\x8a\x05" + struct.pack("<q", 2**38)[:5]
TUPLE5 = MARK + BIG * 5 + b"t"
ZEROS5 = MARK + b"K\x00" * 5 + b"t"
PICKLES: dict[str, bytes] = {
    "memo far away": b"}r\xff\xff\xff\x7f.",
    "memo by text": b"}p99999999999999999999\n.",
    "nothing in the memo": b"j\xff\xff\xff\xff.",
    "bytes of 2**60": b"\x8e" + struct.pack("<Q", 2**60) + b"a.",
    "text of 2**60": b"\x8d" + struct.pack("<Q", 2**60) + b"a.",
    "bytearray of 2**60": b"\x96" + struct.pack("<Q", 2**60) + b"a.",
    "frame of 2**63": b"\x80\x04\x95" + struct.pack("<Q", 2**63) + b"}.",
    "number of 2 GB": b"\x8b\xff\xff\xff\x7f.",
    "number of 100,000 digits": b"L" + b"9" * 100_000 + b"L\n.",
    "number of negative length": b"\x8b\xff\xff\xff\xff.",
    "extension": b"\x82\x01.",
    "buffer of another file": b"\x97.",
    "no end": b"}",
    "empty stack": b".",
    "no mark": b"t.",
    "unknown instruction": b"\xff.",
    "list 50,000 deep": b"]" * 50_000 + b"a" * 49_999 + b".",
    "tuple 50,000 deep": b")" + b"\x85" * 50_000 + b".",
    "deep tuple as a key": b"}" + b")" + b"\x85" * 50_000 + b"Ns.",
    "call 20,000 deep": b"ca\nb\n" * 20_000 + b")" + (REDUCE + b"\x85") * 20_000 + b".",
    "dict in itself": b"}q\x00" + text("model") + b"h\x00s.",
    "call of itself": b"]q\x00(" + REBUILD + b"Nh\x00e" + REBUILD + b"h\x00R.",
    "billions of lists": b"]" + b"".join(b"q%c]h%ca" % (n, n) + b"h%ca" % n for n in range(64)) + b".",
    "two million instructions": b"}" + b"20" * 1_000_000 + b".",
    "number as a function": b"K\x01)R.",
    "text as a class": text("os") + b")\x81.",
    "a name that is no text": b"K\x01K\x02\x93.",
    "persistent text": b"Pstorage\n.",
    "persistent number": b"K\x01Q.",
    "persistent tuple": text("module") + text("evil_module") + b"\x86Q.",
    "storage without numbers": weights(tensor(b"K\x02\x85", b"K\x01\x85")),
    "storage in a folder above": weights(tensor(b"K\x02\x85", b"K\x01\x85", of=storage("../../../etc/passwd"))),
    "storage of 2**62": weights(tensor(TUPLE5, ZEROS5, of=storage("a", BIG))),
    "shape of 2**62": weights(tensor(TUPLE5, ZEROS5, of=storage("a"))),
    "stride of 2**62": weights(tensor(MARK + b"K\x01" * 4 + b"K\x02t", TUPLE5, of=storage("a"))),
    "offset of 2**62": weights(tensor(b"K\x01\x85", b"K\x01\x85", BIG, storage("a"))),
    "negative offset": weights(tensor(b"K\x01\x85", b"K\x01\x85", b"J\xff\xff\xff\xff", storage("a"))),
    "negative stride": weights(tensor(b"K\x02\x85", b"J\xff\xff\xff\xff\x85", of=storage("a"))),
    "shape of text": weights(tensor(text("a") + b"\x85", b"K\x01\x85", of=storage("a"))),
    "shape without end": weights(tensor(b"K\x02\x85", b")", of=storage("a"))),
    "tensor of nothing": weights(tensor(MARK + b"K\x00" * 4 + BIG_SIZE + b"t", ZEROS5, of=storage("a"))),
    "image in place of a clip": weights(tensor(b"K\x02K\x02\x86", b"K\x02K\x01\x86", of=storage("a"))),
}  # fmt: skip


@pytest.mark.parametrize("name", PICKLES)
def test_pickles_that_would_take_memory_or_time(name, sentinel, tmp_path):
    refused(in_zip(tmp_path / "zip.pth", PICKLES[name], a=bytes(16)))
    magic = b"".join(pickle.dumps(value, 2) for value in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}))
    (tmp_path / "legacy.pth").write_bytes(
        magic + PICKLES[name] + pickle.dumps(["a"], 2) + struct.pack("<q", 4) + bytes(16)
    )
    refused(tmp_path / "legacy.pth")
    (tmp_path / "raw.pth").write_bytes(PICKLES[name])
    refused(tmp_path / "raw.pth")


# archives ----------------------------------------------------------------------------------------------------------------


def archive(**entries: bytes) -> Callable[[Path], object]:
    """Writes a zip archive; in names, __ stands for /."""

    def write(path: Path) -> None:
        with warnings.catch_warnings(), zipfile.ZipFile(path, "w") as file:
            warnings.simplefilter("ignore")  # of names that occur twice
            for name, content in entries.items():
                file.writestr(name.replace("__", "/"), content)

    return write


def compressed(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a/data.pkl", weights(tensor(b"K\x02\x85", b"K\x01\x85", of=storage("a"))))
        file.writestr("a/data/a", bytes(300 * 2**20))


def one_storage_many_times(path: Path) -> None:
    """2000 names of one stored megabyte: the entries of the directory all point to it."""
    names = [f"{n:04d}" for n in range(2000)]
    size = MARK + b"J" + struct.pack("<i", 2**18) + b"t"
    pickled = b"}" + b"".join(
        text(n) + tensor(size, b"K\x01\x85", of=storage(n, b"J" + struct.pack("<i", 2**18))) + b"s" for n in names
    )
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a/data.pkl", pickled + b".")
        file.writestr("a/data/0000", bytes(2**20))
        first = file.getinfo("a/data/0000")
        for name in names[1:]:
            info = zipfile.ZipInfo(f"a/data/{name}")
            info.header_offset, info.CRC = first.header_offset, first.CRC
            info.compress_size = info.file_size = first.file_size
            file.filelist.append(info)


def cut(path: Path) -> None:
    torch.save({"model": {"a": torch.zeros(1000)}}, path)
    path.write_bytes(path.read_bytes()[:-200])


def bit_flipped(path: Path) -> None:
    torch.save({"model": {"patch_embed.proj.weight": torch.ones(4, 3, 2, 4, 4)}}, path)
    content = bytearray(path.read_bytes())
    content[content.index(struct.pack("<f", 1) * 8) + 2] ^= 1
    path.write_bytes(content)


SCRIPT = {"a__data.pkl": b"}.", "a__code____torch__.py": COMMAND.encode()}
ARCHIVES: dict[str, tuple[Callable[[Path], object], str]] = {
    "without a pickle": (archive(a__readme=b"hello"), "not one of torch.save"),
    "two pickles": (archive(a__data__pkl=b"", **{"a__data.pkl": b"}.", "b__data.pkl": b"}."}), "not one of torch.save"),
    "names above the folder": (archive(**{"..__..__data.pkl": b"}.", "..__evil": b""}), "not one of torch.save"),
    "an absolute name": (archive(**{"__tmp__data.pkl": b"}."}), "zip"),
    "an office document": (archive(**{"word__document.xml": b"<xml/>"}), "not one of torch.save"),
    "TorchScript": (archive(**SCRIPT), "TorchScript"),
    "the other order of bytes": (archive(**{"a__data.pkl": b"}.", "a__byteorder": b"big"}), "other order of bytes"),
    "compressed": (compressed, "compressed"),
    "one storage many times": (one_storage_many_times, "not a checkpoint"),
    "cut short": (cut, "cut short"),
    "a bit flipped": (bit_flipped, "CRC"),
    "a beginning": (lambda path: path.write_bytes(b"PK\x03\x04" + os.urandom(500)), "cut short"),
    "an end": (lambda path: path.write_bytes(b"PK\x05\x06" + b"\xff" * 18), ""),
}


@pytest.mark.parametrize("name", ARCHIVES)
def test_archives(name, sentinel, tmp_path):
    write, message = ARCHIVES[name]
    write(tmp_path / "a.pth")
    assert message in refused(tmp_path / "a.pth")
    assert {path.name for path in tmp_path.iterdir()} == {"a.pth", "evil_module.py"}


OTHER_FILES = {
    "pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:aaaa\nsize 310000000\n", "git lfs pull"),
    "page": (
        b"<!DOCTYPE html><html><head><title>Quota\nexceeded</title>",
        "a web page ('Quota exceeded'); open its address",
    ),
    "answer": (b'\n<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "a web page"),
    "nothing": (b"", "an empty file; get it again"),
    "zeros": (bytes(5000), "zero bytes"),
    "text": (b"epoch 1: loss 0.3\n", "a text file"),
    "gzip": (b"\x1f\x8b\x08\x00" + bytes(40), "compressed file; unpack it"),
    "tar": (bytes([97]) + bytes(256) + b"ustar" + bytes(300), "a tar archive; unpack it"),
}


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".bin"])
@pytest.mark.parametrize("name", OTHER_FILES)
def test_what_a_file_is_instead(name, suffix, tmp_path):
    content, message = OTHER_FILES[name]
    (tmp_path / f"a{suffix}").write_bytes(content)
    assert message in refused(tmp_path / f"a{suffix}")


# safetensors and config.json ---------------------------------------------------------------------------------------------


def header(text_of_it: bytes, length: int | None = None, data: bytes = b"") -> bytes:
    return struct.pack("<Q", len(text_of_it) if length is None else length) + text_of_it + data


def entries(**words) -> bytes:
    plain = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    return json.dumps({"patch_embed.proj.weight": {**plain, **words}}).encode()


SAFETENSORS = {
    "a length of 2**63": header(entries(), 2**63),
    "a length of 2**64 - 1": header(entries(), 2**64 - 1),
    "a length beyond the file": header(entries(), 10**7),
    "no JSON": header(b"{" + b"a" * 50),
    "nested deeply": header(b'{"a":' * 100_000),
    "lists nested deeply": header(b'{"a":' + b"[" * 100_000),
    "an offset beyond the file": header(entries(data_offsets=[0, 10**15], shape=[10**15 // 4])),
    "a negative offset": header(entries(data_offsets=[-4, 0])),
    "an offset of 2**70": header(entries(data_offsets=[0, 2**70])),
    "offsets the wrong way": header(entries(data_offsets=[4, 0]), data=bytes(4)),
    "an unknown dtype": header(entries(dtype="os.system"), data=bytes(4)),
    "a shape that overflows": header(entries(shape=[2**40, 2**40]), data=bytes(4)),
    "a shape without numbers": header(entries(shape=[10**12]), data=bytes(4)),
    "an empty tensor": header(entries(shape=[2**38, 0], data_offsets=[0, 0])),
    "a number for an image": header(entries(), data=bytes(4)),
    "bytes left over": header(entries(), data=bytes(400)),
    "only a length": struct.pack("<Q", 100) + b"{",
}


@pytest.mark.parametrize("name", SAFETENSORS)
def test_safetensors(name, model, tmp_path):
    for file in ("a.safetensors", "a.pth"):
        (tmp_path / file).write_bytes(SAFETENSORS[name])
        refused(tmp_path / file)
    model.save_pretrained(tmp_path / "folder")
    (tmp_path / "folder" / "model.safetensors").write_bytes(SAFETENSORS[name])
    assert "does not fit" in refused(tmp_path / "folder")


DEEP = "[" * 100_000 + "]" * 100_000
CONFIGS: dict[str, object] = {
    "embed_dim": {"embed_dim": 10**9},
    "embed_dim of 400 digits": {"embed_dim": 10**400},
    "embed_dim that is possible": {"embed_dim": 65536, "num_heads": 1},
    "depths": {"stage_depths": [10**9, 2, 2]},
    "depths that are possible": {"stage_depths": [60_000, 2, 2]},
    "many stages": {"stage_depths": [1] * 50_000, "num_bottleneck_tokens": [8], "temporal_pyramid": False},
    "frames": {"num_frames": 10**9},
    "size": {"img_size": 10**9},
    "size of a patch too": {"img_size": 2**16, "patch_size": 2**16},
    "many tokens": {"img_size": 2**16, "num_frames": 2**16, "patch_size": 1},
    "outputs": {"num_outputs": 10**9, "label_names": []},
    "ratio": {"mlp_ratio": 1e300},
    "ratio that is possible": {"mlp_ratio": 100},
    "ratio that is no number": {"mlp_ratio": float("nan")},
    "ratio of text": {"mlp_ratio": "4"},
    "decoder": {"task": "pretraining", "decoder_depth": 65536, "label_names": [], "num_outputs": 0},
    "bottleneck": {"bottleneck_hidden_dim": 10**9},
    "names that are lists": {"label_names": [["a"], ["b"]]},
    "names that are numbers": {"label_names": [1, 2]},
    "provenance of text": {"provenance": "os.system"},
    "mean of text": {"pixel_mean": ["a", "b", "c"]},
    "mean of one": {"pixel_mean": [0.5]},
    "unknown task": {"task": "__import__('os')"},
    "version": {"format_version": 10**9},
    "nested deeply": DEEP,
    "a setting nested deeply": '{"provenance": {"a": ' + DEEP + "}}",
    "a setting nested": '{"provenance": {"a": ' + "[" * 900 + "]" * 900 + "}}",
    "not UTF-8": b"\xff\xfe{\x00",
}


@pytest.mark.parametrize("name", CONFIGS)
def test_settings_that_no_model_has(name, model, tmp_path):
    model.save_pretrained(tmp_path / "folder")
    file = tmp_path / "folder" / "config.json"
    content = CONFIGS[name]
    if isinstance(content, dict):
        sys.set_int_max_str_digits(0)
        content = json.dumps({**json.loads(file.read_text()), **content})
        sys.set_int_max_str_digits(4300)
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    refused(tmp_path / "folder")


@pytest.mark.parametrize(
    "args",
    [
        {"num_frames": 10**9}, {"num_frames": float("inf")}, {"num_frames": "16"}, {"input_size": 10**9},
        {"stage_depths": [10**9] * 3}, {"stage_depths": [2] * 100_000}, {"num_heads": 0}, {"num_heads": -1},
        {"label_names": ["a"] * 100_000}, {"sampling_rate": 10**9}, {"num_frames": np.float64("nan")},
        {"svfap": {"embed_dim": 2**16, "stage_depths": [30_000, 2, 2]}}, {"svfap": {"provenance": "text"}},
        {"svfap": {"label_names": 5}}, {"svfap": {"stage_depths": {"a": 1}}}, {"svfap": {"preset": []}},
    ],
)  # fmt: skip
def test_arguments_that_no_model_has(args, model, tmp_path):
    plain = {"num_frames": 16, "input_size": 32, "stage_depths": [2, 2, 2], "num_heads": 2}
    torch.save({"model": export_published(model), "args": {**plain, **args}}, tmp_path / "a.pth")
    refused(tmp_path / "a.pth")


def test_blocks_with_absurd_numbers(model, tmp_path):
    for name in (
        "blocks.999999999.norm1.weight",
        f"blocks.{'9' * 5000}.norm1.weight",
        "temporal_downsamples.10000000.weight",
    ):
        torch.save({"model": {**export_published(model), name: torch.zeros(2)}}, tmp_path / "a.pth")
        with pytest.raises(UserError):
            svfap.import_published(tmp_path / "a.pth")


@pytest.mark.parametrize(
    "config",
    [
        DEEP,
        '{"model_type": "videomae", "id2label": {"a": "b"}}',
        '{"model_type": "videomae", "id2label": 3}',
        '{"model_type": "videomae", "num_frames": 1000000000, "image_size": 1000000000}',
        "\x00",
    ],
)
def test_files_of_transformers(config, tmp_path):
    stem = "videomae.encoder.layer.0.attention.attention."
    torch.save(
        {
            "videomae.embeddings.patch_embeddings.projection.weight": torch.zeros(8, 3, 2, 4, 4),
            **{f"{stem}{part}.weight": torch.zeros(2, 3 + n) for n, part in enumerate(("query", "key", "value"))},
        },
        tmp_path / "wrong.bin",
    )
    torch.save(
        {"videomae.embeddings.patch_embeddings.projection.weight": torch.zeros(8, 3, 2, 4, 4)}, tmp_path / "a.bin"
    )
    (tmp_path / "config.json").write_text(config)
    assert "does not fit the model" in refused(tmp_path / "wrong.bin")
    refused(tmp_path / "a.bin")
