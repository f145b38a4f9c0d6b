"""Whether text becomes the right tokens: nothing lost, one BOS, one supervised EOS, tuned as it is scored.

Every text goes through `openflan.encoding`, as in tuning and scoring. Read next: `tuning.py`.
"""

import copy
import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from openflan import encoding
from openflan.catalog.load import load_catalog
from openflan.encoding import Lengths, PromptFormat
from openflan.encoding.boundary import plain_ids
from openflan.ledger import Ledger
from openflan.models.load import read_prompt_format
from openflan.rendering.example import Example
from openflan.studies.doctor.finding import Finding, Measure, judged, not_applicable
from openflan.studies.doctor.patient import Patient
from openflan.studies.doctor.weights import NO_TOKENIZER

LENGTHS = Lengths()


def _example(number: int, inputs: str, targets: str, *others: str) -> Example:
    options = (targets, *others) if others else ()
    return Example(
        task="doctor", row_id=f"text/{number}", template="text", inputs=inputs, targets=targets, options=options
    )


TEXTS = tuple(
    _example(number, *texts)
    for number, texts in enumerate(
        (
            (
                "Premise: The cat sat on the mat.\nHypothesis: An animal sat.\n\nDoes it follow?\n- Yes\n- No",
                "Yes",
                "No",
                "Impossible to say",
            ),
            ('Is this review positive?\n\n"Not bad at all -- 9/10!"', "positive", "negative"),
            ("How many legs do 2 dogs and 2 birds have?", "12", "1", "8", "2"),
            ("Which comes first?\n(A) 3,14\n(B) 2,72\nAnswer: ", "(B)", "(A)"),
            ("Translate to German: The café was naïve about 5 €.", "Das Café war naïv bei 5 €."),
            ("Name: x_1;\tvalue: {a: [1, 2]}", "x_1 = {a: [1, 2]}"),
        )
    )
)
WORLD_TEXTS = tuple(
    _example(number, *texts)
    for number, texts in enumerate(
        (
            ("tom is in the kitchen.\ntom is in the garden.\n\ndoes it follow?", "no", "yes"),
            ("sue went to the garden. where is sue?", "in the garden"),
        )
    )
)


@dataclass(frozen=True, slots=True)
class Words:
    """What the tokenizer is asked about: texts it can know, and the catalog that has more of the kind."""

    examples: tuple[Example, ...]
    catalog: str
    unknown: tuple[str, ...] = ()
    """Texts of which it does not know every word."""


def known_words(patient: Patient) -> Words:
    """Ordinary texts; those of the micro-world for a tokenizer that knows its words only."""
    unknown = tuple(_with_unknown(patient, TEXTS))
    if unknown and not list(_with_unknown(patient, WORLD_TEXTS)):
        return Words(WORLD_TEXTS, "world")
    return Words(TEXTS, "flan", unknown)


def round_trip(patient: Patient) -> Finding:
    """Texts encoded and decoded again."""
    if not patient.has_tokenizer:
        return not_applicable(NO_TOKENIZER)
    words, tokenizer = known_words(patient), _tokenizer(patient)
    texts = [text for one in words.examples for text in (one.inputs, one.targets)]
    if words.unknown:
        return Finding(
            "fail",
            f"{len(words.unknown)} of {len(texts)} texts hold words the tokenizer does not know, such as "
            f"{words.unknown[0]!r}; what it cannot read cannot be asked for: use another tokenizer",
        )
    lost: list[str] = []
    changed = 0
    for text, ids in zip(texts, plain_ids(tokenizer, texts), strict=True):
        decoded = tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
        changed += decoded.strip() != text.strip()
        if _bare(decoded) != _bare(text):
            lost.append(f"{text!r} comes back as {decoded!r}")
    said = f"{len(texts)} texts come back whole" + (
        f"; {changed} with other case or spaces, by the tokenizer's own rules" if changed else ""
    )
    return judged(
        [Measure("texts that lose characters or line breaks", len(lost), 0)],
        said=said + ("; it knows the words of the micro-world only" if words.catalog == "world" else ""),
        otherwise=f"{lost[0] if lost else ''}; use another tokenizer, or a prompt format without what is lost",
    )


