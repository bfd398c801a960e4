"""The version, and a description of the build and of the machine."""

from __future__ import annotations

import platform
import sys
from typing import Literal, overload

import numpy as np

from fastopt._runtime import available_isas, build_info, get_num_threads, isa

_BUILD = build_info()

__version__: str = _BUILD["version"]


@overload
def show_config(mode: Literal["stdout"] = "stdout") -> None: ...
@overload
def show_config(mode: Literal["dicts"]) -> dict[str, str]: ...
def show_config(mode: Literal["stdout", "dicts"] = "stdout") -> dict[str, str] | None:
    """Print version, compiler, flags, instruction sets and threads, as a bug report needs them.

    Parameters
    ----------
    mode : {"stdout", "dicts"}
        Print the table, or return it as a dict of strings, as `numpy.show_config` does.

    Examples
    --------
    >>> fastopt.show_config("dicts")["threads"] == str(fastopt.get_num_threads())
    True
    """
    table = {
        "fastopt": __version__,
        "compiler": _BUILD["compiler"],
        "flags": _BUILD["cflags"],
        "instruction set": isa(),
        "available": ", ".join(available_isas()),
        "threads": str(get_num_threads()),
        "numpy": np.__version__,
        "python": sys.version.split()[0],
        "machine": f"{platform.system()} {platform.machine()}",
    }
    if mode == "dicts":
        return table
    if mode != "stdout":
        raise ValueError(f"mode must be 'stdout' or 'dicts', got {mode!r}")
    width = max(map(len, table))
    print("\n".join(f"{key:<{width}}  {value}" for key, value in table.items()))
    return None
