"""The micro-world's rows: reproducible, disjoint where they must be, balanced, and right."""

import itertools
import random
import tomllib
from collections import Counter
from functools import cache, partial
from importlib.resources import files
from typing import Any

import pytest
from jinja2 import Environment, StrictUndefined

from openflan.errors import CatalogError, SourceError
from openflan.world.language import (
    MEN,
    NEGATIVE_ADJECTIVES,
    NEGATIVE_OPINIONS,
    NUMBERS,
    PEOPLE,
    POSITIVE_ADJECTIVES,
    POSITIVE_OPINIONS,
    RELATIONS,
    SCRIPTS,
    SYNONYMS,
    TABLES,
    ZED,
    Fact,
    Realm,
    fill,
    kind_of,
    people,
    pronoun,
    statement,
)
from openflan.world.rows import GENERATORS, Row, generate

CLUSTERS = {
    "nli": 4,
    "paraphrase": 4,
    "sentiment": 5,
    "commonsense": 5,
    "closed_book_qa": 4,
    "reading_comprehension": 6,
    "reading_comprehension_commonsense": 3,
    "coreference": 4,
    "struct_to_text": 4,
    "translation": 4,
    "summarization": 4,
    "misc": 7,
}
TASKS = {
    file.name.removesuffix(".toml"): tomllib.loads(file.read_text(encoding="utf-8"))
    for file in sorted((files("openflan.world") / "tasks").iterdir(), key=lambda file: file.name)
    if file.name.endswith(".toml")
}
SPLITS = ("train", "dev", "test")
JINJA = Environment(undefined=StrictUndefined)
SCRIPTS_BY_NAME = {script.name: script for script in SCRIPTS}

every_generator = pytest.mark.parametrize("generator", sorted(GENERATORS))
every_task = pytest.mark.parametrize("name", sorted(TASKS))


@cache
def some_rows(generator: str, split: str, count: int = 60) -> tuple[Row, ...]:
    return tuple(generate(generator, split, count, seed=0))


def both_realms(generator: str) -> tuple[Row, ...]:
    return some_rows(generator, "train") + some_rows(generator, "test")


def fixed_options(task: dict[str, Any]) -> list[str] | None:
    options = task["answer"].get("options")
    return options if isinstance(options, list) else None


def chosen(row: Row) -> str:
    return row.get("choices", row.get("people"))[row["label"]]


def sentences(row: Row) -> str:
    """All text of a row, as one string."""
    return " ".join(value for value in row.values() if isinstance(value, str))


# ------------------------------------------------------------------------------------------------- all rows


@every_generator
def test_fewer_rows_are_a_prefix_of_more(generator: str) -> None:
    assert generate(generator, "dev", 7, seed=5) == generate(generator, "dev", 20, seed=5)[:7]


@every_generator
def test_rows_depend_on_seed_and_split(generator: str) -> None:
    assert generate(generator, "test", 10, seed=1) != generate(generator, "test", 10, seed=2)
    assert generate(generator, "test", 10, seed=1) != generate(generator, "dev", 10, seed=1)


@every_generator
def test_no_row_occurs_twice_whatever_the_order_of_its_choices(generator: str) -> None:
    for split, seed in itertools.product(SPLITS, (0, 1)):
        keys = [
            repr({**row, "choices": sorted(row.get("choices", [])), "label": 0})
            for row in generate(generator, split, 60, seed)
        ]
        assert len(set(keys)) == len(keys)


@every_generator
def test_dev_and_test_rows_are_disjoint_over_seeds(generator: str) -> None:
    def plain(split: str, seed: int) -> set[str]:
        return {
            repr(
                sorted(
                    (k, sorted(v) if isinstance(v, list) and k != "facts" else v)
                    for k, v in row.items()
                    if k != "label"
                )
            )
            for row in generate(generator, split, 60, seed)
        }

    assert not (plain("dev", 0) | plain("dev", 1)) & (plain("test", 0) | plain("test", 1))