def one_bos(patient: Patient) -> Finding:
    """BOS tokens of every prompt: one where the tokenizer adds one itself, else none."""
    if not patient.has_tokenizer:
        return not_applicable(NO_TOKENIZER)
    tokenizer, bos = _tokenizer(patient), _tokenizer(patient).bos_token_id
    if bos is None:
        return Finding("pass", "the tokenizer has no BOS, and none is added")
    prompt_format = _prompt_format(patient)
    own: Sequence[int] = tokenizer(known_words(patient).examples[0].inputs)["input_ids"]
    wanted = int(bool(own) and own[0] == bos and prompt_format.bos == "auto")
    prompts = [one.prompt_ids for one in _encoded(patient, tokenizer)]
    prompts += [one.prompt_ids for one in _options(patient, tokenizer)]
    texts = [prompt_format.of(one) for one in known_words(patient).examples]
    written = [f"{tokenizer.bos_token}{text}" for text in texts] if wanted else []
    said = f"{len(prompts)} prompts have {'one BOS' if wanted else 'no BOS, as the tokenizer adds none'}"
    if wanted:
        said += ", also where the text brings its own"
    if getattr(tokenizer, "chat_template", None):
        written += [text for one in known_words(patient).examples if (text := _chat(tokenizer, one.inputs)) is not None]
        said += " (the chat template was tried)"
    wrong = [ids for ids in prompts if ids.count(bos) != wanted]
    # A chat template may write a BOS that the tokenizer does not add: one is right then too.
    for split in encoding.split_many(tokenizer, [(text, ("yes",)) for text in written], bos=prompt_format.bos):
        if not wanted <= split.prompt_ids.count(bos) <= 1:
            wrong.append(split.prompt_ids)
    counts = sorted({ids.count(bos) for ids in wrong})
    return judged(
        [Measure("prompts with another number of BOS", len(wrong), 0)],
        said=said,
        otherwise=f"expected {wanted}, found {' or '.join(map(str, counts))}; a BOS stands in the prompt format, the "
        "chat template or twice in the tokenizer",
    )


def one_eos(patient: Patient) -> Finding:
    """Supervised EOS tokens of every target: exactly one, at its end, also where padding is EOS."""
    if not patient.has_tokenizer:
        return not_applicable(NO_TOKENIZER)
    tokenizer = _tokenizer(patient)
    eos = tokenizer.eos_token_id
    if eos is None:
        return Finding("fail", "the tokenizer has no EOS, so no target could end; set eos_token in its configuration")
    encoded = _encoded(patient, tokenizer)
    wrong = sum(one.target_ids.count(eos) != 1 or one.target_ids[-1] != eos for one in encoded)
    # Not the first token: it may be a BOS that is the same token.
    inside = sum(eos in one.prompt_ids[1:] for one in encoded)
    rows = encoding.pack(encoded, max(len(one.prompt_ids) + len(one.target_ids) for one in encoded))
    supervised = sum(int((row.labels == eos).sum()) for row in rows)
    padded = copy.deepcopy(tokenizer)
    padded.pad_token = padded.eos_token
    other = sum(a != b for a, b in zip(_encoded(patient, padded), encoded, strict=True))
    expected = len(known_words(patient).examples)
    generation_config: Any = getattr(patient.model, "generation_config", None)
    stops: Any = getattr(generation_config, "eos_token_id", None)
    listed: list[Any] = stops if isinstance(stops, list) else [stops]
    said = f"each of {len(encoded)} targets ends in one supervised EOS ({tokenizer.eos_token!r}), also where pad is EOS"
    if stops is not None and eos not in listed:
        said += f"; its generation settings stop at {listed} instead, which openflan does not use"
    return judged(
        [
            Measure("targets with another number of EOS", wrong, 0),
            Measure("prompts with EOS in them", inside, 0),
            Measure("supervised EOS in packed rows", abs(supervised - expected), 0),
            Measure("targets encoded otherwise where pad is EOS", other, 0),
        ],
        said=said,
        otherwise="a model tuned so would not learn when to stop; the tokenizer or encoding is at fault",
    )


def boundary(patient: Patient) -> Finding:
    """The ids supervised in tuning against those ranked in scoring, and its prompts against those of generation."""
    if not patient.has_tokenizer:
        return not_applicable(NO_TOKENIZER)
    tokenizer = _tokenizer(patient)
    if tokenizer.eos_token_id is None:
        return not_applicable("without EOS nothing can be tuned on")
    tuned = {one.row_id: one for one in _encoded(patient, tokenizer)}
    prompts = {one.read.row_id: one.prompt_ids for one in _prompts(patient, tokenizer)}
    other = merged = 0
    scored = _options(patient, tokenizer)
    for one in scored:
        ours, gold = tuned[one.read.row_id], one.option_ids[one.read.options.index(one.read.targets)]
        merged += one.merged
        # EOS is supervised and not ranked; a token that spans the join moves the split for all options alike.
        same_text = ours.prompt_ids + ours.target_ids[:-1] == one.prompt_ids + gold
        other += not (same_text and (one.merged or ours.target_ids[:-1] == gold))
    # A token that spans the join is left to the target, so the prompt tuned on may end before it.
    asked = sum(prompts[name][: len(one.prompt_ids)] != one.prompt_ids for name, one in tuned.items())
    return judged(
        [
            Measure("examples supervised and ranked on other ids", other, 0),
            Measure("prompts tuned and generated on other ids", asked, 0),
        ],
        said=f"{len(scored)} examples are ranked on the ids that are supervised, {len(tuned)} prompts are generated "
        "from as they are tuned" + (f"; in {merged} a token spans the join" if merged else ""),
        otherwise="the model would be asked in other tokens than it was tuned in",
    )


