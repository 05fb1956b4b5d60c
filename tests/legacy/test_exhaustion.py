"""Small pickles that would take all memory or hours: refused with a reason, soon, and within a bound."""

import pickle
import struct
import time
import tracemalloc

import pytest
from forged_pickles import archive_of, call, name, read, text

from charm_hf.legacy import pickle_reader


MARK, NONE, POP = pickle.MARK, pickle.NONE, pickle.POP


def long(value):
    encoded = pickle.encode_long(value)
    return pickle.LONG1 + bytes([len(encoded)]) + encoded


def remembered(value, place):
    return value + pickle.BINPUT + bytes([place]) + POP


def recall(place):
    return pickle.BINGET + bytes([place])


def many(count):
    return pickle.EMPTY_LIST + MARK + NONE * count + pickle.APPENDS


def as_keys(*keys):
    return pickle.EMPTY_DICT + MARK + b"".join(key + NONE for key in keys) + pickle.SETITEMS


MODULUS = 2**61 - 1  # whole numbers that differ by a multiple of it have the same hash

ATTACKS = {
    "a long list becomes many sizes": remembered(many(500_000), 0)
    + MARK
    + call(name("torch", "Size"), recall(0)) * 3000
    + pickle.LIST,
    "a long list becomes many sets": remembered(many(300_000), 0)
    + MARK
    + call(name("builtins", "set"), recall(0)) * 3000
    + pickle.LIST,
    "a long text becomes many sets": remembered(text("x" * 2_000_000), 0)
    + call(name("builtins", "set"), recall(0)) * 3000,
    "a long tuple becomes the arguments of many objects": remembered(MARK + NONE * 500_000 + pickle.TUPLE, 0)
    + MARK
    + (name("model", "Model") + recall(0) + as_keys(text("key")) + pickle.NEWOBJ_EX) * 100_000
    + pickle.LIST,
    "numbers of one hash are keys": as_keys(*(long(place * MODULUS) for place in range(1, 100_000))),
    "tuples of numbers are keys": as_keys(*(long(place) + pickle.TUPLE1 for place in range(100_000))),
    "instructions without end": (NONE + POP) * 2_000_000,
}


SLOW = {"a long tuple becomes the arguments of many objects", "instructions without end"}


@pytest.mark.parametrize(
    "attack",
    [*sorted(ATTACKS.keys() - SLOW), *(pytest.param(attack, marks=pytest.mark.slow) for attack in sorted(SLOW))],
)
def test_a_small_pickle_cannot_take_all_memory_or_time(tmp_path, attack):
    tracemalloc.start()
    started = time.process_time()
    try:
        with pytest.raises(ValueError, match=r"file\.pth: reading it takes more than 1,000,000 steps"):
            read(archive_of(b"\x80\x04" + ATTACKS[attack] + pickle.STOP), tmp_path)
        assert tracemalloc.get_traced_memory()[1] < 300 * 2**20
    finally:
        tracemalloc.stop()
    assert time.process_time() - started < 60


def test_a_pickle_that_is_slow_to_read_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(pickle_reader, "MAX_SECONDS", 0.0)
    with pytest.raises(ValueError, match="or 0 seconds"):
        read(archive_of(pickle.dumps({"a": 1})), tmp_path)


def test_the_keys_of_honest_checkpoints_cost_nothing(tmp_path):
    keys = {**{number: "state of a parameter" for number in range(200_000)}, "name": 1, None: 2, (1, 2): 3}
    assert len(read(archive_of(pickle.dumps(keys, 2)), tmp_path)) == 200_003


def test_an_oversized_description_is_not_even_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr("charm_hf.legacy.torch_archive._PICKLE_LIMIT", 1000)
    with pytest.raises(ValueError, match=r"file\.pth: its `data.pkl` has 1,0\d\d bytes"):
        read(archive_of(pickle.dumps("x" * 1000)), tmp_path)


def test_a_damaged_directory_of_the_archive_names_the_file(tmp_path):
    whole = bytearray(archive_of(pickle.dumps(1), {"0": b"1234"}))
    end = whole.rindex(b"PK\x05\x06")
    for offset in (end + 12, end + 16):  # size and place of the directory
        for value in (0, 1, 2**31, 2**32 - 1):
            damaged = whole.copy()
            damaged[offset : offset + 4] = struct.pack("<I", value)
            with pytest.raises(ValueError, match=r"file\.pth"):
                read(bytes(damaged), tmp_path)
    record = whole.index(b"PK\x01\x02")
    for offset, value in ((8, 1), (10, 99), (20, 2**31), (24, 2**31), (42, 2**31)):  # flags, method, sizes, place
        damaged = whole.copy()
        damaged[record + offset : record + offset + 4] = struct.pack("<I", value)
        try:
            assert read(bytes(damaged), tmp_path) == 1
        except ValueError as error:
            assert "file.pth" in str(error)  # noqa: PT017, either is right
