"""Files of `torch.save` are read as data: whatever they name, nothing of it is called."""

from __future__ import annotations

import argparse
import collections
import datetime
import enum
import functools
import io
import pathlib
import pickle
import zipfile
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import nn

from edge_vit.errors import ArtifactError
from edge_vit.export.checkpoint import fill
from edge_vit.export.checkpoint.unpickle import Inert, Unusable, _InertUnpickler, plain, read_torch

WEIGHT = torch.arange(12.0).reshape(3, 4)
FORMS = {
    "archive": {},
    "stream": {"_use_new_zipfile_serialization": False},
    "protocol-4": {"pickle_protocol": 4},
    "protocol-5": {"pickle_protocol": 5},
    "old-protocol-5": {"pickle_protocol": 5, "_use_new_zipfile_serialization": False},
}


class Colour(enum.Enum):
    RED = 1


class Trace:
    """What leaves a mark when it is called, unpickled, or given a state."""

    marks: ClassVar[list[str]] = []

    def __init__(self, *args):
        self.marks.append("called")

    def __setstate__(self, state):
        self.marks.append("state")

    def __setitem__(self, key, value):
        self.marks.append("item")

    def append(self, value):
        self.marks.append("append")

    def __reduce__(self):
        return Trace, (1,), {"a": 1}, iter([1]), iter([(1, 2)])


def saved(path, content, **form):
    torch.save(content, path, **form)
    return read_torch(path)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "weights.pth"


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_tensors_come_back_as_they_were_saved(path, form):
    shared = torch.arange(10.0)
    content = {
        "plain": WEIGHT,
        "transposed": WEIGHT.t(),
        "view": shared[2:5],
        "whole": shared,
        "expanded": torch.ones(1).expand(5),
        "empty": torch.empty(0, 3),
        "scalar": torch.tensor(2.5),
        "parameter": nn.Parameter(WEIGHT),
        **{
            str(dtype): torch.ones(3, dtype=dtype)
            for dtype in (torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.bool)
        },
    }
    found = saved(path, content, **form)
    assert found.keys() == content.keys()
    for name, tensor in content.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor.detach())


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_plain_data_beside_the_weights_does_no_harm(path, form):
    data = {
        "scalar": np.float64(0.8),
        "dtype": np.dtype("int16"),
        "path": pathlib.PurePosixPath("/data/run"),
        "options": argparse.Namespace(lr=1e-3, img_size=(256, 128)),
        "counts": collections.defaultdict(list, {"a": [1]}),
        "ordered": collections.OrderedDict(a=1),
        "counter": collections.Counter("aab"),
        "queue": collections.deque([1, 2], maxlen=3),
        "when": datetime.datetime(2026, 1, 2),
        "enum": Colour.RED,
        "function": functools.partial(nn.LayerNorm, eps=1e-6),
        "class": nn.GELU,
        "set": {1, 2},
        "frozen": frozenset({1}),
        "complex": 1 + 2j,
        "bytes": b"\x00\xff",
        "array": bytearray(b"ab"),
        "range": range(3),
        "none": None,
    }
    found = saved(path, {"state_dict": {"w": WEIGHT}, **data}, **form)
    assert torch.equal(found["state_dict"]["w"], WEIGHT)
    assert found["counts"] == {"a": [1]}
    assert found["options"].state == {"lr": 1e-3, "img_size": (256, 128)}
    assert isinstance(found["function"], Inert)


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_numpy_arrays_become_tensors(path, form):
    arrays = {"f": np.arange(6, dtype=np.float32).reshape(2, 3), "h": np.ones(2, np.float16)}
    found = saved(path, arrays, **form)
    for name, array in arrays.items():
        assert np.array_equal(plain(found[name]).numpy(), array)


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_tensors_without_plain_numbers_are_told_by_their_kind(path):
    content = {
        "sparse": torch.eye(3).to_sparse(),
        "meta": torch.ones(2, device="meta"),
        "quantized": torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8),
    }
    found = saved(path, content)
    assert all(isinstance(value, Unusable) for value in found.values())
    assert found["sparse"].kind == "sparse"
    assert found["quantized"].kind == "quantized"


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_nothing_of_an_unknown_class_runs(path, form):
    torch.save({"w": WEIGHT, "evil": Trace()}, path, **form)
    Trace.marks.clear()
    assert isinstance(read_torch(path)["evil"], Inert)
    assert not Trace.marks


def op_global(name):
    return (
        b"c" + name.rpartition(".")[0].encode() + b"\n" + name.rpartition(".")[2].encode() + b"\n"
    )


