"""The paths of the C core's headers and sources, for programs that are built with it."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path


def _csrc() -> Path:
    return Path(str(files("fastopt.csrc")))


def get_include() -> str:
    """The folder of `fastopt.h` and `fastopt_capi.h`, for a compiler's `-I`.

    Examples
    --------
    >>> import os
    >>> sorted(name for name in os.listdir(fastopt.get_include()) if name.startswith("fastopt") and name.endswith(".h"))
    ['fastopt.h', 'fastopt_capi.h', 'fastopt_rules.h']
    """
    return str(_csrc())


def get_sources() -> list[str]:
    """The C files that make up the core; compile all of them, with gcc or clang and any flags except `-ffast-math`.

    Examples
    --------
    >>> import os
    >>> [os.path.basename(path) for path in fastopt.get_sources()]
    ['dispatch.c', 'layout.c', 'norm.c', 'row.c', 'rules.c', 'staging.c', 'step.c', 'table.c', 'threads.c']
    """
    return sorted(str(path) for path in _csrc().glob("*.c"))


# For each option of the command line its description and the text that it prints, quoted for a shell where needed.
PRINTED: dict[str, tuple[str, Callable[[], str]]] = {
    "cflags": ("the compiler's flag for the headers", lambda: shlex.join([f"-I{get_include()}"])),
    "sources": ("the C files of the core, to be compiled", lambda: shlex.join(get_sources())),
    "pkgconfigdir": ("the folder of fastopt.pc, for PKG_CONFIG_PATH", lambda: str(_csrc() / "pkgconfig")),
    "cmakedir": ("the folder of fastoptConfig.cmake, for fastopt_DIR", lambda: str(_csrc() / "cmake")),
}
