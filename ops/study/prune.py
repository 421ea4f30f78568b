#!/usr/bin/env python3
"""The study of `evolve.prune`: five seeds of the example job for the rows `default` and `paper`.

    python3 ops/study/prune.py target/release/evoring OUT [--presets default,paper] [--seeds 31,32,33,34,35]

Runs what is missing in OUT, then prints the tables of docs/results.md. The seeds were used for
nothing else; how the hyper-parameters were chosen is told there.
"""

import argparse
import itertools
import json
import re
import statistics
import subprocess
import sys
from pathlib import Path

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "prune-fashion.toml"
PRESETS = {
    "default": {},
    # The paper's row is reported, not compared after fine-tuning: no rivals.
    "paper": {"l1_widths": "false", "l1_allocations": "0", "random": "false", "full_extra": "false"},
}


def job(preset, seed):
    text = EXAMPLE.read_text()
    fields = {"seed": str(seed), "preset": f'"{preset}"', **PRESETS[preset]}
    for field, value in fields.items():
        text, count = re.subn(rf"(?m)^{field} = .*$", f"{field} = {value}", text, count=1)
        assert count == 1, f"{EXAMPLE.name} has no field {field}"
    return text


def run(evoring, out, preset, seed):
    folder = out / f"{preset}-{seed}"
    if not (folder / "report.json").exists():
        out.mkdir(parents=True, exist_ok=True)
        file = out / f"{preset}-{seed}.toml"
        file.write_text(job(preset, seed))
        print(f"running {file.name}", file=sys.stderr, flush=True)
        with open(out / f"{preset}-{seed}.log", "w") as log:
            subprocess.run([evoring, "run", file, "--workers", "2", "--out", folder], check=True, stdout=log, stderr=log)
    report = json.loads((folder / "report.json").read_text())
    return {row["name"]: row for row in report["result"]["rows"]}


def spread(values):
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.2f} ± {deviation:.2f}"


def sign_flip(differences):
    """Exact two-sided sign-flip test of mean 0."""
    observed = abs(sum(differences))
    flips = [abs(sum(s * d for s, d in zip(signs, differences))) for signs in itertools.product((1, -1), repeat=len(differences))]
    return sum(flip >= observed - 1e-12 for flip in flips) / len(flips)


def table(preset, runs):
    print(f"\n### `{preset}`\n\n| Net | Parameters | Times smaller | Test accuracy, % | each seed |\n|---|---|---|---|---|")
    for name in runs[0]:
        rows = [run[name] for run in runs]
        accuracies = [100 * row["accuracy"] for row in rows]
        each = ", ".join(f"{accuracy:.2f}" for accuracy in accuracies)
        parameters = round(statistics.mean(row["parameters"] for row in rows))
        smaller = statistics.mean(row["compression"] for row in rows)
        print(f"| {name} | {parameters:,} | {smaller:.2f} | {spread(accuracies)} | {each} |")


def differences(runs):
    better_l1 = [max(run["l1_widths_before"]["accuracy"], run["l1_best_before"]["accuracy"]) for run in runs]
    better_tuned = [max(run["l1_widths_after"]["accuracy"], run["l1_best_after"]["accuracy"]) for run in runs]
    accuracy = lambda name: [run[name]["accuracy"] for run in runs]
    questions = [
        ("before fine-tuning: evolved − better L1", accuracy("compressed_before"), better_l1, "≥ +1.5"),
        ("before fine-tuning: evolved − random search", accuracy("compressed_before"), accuracy("random_before"), "≥ +5"),
        ("after: evolved − full net", accuracy("compressed_after"), accuracy("full"), "≥ −1.5"),
        ("after: evolved − full net with the same extra epochs", accuracy("compressed_after"), accuracy("full_extra"), "≥ −1.5"),
        ("after: evolved − L1 at its widths", accuracy("compressed_after"), accuracy("l1_widths_after"), "≥ 0"),
        ("after: evolved − L1 at the best allocation", accuracy("compressed_after"), accuracy("l1_best_after"), "≥ 0"),
        ("after: evolved − better L1 of each seed", accuracy("compressed_after"), better_tuned, "≥ 0"),
    ]
    print("\n| Paired difference, points | Mean ± deviation | asked | sign-flip p |\n|---|---|---|---|")
    for name, ours, theirs, asked in questions:
        values = [100 * (a - b) for a, b in zip(ours, theirs)]
        print(f"| {name} | {spread(values)} | {asked} | {sign_flip(values):.3f} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("evoring")
    parser.add_argument("out", type=Path)
    parser.add_argument("--presets", default="default,paper")
    parser.add_argument("--seeds", default="31,32,33,34,35")
    arguments = parser.parse_args()
    seeds = [int(seed) for seed in arguments.seeds.split(",")]
    for preset in arguments.presets.split(","):
        runs = [run(arguments.evoring, arguments.out, preset, seed) for seed in seeds]
        table(preset, runs)
        if preset == "default":
            differences(runs)


if __name__ == "__main__":
    main()
