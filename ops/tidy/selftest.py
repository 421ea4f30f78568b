#!/usr/bin/env python3
"""Shows that every tidy check fails on bad input: a check that cannot fail checks nothing."""

import sys
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parent))

import arrows  # noqa: E402
import libtorch  # noqa: E402
import sources  # noqa: E402

if __name__ == "__main__":
    for check in (arrows, libtorch, sources):
        check.selftest()
    print("arrows, libtorch and sources each fail on bad input")
