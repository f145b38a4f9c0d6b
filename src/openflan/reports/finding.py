"""What a run found, in one plain sentence per held-out cluster, with what a sceptic would ask next.

Takes a `Run`, gives `Finding`s. Read next: `page.py`.
"""

from dataclasses import dataclass
from typing import Literal

from openflan.evaluation import statistics
from openflan.evaluation.statistics import LEVEL
from openflan.reports.arms import cluster_words, in_order, style
from openflan.reports.numbers import count, p_value, percent, points, points_interval
from openflan.reports.reading import Difference, Measured, Run

Verdict = Literal["higher", "lower", "not shown", "not tested"]
"""`not shown`: the interval includes zero, or p is not below `LEVEL`. `not tested`: there is no interval."""

BASELINES = ("untuned", "untuned_completion")


@dataclass(frozen=True, slots=True)
class Finding:
    """What one run says about one held-out cluster."""

    run: str
    cluster: str
    difference: Difference | None
    sentence: str
    remarks: tuple[str, ...]
    """What limits the sentence: the harder baseline, chance, multiple comparisons, seen tasks."""

    @property
    def verdict(self) -> Verdict:
        return "not tested" if self.difference is None else verdict(self.difference)


def verdict(difference: Difference) -> Verdict:
    """Which way an interval points; `evaluation.statistics.reading` says when it points nowhere."""
    if difference.low is None or difference.high is None:
        return "not tested"
    return statistics.reading(difference.low, difference.high, difference.p)


def findings(run: Run) -> list[Finding]:
    """One finding for each cluster the run evaluated."""
    return [_finding(run, cluster) for cluster in _clusters(run)]


def reading(difference: Difference) -> str:
    """The verdict in a table's words; a difference that does not survive correction says so."""
    words = {"higher": "higher", "lower": "lower", "not shown": "no difference shown", "not tested": "not tested"}
    weak = verdict(difference) in ("higher", "lower") and difference.p_holm is not None and difference.p_holm >= LEVEL
    return words[verdict(difference)] + (", not after Holm" if weak else "")


def describe(difference: Difference) -> str:
    """A difference in one clause: points, interval, n.

    >>> describe(Difference(arm="tuned", against="untuned", cluster="nli", mean=0.124, low=0.08, high=0.166, n=600))
    '+12.4 points (95 % interval +8.0 to +16.6, n = 600)'
    """
    aside = [f"95 % interval {points_interval(difference.low, difference.high)}"] if difference.low is not None else []
    aside += [f"n = {count(difference.n)}"] if difference.n is not None else []
    return f"{points(difference.mean)} points" + (f" ({', '.join(aside)})" if aside else "")


def versus(difference: Difference) -> str:
    """What is compared: `Instruction-tuned against untuned`."""
    return difference.label or f"{style(difference.arm).title} against {style(difference.against).title.lower()}"


def split_title(run: Run, cluster: str) -> str:
    """A cluster's name, with the run's where the run held out more than that cluster."""
    return cluster_words(cluster) if run.held_out in ((), (cluster,)) else f"{cluster_words(cluster)} ({run.name})"


def detectable(difference: Difference) -> str:
    """What the sample could have shown, as a clause; empty where the run did not compute it."""
    if difference.smallest_detectable is None:
        return ""
    return f"the smallest effect this sample could have shown is about {percent(difference.smallest_detectable)} points"


def main_arm(run: Run) -> str:
    """The arm the run is about: `tuned`, or else the first that is compared with something, or else the first."""
    compared = [difference.arm for difference in run.cluster_differences]
    return "tuned" if "tuned" in run.arms else next(iter([*compared, *in_order(run.arms)]), "tuned")


def _clusters(run: Run) -> tuple[str, ...]:
    return run.clusters or tuple(dict.fromkeys(d.cluster for d in run.differences if d.cluster)) or run.held_out


