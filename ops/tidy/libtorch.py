#!/usr/bin/env python3
"""Fails if a program other than the executor links libtorch, read from its dynamic section.

Looks into target/debug, or into the folder given; run it after a workspace build,
since that is when Cargo unifies features.
"""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

WITHOUT = ["evoring", "evoring-coordinator", "evoring-worker"]
# Shows that the check can see libtorch where it is.
WITH = ["evoring-executor"]
LIBTORCH = re.compile(r"\(NEEDED\).*\[(lib(?:torch|c10)[^\]]*)\]")


def linked(program):
    """The libtorch libraries that `program` asks the loader for."""
    command = ["readelf", "--dynamic", "--wide", str(program)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode != 0 or "Error" in done.stderr:
        raise OSError(f"{program} cannot be read ({done.stderr.strip()}); build the workspace first")
    return LIBTORCH.findall(done.stdout)


def problems(folder, without, required):
    found = [f"{name} links {', '.join(libraries)}" for name in without if (libraries := linked(folder / name))]
    found += [f"{name} does not link libtorch; is this check still looking at the right thing?" for name in required if not linked(folder / name)]
    return found


def selftest():
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        empty = folder / "empty.c"
        empty.write_text("int main(void) { return 0; }\n")
        compiler = ["c++", "-x", "c", str(empty)]
        subprocess.run([*compiler, "-shared", "-Wl,-soname,libtorch_cpu.so", "-o", str(folder / "libtorch_cpu.so")], check=True)
        subprocess.run([*compiler, "-o", str(folder / "clean")], check=True)
        libraries = ["-Wl,--no-as-needed", f"-L{folder}", "-ltorch_cpu"]
        subprocess.run([*compiler, "-o", str(folder / "heavy"), *libraries], check=True)
        assert not problems(folder, ["clean"], ["heavy"])
        assert problems(folder, ["heavy"], [])
        assert problems(folder, [], ["clean"])
        try:
            problems(folder, ["absent"], [])
        except OSError:
            return
        raise AssertionError("a missing program passed")


def main():
    root = Path(__file__).resolve().parents[2]
    target = Path(os.environ.get("CARGO_TARGET_DIR", root / "target"))
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else target / "debug"
    try:
        found = problems(folder, WITHOUT, WITH)
    except OSError as error:
        found = [str(error)]
    for problem in found:
        print(f"libtorch: {problem}", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
