#!/usr/bin/env python3
"""Fails on source files that are too long, paths of one person's machine, and tests that are never run.

Looks at every file that git tracks or would track.
"""

import re
import subprocess
import sys
from pathlib import Path

MOST_LINES = 800  # style: split by concept past this; unit tests at a file's end do not count
NEAR_LINES = 700
# Written in pieces, so that this file does not find itself.
MACHINE_PATH = re.compile("(?<![\\w.])/(?:" + "|".join(["ro" + "ot/", "wo" + "rk/", "ho" + "me/[a-z]", "Us" + "ers/[A-Za-z]"]) + ")")
EXAMPLE_HOMES = ("/" + "home/you", "/" + "home/user")
IGNORED = re.compile(r"^\s*#\[(?:ignore\b|cfg_attr\([^\]]*\bignore\b)")
TEST_MODULE = re.compile(r"^#\[cfg\(test\)\]")
GENERATED = {"Cargo.lock", "LICENSE-APACHE"}
SOURCE = {".rs", ".py", ".sh"}


def code_lines(text):
    """Lines before the unit tests, which stand at the end of a file."""
    lines = text.splitlines()
    for index, line in enumerate(lines):
        if TEST_MODULE.match(line) and index + 1 < len(lines) and re.match(r"(?:#|mod \w+ \{)", lines[index + 1]):
            return index
    return len(lines)


def problems(name, text):
    """One sentence per problem, and one per remark, for the file `name`."""
    path = Path(name)
    found, remarks = [], []
    if path.suffix in SOURCE and path.parts[0] != "tests":
        count = code_lines(text)
        if count > MOST_LINES:
            found.append(f"{name}: {count} lines, at most {MOST_LINES}; split it by concept")
        elif count > NEAR_LINES:
            remarks.append(f"{name}: {count} lines, near the limit of {MOST_LINES}")
    for number, line in enumerate(text.splitlines(), 1):
        match = MACHINE_PATH.search(line)
        if match and not line[match.start() :].startswith(EXAMPLE_HOMES):
            found.append(f"{name}:{number}: a path of one machine: {line[match.start():][:40]}")
        if path.suffix == ".rs" and IGNORED.match(line):
            found.append(f"{name}:{number}: an ignored test proves nothing; make it fast enough or remove it")
    return found, remarks


def selftest():
    def fails(name, text):
        return bool(problems(name, text)[0])

    long = "// line\n" * (MOST_LINES + 1)
    assert fails("worker/src/agent.rs", long)
    assert not fails("tests/src/agent.rs", long)
    assert not fails("worker/src/agent.rs", "// line\n" * MOST_LINES + "#[cfg(test)]\nmod tests {\n" + long + "}\n")
    assert problems("worker/src/agent.rs", "// line\n" * (NEAR_LINES + 1))[1]
    assert fails("docs/guide.md", "see /" + "root/evoring\n")
    assert fails("docs/guide.md", "in `/" + "home/anna/evoring`\n")
    assert not fails("docs/guide.md", "see https://example.org/" + "work/ and /" + "home/you/evoring\n")
    assert fails("tests/src/a.rs", "#[test]\n#[ignore]\nfn a() {}\n")
    assert fails("tests/src/a.rs", '    #[ignore = "slow"]\n')


def main():
    root = Path(__file__).resolve().parents[2]
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=root, stdout=subprocess.PIPE, check=True).stdout.decode().split("\0")
    found, remarks = [], []
    for name in sorted(set(filter(None, listed)) - GENERATED):
        path = root / name
        if not path.is_file():
            continue
        data = path.read_bytes()
        if b"\0" in data:
            continue
        bad, near = problems(name, data.decode(errors="replace"))
        found += bad
        remarks += near
    for remark in remarks:
        print(f"sources: {remark}")
    for problem in found:
        print(f"sources: {problem}", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
