from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openflan.catalog.load import load_catalog
from openflan.catalog.task import Task
from openflan.errors import ConfigError, SourceError
from openflan.ledger import Ledger
from openflan.mixture.mixture import Mixture, MixtureSettings, TaskRows, rates, tuning_tasks, tuning_templates
from openflan.rendering.render import ReadRow
from tests.catalog.toys import write_catalog


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    return load_catalog(write_catalog(tmp_path_factory.mktemp("toys"), ("toy", "nli"))).task("toy")


def share(task: Task, name: str, count: int) -> TaskRows:
    columns = {"premise": "p", "hypothesis": "h"}
    rows = [ReadRow(f"train/{i}", columns, {}, ("yes", "no"), (0,), (), f"train/{i}") for i in range(count)]
    named = task.model_copy(update={"name": name})
    return TaskRows(named, rows, tuning_templates(named, MixtureSettings(), 0))


def mixture(task: Task, counts: dict[str, int], *, seed: int = 0, block_size: int = 100) -> Mixture:
    return Mixture({n: share(task, n, c) for n, c in counts.items()}, MixtureSettings(block_size=block_size), seed)


def test_rates_are_the_papers() -> None:
    found = rates({"small": 250, "capped": 3_000, "large": 30_000, "huge": 500_000}, MixtureSettings())
    assert found == pytest.approx(
        {"small": 250 / 9250, "capped": 3000 / 9250, "large": 3000 / 9250, "huge": 3000 / 9250}
    )
    flat = rates({"a": 10, "b": 1000}, MixtureSettings(temperature=1e9))
    assert flat["a"] == pytest.approx(0.5)
    with pytest.raises(SourceError):
        rates({"a": 0}, MixtureSettings())
    with pytest.raises(ConfigError, match=r"mixture\.temperature = 0\.01: too small"):
        rates({"a": 10, "b": 3_000}, MixtureSettings(temperature=0.01))


@settings(max_examples=30, deadline=None)
@given(
    st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 5000), min_size=1), st.integers(0, 9), st.integers(1, 40)
)
def test_any_window_keeps_the_proportions(task: Task, counts: dict[str, int], seed: int, blocks: int) -> None:
    mixed = mixture(task, counts, seed=seed)
    drawn = Counter(draw.task for block in range(blocks) for draw in mixed.block(block))
    for name, rate in mixed.rate.items():
        assert abs(drawn[name] - rate * 100 * blocks) <= 1


