"""A bill of materials as SPDX 2.3 JSON, from the packages that scanners find."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from buildkit_py.oci.config import rfc3339

if TYPE_CHECKING:
    from buildkit_py.inspection.packages import Package

SPDX_TYPE = "https://spdx.dev/Document"
_IDENTIFIER = re.compile(r"[^A-Za-z0-9.-]+")
_LICENSE = re.compile(r"[A-Za-z0-9.+-]+\Z")


def spdx_document(
    packages: Sequence[Package], *, name: str, namespace: str, created: float, tool: str
) -> dict[str, Any]:
    """The document, which describes one image of that name."""
    root = "SPDXRef-DocumentRoot-Image"
    elements = [_package(package) for package in packages]
    relations = [("SPDXRef-DOCUMENT", "DESCRIBES", root)]
    relations += [(root, "CONTAINS", str(element["SPDXID"])) for element in elements]
    image = {
        "name": name,
        "SPDXID": root,
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": False,
        "primaryPackagePurpose": "CONTAINER",
    }
    return {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": name,
        "documentNamespace": namespace,
        "creationInfo": {"created": rfc3339(int(created)), "creators": [f"Tool: {tool}"]},
        "packages": [image, *elements],
        "relationships": [
            {"spdxElementId": one, "relationshipType": kind, "relatedSpdxElement": two}
            for one, kind, two in relations
        ],
    }


def _package(package: Package) -> dict[str, Any]:
    purl = f"pkg:{package.kind}/{quote(package.name, safe='/')}@{quote(package.version, safe='')}"
    if package.architecture:
        purl += f"?arch={quote(package.architecture, safe='')}"
    mark = hashlib.sha256(repr(package).encode()).hexdigest()[:12]
    name = _IDENTIFIER.sub("-", package.name)
    stated = package.license if _LICENSE.match(package.license) else "NOASSERTION"
    return {
        "name": package.name,
        "SPDXID": f"SPDXRef-Package-{package.kind}-{name}-{mark}",
        "versionInfo": package.version,
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": False,
        "licenseDeclared": stated,
        "licenseConcluded": "NOASSERTION",
        "copyrightText": "NOASSERTION",
        "externalRefs": [
            {
                "referenceCategory": "PACKAGE-MANAGER",
                "referenceType": "purl",
                "referenceLocator": purl,
            }
        ],
    }
