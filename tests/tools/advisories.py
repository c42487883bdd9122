"""Check the lower bounds of the requirements against a list of security advisories.

    python tests/tools/advisories.py

The list is advisories.csv: what was public on the day `READ_ON`. A bound below the fix
of an advisory, and a version of constraints.txt below it, are printed; the exit code is
then 1. An advisory without a fix needs the reason why it is accepted.
"""

import csv
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
READ_ON = "2026-12-01"


@dataclass(frozen=True, kw_only=True)
class Advisory:
    """One security advisory of a package."""

    package: str
    name: str
    """Its number, such as CVE-2026-24747."""
    fixed_in: Version | None
    """First version without it; None where there is none yet."""
    accepted: str
    """Reason why a version with it may be used; "" if it may not."""


def read_advisories() -> list[Advisory]:
    text = Path(__file__).with_name("advisories.csv").read_text("utf-8")
    return [
        Advisory(
            package=canonicalize_name(row["package"]),
            name=row["advisory"],
            fixed_in=Version(row["fixed_in"]) if row["fixed_in"] else None,
            accepted=row["accepted"],
        )
        for row in csv.DictReader(text.splitlines())
    ]


def read_requirements(project: Path) -> list[Requirement]:
    """Return all requirements of pyproject.toml, those of the extras included."""
    table = tomllib.loads(project.read_text("utf-8"))["project"]
    extras = table["optional-dependencies"].values()
    lines = [*table["dependencies"], *(line for extra in extras for line in extra)]
    return [Requirement(line) for line in lines]


def read_pins(constraints: Path) -> list[Requirement]:
    lines = constraints.read_text("utf-8").splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def find_open(requirements: list[Requirement], advisories: list[Advisory]) -> list[str]:
    """Return a sentence for each requirement that admits a version with an advisory."""
    sentences = []
    for requirement in requirements:
        lowest = [
            Version(bound.version)
            for bound in requirement.specifier
            if bound.operator in (">=", "==", "~=")
        ]
        for advisory in advisories:
            if advisory.package != canonicalize_name(requirement.name):
                continue
            if advisory.accepted:
                continue
            fixed = advisory.fixed_in
            if fixed is None or not lowest or max(lowest) < fixed:
                sentences.append(
                    f"{requirement} admits a version with {advisory.name}; "
                    f"first without: {fixed or 'none'}."
                )
    return sentences


def main() -> int:
    advisories = read_advisories()
    requirements = read_requirements(ROOT / "pyproject.toml")
    requirements += read_pins(ROOT / "constraints.txt")
    sentences = find_open(requirements, advisories)
    for sentence in sentences:
        print(sentence)
    for advisory in advisories:
        if advisory.accepted:
            print(f"accepted: {advisory.package} {advisory.name}: {advisory.accepted}")
    print(f"{len(advisories)} advisories of {READ_ON}, {len(sentences)} open.")
    return 1 if sentences else 0


if __name__ == "__main__":
    sys.exit(main())
