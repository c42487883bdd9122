"""Requirements: no known advisory, and the private parts of uvicorn that are used."""

import inspect
import re
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "tools"))

import advisories  # noqa: E402

PROJECT = advisories.read_requirements(ROOT / "pyproject.toml")


def test_no_bound_admits_a_version_with_an_advisory():
    known = advisories.read_advisories()
    assert advisories.find_open(PROJECT, known) == []
    pins = advisories.read_pins(ROOT / "constraints.txt")
    assert advisories.find_open(pins, known) == []
    # The list is of these packages, not of others.
    names = {requirement.name for requirement in (*PROJECT, *pins)}
    assert {advisory.package for advisory in known} <= names


@pytest.mark.parametrize("line", ["torch>=2.9,<3", "torch<3", "torch==2.9.1"])
def test_an_old_bound_is_named(line):
    wanted = Requirement(line)
    sentences = advisories.find_open([wanted], advisories.read_advisories())
    (sentence,) = [text for text in sentences if "CVE-2026-24747" in text]
    assert sentence == (
        f"{wanted} admits a version with CVE-2026-24747; first without: 2.10.0."
    )


def test_an_accepted_advisory_does_not_apply():
    (accepted,) = [a for a in advisories.read_advisories() if a.accepted]
    assert accepted.name == "CVE-2025-3000"
    calls = [
        file
        for file in (ROOT / "src").rglob("*.py")
        if re.search(r"jit\.(script|trace|load)", file.read_text("utf-8"))
    ]
    assert calls == []


def test_the_lock_holds_every_requirement_with_a_hash():
    lines = (ROOT / "requirements.lock").read_text("utf-8").splitlines()
    locked = {}
    for line in lines:
        if not line.startswith("#"):
            entry, _, digest = line.partition(" --hash=sha256:")
            assert re.fullmatch("[0-9a-f]{64}", digest), line
            requirement = Requirement(entry)
            locked[canonicalize_name(requirement.name)] = requirement
    table = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = table["optional-dependencies"]
    wanted = [*table["dependencies"]]
    for extra in ("export", "serve", "video", "hf", "studies"):
        wanted += extras[extra]
    for requirement in map(Requirement, wanted):
        (pin,) = locked[canonicalize_name(requirement.name)].specifier
        assert requirement.specifier.contains(pin.version), requirement
    for pin in advisories.read_pins(ROOT / "constraints.txt"):
        name = canonicalize_name(pin.name)
        assert name not in locked or locked[name].specifier == pin.specifier
    assert advisories.find_open([*locked.values()], advisories.read_advisories()) == []


def test_uvicorn_is_bounded_below_its_next_minor_release():
    (bounds,) = {str(r.specifier) for r in PROJECT if r.name == "uvicorn"}
    installed = Version(pytest.importorskip("uvicorn").__version__)
    assert f"<0.{installed.minor + 1}" in bounds


def test_the_parts_of_uvicorn_that_are_overridden_are_there():
    uvicorn = pytest.importorskip("uvicorn")
    from uvicorn.protocols.http.h11_impl import H11Protocol

    from vitral.serve import lifecycle
    from vitral.serve.http.protocol import HTTPProtocol

    own = {
        name
        for name, value in vars(HTTPProtocol).items()
        if callable(value) and hasattr(H11Protocol, name) and not name.startswith("_")
    }
    assert own >= {
        *("connection_made", "connection_lost", "data_received", "handle_events"),
        *("on_response_complete", "pause_writing", "resume_writing"),
        "send_400_response",
    }
    for name in own:
        theirs = inspect.signature(getattr(H11Protocol, name)).parameters
        ours = inspect.signature(getattr(HTTPProtocol, name)).parameters
        assert list(ours) == list(theirs), name
    assert hasattr(H11Protocol, "_unset_keepalive_if_required")
    made = inspect.getsource(H11Protocol.__init__)
    for name in ("conn", "loop", "connections", "transport"):
        assert re.search(rf"self\.{name}\b.*=", made), name
    # The bound on events is in a connection of our own.
    assert "self.conn.next_event()" in inspect.getsource(H11Protocol.handle_events)
    assert "capture_signals" in vars(lifecycle._Server)
    assert hasattr(uvicorn.Server, "capture_signals")
