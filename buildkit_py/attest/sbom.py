"""A bill of materials as SPDX 2.3 JSON, from the packages that scanners find.

spdx-tools is loaded by the first bill of a process only. The same packages give the same document:
its namespace is made of its content, its time is that of the image.
"""

from __future__ import annotations

import hashlib
import re
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

if TYPE_CHECKING:
    from license_expression import LicenseExpression
    from spdx_tools.spdx.model import Package as SpdxPackage

    from buildkit_py.inspection.packages import Distribution, Package

SPDX_TYPE = "https://spdx.dev/Document"
_IDENTIFIER = re.compile(r"[^A-Za-z0-9.-]+")
_SYSTEM_KINDS = frozenset(("deb", "apk", "rpm"))
_ROOT = "SPDXRef-DocumentRoot-Image"
_DOCUMENT = "SPDXRef-DOCUMENT"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bill:
    """What a document is made of: `name` is that of the image or of the stage scanned."""

    name: str
    packages: Sequence[Package]
    distribution: Distribution
    created: float
    tool: str


def spdx_document(bill: Bill) -> dict[str, Any]:
    """The document, which describes one root file system."""
    from spdx_tools.spdx.jsonschema.document_converter import (  # noqa: PLC0415
        DocumentConverter,
    )
    from spdx_tools.spdx.model import (  # noqa: PLC0415
        Actor,
        ActorType,
        CreationInfo,
        Document,
        PackagePurpose,
        Relationship,
        RelationshipType,
        SpdxNoAssertion,
    )
    from spdx_tools.spdx.model import Package as SpdxPackage  # noqa: PLC0415

    image = SpdxPackage(
        spdx_id=_ROOT,
        name=bill.name,
        download_location=SpdxNoAssertion(),
        files_analyzed=False,
        primary_package_purpose=PackagePurpose.CONTAINER,
    )
    elements = [_package(package, bill.distribution) for package in bill.packages]
    relations = [Relationship(_DOCUMENT, RelationshipType.DESCRIBES, _ROOT)]
    relations += [
        Relationship(_ROOT, RelationshipType.CONTAINS, item.spdx_id) for item in elements
    ]
    created = datetime.fromtimestamp(int(bill.created), UTC).replace(tzinfo=None)
    document = Document(
        creation_info=CreationInfo(
            spdx_version="SPDX-2.3",
            spdx_id=_DOCUMENT,
            name=bill.name,
            document_namespace=f"urn:uuid:{_mark(bill)}",
            creators=[Actor(ActorType.TOOL, bill.tool)],
            created=created,
        ),
        packages=[image, *elements],
        relationships=relations,
    )
    converted: dict[str, Any] = DocumentConverter().convert(document)  # type: ignore[no-untyped-call]  # its __init__
    return converted


def _mark(bill: Bill) -> str:
    """A name that no other document has."""
    content = repr((bill.name, list(bill.packages), bill.distribution, int(bill.created)))
    return str(uuid.uuid5(uuid.NAMESPACE_URL, hashlib.sha256(content.encode()).hexdigest()))


def _package(package: Package, distribution: Distribution) -> SpdxPackage:
    from spdx_tools.spdx.model import (  # noqa: PLC0415
        ExternalPackageRef,
        ExternalPackageRefCategory,
        SpdxNoAssertion,
    )
    from spdx_tools.spdx.model import Package as SpdxPackage  # noqa: PLC0415

    mark = hashlib.sha256(repr(package).encode()).hexdigest()[:12]
    name = _IDENTIFIER.sub("-", package.name)
    locator = package_url(package, distribution)
    declared = _license(package.license)
    return SpdxPackage(
        spdx_id=f"SPDXRef-Package-{package.kind}-{name}-{mark}",
        name=package.name,
        version=package.version,
        download_location=SpdxNoAssertion(),
        files_analyzed=False,
        license_declared=SpdxNoAssertion() if declared is None else declared,
        license_concluded=SpdxNoAssertion(),
        copyright_text=SpdxNoAssertion(),
        external_references=[
            ExternalPackageRef(ExternalPackageRefCategory.PACKAGE_MANAGER, "purl", locator)
        ],
    )


def package_url(package: Package, distribution: Distribution) -> str:
    """`pkg:deb/debian/libc6@2.36-9?arch=amd64&distro=debian-12`, as purl-spec has it."""
    system = package.kind in _SYSTEM_KINDS
    place = f"{quote(distribution.vendor, safe='')}/" if system and distribution.vendor else ""
    version, epoch = package.version, ""
    if package.kind == "rpm":
        epoch, _, version = version.rpartition(":")
    qualifiers = {
        "arch": package.architecture,
        "distro": distribution.release if system else "",
        "epoch": epoch,
    }
    given = [f"{key}={quote(value, safe='')}" for key, value in qualifiers.items() if value]
    text = f"pkg:{package.kind}/{place}{quote(package.name, safe='/')}@{quote(version, safe='')}"
    return text + ("?" + "&".join(given) if given else "")


def _license(text: str) -> LicenseExpression | None:
    """An SPDX expression; None for what is none: packages have always had names of their own."""
    if not text:
        return None
    from license_expression import ExpressionError, get_spdx_licensing  # noqa: PLC0415

    try:
        return get_spdx_licensing().parse(text, validate=True, strict=True)
    except ExpressionError:
        return None
