from pathlib import Path

import pytest

from openflan.catalog.load import load_catalog
from openflan.catalog.task import Task
from openflan.errors import CatalogError, SourceError
from openflan.ledger import Ledger
from openflan.rendering.render import ReadRow, read_columns, render
from openflan.sources.read import Row
from tests.catalog.toys import write_catalog


@pytest.fixture
def task(tmp_path: Path) -> Task:
    return load_catalog(write_catalog(tmp_path, ("toy", "nli"))).task("toy")


def read(task: Task, **fields: object) -> ReadRow:
    row = {"premise": "It rains.", "hypothesis": " it is wet. ", "label": 0, **fields}
    return read_columns(task, [Row("train/0", row)], Ledger())[0]


def test_a_direct_template_asks_with_options_and_wants_the_gold_one(task: Task) -> None:
    example = render(task, read(task), task.templates[0])
    assert example.inputs == "It rains.\nDoes it follow that it is wet.\nOPTIONS:\n- yes\n- no"
    assert (example.targets, example.options, example.gold) == ("yes", ("yes", "no"), (0,))


def test_an_inverted_template_wants_the_text_and_is_not_scored(task: Task) -> None:
    example = render(task, read(task, label=1), task.templates[1])
    assert example.inputs == "Write a claim for which the answer is no: It rains."
    assert (example.targets, example.options, example.gold) == ("it is wet.", (), ())


def test_a_completion_template_has_words_of_its_own(task: Task) -> None:
    example = render(task, read(task, label=1), task.templates[2])
    assert (example.targets, example.options, example.gold) == ("False", ("True", "False"), (1,))


def test_the_ablations_show_the_row_without_words(task: Task) -> None:
    assert render(task, read(task), task.templates[1], "no_template").inputs == "It rains.\nit is wet."
    named = render(task, read(task), task.templates[0], "dataset_name")
    assert named.inputs == "[nli: A toy]\nIt rains.\nit is wet."
    assert named.targets == "yes"


def test_wording_and_options_can_be_taken_away_apart(task: Task) -> None:
    without = render(task, read(task), task.templates[0], "no_options")
    assert without.inputs == "It rains.\nDoes it follow that it is wet."
    assert (without.template, without.options) == (task.templates[0].id, ("yes", "no"))
    bare = render(task, read(task), task.templates[0], "no_template_options")
    assert bare.inputs == "It rains.\nit is wet.\n\nOPTIONS:\n- yes\n- no"
    assert bare.template == "no_template_options"


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"label": 2}, "label 2 is outside 0..1"),
        ({"label": -1}, "label -1 is outside 0..1"),
        ({"label": "maybe"}, "is not an index"),
        ({"hypothesis": None}, "hypothesis"),
        ({"label": None}, "gold is null"),
        ({"hypothesis": float("nan")}, "column hypothesis is null"),
        ({"label": float("nan")}, "gold is null"),
    ],
)
def test_a_row_that_does_not_fit_is_counted_with_its_id(task: Task, fields: dict[str, object], reason: str) -> None:
    ledger = Ledger()
    rows = [Row(f"train/{i}", {"premise": "a", "hypothesis": "b", "label": 0}) for i in range(3)]
    read_columns(task, [*rows, Row("train/9", {**rows[0].fields, **fields})], ledger)
    ((_, _, said),) = ledger.dropped
    assert reason in said
    assert ledger.examples["render", "toy", said] == ["train/9"]
    with pytest.raises(SourceError, match="1 of 4 rows dropped"):
        ledger.check("render")


def test_a_missing_column_names_the_columns_there_are(task: Task) -> None:
    ledger = Ledger()
    read_columns(task, [Row("train/0", {"sentence": "x", "label": 0})], ledger)
    ((_, _, said),) = ledger.dropped
    assert "column premise" in said and "label, sentence" in said


@pytest.mark.parametrize("name", ["dict", "range", "namespace"])
def test_what_jinja_brings_along_stands_in_for_no_missing_column(task: Task, name: str) -> None:
    ledger = Ledger()
    other = task.model_copy(update={"columns": {**task.columns, "premise": f"{name} | trim"}})
    fields = {"hypothesis": "b", "label": 0}
    (kept,) = read_columns(other, [Row("train/0", {name: "a", **fields}), Row("train/1", fields)], ledger)
    assert kept.columns["premise"] == "a"
    assert ledger.dropped.total() == 1