HOSTILE = {
    "os.system": op_global("os.system") + b"(V{0}\ntR.",
    "posix.system": op_global("posix.system") + b"(V{0}\ntR.",
    "eval": op_global("builtins.eval") + b"(V__import__('os').system('{0}')\ntR.",
    "python-2-eval": op_global("__builtin__.eval") + b"(V1\ntR.",
    "Popen": op_global("subprocess.Popen") + b"(V{0}\ntR.",
    "getattr": op_global("builtins.getattr") + b"(" + op_global("torch.nn") + b"Vx\ntR.",
    "dotted": b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x03{0}\x85R.",
    "inst": b"(V{0}\nios\nsystem\n.",
    "obj": b"(" + op_global("os.system") + b"V{0}\no.",
    "newobj": b"\x80\x02" + op_global("subprocess.Popen") + b"V{0}\n\x85\x81.",
    "torch.load": op_global("torch.load") + b"(V{0}\ntR.",
    "runpy": op_global("runpy.run_path") + b"(V{0}\ntR.",
}
REFUSED = {
    "call of a call": op_global("collections.OrderedDict") + b"(tR(tR.",
    "call of a text": b"Vabc\n(tR.",
    "state of a class": op_global("collections.OrderedDict") + b"}V__len__\nV1\nsb.",
    "state of a builder": op_global("torch._utils._rebuild_tensor_v2") + b"}V__code__\nV1\nsb.",
    "extension": b"\x82\x01.",
    "reference": b"Pabc\n.",
    "codec": op_global("_codecs.encode") + b"(Vabc\nVrot13\ntR.",
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)
def test_names_that_only_run_something_are_refused_and_do_not_run(path, tmp_path, data):
    mark = tmp_path / "mark"
    data = data.replace(b"{0}", f"touch {mark}".encode())
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", data)
    with pytest.raises(ArtifactError, match=r"wants to run code \([\w.]+\) and was refused"):
        fill(nn.Linear(1, 1), path)
    assert not mark.exists()


@pytest.mark.parametrize("data", REFUSED.values(), ids=REFUSED)
def test_instructions_that_plain_data_has_no_use_for_are_refused(data):
    with pytest.raises(pickle.UnpicklingError):
        _InertUnpickler(io.BytesIO(data), None).load()


def test_a_class_of_a_builder_keeps_its_attributes():
    before = dict(vars(collections.OrderedDict))
    data = op_global("collections.OrderedDict") + b"N}V__len__\nV1\ns\x86b."
    with pytest.raises(pickle.UnpicklingError):
        _InertUnpickler(io.BytesIO(data), None).load()
    assert dict(vars(collections.OrderedDict)) == before


class Tensorlike:
    """A pickle of a tensor with a size and a stride that its storage does not have."""

    def __init__(self, size, stride, offset=0):
        self.args = size, stride, offset

    def __reduce__(self):
        size, stride, offset = self.args
        storage = torch.storage.TypedStorage(
            wrap_storage=torch.ones(4).untyped_storage(), dtype=torch.float32, _internal=True
        )
        return torch._utils._rebuild_tensor_v2, (
            storage, offset, size, stride, False, collections.OrderedDict()
        )  # fmt: skip


@pytest.mark.parametrize(
    ("size", "stride", "offset"),
    [((5,), (1,), 0), ((4,), (1,), 1), ((2,), (-1,), 1), ((2,), (1,), -1), ((10**12,), (0,), 0)],
    ids=["too-long", "behind-the-end", "backwards", "before-the-start", "a-terabyte"],
)
def test_a_tensor_outside_its_storage_is_refused(path, size, stride, offset):
    torch.save(Tensorlike(size, stride, offset), path)
    with pytest.raises(pickle.UnpicklingError, match="a tensor of size"):
        read_torch(path)


def test_an_archive_that_unpacks_to_far_more_than_its_size_is_refused(path):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", b"N.")
        archive.writestr("x/data/0", bytes(2**25))
    with pytest.raises(ArtifactError, match="unpacks to much more"):
        fill(nn.Linear(1, 1), path)


def test_a_stream_that_announces_more_than_it_holds_is_refused(path):
    torch.save({"w": torch.ones(4)}, path, _use_new_zipfile_serialization=False)
    data = path.read_bytes()
    assert data.count(b"K\x04") >= 1
    path.write_bytes(data.replace(b"K\x04N", b"J\xff\xff\xff\x7fN", 1))
    with pytest.raises(pickle.UnpicklingError, match="elements"):
        read_torch(path)


def test_the_shell_would_have_run_it(tmp_path):
    """The hostile pickles above are no blanks: Python's own reader runs one of them."""
    mark = tmp_path / "mark"
    pickle.loads(HOSTILE["os.system"].replace(b"{0}", f"touch {mark}".encode()))
    assert mark.exists()
