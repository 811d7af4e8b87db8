"""Reads HH at its full size with rlaif-data and with Python's `datasets`, in the same run.

    cargo build --release -p rlaif-data --example hh_speed
    python benches/peers/data_hh.py DATA_FOLDER [--file hh.jsonl.gz] [--repeat N]

DATA_FOLDER holds `hh/train.jsonl` with the columns prompt, chosen and rejected. Its rows are
repeated with new ids, as published (two whole dialogues a row), until there are 160,800 of them,
and gzipped; `--file` keeps the result for the next run. Needs the package `datasets`. Both sides run in a process of their own: seconds are counted from the first
line after the imports to the split, peak memory is the process's maximum resident set. `datasets`
starts from an empty cache, as on a first run.
"""

import argparse
import gzip
import itertools
import json
import os
import pathlib
import subprocess
import sys
import tempfile


PEER = """
import json, sys, time
import datasets
datasets.disable_progress_bars()
start = time.perf_counter()
data = datasets.load_dataset("json", data_files=sys.argv[1], split="train", cache_dir=sys.argv[2])
rows = len(data)
data = data.filter(lambda row: 100 < len(row["chosen"]) <= 500)
split = data.train_test_split(test_size=0.2, seed=42)
print(json.dumps({"rows": rows, "kept": len(data), "seconds": time.perf_counter() - start,
                  "version": datasets.__version__}))
"""


def build(folder: pathlib.Path, target: pathlib.Path, count: int) -> None:
    rows = [json.loads(line) for line in open(folder / "hh" / "train.jsonl", encoding="utf-8")]
    aside = target.with_suffix(".part")
    with gzip.open(aside, "wt", compresslevel=6, encoding="utf-8") as out:
        for number, row in zip(range(count), itertools.cycle(rows)):
            whole = {key: row["prompt"] + " " + row[key] for key in ("chosen", "rejected")}
            out.write(json.dumps({"id": f"row-{number}", **whole}, ensure_ascii=False) + "\n")
    aside.rename(target)


def measure(command: list[str], **more) -> dict:
    """The last line a process prints, as JSON, with its peak memory."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **more)
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        sys.exit(f"{command[0]} failed with {process.returncode}")
    return {**json.loads(output.strip().splitlines()[-1]), "peak_mb": usage.ru_maxrss / 1024}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    arguments.add_argument("folder", type=pathlib.Path)
    arguments.add_argument("--file", type=pathlib.Path)
    arguments.add_argument("--repeat", type=int, default=1)
    arguments.add_argument("--rows", type=int, default=160_800)
    arguments.add_argument("--rlaif", default="target/release/examples/hh_speed")
    options = arguments.parse_args()

    with tempfile.TemporaryDirectory() as scratch:
        file = options.file or pathlib.Path(scratch) / "hh.jsonl.gz"
        if not file.exists():
            build(options.folder, file, options.rows)
        print(f"{file.stat().st_size / 1e6:.1f} MB gzipped, {os.cpu_count()} cores")
        for number in range(options.repeat):
            # Into the page cache, so that neither side waits for the disk.
            file.read_bytes()
            ours = measure([options.rlaif, str(file)], stderr=subprocess.DEVNULL)
            cache = pathlib.Path(scratch) / f"cache-{number}"
            peer = measure([sys.executable, "-c", PEER, str(file), str(cache)])
            if (ours["rows"], ours["kept"]) != (peer["rows"], peer["kept"]):
                sys.exit(f"the two do not agree: {ours} and {peer}")
            for name, result in (("rlaif-data", ours), (f"datasets {peer['version']}", peer)):
                print(
                    f"{name:16} {result['seconds']:7.2f} s  {result['peak_mb']:7.0f} MiB  "
                    f"{result['rows']} rows, {result['kept']} kept"
                )
            print(
                f"ratio            {peer['seconds'] / ours['seconds']:7.2f} x faster, "
                f"{ours['peak_mb'] / peer['peak_mb']:.2f} x the memory"
            )


if __name__ == "__main__":
    main()
