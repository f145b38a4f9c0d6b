"""One HTML page from a report: no script, no font, no image from anywhere else; it opens offline and prints.

Takes a `Report`, gives the page's text. Everything from files is escaped; equal content gives equal text.
Read next: `report.py`.
"""

import re
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from openflan.reports import grids, provenance
from openflan.reports.arms import cluster_words, in_order, style
from openflan.reports.drawings import Drawing, drawings, overview_drawings
from openflan.reports.figures import VARIABLES, Width
from openflan.reports.finding import Finding, findings, main_arm, versus
from openflan.reports.numbers import BLANK, nats, percent, points
from openflan.reports.reading import Report, Run, items, mapping
from openflan.reports.samples import Answer, Asked, Item, pick

_EXEMPLARS_NOTE = (
    "Exemplars: how many a prompt has, on average where not all of those asked for fitted; they are other rows of the "
    "same task{}, read through the same template. "
)
WIDTHS: tuple[Width, Width] = ("wide", "narrow")


def render_page(report: Report) -> str:
    """The whole page as text."""
    found = [finding for run in report.runs for finding in findings(run)]
    zero_shot = all(run.zero_shot for run in report.runs)
    return fill(
        "report.html.j2",
        title=page_title(report),
        kicker="zero-shot on task clusters the model was not tuned on" if zero_shot else "scores on instructed tasks",
        lead=_lead(found),
        findings=[_finding_view(finding) for finding in found],
        notes=report.notes,
        overview=_overview(report) if len(report.runs) > 1 else None,
        runs=[
            _run_view(run, _anchor(index, run), 4 if len(report.runs) == 1 else 2)
            for index, run in enumerate(report.runs)
        ],
        arms=[
            {"title": style(arm).title, "meaning": style(arm).meaning or arm, "colour": colour_of(arm)}
            for arm in in_order(arm for run in report.runs for arm in run.arms)
        ],
        footer=_footer(report),
    )


