"""Rows of the micro-world's data sets, made on demand.

A generator takes a `random.Random` and the realm a row may speak of, and returns one row: a dict with the columns a
published data set would have, among them `label` (the index of the right choice) or the text to write. Rows about
scenes also keep the scene in `facts` and the fact in question in `about`, so that every answer can be checked.

What a generator says is true or false only by `openflan.world.language`; wordings of the *tasks* are in `tasks/*.toml`.
"""

import functools
import hashlib
import json
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from openflan.errors import CatalogError, SourceError, nearest
from openflan.seeding import derive
from openflan.world.language import (
    ANIMALS,
    KINDS,
    MEN,
    NEGATIVE_ADJECTIVES,
    NEUTRAL_SENTENCES,
    NUMBERS,
    POSITIVE_ADJECTIVES,
    RELATIONS,
    SCRIPTS,
    TABLES,
    ZED,
    Fact,
    FactTable,
    Known,
    Realm,
    Script,
    contradiction,
    denial,
    drawn,
    facts_of,
    fill,
    inverse_question,
    known_facts,
    meeting,
    other_than,
    people,
    possessive,
    pronoun,
    random_fact,
    realm_of,
    review,
    review_things,
    scene,
    scripts,
    sentence,
    statement,
    statements,
    synonyms,
    unknown,
    wh_question,
    yes_no_question,
    zed_words,
)

__all__ = ["GENERATORS", "Row", "generate"]

Row: TypeAlias = dict[str, Any]
"""One row, as a reader of a published data set would return it."""

Generator: TypeAlias = Callable[[random.Random, Realm], Row]

_REALMS: Mapping[str, Realm] = {"train": Realm.TUNING, "dev": Realm.EVALUATION, "test": Realm.EVALUATION}
_MISSES = 2_000
"""Refused rows in succession after which a generator counts as exhausted."""

_LEAD = 3
"""How far a fixed label may be ahead of another one. Without it, labels with fewer possible rows would fall behind."""


# ---------------------------------------------------------------------------------------------------------- small tools


def _coin(rng: random.Random) -> bool:
    return rng.random() < 0.5


def _binary(holds: bool) -> int:
    """The label of a two-way row, whose first option is always the affirmative one."""
    return 0 if holds else 1


def _choices(rng: random.Random, right: str, wrong: Sequence[str]) -> Row:
    """The columns `choices` and `label`: `right` among the different ones of `wrong`, shuffled."""
    choices = list(dict.fromkeys([right, *wrong]))
    rng.shuffle(choices)
    return {"choices": choices, "label": choices.index(right)}


def _plain(fact: Fact) -> list[str]:
    return [fact.relation, fact.subject, fact.value]


def _scene_columns(facts: Sequence[Fact], about: Fact) -> Row:
    return {"facts": [_plain(fact) for fact in facts], "about": _plain(about)}


def _listing(words: Sequence[str], joint: str) -> str:
    """ "the cup, the key and the hat"."""
    named = [f"the {word}" for word in words]
    return f"{', '.join(named[:-1])} {joint} {named[-1]}"


_NEAR_KINDS = (
    {"person", "job"},
    {"thing", "clothing"},
    {"thing", "food"},
    {"thing", "material"},
    {"thing", "animal"},
    {"material", "colour"},
    {"food", "animal"},
)
"""Kinds with words a reader could put under either ("gold", "fish", "shoe"); never set against each other."""


def _other_kinds(kind: str) -> list[str]:
    """The kinds of words that nobody would take for `kind`."""
    return [other for other in KINDS if other != kind and {kind, other} not in _NEAR_KINDS]


def _two_forms(rng: random.Random, relation: str) -> tuple[int, int]:
    """Two different ways to state a fact of the relation."""
    first, second = rng.sample(range(len(RELATIONS[relation].statements)), 2)
    return first, second


@functools.cache
def _subjects_by_value(realm: Realm, relation: str) -> Mapping[str, tuple[str, ...]]:
    """Value -> the subjects that can have it in this realm."""
    table = facts_of(realm, relation)
    values = dict.fromkeys(value for row in table.values() for value in row)
    return {value: tuple(subject for subject in table if value in table[subject]) for value in values}


def _words_of_realm(rng: random.Random, realm: Realm, kind: str, count: int) -> list[str]:
    """`count` words of a kind, in random order. A set of words belongs to one realm, as a fact does."""
    pool = people(realm) if kind == "person" else KINDS[kind]
    while True:
        words = rng.sample(pool, count)
        first, *others = sorted(words)
        if realm_of("list", first, " ".join(others)) is realm:
            return words


def _claim(rng: random.Random, fact: Fact, facts: Sequence[Fact], realm: Realm) -> Row:
    """A claim that states or denies something about the scene, each as often true as false."""
    holds, denied = _coin(rng), _coin(rng)
    said = fact if holds != denied else contradiction(rng, fact, facts, realm)
    text = denial(rng, said) if denied else statement(rng, said)
    return {"claim": text, "denied": denied, "label": _binary(holds), **_scene_columns(facts, said)}


# ------------------------------------------------------------------------------------------- natural language inference


