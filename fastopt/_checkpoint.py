"""Checkpoints in files: all that an optimizer needs to go on, written whole or not at all, and never trusted.

A checkpoint is a .npz file as NumPy writes it, uncompressed and without pickles, so that `numpy.load` and other tools
that know zip and .npy can read it:

    fastopt.json                  {"format": "fastopt checkpoint 1", "rule": "adam", "steps": [3, ...], "param_groups":
                                  [{"lr": 0.001, ..., "params": [0, ...]}, ...]}
    state/0/exp_avg.npy ...       the state buffers that hold something, by the position of their parameter
    params/0.npy ...              the parameters, if they were saved too

The comment of the zip archive is "sha256:" and the digest of everything before it in hexadecimal digits.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import stat
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

FORMAT = "fastopt checkpoint 1"
HEADER = "fastopt.json"
MARK = b"sha256:"
COMMENT_SIZE = len(MARK) + 2 * hashlib.sha256().digest_size
CHUNK = 1 << 20

# Bytes: an upper bound on what a file has for one tensor besides the elements of its arrays, and on its general part.
OVERHEAD = 1 << 14
# Characters of a mapping's key; JSON needs up to 12 bytes for each, so a key fits in OVERHEAD.
LONGEST_KEY = 1000


def is_kept(key: object) -> bool:
    """Whether a file keeps a mapping's key unchanged: an int of 64 bits, or a str that is not too long."""
    return (type(key) is int and abs(key) < 1 << 63) or (type(key) is str and len(key) <= LONGEST_KEY)


# ---- Writing. ----


def write(path: str | os.PathLike[str], header: Mapping[str, Any], arrays: Mapping[str, Array]) -> None:
    """Writes a temporary file in the same folder, syncs it to the disk, and renames it to `path`."""
    target = Path(os.path.realpath(path))
    if target.is_dir():
        raise IsADirectoryError(errno.EISDIR, "a checkpoint is a file, and this is a folder", os.fspath(path))
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(8)}.tmp")
    try:
        with open(temporary, "x+b") as file:
            with zipfile.ZipFile(file, "w") as archive:
                archive.comment = bytes(COMMENT_SIZE)
                archive.writestr(HEADER, json.dumps({"format": FORMAT, **header}))
                for name, array in arrays.items():
                    with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                        # Always in C order: the file does not depend on the strides of a model.
                        np.lib.format.write_array(member, np.asarray(array, order="C"), allow_pickle=False)
            digest = _digest(file, file.seek(0, os.SEEK_END) - COMMENT_SIZE)
            file.write(MARK + digest)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error.__context__, KeyboardInterrupt):  # hidden by zipfile's own error
            raise error.__context__ from None
        raise
    _sync_folder(target.parent)


def _digest(file: IO[bytes], size: int) -> bytes:
    """The digest of the first `size` bytes, in hexadecimal; leaves the file's position after them."""
    sha256 = hashlib.sha256()
    file.seek(0)
    while size > 0 and (chunk := file.read(min(CHUNK, size))):
        sha256.update(chunk)
        size -= len(chunk)
    return sha256.hexdigest().encode()


