"""The pretraining text of the micro-world: an endless stream of short documents.

A base model learns its skills here, and it must not learn the instructions here. The text therefore holds

- the skills as *exchanges* (question and answer, claim and verdict, review and judgement, cause and effect) in many
  surface forms; the bare form "text, line break, question, line break, answer" is kept rare, so that asking an untuned
  model in it is a fair but not a rehearsed baseline;
- patterns repeated with new content, lists with arbitrary labels, word maps: what in-context learning grows from;
- ordinary sentences with every word that instructions use, so that no word of a task is new to the model;
- no instruction, no instructed example with its options, no piece of a task template, no fact of `Realm.TUNING` or
  `Realm.EVALUATION`, and no question about the knowledge kept for evaluation.

Answers are marked while a document is made and come out as character spans, because training weights them.
"""

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeVar, get_args

from openflan.world import language as lang
from openflan.world.carriers import CARRIERS
from openflan.world.language import Fact, Realm, fill, other_than, sentence

__all__ = ["DOCUMENT_SEPARATOR", "STAGES", "Document", "Patterns", "Stage", "document", "documents"]

Stage = Literal["first", "early", "full", "focus", "refresh", "late", "labels"]
STAGES: tuple[Stage, ...] = get_args(Stage)
"""first and early: simple text; full: everything; focus and refresh: one fact and one question or claim per document;
late: everything, with more of these; labels: late, among exercises with labels of whole texts."""

Patterns = Literal["none", "short", "exercises"]
"""Documents that repeat one thing with new content, from which learning in a context grows. none: left out; short: an
exchange again and again, labelled lists, word maps; exercises: fewer of these, values to be recalled, from the first
token on, and exercises under a heading, with choices."""

DOCUMENT_SEPARATOR = "<eos>"
"""Between documents, and between the parts of some: the text of the end-of-text token."""

LONGEST = 240
"""Tokens after which a document of repeated patterns ends; below the training window of 256."""

_REALM = Realm.PRETRAINING
_OPEN, _CLOSE = "\x02", "\x03"
_TOKEN = re.compile(r"<eos>|\n|\w+|[^\w\s]")

Rng = random.Random
_Item = TypeVar("_Item")
Maker = Callable[[Rng], str]


@dataclass(frozen=True)
class Document:
    """A text and the character spans (start, end) of its answers, in order and disjoint."""

    text: str
    answers: tuple[tuple[int, int], ...]


class Exchange(NamedTuple):
    """Something to be asked: a context (may be empty), a question, the right answer and a wrong one.

    Answers carry no full stop.
    """

    context: str
    question: str
    answer: str
    wrong: str


def document(rng: Rng, stage: Stage, *, patterns: Patterns = "short") -> Document:
    """One document of the stage.

    Its length is not bounded; nearly all have fewer than 250 tokens, with long patterns fewer than 500.
    """
    makers, weights = _MIXTURES[patterns][stage]
    return _unmarked(rng.choices(makers, weights)[0](rng))


def documents(rng: Rng, stage: Stage, *, patterns: Patterns = "short") -> Document:
    """One training text: a document, or (15 %) two to four joined by the document separator."""
    count = 1 if rng.random() < 0.85 else rng.choice((2, 3, 4))
    parts = [document(rng, stage, patterns=patterns) for _ in range(count)]
    text, answers = "", []
    for part in parts:
        if text:
            text += f" {DOCUMENT_SEPARATOR} "
        answers.extend((start + len(text), end + len(text)) for start, end in part.answers)
        text += part.text
    return Document(text, tuple(answers))


def _unmarked(marked: str) -> Document:
    plain: list[str] = []
    answers: list[tuple[int, int]] = []
    length = start = 0
    for piece in re.split(f"([{_OPEN}{_CLOSE}])", marked):
        if piece == _OPEN:
            start = length
        elif piece == _CLOSE:
            answers.append((start, length))
        else:
            plain.append(piece)
            length += len(piece)
    return Document("".join(plain), tuple(answers))


def _mark(answer: str) -> str:
    return f"{_OPEN}{answer}{_CLOSE}"


def _size(text: str) -> int:
    """Number of tokens."""
    return len(_TOKEN.findall(text))


def _stop(text: str) -> str:
    """`text` without its full stop, for answers that are whole sentences."""
    return text.removesuffix(".")


def _person(rng: Rng) -> str:
    return rng.choice(lang.PEOPLE)


def _two_people(rng: Rng) -> tuple[str, str]:
    first, second = rng.sample(lang.PEOPLE, 2)
    return first, second


def _shuffled(rng: Rng, items: Sequence[_Item]) -> list[_Item]:
    return rng.sample(items, len(items))


def _scene(
    rng: Rng, size: int | None = None, repeated: float = 0.2, relations: Sequence[str] | None = None
) -> tuple[Fact, ...]:
    return lang.scene(rng, _REALM, size, relations, repeated)


def _wrong_subject(rng: Rng, fact: Fact, facts: Sequence[Fact]) -> str:
    """Another subject of the same kind, one of the scene where there is one."""
    kind = lang.RELATIONS[fact.relation].subject_kind
    near = [f.subject for f in facts if lang.RELATIONS[f.relation].subject_kind == kind and f.subject != fact.subject]
    return rng.choice(near) if near else other_than(rng, lang.KINDS[kind], fact.subject)


def _opposite(answer: str) -> str:
    return "no" if answer == "yes" else "yes"


# ------------------------------------------------------------------------------------------------ how an exchange looks

_PLAIN = "{context}\n{question}\n{Answer}."
_FORMS = (
    "{context} {question} {Answer}.",
    "{question}\n{context}\n{Answer}.",
    "{question} {context} {Answer}.",
    "Question: {question}\n{context}\nAnswer: {answer}.",
    "{context}\nQ: {question}\nA: {answer}",
    "{context}\n{asker} asked: {question}\n{teller} said: {answer}.",
    "{asker} wanted to know: {question}\n{context}\nSo {teller} told {asker}: {answer}.",
    "{asker}: {question}\n{teller}: {context}\n{asker}: I see, {answer}.",
    "{asker} read this: {context}\n{teller} came and asked: {question}\n{asker} wrote: {answer}.",
    "{context}\nTest, number {number}: {question}\n{asker} wrote: {answer}. Good.",
    "Notes of {asker}\n{context}\nThen {teller} asked: {question}\nThe reply of {asker} was {answer}.",
    "* {context}\n* {question}\n* {answer}",
    "{context}\nTell me, {question}\nWell, {answer}.",
    "{question} Here it says: {context}\nIt must be {answer}.",
    "{asker} did not know this: {question} But here it says: {context}\nNow {asker} knows: {answer}.",
    "{context}\n{question}\n{asker}: {wrong}.\n{teller}: No, {answer}.",
    "{context}\n{question}\n{asker} said {one} and {teller} said {two}. The good reply was {answer}.",
    "{asker} thinks {one}, {teller} thinks {two}. {context}\n{question}\nIt is {answer}.",
    "{context}\n{asker} can say {one} or {two}. {question}\n{asker} says {answer}.",
    "{context}\n{question} ({one} / {two})\n{Answer}.",
    "{question}\n{one} / {two}\n{context}\n{Answer}.",
    "{context}\n{question} It may be {one}, it may be {two}.\nIt is {answer}.",
    "{context}\n{question}\n{aside}\n{asker} replied: {answer}.",
    "Dear {asker}, {question} Yours, {teller}\nDear {teller}, {context}\nSo I say {answer}. Yours, {asker}",
    "Page {number}\n{context}\n{question}\nSee below\n{answer}",
    "{context} ({question} {Answer}.)",
    "{aside}\n{context}\n{asker} would like to know: {question}\n{Answer}.",
    "Quiz time! {context}\n{question}\n{asker}: {wrong}! Wrong.\n{teller}: {answer}! Yes.",
    "{context}\n{question} = {answer}",
    "{context}\n- {question}\n- {answer}",
)
_PLAIN_SHARE = 0.12


def _without_context(form: str) -> str:
    for piece, rest in (("{context}\n", ""), ("\n{context}", ""), (" {context}", ""), ("{context} ", "")):
        form = form.replace(piece, rest)
    return form


_BARE_FORMS = {form: _without_context(form) for form in (_PLAIN, *_FORMS)}


def _form(rng: Rng) -> str:
    return _PLAIN if rng.random() < _PLAIN_SHARE else rng.choice(_FORMS)


def _rendered(rng: Rng, exchange: Exchange, form: str, pair: tuple[str, str] | None = None) -> str:
    asker, teller = pair or _two_people(rng)
    one, two = _shuffled(rng, (exchange.answer, exchange.wrong))
    pattern = form if exchange.context else _BARE_FORMS[form]
    return sentence(
        pattern.format(
            context=exchange.context,
            question=exchange.question,
            answer=_mark(exchange.answer),
            Answer=_mark(sentence(exchange.answer)),
            wrong=exchange.wrong,
            one=one,
            two=two,
            asker=asker,
            teller=teller,
            number=rng.choice(lang.NUMBERS[1:]),
            aside=lang.statement(rng, lang.random_fact(rng, _REALM)) if "{aside}" in form else "",
        )
    )


