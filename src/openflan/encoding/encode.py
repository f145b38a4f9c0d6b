"""Examples to token ids, cut to length by a stated rule; what is cut or dropped is counted.

Takes `Example`s, gives `Encoded` for tuning, `EncodedOptions` for scoring, `EncodedPrompt` for generation.
Read next: `pack.py`.

Over-long prompts: whole exemplars go first, the last one first, so that what is left is a common beginning of many
prompts; then the middle of the example's `trimmable` span gives way to " … ". The instruction, the options and the
target are never cut: an example that still does not fit is dropped. FLAN's code prunes exemplars by the same rule, with
64 of its 1,024 tokens set aside for separators; here separators are counted.
"""

import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from openflan.encoding.boundary import Boundary, Ids, Tokenizer, split, split_many
from openflan.encoding.prompt_format import Lengths, PromptFormat
from openflan.errors import ModelError
from openflan.ledger import Ledger
from openflan.rendering.example import Example

STAGE = "encode"
CUT = " … "
"""Stands where the middle of a passage was cut."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """An example to tune on. `target_ids` end with the one EOS that is supervised."""

    task: str
    row_id: str
    template: str
    prompt_ids: Ids
    target_ids: Ids


@dataclass(frozen=True, slots=True)
class EncodedOptions:
    """An example to rank options of: one prompt, the ids of each option without EOS, in the example's order."""

    prompt_ids: Ids
    option_ids: tuple[Ids, ...]
    read: Example
    """The example as its prompt has it: shortened where the whole did not fit."""
    merged: bool = False
    """The options begin with the last characters of the prompt: a token spans the join."""


@dataclass(frozen=True, slots=True)
class EncodedPrompt:
    """An example to generate for."""

    prompt_ids: Ids
    read: Example
    """The example as its prompt has it: shortened where the whole did not fit."""


def encode(
    examples: Sequence[Example],
    tokenizer: Tokenizer,
    prompt_format: PromptFormat,
    lengths: Lengths,
    ledger: Ledger,
    *,
    context: int | None = None,
) -> list[Encoded]:
    """Examples as tuning reads them, in order. Prompt and target together fit `context` tokens, where it is given.

    Targets that do not fit `lengths.targets` are dropped.
    """
    eos = _eos_id(tokenizer)

    def most(boundary: Boundary) -> int | str:
        target = len(boundary.continuation_ids[0]) + 1
        if target > lengths.targets:
            return f"targets longer than {lengths.targets} tokens"
        return _room(lengths, context, target)

    found = _fit(examples, lambda e: (e.targets,), most, tokenizer, prompt_format, ledger)
    return [
        Encoded(e.task, e.row_id, e.template, boundary.prompt_ids, (*boundary.continuation_ids[0], eos))
        for e, boundary in found
    ]


def encode_options(
    examples: Sequence[Example],
    tokenizer: Tokenizer,
    prompt_format: PromptFormat,
    lengths: Lengths,
    ledger: Ledger,
    *,
    context: int | None = None,
) -> list[EncodedOptions]:
    """Examples as rank classification reads them, in order; the split point is the one tuning uses."""

    def most(boundary: Boundary) -> int | str:
        return _room(lengths, context, max(map(len, boundary.continuation_ids)))

    found = _fit(examples, lambda e: e.options, most, tokenizer, prompt_format, ledger)
    return [EncodedOptions(boundary.prompt_ids, boundary.continuation_ids, e, boundary.merged) for e, boundary in found]


def encode_prompts(
    examples: Sequence[Example],
    tokenizer: Tokenizer,
    prompt_format: PromptFormat,
    lengths: Lengths,
    ledger: Ledger,
    *,
    context: int | None = None,
) -> list[EncodedPrompt]:
    """Examples as generation reads them, in order, leaving room for `lengths.targets` new tokens in `context`."""

    def most(boundary: Boundary) -> int | str:
        return _room(lengths, context, lengths.targets)

    found = _fit(examples, lambda e: (), most, tokenizer, prompt_format, ledger)
    return [EncodedPrompt(boundary.prompt_ids, e) for e, boundary in found]


def _eos_id(tokenizer: Tokenizer) -> int:
    if tokenizer.eos_token_id is None:
        raise ModelError("the tokenizer has no EOS token, so no target could end; set eos_token in its configuration")
    return tokenizer.eos_token_id


