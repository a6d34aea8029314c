"""docs/licences.md is what the lock files hold, and every licence in it was judged."""

import json
from pathlib import Path

import pytest

from supply_chain.bill_of_materials import bill_of_materials
from supply_chain.components import (
    development_components,
    node_components,
    run_time_components,
)
from supply_chain.go_modules import GoModule, modules_in, neonize_modules
from supply_chain.licence_list import (
    PAGE,
    Accepted,
    Group,
    LicenceList,
    Listed,
    StatementError,
    gather,
    judged,
    page,
    read_statements,
)

GPL = Accepted(package="thing", licence="GPL-3.0-only", reason="It stays on the developer's desk.")


@pytest.fixture(scope="module")
def gathered() -> LicenceList:
    return gather(read_statements())


def listed(licence: str | None, group: Group = "run time") -> Listed:
    return Listed(group=group, name="thing", version="1", licence=licence)


def test_nothing_is_left_to_judge(gathered: LicenceList) -> None:
    assert gathered.faults == ()


def test_the_page_is_up_to_date(gathered: LicenceList) -> None:
    assert PAGE.read_text() == page(gathered), "make licences ARGS=--write"


def test_every_locked_package_has_its_row(gathered: LicenceList) -> None:
    rows = {tuple(line.split(" | ")[:2]) for line in PAGE.read_text().splitlines() if "|" in line}
    locked = (*run_time_components(), *development_components(), *node_components())

    assert len(gathered.listed) == len(locked) + len(neonize_modules())
    for item in (*locked, *neonize_modules()):
        assert (f"| {item.name}", item.version) in rows, item


@pytest.mark.parametrize("group", ["run time", "inside neonize", "development", "node"])
@pytest.mark.parametrize("licence", [None, "GPL-3.0-only", "AGPL-3.0-only", "BUSL-1.1"])
def test_what_is_unknown_or_asks_too_much_is_a_fault(group: Group, licence: str | None) -> None:
    (fault,) = judged([listed(licence, group)], [])
    assert fault.startswith(f"thing 1 ({group}): ")


def test_what_is_permissive_or_accepted_is_none() -> None:
    assert not list(judged([listed("MIT"), listed("MPL-2.0"), listed("GPL-3.0-only")], [GPL]))
    assert list(judged([listed("AGPL-3.0-only")], [GPL])), "another licence was accepted"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            '[[stated]]\npackage = "flask-nothing"\nlicence = "MIT"\nsource = "LICENSE"',
            "not locked",
        ),
        ('[[stated]]\npackage = "flask"\nlicence = "MIT"\nsource = "LICENSE"', "metadata says BSD"),
        ('[go_modules]\n"example.com/none" = "MIT"', "is not in neonize"),
        (
            '[[accepted]]\npackage = "flask"\nlicence = "GPL-3.0-only"\n'
            'reason = "No reason, because it is not."',
            "accepts flask",
        ),
    ],
)
def test_a_statement_that_is_idle_or_wrong_is_a_fault(
    tmp_path: Path, text: str, words: str
) -> None:
    path = tmp_path / "licences.toml"
    path.write_text(text)
    faults = gather(read_statements(path)).faults

    assert any(words in fault for fault in faults)
    assert any(fault.startswith("go.mau.fi/libsignal v") for fault in faults)
    assert any(fault.startswith("jinja2 3") and "no licence is known" in fault for fault in faults)


@pytest.mark.parametrize(
    "text",
    [
        '[[stated]]\npackage = "x"\nlicence = "MIT"',
        '[[stated]]\npackage = "x"\nlicence = "MIT"\nsource = ""',
        '[[accepted]]\npackage = "x"\nlicence = "MIT"\nreason = "why not"',
        "[[other]]",
        "[[",
    ],
)
def test_statements_that_say_too_little_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "licences.toml"
    path.write_text(text)

    with pytest.raises(StatementError):
        read_statements(path)


def test_the_library_of_neonize_names_what_it_is_built_from() -> None:
    names = {module.name for module in neonize_modules()}

    assert {"go.mau.fi/whatsmeow", "go.mau.fi/libsignal", "golang.org/x/crypto"} <= names


def test_modules_are_found_between_other_bytes(tmp_path: Path) -> None:
    checksum = "h1:" + "A" * 43 + "="
    line = f"dep\texample.com/one\tv1.2.3\t{checksum}\n".encode()
    library = tmp_path / "library.so"
    library.write_bytes(
        b"\x00\xffpath\tx\nmod\tx\t(devel)\t\n" + line * 2 + b"build\t-x\n\x00dep\tno"
    )

    assert modules_in(library) == (
        GoModule(name="example.com/one", version="v1.2.3", checksum=checksum),
    )


def test_the_bill_of_materials_holds_everything_with_licence_and_hash(
    gathered: LicenceList,
) -> None:
    bill = json.loads(bill_of_materials(gathered))
    parts = {part["purl"]: part for part in bill["components"]}

    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    assert len(parts) == len(gathered.listed)
    assert all(part["licenses"] for part in parts.values())
    assert all(
        part["hashes"] for address, part in parts.items() if not address.startswith("pkg:golang")
    )
    (flask,) = (item for item in run_time_components() if item.name == "flask")
    found = parts[f"pkg:pypi/flask@{flask.version}"]
    assert found["scope"] == "required"
    assert {f"sha256:{item['content']}" for item in found["hashes"]} == set(flask.hashes)
    scopes = {part["scope"] for address, part in parts.items() if address.startswith("pkg:npm")}
    assert scopes == {"excluded"}