def _entailment(rng: random.Random, realm: Realm) -> Row:
    facts = scene(rng, realm)
    fact, holds = rng.choice(facts), _coin(rng)
    said = fact if holds else contradiction(rng, fact, facts, realm)
    return {
        "premise": statements(rng, facts),
        "hypothesis": statement(rng, said),
        "question": yes_no_question(rng, said),
        "label": _binary(holds),
        **_scene_columns(facts, said),
    }


def _three_way_fact(rng: random.Random, realm: Realm, facts: Sequence[Fact]) -> tuple[int, Fact]:
    """0 and a fact of the scene, 1 and a false one, or 2 and one the scene leaves open."""
    label, fact = rng.randrange(3), rng.choice(facts)
    if label == 0:
        return label, fact
    return label, contradiction(rng, fact, facts, realm) if label == 1 else unknown(rng, facts, realm)


def _three_way(rng: random.Random, realm: Realm) -> Row:
    facts = scene(rng, realm)
    label, said = _three_way_fact(rng, realm, facts)
    return {
        "premise": statements(rng, facts),
        "hypothesis": statement(rng, said),
        "question": yes_no_question(rng, said),
        "label": label,
        **_scene_columns(facts, said),
    }


def _denial(rng: random.Random, realm: Realm) -> Row:
    facts = scene(rng, realm)
    fact, holds = rng.choice(facts), _coin(rng)
    said = contradiction(rng, fact, facts, realm) if holds else fact
    return {
        "premise": statements(rng, facts),
        "hypothesis": denial(rng, said),
        "label": _binary(holds),
        **_scene_columns(facts, said),
    }


def _follows(rng: random.Random, realm: Realm) -> Row:
    facts = scene(rng, realm)
    fact = rng.choice(facts)
    said, heard = _two_forms(rng, fact.relation)
    premise = " ".join(statement(rng, each, said if each is fact else None) for each in facts)
    wrong = [contradiction(rng, fact, facts, realm), unknown(rng, facts, realm)][: rng.choice((1, 1, 2))]
    choices = _choices(rng, statement(rng, fact, heard), [statement(rng, each) for each in wrong])
    return {"premise": premise, **choices, **_scene_columns(facts, fact)}


# ----------------------------------------------------------------------------------------------------------- paraphrase


def _changed(rng: random.Random, fact: Fact, realm: Realm) -> Fact:
    """The fact with another value or another subject, still of the realm."""
    subjects = [name for name in _subjects_by_value(realm, fact.relation)[fact.value] if name != fact.subject]
    if subjects and _coin(rng):
        return Fact(fact.relation, rng.choice(subjects), fact.value)
    return contradiction(rng, fact, [fact], realm)


def _same_meaning(rng: random.Random, realm: Realm) -> Row:
    fact, same = random_fact(rng, realm), _coin(rng)
    first, second = _two_forms(rng, fact.relation)
    said = fact if same else _changed(rng, fact, realm)
    return {
        "first": statement(rng, fact, first),
        "second": statement(rng, said, second),
        "label": _binary(same),
        **_scene_columns([fact], said),
    }


def _somebody(rng: random.Random) -> str:
    """A subject for adjectives, of a kind about which the world states no facts."""
    animal = f"{rng.choice(KINDS['colour'])} {rng.choice(ANIMALS)}"
    return animal if rng.random() < 0.2 else f"{animal} in the {rng.choice(KINDS['place'])}"


def _synonym_words(rng: random.Random, realm: Realm) -> tuple[str, str, list[str]]:
    """A word, its synonym, and the realm's words that mean something else."""
    pair = rng.choice(synonyms(realm))
    word, same = rng.sample(pair, 2)
    return word, same, [other for each in synonyms(realm) for other in each if other not in pair]


def _synonym_sentence(rng: random.Random, realm: Realm) -> Row:
    word, synonym, others = _synonym_words(rng, realm)
    same, subject = _coin(rng), f"The {_somebody(rng)}"
    second = synonym if same else rng.choice(others)
    return {
        "first": f"{subject} is {word}.",
        "second": f"{subject} is {second}.",
        "words": [word, second],
        "label": _binary(same),
    }


def _restate(rng: random.Random, realm: Realm) -> Row:
    fact = random_fact(rng, realm)
    first, second = _two_forms(rng, fact.relation)
    wrong = [_changed(rng, fact, realm) for _ in range(rng.choice((1, 2)))]
    choices = _choices(rng, statement(rng, fact, second), [statement(rng, each, second) for each in wrong])
    return {"sentence": statement(rng, fact, first), **choices, **_scene_columns([fact], fact)}


def _synonym(rng: random.Random, realm: Realm) -> Row:
    word, same, others = _synonym_words(rng, realm)
    text = f"The {_somebody(rng)} is {word}."
    return {"word": word, "sentence": text, **_choices(rng, same, rng.sample(others, rng.choice((1, 2, 3))))}


# ------------------------------------------------------------------------------------------------ reading comprehension