def test_no_row_repeats_before_its_task_is_used_up(task: Task) -> None:
    mixed = mixture(task, {"a": 37, "b": 400})
    draws = [
        draw for block in range(30) for draw in sorted(mixed.block(block), key=lambda d: d.ordinal) if draw.task == "a"
    ]
    assert [draw.ordinal for draw in draws] == list(range(len(draws)))
    assert len(draws) > 3 * 37
    for epoch in range(len(draws) // 37):
        rows = [draw.row for draw in draws[epoch * 37 : (epoch + 1) * 37]]
        assert sorted(rows) == list(range(37))
    assert [d.row for d in draws[:37]] != [d.row for d in draws[37:74]]


def test_templates_take_turns(task: Task) -> None:
    mixed = mixture(task, {"a": 1000})
    uses = Counter(draw.template for block in range(10) for draw in mixed.block(block))
    assert len(uses) == 2 and max(uses.values()) - min(uses.values()) <= 1


def test_a_block_is_a_pure_function_and_a_new_task_reshuffles_no_other(task: Task) -> None:
    before = mixture(task, {"a": 500, "b": 500})
    assert before.block(7) == before.block(7)
    after = mixture(task, {"a": 500, "b": 500, "c": 500})
    rows_before = [d.row for block in range(12) for d in before.block(block) if d.task == "a"]
    rows_after = [d.row for block in range(18) for d in after.block(block) if d.task == "a"]
    assert set(rows_before[:400]) == set(sorted_by_ordinal(before, "a", 400))
    assert sorted_by_ordinal(before, "a", 400) == sorted_by_ordinal(after, "a", 400)
    assert len(rows_after) > 400


def sorted_by_ordinal(mixed: Mixture, name: str, count: int) -> list[int]:
    draws = [d for block in range(20) for d in mixed.block(block) if d.task == name]
    return [d.row for d in sorted(draws, key=lambda d: d.ordinal)][:count]


def test_the_lock_names_rows_and_templates_by_content(task: Task) -> None:
    lock = mixture(task, {"a": 20, "b": 5}).lock(Ledger())
    assert lock == mixture(task, {"a": 20, "b": 5}).lock(Ledger())
    assert lock["tasks"]["a"]["rate"] == pytest.approx(0.8)
    assert mixture(task, {"a": 20, "b": 6}).lock(Ledger())["fingerprint"] != lock["fingerprint"]
    other = task.model_copy(update={"templates": (task.templates[0].model_copy(update={"inputs": "{{ premise }}!"}),)})
    assert mixture(other, {"a": 20, "b": 5}).lock(Ledger())["tasks"]["a"]["task_sha"] != lock["tasks"]["a"]["task_sha"]


def test_examples_carry_the_wording(task: Task) -> None:
    rows = {"a": share(task, "a", 10)}
    plain = Mixture(rows, MixtureSettings(block_size=4), 0, "no_template").examples(0, Ledger())
    assert {example.inputs for example in plain} == {"p\nh"}
    assert len(plain) == 4


def few_shot(task: Task, counts: dict[str, int], shots: dict[int, float]) -> Mixture:
    def rows(name: str, count: int) -> TaskRows:
        made = [
            ReadRow(
                f"train/{i}",
                {"premise": f"p{i // 2}", "hypothesis": f"h{i}"},
                {},
                ("yes", "no"),
                (0,),
                (),
                f"p{i // 2}",
            )
            for i in range(count)
        ]
        named = task.model_copy(update={"name": name})
        return TaskRows(named, made, tuning_templates(named, MixtureSettings(inverted=True), 0))

    settings = MixtureSettings(block_size=60, shots=shots)
    return Mixture({name: rows(name, count) for name, count in counts.items()}, settings, 0)


def test_any_window_keeps_the_shares_of_shots_for_every_task_and_template(task: Task) -> None:
    mixed = few_shot(task, {"a": 300, "b": 600}, {0: 0.5, 3: 0.3, 1: 0.2})
    for first in (0, 7):
        drawn = [draw for block in range(first, first + 10) for draw in mixed.block(block)]
        for key in {(draw.task, draw.template) for draw in drawn}:
            shots = Counter(draw.shots for draw in drawn if (draw.task, draw.template) == key)
            for number, share in ((0, 0.5), (3, 0.3), (1, 0.2)):
                assert abs(shots[number] - share * shots.total()) <= 3


def test_exemplars_are_other_rows_of_the_task_in_its_own_words(task: Task) -> None:
    mixed = few_shot(task, {"a": 40, "b": 40}, {0: 0.5, 3: 0.5})
    ledger = Ledger()
    examples = mixed.examples(0, ledger)
    assert Counter(len(e.exemplars) for e in examples).keys() == {0, 3} and not ledger.dropped
    for example in examples:
        group = int(example.row_id.removeprefix("train/")) // 2
        assert all(int(row.removeprefix("train/")) // 2 != group for row in example.exemplar_rows)
        asked = {inputs.split()[0] for inputs, _ in example.exemplars}
        assert asked <= {"Write"} if example.kind == "inverted" else "Write" not in asked
    plain = Mixture(mixed.tasks, mixed.settings, 0, "no_template").examples(0, Ledger())
    assert {inputs.count("\n") for e in plain for inputs, _ in e.exemplars} == {1}
    assert examples == few_shot(task, {"a": 40, "b": 40}, {0: 0.5, 3: 0.5}).examples(0, Ledger())


def test_a_new_task_changes_no_exemplar_of_another(task: Task) -> None:
    def of_a(counts: dict[str, int]) -> list[object]:
        mixed = few_shot(task, counts, {0: 0.5, 3: 0.5})
        shown = [e for block in range(8) for e in mixed.examples(block, Ledger()) if e.task == "a"]
        return sorted({(e.row_id, e.template, e.exemplar_rows) for e in shown if e.exemplars})

    before, after = of_a({"a": 20}), of_a({"a": 20, "b": 20})
    assert before and set(after) <= set(before)


def test_a_row_with_no_other_to_show_is_left_out_and_counted(task: Task) -> None:
    ledger = Ledger()
    examples = few_shot(task, {"a": 2}, {0: 0.5, 3: 0.5}).examples(0, ledger)  # both rows are of one group
    assert not any(e.exemplars for e in examples)
    assert len(examples) + ledger.dropped["exemplars", "a", "no row to take exemplars from"] == 60


def test_a_zero_shot_mixture_keeps_its_name(task: Task) -> None:
    assert "shots" not in mixture(task, {"a": 5}).lock(Ledger())["settings"]
    locks = [few_shot(task, {"a": 5}, shots).lock(Ledger()) for shots in ({0: 0.5, 3: 0.5}, {0: 0.25, 3: 0.75})]
    assert locks[0]["settings"]["shots"] == {"0": 0.5, "3": 0.5} and locks[0]["fingerprint"] != locks[1]["fingerprint"]


def test_overlap_takes_out_only_rows_with_evaluated_text(task: Task, tmp_path: Path) -> None:
    from openflan.mixture.overlap import EvaluatedText, without_overlap

    def row(number: int, premise: str) -> ReadRow:
        return ReadRow(f"train/{number}", {"premise": premise, "hypothesis": "short"}, {}, (), (), (), "")

    long_text = "Once upon a time there was a king who had three daughters."
    ledger = Ledger()
    evaluated = EvaluatedText({"e": [[row(0, long_text), row(1, "a short one")]]})
    rows = [row(2, long_text.upper().replace(",", "")), row(3, long_text + " More."), row(4, "a short one")]
    assert [r.id for r in without_overlap("a", rows, evaluated, ledger)] == ["train/3", "train/4"]
    assert ledger.dropped.total() == 1


def test_a_few_templates_and_tasks_are_among_more_of_them(task: Task) -> None:
    of = [tuning_templates(task, MixtureSettings(templates_per_task=count), 0) for count in (1, 2, 99)]
    assert of[0][0].kind == "direct" and of[1][:1] == of[0]
    assert {one.id for one in of[2]} == {one.id for one in tuning_templates(task, MixtureSettings(), 0)}
    named = [task.model_copy(update={"name": f"t{i}", "clusters": (f"c{i % 3}",)}) for i in range(12)]
    few, more = (tuning_tasks(named, MixtureSettings(tasks_per_cluster=count), 0) for count in (1, 3))
    assert Counter(one.clusters[0] for one in few) == {"c0": 1, "c1": 1, "c2": 1}
    names = [{one.name for one in some} for some in (few, more)]
    assert len(more) == 9 and names[0] <= names[1]
    both = [*named, task.model_copy(update={"name": "other", "clusters": ("c9",)})]
    again = tuning_tasks(both, MixtureSettings(tasks_per_cluster=1), 0)
    assert {one.name for one in again} == names[0] | {"other"}