@every_generator
def test_people_of_tuning_and_evaluation_are_disjoint(generator: str) -> None:
    for split, realm in (("train", Realm.TUNING), ("test", Realm.EVALUATION)):
        named = {
            word.strip('.,?!:"')
            for row in some_rows(generator, split)
            for word in (sentences(row) + " " + " ".join(map(str, row.get("choices", [])))).split()
        }
        assert named & set(PEOPLE) <= set(people(realm))


def test_facts_of_tuning_and_evaluation_are_disjoint() -> None:
    def facts(split: str) -> set[tuple[str, ...]]:
        rows = itertools.chain.from_iterable(some_rows(name, split) for name in GENERATORS)
        return {
            tuple(fact) for row in rows for fact in [*row.get("facts", []), *([row["about"]] if "about" in row else [])]
        }

    tuning, evaluation = facts("train"), facts("test") | facts("dev")
    assert tuning and evaluation and not tuning & evaluation
    assert {Fact(*fact).realm for fact in tuning} == {Realm.TUNING}
    assert {Fact(*fact).realm for fact in evaluation} == {Realm.EVALUATION}


@pytest.mark.parametrize("column", ["script", "subject", "word", "zed"])
def test_knowledge_asked_in_evaluation_is_never_asked_in_tuning(column: str) -> None:
    def asked(split: str) -> set[str]:
        names = [name for name in GENERATORS if name not in ("to_zed", "from_zed", "zed_check", "member", "facts_back")]
        rows = [row for name in names for row in some_rows(name, split) if column in row]
        return {f"{row.get('table', '')} {row[column]}" for row in rows}

    assert asked("train") and asked("test") and not asked("train") & asked("test")


@every_generator
def test_choices_are_different_and_the_label_is_one_of_them(generator: str) -> None:
    for row in both_realms(generator):
        options = row.get("choices", row.get("people"))
        if options is not None:
            assert len(options) >= 2
            assert len(set(options)) == len(options)
            assert 0 <= row["label"] < len(options)


@every_generator
def test_labels_are_balanced(generator: str) -> None:
    rows = some_rows(generator, "train", 300)
    if "label" not in rows[0]:
        pytest.skip("a text to write")
    if "choices" in rows[0] or "people" in rows[0]:
        expected = sum(1 / len(row.get("choices", row.get("people"))) for row in rows) / len(rows)
        first = sum(row["label"] == 0 for row in rows) / len(rows)
        assert abs(first - expected) < 0.1
    else:
        counts = Counter(row["label"] for row in rows)
        assert set(counts) == set(range(len(counts)))
        assert max(counts.values()) - min(counts.values()) <= 3


def test_unknown_generator_and_split_are_refused_with_a_hint() -> None:
    with pytest.raises(CatalogError, match="entailment"):
        generate("entailmnt", "train", 1, seed=0)
    with pytest.raises(CatalogError, match="test"):
        generate("entailment", "tset", 1, seed=0)


def test_an_exhausted_generator_says_how_many_rows_it_has() -> None:
    with pytest.raises(SourceError, match=r"has \d+ different train rows, not 100000"):
        generate("triple", "train", 100_000, seed=0)


# --------------------------------------------------------------------------------------------------- tasks


def test_every_cluster_has_its_tasks_and_every_generator_a_task() -> None:
    assert Counter(cluster for task in TASKS.values() for cluster in task["clusters"]) == CLUSTERS
    assert sorted(task["source"]["world"] for task in TASKS.values()) == sorted(GENERATORS)


@every_task
def test_task_is_complete(name: str) -> None:
    task = TASKS[name]
    assert task["name"] == name
    kinds = Counter(template.get("kind", "direct") for template in task["template"])
    assert kinds["direct"] >= 6
    assert kinds["inverted"] <= 2
    if "options" in task["answer"]:
        assert 1 <= kinds["completion"] <= 2
        listed = [t for t in task["template"] if t.get("kind", "direct") == "direct" and "options_" in t["inputs"]]
        assert kinds["direct"] - 2 <= len(listed) < kinds["direct"]