def _answers(rng: random.Random, facts: Sequence[Fact], pool: Sequence[str], right: str) -> Row:
    """Two to four words of `pool` to choose from; those named in the text come first, so that most must be read for."""
    named = [word for fact in facts for word in (fact.subject, fact.value) if word in pool and word != right]
    near = drawn(rng, list(dict.fromkeys(named)), len(pool))
    far = drawn(rng, pool, 3, right, *near)
    return _choices(rng, right, (near + far)[: rng.choice((1, 2, 3))])


def _find_value(rng: random.Random, realm: Realm) -> Row:
    facts = scene(rng, realm)
    fact = rng.choice(facts)
    return {
        "passage": statements(rng, facts),
        "question": wh_question(rng, fact),
        **_answers(rng, facts, RELATIONS[fact.relation].values, fact.value),
        **_scene_columns(facts, fact),
    }


def _find_subject(rng: random.Random, realm: Realm) -> Row:
    facts = scene(rng, realm)
    fact = rng.choice(facts)
    kind = RELATIONS[fact.relation].subject_kind
    pool = people(realm) if kind == "person" else KINDS[kind]
    return {
        "passage": statements(rng, facts),
        "question": inverse_question(rng, fact),
        **_answers(rng, facts, pool, fact.subject),
        **_scene_columns(facts, fact),
    }


def _read_yes_no(rng: random.Random, realm: Realm) -> Row:
    facts = scene(rng, realm)
    fact, holds = rng.choice(facts), _coin(rng)
    asked = fact if holds else contradiction(rng, fact, facts, realm)
    return {
        "passage": statements(rng, facts),
        "question": yes_no_question(rng, asked),
        "label": _binary(holds),
        **_scene_columns(facts, asked),
    }


def _read_maybe(rng: random.Random, realm: Realm) -> Row:
    facts = scene(rng, realm)
    label, asked = _three_way_fact(rng, realm, facts)
    return {
        "passage": statements(rng, facts),
        "question": yes_no_question(rng, asked),
        "label": label,
        **_scene_columns(facts, asked),
    }


def _read_claims(rng: random.Random, realm: Realm) -> Row:
    facts = scene(rng, realm)
    return {"passage": statements(rng, facts), **_claim(rng, rng.choice(facts), facts, realm)}


def _who_is_right(rng: random.Random, realm: Realm) -> Row:
    facts = scene(rng, realm)
    fact = rng.choice(facts)
    wrong = contradiction(rng, fact, facts, realm)
    right_one, wrong_one = drawn(rng, people(realm), 2, *(each.subject for each in facts))
    said = [f"{right_one} says: {statement(rng, fact)}", f"{wrong_one} says: {statement(rng, wrong)}"]
    rng.shuffle(said)
    choices = _choices(rng, right_one, [wrong_one])
    return {
        "passage": statements(rng, facts),
        "talk": " ".join(said),
        "people": choices["choices"],
        "label": choices["label"],
        **_scene_columns(facts, fact),
    }


# ------------------------------------------------------------------------------- reading comprehension with commonsense

_TABLES_BY_RELATION: Mapping[str, tuple[str, ...]] = {"job": ("workplace", "tool"), "pet": ("sound", "food", "home")}
"""What knowing the value of a relation lets one conclude: where a cook works, what a cat eats."""


def _of_person(pattern: str, fact: Fact, value: str = "") -> str:
    """A pattern about "the {s}" said of a person who is one, or of the person's pet."""
    subject = fact.subject if fact.relation == "job" else f"the pet of {fact.subject}"
    return sentence(pattern.replace("the {s}", "{s}").format(s=subject, v=value))


@functools.cache
def _askable(realm: Realm, relation: str, table: str) -> tuple[Fact, ...]:
    """The realm's facts whose value the realm may ask the table about."""
    known = TABLES[table].subjects(realm)
    facts = (Fact(relation, person, value) for person, values in facts_of(realm, relation).items() for value in values)
    return tuple(fact for fact in facts if fact.value in known)


def _two_step(rng: random.Random, realm: Realm) -> tuple[list[Fact], Fact, FactTable, list[str]]:
    """Facts about two people, the one asked about, the table that answers, and the wrong answers of the same kind."""
    while True:
        relation = rng.choice(tuple(_TABLES_BY_RELATION))
        table = TABLES[rng.choice(_TABLES_BY_RELATION[relation])]
        pool = _askable(realm, relation, table.name)
        asked = rng.choice(pool) if pool else None
        others = [fact for fact in pool if asked and fact.subject != asked.subject and fact.value != asked.value]
        if asked and others:
            break
    facts = [asked, rng.choice(others)]
    rng.shuffle(facts)
    near = [table.pairs[fact.value] for fact in facts if fact is not asked]
    far = drawn(rng, [table.pairs[name] for name in table.subjects(realm)], 2, table.pairs[asked.value], *near)
    return facts, asked, table, near + far


def _at_work(rng: random.Random, realm: Realm) -> Row:
    facts, asked, table, wrong = _two_step(rng, realm)
    return {
        "passage": statements(rng, facts),
        "question": _of_person(rng.choice(table.questions), asked),
        "table": table.name,
        **_choices(rng, table.pairs[asked.value], wrong[: rng.choice((1, 2, 3))]),
        **_scene_columns(facts, asked),
    }


