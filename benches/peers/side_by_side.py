"""Runs two programs in turn and compares what they print: shared by the comparisons in this folder."""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path


def parser(about: str, packages: str) -> argparse.ArgumentParser:
    """The arguments of every comparison; `packages` are those of the peer's interpreter."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("models", help="the folder that make_models.py wrote")
    parser.add_argument("--python", default=sys.executable, help=f"interpreter with {packages} (this one)")
    parser.add_argument("--rlaif", help="the rlaif binary, built with --release")
    parser.add_argument("--rounds", type=int, default=3, help="processes of either program")
    parser.add_argument("--threads", type=int, default=2)
    return parser


def run_json(command: list[str], threads: int) -> dict:
    """The JSON object on the last line that `command` prints; it runs with `threads` threads and no network."""
    limits = {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS")}
    environment = os.environ | limits | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
    except OSError as error:
        raise SystemExit(f"{command[0]} cannot be run: {error.strerror}")
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)}\nended with {done.returncode}:\n{done.stderr[-4000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def in_turn(commands: dict[str, list[str]], rounds: int, threads: int) -> dict[str, dict[str, float]]:
    """For each command the median of each number it reports, over `rounds` rounds in which every command runs once."""
    reports = {name: [] for name in commands}
    for _ in range(rounds):
        for name, command in commands.items():
            reports[name].append(run_json(command, threads))
    return {
        name: {key: statistics.median(r[key] for r in runs) for key in runs[0] if isinstance(runs[0][key], (int, float))}
        for name, runs in reports.items()
    }


def peak_memory_bytes() -> int:
    """The most memory this process has held (VmHWM)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise SystemExit("/proc/self/status has no VmHWM")


def print_table(header: list[str], rows: list[list]) -> None:
    """A Markdown table, a line at a time."""
    print("| " + " | ".join(header) + " |")
    print("|" + "---|" * len(header))
    for row in rows:
        print("| " + " | ".join(f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in row) + " |")