_LINES = ("{question} {Answer}.", "Q: {question}\nA: {answer}", "{asker}: {question}\n{teller}: {Answer}.",
          "{asker} asked: {question} The answer was: {answer}.", "- {question}\n- {Answer}.",
          "{question} - {Answer}.")  # fmt: skip
_PLAIN_LINE = "{question}\n{Answer}."


def _line_form(rng: Rng) -> str:
    return _PLAIN_LINE if rng.random() < _PLAIN_SHARE else rng.choice(_LINES)


def _line(form: str, question: str, answer: str, pair: tuple[str, str]) -> str:
    asker, teller = pair
    return form.format(
        question=question, answer=_mark(answer), Answer=_mark(sentence(answer)), asker=asker, teller=teller
    )


# ------------------------------------------------------------------------------------- exchanges about what a text says


def _ask_value(rng: Rng) -> Exchange:
    facts = _scene(rng)
    fact = rng.choice(facts)
    wrong = lang.contradiction(rng, fact, facts).value
    return Exchange(lang.statements(rng, facts), lang.wh_question(rng, fact), fact.value, wrong)


def _ask_subject(rng: Rng) -> Exchange:
    facts = _scene(rng)
    fact = rng.choice(facts)
    wrong = _wrong_subject(rng, fact, facts)
    return Exchange(lang.statements(rng, facts), lang.inverse_question(rng, fact), fact.subject, wrong)


def _ask_value_or_unknown(rng: Rng) -> Exchange:
    facts = _scene(rng)
    if rng.random() < 0.5:
        fact = lang.unknown(rng, facts, _REALM)
        return Exchange(lang.statements(rng, facts), lang.wh_question(rng, fact), "unknown", fact.value)
    fact = rng.choice(facts)
    return Exchange(lang.statements(rng, facts), lang.wh_question(rng, fact), fact.value, "unknown")


class _Claim(NamedTuple):
    fact: Fact
    denied: bool
    answer: str
    """yes, no or maybe: whether the claim (the fact, or its denial) is true."""


def _claim(rng: Rng, facts: Sequence[Fact], unknown: float, denied: float) -> _Claim:
    """A claim about the scene; yes and no are equally frequent, with and without denial."""
    is_denied = rng.random() < denied
    if rng.random() < unknown:
        return _Claim(lang.unknown(rng, facts, _REALM), is_denied, "maybe")
    fact = rng.choice(facts)
    stated = rng.random() < 0.5
    return _Claim(
        fact if stated else lang.contradiction(rng, fact, facts), is_denied, "yes" if stated != is_denied else "no"
    )


def _said(rng: Rng, claim: _Claim) -> str:
    return lang.denial(rng, claim.fact) if claim.denied else lang.statement(rng, claim.fact)


def _ask_yes_no(rng: Rng) -> Exchange:
    facts = _scene(rng)
    claim = _claim(rng, facts, unknown=0.25, denied=0.0)
    return Exchange(
        lang.statements(rng, facts), lang.yes_no_question(rng, claim.fact), claim.answer, _opposite(claim.answer)
    )


_CLAIM_QUESTIONS = (
    "So it is sure that {claim} Yes?",
    "{name} told me that {claim} Was {name} right?",
    "{name} says: {claim} Can we trust {name}?",
    "{claim} Does it fit?",
    "Does it follow that {claim} What say you?",
    "{name} said: {claim} Is it so?",
    "Do we know that {claim} Well?",
    "{claim} True?",
)


def _claim_question(rng: Rng, claim: str) -> str:
    return rng.choice(_CLAIM_QUESTIONS).format(claim=claim, name=_person(rng))


def _ask_claim(rng: Rng) -> Exchange:
    facts = _scene(rng, rng.choice((1, 1, 2, 2, 3)))
    claim = _claim(rng, facts, unknown=0.22, denied=0.45)
    question = _claim_question(rng, _said(rng, claim))
    return Exchange(lang.statements(rng, facts), question, claim.answer, _opposite(claim.answer))


def _ask_who_is_right(rng: Rng) -> Exchange:
    facts = _scene(rng)
    fact = rng.choice(facts)
    false = lang.contradiction(rng, fact, facts)
    kind = rng.random()
    if kind < 0.5:
        right, wrong = lang.statement(rng, fact), lang.statement(rng, false)
    elif kind < 0.75:
        right, wrong = lang.denial(rng, false), lang.denial(rng, fact)
    else:
        right, wrong = lang.statement(rng, fact), lang.denial(rng, fact)
    first, second = _two_people(rng)
    first_is_right = rng.random() < 0.5
    said = (right, wrong) if first_is_right else (wrong, right)
    question = rng.choice(("Who is right?", "Whom do you believe?", "Who is not wrong?"))
    names = (first, second) if first_is_right else (second, first)
    return Exchange(lang.statements(rng, facts), f"{first}: {said[0]} {second}: {said[1]} {question}", *names)


def _ask_agreement(rng: Rng) -> Exchange:
    fact = lang.random_fact(rng, _REALM)
    count = len(lang.RELATIONS[fact.relation].statements)
    first_form, second_form = rng.sample(range(count), 2)
    same = rng.random() < 0.5
    other = fact if same else _changed(rng, fact)
    first, second = _two_people(rng)
    question = rng.choice((f"Do {first} and {second} agree?", "Did both tell one thing?", "Is it one and the same?"))
    context = f"{first}: {lang.statement(rng, fact, first_form)} {second}: {lang.statement(rng, other, second_form)}"
    return Exchange(context, question, "yes" if same else "no", "no" if same else "yes")


def _changed(rng: Rng, fact: Fact) -> Fact:
    """A fact that says something else: another value, or another subject."""
    if rng.random() < 0.5:
        return lang.contradiction(rng, fact, (fact,))
    while True:
        other = lang.random_fact(rng, _REALM, fact.relation)
        if other.subject != fact.subject and lang.realm_of(fact.relation, other.subject, fact.value) is _REALM:
            return Fact(fact.relation, other.subject, fact.value)


# -------------------------------------------------------------------------------------------- exchanges about knowledge


def _ask_known(rng: Rng) -> Exchange:
    known = rng.choice(lang.known_facts(_REALM))
    wrong = other_than(rng, known.table.values, known.value)
    return Exchange("", known.table.question(rng, known.subject), known.value, wrong)


def _ask_known_subject(rng: Rng) -> Exchange:
    while True:
        known = rng.choice(lang.known_facts(_REALM))
        if known.table.invertible:
            break
    wrong = other_than(rng, tuple(known.table.pairs), known.subject)
    return Exchange("", known.table.inverse_question(rng, known.value), known.subject, wrong)


def _ask_known_claim(rng: Rng) -> Exchange:
    known = rng.choice(lang.known_facts(_REALM))
    true = rng.random() < 0.5
    value = known.value if true else other_than(rng, known.table.values, known.value)
    if rng.random() < 0.4:
        claim, answer = known.table.denial(rng, known.subject, value), "no" if true else "yes"
    else:
        claim, answer = known.table.statement(rng, known.subject, value), "yes" if true else "no"
    return Exchange("", _claim_question(rng, claim), answer, _opposite(answer))


def _ask_known_of_person(rng: Rng) -> Exchange:
    """What a table says of a person by way of the job or the pet a text gives the person."""
    relation, names = rng.choice((("job", ("workplace", "tool")), ("pet", ("sound", "food"))))
    table = lang.TABLES[rng.choice(names)]
    while True:
        fact = lang.random_fact(rng, _REALM, relation)
        if fact.value in table.subjects(_REALM):
            break
    whose = fact.subject if relation == "job" else f"the pet of {fact.subject}"
    value = table.pairs[fact.value]
    wrong = other_than(rng, table.values, value)
    pattern = rng.choice(table.questions).replace("the {s}", "{s}")
    context = lang.statement(rng, fact)
    if rng.random() < 0.5:
        return Exchange(context, sentence(pattern.format(s=whose)), value, wrong)
    true, denied = rng.random() < 0.5, rng.random() < 0.4
    claim = rng.choice(table.denials if denied else table.statements).replace("the {s}", "{s}")
    answer = "yes" if true != denied else "no"
    question = _claim_question(rng, sentence(claim.format(s=whose, v=value if true else wrong)))
    return Exchange(context, question, answer, _opposite(answer))