@every_task
def test_task_expressions_and_templates_hold_on_rows(name: str) -> None:
    task = TASKS[name]
    compiled = partial(JINJA.compile_expression, undefined_to_none=False)
    columns = {key: compiled(text) for key, text in task["columns"].items()}
    answer = {key: compiled(text) for key, text in task["answer"].items() if isinstance(text, str)}
    templates = [
        (template, JINJA.from_string(template["inputs"]), JINJA.from_string(template.get("targets", "{{ answer }}")))
        for template in task["template"]
    ]
    for row in (row for split in SPLITS for row in some_rows(task["source"]["world"], split)[:8]):
        values = {key: expression(**row) for key, expression in columns.items()}
        assert all(str(value).strip() for value in values.values())
        gold = answer["gold"](**row) if "gold" in answer else None
        options = fixed_options(task) or (answer["options"](**row) if "options" in answer else None)
        for template, inputs, targets in templates:
            words = template.get("options", options)
            right = answer["text"](**row) if words is None else words[gold]
            context = {**values, "answer": right, "options": words, "options_": "OPTIONS:"}
            asked = inputs.render(context)
            assert asked == asked.strip() != ""
            assert targets.render(context).strip()


@every_task
def test_task_has_the_rows_it_promises(name: str) -> None:
    source = TASKS[name]["source"]
    for split in SPLITS:
        assert len(generate(source["world"], split, source["rows"][split], seed=0)) == source["rows"][split]


# ------------------------------------------------------------------------------------------------- answers


def status(row: Row) -> str:
    """What the row's scene says of the fact in question."""
    relation, subject, _ = row["about"]
    if row["about"] in row["facts"]:
        return "true"
    same = [fact for fact in row["facts"] if fact[:2] == [relation, subject]]
    return "false" if same else "open"


@pytest.mark.parametrize("generator", ["entailment", "read_yes_no", "three_way", "read_maybe"])
def test_scene_decides_statements(generator: str) -> None:
    for row in both_realms(generator):
        assert ["true", "false", "open"][row["label"]] == status(row)


def test_scene_decides_denials() -> None:
    for row in both_realms("denial"):
        assert ["false", "true"][row["label"]] == status(row)
        assert "not" in row["hypothesis"]
    for row in both_realms("read_claims"):
        assert (row["label"] == 0) == ((status(row) == "true") != row["denied"])
        assert ("not" in row["claim"]) == row["denied"]


@pytest.mark.parametrize(
    "generator", ["read_claims", "fact_check", "job_claims", "review_claims", "who_claims", "pronoun_claims"]
)
def test_denied_claims_are_as_often_true_as_stated_ones(generator: str) -> None:
    cells = Counter((row["denied"], row["label"]) for row in some_rows(generator, "train", 400))
    assert len(cells) == 4
    assert min(cells.values()) > 70


@pytest.mark.parametrize(("generator", "position"), [("find_value", 2), ("find_subject", 1)])
def test_exactly_one_choice_answers_the_question(generator: str, position: int) -> None:
    for row in both_realms(generator):
        about = row["about"]
        assert chosen(row) == about[position]
        fitting = [
            fact
            for choice in row["choices"]
            for fact in row["facts"]
            if fact == [*about[:position], choice, *about[position + 1 :]]
        ]
        assert fitting == [about]


def test_picked_sentences_state_a_fact_of_the_scene_and_no_other_does() -> None:
    for generator in ("follows", "title_pick", "restate", "triple_pick"):
        for row in both_realms(generator):
            stated = {
                statement(random.Random(0), Fact(*fact), form)
                for fact in row["facts"]
                for form in range(len(RELATIONS[fact[0]].statements))
            }
            assert [choice for choice in row["choices"] if choice in stated] == [chosen(row)]


@pytest.mark.parametrize("generator", ["same_meaning", "triple_check"])
def test_changed_facts_are_other_facts(generator: str) -> None:
    for row in both_realms(generator):
        assert (row["label"] == 0) == (row["about"] == row["facts"][0])