def fill(template: str, **values: Any) -> str:
    """A page of the package's look: a template of `templates/` with these values and the style sheet as `css`."""
    environment = Environment(
        loader=PackageLoader("openflan.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    css = files("openflan.reports").joinpath("templates/report.css").read_text(encoding="utf-8")
    return environment.get_template(template).render(css=Markup(css), **values).strip() + "\n"


def page_title(report: Report) -> str:
    """What stands on top of the page."""
    if report.title:
        return report.title
    return (
        "Held out: " + " and ".join(cluster_words(c) for c in report.runs[0].held_out)
        if report.runs[0].held_out
        else report.runs[0].name
    )


def colour_of(arm: str) -> str:
    """An arm's colour as a CSS value that follows the page's scheme."""
    colour = style(arm).colour
    variable = VARIABLES.get(colour)
    return f"var({variable}, {colour})" if variable else colour


def _svgs(drawing: Drawing, name: str) -> list[Markup]:
    return [Markup(drawing.svg(name, width)) for width in WIDTHS]


def _finding_view(finding: Finding) -> dict[str, Any]:
    difference = finding.difference
    words = {
        "higher": "points",
        "lower": "points",
        "not shown": "points: no difference shown",
        "not tested": "points, not tested",
    }
    unit = "nothing to compare with" if difference is None else words[finding.verdict]
    if difference is not None:
        unit += f", against {style(difference.against).title.lower()}"
    return {
        "gain": BLANK if difference is None else points(difference.mean),
        "unit": unit,
        "tone": {"higher": "higher", "lower": "lower"}.get(finding.verdict, "unclear"),
        "sentence": finding.sentence,
        "remarks": finding.remarks,
    }


def _lead(found: Sequence[Finding]) -> str:
    differences = [finding.difference for finding in found if finding.difference is not None]
    if len(differences) < 2:
        return ""
    compared = list(dict.fromkeys(versus(difference).lower() for difference in differences))
    counts = {
        way: sum(finding.verdict == way for finding in found) for way in ("higher", "lower", "not shown", "not tested")
    }
    words = {
        "higher": "shown higher",
        "lower": "shown lower",
        "not shown": "no difference shown",
        "not tested": "not tested",
    }
    said = [f"{number} {words[way]}" for way, number in counts.items() if number]
    return f"{len(found)} held-out clusters: {', '.join(said)}; {', '.join(compared)}."


def _overview(report: Report) -> dict[str, Any]:
    drawn = {name: _svgs(drawing, f"overview-{name}") for name, drawing in overview_drawings(report).items()}
    return {"arms": [], "differences": [], **drawn, "scores": grids.overview_grid(report)}


def _run_view(run: Run, anchor: str, most_tasks: int) -> dict[str, Any]:
    shown = pick(run.folder, main_arm(run), most_tasks=most_tasks)
    return {
        "id": anchor,
        "title": "Held out: " + " and ".join(cluster_words(c) for c in run.held_out) if run.held_out else run.name,
        "findings": [_finding_view(finding) for finding in findings(run)],
        "figures": dict.fromkeys(("arms", "templates", "differences", "curve"), "")
        | {name: _svgs(drawing, f"{anchor}-{name}") for name, drawing in drawings(run).items()},
        "scores": grids.score_grid(run),
        "scores_caption": "Zero-shot score" if run.zero_shot else "Score",
        "scores_note": _scores_note(run),
        "differences": grids.difference_grid(run),
        "split": provenance.split_facts(run),
        "excluded": [
            (str(e.get("task", "")), str(e.get("reason", ""))) for e in map(mapping, items(run.split.get("excluded")))
        ],
        "kept": provenance.kept_facts(run.ledger),
        "dropped": grids.dropped_grid(run.ledger),
        "notes": [str(note) for note in items(run.ledger.get("notes"))],
        "samples": [_sample_view(sample) for sample in shown],
        "samples_note": _samples_note(run, shown),
        "command": provenance.command(run),
        "facts": provenance.run_facts(run),
        "recipe": run.recipe,
        "mixture": grids.mixture_grid(run.mixture),
    }


def _scores_note(run: Run) -> str:
    metrics = sorted(
        {measured.metric for arm in run.arms.values() for measured in arm.tasks.values() if measured.metric}
    )
    by_metric = {
        m: [t for t in run.tasks if any(a.tasks[t].metric == m for a in run.arms.values() if t in a.tasks)]
        for m in metrics
    }
    said = (
        metrics[0] if len(metrics) == 1 else "; ".join(f"{m} for {', '.join(tasks)}" for m, tasks in by_metric.items())
    )
    metric = f"Metric: {said}. " if said else ""
    exemplars = _EXEMPLARS_NOTE.format("" if run.seen else ", never tuned on") if run.has_exemplars else ""
    return f"{metric}{exemplars}A cluster's mean weighs its tasks equally; so does a task's mean its templates."


def _samples_note(run: Run, shown: Sequence[Item]) -> str:
    return (
        f"For {len({item.task for item in shown})} of {len(run.tasks)} tasks, an item that the arm "
        f"“{style(main_arm(run)).title}” got right and one it got wrong, where there is one. They are chosen by a "
        "hash of their ids, not by eye. Arms share a table only where they read exactly the same text."
    )


def _sample_view(item: Item) -> dict[str, Any]:
    return {
        "right": item.right,
        "verdict": "Right" if item.right else "Wrong",
        "task": item.task,
        "row_id": item.row_id,
        "asked": [_asked_view(asked) for asked in item.asked],
    }


def _asked_view(asked: Asked) -> dict[str, Any]:
    return {
        "template": asked.template,
        "prompt": asked.prompt,
        "prompt_sha": asked.prompt_sha,
        "arms": [style(answer.arm).title for answer in asked.answers],
        "options": [
            {
                "text": option,
                "gold": index in asked.gold,
                "cells": [_option_cell(answer, index) for answer in asked.answers],
            }
            for index, option in enumerate(asked.options)
        ],
        "references": asked.references,
        "written": [
            {
                "arm": style(a.arm).title,
                "text": a.prediction or "(nothing)",
                "value": percent(a.value),
                "reason": a.reason,
            }
            for a in asked.answers
        ],
    }


def _option_cell(answer: Answer, index: int) -> dict[str, Any]:
    share = answer.shares[index] if index < len(answer.shares) else None
    return {
        "nats": nats(answer.logprobs[index]) if index < len(answer.logprobs) else BLANK,
        "share": percent(share),
        "width": f"{100 * (share or 0):.1f}",
        "colour": colour_of(answer.arm),
        "chosen": answer.predicted == index,
    }


def _footer(report: Report) -> str:
    found = (mapping(run.env.get("packages")).get("openflan", run.env.get("openflan")) for run in report.runs)
    version = next((str(name) for name in found if name), "")
    made = f"Made by openflan {version}".strip()
    return (
        f"{made}. Beside this page: result.json with every number, samples.parquet with every answer, figures/ as PNG."
    )


def _anchor(index: int, run: Run) -> str:
    return f"run-{index + 1}-" + re.sub(r"[^a-z0-9]+", "-", run.name.lower()).strip("-")
