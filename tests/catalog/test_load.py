from pathlib import Path

import pytest

from openflan.catalog.holdout import hold_out
from openflan.catalog.load import load_catalog
from openflan.catalog.task import OF_OPTIONS
from openflan.errors import CatalogError
from openflan.evaluation.metrics import METRICS
from tests.catalog.toys import task_toml, write_catalog

CLUSTERS = 12


def test_the_paper_has_twelve_clusters_and_each_has_a_task() -> None:
    catalog = load_catalog("flan")
    assert len(catalog.clusters) == CLUSTERS
    assert all(catalog.in_cluster(name) for name in catalog.clusters)


def test_every_flan_task_has_ten_wordings_and_a_way_to_ask_an_untuned_model() -> None:
    for task in load_catalog("flan").tasks.values():
        direct, inverted = task.of_kind("direct"), task.of_kind("inverted")
        assert len(direct) + len(inverted) >= 10, task.name
        assert len(inverted) <= 4, task.name
        assert task.of_kind("completion"), task.name


def test_barring_is_mutual_between_paraphrase_and_nli() -> None:
    clusters = load_catalog("flan").clusters
    assert "paraphrase" in clusters["nli"].barred_with
    assert "nli" in clusters["paraphrase"].barred_with
    assert set(clusters["reading_comprehension_commonsense"].barred_with) == {"reading_comprehension", "commonsense"}


def test_all_problems_of_all_files_come_at_once(tmp_path: Path) -> None:
    write_catalog(tmp_path, ("good", "nli"))
    (tmp_path / "unknown_key.toml").write_text(task_toml("unknown_key").replace("licence", "lisence"))
    (tmp_path / "broken.toml").write_text("name = [")
    (tmp_path / "no_cluster.toml").write_text(task_toml("no_cluster", "nlli"))
    (tmp_path / "misnamed.toml").write_text(task_toml("other"))
    with pytest.raises(CatalogError) as caught:
        load_catalog(tmp_path)
    told = str(caught.value)
    assert "lisence: unknown key (did you mean licence" in told
    assert "broken.toml: not valid TOML" in told
    assert "no cluster 'nlli' (did you mean nli?)" in told
    assert "misnamed.toml" in told
    assert len(caught.value.problems) == 5  # the misspelt licence is unknown, and missing


def test_a_task_in_two_catalogs_is_refused(tmp_path: Path) -> None:
    one, two = write_catalog(tmp_path / "one", ("rte_toy", "nli")), write_catalog(tmp_path / "two", ("rte_toy", "nli"))
    with pytest.raises(CatalogError, match="already in"):
        load_catalog(one, two)


def test_unknown_names_bring_the_nearest() -> None:
    catalog = load_catalog("flan")
    with pytest.raises(CatalogError, match="did you mean rte"):
        catalog.task("rtee")
    with pytest.raises(CatalogError, match="did you mean coreference"):
        catalog.cluster("corefrence")
    with pytest.raises(CatalogError, match="no such folder"):
        load_catalog("nowhere")


def test_a_folders_clusters_stand_beside_the_papers(tmp_path: Path) -> None:
    (tmp_path / "clusters.toml").write_text('[triage]\ntitle = "triage"\nbarred_with = ["nli"]\n')
    write_catalog(tmp_path, ("tickets", "triage"), ("claims", "nli"))
    alone = load_catalog(tmp_path)
    assert {task.name for task in alone.tasks.values()} == {"tickets", "claims"}
    assert set(alone.clusters) == {*load_catalog("flan").clusters, "triage"}
    assert alone.clusters["nli"].barred_with == ("paraphrase", "triage")  # whichever of the two is held out
    (tmp_path / "clusters.toml").write_text(
        '[triage]\ntitle = "triage"\nbarred_with = ["nli"]\n[nli]\ntitle = "inference"\nbarred_with = ["triage"]\n'
    )
    for catalog in (load_catalog(tmp_path), load_catalog("flan", tmp_path), load_catalog(tmp_path, "flan")):
        assert set(catalog.clusters["nli"].barred_with) == {"paraphrase", "triage"}
    split = hold_out(load_catalog("flan", tmp_path), ["nli"])
    assert {"paraphrase", "triage"} <= set(split.barred)
    assert not {"tickets", "glue_mrpc"} & {task.name for task in split.train}
    (tmp_path / "clusters.toml").write_text('title = "triage"\n')
    with pytest.raises(CatalogError, match=r"clusters.toml: title: stands outside a cluster \(begin with its name"):
        load_catalog(tmp_path)
    (tmp_path / "clusters.toml").write_text('[triage]\ntitle = "triage"\nbarred_with = ["nlli"]\n')
    with pytest.raises(CatalogError, match=r"clusters.toml: triage.barred_with: no cluster 'nlli' \(did you mean nli"):
        load_catalog(tmp_path)


