"""Which licence a package has, as an expression of SPDX, and what may be run under it."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from enum import StrEnum
from importlib import metadata

from license_expression import (
    AND,
    OR,
    ExpressionError,
    LicenseSymbol,
    LicenseWithExceptionSymbol,
    Licensing,
    get_spdx_licensing,
)

PERMISSIVE = frozenset(
    """0BSD Apache-2.0 BlueOak-1.0.0 BSD-2-Clause BSD-3-Clause BSD-3-Clause-LBNL CC0-1.0 HPND ISC
    MIT MIT-0 MIT-CMU PostgreSQL PSF-2.0 Python-2.0 Python-2.0.1 Unlicense Zlib""".split()
)
# Their terms are about the package itself: who changes it passes the change on.
FILE_COPYLEFT = frozenset(
    """EPL-2.0 LGPL-2.1-only LGPL-2.1-or-later LGPL-3.0-only LGPL-3.0-or-later MPL-2.0""".split()
)
_STRONG_PREFIXES = ("AGPL-", "GPL-", "SSPL-", "EUPL-", "OSL-", "CC-BY-SA-")
# How packages write it that were made before SPDX had a place in the metadata.
_WRITTEN = {
    "3-Clause BSD License": "BSD-3-Clause",
    "Apache 2": "Apache-2.0",
    "Apache 2.0": "Apache-2.0",
    "Apache License 2.0": "Apache-2.0",
    "BSD 2-Clause License": "BSD-2-Clause",
    "GPL-3.0": "GPL-3.0-only",
    "MIT License": "MIT",
    "PSFL": "PSF-2.0",
}
_CLASSIFIED = {
    "Apache Software License": "Apache-2.0",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
    "The Unlicense (Unlicense)": "Unlicense",
}


class Terms(StrEnum):
    """What a licence asks of who passes the product on, from the least to the most."""

    PERMISSIVE = "permissive"  # name the authors
    FILE_COPYLEFT = "file copyleft"  # changes of the package itself stay open
    STRONG_COPYLEFT = "strong copyleft"  # what is built with it stays open
    UNKNOWN = "unknown"  # nobody has judged it


def written(text: str | None) -> str | None:
    """Return the expression of SPDX that a text is, None when it is none."""
    if text is None or "\n" in text.strip() or not text.strip():
        return None
    known = _WRITTEN.get(text.strip(), text.strip())
    try:
        return str(_licensing().parse(known, validate=True, strict=True))
    except ExpressionError:
        return None


def of_metadata(
    expression: str | None, licence: str | None, classifiers: Sequence[str]
) -> str | None:
    """Return what a package's metadata says, None when it does not say it without doubt.

    Source:
        Core metadata: License-Expression; before it License, and classifiers, of which "BSD
        License" means any of several, and two mean "and" as well as "or".
    """
    found = written(expression) or written(licence)
    prefix = "License :: OSI Approved :: "
    classified = [item.removeprefix(prefix) for item in classifiers if item.startswith(prefix)]
    if found is None and len(classified) == 1:
        found = _CLASSIFIED.get(classified[0])
    return found


def terms(expression: str) -> Terms:
    """Judge an expression: of "or" the best may be chosen, of "and" the hardest holds."""
    order = list(Terms)

    def judged(part: object) -> Terms:
        if isinstance(part, AND | OR):
            choose = min if isinstance(part, OR) else max
            return choose((judged(item) for item in part.args), key=order.index)
        if isinstance(part, LicenseWithExceptionSymbol):
            return judged(part.license_symbol)  # an exception only takes something away
        if isinstance(part, LicenseSymbol):
            return _terms_of_one(part.key)
        return Terms.UNKNOWN

    try:
        return judged(_licensing().parse(expression, validate=True, strict=True))
    except ExpressionError:
        return Terms.UNKNOWN


def installed(names: Sequence[str]) -> Mapping[tuple[str, str], str | None]:
    """Return what the metadata of installed packages says, by name and version."""
    found: dict[tuple[str, str], str | None] = {}
    for name in names:
        try:
            package = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        said = package.metadata
        found[name, package.version] = of_metadata(
            said["License-Expression"] if "License-Expression" in said else None,
            said["License"] if "License" in said else None,
            said.get_all("Classifier") or [],
        )
    return found


def _terms_of_one(key: str) -> Terms:
    if key in PERMISSIVE:
        return Terms.PERMISSIVE
    if key in FILE_COPYLEFT:
        return Terms.FILE_COPYLEFT
    return Terms.STRONG_COPYLEFT if key.startswith(_STRONG_PREFIXES) else Terms.UNKNOWN


@functools.cache
def _licensing() -> Licensing:
    return get_spdx_licensing()
