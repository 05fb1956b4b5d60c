"""Read a file written by `torch.save` as data: its pickle is not executed, its tensors are rebuilt on request."""

from __future__ import annotations

import errno
import io
import math
import os
import struct
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .pickle_reader import Name, read_pickle


_STORAGE_DTYPES = {
    "BFloat16Storage": torch.bfloat16,
    "BoolStorage": torch.bool,
    "ByteStorage": torch.uint8,
    "CharStorage": torch.int8,
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "IntStorage": torch.int32,
    "LongStorage": torch.int64,
    "ShortStorage": torch.int16,
}

_MAX_DIMENSIONS = 8
_MAX_SIZE = 2**48
_PICKLE_LIMIT = 2**26  # bytes; weights lie beside the pickle, which describes them in some 100 each
_OLD_FORMAT_MAGIC = 0x1950A86A20F9469CFC6C
# What reading a damaged or forged file may raise. `NotImplementedError` is a `RuntimeError`.
_DAMAGE = (ValueError, EOFError, RuntimeError, KeyError, OverflowError, MemoryError, struct.error, zipfile.BadZipFile)


@dataclass(frozen=True, eq=False)
class StoredTensor:
    """A tensor in a file, described but not yet read.

    Attributes:
        shape: its size, in elements.
        read: gives the tensor, on the CPU, contiguous, with storage of its own.
    """

    shape: tuple[int, ...]
    read: Callable[[], torch.Tensor]


@dataclass(frozen=True, eq=False)
class _Storage:
    """A flat run of `numel` elements, which tensors are views of."""

    dtype: torch.dtype
    numel: int
    read: Callable[[], torch.Tensor]


def read_torch_file(path: str | os.PathLike[str]) -> Any:
    """Read what `torch.save` wrote to `path`, without running anything in it.

    Returns:
        The saved object. Tensors and parameters are [`StoredTensor`]s; objects of any class but Python's containers
        and numbers are [`Instance`]s, functions and classes [`Name`]s.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is not one of torch's, is damaged or cut short, or calls something that is not part of
            rebuilding tensors; the message names the file and what it tried to call.
    """
    path = Path(path)
    with _naming(path):
        if zipfile.is_zipfile(path):
            return _read_archive(path)
        with path.open("rb") as file:
            raise ValueError(_why_no_archive(file.read(_PICKLE_LIMIT)))


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Turn what a damaged or forged file may raise into a `ValueError` that begins with the file's path."""
    try:
        yield
    except (OSError, *_DAMAGE) as error:
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # that is: a seek to before the beginning
            raise
        raise ValueError(f"{path}: {str(error) or type(error).__name__}.") from error