def options(patient: Patient) -> Finding:
    """The fixed options of all shipped tasks: each has tokens, and no two of a task have the same ones."""
    if not patient.has_tokenizer:
        return not_applicable(NO_TOKENIZER)
    tokenizer, words = _tokenizer(patient), known_words(patient)
    sets = _fixed_options(words.catalog)
    examples = [
        _example(at, f"Question {at}", texts[0], *texts[1:]) for at, texts in enumerate(sets.values()) if len(texts) > 1
    ]
    empty: list[str] = []
    alike: list[str] = []
    for one in encoding.encode_options(examples, tokenizer, _prompt_format(patient), LENGTHS, Ledger()):
        empty += [text for text, ids in zip(one.read.options, one.option_ids, strict=True) if not ids]
        if len(set(one.option_ids)) < len(set(one.read.options)):
            alike.append(" / ".join(one.read.options))
    every = sorted({text for texts in sets.values() for text in texts})
    empty += [
        text for text, ids in zip(every, plain_ids(tokenizer, every), strict=True) if not ids and text not in empty
    ]
    named = [*(repr(text) for text in empty), *alike]
    return judged(
        [
            Measure("options without a token", len(empty), 0),
            Measure("tasks with two options of the same tokens", len(alike), 0),
        ],
        said=f"{len(every)} options of {len(sets)} tasks ({words.catalog}) have tokens, those of a task different ones",
        otherwise=f"{', '.join(named[:3])} cannot be told apart; use another tokenizer or other options",
    )


def prompt_format(patient: Patient) -> Finding:
    """The prompt format stored with the model, and the ids of prompts written in it."""
    if not patient.has_tokenizer:
        return not_applicable(NO_TOKENIZER)
    stored, tokenizer = patient.lm.prompt_format, _tokenizer(patient)
    if stored is None:
        chat = "; its chat template is not used" if getattr(tokenizer, "chat_template", None) else ""
        return not_applicable(f"openflan did not tune this model: it is asked in the default format{chat}")
    if patient.folder is not None and read_prompt_format(patient.folder) not in (None, stored):
        return Finding("fail", f"{patient.folder} holds another prompt format than the one loaded with it")
    examples = {one.row_id: one for one in known_words(patient).examples}
    written = [stored.of(examples[one.read.row_id]).rstrip(" ") for one in _prompts(patient, tokenizer)]
    wrong = sum(
        one.prompt_ids[-len(ids) :] != ids
        for one, ids in zip(_prompts(patient, tokenizer), plain_ids(tokenizer, written), strict=True)
    )
    return judged(
        [Measure("prompts in another format", wrong, 0)],
        said=f"prompts are written as it was tuned: separator {stored.separator!r}, exemplars apart by "
        f"{stored.exemplar_separator!r}, BOS {stored.bos}",
        otherwise="the model is asked in other words than it was tuned in",
    )


@functools.cache
def _fixed_options(catalog: str) -> dict[str, tuple[str, ...]]:
    """The options of each task of a shipped catalog that has the same ones for every row."""
    tasks = load_catalog(catalog).tasks.values()
    return {task.name: task.answer.options for task in tasks if isinstance(task.answer.options, tuple)}


def _tokenizer(patient: Patient) -> Any:
    return patient.lm.tokenizer


def _prompt_format(patient: Patient) -> PromptFormat:
    return patient.lm.prompt_format or PromptFormat()


def _encoded(patient: Patient, tokenizer: Any) -> list[encoding.Encoded]:
    examples = known_words(patient).examples
    return encoding.encode(examples, tokenizer, _prompt_format(patient), LENGTHS, Ledger())


def _options(patient: Patient, tokenizer: Any) -> list[encoding.EncodedOptions]:
    examples = [one for one in known_words(patient).examples if one.options]
    return encoding.encode_options(examples, tokenizer, _prompt_format(patient), LENGTHS, Ledger())


def _prompts(patient: Patient, tokenizer: Any) -> list[encoding.EncodedPrompt]:
    examples = known_words(patient).examples
    return encoding.encode_prompts(examples, tokenizer, _prompt_format(patient), LENGTHS, Ledger())


def _with_unknown(patient: Patient, examples: Sequence[Example]) -> Iterator[str]:
    tokenizer = _tokenizer(patient)
    unknown = getattr(tokenizer, "unk_token_id", None)
    texts = [text for one in examples for text in (one.inputs, one.targets)]
    for text, ids in zip(texts, plain_ids(tokenizer, texts), strict=True):
        if unknown is not None and unknown in ids:
            yield text


def _bare(text: str) -> str:
    """Letters, digits, marks and line breaks: what no tokenizer may lose."""
    return "".join(text.split(" ")).replace("\t", "").casefold().strip("\n")


def _chat(tokenizer: Any, text: str) -> str | None:
    """The text as its chat template has it; None where the template does not take a lone question."""
    try:
        asked = [{"role": "user", "content": text}]
        return str(tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True))
    except Exception:  # a template is a program, and may fail in any way
        return None
