"""Handmade run folders: small, complete, and with numbers that differ everywhere so that none can stand for another."""

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from openflan.artifacts import write_json, write_text

TASKS = {"follows": 0.5, "three_way": 1 / 3, "denial": 0.5}
TEMPLATES = ("follows_from", "must_be_true", "question", "conclude")
MOVES = {"untuned": 0.0, "untuned_completion": 0.27}


def unit(*names: object) -> float:
    """A number in 0..1 that only depends on the names."""
    return int(hashlib.sha256("/".join(map(str, names)).encode()).hexdigest()[:8], 16) / 0xFFFFFFFF


def measured(arm: str, task: str, chance: float, gain: float, n: int = 400) -> dict[str, Any]:
    scores = {
        t: round(
            min(0.98, chance + (gain if arm == "tuned" else MOVES.get(arm, 0.05)) + 0.1 * (unit(arm, task, t) - 0.4)), 4
        )
        for t in TEMPLATES
    }
    mean = sum(scores.values()) / len(scores)
    return {
        "metric": "accuracy", "n": n, "templates": len(TEMPLATES), "mean": mean,
        "std": math.sqrt(sum((s - mean) ** 2 for s in scores.values()) / (len(scores) - 1)),
        "best_dev": scores[TEMPLATES[1]], "best_dev_template": TEMPLATES[1], "by_template": scores,
        "low": mean - 0.041 - 0.01 * unit(task), "high": mean + 0.039 + 0.01 * unit(arm),
        "chance": chance, "majority": chance + 0.0123, "ties": 3, "near_ties": 5, "unscored": 0,
        "also": {"f1": mean - 0.0171},
    }  # fmt: skip


def difference(arm: str, against: str, cluster: str, mean: float, half: float, **more: Any) -> dict[str, Any]:
    within = {
        task: {"mean": mean + step, "low": mean + step - 2 * half, "high": mean + step + 2 * half,
               "p": 0.02, "p_holm": 0.06, "n": 400, "smallest_detectable": 2.8 * half}
        for task, step in zip(TASKS, (0.021, -0.013, -0.008), strict=True)
    }  # fmt: skip
    return {
        "arm": arm, "against": against, "cluster": cluster, "mean": mean, "low": mean - half, "high": mean + half,
        "p": 0.0004 if abs(mean) > half else 0.41, "p_holm": 0.0008 if abs(mean) > half else 0.82,
        "n": 1200, "smallest_detectable": 1.4 * half, "tasks": within, **more,
    }  # fmt: skip


def result(
    cluster: str = "nli", gain: float = 0.113, arms: Sequence[str] = ("untuned", "untuned_completion", "tuned")
) -> dict[str, Any]:
    table: dict[str, Any] = {}
    for arm in arms:
        tasks = {task: measured(arm, task, chance, gain) for task, chance in TASKS.items()}
        mean = sum(t["mean"] for t in tasks.values()) / len(tasks)
        own = {
            "mean": mean,
            "low": mean - 0.0261,
            "high": mean + 0.0257,
            "micro": mean - 0.0089,
            "n": 1200,
            "chance": 0.4444,
            "tasks": list(tasks),
        }
        table[arm] = {"tasks": tasks, "clusters": {cluster: own}}
    differences = [difference("tuned", "untuned", cluster, gain, 0.0331)] if "untuned" in arms else []
    if "untuned_completion" in arms:
        differences.append(difference("tuned", "untuned_completion", cluster, gain - 0.271, 0.0287))
    return {
        "format": 1, "fingerprint": hashlib.sha256(cluster.encode()).hexdigest()[:16], "held_out": [cluster],
        "arms": table, "differences": differences,
    }  # fmt: skip


def prompt(arm: str, number: int, options: Sequence[str]) -> str:
    if arm == "untuned_completion":
        return f"Mira gave the red lamp to Tom. Tom has lamp {number}? The answer is\n"
    listed = "\n".join(f"- {option}" for option in options)
    return f'Mira gave the red lamp to Tom.\n\nDoes it follow that "Tom has lamp {number}"?\n\nOPTIONS:\n{listed}\n'


