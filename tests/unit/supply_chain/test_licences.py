"""Licences are read without guessing, and judged by the hardest that holds."""

import pytest

from supply_chain.licences import FILE_COPYLEFT, PERMISSIVE, Terms, of_metadata, terms, written

PREFIX = "License :: OSI Approved :: "


@pytest.mark.parametrize(
    ("text", "expression"),
    [
        ("MIT", "MIT"),
        (" MIT License ", "MIT"),
        ("Apache 2.0", "Apache-2.0"),
        ("MPL-2.0 AND (MIT OR ISC)", "MPL-2.0 AND (MIT OR ISC)"),
        ("GPL-3.0", "GPL-3.0-only"),
        ("BSD", None),
        ("Dual License", None),
        ("Proprietary", None),
        ("MIT\nCopyright …", None),
        ("MIT AND", None),
        ("", None),
        (None, None),
    ],
)
def test_a_text_is_an_expression_or_nothing(text: str | None, expression: str | None) -> None:
    assert written(text) == expression


@pytest.mark.parametrize(
    ("expression", "licence", "classifiers", "found"),
    [
        ("MIT", "BSD-3-Clause", [PREFIX + "ISC License (ISCL)"], "MIT"),
        (None, "BSD-3-Clause", [PREFIX + "MIT License"], "BSD-3-Clause"),
        (None, None, [PREFIX + "MIT License", "Programming Language :: Python"], "MIT"),
        (None, "BSD", [PREFIX + "BSD License"], None),
        (None, None, [PREFIX + "MIT License", PREFIX + "Apache Software License"], None),
        (None, None, [], None),
    ],
)
def test_metadata_that_leaves_a_doubt_says_nothing(
    expression: str | None, licence: str | None, classifiers: list[str], found: str | None
) -> None:
    assert of_metadata(expression, licence, classifiers) == found


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("MIT", Terms.PERMISSIVE),
        ("MPL-2.0", Terms.FILE_COPYLEFT),
        ("GPL-3.0-only", Terms.STRONG_COPYLEFT),
        ("GPL-2.0-or-later WITH Classpath-exception-2.0", Terms.STRONG_COPYLEFT),
        ("AGPL-3.0-or-later", Terms.STRONG_COPYLEFT),
        ("SSPL-1.0", Terms.STRONG_COPYLEFT),
        ("BUSL-1.1", Terms.UNKNOWN),
        ("MIT OR GPL-3.0-only", Terms.PERMISSIVE),
        ("MIT AND GPL-3.0-only", Terms.STRONG_COPYLEFT),
        ("MPL-2.0 AND (MIT OR GPL-3.0-only)", Terms.FILE_COPYLEFT),
        ("MIT AND BUSL-1.1", Terms.UNKNOWN),
        ("no licence at all", Terms.UNKNOWN),
    ],
)
def test_of_or_the_best_of_and_the_hardest(expression: str, expected: Terms) -> None:
    assert terms(expression) is expected


@pytest.mark.parametrize("key", sorted(PERMISSIVE | FILE_COPYLEFT))
def test_what_is_judged_has_a_name_of_spdx(key: str) -> None:
    assert written(key) == key
