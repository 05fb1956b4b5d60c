"""Pickles put together by hand, instruction by instruction, and the archives that `torch.save` wraps them in."""

import io
import pickle
import struct
import zipfile

from charm_hf.legacy.torch_archive import read_torch_file


def archive_of(pickled, records=None, compression=zipfile.ZIP_STORED):
    """A file like those of `torch.save`, around a pickle made by hand."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        archive.writestr("archive/data.pkl", pickled)
        for record, data in (records or {}).items():
            archive.writestr(f"archive/data/{record}", data)
    return buffer.getvalue()


def read(content, tmp_path):
    path = tmp_path / "file.pth"
    path.write_bytes(content)
    return read_torch_file(path)


def text(value):
    encoded = value.encode()
    return pickle.BINUNICODE + struct.pack("<I", len(encoded)) + encoded


def name(module, attribute):
    return pickle.GLOBAL + f"{module}\n{attribute}\n".encode()


def attribute(key, value):
    return pickle.EMPTY_DICT + text(key) + value + pickle.SETITEM


def call(function, *arguments):
    return function + pickle.MARK + b"".join(arguments) + pickle.TUPLE + pickle.REDUCE


def new(cls, *arguments):
    return cls + pickle.MARK + b"".join(arguments) + pickle.TUPLE + pickle.NEWOBJ


def list_of(*items):
    return pickle.MARK + b"".join(items) + pickle.LIST