def _read_archive(path: Path) -> Any:
    with zipfile.ZipFile(path) as archive:
        sizes = _record_sizes(archive, path.stat().st_size)
        pickles = [name for name in sizes if name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise ValueError("a zip file, but not one that `torch.save` wrote: it has no single `data.pkl`")
        if sizes[pickles[0]] > _PICKLE_LIMIT:
            raise ValueError(f"its `data.pkl` has {sizes[pickles[0]]:,} bytes, more than any checkpoint's")
        folder = pickles[0].removesuffix("data.pkl")
        if f"{folder}byteorder" in sizes and archive.read(f"{folder}byteorder") != b"little":
            raise ValueError("its numbers are stored big-endian, which is not supported")
        pickled = archive.read(pickles[0])

    def find_storage(reference: Any) -> _Storage:
        dtype, key, numel = _check_reference(reference)
        record = f"{folder}data/{key}"
        if sizes.get(record) != numel * dtype.itemsize:
            found = f"{sizes[record]} bytes" if record in sizes else "none"
            raise ValueError(f"a storage {key!r} of {numel * dtype.itemsize} bytes was expected, found {found}")
        return _Storage(dtype, numel, lambda: _read_storage(path, record, dtype))

    return read_pickle(io.BytesIO(pickled), _TENSOR_FUNCTIONS, find_storage)


def _read_storage(path: Path, record: str, dtype: torch.dtype) -> torch.Tensor:
    with _naming(path), zipfile.ZipFile(path) as archive:
        return torch.frombuffer(bytearray(archive.read(record)), dtype=dtype)


def _record_sizes(archive: zipfile.ZipFile, file_size: int) -> dict[str, int]:
    """Records and their sizes in bytes, after making sure that they unpack to no more than the file itself."""
    records = archive.infolist()
    sizes = {record.filename: record.file_size for record in records}
    if len(sizes) != len(records):
        raise ValueError("two records of the archive have the same name")
    if any(record.compress_type != zipfile.ZIP_STORED or record.flag_bits & 1 for record in records):
        raise ValueError("a record is compressed or encrypted, which `torch.save` never does")
    if sum(sizes.values()) > file_size:
        raise ValueError("the records claim more bytes than the file has")
    return sizes


def _why_no_archive(content: bytes) -> str:
    """What is wrong with a file that is no zip archive; raises if it is a pickle that calls something."""
    if content.startswith(b"PK"):
        return "a zip file that is cut short"
    stream = io.BytesIO(content)
    functions = dict.fromkeys(_TENSOR_FUNCTIONS, _nothing)
    if read_pickle(stream, functions) != _OLD_FORMAT_MAGIC:
        return "a bare pickle, not a file that `torch.save` wrote"
    for _ in range(3):  # a version, a system, and what was saved, which is read to see what it calls
        read_pickle(stream, functions, _nothing)
    return "written by torch before 1.6, or with `_use_new_zipfile_serialization=False`; save it again without that"


def _nothing(*_: Any) -> None:
    return None


def _check_reference(reference: Any) -> tuple[torch.dtype, str, int]:
    """Take apart torch's reference to a storage: `("storage", type, key, device, number of elements)`."""
    if not isinstance(reference, tuple) or len(reference) != 5 or reference[0] != "storage":
        raise ValueError("a persistent id that is not a reference to a storage")
    _, kind, key, _, numel = reference
    if not isinstance(kind, Name) or kind.module != "torch" or kind.name not in _STORAGE_DTYPES:
        raise ValueError(f"unknown type of storage `{kind if isinstance(kind, Name) else type(kind).__name__}`")
    if not isinstance(key, str) or not _is_size(numel):
        raise ValueError("a malformed reference to a storage")
    return _STORAGE_DTYPES[kind.name], key, numel


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, stride: Any, *_: Any) -> StoredTensor:
    """Describe a view of a storage, after making sure that it lies inside and is no larger than the storage."""
    if not isinstance(storage, _Storage):
        raise ValueError("a tensor without a storage")
    if not _is_shape(shape) or not _is_shape(stride) or len(shape) != len(stride) or not _is_size(offset):
        raise ValueError("a tensor of malformed shape, stride or offset")
    last = offset + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
    numel = math.prod(shape)
    if numel > storage.numel or (numel and last >= storage.numel):
        raise ValueError(
            f"a tensor of shape {shape}, stride {stride} and offset {offset} does not fit its storage of "
            f"{storage.numel} elements"
        )

    def read() -> torch.Tensor:
        if not numel:
            return torch.empty(shape, dtype=storage.dtype)
        return storage.read().as_strided(shape, stride, offset).clone(memory_format=torch.contiguous_format)

    return StoredTensor(shape, read)


def _rebuild_parameter(tensor: Any, *_: Any) -> StoredTensor:
    if not isinstance(tensor, StoredTensor):
        raise ValueError("a parameter without a tensor")
    return tensor


_TENSOR_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_parameter": _rebuild_parameter,
    "torch._utils._rebuild_parameter_with_state": _rebuild_parameter,
    "torch.Size": tuple,
}


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value < _MAX_SIZE


def _is_shape(value: Any) -> bool:
    if not isinstance(value, tuple) or len(value) > _MAX_DIMENSIONS or not all(map(_is_size, value)):
        return False
    return math.prod(size or 1 for size in value) < _MAX_SIZE
