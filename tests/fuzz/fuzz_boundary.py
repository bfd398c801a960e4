"""Throws structured nonsense at everything that takes arrays, hyperparameters or a state_dict.

    python tests/fuzz/fuzz_boundary.py              # under atheris (if installed), which is guided by coverage
    ... --plain --runs N --seed S                   # at random, with NumPy alone; --jobs for more processes
    ... --plain --seed S --only I                   # repeats input I of these

Each input makes an optimizer, uses it with arguments of which some are nonsense, and compares the outcome with what the
docs promise: with gradients of every accepted type and layout, and parameters of any layout, steps give the bits of
`fastopt.reference`; an error is a TypeError, ValueError or RuntimeError (KeyError for an unknown hyperparameter of a
group, AttributeError for one of an optimizer), and changes nothing; an accepted call has its documented effect; and
afterwards the optimizer steps as a new one does that has loaded its state_dict.
Exceptions that the caller's own objects raise while they are iterated, asked for items or compared are passed on;
exceptions of a buffer or a number become one of the errors above.
"""

from __future__ import annotations

import argparse
import collections
import concurrent.futures
import faulthandler
import itertools
import math
import mmap
import os
import random
import sys
import time
import traceback
import warnings
from pathlib import Path

try:
    import atheris
except ImportError:
    atheris = None

if atheris is not None and "--plain" not in sys.argv and __name__ == "__main__":
    with atheris.instrument_imports(include=["fastopt"]):
        import fastopt  # noqa: F401 - first, so that its branches are counted

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for `python tests/fuzz/fuzz_boundary.py`

from nonsense import Draws
from promises import check

PART = 2000  # inputs in one task of a process


class Tally:
    def __init__(self):
        self.inputs, self.findings, self.began = 0, 0, time.monotonic()
        self.outcomes = collections.Counter()

    def one(self, provider):
        self.inputs += 1
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                outcomes = check(provider)
        except Exception:
            self.findings += 1
            raise
        self.outcomes.update(outcome for _, outcome in outcomes)

    def add(self, other):
        self.inputs += other.inputs
        self.findings += other.findings
        self.outcomes += other.outcomes

    def __str__(self):
        seconds = time.monotonic() - self.began
        uses = ", ".join(f"{count} {name}" for name, count in self.outcomes.most_common())
        return (
            f"fuzz_boundary: {self.inputs} inputs in {seconds:.0f} s "
            f"({self.inputs / max(seconds, 1e-9):.0f} a second); uses: {uses}; findings: {self.findings}"
        )


def plain(numbers, seed, seconds=0.0, most=10):
    """Runs the random inputs of these numbers until there are `most` findings; prints those, returns the tally."""
    tally = Tally()
    for number in numbers:
        if seconds and time.monotonic() - tally.began > seconds:
            break
        try:
            tally.one(Draws(f"{seed}-{number}"))
        except Exception:
            print(f"--seed {seed} --only {number}:")
            traceback.print_exc(file=sys.stdout)
            if tally.findings == most:
                break
    return tally


def spread(runs, seed, jobs):
    """As `plain`, in several processes."""
    faulthandler.enable()
    tally, parts = Tally(), [range(first, min(first + PART, runs)) for first in range(0, runs, PART)]
    with concurrent.futures.ProcessPoolExecutor(jobs) as pool:
        for part in pool.map(plain, parts, itertools.repeat(seed)):
            tally.add(part)
    return tally


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plain", action="store_true", help="at random, without atheris")
    parser.add_argument("--runs", type=int, default=0, help="number of inputs (0: until the time is up)")
    parser.add_argument("--seconds", type=float, default=0.0, help="time limit (0: until the inputs are done)")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--only", type=int, help="run this input alone; a finding prints its number")
    parser.add_argument("--jobs", type=int, default=1, help="number of processes; with --plain and --runs")
    parser.add_argument("corpus", nargs="*", help="folders of inputs, for atheris")
    args = parser.parse_args()
    runs, seconds = args.runs, args.seconds or (0 if args.runs else 120.0)
    seed = args.seed if args.seed is not None else random.SystemRandom().randrange(2**31)
    if atheris is None or args.plain or args.only is not None:
        if args.jobs > 1 and runs and args.only is None:
            tally = spread(runs, seed, args.jobs)
        else:
            numbers = [args.only] if args.only is not None else range(runs) if runs else itertools.count()
            tally = plain(numbers, seed, seconds)
        print(tally)
        return 1 if tally.findings else 0
    folder = Path("build/fuzz")  # inputs with a finding are saved here
    folder.mkdir(parents=True, exist_ok=True)
    flags = [f"-seed={seed % 2**31}", "-max_len=512", "-len_control=0", "-timeout=60", f"-artifact_prefix={folder}/"]
    flags += [f"-runs={runs}"] if runs else []
    flags += [f"-max_total_time={math.ceil(seconds)}"] if seconds else []
    return guided(flags, args.corpus)


def guided(flags, corpus):
    """Runs inputs guided by coverage. atheris ends its process at the end, so a child runs it and shares its tally."""
    shared = mmap.mmap(-1, 4096)
    child = os.fork()
    if child == 0:
        tally = Tally()

        def one_input(data):
            try:
                tally.one(atheris.FuzzedDataProvider(data))
            finally:
                shared[:] = str(tally).encode()[:4096].ljust(4096)

        atheris.Setup([sys.argv[0], *flags, *corpus], one_input)
        atheris.Fuzz()
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(shared[:].decode().strip())
    return 1 if status else 0


if __name__ == "__main__":
    sys.exit(main())