def _ask_told_of_person(rng: Rng) -> Exchange:
    """A text gives a person what tables give animals or jobs ("Tom lives in the desert.").

    It makes all words of the tables answers, those of lines that are never asked too: otherwise the model would learn
    that these words answer nothing.
    """
    person = _person(rng)
    name = rng.choice(("sound", "food", "home", "workplace", "tool", "capital", "animal", "country", "substance"))
    if name in lang.TABLES and name != "capital":
        table = lang.TABLES[name]
        value, wrong = rng.sample(table.values, 2)
        told, question = (
            rng.choice(patterns).replace("the {s}", "{s}") for patterns in (table.statements, table.questions)
        )
    else:
        table_name, told, question = _TOLD[name]
        table = lang.TABLES[table_name]
        value, wrong = rng.sample(table.values if name == "capital" else tuple(table.pairs), 2)
    contexts = [sentence(told.format(s=person, v=value))]
    if rng.random() < 0.5:
        contexts.append(sentence(told.format(s=other_than(rng, lang.PEOPLE, person), v=wrong)))
    return Exchange(" ".join(_shuffled(rng, contexts)), sentence(question.format(s=person)), value, wrong)


_TOLD = {
    "capital": ("capital", "{s} went to {v}.", "Where did {s} go?"),
    "animal": ("home", "{s} saw the {v}.", "Which animal did {s} see?"),
    "country": ("capital", "{s} came from {v}.", "From which country did {s} come?"),
    "substance": ("natural colour", "{s} found {v}.", "What did {s} find?"),
}


_EFFECT_QUESTIONS = ("What came of it?", "And then?", "What did {p} do?", "How did it go on?", "What followed?",
                     "What will come now?", "How does it end?")  # fmt: skip
_CAUSE_QUESTIONS = ("What made it so?", "How did it come to this?", "What was there before?", "What started it?",
                    "Why was that?", "What had been the matter?")  # fmt: skip


def _ask_effect(rng: Rng) -> Exchange:
    person = _person(rng)
    script, other = rng.sample(lang.scripts(_REALM), 2)
    return Exchange(
        fill(rng.choice(script.causes), person),
        fill(rng.choice(_EFFECT_QUESTIONS), person),
        _stop(fill(rng.choice(script.effects), person)),
        _stop(fill(rng.choice(other.effects), person)),
    )


def _ask_cause(rng: Rng) -> Exchange:
    person = _person(rng)
    script, other = rng.sample(lang.scripts(_REALM), 2)
    return Exchange(
        fill(rng.choice(script.effects), person),
        fill(rng.choice(_CAUSE_QUESTIONS), person),
        _stop(fill(rng.choice(script.causes), person)),
        _stop(fill(rng.choice(other.causes), person)),
    )


_SENSE_QUESTIONS = ("And so {effect} Does it make sense?", "Could it go on like this: {effect} What say you?",
                    "Then: {effect} Is the story fine?")  # fmt: skip


def _ask_sense(rng: Rng) -> Exchange:
    person = _person(rng)
    script, other = rng.sample(lang.scripts(_REALM), 2)
    sensible = rng.random() < 0.5
    effect = fill(rng.choice((script if sensible else other).effects), person)
    question = rng.choice(_SENSE_QUESTIONS).format(effect=effect)
    return Exchange(
        fill(rng.choice(script.causes), person), question, "yes" if sensible else "no", "no" if sensible else "yes"
    )


def _ask_synonym(rng: Rng) -> Exchange:
    word, same = _shuffled(rng, rng.choice(lang.synonyms(_REALM)))
    other = other_than(rng, _asked_adjectives(), word, same)
    if rng.random() < 0.5:
        question = rng.choice((f"What is another word for {word}?", f"How else can I say {word}?",
                               f"A word like {word}, please?"))  # fmt: skip
        return Exchange("", question, same, other)
    is_same = rng.random() < 0.5
    shown = same if is_same else other
    context = rng.choice(("", f"{_person_who_may_be(rng, word)} is {word}."))
    question = rng.choice((f"Is {word} like {shown}?", f"If I say {shown} for {word}, is it well said?"))
    return Exchange(context, question, "yes" if is_same else "no", "no" if is_same else "yes")


def _person_who_may_be(rng: Rng, adjective: str) -> str:
    """A person for "Tom is happy.": where the adjective is a feeling, that is a fact, and must be of pretraining."""
    while True:
        person = _person(rng)
        if adjective not in lang.FEELINGS or lang.realm_of("feeling", person, adjective) is _REALM:
            return person


def _asked_adjectives() -> tuple[str, ...]:
    return tuple(word for pair in lang.synonyms(_REALM) for word in pair)


def _ask_kind(rng: Rng) -> Exchange:
    kind, other = rng.sample(tuple(lang.KINDS), 2)
    word = rng.choice(lang.KINDS[kind])
    return Exchange(
        "", rng.choice((f"What sort of word is {word}?", f"{sentence(word)} is a word for what?")), kind, other
    )


def _ask_zed(rng: Rng) -> Exchange:
    word, other = rng.sample(lang.zed_words(_REALM), 2)
    if rng.random() < 0.5:
        question = rng.choice((f"How do they say {word} in Zed?", f"What is {word} in Zed?"))
        return Exchange("", question, lang.ZED[word], lang.ZED[other])
    zed = lang.ZED[word]
    return Exchange("", rng.choice((f"What is {zed} for us?", f"{sentence(zed)}, what is it?")), word, other)


def _ask_sum(rng: Rng) -> Exchange:
    story = lang.sum_of_coins(rng, _REALM)
    wrong = other_than(rng, lang.NUMBERS[2:], story.total)
    return Exchange(story.text, rng.choice((f"How rich is {story.person}?", "How much is it all?")), story.total, wrong)


# ----------------------------------------------------------------------------------- exchanges about reviews and people


class _Judgement(NamedTuple):
    questions: tuple[str, ...]
    positive: str
    negative: str


_JUDGEMENTS = (
    _Judgement(("How was the {thing}?", "What was the {thing} like?", "How did {name} find the {thing}?",
                "In one word, the {thing}?"), "good", "bad"),
    _Judgement(("What does {name} think of the {thing}?", "How are these words about the {thing}?",
                "On the whole, the words of {name} are?"), "positive", "negative"),
    _Judgement(("Will {name} try it again?", "Should I try the {thing}?", "Did {name} enjoy the {thing}?",
                "Was {name} glad to try it?", "Would {name} go again?"), "yes", "no"),
    _Judgement(("How was {name} after the {thing}?", "What mood was {name} in?", "How did the {thing} leave {name}?"),
               "happy", "sad"),
    _Judgement(("What was {name} then?", "Which word fits {name} now?"), "glad", "unhappy"),
)  # fmt: skip
_REVIEW_FRAMES = ("{name} wrote: {text}", "{name} said: {text}", "From {name}: {text}", "{text} - {name}",
                  "{text} So said {name}.")  # fmt: skip


def _ask_review(rng: Rng, judgement: _Judgement | None = None) -> Exchange:
    positive = rng.random() < 0.5
    review = lang.review(rng, _REALM, positive)
    name = _person(rng)
    asked = judgement or rng.choice(_JUDGEMENTS)
    answers = (asked.positive, asked.negative) if positive else (asked.negative, asked.positive)
    return Exchange(
        rng.choice(_REVIEW_FRAMES).format(name=name, text=review.text),
        rng.choice(asked.questions).format(name=name, thing=review.thing),
        *answers,
    )


def _ask_doer(rng: Rng) -> Exchange:
    """Two people, two stories: who did it?"""
    first, second = _two_people(rng)
    script, other = rng.sample(lang.scripts(_REALM), 2)
    patterns = [rng.choice((*story.causes, *story.effects)) for story in (script, other)]
    mine, others = rng.choice((patterns, patterns[::-1]))
    if not mine.startswith("{p} "):
        return _ask_person_meant(rng)
    told = _shuffled(rng, (fill(mine, first), fill(others, second)))
    return Exchange(" ".join(told), "Who " + _stop(mine.removeprefix("{p} ")) + "?", first, second)


def _ask_owner(rng: Rng) -> Exchange:
    """A possessive that means one of two people: whose thing is it?"""
    meeting = lang.meeting(rng, _REALM)
    thing, colour = rng.choice(lang.THINGS), rng.choice(lang.COLOURS)
    while lang.realm_of("owned colour", thing, colour) is not _REALM:
        thing, colour = rng.choice(lang.THINGS), rng.choice(lang.COLOURS)
    opening = meeting.text.split(". ")[0]
    text = f"{opening}. {sentence(lang.possessive(meeting.meant))} {thing} is {colour}."
    question = rng.choice(
        (f"Who has the {colour} {thing}?", f"The {thing} of whom is {colour}?", f"Who owns this {thing}?")
    )
    return Exchange(text, question, meeting.meant, meeting.other)


def _ask_taken(rng: Rng) -> Exchange:
    """Some things to take, two people who take one each."""
    while True:
        first, second = _two_people(rng)
        things = lang.drawn(rng, lang.THINGS, 3)
        pairs = ((first, things[0]), (second, things[1]))
        if all(lang.realm_of("choice", name, thing) is _REALM for name, thing in pairs):
            break
    listed = _shuffled(rng, things)
    told = " ".join(f"{name} took the {thing}." for name, thing in _shuffled(rng, pairs))
    opening = rng.choice(("There was", f"{first} and {second} saw", "They could take"))
    context = f"{opening} the {listed[0]}, the {listed[1]} or the {listed[2]}. {told}"
    if rng.random() < 0.6:
        return Exchange(
            context, rng.choice((f"What did {first} take?", f"Which thing has {first} now?")), things[0], things[1]
        )
    return Exchange(context, f"Who took the {things[0]}?", first, second)


