"""How many threads a process should use, and the registration with threadpoolctl."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

__all__ = ["default_num_threads", "register_controller"]

VARIABLE = "FASTOPT_NUM_THREADS"


def default_num_threads() -> int:
    """The number in the environment variable, or that of the cores that the process may use."""
    text = os.environ.get(VARIABLE, "")
    if text:
        try:
            threads = int(text)
        except ValueError:
            threads = 0
        if threads < 1:
            raise ValueError(
                f"the environment variable {VARIABLE} is {text!r}; it must be a whole number >= 1, or unset"
            )
        return threads
    quota = min(cgroup_quotas(), default=math.inf)
    return max(1, min(_allowed_cores(), math.ceil(quota) if quota < math.inf else 2**31 - 1))


def _allowed_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cgroup_quotas(root: Path = Path("/")) -> Iterator[float]:
    """The processor quotas, in cores, of this process's Linux control groups and of their parents."""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        # Version 2 has one tree and an empty list of controllers; version 1 has a tree for each controller.
        tree = root / "sys/fs/cgroup" / ("cpu" if controllers else "")
        if controllers and "cpu" not in controllers.split(","):
            continue
        group = Path(path)
        # In a container the path may be the host's, while only the container's own files, at the root, can be seen.
        for level in (group, *group.parents):
            yield from _quota_of(tree / level.relative_to("/"), version_1=bool(controllers))


def _quota_of(group: Path, version_1: bool) -> Iterator[float]:
    try:
        if version_1:
            quota, period = (
                (group / name).read_text(encoding="utf-8") for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us")
            )
        else:
            quota, period = (group / "cpu.max").read_text(encoding="utf-8").split()
        if quota != "max" and int(quota) > 0:
            yield int(quota) / int(period)
    except (OSError, ValueError):
        return


def register_controller() -> None:
    """Let threadpoolctl, if it is installed, limit fastopt's threads too."""
    try:
        import threadpoolctl  # type: ignore[import-not-found, import-untyped, unused-ignore]
    except ImportError:
        return
    if not hasattr(threadpoolctl, "register"):  # before 3.2
        return

    class FastoptController(threadpoolctl.LibController):  # type: ignore[misc, unused-ignore]
        user_api = "fastopt"
        internal_api = "fastopt"
        filename_prefixes = ("capi",)
        check_symbols = ("py_fastopt_get_num_threads", "py_fastopt_set_num_threads")

        def get_num_threads(self) -> int:
            return int(self.dynlib.py_fastopt_get_num_threads())

        def set_num_threads(self, num_threads: int) -> None:
            self.dynlib.py_fastopt_set_num_threads(num_threads)

        def get_version(self) -> str:
            import fastopt

            return fastopt.__version__

    threadpoolctl.register(FastoptController)
