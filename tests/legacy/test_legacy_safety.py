"""Files of `torch.save` from strangers: nothing in them runs, and damaged ones are refused with a reason."""

import contextlib
import copyreg
import functools
import io
import os
import pickle
import random
import runpy
import struct
import subprocess
import time
import tracemalloc
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from forged_pickles import archive_of, attribute, call, list_of, name, new, read, text

from charm_hf import convert_legacy_checkpoint
from charm_hf.legacy.pickle_reader import Instance, Name, read_pickle
from charm_hf.legacy.torch_archive import StoredTensor, read_torch_file


FIXTURES = Path(__file__).parents[1] / "fixtures" / "legacy"
SYSTEM = os.system.__module__  # "posix" or "nt"


def saved_by_torch(content, **options):
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


# ---------------------------------------------------------------------------------------------------------------------
# Payloads. Each is live: the test first unpickles it, and sees the folder that it makes.


class Call:
    """Pickled as a call of `function`."""

    def __init__(self, function, *args):
        self.function, self.args = function, args

    def __reduce__(self):
        return self.function, self.args

    def __call__(self):
        """Lets a call that gives a function stand where a function is called."""


class WithState:
    """Pickled as a plain object with these attributes."""

    def __init__(self, **attributes):
        self.__dict__.update(attributes)


CALLS = {
    f"{SYSTEM}.system": lambda folder: Call(os.system, f'mkdir "{folder}"'),
    f"{SYSTEM}.mkdir": lambda folder: Call(os.mkdir, folder),
    "builtins.eval": lambda folder: Call(eval, f"__import__('os').mkdir({folder!r})"),
    "builtins.exec": lambda folder: Call(exec, f"__import__('os').mkdir({folder!r})"),
    "builtins.__import__": lambda folder: Call(Call(getattr, Call(__import__, "os"), "mkdir"), folder),
    "subprocess.check_call": lambda folder: Call(subprocess.check_call, ["mkdir", folder]),
    "runpy._run_code": lambda folder: Call(runpy._run_code, f"import os; os.mkdir({folder!r})", {}),
    f"functools.partial({SYSTEM}.mkdir)": lambda folder: Call(functools.partial(os.mkdir, folder)),
    "torch.storage._load_from_bytes": lambda folder: Call(
        torch.storage._load_from_bytes, saved_by_torch(Call(os.mkdir, folder))
    ),
}

PLACES = {
    "alone": lambda payload: payload,
    "in the training dictionary": lambda payload: {"epoch": 1, "model_state_dict": payload},
    "in a list": lambda payload: [1, [payload]],
    "as a key": lambda payload: {payload: 1},
    "as an attribute": lambda payload: WithState(weight=torch.ones(2), hook=payload),
    "beside a tensor": lambda payload: OrderedDict(weight=torch.ones(2), extra=(payload,)),
}


def assert_refused(content, called, folder, tmp_path):
    path = tmp_path / "evil.pth"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="Nothing in it has been run") as refusal:
        convert_legacy_checkpoint(
            path, tmp_path / "out", dataset="aadb", position_embeddings=FIXTURES / "legacy_aadb_pos.pt"
        )
    assert f"`{called}`" in str(refusal.value)
    assert "evil.pth" in str(refusal.value)
    assert not folder.exists()
    assert not (tmp_path / "out").exists()


def assert_live(unpickle, folder):
    with contextlib.suppress(Exception):  # some go on to break what they are part of
        unpickle()
    deadline = time.monotonic() + 10  # one of them starts a process
    while not folder.is_dir() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert folder.is_dir(), "the payload does nothing, so refusing it proves nothing"
    folder.rmdir()


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("called", CALLS)
def test_a_call_is_refused_by_name_and_never_made(tmp_path, called, protocol):
    folder = tmp_path / "made"
    content = saved_by_torch(CALLS[called](str(folder)), pickle_protocol=protocol)
    assert_live(lambda: torch.load(io.BytesIO(content), weights_only=False), folder)
    assert_refused(content, called, folder, tmp_path)


@pytest.mark.parametrize("place", PLACES)
def test_a_call_is_refused_wherever_it_hides(tmp_path, place):
    folder = tmp_path / "made"
    content = saved_by_torch(PLACES[place](Call(os.mkdir, str(folder))))
    assert_live(lambda: torch.load(io.BytesIO(content), weights_only=False), folder)
    assert_refused(content, f"{SYSTEM}.mkdir", folder, tmp_path)