def test_who_is_right_says_a_true_sentence() -> None:
    for row in both_realms("who_is_right"):
        said = dict(part.split(" says: ") for part in row["talk"].replace(". ", ".\n").split("\n"))
        stated = {
            statement(random.Random(0), Fact(*row["about"]), form)
            for form in range(len(RELATIONS[row["about"][0]].statements))
        }
        assert [name for name in row["people"] if said[name] in stated] == [chosen(row)]


def test_synonyms_mean_the_same() -> None:
    pairs = {frozenset(pair) for pair in SYNONYMS}
    for row in both_realms("synonym"):
        assert [choice for choice in row["choices"] if frozenset((row["word"], choice)) in pairs] == [chosen(row)]
    for row in both_realms("synonym_sentence"):
        assert (row["label"] == 0) == (frozenset(row["words"]) in pairs)


def test_tables_decide_questions_about_the_world() -> None:
    for row in both_realms("facts"):
        assert chosen(row) == TABLES[row["table"]].pairs[row["subject"]]
    for row in both_realms("facts_back"):
        pairs = TABLES[row["table"]].pairs
        assert [choice for choice in row["choices"] if pairs[choice] == row["value"]] == [chosen(row)]
    for row in both_realms("fact_check"):
        assert (row["label"] == 0) == ((TABLES[row["table"]].pairs[row["subject"]] == row["said"]) != row["denied"])
    for row in both_realms("fact_pick"):
        value = TABLES[row["table"]].pairs[row["subject"]].lower()
        assert [choice for choice in row["choices"] if f" {value} " in f" {choice.lower().strip('.')} "] == [
            chosen(row)
        ]


def test_text_and_table_together_decide_questions_about_people() -> None:
    for row in both_realms("at_work"):
        assert row["about"] in row["facts"]
        assert chosen(row) == TABLES[row["table"]].pairs[row["about"][2]]
    for row in both_realms("job_claims"):
        true = TABLES[row["table"]].pairs[row["about"][2]] == row["value"]
        assert (row["label"] == 0) == (true != row["denied"])
        assert ("not" in row["claim"]) == row["denied"]


def praised(text: str) -> bool | None:
    """Whether a review praises, read from its words; None if it says neither."""
    positive = any(mark in text for mark in (*(f"was {word}." for word in POSITIVE_ADJECTIVES), *POSITIVE_OPINIONS))
    negative = any(mark in text for mark in (*(f"was {word}." for word in NEGATIVE_ADJECTIVES), *NEGATIVE_OPINIONS))
    assert not (positive and negative)
    return positive if positive or negative else None


def test_words_of_reviews_decide_their_labels() -> None:
    for row in both_realms("review"):
        assert praised(row["review"]) == (row["label"] == 0)
    for row in both_realms("mood"):
        assert praised(row["text"]) == (row["label"] == 0)
        assert not any(f" {word}." in row["text"] for word in (*POSITIVE_ADJECTIVES, *NEGATIVE_ADJECTIVES))
    for row in both_realms("liked"):
        assert praised(row["review"]) is (True, False, None)[row["label"]]
    for row in both_realms("review_pick"):
        assert [choice for choice in row["choices"] if praised(choice) == (row["kind"] == "good")] == [chosen(row)]
    for row in both_realms("review_claims"):
        praise = any(word in row["claim"] for word in ("like", "good"))
        assert (row["label"] == 0) == ((praised(row["review"]) == praise) != (" not " in row["claim"]))


def outcomes(row: Row, person: str) -> set[str]:
    return {fill(effect, person) for effect in SCRIPTS_BY_NAME[row["script"]].effects}


def test_scripts_decide_what_comes_next_and_why() -> None:
    for row in both_realms("what_now"):
        assert [choice for choice in row["choices"] if choice in outcomes(row, row["person"])] == [chosen(row)]
    for generator, part in (("next", "effects"), ("cause", "causes")):
        for row in both_realms(generator):
            person = next(name for name in PEOPLE if name in row["sentence"].strip(".").split())
            right = {fill(pattern, person) for pattern in getattr(SCRIPTS_BY_NAME[row["script"]], part)}
            assert [choice for choice in row["choices"] if choice in right] == [chosen(row)]
    for row in both_realms("plausible"):
        assert (row["label"] == 0) == (row["scripts"][0] == row["scripts"][1])