def _finding(run: Run, cluster: str) -> Finding:
    arm = main_arm(run)
    compared = {d.against: d for d in run.cluster_differences if (d.arm, d.cluster) == (arm, cluster)}
    first = next((compared[name] for name in (*BASELINES, *compared) if name in compared), None)
    own = _score(run, arm, cluster)
    if first is None:
        where = (
            f"{style(arm).title} scores {percent(own.mean)} on {cluster_words(cluster)}"
            if own
            else cluster_words(cluster)
        )
        return Finding(run.name, cluster, None, f"{where}.", (*_seen(run, cluster), *_level(own)))
    others = [compared[name] for name in in_order(compared) if name != first.against]
    remarks = [*_seen(run, cluster), *(text for d in others if (text := _against(run, d))), *_level(own)]
    remarks += [text for text in (_correction(first, len(run.cluster_differences)),) if text]
    return Finding(run.name, cluster, first, _sentence(run, first, own), tuple(remarks))


def _seen(run: Run, cluster: str) -> tuple[str, ...]:
    tasks = {task for arm in run.arms.values() if cluster in arm.clusters for task in arm.tasks}
    seen = [task for task in run.seen if task in tasks]
    return (f"It was tuned on {', '.join(seen)}: that is no zero-shot result.",) if seen else ()


def _sentence(run: Run, difference: Difference, own: Measured | None) -> str:
    where = cluster_words(difference.cluster)
    base = _score(run, difference.against, difference.cluster)
    scores = f"{percent(base.mean)} to {percent(own.mean)}" if base and own else ""
    subject = "Instruction tuning" if difference.arm == "tuned" else style(difference.arm).title
    match verdict(difference):
        case "higher" | "lower" as way:
            verb = {"higher": "raised", "lower": "lowered"}[way]
            said = f"{subject} {verb} {where}" + (f" from {scores}" if scores else "") + f": {describe(difference)}."
        case "not shown":
            said = f"No difference shown on {where}" + (f": {scores}, " if scores else ": ") + describe(difference)
            said += f"; {detectable(difference)}." if detectable(difference) else "."
        case "not tested":
            said = f"{where.capitalize()}" + (f" went from {scores}: " if scores else ": ")
            said += f"{describe(difference)}, without an interval: nothing is claimed."
    return said


def _against(run: Run, difference: Difference) -> str:
    base = _score(run, difference.against, difference.cluster)
    level = f" ({percent(base.mean)})" if base else ""
    name = {
        "untuned_completion": "the untuned model asked in its own best style",
        "untuned": "the untuned model given the same instructions",
    }.get(difference.against, style(difference.against).title.lower())
    match verdict(difference):
        case "higher":
            return f"It is above {name}{level}: {describe(difference)}."
        case "lower":
            return f"It stays below {name}{level}: {describe(difference)}."
        case "not shown":
            return f"No difference shown from {name}{level}: {describe(difference)}."
        case "not tested":
            return f"Against {name}{level}: {describe(difference)}, without an interval."


def _level(own: Measured | None) -> tuple[str, ...]:
    if own is None or own.mean is None:
        return ()
    remarks: list[str] = []
    if own.n and own.low is not None and own.low == own.high:
        why = f"all {count(own.n)} items scored alike" if own.n > 1 else "there is one item"
        unseen = percent(statistics.most_unseen(own.n))
        remarks.append(
            f"Its interval has no width because {why}, which leaves room for other scores on up to {unseen} % of items "
            "like these."
        )
    if own.chance is not None and own.low is not None and own.low <= own.chance:
        below = own.high is not None and own.high < own.chance
        where = "below" if below else "not shown to be above"
        remarks.append(f"Its {percent(own.mean)} is {where} chance ({percent(own.chance)}).")
    if own.majority is not None and (own.mean if own.low is None else own.low) <= own.majority:
        remarks.append(f"Always giving the most frequent answer would score {percent(own.majority)}.")
    return tuple(remarks)


def _correction(difference: Difference, comparisons: int) -> str:
    if verdict(difference) not in ("higher", "lower") or difference.p_holm is None or difference.p_holm < LEVEL:
        return ""
    p = p_value(difference.p_holm)
    return f"Corrected for the {comparisons} comparisons of this run ({p}, Holm), it does not stand."


def _score(run: Run, arm: str, cluster: str) -> Measured | None:
    return run.arms[arm].clusters.get(cluster) if arm in run.arms else None