def _job_claims(rng: random.Random, realm: Realm) -> Row:
    facts, asked, table, wrong = _two_step(rng, realm)
    holds, denied = _coin(rng), _coin(rng)
    value = table.pairs[asked.value] if holds != denied else wrong[0]
    patterns = table.denials if denied else table.statements
    return {
        "passage": statements(rng, facts),
        "claim": _of_person(rng.choice(patterns), asked, value),
        "table": table.name,
        "value": value,
        "denied": denied,
        "label": _binary(holds),
        **_scene_columns(facts, asked),
    }


_ALIKE = (
    {"hunger", "thirst", "burning", "birthday"},
    {"sleep", "noise", "dark"},
    {"cold", "snow", "rain"},
    {"heat", "beach", "dirt"},
    {"illness", "wound", "weight"},
    {"loss", "thief", "ghost", "dark", "noise"},
    {"present", "birthday", "letter", "phone"},
    {"exam", "race", "joke", "present"},
    {"train", "bicycle"},
    {"guilt", "wound", "joke"},
)
"""Stories whose outcomes a sensible reader could exchange; never set against each other in one row."""


@functools.cache
def _apart(realm: Realm, name: str) -> tuple[Script, ...]:
    """The realm's stories whose outcomes nobody would take for those of the story `name`."""
    alike = {name}.union(*(group for group in _ALIKE if name in group))
    return tuple(script for script in scripts(realm) if script.name not in alike)


def _apart_from(rng: random.Random, realm: Realm, script: Script, count: int) -> list[Script]:
    return rng.sample(_apart(realm, script.name), count)


def _what_now(rng: random.Random, realm: Realm) -> Row:
    asked = rng.choice(scripts(realm))
    others = _apart_from(rng, realm, asked, rng.choice((1, 2)))
    person, other = rng.sample(people(realm), 2)
    causes = [fill(rng.choice(asked.causes), person), fill(rng.choice(others[0].causes), other)]
    rng.shuffle(causes)
    wrong = [fill(rng.choice(script.effects), person) for script in others]
    fact = random_fact(rng, realm, "whereabouts")
    setting = [statement(rng, fact)] if _coin(rng) else []
    return {
        "passage": " ".join(setting + causes),
        "person": person,
        "script": asked.name,
        **_choices(rng, fill(rng.choice(asked.effects), person), wrong),
    }


# --------------------------------------------------------------------------------------- closed-book question answering


def _known(rng: random.Random, realm: Realm) -> Known:
    """A line of a table, every table as often as any other."""
    table = rng.choice(tuple(TABLES))
    return rng.choice([known for known in known_facts(realm) if known.table.name == table])


def _wrong_values(rng: random.Random, realm: Realm, known: Known, count: int) -> list[str]:
    """Values the realm's other lines of the same table have."""
    values = dict.fromkeys(known.table.pairs[subject] for subject in known.table.subjects(realm))
    return drawn(rng, tuple(values), count, known.value)


def _known_columns(known: Known) -> Row:
    return {"table": known.table.name, "subject": known.subject, "value": known.value}


def _facts(rng: random.Random, realm: Realm) -> Row:
    known = _known(rng, realm)
    wrong = _wrong_values(rng, realm, known, rng.choice((1, 2, 3)))
    question = known.table.question(rng, known.subject)
    return {"question": question, **_choices(rng, known.value, wrong), **_known_columns(known)}


def _facts_back(rng: random.Random, realm: Realm) -> Row:
    known = _known(rng, realm)
    subjects = [name for name in known.table.subjects(realm) if known.table.pairs[name] != known.value]
    wrong = drawn(rng, subjects, rng.choice((1, 2, 3)))
    question = known.table.inverse_question(rng, known.value)
    return {"question": question, **_choices(rng, known.subject, wrong), **_known_columns(known)}


def _fact_check(rng: random.Random, realm: Realm) -> Row:
    known = _known(rng, realm)
    holds, denied = _coin(rng), _coin(rng)
    value = known.value if holds != denied else _wrong_values(rng, realm, known, 1)[0]
    say = known.table.denial if denied else known.table.statement
    claim = say(rng, known.subject, value)
    return {"claim": claim, "denied": denied, "said": value, "label": _binary(holds), **_known_columns(known)}


def _fact_pick(rng: random.Random, realm: Realm) -> Row:
    known = _known(rng, realm)
    form = rng.randrange(len(known.table.statements))
    wrong = _wrong_values(rng, realm, known, rng.choice((1, 2)))
    said = [known.table.statement(rng, known.subject, value, form) for value in (known.value, *wrong)]
    return {**_choices(rng, said[0], said[1:]), **_known_columns(known)}


# ------------------------------------------------------------------------------------------------------------ sentiment


def _review(rng: random.Random, realm: Realm) -> Row:
    positive = _coin(rng)
    written = review(rng, realm, positive)
    return {"review": written.text, "thing": written.thing, "label": _binary(positive)}