def samples(cluster: str, arms: Sequence[str]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for arm in arms:
        for task in TASKS:
            options = ["yes", "no"] if task != "three_way" else ["yes", "no", "it is not possible to tell"]
            for number in range(8):
                logprobs = [-0.2 - 4 * unit(arm, task, number, option) for option in options]
                best, gold = logprobs.index(max(logprobs)), number % len(options)
                text = prompt(arm, number, options)
                rows.append({
                    "arm": arm, "task": task, "cluster": cluster, "split": "test", "row_id": f"test/{number}",
                    "group": f"story {number // 2}", "shots": 0, "options": options, "logprobs": logprobs,
                    "template": "plain" if arm == "untuned_completion" else TEMPLATES[number % 4],
                    "tokens": [len(option.split()) for option in options],
                    "prediction": options[best], "predicted": best, "gold": [gold], "references": [options[gold]],
                    "value": float(best == gold), "reason": "",
                    "prompt_sha": hashlib.sha256(text.encode()).hexdigest(), "prompt": text,
                })  # fmt: skip
    return rows


def write_run(folder: Path, numbers: dict[str, Any]) -> Path:
    """A complete run folder around the numbers of one result."""
    folder.mkdir(parents=True, exist_ok=True)
    cluster = numbers["held_out"][0]
    write_json(folder / "result.json", numbers)
    write_text(
        folder / "recipe.toml",
        f'model = "world:small-early"\nseed = 7\nhold_out = ["{cluster}"]\n\n[mixture]\nrate_cap = 3000\n',
    )
    excluded = [
        {"task": "synonym", "reason": "cluster paraphrase is barred with the held-out one"},
        {"task": "who_did", "reason": "shares source text with follows (stories)"},
    ]
    write_json(folder / "split.json", {
        "rule": "strict", "held_out": [cluster], "barred": ["paraphrase"], "evaluated": list(TASKS),
        "train": ["mood", "review", "title", "topic"], "excluded": excluded,
    })  # fmt: skip
    empty = {"empty answer": {"count": 12, "rows": ["train/7", "train/81"]}}
    cut = {"middle of the passage cut": {"count": 31, "rows": ["train/4"]}}
    stages = {
        "render": {"mood": {"kept": 2988, "dropped": empty, "shortened": {}}},
        "encode": {
            "title": {"kept": 3000, "dropped": {}, "shortened": cut},
            "topic": {"kept": 2500, "dropped": {}, "shortened": {}},
        },
    }
    write_json(folder / "ledger.json", {"stages": stages, "notes": ["topic: dev rows taken from train, 200 rows"]})
    write_json(folder / "env.json", {
        "command": f"openflan run --model world:small-early --hold-out {cluster} --seed 7", "python": "3.11.2",
        "packages": {"openflan": "0.1.0", "torch": "2.13.0"}, "device": "cpu",
        "seconds": {"tune": 14.2, "evaluate": 5.1},
    })  # fmt: skip
    lines = [
        {"step": step, "loss": 0.9 + 2.4 * math.exp(-step / 40) + 0.5 * unit("loss", step), "lr": 5e-4, "tokens": 8192}
        for step in range(1, 241)
    ]
    write_text(folder / "steps.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    rows = samples(cluster, list(numbers["arms"]))
    pl.DataFrame(rows).drop("prompt").write_parquet(folder / "samples.parquet")
    for arm in numbers["arms"]:
        kept = [
            {key: row[key] for key in ("task", "row_id", "template", "prompt")} for row in rows if row["arm"] == arm
        ]
        write_text(folder / "arms" / arm / "prompts.jsonl", "".join(json.dumps(record) + "\n" for record in kept))
    (folder / "DONE").touch()
    return folder


@pytest.fixture
def make_result() -> Callable[..., dict[str, Any]]:
    return result


@pytest.fixture
def make_run() -> Callable[..., Path]:
    return write_run


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    return write_run(tmp_path / "nli", result())


@pytest.fixture
def study_folder(tmp_path: Path) -> Path:
    """Three splits: a gain, nothing shown, a loss."""
    folder = tmp_path / "demo"
    runs: list[dict[str, Any]] = []
    for cluster, gain in (("nli", 0.113), ("sentiment", 0.0214), ("coreference", -0.0582)):
        numbers = result(cluster, gain)
        write_run(folder / f"hold-out-{cluster}", numbers)
        runs.append({"name": cluster, "folder": f"hold-out-{cluster}", "result": numbers})
    write_json(folder / "result.json", {"format": 1, "title": "Held-out clusters of the micro-world", "runs": runs})
    return folder