def test_names_and_splits_that_would_show_the_answer_are_refused(tmp_path: Path) -> None:
    write_catalog(tmp_path, ("toy", "nli"))
    file = tmp_path / "toy.toml"
    plain = file.read_text()
    file.write_text(plain.replace("[columns]\n", '[columns]\nanswer = "hypothesis"\noptions_ = "premise"\n'))
    with pytest.raises(CatalogError, match="columns answer, options_: templates know other things by these names"):
        load_catalog(tmp_path)
    file.write_text(plain.replace("[columns]\n", 'splits = { train = "all", dev = "all", test = "all" }\n[columns]\n'))
    with pytest.raises(CatalogError, match="train and test are the same rows"):
        load_catalog(tmp_path)


@pytest.mark.parametrize(
    ("splits", "shared"),
    [
        ('train = "train", dev = "train[:200]", test = "test"', "train and dev"),
        ('train = "train", test = "train[:10%]"', "train and test"),
        ('dev = "validation[:50]", test = "validation"', "dev and test"),
        ('train = "train+validation", dev = "train", test = "validation"', "train and dev"),
        ('train = "train[:10]+extra", dev = "train[:10]", test = "test"', "train and dev"),
        ('train = "train[:90%]", dev = "train[:90%]", test = "train[90%:]"', ""),
        ('train = "train", dev = "train", test = "train_b[:10]"', ""),
        ('train = "train[:80%]+more", dev = "train[80%:]", test = "validation"', ""),
    ],
)
def test_splits_that_share_rows_are_refused(tmp_path: Path, splits: str, shared: str) -> None:
    write_catalog(tmp_path, ("toy", "nli"))
    file = tmp_path / "toy.toml"
    file.write_text(file.read_text().replace("[columns]\n", f"splits = {{ {splits} }}\n[columns]\n"))
    if not shared:
        assert load_catalog(tmp_path).tasks
        return
    with pytest.raises(CatalogError, match=f"splits: {shared} share rows"):
        load_catalog(tmp_path)


def test_metrics_that_cannot_score_the_task_are_refused(tmp_path: Path) -> None:
    assert {name for name, measure in METRICS.items() if measure.needs_options} == OF_OPTIONS
    write_catalog(tmp_path, ("toy", "nli"))
    file = tmp_path / "toy.toml"
    plain = file.read_text().replace('metrics = ["accuracy"]', 'metrics = ["squad", "f1", "accuracy"]')
    file.write_text(plain.replace('options = ["yes", "no"]', 'options = ["yes", "no", "so"]'))
    with pytest.raises(CatalogError, match="metrics f1: need two options, the second being yes, not 3"):
        load_catalog(tmp_path)
    written = plain.replace('options = ["yes", "no"]\ngold = "label"', 'text = "label"')
    file.write_text(written.replace('form = "classification"', 'form = "generation"'))
    with pytest.raises(CatalogError, match="metrics accuracy, f1: need options, a generation task has none"):
        load_catalog(tmp_path)
    file.write_text(plain)
    assert load_catalog(tmp_path).task("toy").metrics == ("squad", "f1", "accuracy")
