"""Writes what sotune stands on: a CycloneDX list of the installed packages that it needs, and their licences.

Usage: python .ci/inventory.py sbom.json [EXTRA ...]
"""

from __future__ import annotations

import json
import sys
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def needed(name: str, extras: list[str]) -> dict[str, metadata.Distribution]:
    """Returns all that a package needs here, by name, itself too; what is not installed is left out."""
    found: dict[str, metadata.Distribution] = {}
    waiting = [(name, tuple(extras))]
    while waiting:
        wanted, with_extras = waiting.pop()
        try:
            package = metadata.distribution(wanted)
        except metadata.PackageNotFoundError:
            continue
        if found.setdefault(canonicalize_name(wanted), package) is not package and not with_extras:
            continue
        for line in package.requires or ():
            requirement = Requirement(line)
            environments = [{"extra": extra} for extra in (*with_extras, "")]
            applies = requirement.marker is None or any(map(requirement.marker.evaluate, environments))
            if applies and canonicalize_name(requirement.name) not in found:
                waiting.append((requirement.name, tuple(sorted(requirement.extras))))
    return found


def licence(package: metadata.Distribution) -> str:
    """Returns the licence that a package states: an expression, a classifier, or the first line of a text."""
    about = package.metadata
    stated = about.get("License-Expression") or (about.get("License") or "").strip().splitlines()[:1]
    classifiers = [c.rpartition(" :: ")[2] for c in about.get_all("Classifier") or () if c.startswith("License ::")]
    return str(stated if isinstance(stated, str) else next(iter(classifiers or stated), "not stated"))


def main() -> None:
    """Writes the list, and prints the licences."""
    target, *extras = sys.argv[1:]
    packages = needed("sotune", extras)
    components = [
        {
            "type": "library",
            "name": name,
            "version": package.version,
            "purl": f"pkg:pypi/{name}@{package.version}",
            "licenses": [{"license": {"name": licence(package)}}],
        }
        for name, package in sorted(packages.items())
    ]
    content = {"bomFormat": "CycloneDX", "specVersion": "1.6", "version": 1, "components": components}
    Path(target).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    for component in components:
        print(f"{component['name']} {component['version']}: {component['licenses'][0]['license']['name'][:80]}")


if __name__ == "__main__":
    main()
