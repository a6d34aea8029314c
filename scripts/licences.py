"""Lists the licence of everything that is locked: `make licences`.

Without --write the page docs/licences.md is compared and nothing is changed. Exit status 1: a
licence is unknown or was not judged, or the page is not what the lock files say.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from supply_chain.components import LockError
from supply_chain.go_modules import NoGoModules
from supply_chain.licence_list import PAGE, StatementError, gather, page, read_statements


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare or write the page and return the exit status."""
    parser = argparse.ArgumentParser(description="List the licence of everything that is locked.")
    parser.add_argument("--write", action="store_true", help=f"write {PAGE.name}")
    options = parser.parse_args(arguments)
    try:
        result = gather(read_statements())
    except (StatementError, LockError, NoGoModules) as error:
        print(f"licences: {error}", file=sys.stderr)
        return 1
    for fault in result.faults:
        print(f"licences: {fault}", file=sys.stderr)
    text = page(result)
    if options.write:
        PAGE.write_text(text, encoding="utf-8")
    elif not PAGE.exists() or PAGE.read_text(encoding="utf-8") != text:
        print(f"licences: {PAGE} is out of date: make licences ARGS=--write", file=sys.stderr)
        return 1
    print(f"licences: {len(result.listed)} packages")
    return 1 if result.faults else 0


if __name__ == "__main__":
    sys.exit(main())
