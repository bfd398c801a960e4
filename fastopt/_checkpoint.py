"""Checkpoints in files: all that an optimizer needs to go on, written whole or not at all, and read with suspicion.

A checkpoint is a .npz file as NumPy writes it, uncompressed and without pickles, so that `numpy.load` and whatever else
knows zip and .npy can read it:

    fastopt.json                  {"format": "fastopt checkpoint 1", "rule": "adam", "steps": [3, ...], "param_groups":
                                  [{"lr": 0.001, ..., "params": [0, ...]}, ...]}
    state/0/exp_avg.npy ...       the state buffers that hold something, by the position of their parameter
    params/0.npy ...              the parameters, if they were saved too

The comment of the zip archive is "sha256:" and the digest of everything before it in hexadecimal digits.
"""

from __future__ import annotations

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
COMMENT = len(MARK) + 2 * hashlib.sha256().digest_size
CHUNK = 1 << 20

# Bytes: more than all but the elements of one tensor's arrays takes in a file.
ROOM = 1 << 14
# Characters of a mapping's key, as JSON writes them in up to 12 bytes each.
LONGEST_KEY = 1000


def is_kept(key: object) -> bool:
    """Whether a mapping's key comes back from a file as it was."""
    return (type(key) is int and abs(key) < 1 << 63) or (type(key) is str and len(key) <= LONGEST_KEY)


# ---- Writing. ----


def write(path: str | os.PathLike[str], header: Mapping[str, Any], arrays: Mapping[str, Array]) -> None:
    """Writes a new file in the same folder, sees it on the disk, and puts it in the place of the old one."""
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(8)}.tmp")
    try:
        with open(temporary, "x+b") as file:
            with zipfile.ZipFile(file, "w") as archive:
                archive.comment = bytes(COMMENT)
                archive.writestr(HEADER, json.dumps({"format": FORMAT, **header}))
                for name, array in arrays.items():
                    with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                        # In C order whatever the memory's is: the file says nothing of how a model lies in memory.
                        np.lib.format.write_array(member, np.asarray(array, order="C"), allow_pickle=False)
            digest = _digest(file, file.seek(0, os.SEEK_END) - COMMENT)
            file.write(MARK + digest)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error.__context__, KeyboardInterrupt):  # zipfile complains of an open member
            raise error.__context__ from None
        raise
    _sync_folder(target.parent)


def _digest(file: IO[bytes], size: int) -> bytes:
    """The digest of the first so many bytes, as text; the file's position is after them."""
    sha256 = hashlib.sha256()
    file.seek(0)
    while size > 0 and (chunk := file.read(min(CHUNK, size))):
        sha256.update(chunk)
        size -= len(chunk)
    return sha256.hexdigest().encode()


def _sync_folder(folder: Path) -> None:
    """Sees the new name on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# ---- Reading. ----


def read(
    path: str | os.PathLike[str], rule: str, states: Sequence[str], like: Sequence[Array], with_params: bool
) -> tuple[dict[str, Any], list[dict[str, Array]], list[Array]]:
    """What a file says of an optimizer with this rule, these state buffers and parameters like these.

    The header; the state buffers of each parameter by name; and the parameters, if they are asked for. Nothing that the
    file says is believed: it is read only as far as it can be a checkpoint of such an optimizer, and ValueError says
    what is wrong with it.
    """
    name = os.fspath(path)
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise ValueError(f"{name} is no regular file")
    with open(path, "rb") as file:
        try:
            _verify(file, (1 + len(states)) * sum(array.nbytes for array in like) + (1 + len(like)) * ROOM)
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
                    raise ValueError(f"has {', '.join(map(repr, sorted(members)[:3]))}, which this optimizer has not")
                return header, loaded, params
        except (zipfile.BadZipFile, NotImplementedError, EOFError) as error:
            raise ValueError(f"{name} cannot be loaded: it is no sound zip archive ({error})") from error
        except ValueError as error:
            raise ValueError(f"{name} cannot be loaded: it {error}") from error


def _verify(file: IO[bytes], most: int) -> None:
    """ValueError if the file's size is impossible, or the digest at its end is not that of what comes before."""
    size = file.seek(0, os.SEEK_END)
    if size > most:
        raise ValueError(f"has {size} bytes, but a checkpoint of this optimizer has {most} at most")
    file.seek(max(size - COMMENT, 0))
    comment = file.read(COMMENT)
    if len(comment) < COMMENT or not comment.startswith(MARK):
        raise ValueError("is no checkpoint of fastopt, or its end is missing")
    if comment != MARK + _digest(file, size - COMMENT):
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
    if member is None or member.file_size > (1 + count) * ROOM:
        raise ValueError(f"has no {HEADER}, or too large a one")
    try:
        header = json.loads(archive.read(member))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"has a {HEADER} that is no JSON ({error})") from error
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
    """An array with the dtype and shape of `like`, the only one that is accepted."""
    with archive.open(member) as file:
        try:
            version = np.lib.format.read_magic(file)
            read_header = (
                np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            )
            shape, fortran_order, dtype = read_header(file)
        except Exception as error:  # NumPy takes the header for Python and lets errors of tokenizing out
            raise ValueError(f"has {member.filename} that is no .npy file ({error})") from error
        if (shape, fortran_order) != (like.shape, False) or dtype.newbyteorder("=") != like.dtype:
            found = f"{dtype} and shape {shape}{' in Fortran order' if fortran_order else ''}"
            raise ValueError(f"has {member.filename} with {found}, but the parameter has {like.dtype} and {like.shape}")
        data = file.read(like.nbytes + 1)  # to the end of the member, where zipfile compares its checksum
    if len(data) != like.nbytes:
        raise ValueError(f"has {member.filename} with {len(data)} bytes or more, but {like.nbytes} are needed")
    return np.frombuffer(data, dtype).reshape(shape).astype(like.dtype, copy=False)