def _ask_person_meant(rng: Rng) -> Exchange:
    meeting = lang.meeting(rng, _REALM)
    if rng.random() < 0.6:
        questions = (f"Who was {meeting.predicate}?", "Who is meant?", "Of whom do we read at the end?",
                     f"{sentence(meeting.predicate)}, but who?")  # fmt: skip
        return Exchange(meeting.text, rng.choice(questions), meeting.meant, meeting.other)
    right = rng.random() < 0.5
    name = meeting.meant if right else meeting.other
    question = rng.choice((f"Was {name} {meeting.predicate}?", f"Is {name} meant?"))
    return Exchange(meeting.text, question, "yes" if right else "no", "no" if right else "yes")


_ASKS: tuple[tuple[Callable[[Rng], Exchange], float], ...] = (
    (_ask_value, 6), (_ask_subject, 6), (_ask_value_or_unknown, 2.5), (_ask_yes_no, 5.5), (_ask_claim, 9),
    (_ask_who_is_right, 4), (_ask_agreement, 3), (_ask_known, 3), (_ask_known_subject, 2), (_ask_known_claim, 2),
    (_ask_effect, 2.5), (_ask_cause, 2.2), (_ask_sense, 2.5), (_ask_review, 4.5), (_ask_person_meant, 3),
    (_ask_known_of_person, 1.5), (_ask_told_of_person, 2), (_ask_doer, 1.5), (_ask_owner, 1), (_ask_taken, 1),
    (_ask_synonym, 2), (_ask_kind, 1), (_ask_zed, 1.4), (_ask_sum, 0.8),
)  # fmt: skip
_ASK_FUNCTIONS = [ask for ask, _ in _ASKS]
_ASK_WEIGHTS = [weight for _, weight in _ASKS]


def _any_ask(rng: Rng) -> Callable[[Rng], Exchange]:
    ask = rng.choices(_ASK_FUNCTIONS, _ASK_WEIGHTS)[0]
    if ask is _ask_review:
        judgement = rng.choice(_JUDGEMENTS)
        return lambda source: _ask_review(source, judgement)
    return ask


# ---------------------------------------------------------------------------------------------------------- plain text


def _scene_text(rng: Rng) -> str:
    facts = _scene(rng)
    lines = [lang.statements(rng, facts)]
    if rng.random() < 0.5:
        fact = rng.choice(facts)
        false = lang.contradiction(rng, fact, facts)
        kind = rng.random()
        if kind < 0.4:
            lines.append(f"So {_lower(lang.statement(rng, fact))}")
        elif kind < 0.7:
            lines.append(lang.denial(rng, false))
        else:
            lines.append(f"{lang.denial(rng, false)} {lang.statement(rng, fact)}")
    return " ".join(lines)


def _lower(text: str) -> str:
    """`text` without the capital of an article or pronoun at its start."""
    first = text.split(" ", 1)[0]
    return text[0].lower() + text[1:] if first in {"The", "You", "There", "They", "A"} else text


def _reader_text(rng: Rng) -> str:
    """Simple text: a scene, plain questions, each fact asked once (repeated questions teach copying, not reading)."""
    return _reader(rng, None)


def _first_reader_text(rng: Rng) -> str:
    """The same with one form per sentence and one per exchange, where looking up an answer forms first."""
    return _reader(rng, 0)


def _reader(rng: Rng, form: int | None) -> str:
    facts = _scene(rng, rng.choice((1, 2, 3)))
    pair = _two_people(rng)
    style = _LINES[0] if form == 0 else _line_form(rng)
    lines = [lang.statements(rng, facts, form)]
    for fact in _shuffled(rng, facts):
        if rng.random() < 0.5:
            lines.append(_line(style, lang.wh_question(rng, fact, form), fact.value, pair))
        else:
            lines.append(_line(style, lang.inverse_question(rng, fact, form), fact.subject, pair))
    return "\n".join(lines)


def _talk_text(rng: Rng) -> str:
    """Several questions about one scene, each fact asked at most once per direction."""
    facts = _scene(rng, rng.choice((2, 2, 3, 3)))
    pair = _two_people(rng)
    style = _line_form(rng)
    lines = [lang.statements(rng, facts)]
    for fact in _shuffled(rng, facts):
        kind = rng.random()
        if kind < 0.28:
            answer = fact.value if rng.random() < 0.7 else _stop(lang.statement(rng, fact))
            lines.append(_line(style, lang.wh_question(rng, fact), answer, pair))
        elif kind < 0.52:
            answer = fact.subject if rng.random() < 0.7 else _stop(lang.statement(rng, fact))
            lines.append(_line(style, lang.inverse_question(rng, fact), answer, pair))
        elif kind < 0.92:
            claim = _claim(rng, (fact,) if rng.random() < 0.5 else facts, unknown=0.2, denied=0.0)
            lines.append(_line(style, lang.yes_no_question(rng, claim.fact), claim.answer, pair))
        else:
            missing = lang.unknown(rng, facts, _REALM)
            answer = rng.choice(("nobody can say", "nobody knows", "it is unknown", "unknown"))
            lines.append(_line(style, lang.wh_question(rng, missing), answer, pair))
    return "\n".join(lines)


def _knowledge_text(rng: Rng) -> str:
    """Lines of the tables, stated (all of them), corrected (all) or asked (those not kept for evaluation)."""
    lines: list[str] = []
    for _ in range(rng.choice((2, 3, 4))):
        table = rng.choice(tuple(lang.TABLES.values()))
        subject = rng.choice(tuple(table.pairs))
        value = table.pairs[subject]
        told = table.statement(rng, subject)
        kind = rng.random()
        if kind < 0.2 and subject in table.subjects(_REALM):
            lines.append(_line(_line_form(rng), table.question(rng, subject), value, _two_people(rng)))
        elif kind < 0.3 and table.invertible and subject in table.subjects(_REALM):
            lines.append(_line(_line_form(rng), table.inverse_question(rng, value), subject, _two_people(rng)))
        elif kind < 0.42 and subject in table.subjects(_REALM):
            false = table.statement(rng, subject, other_than(rng, table.values, value))
            lines.append(f"{_person(rng)} said: {false} That is {_mark(rng.choice(('false', 'wrong')))}. {told}")
        elif kind < 0.50:
            denied = table.denial(rng, subject, other_than(rng, table.values, value))
            lines.append(rng.choice((denied, f"{denied} {told}", f"{told} {denied}")))
        elif kind < 0.57 and subject in table.subjects(_REALM):
            lines.append(f"{_person(rng)} said: {told} That is {_mark(rng.choice(('true', 'correct')))}.")
        else:
            lines.append(told)
    return rng.choice(("\n", " ")).join(lines)


def _teller_of(rng: Rng, script: lang.Script) -> str:
    """A person for a story; never one of the evaluation rows for a story of the evaluation rows."""
    if script in lang.scripts(_REALM):
        return _person(rng)
    return rng.choice(lang.people(Realm.TUNING))


_FORWARD = ("{cause} Then {effect}", "{cause} So {effect}", "{cause} {effect}", "{cause} After that {effect}",
            "First {cause} In the end {effect}", "When this was so: {cause} it went on: {effect}")  # fmt: skip
_BACKWARD = ("{effect} This happened because {cause}", "{effect} The reason was: {cause}",
             "{effect} It all began so: {cause}",
             "{effect} This was so because {cause}")  # fmt: skip


def _cleft_text(rng: Rng) -> str:
    """Who did it, and who did not; with denials of feelings and jobs in the past."""
    first, second = _two_people(rng)
    while True:
        script = rng.choice(lang.scripts(_REALM))
        pattern = rng.choice((*script.causes, *script.effects))
        if pattern.startswith("{p} "):
            break
    did = _stop(pattern.removeprefix("{p} "))
    fact = lang.random_fact(rng, _REALM, rng.choice(("feeling", "job")))
    said = f"a {fact.value}" if fact.relation == "job" else fact.value
    meeting = lang.meeting(rng, _REALM)
    return rng.choice(
        (
            f"{first} {did}. It was {_mark(first)} who {did}. It was not {_mark(second)} who {did}.",
            f"It was {first} who {did}, and {second} only saw it.",
            f"{meeting.text} So {meeting.other} was not {meeting.predicate}, {_mark(meeting.meant)} was.",
            f"{fact.subject} was not {said}, but {second} was.",
            f"The {rng.choice(lang.ANIMALS)} of {first} is {rng.choice(lang.ADJECTIVES)}.",
        )
    )


