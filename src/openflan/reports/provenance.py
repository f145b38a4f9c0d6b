"""How a run came about: its split, what its stages kept, the command that repeats it, versions and cost.

Takes a `Run`, gives pairs of words. Read next: `grids.py`.
"""

import shlex
import tomllib
from collections.abc import Iterator, Mapping
from typing import Any, cast

from openflan.reports.figures import curve_points
from openflan.reports.numbers import count
from openflan.reports.reading import Run, items, mapping

_COST = ("seconds", "cost", "tokens", "flops", "memory")


def split_facts(run: Run) -> list[tuple[str, str]]:
    """What is on which side, by which rule."""
    split = run.split
    if not split:
        return []
    rules = {
        "strict": "strict: no task of a held-out or barred cluster, nor one made from the same source text",
        "paper": "paper: no task of a held-out or barred cluster; shared source text is not looked at",
    }
    rows = [
        ("Held out", ", ".join(map(str, items(split.get("held_out"))))),
        ("Barred with it", ", ".join(map(str, items(split.get("barred")))) or "nothing"),
        ("Rule", rules.get(str(split.get("rule")), str(split.get("rule", "")))),
        ("Evaluated", _listing(split.get("evaluated"))),
        ("Tuned on", _listing(split.get("train"))),
    ]
    return [(key, value) for key, value in rows if value]


def kept_facts(ledger: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Stage to what it kept, dropped and shortened."""
    totals: dict[str, list[int]] = {}
    for stage, _, entry in entries(ledger):
        sums = totals.setdefault(stage, [0, 0, 0])
        sums[0] += int(entry.get("kept", 0))
        for place, kind in ((1, "dropped"), (2, "shortened")):
            sums[place] += sum(int(mapping(r).get("count", 0)) for r in mapping(entry.get(kind)).values())
    words = ("kept", "dropped", "shortened")
    return [
        (
            stage,
            " · ".join(
                f"{number:,} {word}" for number, word in zip(sums, words, strict=True) if number or word == "kept"
            ),
        )
        for stage, sums in totals.items()
    ]


def entries(ledger: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """(stage, task, counts) of a ledger."""
    for stage, tasks in mapping(ledger.get("stages")).items():
        for task, entry in mapping(tasks).items():
            yield stage, task, mapping(entry)


def command(run: Run) -> str:
    """The command line that makes this run again."""
    given = run.env.get("command") or run.raw.get("command")
    if isinstance(given, list):
        given = " ".join(map(str, cast(list[Any], given)))
    if given:
        return str(given)
    again = f"--out {run.folder.name}-again"
    return f"{_evaluation(run)} {again}" if not run.held_out else f"openflan run {run.folder.name}/recipe.toml {again}"


def _evaluation(run: Run) -> str:
    """The `openflan evaluate` of a model that was only scored, from its recipe."""
    recipe = _parse_toml(run.recipe)
    asked = mapping(recipe.get("evaluation"))
    options: dict[str, Any] = {
        "model": recipe.get("model", "MODEL"),
        "tasks": ",".join(map(str, items(run.split.get("evaluated")))) or "TASKS",
        "catalog": ",".join(map(str, items(recipe.get("catalogs")))),
        "data-root": recipe.get("data_root"),
        "limit": asked.get("items"),
        "shots": ",".join(map(str, items(asked.get("shots")))),
        "max-new-tokens": asked.get("max_new_tokens"),
        "seed": recipe.get("seed"),
        "world-seed": recipe.get("world_seed"),
    }
    given = [f"--{name} {shlex.quote(str(value))}" for name, value in options.items() if value not in (None, "", "all")]
    own_style = ["--completion"] if "model_completion" in items(recipe.get("arms")) else []
    return " ".join(["openflan evaluate", *given, *own_style])


def run_facts(run: Run) -> list[tuple[str, str]]:
    """Model, seeds, fingerprint, versions and cost."""
    recipe = _parse_toml(run.recipe)
    facts: dict[str, str] = {}
    for key in ("model", "seed", "seeds"):
        if key in recipe:
            facts[key.capitalize()] = str(recipe[key])
    if run.fingerprint:
        facts["Fingerprint"] = run.fingerprint
    xs, _ = curve_points(run.steps)
    if xs:
        facts["Tuning steps"] = count(int(xs[-1]))
        facts |= _tuning_cost(run)
    env = dict(_flatten(run.env))
    skipped = {"command", "seed", "model", "fingerprint"}
    cost = {k: v for k, v in env.items() if k.split(".")[0] in _COST}
    facts |= {_label(k): v for k, v in env.items() if k not in cost and k.split(".")[0] not in skipped}
    facts |= {_label(k): v for k, v in cost.items()}
    return list(facts.items())


def _tuning_cost(run: Run) -> dict[str, str]:
    timings = [mapping(step.get("timing")) for step in run.steps]
    seconds = sum(timing.get("seconds") or 0 for timing in timings)
    totals = {"Tuning tokens": sum(step.get("tokens") or 0 for step in run.steps), "Tuning seconds": seconds}
    facts = {name: count(round(total)) for name, total in totals.items() if total}
    if seconds and any("waited_seconds" in timing for timing in timings):
        facts["Waited for data"] = f"{sum(timing.get('waited_seconds') or 0 for timing in timings) / seconds:.1%}"
    return facts


def _listing(value: Any) -> str:
    names = [str(name) for name in items(value)]
    return f"{len(names)}: {', '.join(names)}" if names else ""


def _label(key: str) -> str:
    words = key.replace("_", " ").split(".")
    return ", ".join(reversed(words)) if words[0] in _COST else " ".join(words[1:] or words)


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flatten(cast(Mapping[str, Any], value), f"{prefix}{key}.")
        elif value is not None and value != "":
            yield f"{prefix}{key}", ", ".join(map(str, items(value))) if isinstance(value, list) else _plain(value)


def _plain(value: Any) -> str:
    return (
        f"{value:,.3g}"
        if isinstance(value, float) and abs(value) < 100
        else f"{value:,.0f}"
        if isinstance(value, float)
        else str(value)
    )


def _parse_toml(text: str) -> Mapping[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return {}