def _mood(rng: random.Random, realm: Realm) -> Row:
    """What somebody says of how it was for them, without a word that names the quality of the thing itself."""
    positive = _coin(rng)
    while True:
        text = review(rng, realm, positive).text
        if not any(f" {word}." in text for word in (*POSITIVE_ADJECTIVES, *NEGATIVE_ADJECTIVES)):
            return {"text": text, "label": _binary(positive)}


def _review_pick(rng: random.Random, realm: Realm) -> Row:
    positive, thing = _coin(rng), rng.choice(review_things(realm))
    right, wrong = review(rng, realm, positive, thing), review(rng, realm, not positive, thing)
    return {"kind": "good" if positive else "bad", "thing": thing, **_choices(rng, right.text, [wrong.text])}


_REVIEW_CLAIMS = (
    (True, "The writer liked the {thing}.", "The writer did not like the {thing}."),
    (True, "The {thing} was good.", "The {thing} was not good."),
    (False, "The {thing} was bad.", "The {thing} was not bad."),
)
"""Whether it praises, the claim, the same denied."""


def _review_claims(rng: random.Random, realm: Realm) -> Row:
    positive, holds, denied = _coin(rng), _coin(rng), _coin(rng)
    written = review(rng, realm, positive)
    praises = positive == (holds != denied)
    stated, denying = rng.choice([texts for praise, *texts in _REVIEW_CLAIMS if praise == praises])
    return {
        "review": written.text,
        "claim": (denying if denied else stated).format(thing=written.thing),
        "positive": positive,
        "denied": denied,
        "label": _binary(holds),
    }


def _liked(rng: random.Random, realm: Realm) -> Row:
    """Praise, blame, or a text that tells neither."""
    label, person = rng.randrange(3), rng.choice(people(realm))
    if label < 2:
        written = review(rng, realm, positive=label == 0)
        return {"review": written.text, "thing": written.thing, "person": person, "label": label}
    thing = rng.choice(review_things(realm))
    sentences = rng.sample(NEUTRAL_SENTENCES, rng.choice((1, 2, 3)))
    opening = rng.choice((f"I tried the {thing}.", f"This is about a {thing}."))
    return {"review": " ".join([opening, *sentences]), "thing": thing, "person": person, "label": label}


# ---------------------------------------------------------------------------------------------------------- commonsense


def _next(rng: random.Random, realm: Realm) -> Row:
    script, person = rng.choice(scripts(realm)), rng.choice(people(realm))
    wrong = [rng.choice(each.effects) for each in _apart_from(rng, realm, script, rng.choice((1, 2)))]
    return {
        "sentence": fill(rng.choice(script.causes), person),
        "script": script.name,
        **_choices(rng, fill(rng.choice(script.effects), person), [fill(pattern, person) for pattern in wrong]),
    }


def _cause(rng: random.Random, realm: Realm) -> Row:
    script, person = rng.choice(scripts(realm)), rng.choice(people(realm))
    wrong = [rng.choice(each.causes) for each in _apart_from(rng, realm, script, rng.choice((1, 2)))]
    return {
        "sentence": fill(rng.choice(script.effects), person),
        "script": script.name,
        **_choices(rng, fill(rng.choice(script.causes), person), [fill(pattern, person) for pattern in wrong]),
    }


def _plausible(rng: random.Random, realm: Realm) -> Row:
    script, person, holds = rng.choice(scripts(realm)), rng.choice(people(realm)), _coin(rng)
    then = script if holds else _apart_from(rng, realm, script, 1)[0]
    return {
        "first": fill(rng.choice(script.causes), person),
        "second": fill(rng.choice(then.effects), person),
        "scripts": [script.name, then.name],
        "label": _binary(holds),
    }


def _deeds(script: Script) -> tuple[str, ...]:
    """What the person did, without the person ("went to bed."), for effects that name the person once and first.

    Effects with a "not" are left out: denying them would take two.
    """
    named_once = (text for text in script.effects if text.startswith("{p} ") and text.count("{") == 1)
    return tuple(text.removeprefix("{p} ") for text in named_once if " not " not in text)


_NAMES_WITH_DEEDS = frozenset(script.name for script in SCRIPTS if _deeds(script))


def _story_of_two(rng: random.Random, realm: Realm) -> tuple[str, Script, str, str]:
    """Different things happen to two people: the story, one of the scripts, its person, the other person."""
    script = rng.choice([each for each in scripts(realm) if each.name in _NAMES_WITH_DEEDS])
    person, other = rng.sample(people(realm), 2)
    causes = [
        fill(rng.choice(script.causes), person),
        fill(rng.choice(_apart_from(rng, realm, script, 1)[0].causes), other),
    ]
    rng.shuffle(causes)
    return " ".join(causes), script, person, other


def _who_did(rng: random.Random, realm: Realm) -> Row:
    story, script, person, other = _story_of_two(rng, realm)
    deed = rng.choice(_deeds(script))
    choices = _choices(rng, person, [other])
    return {
        "story": story,
        "question": f"Who {deed[:-1]}?",
        "script": script.name,
        "people": choices["choices"],
        "label": choices["label"],
    }