def _story_text(rng: Rng) -> str:
    """Two or three causes with their effects (all stories), sometimes one that does not fit, said to be so."""
    lines: list[str] = []
    for _ in range(rng.choice((1, 2, 2, 3))):
        script = rng.choice(lang.SCRIPTS)
        person = _teller_of(rng, script)
        cause, effect = fill(rng.choice(script.causes), person), fill(rng.choice(script.effects), person)
        if rng.random() < 0.15:
            other = rng.choice([other for other in lang.SCRIPTS if other is not script])
            false = fill(rng.choice(other.effects), person)
            lines.append(
                f"{cause} {false} {rng.choice(('This does not fit.', 'This makes no sense.', 'That is strange.'))}"
            )
        else:
            forms = _FORWARD if rng.random() < 0.6 else _BACKWARD
            lines.append(rng.choice(forms).format(cause=cause, effect=_mark(effect) if forms is _FORWARD else effect))
    return rng.choice(("\n", " ")).join(lines)


def _review_parts(rng: Rng) -> tuple[lang.Review, str]:
    """A review and its writer. Words of evaluation reviews are shown too, but about other things, by other people."""
    positive = rng.random() < 0.5
    share = rng.random()
    if share < 0.6:
        return lang.review(rng, _REALM, positive), _person(rng)
    if share < 0.75:
        return lang.review(rng, _REALM, positive, rng.choice(lang.review_things(Realm.EVALUATION)), bare=True), _person(
            rng
        )
    return _review_in_evaluation_words(rng, positive), rng.choice(lang.people(Realm.TUNING))


def _review_in_evaluation_words(rng: Rng, positive: bool) -> lang.Review:
    """A review in words of evaluation reviews about a thing that those are not about."""
    return lang.review(rng, Realm.EVALUATION, positive, rng.choice(lang.review_things(_REALM)), bare=True)


def _review_text(rng: Rng) -> str:
    lines: list[str] = []
    for _ in range(rng.choice((1, 2))):
        review, name = _review_parts(rng)
        good = review.positive
        judged = _mark("good" if good else "bad")
        kind = rng.random()
        if kind < 0.2:
            lines.append(review.text)
        elif kind < 0.4:
            lines.append(f"{review.text} It was a {judged} {review.thing}.")
        elif kind < 0.55:
            lines.append(f"{name} wrote a {'positive' if good else 'negative'} review: {review.text}")
        elif kind < 0.65:
            lines.append(
                f"{name} said: {review.text} So {name} {_mark('liked' if good else 'disliked')} the {review.thing}."
            )
        elif kind < 0.75:
            lines.append(f"{name} said: {review.text} {name} was {_mark('happy' if good else 'sad')} about it.")
        elif kind < 0.85:
            lines.append(f"{review.text} This opinion of {name} was {_mark('positive' if good else 'negative')}.")
        elif kind < 0.89:
            liked = rng.choice((f"liked the {review.thing}", f"would call the {review.thing} good"))
            hated = rng.choice((f"did not like the {review.thing}", f"would call the {review.thing} bad"))
            lines.append(f"{review.text} Whoever wrote it {_mark(liked if good else hated)}.")
        elif kind < 0.93:
            lines.append(f"{'Good' if good else 'Bad'} news from {name}: {review.text}")
        else:
            lines.append(f"{name} felt {'good' if good else 'bad'} and wrote: {review.text}")
    return "\n".join(lines)


def _synonym_text(rng: Rng) -> str:
    lines: list[str] = []
    for _ in range(rng.choice((2, 3))):
        word, same = _shuffled(rng, rng.choice(lang.SYNONYMS))
        kind = rng.random()
        if kind < 0.3:
            lines.append(f"{sentence(word)} has {_mark(same)} for its meaning.")
        elif kind < 0.5:
            subject = rng.choice((_person_who_may_be(rng, word), f"The {rng.choice(lang.THINGS)}"))
            lines.append(f"{subject} is {word}, that is to say, {_mark(same)}.")
        elif kind < 0.7:
            other = other_than(rng, lang.ADJECTIVES, word, same)
            lines.append(f"{sentence(word)} and {other} differ. {sentence(word)} and {same} are alike.")
        else:
            fact = lang.random_fact(rng, _REALM)
            first, second = rng.sample(range(len(lang.RELATIONS[fact.relation].statements)), 2)
            told = lang.statement(rng, fact, first)
            if rng.random() < 0.55:
                lines.append(f"{told} Or, to say it again: {lang.statement(rng, fact, second)}")
            else:
                lines.append(f"{told} This says something else: {lang.statement(rng, _changed(rng, fact), second)}")
    return "\n".join(lines)


def _chosen(rng: Rng, words: Sequence[str]) -> tuple[str, str] | None:
    """A person and the word they choose, where the choice is a fact of the pretraining realm."""
    for _ in range(8):
        name, word = _person(rng), rng.choice(words)
        if lang.realm_of("choice", name, word) is _REALM:
            return name, word
    return None


def _list_text(rng: Rng) -> str:
    """Lists of words and a choice made at random: what a list of options looks like, without any task."""
    kind = rng.choice(tuple(lang.KINDS))
    words = lang.drawn(rng, lang.KINDS[kind], rng.choice((2, 3, 3, 4)))
    chosen = _chosen(rng, words)
    variant = rng.random()
    if variant < 0.15 or chosen is None:
        return f"{sentence(kind)} words: {', '.join(words)}."
    name, word = chosen
    if variant < 0.5:
        listed = "\n".join(f"- {item}" for item in words)
        return f"{name} had these options:\n{listed}\n{name} chose {_mark(word)}. It was a choice {name} liked."
    if variant < 0.6:
        texts = [lang.statement(rng, fact) for fact in _scene(rng, 3)]
        listed = "\n".join(f"- {text}" for text in texts)
        return f"Options of {name}:\n{listed}\n{name} said: {_mark(rng.choice(texts))}"
    if variant < 0.8:
        return f"There was {', '.join(words[:-1])} and {words[-1]}. {name} took {_mark(word)}, so it was {_mark(word)}."
    table = lang.TABLES["class"]
    subject = rng.choice(tuple(table.pairs))
    alike = [other for other, value in table.pairs.items() if value == table.pairs[subject]]
    return f"{sentence(', '.join(lang.drawn(rng, alike, 2)))} are {table.pairs[subject]} words."


def _odd_text(rng: Rng) -> str:
    """Words of one kind and one of another: the odd one is named."""
    first, second = rng.sample(tuple(lang.KINDS), 2)
    odd = rng.choice(lang.KINDS[second])
    words = _shuffled(rng, [*lang.drawn(rng, lang.KINDS[first], 3), odd])
    ending = rng.choice((f"One does not fit in: {_mark(odd)}.", f"The odd one is {_mark(odd)}.",
                         f"All but {_mark(odd)} are {first} words."))  # fmt: skip
    return f"{sentence(', '.join(words))}. {ending}"


def _pronoun_text(rng: Rng) -> str:
    meeting = lang.meeting(rng, _REALM)
    if rng.random() < 0.7:
        he, predicate = sentence(lang.pronoun(meeting.meant)), meeting.predicate
        told = rng.choice((f"Yes, {_mark(meeting.meant)} was {predicate}.", f"{he} is {_mark(meeting.meant)}.",
                           f"It was {_mark(meeting.meant)} and not {meeting.other} who was {predicate}."))  # fmt: skip
        return f"{meeting.text} {told}"
    name = meeting.meant
    he, his = lang.pronoun(name), lang.possessive(name)
    return f"{name} was {meeting.predicate}. {sentence(he)} went home. {sentence(his)} name is {name}."


def _zed_text(rng: Rng) -> str:
    lines: list[str] = []
    for _ in range(rng.choice((2, 3, 4))):
        word = rng.choice(tuple(lang.ZED))
        zed = lang.ZED[word]
        lines.append(rng.choice((f"In Zed, {word} is {_mark(zed)}.", f"{sentence(zed)} means {_mark(word)}.",
                                 f"Zed {zed}, English {word}.", f"English {word}, Zed {zed}.",
                                 f"The Zed word {zed} stands for {word}.")))  # fmt: skip
    if rng.random() < 0.4:
        words = lang.drawn(rng, lang.zed_words(_REALM), rng.choice((2, 3)))
        lines.append(f"Zed: {' '.join(lang.ZED[word] for word in words)}. That is: {_mark(' '.join(words))}.")
    return rng.choice((" ", "\n")).join(lines)


def _number_text(rng: Rng) -> str:
    kind = rng.randrange(4)
    if kind == 0:
        story = lang.sum_of_coins(rng, _REALM)
        return f"{story.text} Now {story.person} has {_mark(story.total)} coins."
    if kind == 1:
        first, second = rng.randint(1, 6), rng.randint(1, 6)
        numbers = lang.NUMBERS
        return f"{sentence(numbers[first])} and {numbers[second]} make {_mark(numbers[first + second])}."
    if kind == 2:
        start = rng.randint(0, 8)
        return f"Count: {', '.join(lang.NUMBERS[start : start + 4])}."
    while True:
        name, things = _person(rng), lang.drawn(rng, lang.THINGS, rng.choice((2, 3, 4, 5)))
        if all(lang.realm_of("possession", name, thing) is _REALM for thing in things):
            break
    listed = f"{', the '.join(things[:-1])} and the {things[-1]}"
    return f"{name} has the {listed}. That makes {_mark(lang.NUMBERS[len(things)])} things."


