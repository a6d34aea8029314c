"""Writes the software bill of materials: `make sbom`. CycloneDX 1.6, JSON."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from supply_chain.bill_of_materials import bill_of_materials
from supply_chain.components import REPOSITORY, LockError
from supply_chain.go_modules import NoGoModules
from supply_chain.licence_list import StatementError, gather, read_statements

_DEFAULT = REPOSITORY / "build" / "crm-whatsapp.cdx.json"


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the file and return the exit status."""
    parser = argparse.ArgumentParser(description="Write the software bill of materials.")
    parser.add_argument("--output", type=Path, default=_DEFAULT, help="default: %(default)s")
    options = parser.parse_args(arguments)
    try:
        text = bill_of_materials(gather(read_statements()))
    except (StatementError, LockError, NoGoModules) as error:
        print(f"sbom: {error}", file=sys.stderr)
        return 1
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(text, encoding="utf-8")
    print(options.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
