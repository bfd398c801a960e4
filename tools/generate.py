"""Writes everything that only repeats the table of rules, csrc/rules.toml.

    python tools/generate.py            writes what has changed
    python tools/generate.py --check    writes nothing; fails and names the files that would change

A file that is generated as a whole says so in its first lines. In a file that is written by hand, a generated part
stands between the lines BEGIN GENERATED and END GENERATED.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import emit_c
import emit_python
import table

ROOT = table.ROOT


def generated(rules: table.Table) -> dict[str, str]:
    """{path below the root: the whole text} of every file that is generated as a whole or in part."""
    files = {**emit_c.files(rules), **emit_python.files(rules)}
    for path, parts in emit_python.parts(rules).items():
        files[path] = _replaced(path, parts)
    return files


def _replaced(path: str, parts: dict[str, str]) -> str:
    """The text of a file with its generated parts, {label: text}, replaced."""
    text = (ROOT / path).read_text(encoding="utf-8")
    for label, part in parts.items():
        pattern = rf"(^.*BEGIN GENERATED {re.escape(label)}\b.*\n)(?:.*\n)*?(^.*END GENERATED {re.escape(label)}\b)"
        text, count = re.subn(pattern, lambda m, part=part: m[1] + part + m[2], text, flags=re.MULTILINE)
        if count != 1:
            raise SystemExit(f"{path} must have one part between BEGIN and END GENERATED {label}; it has {count}")
    return text


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing, and fail if something would change")
    options = parser.parse_args(arguments)
    changed = []
    for path, text in generated(table.read()).items():
        file = ROOT / path
        if not file.exists() or file.read_text(encoding="utf-8") != text:
            changed.append(path)
            if not options.check:
                file.write_text(text, encoding="utf-8")
    for path in changed:
        print(f"{path} {'is not what the table says; run tools/generate.py' if options.check else 'written'}")
    return 1 if changed and options.check else 0


if __name__ == "__main__":
    raise SystemExit(main())
