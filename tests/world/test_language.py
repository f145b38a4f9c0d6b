"""The grammar of the micro-world and the split of its facts."""

import random

import pytest

from openflan.world import language as lang
from openflan.world.language import Realm

REALMS = tuple(Realm)


def test_every_fact_belongs_to_one_realm_and_people_to_one_half() -> None:
    for name, relation in lang.RELATIONS.items():
        every = {(subject, value) for subject in relation.subjects for value in relation.values}
        stated = {
            realm: {(subject, value) for subject, values in lang.facts_of(realm, name).items() for value in values}
            for realm in REALMS
        }
        assert not stated[Realm.TUNING] & stated[Realm.EVALUATION]
        assert not stated[Realm.PRETRAINING] & (stated[Realm.TUNING] | stated[Realm.EVALUATION])
        assert set().union(*stated.values()) <= every
    tuning, evaluation = set(lang.people(Realm.TUNING)), set(lang.people(Realm.EVALUATION))
    assert not tuning & evaluation
    assert tuning | evaluation == set(lang.PEOPLE)
    assert len(tuning & set(lang.MEN)) == len(tuning & set(lang.WOMEN))


def test_the_split_does_not_drift() -> None:
    """Checkpoints and published rows depend on the split: these few values stand for all of it."""
    assert [lang.realm_of("possession", "Tom", thing).value[:4] for thing in lang.THINGS[:6]] == _POSSESSIONS_OF_TOM
    assert lang.people(Realm.TUNING)[:4] == _FIRST_TUNING_PEOPLE


_POSSESSIONS_OF_TOM = ["eval", "eval", "pret", "pret", "pret", "eval"]
_FIRST_TUNING_PEOPLE = ("Max", "Leo", "Dan", "Ben")


@pytest.mark.parametrize("realm", REALMS)
def test_nothing_said_of_a_scene_leaves_its_realm(realm: Realm) -> None:
    rng = random.Random(1)
    for _ in range(2000):
        facts = lang.scene(rng, realm)
        fact = rng.choice(facts)
        false, missing = lang.contradiction(rng, fact, facts), lang.unknown(rng, facts, realm)
        assert {each.realm for each in (*facts, false, missing)} == {realm}
        assert (false.relation, false.subject) == (fact.relation, fact.subject)
        assert false.value != fact.value
        assert (missing.relation, missing.subject) not in {(each.relation, each.subject) for each in facts}
        values = [(each.relation, each.value) for each in facts]
        subjects = [(each.relation, each.subject) for each in facts]
        assert len(set(values)) == len(set(subjects)) == len(facts)


@pytest.mark.parametrize("name", tuple(lang.RELATIONS))
def test_sentences_name_subject_and_value_and_questions_hide_the_answer(name: str) -> None:
    rng = random.Random(2)
    fact = lang.random_fact(rng, Realm.PRETRAINING, name)
    relation = lang.RELATIONS[name]
    for form in range(3):
        for say in (lang.statement, lang.denial, lang.yes_no_question):
            text = say(rng, fact, form)
            assert fact.subject in text
            assert fact.value in text
            assert text[0].isupper()
            assert text.endswith(("?", "."))
        assert fact.value not in lang.wh_question(rng, fact, form).lower().split()
        assert fact.subject not in lang.inverse_question(rng, fact, form)
    assert len(set(relation.statements)) == len(relation.statements) > 1


def test_kinds_are_disjoint() -> None:
    words = [word for kind in lang.KINDS.values() for word in kind]
    assert len(words) == len(set(words))
    assert all(word in lang.KINDS[lang.kind_of(word)] for word in words)


def test_knowledge_kept_for_evaluation_is_not_asked_elsewhere() -> None:
    for select in (lang.known_facts, lang.scripts, lang.synonyms, lang.zed_words, lang.review_things):
        kept, asked = set(map(str, select(Realm.EVALUATION))), set(map(str, select(Realm.TUNING)))
        assert kept
        assert len(asked) > len(kept)
        assert not kept & asked
        assert asked == set(map(str, select(Realm.PRETRAINING)))
    for table in lang.TABLES.values():
        assert len(table.subjects(Realm.EVALUATION)) >= 3


def test_reviews_and_meetings_mean_what_they_say() -> None:
    rng = random.Random(3)
    for realm in REALMS:
        for positive in (True, False):
            wrong_words = lang.NEGATIVE_ADJECTIVES if positive else lang.POSITIVE_ADJECTIVES
            for _ in range(200):
                text = lang.review(rng, realm, positive).text
                assert not set(wrong_words) & set(text.lower().replace(".", "").split())
        for _ in range(200):
            meeting = lang.meeting(rng, realm)
            assert (meeting.meant in lang.MEN) != (meeting.other in lang.MEN)
            assert f"{lang.pronoun(meeting.meant).capitalize()} was {meeting.predicate}." in meeting.text


def test_zed_words_are_new_and_different() -> None:
    assert len(set(lang.ZED.values())) == len(lang.ZED)
    english = {word.lower() for kind in lang.KINDS.values() for word in kind}
    assert not english & set(lang.ZED.values())
