from pathlib import Path

import pytest

from openflan.catalog.holdout import HeldOutSplit, check_base, hold_out, lineage
from openflan.catalog.load import Catalog, load_catalog
from openflan.errors import CatalogError, LeakageError
from tests.catalog.toys import write_catalog


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    return load_catalog(
        write_catalog(
            tmp_path,
            ("entails", "nli", ("encyclopedia",)),
            ("same", "paraphrase"),
            ("passage", "reading_comprehension", ("encyclopedia",)),
            ("story", "reading_comprehension_commonsense"),
            ("feeling", "sentiment"),
        )
    )


def test_held_out_barred_and_shared_text_leave_tuning(catalog: Catalog) -> None:
    split = hold_out(catalog, ["nli"])
    assert [task.name for task in split.evaluated] == ["entails"]
    assert [task.name for task in split.train] == ["feeling", "story"]
    reasons = dict(split.excluded)
    assert "barred" in reasons["same"]
    assert "encyclopedia" in reasons["passage"]


def test_the_papers_rule_looks_at_clusters_only(catalog: Catalog) -> None:
    assert "passage" in [task.name for task in hold_out(catalog, ["nli"], rule="paper").train]


@pytest.mark.parametrize("cluster", ["nli", "paraphrase", "reading_comprehension", "sentiment"])
def test_no_task_is_on_both_sides_or_lost(catalog: Catalog, cluster: str) -> None:
    split = hold_out(catalog, [cluster])
    train, evaluated = {t.name for t in split.train}, {t.name for t in split.evaluated}
    excluded = {name for name, _ in split.excluded}
    assert not train & evaluated and not train & excluded and not evaluated & excluded
    assert train | evaluated | excluded == set(catalog.tasks)


def test_a_split_that_leaks_cannot_be_built(catalog: Catalog) -> None:
    task = catalog.task
    with pytest.raises(LeakageError, match="training task same: is in paraphrase"):
        HeldOutSplit((task("same"),), (task("entails"),), ("nli",), ("paraphrase",), (), "paper", lineage(catalog))
    with pytest.raises(LeakageError, match="shares source text with entails: passage from encyclopedia"):
        HeldOutSplit((task("passage"),), (task("entails"),), ("nli",), ("paraphrase",), (), "strict", lineage(catalog))
    with pytest.raises(LeakageError, match="is held out or barred"):
        hold_out(catalog, ["nli"], train_clusters=["paraphrase", "sentiment"])


def test_a_base_model_that_was_tuned_on_what_is_held_out_is_refused(catalog: Catalog) -> None:
    split = hold_out(catalog, ["nli"])
    with pytest.raises(LeakageError) as raised:
        check_base("some/model", ["entails", "same", "passage", "feeling", "story"], ["sentiment"], catalog, split)
    told = {problem.where: problem.what for problem in raised.value.problems}
    assert list(told) == ["base model some/model", "task entails", "task passage", "task same"]
    assert told["task entails"] == "is evaluated" and told["task same"] == "is in paraphrase"
    assert told["task passage"].startswith("shares source text with entails: passage from encyclopedia")
    check_base("some/model", ["feeling", "story", "of_another_catalog"], ["sentiment"], catalog, split)
    with pytest.raises(LeakageError, match="cluster paraphrase: is held out or barred"):
        check_base("some/model", ["of_another_catalog"], ["paraphrase"], catalog, split)
    check_base("some/model", ["passage"], [], catalog, hold_out(catalog, ["nli"], rule="paper"))


def test_lineage_is_closed_over_the_catalog(tmp_path: Path) -> None:
    catalog = load_catalog(
        write_catalog(
            tmp_path,
            ("questions", "nli", ("passages",)),
            ("passages", "reading_comprehension", ("articles", "questions")),
            ("articles", "summarization"),
            ("feeling", "sentiment"),
        )
    )
    assert lineage(catalog)["questions"]["articles"] == ("questions", "passages", "articles")
    split = hold_out(catalog, ["nli"])
    assert [task.name for task in split.train] == ["feeling"]
    assert (
        dict(split.excluded)["articles"] == "shares source text with questions: questions from passages from articles"
    )


@pytest.mark.parametrize(
    ("ours", "place"),
    [
        ('hub = "toy/feeling"', "toy/feeling"),
        ('rows_of = "feeling"\nobtain = "by hand"', "the rows of feeling"),
        ('hub = "toy/feeling"\nconfig = "other"', ""),
    ],
)
@pytest.mark.parametrize("held_out", ["nli", "sentiment"])
def test_tasks_that_read_the_same_rows_are_never_on_both_sides(
    tmp_path: Path, ours: str, place: str, held_out: str
) -> None:
    folder = write_catalog(tmp_path, ("mine", "nli"), ("feeling", "sentiment"), ("story", "misc"))
    text = (folder / "mine.toml").read_text(encoding="utf-8")
    (folder / "mine.toml").write_text(text.replace('hub = "toy/mine"', ours), encoding="utf-8")
    catalog = load_catalog(folder)
    other, evaluated = ("feeling", "mine") if held_out == "nli" else ("mine", "feeling")
    told = f"shares source text with {evaluated}: both read {place}" if place else None
    assert dict(hold_out(catalog, [held_out]).excluded).get(other) == told
    assert other in [task.name for task in hold_out(catalog, [held_out], rule="paper").train]


def test_the_papers_clusters_and_corpora_bar_each_other() -> None:
    catalog = load_catalog("flan")

    def out(*clusters: str) -> dict[str, str]:
        return dict(hold_out(catalog, clusters).excluded)

    assert "qnli" in out("nli")["squad_v1"] and "qnli" in out("nli")["squad_v2"]
    assert "record" in out("reading_comprehension_commonsense")["cnn_dailymail"]
    for parent in ("reading_comprehension", "commonsense"):
        assert {"record", "cosmos_qa"} <= out(parent).keys()
    assert {task.name for task in catalog.in_cluster("paraphrase")} <= out("nli").keys()
    assert {task.name for task in catalog.in_cluster("nli")} <= out("paraphrase").keys()
    assert "wnli" in out("coreference")


def test_nothing_to_hold_out_or_to_tune_on_is_an_error(catalog: Catalog) -> None:
    with pytest.raises(CatalogError, match="has no task"):
        hold_out(catalog, ["translation"])
    with pytest.raises(CatalogError, match="at least one cluster"):
        hold_out(catalog, [])
    with pytest.raises(CatalogError, match="no task to tune on"):
        hold_out(catalog, sorted({c for t in catalog.tasks.values() for c in t.clusters}))


@pytest.mark.parametrize("name", ["flan", "world"])
def test_every_cluster_of_the_built_in_catalogs_can_be_held_out(name: str) -> None:
    catalog = load_catalog(name)
    for cluster in catalog.clusters:
        split = hold_out(catalog, [cluster])
        assert split.train and split.evaluated