def test_a_call_in_a_bare_pickle_is_refused_too(tmp_path):
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        folder = tmp_path / "made"
        content = pickle.dumps(Call(os.mkdir, str(folder)), protocol)
        assert_live(lambda content=content: pickle.loads(content), folder)
        assert_refused(content, f"{SYSTEM}.mkdir", folder, tmp_path)


def test_a_call_in_the_format_before_zip_archives_is_refused(tmp_path):
    folder = tmp_path / "made"
    content = saved_by_torch([torch.ones(2), Call(os.mkdir, str(folder))], _use_new_zipfile_serialization=False)
    assert_live(lambda: torch.load(io.BytesIO(content), weights_only=False), folder)
    assert_refused(content, f"{SYSTEM}.mkdir", folder, tmp_path)


def test_a_call_in_the_position_embeddings_is_refused(tmp_path):
    folder = tmp_path / "made"
    torch.save(Call(os.mkdir, str(folder)), tmp_path / "pos.pt")
    with pytest.raises(ValueError, match=rf"pos\.pt.*`{SYSTEM}\.mkdir`"):
        convert_legacy_checkpoint(
            FIXTURES / "legacy_aadb.pth", tmp_path / "out", dataset="aadb", position_embeddings=tmp_path / "pos.pt"
        )
    assert not folder.exists()


# Instructions that no pickler would write in this order.


class Victim:
    """A class that a pickle may try to change."""


MKDIR = name("os", "mkdir")
VICTIM = name(__name__, "Victim")

# What the refusal names -> the pickle, given the folder to make.
HAND_MADE = {
    "dotted name": (
        "shutil.os.mkdir",
        lambda folder: b"\x80\x04" + call(text("shutil") + text("os.mkdir") + pickle.STACK_GLOBAL, text(folder)),
    ),
    "name of Python 2": (
        "builtins.eval",
        lambda folder: call(name("__builtin__", "eval"), text(f"__import__('os').mkdir({folder!r})")),
    ),
    "INST": ("os.mkdir", lambda folder: pickle.MARK + text(folder) + pickle.INST + b"os\nmkdir\n"),
    "OBJ": ("os.mkdir", lambda folder: pickle.MARK + MKDIR + text(folder) + pickle.OBJ),
    "__setstate__ put into the object": (
        "os.mkdir",
        lambda folder: new(VICTIM) + attribute("__setstate__", MKDIR) + pickle.BUILD + text(folder) + pickle.BUILD,
    ),
    "__setstate__ put into the class": (
        "os.mkdir",
        lambda folder: (
            (VICTIM + pickle.NONE + attribute("__setstate__", MKDIR) + pickle.TUPLE2 + pickle.BUILD)
            + (pickle.EMPTY_TUPLE + pickle.NEWOBJ + text(folder) + pickle.BUILD)
        ),
    ),
    "append put into the object": (
        "os.mkdir",
        lambda folder: new(VICTIM) + attribute("append", MKDIR) + pickle.BUILD + text(folder) + pickle.APPEND,
    ),
    "map made and consumed without a call": (
        "builtins.map",
        lambda folder: new(name("builtins", "tuple"), new(name("builtins", "map"), MKDIR, list_of(text(folder)))),
    ),
    "base class that acts": (
        "subprocess.Popen",
        lambda folder: call(
            name("copyreg", "_reconstructor"),
            name("subprocess", "Popen"),
            name("subprocess", "Popen"),
            list_of(text("mkdir"), text(folder)),
        ),
    ),
}


@pytest.mark.parametrize("trick", HAND_MADE)
def test_a_call_in_disguise_is_refused_by_name(tmp_path, monkeypatch, trick):
    monkeypatch.setitem(globals(), "Victim", type("Victim", (), {}))
    folder = tmp_path / "made"
    called, build = HAND_MADE[trick]
    pickled = build(str(folder)) + pickle.STOP
    assert_live(lambda: pickle.loads(pickled), folder)
    assert_refused(archive_of(pickled), called, folder, tmp_path)


def test_a_registered_extension_is_not_followed(tmp_path):
    folder = tmp_path / "made"
    pickled = call(pickle.EXT1 + b"\xf0", text(str(folder))) + pickle.STOP
    copyreg.add_extension("os", "mkdir", 0xF0)
    try:
        assert_live(lambda: pickle.loads(pickled), folder)
        with pytest.raises(ValueError, match="EXT1"):
            read(archive_of(pickled), tmp_path)
    finally:
        copyreg.remove_extension("os", "mkdir", 0xF0)
    assert not folder.exists()


# ---------------------------------------------------------------------------------------------------------------------
# What is read.