def test_few_drops_are_counted_and_pass(task: Task) -> None:
    ledger = Ledger()
    good = {"premise": "a", "hypothesis": "b", "label": 0}
    read_columns(task, [*(Row(f"train/{i}", good) for i in range(99)), Row("train/99", {**good, "label": 7})], ledger)
    ledger.check("render")
    assert ledger.kept["render", "toy"] == 99


@pytest.mark.parametrize(
    "inputs", ["{{ premise.__class__.__mro__ }}", "{{ 10 // (premise | length - 9) }}", "{{ range(10 ** 9) | list }}"]
)
def test_templates_cannot_reach_beyond_the_row_or_reckon_without_an_error(task: Task, inputs: str) -> None:
    bad = task.templates[0].model_copy(update={"inputs": inputs})
    with pytest.raises(CatalogError, match=r"toy: template follows\.inputs"):
        render(task, read(task), bad)


@pytest.mark.parametrize("own", [("one", "two"), "options[:2]", "options + ['more']"])
def test_a_templates_own_options_are_as_many_as_the_rows(task: Task, own: tuple[str, ...] | str) -> None:
    chosen = changed(task, options="many")
    template = task.templates[0].model_copy(update={"options": own})
    with pytest.raises(CatalogError, match=r"follows\.options: row train/0: \d options, the task has 3 for it"):
        render(chosen, read(chosen, many=["a", "b", "c"]), template)
    two = read(chosen, many=["a", "b"])
    assert own == "options + ['more']" or render(chosen, two, template).options in (own, two.options)


def test_the_trimmable_span_is_where_the_passage_stands(task: Task) -> None:
    marked = task.templates[0].model_copy(
        update={"inputs": "Read: {{ premise | trimmable }} And now: {{ hypothesis }}"}
    )
    example = render(task, read(task), marked)
    assert example.trimmable is not None
    start, end = example.trimmable
    assert example.inputs[start:end] == "It rains."
    assert example.inputs == "Read: It rains. And now: it is wet."


def dropped(task: Task, **fields: object) -> str:
    """The reason for which a row is not used."""
    ledger = Ledger()
    row = {"premise": "It rains.", "hypothesis": "so", "label": 0, **fields}
    assert not read_columns(task, [Row("train/0", row)], ledger)
    ((_, _, reason),) = ledger.dropped
    return reason


def changed(task: Task, *, columns: dict[str, str] | None = None, **answer: object) -> Task:
    return task.model_copy(
        update={
            "columns": {**task.columns, **(columns or {})},
            "answer": task.answer.model_copy(update=answer),
        }
    )


def test_what_a_filter_gives_one_by_one_is_a_list(task: Task) -> None:
    written = changed(task, columns={"all": "many | map('upper')"}, text="many | map('trim')", options=None, gold=None)
    found = read(written, many=[" a ", "b"])
    assert found.texts == ("a", "b") and found.columns["all"] == [" A ", "B"]


@pytest.mark.parametrize(
    ("answer", "fields", "reason"),
    [
        ({"text": "many", "options": None, "gold": None}, {"many": ["x", None]}, "answer holds a null"),
        ({"options": "many"}, {"many": ["x", None]}, "options holds a null"),
        ({"options": "many"}, {"many": {"text": ["x"], "label": ["y"]}}, "options is not a list of choices"),
        ({"options": "many"}, {"many": 7}, "options is not a list of choices"),
        ({"options": "[premise, nobody]"}, {}, "options is null"),
        ({"gold": "label"}, {"label": 0.5}, "gold 0.5 is not an index"),
        ({"grade": "score"}, {"score": float("nan")}, "grade is null"),
        ({"grade": "score"}, {"score": "nan"}, "grade 'nan' is not a number"),
        ({"grade": "scores[0]"}, {"scores": [float("inf")]}, "grade inf is not a number"),
        ({}, {"hypothesis": "hi \ud83d"}, "holds half of a surrogate pair, which is no character"),
        (
            {"gold": "label / zero"},
            {"zero": 0},
            "gold: division by zero; the row has hypothesis, label, premise, zero",
        ),
    ],
)
def test_one_odd_row_is_counted_and_not_guessed(
    task: Task, answer: dict[str, object], fields: dict[str, object], reason: str
) -> None:
    assert dropped(changed(task, **answer), **fields).startswith(reason)
