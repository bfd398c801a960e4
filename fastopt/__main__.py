"""The command line: `python -m fastopt`."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import fastopt
from fastopt._embedding import PRINTED
from fastopt.demo import METHODS


def _whole(least: int) -> type:
    def parse(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = least - 1
        if number < least:
            raise argparse.ArgumentTypeError(f"must be a whole number >= {least}, got {text!r}")
        return number

    return parse  # type: ignore[return-value]


def _method(text: str) -> str:
    if text not in METHODS:
        raise argparse.ArgumentTypeError(f"must be one of {', '.join(METHODS)}, got {text!r}")
    return text


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="fastopt", description=fastopt.__doc__)
    parser.add_argument("--version", action="version", version=f"fastopt {fastopt.__version__}")
    embedding = parser.add_argument_group("to embed the C core")
    for name, (what, _) in PRINTED.items():
        embedding.add_argument(f"--{name}", action="append_const", const=name, dest="printed", help=f"print {what}")
    commands = parser.add_subparsers(dest="command")
    commands.add_parser("info", help="print version, compiler, flags and instruction sets")
    demo = commands.add_parser("demo", help="train a perceptron on handwritten digits with nine methods")
    demo.add_argument(
        "--method",
        action="append",
        type=_method,
        metavar="NAME",
        help="a method to train with; can be repeated (default: all; see below)",
    )
    demo.add_argument(
        "--epochs", type=_whole(1), metavar="N", help="for every method (default: each method's own number)"
    )
    demo.add_argument(
        "--seed", type=_whole(0), default=0, metavar="N", help="for all random draws (default: %(default)s)"
    )
    demo.add_argument(
        "--output", type=Path, default=Path("demo-output"), metavar="FOLDER", help="for plots (default: %(default)s)"
    )
    demo.add_argument("--no-plot", action="store_true", help="draw nothing, write nothing")
    demo.epilog = f"methods: {' '.join(METHODS)}"
    return parser


def _demo(arguments: argparse.Namespace) -> int:
    try:
        if not arguments.no_plot:
            import matplotlib  # noqa: F401 (if it is missing, fail before training, not after it)

        from fastopt.demo.run import run
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("matplotlib", "rich", "sklearn"):
            raise
        print(f'the demo needs {error.name}: pip install "fastopt[demo]"', file=sys.stderr)
        return 1
    if not arguments.no_plot:
        try:
            arguments.output.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=arguments.output).close()
        except OSError as error:
            found = f"got {str(arguments.output)!r} ({error})"
            print(f"fastopt demo: error: argument --output: must be a folder to write to, {found}", file=sys.stderr)
            return 2
    names = list(dict.fromkeys(arguments.method or METHODS))
    run(names, arguments.epochs, arguments.seed, arguments.output, not arguments.no_plot)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.printed:
        print(*(PRINTED[name][1]() for name in arguments.printed))
    if arguments.command is None:
        return 0 if arguments.printed else parser.error("give a command or an option")
    if arguments.command == "info":
        fastopt.show_config()
        return 0
    try:
        return _demo(arguments)
    except KeyboardInterrupt:
        return 130  # the status that shells give Ctrl-C, which needs no traceback


if __name__ == "__main__":
    sys.exit(main())