def test_tensors_come_back_as_they_were_saved(tmp_path):
    base = torch.arange(24.0).reshape(4, 6)
    saved = {
        "transposed": base.T,
        "slice": base[1:3, ::2],
        "half": base.half(),
        "bfloat16": base.bfloat16(),
        "double": base.double(),
        "integers": torch.tensor([-3, 2**40]),
        "booleans": torch.tensor([True, False]),
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 3),
        "parameter": torch.nn.Parameter(base[0]),
    }
    for protocol in (2, 4):
        stored = read(saved_by_torch(saved, pickle_protocol=protocol), tmp_path)
        for key, expected in saved.items():
            assert stored[key].shape == tuple(expected.shape)
            found = stored[key].read()
            assert found.dtype == expected.dtype
            assert found.is_contiguous()
            assert torch.equal(found, expected.detach()), key


def test_objects_are_data_and_functions_are_names(tmp_path):
    options = {"function": torch.nn.functional.gelu, "rate": np.float64(0.5), "device": torch.device("cpu")}
    content = saved_by_torch([WithState(size=(1, 2.5, None), kinds={"a"}, **options)])
    (found,) = read(content, tmp_path)
    assert isinstance(found, Instance)
    assert str(found.cls) == f"{__name__}.WithState"
    assert found.attributes["size"] == (1, 2.5, None)
    assert found.attributes["kinds"] == {"a"}
    assert found.attributes["function"] == Name("torch._C._nn", "gelu")
    assert found.attributes["device"].args == ("cpu",)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_every_protocol_reads_as_pickle_does(protocol):
    shared = ["twice"]
    value = {
        "numbers": [0, -1, 255, 2**15, -(2**31), 2**70, 1.5, float("inf")],
        "texts": ["", "é", "x" * 300],
        "bytes": b"\x00\xff" if protocol >= 3 else None,
        "others": [True, False, None, (), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)],
        "sets": {frozenset(), 3},
        "ordered": OrderedDict(a=1),
        "shared": [shared, shared],
    }
    found = read_pickle(io.BytesIO(pickle.dumps(value, protocol)), functions={})
    assert found == value
    assert found["shared"][0] is found["shared"][1]


# ---------------------------------------------------------------------------------------------------------------------
# Damaged and forged files.


@pytest.mark.parametrize("part", [0, 0.1, 0.5, 0.9, 0.999])
def test_a_file_cut_short_is_refused(tmp_path, part):
    whole = (FIXTURES / "legacy_ava.pth").read_bytes()
    with pytest.raises(ValueError, match=r"file\.pth"):
        read(whole[: int(part * len(whole))], tmp_path)


@pytest.mark.parametrize("content", [b"not a pickle", b"\xff\xd8\xff\xe0 JFIF", b"\x89PNG\r\n", b"\x80\x02"])
def test_a_file_of_another_kind_is_refused(tmp_path, content):
    with pytest.raises(ValueError, match=r"file\.pth"):
        read(content, tmp_path)


def test_a_missing_file_says_so(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_torch_file(tmp_path / "none.pth")


def test_the_format_before_the_zip_archives_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"before 1\.6"):
        read(saved_by_torch(torch.ones(2), _use_new_zipfile_serialization=False), tmp_path)


def test_another_zip_file_is_refused(tmp_path):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(ValueError, match=r"no single `data\.pkl`"):
        read(buffer.getvalue(), tmp_path)