def _room(lengths: Lengths, context: int | None, target: int) -> int:
    """The most prompt tokens beside a target of that many."""
    return lengths.inputs if context is None else min(lengths.inputs, context - target)


def _fit(
    examples: Sequence[Example],
    continuations: Callable[[Example], Sequence[str]],
    most: Callable[[Boundary], int | str],
    tokenizer: Tokenizer,
    prompt_format: PromptFormat,
    ledger: Ledger,
) -> list[tuple[Example, Boundary]]:
    """Each example that fits, as it is read: shortened where needed.

    `most` gives the prompt tokens allowed, or why an example is dropped.
    """
    items = [(prompt_format.of(e), continuations(e)) for e in examples]
    kept: list[tuple[Example, Boundary]] = []
    merged: Counter[str] = Counter()
    for example, boundary in zip(examples, split_many(tokenizer, items, bos=prompt_format.bos), strict=True):
        allowed = most(boundary) if all(boundary.continuation_ids) else "prompt and target hold no token"
        if isinstance(allowed, int) and len(boundary.prompt_ids) > allowed:
            fitted = _shorten(example, continuations(example), most, tokenizer, prompt_format, ledger)
            if fitted is None:
                allowed = f"inputs longer than {max(0, allowed)} tokens"
            else:
                example, boundary = fitted
        if isinstance(allowed, str):
            ledger.drop(STAGE, example.task, example.row_id, allowed)
            continue
        ledger.keep(STAGE, example.task)
        merged[example.task] += boundary.merged
        kept.append((example, boundary))
    for task, count in sorted(merged.items()):
        if count:
            ledger.note(f"{STAGE}: {task}: in {count} examples a token spans the join of prompt and target")
    return kept


def _shorten(
    example: Example,
    continuations: Sequence[str],
    most: Callable[[Boundary], int | str],
    tokenizer: Tokenizer,
    prompt_format: PromptFormat,
    ledger: Ledger,
) -> tuple[Example, Boundary] | None:
    """The example made to fit by the module's rule, or None; what was done goes to the ledger."""

    def over(shorter: Example) -> tuple[int, Boundary]:
        boundary = split(tokenizer, prompt_format.of(shorter), continuations, bos=prompt_format.bos)
        allowed = most(boundary)
        return (len(boundary.prompt_ids) - allowed if isinstance(allowed, int) else 1), boundary

    # The most exemplars that fit, between `fewest`, which do or are none at all, and `too_many`, which do not.
    fewest, too_many = 0, max(1, len(example.exemplars))
    shorter = example.first_exemplars(0)
    excess, boundary = over(shorter)
    while excess <= 0 and too_many - fewest > 1:
        middle = (fewest + too_many) // 2
        longer = example.first_exemplars(middle)
        more, its_boundary = over(longer)
        if more > 0:
            too_many = middle
        else:
            fewest, shorter, boundary = middle, longer, its_boundary
    read, cut = shorter, 0
    while excess > 0:
        # Characters per token differ along a text, so each round cuts a little more than the mean says.
        cut += int((excess + 2) * max(1.0, len(shorter.inputs) / len(boundary.prompt_ids)) * 1.05) + 1
        trimmed = cut_middle(shorter, cut)
        if trimmed is None:
            return None
        excess, boundary = over(trimmed)
        read = trimmed
    if len(shorter.exemplars) < len(example.exemplars):
        some = "exemplars left out" if shorter.exemplars else "all exemplars left out"
        ledger.shorten(STAGE, example.task, example.row_id, some)
    if cut:
        ledger.shorten(STAGE, example.task, example.row_id, "passage cut in the middle")
    return read, boundary


def cut_middle(example: Example, num_chars: int) -> Example | None:
    """The example with at least `num_chars` characters of its trimmable span cut, at spaces where there are any near.

    None where the span is not that long.
    """
    start, stop = example.trimmable or (0, 0)
    if stop - start <= num_chars:
        return None
    first = start + (stop - start - num_chars) // 2
    last = first + num_chars
    text = example.inputs
    space = text.rfind(" ", max(start, first - 20), first + 1)
    first = space if space >= 0 else first
    space = text.find(" ", last, min(stop, last + 20))
    last = space + 1 if space >= 0 else last
    return dataclasses.replace(example, inputs=text[:first] + CUT + text[last:], trimmable=None)