def _who_claims(rng: random.Random, realm: Realm) -> Row:
    story, script, person, other = _story_of_two(rng, realm)
    deed = rng.choice(_deeds(script))
    holds, denied = _coin(rng), _coin(rng)
    named = person if holds != denied else other
    return {
        "story": story,
        "claim": f"It was {'not ' if denied else ''}{named} who {deed}",
        "script": script.name,
        "person": person,
        "named": named,
        "denied": denied,
        "label": _binary(holds),
    }


# ---------------------------------------------------------------------------------------------------------- coreference


def _pronoun(rng: random.Random, realm: Realm) -> Row:
    met = meeting(rng, realm)
    choices = _choices(rng, met.meant, [met.other])
    return {
        "text": met.text,
        "pronoun": pronoun(met.meant),
        "question": f"Who was {met.predicate}?",
        "people": choices["choices"],
        "label": choices["label"],
    }


def _pronoun_claims(rng: random.Random, realm: Realm) -> Row:
    met = meeting(rng, realm)
    holds, denied = _coin(rng), _coin(rng)
    named = met.meant if holds != denied else met.other
    return {
        "text": met.text,
        "claim": f"{named} was {'not ' if denied else ''}{met.predicate}.",
        "named": named,
        "denied": denied,
        "label": _binary(holds),
    }


def _pronoun_pick(rng: random.Random, realm: Realm) -> Row:
    met = meeting(rng, realm)
    wrong = [f"{met.other} was {met.predicate}.", f"{met.meant} was not {met.predicate}."]
    return {
        "text": met.text,
        **_choices(rng, f"{met.meant} was {met.predicate}.", wrong[: rng.choice((1, 2))]),
    }


def _whose(rng: random.Random, realm: Realm) -> Row:
    """A man and a woman meet; "his" or "her" tells whose thing it is."""
    while True:
        owned = random_fact(rng, realm, "possession")
        colours = facts_of(realm, "colour").get(owned.value)
        if colours:
            break
    owner, thing = owned.subject, owned.value
    other = rng.choice([name for name in people(realm) if (name in MEN) != (owner in MEN)])
    first, second = rng.sample((owner, other), 2)
    place = rng.choice(KINDS["place"])
    opening = rng.choice((f"{first} met {second} in the {place}.", f"{first} and {second} went to the {place}."))
    choices = _choices(rng, owner, [other])
    return {
        "text": f"{opening} {sentence(possessive(owner))} {thing} is {rng.choice(colours)}.",
        "thing": thing,
        "pronoun": possessive(owner),
        "people": choices["choices"],
        "label": choices["label"],
    }


# ------------------------------------------------------------------------------------------------------- data into text


def _record(fact: Fact) -> str:
    return f"{fact.subject} | {fact.relation} | {fact.value}"


def _triple(rng: random.Random, realm: Realm) -> Row:
    fact = random_fact(rng, realm)
    return {"record": _record(fact), "sentence": statement(rng, fact, 0), **_scene_columns([fact], fact)}


def _triples(rng: random.Random, realm: Realm) -> Row:
    facts = scene(rng, realm, rng.choice((2, 2, 3)))
    return {
        "records": "\n".join(_record(fact) for fact in facts),
        "text": statements(rng, facts, 0),
        **_scene_columns(facts, facts[0]),
    }


def _triple_pick(rng: random.Random, realm: Realm) -> Row:
    fact = random_fact(rng, realm)
    form = rng.randrange(len(RELATIONS[fact.relation].statements))
    wrong = [_changed(rng, fact, realm) for _ in range(rng.choice((1, 2)))]
    choices = _choices(rng, statement(rng, fact, form), [statement(rng, each, form) for each in wrong])
    return {"record": _record(fact), **choices, **_scene_columns([fact], fact)}


def _triple_check(rng: random.Random, realm: Realm) -> Row:
    fact, holds = random_fact(rng, realm), _coin(rng)
    said = fact if holds else _changed(rng, fact, realm)
    return {
        "record": _record(fact),
        "sentence": statement(rng, said),
        "label": _binary(holds),
        **_scene_columns([fact], said),
    }


# ---------------------------------------------------------------------------------------------------------- translation


def _translation(rng: random.Random, realm: Realm) -> Row:
    words = rng.sample(zed_words(realm), rng.choice((1, 2, 2, 3, 3)))
    return {"english": " ".join(words), "zed": " ".join(ZED[word] for word in words)}


def _zed_word(rng: random.Random, realm: Realm) -> Row:
    word = rng.choice(zed_words(realm))
    return {"zed": ZED[word], **_choices(rng, word, drawn(rng, zed_words(realm), rng.choice((1, 2, 3)), word))}


def _zed_check(rng: random.Random, realm: Realm) -> Row:
    """Two words, so that there are rows enough; in the wrong ones both are other words."""
    words, holds = rng.sample(zed_words(realm), 2), _coin(rng)
    english = words if holds else drawn(rng, zed_words(realm), 2, *words)
    return {
        "zed": " ".join(ZED[word] for word in words),
        "english": " ".join(english),
        "label": _binary(holds),
    }


# -------------------------------------------------------------------------------------------------------- summarization


def _title(rng: random.Random, realm: Realm) -> Row:
    facts = scene(rng, realm, rng.choice((2, 3)))
    return {"text": statements(rng, facts), "title": statement(rng, facts[0], 0), **_scene_columns(facts, facts[0])}


