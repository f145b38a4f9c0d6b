"""Exemplars never show the row itself, and depend on nothing but their names."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openflan.catalog.task import Task
from openflan.ledger import Ledger
from openflan.rendering.exemplars import STAGE, ExemplarSource, text_key
from openflan.rendering.render import ReadRow, read_columns, render
from openflan.sources.read import Row

TASK = Task.model_validate(
    {
        "name": "toy",
        "title": "Toy",
        "clusters": ("nli",),
        "licence": "none",
        "cite": "none",
        "form": "classification",
        "metrics": ("accuracy",),
        "group": "passage",
        "source": {"hub": "none"},
        "columns": {"passage": "passage", "claim": "claim", "number": "number"},
        "answer": {"options": ("yes", "no"), "gold": "label"},
        "template": [
            {"id": "plain", "inputs": "{{ passage }}\n{{ claim }}\n{{ options_ }}"},
            {"id": "words", "inputs": "Is it so: {{ claim }} {{ passage }}", "options": ("right", "wrong")},
        ],
    }
)
PLAIN, WORDS = TASK.templates


def rows(count: int, *, split: str = "train", start: int = 0) -> list[ReadRow]:
    made = [
        Row(f"{split}/{i}", {"passage": f"Passage {i}.", "claim": f"Claim {i}!", "number": i, "label": i % 2})
        for i in range(start, start + count)
    ]
    return read_columns(TASK, made, Ledger())


def row(row_id: str, passage: str, claim: str) -> ReadRow:
    fields = {"passage": passage, "claim": claim, "number": 0, "label": 0}
    return read_columns(TASK, [Row(row_id, fields)], Ledger())[0]


def shown(source: ExemplarSource, asked: ReadRow, count: int, template=PLAIN, ledger: Ledger | None = None):
    return source.before(render(TASK, asked, template), asked, template, count, ledger or Ledger())


def test_exemplars_are_answered_rows_through_the_same_template() -> None:
    train = {one.id: one for one in rows(20)}
    for template in TASK.templates:
        found = shown(ExemplarSource(TASK, list(train.values()), seed=0), rows(1, start=50)[0], 3, template)
        assert len(found.exemplars) == len(found.exemplar_rows) == 3
        for (inputs, targets), row_id in zip(found.exemplars, found.exemplar_rows, strict=True):
            expected = render(TASK, train[row_id], template)
            assert (inputs, targets) == (expected.inputs, expected.targets)
    assert found.exemplars[0][1] in ("right", "wrong")


def test_fixed_exemplars_are_the_same_for_all_rows_and_few_are_the_beginning_of_many() -> None:
    source = ExemplarSource(TASK, rows(30), seed=0)
    asked = rows(10, split="test", start=100)
    assert len({shown(source, one, 5).exemplars for one in asked}) == 1
    assert shown(source, asked[0], 2).exemplars == shown(source, asked[0], 5).exemplars[:2]
    assert shown(source, asked[0], 5).exemplar_rows != shown(source, asked[0], 5, WORDS).exemplar_rows
    other = ExemplarSource(TASK, rows(30), seed=1)
    assert shown(source, asked[0], 5).exemplars != shown(other, asked[0], 5).exemplars


@given(
    st.sets(st.integers(0, 19), min_size=1), st.randoms(use_true_random=False), st.sampled_from(["fixed", "per_item"])
)
def test_a_rows_exemplars_depend_neither_on_the_other_rows_nor_on_their_order(chosen, shuffle: random.Random, draw):
    asked = rows(20, split="test", start=100)
    alone = {one.id: shown(ExemplarSource(TASK, rows(30), seed=3, draw=draw), one, 4) for one in asked}
    subset = [asked[index] for index in chosen]
    shuffle.shuffle(subset)
    source = ExemplarSource(TASK, rows(30), seed=3, draw=draw)
    assert all(shown(source, one, 4) == alone[one.id] for one in subset)


def test_drawn_for_each_row_they_differ_by_row_count_and_seed() -> None:
    source = ExemplarSource(TASK, rows(30), seed=0, draw="per_item")
    asked = rows(10, split="test", start=100)
    assert len({shown(source, one, 3).exemplars for one in asked}) > 5
    assert shown(source, asked[0], 3).exemplars != shown(source, asked[0], 4).exemplars[:3]
    other = ExemplarSource(TASK, rows(30), seed=1, draw="per_item")
    assert any(shown(source, one, 3).exemplars != shown(other, one, 3).exemplars for one in asked)


@pytest.mark.parametrize("draw", ["fixed", "per_item"])
def test_where_rows_are_asked_and_shown_alike_none_meets_itself(draw) -> None:
    pool = rows(7)
    source = ExemplarSource(TASK, pool, seed=0, draw=draw)
    for one in pool:
        found = shown(source, one, 6)
        assert sorted(found.exemplar_rows) == sorted({other.id for other in pool} - {one.id})


@pytest.mark.parametrize("draw", ["fixed", "per_item"])
def test_a_row_that_repeats_the_asked_text_is_no_exemplar(draw) -> None:
    pool = [row("train/0", "A  cat sat", "It is a CAT."), *rows(2, start=5)]
    source, ledger = ExemplarSource(TASK, pool, seed=0, draw=draw), Ledger()
    found = shown(source, row("test/9", "a cat sat.", "it is a cat"), 3, ledger=ledger)
    assert sorted(found.exemplar_rows) == ["train/5", "train/6"]
    assert ledger.shortened[STAGE, "toy", "an exemplar repeats the row, the next one stands in"] == 1
    assert ledger.shortened[STAGE, "toy", "no more than 2 rows to take exemplars from"] == 1
    turned = shown(source, row("test/9", "It is a cat", "A cat sat"), 3)
    assert sorted(turned.exemplar_rows) == ["train/5", "train/6"]


def test_a_row_of_the_same_group_is_no_exemplar() -> None:
    source = ExemplarSource(TASK, [row("dev/1", "One passage.", "another claim"), *rows(1)], seed=0)
    assert shown(source, row("dev/2", "One passage.", "a claim"), 1).exemplar_rows == ("train/0",)


def test_the_same_text_is_not_shown_twice() -> None:
    twins = [row(f"train/{i}", f"Passage {i % 2}", "claim") for i in range(40)]
    assert len(shown(ExemplarSource(TASK, twins, seed=0), rows(1, start=9)[0], 5).exemplars) == 2


def test_without_other_rows_there_is_no_few_shot_example_and_it_is_counted() -> None:
    ledger = Ledger()
    (one,) = rows(1)
    assert shown(ExemplarSource(TASK, [], seed=0), one, 2, ledger=ledger) is None
    assert shown(ExemplarSource(TASK, [one], seed=0), one, 2, ledger=ledger) is None
    assert ledger.dropped[STAGE, "toy", "no row to take exemplars from"] == 2


def test_what_a_template_does_not_show_does_not_make_rows_differ() -> None:
    first, second = rows(1)[0], rows(1)[0]
    assert first.columns["number"] == 0
    second = ReadRow(
        "x", {**second.columns, "number": 7}, second.raw, second.options, second.gold, second.texts, second.group
    )
    assert text_key(TASK, first, PLAIN) == text_key(TASK, second, PLAIN)