def test_scripts_decide_who_did_it() -> None:
    def doer(row: Row) -> str:
        causes = SCRIPTS_BY_NAME[row["script"]].causes
        names = [name for name in PEOPLE if any(fill(cause, name) in row["story"] for cause in causes)]
        assert len(names) == 1
        return names[0]

    for row in both_realms("who_did"):
        assert chosen(row) == doer(row)
    for row in both_realms("who_claims"):
        assert (row["label"] == 0) == ((row["named"] == doer(row)) != row["denied"])
        assert (" not " in row["claim"]) == row["denied"]


def test_pronouns_decide_who_is_meant() -> None:
    def meant(row: Row) -> str:
        opening, rest = row["text"].split(". ", 1)
        man = rest.split()[0] in ("He", "His")
        return next(name for name in PEOPLE if name in opening.split() and (name in MEN) == man)

    for row in (*both_realms("pronoun"), *both_realms("whose")):
        assert chosen(row) == meant(row)
        assert len({name in MEN for name in row["people"]}) == 2
    for row in both_realms("pronoun_claims"):
        assert (row["label"] == 0) == ((row["named"] == meant(row)) != row["denied"])
    for row in both_realms("pronoun_pick"):
        assert chosen(row).startswith(f"{meant(row)} was ")
        assert " not " not in chosen(row)
    for row in both_realms("he_she"):
        assert chosen(row) == pronoun(row["person"])


def test_zed_is_translated_word_by_word() -> None:
    for row in (*both_realms("to_zed"), *both_realms("from_zed")):
        assert [ZED[word] for word in row["english"].split()] == row["zed"].split()
    for row in both_realms("zed_check"):
        assert (row["label"] == 0) == ([ZED[word] for word in row["english"].split()] == row["zed"].split())
    for row in both_realms("zed_word"):
        assert ZED[chosen(row)] == row["zed"]


def record(fact: list[str]) -> str:
    relation, subject, value = fact
    return f"{subject} | {relation} | {value}"


def test_written_texts_say_what_the_records_say() -> None:
    for row in both_realms("triple"):
        assert row["record"] == record(row["facts"][0])
        assert all(part in row["sentence"].lower() for part in (row["facts"][0][1].lower(), row["facts"][0][2]))
    for row in both_realms("triples"):
        assert row["records"].split("\n") == [record(fact) for fact in row["facts"]]
        assert row["text"].count(".") == len(row["facts"])


def test_summaries_are_about_their_text() -> None:
    for row in both_realms("title"):
        assert row["title"] == statement(random.Random(0), Fact(*row["facts"][0]), 0)
    for row in both_realms("about"):
        assert Counter(fact[1] for fact in row["facts"]).most_common(1)[0][0] == chosen(row)
    for row in both_realms("topic"):
        assert {RELATIONS[fact[0]].value_kind for fact in row["facts"]} == {chosen(row)}


def test_lists_are_read_right() -> None:
    for row in both_realms("word_kind"):
        assert {kind_of(word) for word in row["words"].split(", ")} == {chosen(row)}
    for row in both_realms("odd_one"):
        kinds = Counter(kind_of(word) for word in row["choices"])
        assert kinds[kind_of(chosen(row))] == 1
        assert len(kinds) == 2
    for row in both_realms("member"):
        assert (row["label"] == 0) == (row["word"] in row["words"].split(", "))
    for row in both_realms("count"):
        assert chosen(row) == NUMBERS[row["text"].count("the ")]
    for row in both_realms("chosen"):
        assert f"{row['person']} took the {chosen(row)}." in row["text"]
    for row in both_realms("question_type"):
        relation = RELATIONS[row["about"][0]]
        about_value = row["about"][2] in row["question"].lower().rstrip("?").split()
        assert chosen(row) == (relation.subject_kind if about_value else relation.value_kind)
