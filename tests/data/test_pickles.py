"""The machine of pickles against Python's own, on every instruction that makes plain data."""

from __future__ import annotations

import pickle
from io import BytesIO

import pytest

from svfap.data.pickles import Damaged, load

PICKLES = {
    "int": b"I-7\n.",
    "bool as int": b"I01\n.",
    "long": b"L70000000000L\n.",
    "long1": b"\x8a\x02\x00\x80.",
    "float": b"F2.5\n.",
    "binfloat": b"G\x40\x04\x00\x00\x00\x00\x00\x00.",
    "bytes": b"C\x02\xff\x00.",
    "text": b"Vcaf\\u00e9\n.",
    "text with its length": b"\x8c\x05caf\xc3\xa9.",
    "none and booleans": b"(N\x88\x89t.",
    "dup": b"K\x01K\x022\x87.",
    "pop": b"K\x01K\x020.",
    "pop a mark": b"K\x07(0.",
    "pop to the mark": b"K\x07(K\x01K\x021.",
    "tuples": b"K\x01\x85K\x02K\x03\x86K\x04K\x05K\x06\x87\x87.",
    "tuple of a mark": b"(K\x01(K\x02tt.",
    "list of a mark": b"(K\x01K\x02l.",
    "dict of a mark": b"(K\x01K\x02K\x03K\x04d.",
    "append": b"]K\x01aK\x02a.",
    "appends": b"]K\x01a(K\x02K\x03e.",
    "setitem": b"}K\x01K\x02s.",
    "setitems": b"}K\x01K\x02s(K\x03K\x04K\x05K\x06u.",
    "a key twice": b"}(K\x01K\x02K\x01K\x03u.",
    "memo in text": b"]p5\nK\x01ag5\n\x86.",
    "memo": b"]q\x03K\x01ah\x03\x86.",
    "long memo": b"]r\x00\x01\x00\x00K\x01aj\x00\x01\x00\x00\x86.",
    "memoize": b"K\x09\x94]\x94h\x00h\x01\x87.",
    "protocol and frame": b"\x80\x04\x95\x02\x00\x00\x00\x00\x00\x00\x00K\x01.",
}


@pytest.mark.parametrize("name", PICKLES)
def test_plain_data_is_what_python_makes_of_it(name):
    content = PICKLES[name]
    expected = pickle.loads(content)
    value = load(BytesIO(content), {})
    assert value == expected and repr(value) == repr(expected)


def test_the_file_is_behind_the_pickle_afterwards():
    file = BytesIO(pickle.dumps([1, 2]) + pickle.dumps({"a": 3}))
    assert [load(file, {}), load(file, {})] == [[1, 2], {"a": 3}]


@pytest.mark.parametrize("content", [b"(K\x01K\x02K\x03d.", b"}(K\x01u.", b"K\x01", b"0.", b"h\x05.", b"K\x01t."])
def test_what_python_refuses_is_damaged(content):
    with pytest.raises(Exception):  # noqa: B017
        pickle.loads(content)
    with pytest.raises(Damaged):
        load(BytesIO(content), {})