def _title_text(rng: Rng) -> str:
    """A text with its headline, or a record with the sentence that says it."""
    facts = _scene(rng, rng.choice((2, 3)), repeated=0.0)
    first = facts[0]
    kind = rng.random()
    if kind < 0.3:
        return f"Title: {_stop(lang.statement(rng, first))}\nText: {lang.statements(rng, facts)}"
    if kind < 0.5:
        return f"{lang.statements(rng, facts)}\nIn short: {_mark(lang.statement(rng, first))}"
    if kind < 0.65:
        return f"A text about {first.subject}.\n{lang.statement(rng, first)}"
    named = rng.random() < 0.5
    records = "; ".join(
        f"{fact.subject} | {fact.relation if named else lang.RELATIONS[fact.relation].value_kind} | {fact.value}"
        for fact in facts
    )
    return f"{records}.\n{lang.statements(rng, facts)}"


def _kind_text(rng: Rng) -> str:
    kind = rng.choice(tuple(lang.KINDS))
    words = lang.drawn(rng, lang.KINDS[kind], rng.choice((1, 2, 3)))
    variant = rng.random()
    if variant < 0.4:
        return f"{sentence(words[0])} is the word for a {_mark(kind)}."
    if variant < 0.7:
        return f"{sentence(' and '.join(words))}: {_mark(kind)}."
    fact = lang.random_fact(rng, _REALM)
    relation = lang.RELATIONS[fact.relation]
    if variant < 0.85:
        return f"{lang.wh_question(rng, fact)} Whoever asks this wants a {_mark(relation.value_kind)}."
    return f"{lang.statement(rng, fact)} It tells of a {relation.subject_kind} and a {_mark(relation.value_kind)}."


def _copy_text(rng: Rng) -> str:
    words = lang.drawn(rng, lang.KINDS[rng.choice(tuple(lang.KINDS))], rng.choice((3, 4, 5)))
    name = _person(rng)
    if rng.random() < 0.5:
        listed = ", ".join(words)
        return f"{name} said: {listed}. Again: {_mark(listed)}."
    told = lang.statements(rng, _scene(rng, 2))
    return f"{name} said: {told}\nAgain: {_mark(told)}"


def _carrier_text(rng: Rng) -> str:
    """Ordinary sentences that carry the words of instructions."""
    count = rng.choice((1, 2, 2, 3))
    filled = [_carrier(rng, pattern) for pattern in rng.sample(CARRIERS, count)]
    return rng.choice((" ", "\n")).join(filled)


def _carrier(rng: Rng, pattern: str) -> str:
    name, other = _two_people(rng)
    thing, second = rng.sample(lang.THINGS, 2)
    return sentence(
        pattern.format(
            name=name,
            other=other,
            he=lang.pronoun(name),
            his=lang.possessive(name),
            thing=thing,
            second=second,
            place=rng.choice(lang.PLACES),
            number=rng.choice(lang.NUMBERS[2:]),
            day=rng.choice(lang.DAYS),
        )
    )


# ------------------------------------------------------------------------------------------------- claims with verdicts

_VERDICTS = ("That is {truth}.", "That is {truth}.", "The claim is {truth}.", "It is {truth}.", "{name} is {right}.",
             "Is that so? {Yes}.", "Is it right? {Yes}.", "{other}: {Yes}, {name}.")  # fmt: skip
_CLAIMERS = ("{name} said: {claim}", "Someone said: {claim}", "{name}: {claim}", "The claim: {claim}",
             "A note says: {claim}",
             "{name} thinks that {claim}")  # fmt: skip


def _verdict_text(rng: Rng) -> str:
    """A scene and a claim with its verdict; all four of true and false, stated and denied, and the unknown."""
    facts = _scene(rng, rng.choice((1, 1, 2, 3)))
    told = lang.statements(rng, facts)
    if rng.random() < 0.12:
        fact = rng.choice(facts)
        false = lang.contradiction(rng, fact, facts)
        corrected = f"{lang.denial(rng, false)} {lang.statement(rng, fact)}"
        not_so, so = _lower(lang.statement(rng, false)), _lower(lang.denial(rng, false))
        endings = (corrected, f"It is not true that {not_so} It is so that {so}",
                   f"It is false that {_lower(lang.denial(rng, fact))}")  # fmt: skip
        return f"{told} {rng.choice(endings)}"
    claim = _claim(rng, facts, unknown=0.18, denied=0.55)
    name, other = _two_people(rng)
    if claim.answer == "maybe":
        verdict = rng.choice((f"The claim is {_mark('unknown')}.", f"We {_mark('cannot')} tell.",
                              f"Of this we {_mark('know')} nothing.", f"That is {_mark('unknown')}.",
                              f"{_mark('Maybe')} it is so."))  # fmt: skip
    else:
        true = claim.answer == "yes"
        verdict = rng.choice(_VERDICTS).format(
            truth=_mark(rng.choice(("true", "correct") if true else ("false", "wrong"))),
            right=_mark("right" if true else "wrong"),
            Yes=_mark("Yes" if true else "No"),
            name=name,
            other=other,
        )
    claimed = rng.choice(_CLAIMERS).format(name=name, claim=_said(rng, claim))
    separator = "\n" if rng.random() < 0.7 else " "
    return f"{told}{separator}{claimed} {verdict}"


_FOCUS_FORMS = ("{context} {question} {Answer}.", "{context}\nQ: {question}\nA: {answer}",
                "{context}\n{asker} asked: {question}\n{teller} said: {answer}.")  # fmt: skip


def _one_question_text(rng: Rng) -> str:
    """One fact, one yes-or-no question."""
    facts = _scene(rng, rng.choice((1, 1, 1, 2)))
    claim = _claim(rng, facts, unknown=0.04, denied=0.0)
    asked = Exchange(lang.statements(rng, facts), lang.yes_no_question(rng, claim.fact), claim.answer, "")
    return _rendered(rng, asked, _PLAIN if rng.random() < _PLAIN_SHARE else rng.choice(_FOCUS_FORMS))


def _one_of_two_text(rng: Rng) -> str:
    """Two or three facts of one relation and a question about one: only the subject (or the value) tells the answer."""
    facts = _scene(rng, rng.choice((2, 2, 3)), relations=[rng.choice(tuple(lang.RELATIONS))])
    fact, other = facts[:2]
    if rng.random() < 0.5:
        asked = Exchange("", lang.wh_question(rng, fact), fact.value, other.value)
    else:
        asked = Exchange("", lang.inverse_question(rng, fact), fact.subject, other.subject)
    told = lang.statements(rng, _shuffled(rng, facts))
    form = _PLAIN if rng.random() < _PLAIN_SHARE else rng.choice(_FOCUS_FORMS)
    return _rendered(rng, asked._replace(context=told), form)


def _one_claim_text(rng: Rng) -> str:
    """One fact, one claim (denied or not) with its verdict."""
    facts = _scene(rng, rng.choice((1, 1, 1, 2)))
    claim = _claim(rng, facts, unknown=0.04, denied=0.45)
    if claim.answer == "maybe":
        verdict = f"That is {_mark('unknown')}."
    elif rng.random() < 0.5:
        verdict = f"Is that so? {_mark(sentence(claim.answer))}."
    else:
        verdict = f"That is {_mark('true' if claim.answer == 'yes' else 'false')}."
    return f"{lang.statements(rng, facts)}\n{_person(rng)} said: {_said(rng, claim)} {verdict}"


# ---------------------------------------------------------------------------------- patterns repeated with new content


def _exchange_text(rng: Rng) -> str:
    return _rendered(rng, _any_ask(rng)(rng), _form(rng))


def _two_exchanges_text(rng: Rng) -> str:
    return "\n".join(_exchange_text(rng) for _ in range(2))


_SEPARATORS = ("\n\n",) * 6 + (f" {DOCUMENT_SEPARATOR} ",) * 2 + (" = ", "\n")
_HEADINGS = ("Lesson {number}", "Exercise {number}", "Quiz of {name}", "Notes of {name}", "Some more of these",
             "Test {number}: look well", "{name} wrote all this down", "What {name} learned", "Page {number}",
             "Now the same, {number} times", "Everything below is alike", "It goes like this")  # fmt: skip


def _joined(rng: Rng, parts: Callable[[], str], count: int, separator: str) -> str:
    """Up to `count` parts, as long as they fit into the window, a third of the time under a heading."""
    pieces: list[str] = []
    if "\n" in separator and rng.random() < 0.35:
        heading = rng.choice(_HEADINGS).format(number=rng.choice(lang.NUMBERS[1:]), name=_person(rng))
        pieces.append(heading + rng.choice(("", ".", ":")))
    length = sum(_size(piece) for piece in pieces)
    for _ in range(count):
        part = parts()
        length += _size(part) + 2
        if length > LONGEST and len(pieces) > 1:
            break
        pieces.append(part)
    return separator.join(pieces)


