"""How a study's numbers were made: what its rows lost on the way, what was tuned, for how long, and with what.

What depends on content alone goes to study.json; seconds and versions go to made.json beside it.
"""

import functools
import json
import subprocess
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from openflan import artifacts
from openflan.ledger import Ledger
from openflan.studies.run import environment
from openflan.studies.settings import settings_files
from openflan.tuning.settings import Method

FLOPS_PER_PARAMETER = {"full": 6, "lora": 4, "soft_prompt": 4}
"""Of a token in training, forward and backward (Kaplan et al. 2020, §2.1): attention is left out. By method of tuning:
weights that stay as they are need no gradient of their own."""


def rows_lost(ledgers: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows dropped or shortened by stage and reason: in how many ledgers, and the least and most in one of them."""
    counts: dict[tuple[str, str, str], list[int]] = {}
    for ledger in map(Ledger.from_json, ledgers):
        own: Counter[tuple[str, str, str]] = Counter()
        for kind, lost in (("dropped", ledger.dropped), ("shortened", ledger.shortened)):
            for (stage, _, reason), count in lost.items():
                own[stage, kind, reason] += count
        for key, count in own.items():
            counts.setdefault(key, []).append(count)
    return [
        {"stage": stage, "what": kind, "reason": reason, "systems": len(found), "least": min(found), "most": max(found)}
        for (stage, kind, reason), found in sorted(counts.items())
    ]


def made(folders: Iterable[tuple[str, Method, Path]], settings_file: Path | None) -> dict[str, Any]:
    """Cost of all that was tuned in `folders` (base model, method, folder), the settings' commit, and versions.

    FLOPs are `FLOPS_PER_PARAMETER` times parameters times tokens; seconds are of the steps, summed over processes.
    """
    from openflan.models.shape import model_shape

    @functools.cache
    def size(model: str) -> int:
        return model_shape(model).parameters

    tuned = steps = tokens = flops = seconds = 0
    for model, method, folder in folders:
        for log in sorted(folder.rglob("steps.jsonl")):
            lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
            tuned, steps = tuned + 1, steps + len(lines)
            passed = sum(line["tokens"] for line in lines)
            tokens += passed
            flops += FLOPS_PER_PARAMETER[method] * size(model) * passed
            seconds += sum(line["timing"]["seconds"] for line in lines)
    return {
        "models_tuned": tuned,
        "steps": steps,
        "tokens": tokens,
        "flops": flops,
        "tuning_seconds": round(seconds),
        "settings": None if settings_file is None else frozen(settings_file),
        "environment": environment(),
    }


def frozen(file: Path) -> dict[str, Any]:
    """A settings file's name, SHA-256, and the commit that last changed it where it lies unchanged in a checkout.

    `extends`: the same of the file whose values it begins from, if any.
    """
    found: dict[str, Any] = {"file": file.name, "sha256": artifacts.file_sha256(file), "commit": None}
    if _git(file, "status", "--porcelain", "--", file.name) == "":
        found["commit"] = _git(file, "log", "-1", "--format=%H", "--", file.name) or None
    extended = settings_files(file)[1:]
    return found | ({"extends": frozen(extended[0])} if extended else {})


def _git(file: Path, *arguments: str) -> str | None:
    """What git says in the file's folder; None without git, or outside a checkout."""
    try:
        done = subprocess.run(["git", *arguments], cwd=file.parent, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None
