"""The language of the micro-world: its words, its grammar, and what is true in it.

Everything here is ordinary English ("Tom is in the kitchen.", "Where is Tom?"), small enough for a model that trains on
a laptop to learn all of it. Three kinds of content exist:

- *facts*, triples of relation, subject and value that are true only in the text that states them;
- *knowledge*, true everywhere: tables such as the sounds of animals, stories of cause and effect, synonyms, words of
  the invented language Zed, what people say of things they liked;
- *realms*, the split of the world. Each fact belongs to exactly one `Realm`, decided by a hash of the fact and by
  nothing else. Pretraining text states facts of `PRETRAINING` only, rows to tune on state facts of `TUNING`, rows to
  evaluate on state facts of `EVALUATION`; nothing a realm says of its scenes, true or false, uses a fact of another.
  The people in tuning and evaluation rows are disjoint halves of all people. Knowledge is stated in pretraining text in
  any case (it could not be known otherwise), but the part that belongs to `EVALUATION` is never asked there, nor in
  tuning rows.

Not split, because every realm needs the words themselves: single words, statement and question forms, number words,
the neutral sentences of reviews.

Random choices come from a `random.Random` given by the caller, so the same generator state gives the same text.
"""

import enum
import functools
import hashlib
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

__all__ = [
    "ADJECTIVES", "ANIMALS", "CLOTHES", "COLOURS", "DAYS", "FEELINGS", "FOODS", "JOBS", "KINDS", "MATERIALS", "MEN",
    "NEGATIVE_ADJECTIVES", "NEGATIVE_OPINIONS", "NEUTRAL_SENTENCES", "NUMBERS", "PEOPLE", "PLACES",
    "POSITIVE_ADJECTIVES",
    "POSITIVE_OPINIONS", "RELATIONS", "REVIEW_THINGS", "SCRIPTS", "SYNONYMS", "TABLES", "THINGS", "WOMEN", "ZED",
    "Fact", "FactTable", "Known", "Meeting", "Realm", "Relation", "Review", "Script", "Sum",
    "contradiction", "denial", "drawn", "facts_of", "fill", "inverse_question", "kind_of", "known_facts", "meeting",
    "other_than", "people", "possessive", "pronoun", "random_fact", "realm_of", "review", "review_things", "scene",
    "scripts",
    "sentence", "statement", "statements", "sum_of_coins", "synonyms", "unknown", "wh_question", "yes_no_question",
    "zed_words",
]  # fmt: skip


class Realm(enum.StrEnum):
    """The part of the world a text may speak of."""

    PRETRAINING = "pretraining"
    TUNING = "tuning"
    EVALUATION = "evaluation"


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


# ------------------------------------------------------------------------------------------------------------- lexicon

MEN = _words("Tom Bob Sam Max Leo Dan Ben Jack Paul Adam John Mark Peter Henry Oscar David Simon Felix")
WOMEN = _words("Sue Ann Mary Kate Lucy Anna Emma Jane Lily Rose Eve Nina Clara Helen Julia Laura Alice Maria")
PEOPLE = MEN + WOMEN
PLACES = _words(
    "kitchen garden park school office hall cellar attic barn library market station hotel museum church forest"
)
THINGS = _words("ball cup book hat key box coin lamp clock chair bag pen plate shoe ring bell knife table doll basket")
COLOURS = _words("red blue green yellow black white brown pink grey purple")
FEELINGS = _words("happy sad angry tired hungry scared calm bored proud lonely")
FOODS = _words("bread soup cake fruit rice cheese fish honey butter salad")
JOBS = _words("cook teacher doctor farmer driver sailor singer baker painter judge")
MATERIALS = _words("wood stone glass paper gold silver wool iron leather clay")
CLOTHES = _words("coat scarf cap dress belt jacket skirt sweater")
ANIMALS = _words("dog cat cow sheep duck pig hen rabbit horse mouse")
DAYS = _words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
NUMBERS = _words("zero one two three four five six seven eight nine ten eleven twelve")

KINDS: Mapping[str, tuple[str, ...]] = {
    "person": PEOPLE,
    "place": PLACES,
    "thing": THINGS,
    "colour": COLOURS,
    "feeling": FEELINGS,
    "food": FOODS,
    "job": JOBS,
    "material": MATERIALS,
    "clothing": CLOTHES,
    "animal": ANIMALS,
}
"""Name of a kind of word -> the words of that kind. The kinds are disjoint."""


@functools.cache
def _kinds_by_word() -> dict[str, str]:
    return {word: kind for kind, words in KINDS.items() for word in words}


def kind_of(word: str) -> str:
    """The kind of a lexicon word ("Tom" -> "person"). Raises KeyError for a word of no kind."""
    return _kinds_by_word()[word]