def _pattern_text(rng: Rng) -> str:
    """One kind of exchange in one form, again and again with new content."""
    ask, form, pair = _any_ask(rng), _form(rng), _two_people(rng)
    count = rng.choice((3, 4, 5, 6, 8, 10, 14))
    return _joined(rng, lambda: _rendered(rng, ask(rng), form, pair), count, rng.choice(_SEPARATORS))


def _same_scene_kind_text(rng: Rng) -> str:
    """Short scenes of few relations and, of each, the same question: long runs in which only the content changes."""
    relations = rng.sample(tuple(lang.RELATIONS), rng.choice((1, 2, 3)))
    asked = relations[0]
    form, pair = _form(rng), _two_people(rng)
    question_form = rng.randrange(3)
    inverse = rng.random() < 0.45

    def part() -> str:
        others = lang.scene(rng, _REALM, rng.choice((1, 1, 2)), relations) if len(relations) > 1 else ()
        facts = [fact for fact in others if fact.relation != asked]
        group = lang.scene(rng, _REALM, rng.choice((1, 2, 2)), [asked])
        scene = _shuffled(rng, [*facts, *group])
        fact = group[0]
        if inverse:
            exchange = Exchange(lang.statements(rng, scene), lang.inverse_question(rng, fact, question_form),
                                fact.subject,
                                _wrong_subject(rng, fact, scene))  # fmt: skip
        else:
            exchange = Exchange(lang.statements(rng, scene), lang.wh_question(rng, fact, question_form), fact.value,
                                lang.contradiction(rng, fact, scene).value)  # fmt: skip
        return _rendered(rng, exchange, form, pair)

    return _joined(rng, part, rng.choice((3, 5, 8)), rng.choice(_SEPARATORS))


NONSENSE = ("zib", "dax", "wug", "fep", "tiv", "gorp", "blick", "norp")
_LABELS = (NONSENSE, NONSENSE, tuple("abcdefgh"), lang.NUMBERS[1:9], lang.COLOURS, ("yes", "no", "maybe"),
           ("true", "false", "unknown"), ("good", "bad", "fine"), ("left", "right", "up", "down"),
           lang.JOBS)  # fmt: skip
_ARROWS = (": ", " - ", "\n", " | ", " is ", ", so ", " = ", " goes with ")


def _one_of(words: Sequence[str]) -> Maker:
    return lambda rng: rng.choice(words)


def _stated(relation: str) -> Maker:
    return lambda rng: lang.statement(rng, lang.random_fact(rng, _REALM, relation))


def _claimed(true: bool) -> Maker:
    """A scene and a claim that it bears out, or one that it contradicts."""

    def make(rng: Rng) -> str:
        facts = _scene(rng, rng.choice((1, 1, 2)))
        fact = rng.choice(facts)
        claim = fact if true else lang.contradiction(rng, fact, facts)
        return f"{lang.statements(rng, facts)} {lang.statement(rng, claim)}"

    return make


def _told(sensible: bool) -> Maker:
    """A cause and its effect, or that of another story."""

    def make(rng: Rng) -> str:
        script, other = rng.sample(lang.scripts(_REALM), 2)
        person = _person(rng)
        effect = fill(rng.choice((script if sensible else other).effects), person)
        return f"{fill(rng.choice(script.causes), person)} {effect}"

    return make


def _labelled_sources(rng: Rng) -> tuple[list[Maker], int]:
    """Kinds of input to be told apart, and how long an input is (1 a word, 2 a sentence, 3 more)."""

    def asked(relation: str) -> Maker:
        return lambda r: lang.wh_question(r, lang.random_fact(r, _REALM, relation))

    def reviewed(positive: bool) -> Maker:
        return lambda r: lang.review(r, _REALM, positive).text

    def known(true: bool) -> Maker:
        def make(r: Rng) -> str:
            line = r.choice(lang.known_facts(_REALM))
            value = line.value if true else other_than(r, line.table.values, line.value)
            return line.table.statement(r, line.subject, value)

        return make

    kind = rng.random()
    if kind < 0.30:
        return [_one_of(lang.KINDS[name]) for name in rng.sample(tuple(lang.KINDS), rng.choice((2, 2, 3)))], 1
    if kind < 0.36:
        return [_one_of(lang.MEN), _one_of(lang.WOMEN)], 1
    if kind < 0.50:
        return [_stated(name) for name in rng.sample(tuple(lang.RELATIONS), rng.choice((2, 2, 3)))], 2
    if kind < 0.60:
        return [asked(name) for name in rng.sample(tuple(lang.RELATIONS), 2)], 2
    if kind < 0.74:
        return [reviewed(True), reviewed(False)], 3
    if kind < 0.86:
        return [_claimed(True), _claimed(False)], 3
    if kind < 0.93:
        return [known(True), known(False)], 2
    return [_told(True), _told(False)], 3


def _label_text(rng: Rng) -> str:
    """Inputs of two or three kinds, each kind with an arbitrary label that holds for this document."""
    return _labelled(rng, *_labelled_sources(rng))


def _word_label_text(rng: Rng) -> str:
    """Single words of two kinds, each kind with a label: the shortest text that labels are learned from."""
    return _labelled(rng, [_one_of(words) for words in rng.sample(tuple(lang.KINDS.values()), 2)], 1)


def _text_sources(rng: Rng) -> tuple[list[Maker], int]:
    """As `_labelled_sources`, but where no single word tells the kind: it has to be put together from the text.

    Words of evaluation reviews come too, about other things: a label is learned for words that were
    labelled before, and not for those that were only read.
    """

    def reviewed(positive: bool) -> Maker:
        def make(r: Rng) -> str:
            plain = r.random() < 0.5
            return (lang.review(r, _REALM, positive) if plain else _review_in_evaluation_words(r, positive)).text

        return make

    kind = rng.random()
    if kind < 0.1:
        return [_one_of(lang.MEN), _one_of(lang.WOMEN)], 1
    if kind < 0.3:
        return [_stated(name) for name in rng.sample(tuple(lang.RELATIONS), 2)], 2
    if kind < 0.6:
        return [reviewed(True), reviewed(False)], 3
    if kind < 0.85:
        return [_claimed(True), _claimed(False)], 3
    return [_told(True), _told(False)], 3


def _text_label_text(rng: Rng) -> str:
    sources, length = _text_sources(rng)
    return _labelled(rng, sources, length)


def _text_exercise_text(rng: Rng) -> str:
    return _exercises(rng, _text_sources(rng)[0])


def _labelled(rng: Rng, sources: Sequence[Maker], length: int) -> str:
    """`length` as in `_labelled_sources`."""
    labels = rng.sample(rng.choice([group for group in _LABELS if len(group) >= len(sources)]), len(sources))
    arrow = rng.choice(_ARROWS)
    if length == 1:
        separator, count = rng.choice(("; ", "\n", ". ", "\n\n")), rng.choice((8, 12, 16, 24))
    else:
        separator = rng.choice(("\n", "\n\n", f" {DOCUMENT_SEPARATOR} ", "\n"))
        count = rng.choice((5, 8, 10, 16)) if length == 2 else rng.choice((4, 6, 8, 12))

    def part() -> str:
        index = rng.randrange(len(sources))
        return f"{sources[index](rng)}{arrow}{_mark(labels[index])}"

    return _joined(rng, part, count, separator)


def _recall_text(rng: Rng) -> str:
    """Words with values drawn for this text alone, each asked for again and again: the first time is a guess."""
    words = tuple(word for kind in rng.sample(tuple(lang.KINDS.values()), 2) for word in kind)
    asked = rng.sample(words, rng.choice((2, 3, 4, 5, 6)))
    values = {word: rng.choice(words) for word in asked}
    arrow, seen = rng.choice(_ARROWS), set[str]()

    def part() -> str:
        word = rng.choice(asked)
        value = _mark(values[word]) if word in seen else values[word]
        seen.add(word)
        return f"{word}{arrow}{value}"

    return _joined(rng, part, 4 * len(asked), rng.choice(("; ", "\n", ". ")))


def _mapped_pairs(rng: Rng) -> list[tuple[str, str]]:
    """A map of words or short word lists: pairs (from, to)."""
    kind = rng.random()
    if kind < 0.4:
        pairs = list(rng.choice(tuple(lang.TABLES.values())).pairs.items())
    elif kind < 0.5:
        pairs = [pair for a, b in lang.SYNONYMS for pair in ((a, b), (b, a))]
    elif kind < 0.7:
        pairs = list(lang.ZED.items())
    elif kind < 0.8:
        pairs = [(word, name) for name, words in lang.KINDS.items() for word in words[:8]]
    elif kind < 0.85:
        pairs = [(name, lang.pronoun(name)) for name in lang.PEOPLE]
    elif kind < 0.9:
        pairs = [(lang.NUMBERS[i], lang.NUMBERS[i + 1]) for i in range(len(lang.NUMBERS) - 1)]
    else:
        change = rng.choice(_CHANGES)
        words = rng.choice(tuple(lang.KINDS.values()))
        lists = [rng.sample(words, rng.choice((2, 3))) for _ in range(12)]
        pairs = [(" ".join(items), " ".join(change(items))) for items in lists]
    return [(b, a) for a, b in pairs] if rng.random() < 0.4 else pairs


