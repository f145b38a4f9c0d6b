"""How long the mixture takes at the paper's size: every task blown up to 30,000 rows, cold and from the store of rows.

    python benchmarks/mixture.py --data-root DATA [--rows 30000] [--hold-out nli]

Rows are those of the data root, repeated with their words in another order until there are enough, so that lengths and
layouts are real and texts differ. Each measurement is a process of its own; times are wall-clock seconds, peak memory
is the resident memory of the largest process.
"""

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from openflan.sources.local import find_split, read_file

OPENFLAN = [sys.executable, "-m", "openflan"]


def shuffled(value: Any, rng: random.Random) -> Any:
    """The value with the words of every longer text in another order; labels and short texts stay."""
    if isinstance(value, str) and value.count(" ") > 6:
        words = value.split(" ")
        rng.shuffle(words)
        return " ".join(words)
    if isinstance(value, dict):
        return {key: shuffled(item, rng) for key, item in value.items()}
    return value


def blow_up(data_root: Path, target: Path, rows: int) -> int:
    """Write `target` with `rows` training rows for every task; returns how many tasks it has."""
    tasks = [folder for folder in sorted(data_root.iterdir()) if folder.is_dir() and find_split(folder, "train")]
    for folder in tasks:
        out = target / folder.name
        out.mkdir(parents=True)
        train = find_split(folder, "train")
        assert train is not None, "asked above"
        real = read_file(train)
        rng = random.Random(folder.name)
        with (out / "train.jsonl").open("w", encoding="utf-8") as file:
            for index in range(rows):
                row = real[index % len(real)]
                file.write(json.dumps(row if index < len(real) else shuffled(dict(row), rng)) + "\n")
        for split in ("validation", "test"):
            if (path := find_split(folder, split)) is not None:
                (out / path.name).symlink_to(path.resolve())
    return len(tasks)


def measure(command: list[str]) -> tuple[float, float]:
    """Seconds and peak memory (GB, the largest of the process and its workers) of one command."""
    before = time.perf_counter()
    subprocess.run(command, check=True)
    seconds = time.perf_counter() - before
    return seconds, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=30_000)
    parser.add_argument("--hold-out", default="nli")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        tasks = blow_up(options.data_root, root / "data", options.rows)
        os.environ["OPENFLAN_CACHE"] = str(root / "cache")
        print(f"{tasks} tasks of {options.rows:,} rows")
        for name in ("cold", "from the store"):
            out = root / name.replace(" ", "-")
            mix = [*OPENFLAN, "mix", "--hold-out", options.hold_out, "--data-root", str(root / "data")]
            seconds, memory = measure([*mix, "--examples", "1024", "--out", str(out), "--quiet"])
            print(f"first block of the mixture, {name}: {seconds:.1f} s, peak {memory:.2f} GB", flush=True)


if __name__ == "__main__":
    main()