@dataclass(frozen=True)
class Relation:
    """A relation of subjects to values, with everything that can be said and asked of it.

    Patterns hold the slots `{s}` (subject) and `{v}` (value) as bare words; capitals are added when a pattern is
    filled. The wh-question asks for the value, the inverse question for the subject.
    """

    name: str
    subject_kind: str
    value_kind: str
    statements: tuple[str, ...]
    denials: tuple[str, ...]
    wh_questions: tuple[str, ...]
    inverse_questions: tuple[str, ...]
    yes_no_questions: tuple[str, ...]

    @property
    def subjects(self) -> tuple[str, ...]:
        return KINDS[self.subject_kind]

    @property
    def values(self) -> tuple[str, ...]:
        return KINDS[self.value_kind]


_RELATIONS = (
    Relation(
        "location", "thing", "place",
        ("the {s} is in the {v}.", "you can find the {s} in the {v}.", "there is a {s} in the {v}."),
        ("the {s} is not in the {v}.", "you cannot find the {s} in the {v}."),
        ("where is the {s}?", "in which place is the {s}?", "where can you find the {s}?"),
        ("what is in the {v}?", "what can you find in the {v}?", "which thing is in the {v}?"),
        ("is the {s} in the {v}?", "can you find the {s} in the {v}?"),
    ),
    Relation(
        "colour", "thing", "colour",
        ("the {s} is {v}.", "the colour of the {s} is {v}.", "the {s} has a {v} colour."),
        ("the {s} is not {v}.", "the colour of the {s} is not {v}."),
        ("what colour is the {s}?", "which colour does the {s} have?", "what is the colour of the {s}?"),
        ("what is {v}?", "which thing is {v}?", "which thing has a {v} colour?"),
        ("is the {s} {v}?", "is the colour of the {s} {v}?"),
    ),
    Relation(
        "possession", "person", "thing",
        ("{s} has the {v}.", "{s} owns the {v}.", "the {v} belongs to {s}."),
        ("{s} does not have the {v}.", "the {v} does not belong to {s}.", "{s} does not own the {v}."),
        ("what does {s} have?", "what does {s} own?", "which thing belongs to {s}?"),
        ("who has the {v}?", "who owns the {v}?", "to whom does the {v} belong?"),
        ("does {s} have the {v}?", "does the {v} belong to {s}?", "does {s} own the {v}?"),
    ),
    Relation(
        "whereabouts", "person", "place",
        ("{s} is in the {v}.", "{s} went to the {v}.", "you can find {s} in the {v}."),
        ("{s} is not in the {v}.", "{s} did not go to the {v}.", "you cannot find {s} in the {v}."),
        ("where is {s}?", "where did {s} go?", "in which place is {s}?"),
        ("who is in the {v}?", "who went to the {v}?", "whom can you find in the {v}?"),
        ("is {s} in the {v}?", "did {s} go to the {v}?", "can you find {s} in the {v}?"),
    ),
    Relation(
        "feeling", "person", "feeling",
        ("{s} is {v}.", "{s} feels {v}.", "{s} looks {v}."),
        ("{s} is not {v}.", "{s} does not feel {v}.", "{s} does not look {v}."),
        ("how does {s} feel?", "how is {s}?", "how does {s} look?"),
        ("who is {v}?", "who feels {v}?", "who looks {v}?"),
        ("is {s} {v}?", "does {s} feel {v}?", "does {s} look {v}?"),
    ),
    Relation(
        "material", "thing", "material",
        ("the {s} is made of {v}.", "they made the {s} of {v}.", "the {s} was made from {v}."),
        ("the {s} is not made of {v}.", "they did not make the {s} of {v}."),
        ("what is the {s} made of?", "of which material is the {s}?"),
        ("what is made of {v}?", "which thing is made of {v}?"),
        ("is the {s} made of {v}?", "did they make the {s} of {v}?"),
    ),
    Relation(
        "liking", "person", "food",
        ("{s} likes {v}.", "{s} enjoys {v}.", "{s} loves to eat {v}."),
        ("{s} does not like {v}.", "{s} does not enjoy {v}."),
        ("what does {s} like?", "what food does {s} enjoy?", "what does {s} love to eat?"),
        ("who likes {v}?", "who enjoys {v}?", "who loves to eat {v}?"),
        ("does {s} like {v}?", "does {s} enjoy {v}?"),
    ),
    Relation(
        "job", "person", "job",
        ("{s} is a {v}.", "{s} works as a {v}.", "the {v} is {s}."),
        ("{s} is not a {v}.", "{s} does not work as a {v}."),
        ("what is the job of {s}?", "what does {s} work as?", "which job does {s} have?"),
        ("who is the {v}?", "who works as a {v}?", "who has the job of a {v}?"),
        ("is {s} a {v}?", "does {s} work as a {v}?"),
    ),
    Relation(
        "wearing", "person", "clothing",
        ("{s} wears the {v}.", "{s} put on the {v}.", "the {v} is worn by {s}."),
        ("{s} does not wear the {v}.", "{s} did not put on the {v}."),
        ("what does {s} wear?", "what did {s} put on?"),
        ("who wears the {v}?", "who put on the {v}?"),
        ("does {s} wear the {v}?", "did {s} put on the {v}?"),
    ),
    Relation(
        "pet", "person", "animal",
        ("{s} keeps a {v}.", "the pet of {s} is a {v}.", "a {v} lives with {s}."),
        ("{s} does not keep a {v}.", "the pet of {s} is not a {v}."),
        ("which animal does {s} keep?", "what is the pet of {s}?"),
        ("who keeps a {v}?", "with whom does a {v} live?"),
        ("does {s} keep a {v}?", "is the pet of {s} a {v}?"),
    ),
)  # fmt: skip

