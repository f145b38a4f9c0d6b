"""The GPU part of docs/performance.md, from the files the other scripts left.

    python benchmarks/gpu/table.py [FOLDER]     # writes the page
    python benchmarks/gpu/table.py --print      # prints only

A benchmark without a file is shown as not measured yet; files of `--tiny` are passed over.
"""

import argparse
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common import FOLDER
from measure import write_section

KEY = "gpu"
TITLES = {
    "tuning": "Tuning, one GPU",
    "packing": "Layout of examples, one forward and backward pass",
    "scoring": "Scoring, zero-shot",
    "scoring-few-shot": "Scoring, few-shot",
    "fsdp": "Tuning sharded with FSDP2",
}
COLUMNS = {
    "target_tokens_per_second": "target tokens/s",
    "tokens_per_second": "tokens/s",
    "prompts_per_second": "prompts/s",
    "mfu": "of peak",
    "peak_mebibytes": "peak MiB",
    "gradient_differs_by": "gradient differs by",
}
NOT_YET = "Not measured yet."


def page(folder: Path) -> str:
    """All tables, those without measurements included."""
    records = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]
    parts: list[str] = []
    for benchmark, title in TITLES.items():
        found = [record for record in records if record["benchmark"] == benchmark and not record["tiny"]]
        parts += [f"### {title}", "", *(map(table, found) if found else [NOT_YET, ""])]
    return "\n".join(parts)


def table(record: dict[str, Any]) -> str:
    """One file's engines, the last of which is ours and is compared with."""
    engines = record["engines"]
    columns = {key: name for key, name in COLUMNS.items() if any(engine.get(key) for engine in engines.values())}
    speed = next((key for key in columns if key.endswith("_per_second")), None)
    measured = [engine for engine in engines.values() if speed in engine]
    base = median(measured[0][speed]) if measured else 1.0
    lines = [
        f"Shape {record['shape']}; {record['setting']['rounds']} rounds, medians (smallest to largest).",
        "",
        line(["engine", *columns.values(), f"x {measured[0]['name'] if measured else ''}"]),
        line(["---"] * (len(columns) + 2)),
    ]
    for engine in engines.values():
        if "failed" in engine:
            lines.append(line([engine["name"], f"failed ({engine['failed']})", *[""] * len(columns)]))
            continue
        cells = [shown(key, engine.get(key)) for key in columns]
        lines.append(line([engine["name"], *cells, f"{median(engine[speed]) / base:.2f}"]))
    device, versions = record["device"], record["versions"]
    said = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
    return "\n".join([*lines, "", f"{record['date']}; {device['name']}; {said}.", ""])


def shown(key: str, value: Any) -> str:
    if value is None:
        return ""
    if key == "gradient_differs_by":
        return f"{value:.1e}"
    if not isinstance(value, list):
        return f"{value:,.0f}"
    form = "{:.1%}" if key == "mfu" else "{:,.1f}"
    return f"{form.format(median(value))} ({form.format(min(value))} to {form.format(max(value))})"


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=FOLDER, help="of the JSON files")
    parser.add_argument("--print", action="store_true", help="print, and leave the page as it is")
    given = parser.parse_args()
    text = page(given.folder)
    if given.print:
        print(text)
    else:
        write_section(KEY, text)


if __name__ == "__main__":
    main()