def _facts_about(rng: random.Random, realm: Realm, person: str, count: int) -> list[Fact]:
    """Facts of different relations about one person."""
    relations = [name for name in RELATIONS if person in facts_of(realm, name)]
    return [Fact(name, person, rng.choice(facts_of(realm, name)[person])) for name in drawn(rng, relations, count)]


def _about(rng: random.Random, realm: Realm) -> Row:
    person, other = rng.sample(people(realm), 2)
    facts = _facts_about(rng, realm, person, rng.choice((2, 3))) + _facts_about(rng, realm, other, 1)
    rng.shuffle(facts)
    choices = _choices(rng, person, [other])
    return {
        "text": statements(rng, facts),
        "people": choices["choices"],
        "label": choices["label"],
        "facts": [_plain(fact) for fact in facts],
    }


def _title_pick(rng: random.Random, realm: Realm) -> Row:
    facts = scene(rng, realm, rng.choice((2, 3)))
    fact = rng.choice(facts)
    said, titled = _two_forms(rng, fact.relation)
    text = " ".join(statement(rng, each, said if each is fact else None) for each in facts)
    wrong = [unknown(rng, facts, realm) for _ in range(rng.choice((1, 2)))]
    choices = _choices(rng, statement(rng, fact, titled), [statement(rng, each) for each in wrong])
    return {"text": text, **choices, **_scene_columns(facts, fact)}


_TOPICS = tuple(dict.fromkeys(relation.value_kind for relation in RELATIONS.values()))


def _topic(rng: random.Random, realm: Realm) -> Row:
    """One or two facts of one relation; the topic is the kind of their values."""
    relation = rng.choice(tuple(RELATIONS.values()))
    facts = scene(rng, realm, rng.choice((1, 2)), [relation.name])
    topics = [kind for kind in _other_kinds(relation.value_kind) if kind in _TOPICS]
    wrong = drawn(rng, topics, rng.choice((1, 2, 3)), relation.subject_kind)
    return {
        "text": statements(rng, facts),
        **_choices(rng, relation.value_kind, wrong),
        **_scene_columns(facts, facts[0]),
    }


# -------------------------------------------------------------------------------------------------------- miscellaneous


def _question_type(rng: random.Random, realm: Realm) -> Row:
    fact, of_value = random_fact(rng, realm), rng.random() < 0.6
    relation = RELATIONS[fact.relation]
    kind = relation.value_kind if of_value else relation.subject_kind
    question = wh_question(rng, fact) if of_value else inverse_question(rng, fact)
    wrong = drawn(rng, _other_kinds(kind), rng.choice((1, 2, 3)))
    return {"question": question, **_choices(rng, kind, wrong), **_scene_columns([fact], fact)}


def _word_kind(rng: random.Random, realm: Realm) -> Row:
    kind = rng.choice(tuple(KINDS))
    words = _words_of_realm(rng, realm, kind, rng.choice((2, 3)))
    return {"words": ", ".join(words), **_choices(rng, kind, drawn(rng, _other_kinds(kind), rng.choice((1, 2, 3))))}


def _odd_one(rng: random.Random, realm: Realm) -> Row:
    kind = rng.choice(tuple(KINDS))
    other = rng.choice(_other_kinds(kind))
    same = _words_of_realm(rng, realm, kind, rng.choice((2, 2, 3)))
    odd = rng.choice(people(realm) if other == "person" else KINDS[other])
    words = [*same, odd]
    rng.shuffle(words)
    return {"words": ", ".join(words), "choices": words, "label": words.index(odd)}


def _count(rng: random.Random, realm: Realm) -> Row:
    things = facts_of(realm, "possession")
    person = rng.choice([name for name, values in things.items() if len(values) > 4])
    held = rng.sample(things[person], rng.randint(2, 5))
    wrong = drawn(rng, NUMBERS[2:6], rng.choice((1, 2, 3)), NUMBERS[len(held)])
    return {
        "text": f"{person} has {_listing(held, 'and')}.",
        "person": person,
        "things": held,
        **_choices(rng, NUMBERS[len(held)], wrong),
    }


def _member(rng: random.Random, realm: Realm) -> Row:
    kind, holds = rng.choice(tuple(KINDS)), _coin(rng)
    words = _words_of_realm(rng, realm, kind, rng.randint(2, 4))
    pool = people(realm) if kind == "person" else KINDS[kind]
    word = rng.choice(words) if holds else other_than(rng, pool, *words)
    return {"words": ", ".join(words), "word": word, "label": _binary(holds)}


def _chosen(rng: random.Random, realm: Realm) -> Row:
    """Somebody takes one of three things; often somebody else takes another one, too."""
    person, other = rng.sample(people(realm), 2)
    things = _words_of_realm(rng, realm, "thing", 3)
    taken, left = rng.sample(things, 2)
    deeds = [f"{person} took the {taken}."] + ([f"{other} took the {left}."] if rng.random() < 0.6 else [])
    rng.shuffle(deeds)
    text = f"{person} could take {_listing(things, 'or')}. {' '.join(deeds)}"
    return {"text": text, "person": person, **_choices(rng, taken, [thing for thing in things if thing != taken])}