def _sync_folder(folder: Path) -> None:
    """Syncs the new name to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# ---- Reading. ----


def read(
    path: str | os.PathLike[str], rule: str, states: Sequence[str], like: Sequence[Array], with_params: bool
) -> tuple[dict[str, Any], list[dict[str, Array]], list[Array]]:
    """Reads a checkpoint of an optimizer with this rule, these state buffers and parameters like these.

    Returns the header; the state buffers of each parameter by name; and the parameters, if `with_params`. The file is
    not trusted: its size is bounded first, and an array must have the dtype and shape of its parameter before its
    elements are read. A ValueError says what is wrong.
    """
    name = os.fspath(path)
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise ValueError(f"{name} is not a regular file")
    with open(path, "rb") as file:
        try:
            _verify(file, (1 + len(states)) * sum(array.nbytes for array in like) + (1 + len(like)) * OVERHEAD)
            with zipfile.ZipFile(file) as archive:
                members = _members(archive)
                header = _header(archive, members.pop(HEADER, None), rule, len(like))
                loaded: list[dict[str, Array]] = [{} for _ in like]
                params = []
                for i, array in enumerate(like):
                    for state in states:
                        if member := members.pop(f"state/{i}/{state}.npy", None):
                            loaded[i][state] = _array(archive, member, array)
                    member = members.pop(f"params/{i}.npy", None)
                    if with_params:
                        if member is None:
                            raise ValueError(f"has no params/{i}.npy: it was saved without params=True")
                        params.append(_array(archive, member, array))
                if members:
                    unknown = ", ".join(map(repr, sorted(members)[:3]))
                    raise ValueError(f"has {unknown}, which this optimizer does not have")
                return header, loaded, params
        except (zipfile.BadZipFile, NotImplementedError, EOFError) as error:
            raise ValueError(f"{name} cannot be loaded: it is not a sound zip archive ({error})") from error
        except ValueError as error:
            raise ValueError(f"{name} cannot be loaded: it {error}") from error


def _verify(file: IO[bytes], most: int) -> None:
    """ValueError if the file is too large, or if the digest at its end is not that of the bytes before it."""
    size = file.seek(0, os.SEEK_END)
    if size > most:
        raise ValueError(f"has {size} bytes, but a checkpoint of this optimizer has {most} at most")
    file.seek(max(size - COMMENT_SIZE, 0))
    comment = file.read(COMMENT_SIZE)
    if len(comment) < COMMENT_SIZE or not comment.startswith(MARK):
        raise ValueError("is not a checkpoint of fastopt, or its end is missing")
    if comment != MARK + _digest(file, size - COMMENT_SIZE):
        raise ValueError("is damaged: its SHA-256 digest is not the one at its end")


def _members(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    members = {member.filename: member for member in archive.infolist()}
    if len(members) < len(archive.infolist()):
        raise ValueError("has two members of one name")
    for name, member in members.items():
        stored = member.compress_type == zipfile.ZIP_STORED and member.compress_size == member.file_size
        if not stored or member.flag_bits & 1:
            raise ValueError(f"has {name!r} compressed or encrypted, which no checkpoint has")
    return members


def _header(archive: zipfile.ZipFile, member: zipfile.ZipInfo | None, rule: str, count: int) -> dict[str, Any]:
    if member is None or member.file_size > (1 + count) * OVERHEAD:
        raise ValueError(f"has no {HEADER}, or too large a one")
    try:
        header = json.loads(archive.read(member))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"has a {HEADER} that is not JSON ({error})") from error
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise ValueError(f"has another format than {FORMAT!r}; it may be of a later fastopt")
    if header.get("rule") != rule:
        raise ValueError(f"is of the rule {header.get('rule')!r}, but the optimizer is of {rule!r}")
    if header.keys() != {"format", "rule", "steps", "param_groups"}:
        raise ValueError(f"has other entries in {HEADER} than format, rule, steps and param_groups")
    steps = header["steps"]
    if not isinstance(steps, list) or len(steps) != count:
        raise ValueError(f"has no list of {count} steps, one for each parameter")
    return header


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo, like: Array) -> Array:
    """Reads an array, which must have the dtype and shape of `like`."""
    with archive.open(member) as file:
        try:
            version = np.lib.format.read_magic(file)
            read_header = (
                np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            )
            shape, fortran_order, dtype = read_header(file)
        except Exception as error:  # NumPy parses the header as Python, and may raise any error of that
            raise ValueError(f"has {member.filename} that is not a .npy file ({error})") from error
        if (shape, fortran_order) != (like.shape, False) or dtype.newbyteorder("=") != like.dtype:
            found = f"{dtype} and shape {shape}{' in Fortran order' if fortran_order else ''}"
            raise ValueError(f"has {member.filename} with {found}, but the parameter has {like.dtype} and {like.shape}")
        data = file.read(like.nbytes + 1)  # to the end of the member, where zipfile compares its checksum
    if len(data) != like.nbytes:
        raise ValueError(f"has {member.filename} with {len(data)} bytes or more, but {like.nbytes} are needed")
    return np.frombuffer(data, dtype).reshape(shape).astype(like.dtype, copy=False)
