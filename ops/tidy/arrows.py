#!/usr/bin/env python3
"""Fails on any dependency between rooms, or from a room to a guarded crate, that is not in the tables below."""

import json
import os
import subprocess
import sys

# Who may depend on whom, tests of a package included. The tests package may depend on all.
ALLOWED = {
    "evoring-protocol": set(),
    "evoring-jobs": {"evoring-protocol"},
    "evoring-kernels": {"evoring-protocol", "evoring-jobs"},
    "evoring-coordinator": {"evoring-protocol", "evoring-jobs"},
    "evoring-worker": {"evoring-protocol", "evoring-jobs", "evoring-kernels"},
    "evoring": {"evoring-protocol", "evoring-jobs"},
}
TESTS = "evoring-tests"

# Crates that one room hides from the others.
GUARDED = {
    "quinn": {"evoring-protocol"},
    "rustls": {"evoring-protocol"},
    "raft": {"evoring-coordinator"},
    "redb": {"evoring-coordinator"},
    "tch": {"evoring-kernels", "evoring-worker"},
    "torch-sys": {"evoring-kernels", "evoring-worker"},
}

# These stay pure: the transport brings a runtime and sockets.
WITHOUT_TRANSPORT = {"evoring-jobs", "evoring-kernels"}


def problems(metadata):
    """One sentence per forbidden arrow in the output of `cargo metadata --no-deps`."""
    packages = {package["name"]: package for package in metadata["packages"]}
    found = []
    for name, package in sorted(packages.items()):
        if name not in ALLOWED and name != TESTS:
            found.append(f"{name} is no room of the house; add it to ALLOWED in ops/tidy/arrows.py and to docs/ARCHITECTURE.md")
            continue
        for dependency in package["dependencies"]:
            other = dependency["name"]
            if other == TESTS:
                found.append(f"{name} depends on {TESTS}; nothing may")
            elif other in packages and name != TESTS and other not in ALLOWED[name]:
                may = ", ".join(sorted(ALLOWED[name])) or "no member"
                found.append(f"{name} depends on {other}; it may depend on {may}")
            if other in GUARDED and name not in GUARDED[other] and name != TESTS:
                found.append(f"{name} depends on {other}; only {', '.join(sorted(GUARDED[other]))} may")
            if other == "evoring-protocol" and name in WITHOUT_TRANSPORT and "transport" in dependency["features"]:
                found.append(f"{name} takes evoring-protocol with its transport; it must stay without")
    return found


def selftest():
    def package(name, *dependencies):
        listed = [{"name": other, "features": features} for other, features in dependencies]
        return {"name": name, "dependencies": listed}

    kept = package("evoring-kernels", ("evoring-jobs", []), ("tch", []))
    jobs = package("evoring-jobs", ("evoring-protocol", []))
    assert not problems({"packages": [kept, jobs, package("evoring-tests", ("evoring-kernels", []), ("raft", []))]})
    for bad in (
        package("evoring-jobs", ("evoring-kernels", [])),
        package("evoring-protocol", ("evoring-tests", [])),
        package("evoring", ("tch", [])),
        package("evoring-jobs", ("evoring-protocol", ["transport"])),
        package("evoring-attic"),
    ):
        others = [package(name) for name in ("evoring-kernels", "evoring-protocol") if name != bad["name"]]
        assert problems({"packages": [bad, *others]}), bad


def main():
    command = [os.environ.get("CARGO", "cargo"), "metadata", "--no-deps", "--offline", "--format-version", "1"]
    found = problems(json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout))
    for problem in found:
        print(f"arrows: {problem}", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