def _he_she(rng: random.Random, realm: Realm) -> Row:
    person = rng.choice(people(realm))
    fact = _facts_about(rng, realm, person, 1)[0]
    patterns = RELATIONS[fact.relation].statements
    form = rng.choice([index for index, pattern in enumerate(patterns) if pattern.startswith("{s}")])
    wrong = "she" if person in MEN else "he"
    return {
        "person": person,
        "sentence": statement(rng, fact, form),
        **_choices(rng, pronoun(person), [wrong]),
        **_scene_columns([fact], fact),
    }


# ------------------------------------------------------------------------------------------------------------- the rows

GENERATORS: Mapping[str, Generator] = {
    "entailment": _entailment,
    "three_way": _three_way,
    "denial": _denial,
    "follows": _follows,
    "same_meaning": _same_meaning,
    "synonym_sentence": _synonym_sentence,
    "restate": _restate,
    "synonym": _synonym,
    "find_value": _find_value,
    "find_subject": _find_subject,
    "read_yes_no": _read_yes_no,
    "read_maybe": _read_maybe,
    "read_claims": _read_claims,
    "who_is_right": _who_is_right,
    "at_work": _at_work,
    "what_now": _what_now,
    "job_claims": _job_claims,
    "facts": _facts,
    "facts_back": _facts_back,
    "fact_check": _fact_check,
    "fact_pick": _fact_pick,
    "review": _review,
    "mood": _mood,
    "review_pick": _review_pick,
    "review_claims": _review_claims,
    "liked": _liked,
    "next": _next,
    "cause": _cause,
    "plausible": _plausible,
    "who_did": _who_did,
    "who_claims": _who_claims,
    "pronoun": _pronoun,
    "pronoun_claims": _pronoun_claims,
    "pronoun_pick": _pronoun_pick,
    "whose": _whose,
    "triple": _triple,
    "triples": _triples,
    "triple_pick": _triple_pick,
    "triple_check": _triple_check,
    "to_zed": _translation,
    "from_zed": _translation,
    "zed_word": _zed_word,
    "zed_check": _zed_check,
    "title": _title,
    "about": _about,
    "title_pick": _title_pick,
    "topic": _topic,
    "question_type": _question_type,
    "word_kind": _word_kind,
    "odd_one": _odd_one,
    "count": _count,
    "member": _member,
    "chosen": _chosen,
    "he_she": _he_she,
}
"""Name of a generator, as `source.world` of a task gives it -> the function that makes one row."""


def _identity(row: Row) -> str:
    """The row without what does not make it another one: the order of its choices."""
    lists = {name: sorted(row[name]) for name in ("choices", "people") if name in row}
    return json.dumps({**row, **lists, "label": None}, sort_keys=True)


def _in_split(identity: str, split: str) -> bool:
    """Dev and test speak of the same realm; a hash gives a quarter of all possible rows to dev, the others to test."""
    if split == "train":
        return True
    in_dev = hashlib.blake2b(identity.encode(), digest_size=1).digest()[0] < 64
    return in_dev == (split == "dev")


class _Balance:
    """Counts the labels of rows with fixed options. Where a row has its own choices, the label is only a position."""

    def __init__(self) -> None:
        self._counts: dict[int, int] = {0: 0, 1: 0}

    def admits(self, row: Row) -> bool:
        """Whether the row's label is not too far ahead; if so, the row is counted."""
        label = row.get("label")
        if label is None or "choices" in row or "people" in row:
            return True
        count = self._counts.setdefault(label, 0)
        if count - min(self._counts.values()) >= _LEAD:
            return False
        self._counts[label] = count + 1
        return True


def generate(generator: str, split: str, count: int, seed: int) -> list[Row]:
    """The first `count` rows of a split: no two alike, and none of them shared with another split.

    Args:
        generator: a key of `GENERATORS`.
        split: "train" (about the tuning realm), "dev" or "test" (both about the evaluation realm).
        count: rows wanted; a smaller count gives a prefix of a greater one.
        seed: rows depend on nothing but generator, split and seed.

    Raises:
        CatalogError: there is no such generator or split.
        SourceError: the generator has not got that many different rows.
    """
    if generator not in GENERATORS:
        raise CatalogError(f"no world generator {generator!r}: {nearest(generator, GENERATORS)}")
    if split not in _REALMS:
        raise CatalogError(f"no split {split!r} of the micro-world: {nearest(split, _REALMS)}")
    rng = random.Random(derive(seed, "world", generator, split))
    make, realm = GENERATORS[generator], _REALMS[split]
    rows: list[Row] = []
    seen: set[str] = set()
    balance = _Balance()
    misses = 0
    while len(rows) < count:
        row = make(rng, realm)
        identity = _identity(row)
        if identity not in seen and _in_split(identity, split) and balance.admits(row):
            seen.add(identity)
            rows.append(row)
            misses = 0
        elif (misses := misses + 1) > _MISSES:
            raise SourceError(f"world generator {generator!r} has {len(rows)} different {split} rows, not {count}")
    return rows