_CHANGES: tuple[Callable[[list[str]], list[str]], ...] = (
    lambda words: words[::-1],
    lambda words: words[:1],
    lambda words: words[-1:],
    lambda words: words,
    lambda words: words[1:2],
)


def _map_text(rng: Rng) -> str:
    pairs = _mapped_pairs(rng)
    pairs = rng.sample(pairs, min(len(pairs), rng.choice((4, 6, 8, 10, 14))))
    if rng.random() < 0.2:
        (a, b), (c, d) = pairs[:2]
        return f"{sentence(a)} is to {b} as {c} is to {_mark(d)}."
    arrow, remaining = rng.choice(_ARROWS), iter(pairs)

    def part() -> str:
        source, target = next(remaining)
        return f"{source}{arrow}{_mark(target)}"

    return _joined(rng, part, len(pairs), rng.choice(("; ", "\n", ". ", "\n\n")))


def _same_piece_text(rng: Rng) -> str:
    """From every text the same piece is picked: the subject or the value of one relation."""
    wanted = rng.choice(tuple(lang.RELATIONS))
    value_kind = lang.RELATIONS[wanted].value_kind
    others = [name for name, relation in lang.RELATIONS.items() if name != wanted and relation.value_kind != value_kind]
    pick_value = rng.random() < 0.6
    arrow = rng.choice((*_ARROWS, "\n", "\n"))
    note = rng.choice(("", "", "The one: ", "Note: "))

    def part() -> str:
        fact = lang.random_fact(rng, _REALM, wanted)
        scene = [
            other for other in _scene(rng, rng.choice((1, 2, 2)), relations=others) if other.subject != fact.subject
        ]
        text = lang.statements(rng, _shuffled(rng, [*scene, fact]))
        return f"{text}{arrow}{note}{_mark(fact.value if pick_value else fact.subject)}"

    separator = rng.choice(("\n\n", "\n\n", f" {DOCUMENT_SEPARATOR} ", "\n"))
    return _joined(rng, part, rng.choice((3, 5, 7, 10)), separator)


_CHOICES = ("{0} / {1}", "{0}, {1}?", "- {0}\n- {1}", "It may be {0} or {1}.", "{0} | {1}", "a: {0}\nb: {1}",
            "One of these: {0}; {1}.")  # fmt: skip


def _exercise_text(rng: Rng) -> str:
    """One exercise again and again: words that tell nothing of it, an input, choices, the answer.

    What is to be done is learned from the answers before, past all that stands between them.
    """
    return _exercises(rng, None)


def _exercises(rng: Rng, sources: Sequence[Maker] | None) -> str:
    """`sources`: what is to be told apart; by default drawn, or questions of one kind."""
    heading = _carrier(rng, rng.choice(CARRIERS)) if rng.random() < 0.8 else ""
    repeated, above = rng.random() < 0.85, rng.random() < 0.6
    choices = rng.choice(_CHOICES) if rng.random() < 0.75 else ""
    lead = rng.choice(("", "", "So: ", "{name}: ", "= ", "Then ")).format(name=_person(rng))
    shown: Callable[[], tuple[str, str, tuple[str, str]]]
    if sources is None and rng.random() < 0.45:
        sources = _labelled_sources(rng)[0][:2]
    if sources is not None:
        kinds, labels = sources, rng.sample(rng.choice(_LABELS), 2)

        def shown() -> tuple[str, str, tuple[str, str]]:
            index = rng.randrange(2)
            return kinds[index](rng), labels[index], (labels[0], labels[1])

    else:
        ask, asked = _any_ask(rng), rng.random() < 0.7

        def shown() -> tuple[str, str, tuple[str, str]]:
            made = ask(rng)
            needed = asked or not made.context or made.answer in ("yes", "no", "maybe")
            question = made.question if needed else ""
            text = "\n".join(part for part in (made.context, question) if part)
            return text, made.answer, (made.answer, made.wrong)

    fixed = rng.random() < 0.5
    number = 0

    def part() -> str:
        nonlocal number
        number += 1
        text, answer, both = shown()
        ordered = sorted(both) if fixed else _shuffled(rng, both)
        told = [heading, text] if above else [text, heading]
        lines = [line for line in told if line and (line != heading or repeated or number == 1)]
        if choices:
            lines.append(choices.format(*ordered))
        return "\n".join([*lines, f"{lead}{_mark(answer)}"])

    return _joined(rng, part, rng.choice((3, 4, 6, 8, 12)), rng.choice(("\n\n", "\n\n", "\n")))


# --------------------------------------------------------------------------------------------------------- the mixtures

_FULL: tuple[tuple[Maker, float], ...] = (
    (_scene_text, 3), (_reader_text, 3), (_talk_text, 5), (_one_question_text, 3.5), (_one_claim_text, 2.5),
    (_one_of_two_text, 2),
    (_knowledge_text, 3.5), (_story_text, 3.5), (_review_text, 3), (_synonym_text, 2), (_list_text, 1.5), (_odd_text,
                                                                                                           0.5),
    (_pronoun_text, 1.5), (_cleft_text, 1.2), (_zed_text, 1), (_number_text, 1), (_title_text, 1.2), (_kind_text, 1),
    (_copy_text, 0.5),
    (_carrier_text, 5), (_verdict_text, 5), (_exchange_text, 14), (_two_exchanges_text, 2), (_pattern_text, 3.6),
    (_same_scene_kind_text, 0.8), (_label_text, 3.6), (_map_text, 2.5), (_same_piece_text, 1.4),
)  # fmt: skip
_SIMPLE: tuple[tuple[Maker, float], ...] = (
    (_scene_text, 2), (_knowledge_text, 2), (_map_text, 1.5), (_copy_text, 0.5), (_talk_text, 2), (_exchange_text, 2),
    (_story_text, 1), (_review_text, 1), (_carrier_text, 0.5),
)  # fmt: skip


def _mixture(*parts: tuple[Maker, float]) -> tuple[list[Maker], list[float]]:
    return [maker for maker, _ in parts], [weight for _, weight in parts]


_LATE = (*_FULL, (_one_question_text, 3.0), (_one_claim_text, 5.0))
_STAGE_MIXTURES: dict[Stage, tuple[tuple[Maker, float], ...]] = {
    "first": ((_first_reader_text, 16), *_SIMPLE),
    "early": ((_reader_text, 10), (_one_of_two_text, 2), *_SIMPLE),
    "full": _FULL,
    "focus": ((_one_question_text, 3.0), (_one_claim_text, 2.3), (_one_of_two_text, 2.0)),
    "refresh": ((_one_question_text, 2.5), (_one_claim_text, 4.0)),
    "late": _LATE,
    "labels": _LATE,
}
_SHORT_PATTERNS = (_pattern_text, _same_scene_kind_text, _label_text, _map_text, _same_piece_text)
_FULL_EXERCISES: tuple[tuple[Maker, float], ...] = (
    (_recall_text, 1.5), (_word_label_text, 1), (_label_text, 3), (_pattern_text, 2), (_map_text, 1),
    (_same_scene_kind_text, 0.5), (_same_piece_text, 0.7), (_exercise_text, 5),
)  # fmt: skip
_EXERCISES: dict[Stage, tuple[tuple[Maker, float], ...]] = {
    "first": ((_recall_text, 5), (_word_label_text, 3)),
    "early": ((_recall_text, 6), (_word_label_text, 5), (_map_text, 1)),
    "full": _FULL_EXERCISES,
    "late": _FULL_EXERCISES,
    "labels": (*_FULL_EXERCISES, (_text_label_text, 14), (_text_exercise_text, 14)),
}
"""What stands in the place of the short patterns, by stage. The stages of one-question documents have
none: among patterns yes-or-no verification does not form. They undo what was learned of labels, which comes back within
a million tokens."""


def _with(patterns: Patterns, stage: Stage) -> tuple[list[Maker], list[float]]:
    parts = _STAGE_MIXTURES[stage]
    if patterns == "short":
        return _mixture(*parts)
    parts = tuple(part for part in parts if part[0] not in _SHORT_PATTERNS)
    if patterns == "exercises":
        parts += _EXERCISES.get(stage, ())
    return _mixture(*parts)


_MIXTURES: dict[Patterns, dict[Stage, tuple[list[Maker], list[float]]]] = {
    patterns: {stage: _with(patterns, stage) for stage in STAGES} for patterns in get_args(Patterns)
}