RELATIONS: Mapping[str, Relation] = {relation.name: relation for relation in _RELATIONS}


@dataclass(frozen=True)
class Fact:
    """`subject` stands in `relation` to `value`: Fact("whereabouts", "Tom", "kitchen")."""

    relation: str
    subject: str
    value: str

    @property
    def realm(self) -> Realm:
        return realm_of(self.relation, self.subject, self.value)


# --------------------------------------------------------------------------------------------------------------- realms


def _hash(*parts: str) -> int:
    """A 64-bit number that depends on `parts` alone."""
    return int.from_bytes(hashlib.blake2b("\x1f".join(parts).encode(), digest_size=8).digest(), "big")


def _by_hash(salt: str, words: Iterable[str]) -> list[str]:
    return sorted(words, key=lambda word: _hash(salt, word))


_TUNING_PEOPLE = frozenset(_by_hash("people", MEN)[: len(MEN) // 2] + _by_hash("people", WOMEN)[: len(WOMEN) // 2])


@functools.cache
def people(realm: Realm) -> tuple[str, ...]:
    """The people a realm may speak of: all in pretraining text, else disjoint halves (of men and women alike)."""
    if realm is Realm.PRETRAINING:
        return PEOPLE
    return tuple(name for name in PEOPLE if (name in _TUNING_PEOPLE) == (realm is Realm.TUNING))


@functools.cache
def realm_of(relation: str, subject: str, value: str) -> Realm:
    """The one realm a fact belongs to: 60 % pretraining, 20 % tuning, 20 % evaluation.

    `relation` may be any name, so that other contents (sums, choices, ..) can be split the same way. The facts about a
    person outside pretraining all belong to the half of that person.
    """
    share = _hash("fact", relation, subject, value) / 2**64
    if share < 0.60:
        return Realm.PRETRAINING
    if subject in _kinds_by_word() and kind_of(subject) == "person":
        return Realm.TUNING if subject in _TUNING_PEOPLE else Realm.EVALUATION
    return Realm.TUNING if share < 0.80 else Realm.EVALUATION


@functools.cache
def facts_of(realm: Realm, relation: str) -> Mapping[str, tuple[str, ...]]:
    """Subject -> the values it can have in this realm.

    Subjects with fewer than two values are left out: nothing false could be said of them within the realm.
    """
    definition = RELATIONS[relation]
    table = {
        subject: tuple(value for value in definition.values if realm_of(relation, subject, value) is realm)
        for subject in definition.subjects
    }
    return {subject: values for subject, values in table.items() if len(values) > 1}


@functools.cache
def _subjects_of(realm: Realm, relation: str) -> tuple[str, ...]:
    return tuple(facts_of(realm, relation))


@functools.cache
def _evaluation_share(salt: str, words: tuple[str, ...], share: float) -> frozenset[str]:
    """A fixed share of `words`, rounded, at least one: those kept for evaluation."""
    return frozenset(_by_hash(salt, words)[: max(1, round(len(words) * share))])


def _of_realm(salt: str, words: Sequence[str], realm: Realm, share: float = 1 / 3) -> tuple[str, ...]:
    """Of `words`, what a realm may *ask* about: a third in evaluation, the other two thirds in the other realms."""
    kept = _evaluation_share(salt, tuple(words), share)
    return tuple(word for word in words if (word in kept) == (realm is Realm.EVALUATION))


# ---------------------------------------------------------------------------------------------------------- small tools


def sentence(text: str) -> str:
    """`text` with a capital first letter."""
    return text[:1].upper() + text[1:]


def other_than(rng: random.Random, pool: Sequence[str], *excluded: str) -> str:
    """A random element of `pool` that is none of `excluded`. Raises IndexError if there is none."""
    return rng.choice([item for item in pool if item not in excluded])


def drawn(rng: random.Random, pool: Sequence[str], count: int, *excluded: str) -> list[str]:
    """`count` different elements of `pool` (or all, if fewer) in random order, none of them `excluded`."""
    candidates = [item for item in pool if item not in excluded]
    return rng.sample(candidates, min(count, len(candidates)))


def pronoun(person: str) -> str:
    """The subject form, he or she."""
    return "he" if person in MEN else "she"


def possessive(person: str) -> str:
    """The possessive form, his or her."""
    return "his" if person in MEN else "her"


def fill(pattern: str, person: str) -> str:
    """A story or review pattern about `person` ({p}, {he}, {his}) as a sentence."""
    return sentence(pattern.format(p=person, he=pronoun(person), his=possessive(person)))


# ----------------------------------------------------------------------------------------------------- scenes of facts


def random_fact(rng: random.Random, realm: Realm, relation: str | None = None) -> Fact:
    """One fact of the realm, of any relation or of the given one."""
    name = relation or rng.choice(_RELATION_NAMES)
    subject = rng.choice(_subjects_of(realm, name))
    return Fact(name, subject, rng.choice(facts_of(realm, name)[subject]))


_RELATION_NAMES = tuple(RELATIONS)


def scene(
    rng: random.Random,
    realm: Realm,
    size: int | None = None,
    relations: Sequence[str] | None = None,
    repeated: float = 0.2,
) -> tuple[Fact, ...]:
    """A few facts of the realm that can be true together, in random order.

    Args:
        size: number of facts; 1 to 3 if not given.
        relations: names to choose from; all if not given.
        repeated: how often the facts share few relations ("Tom has the cup. Sue has the key."), which makes questions
            harder; otherwise every fact has its own relation as far as possible.

    Within a relation no subject and no value occurs twice.
    """
    count = size or rng.choice((1, 2, 2, 3))
    names = relations or _RELATION_NAMES
    different = max(1, count // 2) if rng.random() < repeated else count
    chosen = rng.sample(names, min(different, len(names)))
    facts: list[Fact] = []
    while len(facts) < count:
        name = chosen[len(facts) % len(chosen)]
        fact = random_fact(rng, realm, name)
        if all(
            fact.relation != old.relation or (fact.subject != old.subject and fact.value != old.value) for old in facts
        ):
            facts.append(fact)
    rng.shuffle(facts)
    return tuple(facts)


def _say(rng: random.Random, patterns: Sequence[str], fact: Fact, form: int | None) -> str:
    pattern = rng.choice(patterns) if form is None else patterns[form % len(patterns)]
    return sentence(pattern.format(s=fact.subject, v=fact.value))


def statement(rng: random.Random, fact: Fact, form: int | None = None) -> str:
    """A sentence that states the fact; `form` chooses the pattern (modulo their number), else it is random."""
    return _say(rng, RELATIONS[fact.relation].statements, fact, form)


def statements(rng: random.Random, facts: Iterable[Fact], form: int | None = None) -> str:
    """One sentence per fact, joined by spaces."""
    return " ".join(statement(rng, fact, form) for fact in facts)


def denial(rng: random.Random, fact: Fact, form: int | None = None) -> str:
    """A sentence that denies the fact ("Tom is not in the kitchen.")."""
    return _say(rng, RELATIONS[fact.relation].denials, fact, form)


def wh_question(rng: random.Random, fact: Fact, form: int | None = None) -> str:
    """A question whose answer is the fact's value."""
    return _say(rng, RELATIONS[fact.relation].wh_questions, fact, form)


def inverse_question(rng: random.Random, fact: Fact, form: int | None = None) -> str:
    """A question whose answer is the fact's subject."""
    return _say(rng, RELATIONS[fact.relation].inverse_questions, fact, form)


def yes_no_question(rng: random.Random, fact: Fact, form: int | None = None) -> str:
    """A question whether the fact is true."""
    return _say(rng, RELATIONS[fact.relation].yes_no_questions, fact, form)


def contradiction(rng: random.Random, fact: Fact, facts: Sequence[Fact], realm: Realm | None = None) -> Fact:
    """A fact that is false where `facts` hold, because `fact` gives the same subject another value.

    Its value comes from another fact of the scene in most cases where that is possible, so that it cannot be told by
    the word alone. Like `fact` it belongs to `realm` (by default the realm of `fact`): a realm that showed the facts of
    another one only as false ones would give them away.
    """
    values = facts_of(realm or fact.realm, fact.relation)[fact.subject]
    near = [f.value for f in facts if f.relation == fact.relation and f.value != fact.value and f.value in values]
    if near and rng.random() < 0.75:
        return Fact(fact.relation, fact.subject, rng.choice(near))
    choices = [value for value in values if value != fact.value]
    return Fact(fact.relation, fact.subject, rng.choice(choices))


def unknown(rng: random.Random, facts: Sequence[Fact], realm: Realm) -> Fact:
    """A fact of the realm about which the scene says nothing, though it speaks of the subject or of the relation."""
    near = rng.choice(facts)
    same_kind = RELATIONS[near.relation].subject_kind
    spoken = {(fact.relation, fact.subject) for fact in facts}
    free = [
        name
        for name, relation in RELATIONS.items()
        if relation.subject_kind == same_kind
        and (name, near.subject) not in spoken
        and near.subject in facts_of(realm, name)
    ]
    taken = {(fact.relation, fact.value) for fact in facts}
    if free and rng.random() < 0.55:
        name = rng.choice(free)
        values = [value for value in facts_of(realm, name)[near.subject] if (name, value) not in taken]
        if values:
            return Fact(name, near.subject, rng.choice(values))
    while True:
        fact = random_fact(rng, realm, near.relation)
        if (fact.relation, fact.subject) not in spoken and (fact.relation, fact.value) not in taken:
            return fact


# ------------------------------------------------------------------------------------------------------ fixed knowledge


@dataclass(frozen=True)
class FactTable:
    """A table of what is always true: subject -> value, with its sentences.

    `invertible` says that the value tells the subject (needed to ask the inverse question without ambiguity).
    """

    name: str
    subject_kind: str
    value_kind: str
    pairs: Mapping[str, str]
    statements: tuple[str, ...]
    denials: tuple[str, ...]
    questions: tuple[str, ...]
    inverse_questions: tuple[str, ...]

    @property
    def invertible(self) -> bool:
        return len(set(self.pairs.values())) == len(self.pairs)

    @property
    def values(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self.pairs.values()))

    def subjects(self, realm: Realm) -> tuple[str, ...]:
        """The subjects a realm may ask about (pretraining text *states* all of the table)."""
        return _of_realm(f"table {self.name}", tuple(self.pairs), realm)

    def statement(self, rng: random.Random, subject: str, value: str | None = None, form: int | None = None) -> str:
        """A sentence that gives the subject its value, or the (wrong) value given."""
        return _fill_known(rng, self.statements, subject, value or self.pairs[subject], form)

    def denial(self, rng: random.Random, subject: str, value: str, form: int | None = None) -> str:
        """A sentence that denies the subject this value."""
        return _fill_known(rng, self.denials, subject, value, form)

    def question(self, rng: random.Random, subject: str, form: int | None = None) -> str:
        """A question for the value of the subject."""
        return _fill_known(rng, self.questions, subject, "", form)

    def inverse_question(self, rng: random.Random, value: str, form: int | None = None) -> str:
        """A question for the subject with this value."""
        return _fill_known(rng, self.inverse_questions, "", value, form)


def _fill_known(rng: random.Random, patterns: Sequence[str], subject: str, value: str, form: int | None) -> str:
    pattern = rng.choice(patterns) if form is None else patterns[form % len(patterns)]
    return sentence(pattern.format(s=subject, v=value))


def _pairs(text: str) -> dict[str, str]:
    words = text.split()
    return dict(zip(words[::2], words[1::2], strict=True))


_TABLES = (
    FactTable(
        "sound", "animal", "sound",
        _pairs("dog woof cat meow cow moo sheep baa duck quack pig oink hen cluck lion roar mouse squeak bee buzz owl "
               "hoot "
               "snake hiss"),
        ("the {s} says {v}.", "{v} is what the {s} says.", "the sound of the {s} is {v}."),
        ("the {s} does not say {v}.", "the sound of the {s} is not {v}."),
        ("what does the {s} say?", "what is the sound of the {s}?"),
        ("which animal says {v}?", "what animal has the sound {v}?"),
    ),
    FactTable(
        "food", "animal", "food",
        _pairs("dog bones cat mice cow grass rabbit carrots monkey bananas bear berries bird seeds squirrel nuts "
               "panda bamboo "
               "frog flies lion meat snail leaves"),
        ("the {s} eats {v}.", "the food of the {s} is {v}.", "the {s} feeds on {v}."),
        ("the {s} does not eat {v}.", "the food of the {s} is not {v}."),
        ("what does the {s} eat?", "what is the food of the {s}?"),
        ("which animal eats {v}?", "which animal feeds on {v}?"),
    ),
    FactTable(
        "home", "animal", "home",
        _pairs("bee hive bird nest spider web lion den horse stable whale sea camel desert frog pond worm soil monkey "
               "jungle "
               "bear cave rabbit hole"),
        ("the {s} lives in the {v}.", "the home of the {s} is the {v}.", "the {v} is home to the {s}."),
        ("the {s} does not live in the {v}.", "the home of the {s} is not the {v}."),
        ("where does the {s} live?", "what is the home of the {s}?"),
        ("which animal lives in the {v}?", "what animal has a home in the {v}?"),
    ),
    FactTable(
        "workplace", "job", "workplace",
        _pairs("cook restaurant teacher classroom doctor hospital farmer field driver bus sailor ship singer theatre "
               "baker bakery painter studio judge court"),
        ("the {s} works in the {v}.", "you can meet the {s} at work in the {v}.", "the {v} is where the {s} works."),
        ("the {s} does not work in the {v}.", "you cannot meet the {s} at work in the {v}."),
        ("where does the {s} work?", "where can you meet the {s} at work?"),
        ("who works in the {v}?", "whom can you meet at work in the {v}?"),
    ),
    FactTable(
        "tool", "job", "tool",
        _pairs("cook pan teacher chalk doctor needle farmer plough driver wheel sailor rope singer microphone baker "
               "oven "
               "painter brush judge law"),
        ("the {s} uses the {v}.", "the tool of the {s} is the {v}.", "the {v} is used by the {s}."),
        ("the {s} does not use the {v}.", "the tool of the {s} is not the {v}."),
        ("what does the {s} use?", "what is the tool of the {s}?"),
        ("who uses the {v}?", "by whom is the {v} used?"),
    ),
    FactTable(
        "capital", "country", "capital",
        _pairs("Mora Zel Tavi Runa Kolo Pesh Berin Dask Lunia Faro Sorn Meck Ilva Tosk Gard Wynn Quill Lima Oslen Brix "
               "Vanta Holm Dresk Ylva"),
        ("the capital of {s} is {v}.", "{v} is the capital of {s}.", "{s} has the capital {v}."),
        ("the capital of {s} is not {v}.", "{v} is not the capital of {s}."),
        ("what is the capital of {s}?", "which capital does {s} have?"),
        ("which country has the capital {v}?", "of which country is {v} the capital?"),
    ),
    FactTable(
        "natural colour", "substance", "colour",
        _pairs("grass green snow white blood red coal black sky blue sun yellow mud brown flamingo pink ash grey plum "
               "purple"),
        ("in nature {s} is {v}.", "the natural colour of {s} is {v}.", "{v} is the natural colour of {s}."),
        ("in nature {s} is not {v}.", "the natural colour of {s} is not {v}."),
        ("what colour is {s} in nature?", "what is the natural colour of {s}?"),
        ("what is {v} in nature?", "what has the natural colour {v}?"),
    ),
    FactTable(
        "class", "noun", "class",
        _pairs("apple fruit pear fruit cherry fruit oak tree pine tree birch tree hammer tool saw tool drill tool "
               "violin instrument drum instrument flute instrument shirt garment sock garment glove garment "
               "salmon fish shark fish trout fish robin bird eagle bird crow bird ant insect wasp insect beetle "
               "insect"),
        ("the {s} is a kind of {v}.", "the {s} belongs to the kind {v}.", "one kind of {v} is the {s}."),
        ("the {s} is not a kind of {v}.", "the {s} does not belong to the kind {v}."),
        ("what kind of thing is the {s}?", "of what kind is the {s}?"),
        ("what is a kind of {v}?", "which one is a kind of {v}?"),
    ),
)  # fmt: skip

TABLES: Mapping[str, FactTable] = {table.name: table for table in _TABLES}


@dataclass(frozen=True)
class Known:
    """One line of a table: `subject` has `value`, always."""

    table: FactTable
    subject: str
    value: str


@functools.cache
def known_facts(realm: Realm) -> tuple[Known, ...]:
    """Every line of every table that a realm may ask about."""
    return tuple(Known(table, subject, table.pairs[subject]) for table in _TABLES for subject in table.subjects(realm))


@dataclass(frozen=True)
class Script:
    """A small story: any of the causes leads to any of the effects. Patterns hold {p} (a person), {he}, {his}."""

    name: str
    causes: tuple[str, ...]
    effects: tuple[str, ...]


def _script(name: str, causes: str, effects: str) -> Script:
    return Script(name, tuple(causes.split(" | ")), tuple(effects.split(" | ")))


SCRIPTS = (
    _script("hunger", "{p} was very hungry. | {p} had not eaten all day.", "{p} ate some bread. | {p} made some soup."),
    _script("thirst", "{p} was thirsty. | {p} had a dry mouth.", "{p} drank some water. | {p} drank some milk."),
    _script("sleep", "{p} was very tired. | {p} had worked all night.", "{p} went to bed. | {p} took a nap."),
    _script("cold", "{p} was cold. | The wind was cold and {p} had no coat.",
            "{p} put on a warm coat. | {p} sat near the fire."),
    _script("heat", "{p} was too hot. | The day was hot for {p}.", "{p} opened the window. | {p} went for a swim."),
    _script("dirt", "{p} was dirty. | {p} fell in the mud.", "{p} had a bath. | {p} washed with soap."),
    _script("illness", "{p} was ill. | {p} had a fever.", "{p} went to see the doctor. | {p} took some medicine."),
    _script("rain", "It started to rain on {p}. | {p} saw dark clouds.",
            "{p} opened the umbrella. | {p} ran inside to stay dry."),
    _script("loss", "{p} lost the money. | {p} could not find the money.",
            "{p} looked under the bed for it. | {p} asked the police for help."),
    _script("present", "{p} got a present. | A friend gave a present to {p}.",
            "{p} said thank you. | {p} opened the paper to look."),
    _script("guilt", "{p} broke a vase. | {p} stepped on a foot.", "{p} said sorry. | {p} felt guilty about it."),
    _script("ghost", "{p} saw a ghost. | A monster came to {p}.", "{p} ran away. | {p} screamed loudly."),
    _script("joke", "{p} heard a joke. | {p} saw a funny clown.", "{p} laughed a lot. | {p} smiled at it."),
    _script("phone", "The phone of {p} rang. | Somebody called {p}.", "{p} answered the phone. | {p} said hello."),
    _script("seed", "{p} planted a seed. | {p} put a seed in the soil.",
            "A flower grew for {p}. | {p} watered the plant."),
    _script("exam", "{p} studied hard. | {p} read every page for the exam.",
            "{p} passed the exam. | {p} got a good mark."),
    _script("train", "{p} had no ticket. | {p} came late to the train.",
            "{p} missed the train. | {p} waited for another train."),
    _script("race", "{p} won the race. | {p} was the first in the race.", "{p} got a medal. | {p} was proud of it."),
    _script("dark", "The light went out for {p}. | {p} was in a dark room.", "{p} lit a candle. | {p} could not see."),
    _script("wound", "{p} cut a finger. | {p} had blood on a hand.", "{p} needed a bandage. | {p} cried in pain."),
    _script("birthday", "It was the birthday of {p}. | {p} was ten years old today.",
            "{p} had a party. | {p} got many cards."),
    _script("thief", "A thief came to the house of {p}. | {p} saw a thief.",
            "{p} locked the door. | {p} shouted for the police."),
    _script("bicycle", "{p} had a flat wheel. | The bicycle of {p} broke.",
            "{p} had to walk home. | {p} pushed the bicycle."),
    _script("letter", "A letter came for {p}. | {p} got a long letter.", "{p} read the letter. | {p} wrote back."),
    _script("burning", "{p} left the pot on the fire. | {p} forgot the pot.",
            "The food of {p} burned. | There was smoke around {p}."),
    _script("noise", "The music was loud for {p}. | {p} heard a loud noise.",
            "{p} closed the ears. | {p} could not sleep."),
    _script("weight", "The box was heavy for {p}. | {p} carried a heavy box.",
            "The back of {p} hurt. | {p} dropped the box."),
    _script("snow", "Snow fell around {p}. | {p} saw a white hill.", "{p} built a snowman. | {p} threw a snowball."),
    _script("pet", "The dog of {p} was wild. | {p} heard the dog bark.",
            "{p} took the dog for a walk. | {p} fed the dog."),
    _script("beach", "{p} had a free day. | {p} came to the beach.", "{p} lay in the sand. | {p} swam in the waves."),
)  # fmt: skip


@functools.cache
def scripts(realm: Realm) -> tuple[Script, ...]:
    """The stories a realm may ask about: ten of thirty in evaluation, the others in the other realms."""
    names = set(_of_realm("script", tuple(script.name for script in SCRIPTS), realm))
    return tuple(script for script in SCRIPTS if script.name in names)


SYNONYMS: tuple[tuple[str, str], ...] = (
    ("big", "large"), ("small", "little"), ("happy", "glad"), ("sad", "unhappy"), ("angry", "cross"),
    ("scared", "afraid"), ("tired", "sleepy"), ("fast", "quick"), ("hard", "difficult"), ("smart", "clever"),
    ("calm", "quiet"), ("rich", "wealthy"), ("pretty", "beautiful"), ("strange", "odd"), ("brave", "bold"),
)  # fmt: skip
ADJECTIVES = tuple(word for pair in SYNONYMS for word in pair)


@functools.cache
def synonyms(realm: Realm) -> tuple[tuple[str, str], ...]:
    """The pairs of synonyms a realm may ask about: five of fifteen in evaluation, the others in the other realms."""
    first = set(_of_realm("synonym", tuple(pair[0] for pair in SYNONYMS), realm))
    return tuple(pair for pair in SYNONYMS if pair[0] in first)


def _zed_word(english: str) -> str:
    number = _hash("zed", english)
    letters: list[str] = []
    for alphabet in ("bdfgklmnprstvz", "aeiou", "bdfgklmnprstvz", "aeiou"):
        number, index = divmod(number, len(alphabet))
        letters.append(alphabet[index])
    return "".join(letters) + "x"


ZED: Mapping[str, str] = {word: _zed_word(word) for word in PLACES[:12] + THINGS[:16] + COLOURS[:8] + FEELINGS[:6]}
"""English word -> its word in the invented language Zed."""


@functools.cache
def zed_words(realm: Realm) -> tuple[str, ...]:
    """The English words whose Zed a realm may ask about: a third in evaluation, the others in the other realms."""
    return _of_realm("zed", tuple(ZED), realm)


# -------------------------------------------------------------------------------------------------------------- reviews

REVIEW_THINGS = _words("film novel song meal game show play concert shop trip dance tour")
POSITIVE_ADJECTIVES = _words("great wonderful lovely excellent amazing fun delightful superb brilliant perfect")
NEGATIVE_ADJECTIVES = _words("awful terrible boring dull horrible poor dreadful nasty ugly stupid")
POSITIVE_OPINIONS = (
    "I loved it.", "I want to try it again.", "I would tell every friend to try it.", "It made me smile.",
    "It was worth the money.", "I could not stop.", "We all cheered.", "It was over too soon.",
    "I thank everyone there.",
)  # fmt: skip
NEGATIVE_OPINIONS = (
    "I hated it.", "I will never try it again.", "I would tell every friend to stay away.", "It made me yawn.",
    "It was a waste of money.", "I could not wait to leave.", "We all complained.", "It went on too long.",
    "I want my coins back.",
)  # fmt: skip
NEUTRAL_SENTENCES = (
    "I went there on Monday.", "My friend came with me.", "It was raining.", "It cost ten coins.", "It took two hours.",
    "We sat near the door.", "I went with my sister.", "It started at eight.",
)  # fmt: skip


@dataclass(frozen=True)
class Review:
    """What somebody says of a thing: `text` (sentences), the `thing` in question, and whether it pleased."""

    text: str
    thing: str
    positive: bool


def review_things(realm: Realm) -> tuple[str, ...]:
    """The things a realm reviews."""
    return _of_realm("review thing", REVIEW_THINGS, realm)


@functools.cache
def _opinions(realm: Realm, positive: bool) -> tuple[tuple[str, ...], tuple[str, ...]]:
    adjectives = POSITIVE_ADJECTIVES if positive else NEGATIVE_ADJECTIVES
    sentences = POSITIVE_OPINIONS if positive else NEGATIVE_OPINIONS
    return _of_realm("adjective", adjectives, realm), _of_realm("opinion", sentences, realm)


def review(rng: random.Random, realm: Realm, positive: bool, thing: str | None = None, *, bare: bool = False) -> Review:
    """A review with at least one word of praise or blame that belongs to the realm, and up to two neutral sentences.

    `bare` leaves out the neutral sentences and the opening.
    """
    thing = thing or rng.choice(review_things(realm))
    adjectives, opinions = _opinions(realm, positive)
    sentences = [f"The {thing} was {rng.choice(adjectives)}."] if rng.random() < 0.8 else []
    sentences += rng.sample(opinions, rng.choice((0, 1, 1)) if sentences else 1)
    if not bare:
        sentences += rng.sample(NEUTRAL_SENTENCES, rng.choice((0, 1, 1, 2)))
    rng.shuffle(sentences)
    opening = "" if bare else rng.choice((f"I tried the {thing}.", f"This is about a {thing}.", "", ""))
    return Review(" ".join([opening, *sentences]).strip(), thing, positive)


# ------------------------------------------------------------------------------------------- people together, and coins


@dataclass(frozen=True)
class Meeting:
    """A text in which a pronoun means one of two people: "Tom met Sue in the park. She was happy."."""

    text: str
    meant: str
    other: str
    predicate: str
    """What the text says of `meant`: "happy", "a cook"."""


def meeting(rng: random.Random, realm: Realm) -> Meeting:
    """A man and a woman of the realm meet; a pronoun then says of one of them a fact (feeling or job) of the realm."""
    fact = random_fact(rng, realm, rng.choice(("feeling", "feeling", "job")))
    meant = fact.subject
    other = rng.choice([name for name in people(realm) if (name in MEN) != (meant in MEN)])
    first, second = rng.sample((meant, other), 2)
    place = rng.choice(PLACES)
    opening = rng.choice(
        (
            f"{first} met {second} in the {place}.",
            f"{first} and {second} went to the {place}.",
            f"{first} saw {second} in the {place}.",
            f"{first} talked to {second}.",
            f"{first} and {second} sat in the {place}.",
        )
    )
    predicate = f"a {fact.value}" if fact.relation == "job" else fact.value
    return Meeting(f"{opening} {sentence(pronoun(meant))} was {predicate}.", meant, other, predicate)


@dataclass(frozen=True)
class Sum:
    """A story of coins: `person` has `first` coins and gets `second` more; `total` is a number word."""

    text: str
    person: str
    first: str
    second: str
    total: str


def sum_of_coins(rng: random.Random, realm: Realm) -> Sum:
    """A sum of two numbers up to six, told as a story; person and numbers together belong to the realm."""
    while True:
        person = rng.choice(people(realm))
        first, second = rng.randint(2, 6), rng.randint(1, 6)
        if realm_of("coins", person, f"{first} {second}") is realm:
            break
    text = f"{person} has {NUMBERS[first]} coins. {sentence(pronoun(person))} gets {NUMBERS[second]} more."
    return Sum(text, person, NUMBERS[first], NUMBERS[second], NUMBERS[first + second])
