"""Figure 6: the number of clusters tuned on, in several orders; steps fixed, and steps that grow with the clusters."""

from collections.abc import Sequence
from typing import Any

from openflan.catalog.holdout import hold_out
from openflan.catalog.load import load_catalog
from openflan.evaluation.points import Replicate
from openflan.seeding import generator
from openflan.studies.settings import StudySettings
from openflan.studies.study import ALL, Compared, Plan, Reading, Study, System, baselines, readings_at

GROWING = "growing"


def plan(settings: StudySettings) -> Plan:
    """The first k clusters of each order are tuned on; 0 is the untuned model.

    With a fixed number of steps more clusters mean fewer examples of each. `growing` has steps in proportion to the
    clusters, so that it tells the number of clusters from the number of examples.
    """
    available = train_clusters(settings)
    counts = sorted({min(count, len(available)) for count in settings.counts})
    readings: list[Reading] = []
    models, seeds = settings.models, settings.seeds
    replicates = [Replicate(models[n % len(models)], seeds[n % len(seeds)], n) for n in range(settings.orders)]
    for replicate in replicates:
        order = order_of(available, settings, replicate.order)
        untuned = System(settings.recipe_of(replicate, "untuned", settings.together))
        readings += _at(0, replicate, untuned) + readings_at(GROWING, 0, replicate, untuned)
        for count in counts:
            # All of them is what other studies tune on too: named alike, it is tuned once.
            chosen: dict[str, Any] = {} if count == len(available) else {"train_clusters": sorted(order[:count])}
            # The schedule keeps its shape: a run that ended while it warms up would tell of that as well.
            share, tuning = count / len(available), settings.recipe.tuning
            shortened = {
                "steps": max(1, round(tuning.steps * share)),
                "warmup_steps": round(tuning.warmup_steps * share),
            }
            readings += _at(
                count, replicate, System(settings.recipe_of(replicate, "tuned", settings.together, **chosen))
            )
            recipe = settings.recipe_of(replicate, "tuned", settings.together, **chosen, tuning=shortened)
            readings += readings_at(GROWING, count, replicate, System(recipe))
    means = {ALL: "mean of the held-out clusters", GROWING: "mean, steps in proportion to the clusters"}
    alone = {name: name.replace("_", " ") for name in settings.together}
    others, beside = baselines(
        settings, [settings.together], besides=("untuned", "tuned"), replicates=replicates, places=(0, *counts)
    )
    compared = [Compared(series, series, against=0) for series in means] + [Compared(ALL, ALL, against=counts[0])]
    return Plan(means | alone | others, [*readings, *beside], compared)


def _at(count: int, replicate: Replicate, system: System) -> list[Reading]:
    """A series for each cluster, and one for their mean."""
    alone = [Reading(cluster, count, replicate, cluster, system) for cluster in system.recipe.hold_out]
    return [*alone, *readings_at(ALL, count, replicate, system)]


def train_clusters(settings: StudySettings) -> list[str]:
    """Clusters of the recipe that may be tuned on when `together` is held out: most tasks first, as in the paper."""
    catalog = load_catalog(*settings.recipe.catalogs)
    split = hold_out(catalog, settings.together, rule=settings.recipe.hold_out_rule)
    tasks = [cluster for task in split.train for cluster in task.clusters]
    wanted = set(tasks if settings.recipe.train_clusters is None else settings.recipe.train_clusters)
    return sorted(wanted & set(tasks), key=lambda name: (-tasks.count(name), name))


def order_of(available: Sequence[str], settings: StudySettings, number: int) -> list[str]:
    """Order 0 is the paper's; the others are drawn."""
    if number == 0:
        return list(available)
    drawn = generator(settings.report_seed, "orders", number).permutation(len(available))
    return [available[int(index)] for index in drawn]


STUDY = Study(
    name="clusters",
    figure=6,
    title="More clusters",
    question="Does tuning on more clusters help more on those held out?",
    axis="clusters tuned on",
    kind="numbers",
    grids=("together", "counts", "orders"),
    plan=plan,
)