def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path):
    bomb = archive_of(pickle.dumps(1), {"0": bytes(64 * 2**20)}, zipfile.ZIP_DEFLATED)
    assert len(bomb) < 2**20
    tracemalloc.start()
    with pytest.raises(ValueError, match="compressed"):
        read(bomb, tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * 2**20


def test_false_lengths_inside_the_pickle_cost_no_memory(tmp_path):
    huge = 2**62
    forged = {
        "text": pickle.BINUNICODE8 + struct.pack("<Q", huge),
        "bytes": pickle.BINBYTES8 + struct.pack("<Q", huge),
        "memo": pickle.NONE + pickle.LONG_BINPUT + struct.pack("<I", 2**32 - 1),
        "frame": pickle.FRAME + struct.pack("<Q", huge) + pickle.NONE,
    }
    tracemalloc.start()
    for kind, instruction in forged.items():
        try:
            assert read(archive_of(b"\x80\x04" + instruction + pickle.STOP), tmp_path) is None
        except ValueError:
            assert kind in ("text", "bytes", "frame")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * 2**20


def tensor_pickle(numel=4, offset=0, shape=(4,), stride=(1,), kind="torch FloatStorage", tag="storage", key="0"):
    """The pickle of one tensor as torch writes it, with these numbers."""
    module, cls = kind.split()

    def plain(value):
        return pickle.dumps(value, 2)[2:-1]

    reference = list_of(text(tag), name(module, cls), text(key), text("cpu"), plain(numel))[:-1] + pickle.TUPLE
    rest = plain(offset) + plain(shape) + plain(stride) + pickle.NEWFALSE + call(name("collections", "OrderedDict"))
    return call(name("torch._utils", "_rebuild_tensor_v2"), reference + pickle.BINPERSID + rest) + pickle.STOP


def test_the_forged_tensors_below_are_sound_but_for_one_number(tmp_path):
    storage = {"0": torch.arange(4.0).numpy().tobytes()}
    assert torch.equal(read(archive_of(tensor_pickle(), storage), tmp_path).read(), torch.arange(4.0))


@pytest.mark.parametrize(
    ("forgery", "message"),
    [
        ({"offset": 1}, "does not fit"),
        ({"offset": -1}, "malformed"),
        ({"offset": True}, "malformed"),
        ({"shape": (5,)}, "does not fit"),
        ({"shape": (-4,)}, "malformed"),
        ({"stride": (2,)}, "does not fit"),
        ({"stride": (-1,)}, "malformed"),
        ({"stride": (1, 1)}, "malformed"),
        ({"shape": [4]}, "malformed"),
        ({"shape": (10**9,), "stride": (0,)}, "does not fit"),
        ({"shape": (2**40, 2**40), "stride": (0, 0)}, "malformed"),
        ({"shape": (0, 2**40, 2**40), "stride": (1, 1, 1)}, "malformed"),
        ({"shape": (1,) * 9, "stride": (1,) * 9}, "malformed"),
        ({"numel": 10**9}, "4000000000 bytes was expected, found 16 bytes"),
        ({"numel": "4"}, "malformed reference"),
        ({"key": "1"}, "found none"),
        ({"key": "../data.pkl"}, "found none"),
        ({"tag": "module"}, "not a reference to a storage"),
        ({"kind": "torch UntypedStorage"}, "unknown type of storage `torch.UntypedStorage`"),
        ({"kind": "os system"}, "unknown type of storage `os.system`"),
    ],
)
def test_a_tensor_outside_its_storage_is_refused(tmp_path, forgery, message):
    storage = {"0": torch.arange(4.0).numpy().tobytes()}
    with pytest.raises(ValueError, match=message):
        read(archive_of(tensor_pickle(**forgery), storage), tmp_path)


def test_a_storage_with_a_flipped_bit_is_refused(tmp_path):
    content = bytearray(saved_by_torch(torch.arange(4096.0)))
    content[content.index(torch.arange(4096.0).numpy().tobytes()) + 100] ^= 1
    stored = read(bytes(content), tmp_path)
    assert isinstance(stored, StoredTensor)
    with pytest.raises(ValueError, match=r"file\.pth.*CRC"):
        stored.read()


NESTED = {
    "lists": (pickle.EMPTY_LIST, pickle.APPEND),
    "tuples": (b"", pickle.TUPLE1),
    "objects": (name("model", "Model") + pickle.EMPTY_TUPLE + pickle.NEWOBJ, pickle.BUILD),
}


@pytest.mark.parametrize("kind", NESTED)
def test_very_deep_nesting_ends_in_a_result_or_an_error(tmp_path, kind):
    opening, closing = NESTED[kind]
    deep = opening * 50_000 + pickle.EMPTY_TUPLE + closing * 50_000
    read(archive_of(deep + pickle.STOP), tmp_path)
    if kind != "objects":  # which are told apart by identity
        as_key = pickle.EMPTY_DICT + deep + pickle.NONE + pickle.SETITEM + pickle.STOP
        with pytest.raises(ValueError, match="damaged pickle"):
            read(archive_of(as_key), tmp_path)


def test_random_damage_gives_a_result_or_a_value_error(tmp_path):
    with zipfile.ZipFile(FIXTURES / "legacy_ava.pth") as archive:
        whole = archive.read("legacy_ava/data.pkl")
    generator = random.Random(0)
    for _ in range(200):
        damaged = bytearray(whole)
        for _ in range(generator.randint(1, 5)):
            damaged[generator.randrange(len(damaged))] = generator.randrange(256)
        with contextlib.suppress(ValueError):
            read(archive_of(bytes(damaged)), tmp_path)
