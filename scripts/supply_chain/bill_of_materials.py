"""The list of everything that is locked in the form that scanners read: CycloneDX."""

from __future__ import annotations

import base64

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component as Part
from cyclonedx.model.component import ComponentScope, ComponentType
from cyclonedx.output import make_outputter
from cyclonedx.schema import OutputFormat, SchemaVersion
from packageurl import PackageURL

from supply_chain.components import (
    Component,
    Ecosystem,
    development_components,
    node_components,
    run_time_components,
)
from supply_chain.go_modules import GoModule, neonize_modules
from supply_chain.licence_list import LicenceList

_ROOT = "crm-whatsapp"


def bill_of_materials(licences: LicenceList) -> str:
    """Return it as JSON of CycloneDX 1.6, with the hashes of the lock files.

    What only checks, tests and the local stack need has the scope `excluded`.
    """
    by_name = {(item.name, item.version): item.licence for item in licences.listed}
    root = Part(name=_ROOT, type=ComponentType.APPLICATION, bom_ref=_ROOT)
    run_time = [_part(item, ComponentScope.REQUIRED) for item in run_time_components()]
    run_time += [_go_part(module) for module in neonize_modules()]
    others = [
        _part(item, ComponentScope.EXCLUDED)
        for item in (*development_components(), *node_components())
    ]
    bom = Bom(components=[*run_time, *others])
    bom.metadata.component = root
    for part in bom.components:
        licence = by_name.get((_name(part), part.version or ""))
        if licence is not None:
            part.licenses.add(LicenseFactory().make_from_string(licence))
    bom.register_dependency(root, run_time)
    outputter = make_outputter(bom, OutputFormat.JSON, SchemaVersion.V1_6)
    return outputter.output_as_string(indent=2) + "\n"


def _part(item: Component, scope: ComponentScope) -> Part:
    if item.ecosystem is Ecosystem.PYPI:
        address = PackageURL(type="pypi", name=item.name, version=item.version)
    else:
        group, _, name = item.name.rpartition("/")
        address = PackageURL(type="npm", namespace=group, name=name, version=item.version)
    return Part(
        name=address.name,
        group=address.namespace,
        version=item.version,
        type=ComponentType.LIBRARY,
        scope=scope,
        purl=address,
        bom_ref=str(address),
        hashes=[_hash(value) for value in item.hashes],
        properties=[Property(name="crm-whatsapp:marker", value=item.marker)] if item.marker else [],
    )


def _go_part(module: GoModule) -> Part:
    group, _, name = module.name.rpartition("/")
    address = PackageURL(type="golang", namespace=group, name=name, version=module.version)
    return Part(
        name=name,
        group=group,
        version=module.version,
        type=ComponentType.LIBRARY,
        scope=ComponentScope.REQUIRED,
        purl=address,
        bom_ref=str(address),
    )


def _name(part: Part) -> str:
    return f"{part.group}/{part.name}" if part.group else part.name


def _hash(value: str) -> HashType:
    """Turn `sha256:hex` of Python, or `sha512-base64` of npm, into a hash in hexadecimal."""
    _, colon, digest = value.partition(":")
    if colon:
        return HashType(alg=HashAlgorithm.SHA_256, content=digest)
    _, _, encoded = value.partition("-")
    return HashType(alg=HashAlgorithm.SHA_512, content=base64.b64decode(encoded).hex())
