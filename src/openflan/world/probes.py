"""Small completion probes that show which skills a base model of the micro-world has.

A probe is a list of prompts with options, asked in the forms of the pretraining text (not in those of instructions);
the option with the highest log-probability is the answer. Probes over scenes exist for two realms: with facts that
pretraining states, and with facts of the evaluation realm, which pretraining never mentions. What they have in common
is the skill; the difference is what the model owes to having seen the facts.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from openflan.world import language as lang
from openflan.world.language import Realm, fill
from openflan.world.text import NONSENSE

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerFast

__all__ = ["PROBES", "Item", "Probe", "accuracies"]


@dataclass(frozen=True)
class Item:
    """A prompt, what may follow it, and the index of what should."""

    prompt: str
    options: tuple[str, ...]
    right: int


@dataclass(frozen=True)
class Probe:
    """A named list of items. `chance` is the accuracy of guessing."""

    name: str
    items: tuple[Item, ...]

    @property
    def chance(self) -> float:
        return sum(1 / len(item.options) for item in self.items) / len(self.items)


def _item(rng: random.Random, prompt: str, right: str, wrong: Sequence[str]) -> Item:
    options = rng.sample((right, *wrong), len(wrong) + 1)
    return Item(prompt, tuple(options), options.index(right))


def _value(rng: random.Random, realm: Realm, lines: bool = False) -> Item:
    """Two facts of one relation: the wrong answer is as near as the right one.

    `lines`: in the bare form of three lines.
    """
    facts = lang.scene(rng, realm, 2, repeated=1.0)
    prompt = f"{lang.statements(rng, facts)} {lang.wh_question(rng, facts[0])}"
    if lines:
        prompt = f"{lang.statements(rng, facts)}\n{lang.wh_question(rng, facts[0])}\n"
    return _item(rng, prompt, facts[0].value, (facts[1].value,))


def _value_of_kind(rng: random.Random, realm: Realm) -> Item:
    """Facts of different relations: the kind of word asked for is enough to find the answer."""
    facts = lang.scene(rng, realm, rng.choice((2, 3)), repeated=0.0)
    wrong = lang.contradiction(rng, facts[0], ()).value
    return _item(rng, f"{lang.statements(rng, facts)} {lang.wh_question(rng, facts[0])}", facts[0].value, (wrong,))


def _subject(rng: random.Random, realm: Realm) -> Item:
    facts = lang.scene(rng, realm, 2, repeated=1.0)
    prompt = f"{lang.statements(rng, facts)} {lang.inverse_question(rng, facts[0])}"
    return _item(rng, prompt, facts[0].subject, (facts[1].subject,))


def _yes_no(rng: random.Random, realm: Realm) -> Item:
    facts = lang.scene(rng, realm, rng.choice((1, 2)))
    true = rng.random() < 0.5
    asked = facts[0] if true else lang.contradiction(rng, facts[0], facts)
    prompt = f"{lang.statements(rng, facts)} {lang.yes_no_question(rng, asked)}"
    return Item(prompt, ("yes", "no"), 0 if true else 1)


def _entailed(rng: random.Random, realm: Realm, denied: bool) -> Item:
    facts = lang.scene(rng, realm, rng.choice((1, 2)))
    stated = rng.random() < 0.5
    fact = facts[0] if stated else lang.contradiction(rng, facts[0], facts)
    claim = lang.denial(rng, fact) if denied else lang.statement(rng, fact)
    name = rng.choice(lang.people(realm))
    return Item(
        f"{lang.statements(rng, facts)}\n{name} said: {claim} That is", ("true", "false"), int(stated == denied)
    )


def _three_way(rng: random.Random, realm: Realm) -> Item:
    facts = lang.scene(rng, realm, rng.choice((1, 2)))
    right = rng.randrange(3)
    fact = (
        facts[0],
        lang.contradiction(rng, facts[0], facts),
        lang.unknown(rng, facts, realm),
    )[right]
    prompt = f"{lang.statements(rng, facts)} {lang.yes_no_question(rng, fact)}"
    return Item(prompt, ("yes", "no", "maybe"), right)


def _review(rng: random.Random, realm: Realm) -> Item:
    positive = rng.random() < 0.5
    review = lang.review(rng, realm, positive)
    return Item(f"{review.text} It was a", ("good", "bad"), 0 if positive else 1)


def _effect(rng: random.Random, realm: Realm) -> Item:
    person = rng.choice(lang.people(realm))
    script, other = rng.sample(lang.scripts(realm), 2)
    effects = [fill(rng.choice(story.effects), person) for story in (script, other)]
    return _item(rng, f"{fill(rng.choice(script.causes), person)} So", effects[0], effects[1:])


def _cause(rng: random.Random, realm: Realm) -> Item:
    person = rng.choice(lang.people(realm))
    script, other = rng.sample(lang.scripts(realm), 2)
    causes = [fill(rng.choice(story.causes), person) for story in (script, other)]
    return _item(rng, f"{fill(rng.choice(script.effects), person)} This happened because", causes[0], causes[1:])


def _coreference(rng: random.Random, realm: Realm) -> Item:
    meeting = lang.meeting(rng, realm)
    return _item(rng, f"{meeting.text} Who was {meeting.predicate}?", meeting.meant, (meeting.other,))


def _table(rng: random.Random, realm: Realm) -> Item:
    known = rng.choice(lang.known_facts(realm))
    values = [known.table.pairs[subject] for subject in known.table.subjects(realm)]
    wrong = lang.other_than(rng, [*values, *known.table.values] if len(set(values)) < 2 else values, known.value)
    return _item(rng, known.table.question(rng, known.subject), known.value, (wrong,))


def _labels(rng: random.Random, sources: Sequence[Callable[[], str]], examples: int) -> Item:
    """Examples with nonsense labels, then an input without one."""
    labels = rng.sample(NONSENSE, len(sources))
    order = rng.sample([*range(len(sources))] * (examples // len(sources)), examples)
    shown = "".join(f"{sources[index]()}: {labels[index]}\n" for index in order)
    asked = rng.randrange(len(sources))
    return Item(f"{shown}{sources[asked]()}:", tuple(labels), asked)


def _word_labels(rng: random.Random, realm: Realm) -> Item:
    first, second = rng.sample(tuple(lang.KINDS), 2)
    return _labels(rng, (lambda: rng.choice(lang.KINDS[first]), lambda: rng.choice(lang.KINDS[second])), 8)


def _review_labels(rng: random.Random, realm: Realm) -> Item:
    return _labels(rng, (lambda: lang.review(rng, realm, True).text, lambda: lang.review(rng, realm, False).text), 6)


def _probe(name: str, realm: Realm, make: Callable[[random.Random, Realm], Item], count: int = 80) -> Probe:
    rng = random.Random(f"probe {name}")
    return Probe(name, tuple(make(rng, realm) for _ in range(count)))


_SEEN, _UNSEEN = Realm.PRETRAINING, Realm.EVALUATION

PROBES: tuple[Probe, ...] = (
    _probe("value_of_kind", _UNSEEN, _value_of_kind),
    _probe("value", _SEEN, _value),
    _probe("value_unseen", _UNSEEN, _value),
    _probe("value_lines_unseen", _UNSEEN, lambda rng, realm: _value(rng, realm, lines=True)),
    _probe("subject", _SEEN, _subject),
    _probe("subject_unseen", _UNSEEN, _subject),
    _probe("yes_no", _SEEN, _yes_no),
    _probe("yes_no_unseen", _UNSEEN, _yes_no),
    _probe("entailed", _UNSEEN, lambda rng, realm: _entailed(rng, realm, denied=False)),
    _probe("entailed_denied", _UNSEEN, lambda rng, realm: _entailed(rng, realm, denied=True)),
    _probe("three_way", _UNSEEN, _three_way),
    _probe("review", _SEEN, _review),
    _probe("review_unseen", _UNSEEN, _review),
    _probe("effect", _UNSEEN, _effect),
    _probe("cause", _UNSEEN, _cause),
    _probe("coreference", _UNSEEN, _coreference),
    _probe("table", _SEEN, _table),
    _probe("table_unseen", _UNSEEN, _table),
    _probe("labels_words", _SEEN, _word_labels, 60),
    _probe("labels_reviews", _UNSEEN, _review_labels, 40),
)
"""The probes of a pretraining run; names end in "unseen" where a probe with seen facts or knowledge stands beside."""


def accuracies(
    probes: Sequence[Probe], logits: Callable[["Tensor"], "Tensor"], tokenizer: "PreTrainedTokenizerFast"
) -> dict[str, float]:
    """Accuracy by probe. `logits` maps right-padded ids (rows, length) to logits (rows, length, vocabulary)."""
    import torch

    rows: list[tuple[list[int], int, int, int]] = []
    items = [item for probe in probes for item in probe.items]
    for index, item in enumerate(items):
        prompt = tokenizer(item.prompt)["input_ids"]
        assert isinstance(prompt, list)
        for option, text in enumerate(item.options):
            continuation = tokenizer(text, add_special_tokens=False)["input_ids"]
            assert isinstance(continuation, list)
            rows.append(([*prompt, *continuation], len(prompt), index, option))
    rows.sort(key=lambda row: len(row[0]))
    best: dict[int, tuple[float, int]] = {}
    start = 0
    while start < len(rows):
        end = start + 1
        while end < len(rows) and (end - start + 1) * len(rows[end][0]) <= 4096:
            end += 1
        group = rows[start:end]
        start = end
        length = len(group[-1][0])
        ids = torch.tensor([row[0] + [0] * (length - len(row[0])) for row in group])
        scores = torch.log_softmax(logits(ids[:, :-1]), -1).gather(-1, ids[:, 1:, None]).squeeze(-1)
        for position, (sequence, prompt_length, index, option) in enumerate(group):
            score = float(scores[position, prompt_length - 1 : len(sequence) - 1].sum())
            if index not in best or score > best[index][0]:
                best[index] = (score, option)
    right = [best[index][1] == item.right for index, item in enumerate(items)]
    result: dict[str, float] = {}
    start = 0
    for probe in probes:
        result[probe.name] = round(sum(right[start : start + len(probe.items)]) / len(probe.items), 3)
        start += len(probe.items)
    return result
