#!/usr/bin/env python3
"""Runs every test of the workspace and ends with `N passed, M failed` over all test programs.

A test that cannot do its work on this machine says `not run: WHAT (WHY)` on a line of its own,
which is repeated before the summary. It does not count as passed, and where `EVORING_MUST_RUN` is set
(as `make verify` does) it counts as failed.

Arguments are handed to `cargo test` (a filter, `-p PACKAGE`, `-- --nocapture`).
The exit status is 0 only if something ran and nothing failed.
"""

import os
import re
import subprocess
import sys
import time

RESULT = re.compile(r"^test result: \w+\. (\d+) passed; (\d+) failed; (\d+) ignored")
FAILED = re.compile(r"^test (.+) \.\.\. FAILED")
NOT_RUN = re.compile(r"^not run: .+")
PROGRAM = re.compile(r"^\s+(?:Running|Doc-tests) (.+?)(?: \(.*\))?$")


class Tally:
    """Counts what the lines of `cargo test` report."""

    def __init__(self):
        self.passed = self.failed = self.ignored = 0
        self.failures = []
        self.not_run = []
        self.program = ""

    def read(self, line):
        if found := RESULT.match(line):
            passed, failed, ignored = map(int, found.groups())
            self.passed += passed
            self.failed += failed
            self.ignored += ignored
        elif found := FAILED.match(line):
            self.failures.append(f"{found.group(1)} ({self.program})")
        elif found := NOT_RUN.match(line):
            self.not_run.append(line)
        elif found := PROGRAM.match(line):
            self.program = found.group(1)


def finish(tally, status, seconds):
    """Prints the closing lines and returns the exit status."""
    if tally.failures:
        print("\nfailed:")
        for failure in tally.failures:
            print(f"  {failure}")
    failed = tally.failed
    if status != 0 and failed == 0:
        # A compile error, a crashed test program, an interrupt.
        print(f"\ncargo test ended with exit status {status} before all tests could report; see above")
        failed = 1
    if tally.ignored:
        print(f"\n{tally.ignored} ignored (a test that is not run proves nothing; see ops/tidy)")
    if tally.not_run:
        must_run = bool(os.environ.get("EVORING_MUST_RUN"))
        print(f"\n{len(tally.not_run)} skipped" + (" (a failure, as EVORING_MUST_RUN is set)" if must_run else ""))
        for line in tally.not_run:
            print(line)
        # The test itself had to end well to say so.
        tally.passed -= len(tally.not_run)
        failed += len(tally.not_run) if must_run else 0
    if tally.passed == 0 and failed == 0:
        print("\nno test ran")
        failed = 1 if len(sys.argv) == 1 else 0
    print(f"\n== tests: {'FAILED' if failed else 'ok'} ({seconds:.0f} s)")
    print(f"{tally.passed} passed, {failed} failed", flush=True)
    return 1 if failed else 0


def main():
    cargo = os.environ.get("CARGO", "cargo")
    command = [cargo, "test", "--workspace", "--locked", "--no-fail-fast", *sys.argv[1:]]
    tally = Tally()
    began = time.monotonic()
    print("== tests", flush=True)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace") as run:
        try:
            for line in run.stdout:
                print(line, end="", flush=True)
                tally.read(line.rstrip("\n"))
        except KeyboardInterrupt:
            pass  # cargo got it too, and ends
    return finish(tally, run.returncode, time.monotonic() - began)


if __name__ == "__main__":
    sys.exit(main())
