"""Greedy generation in batches, with a reason for every end.

Takes `GenerationRequest`s, gives `Generation`s. Decoding is this module's own: a checkpoint's generation settings
(temperature, repetition penalty, ...) play no part. Read next: `evaluation/metrics.py`.
"""

import functools
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from openflan.encoding.boundary import unknown_token
from openflan.encoding.prompt_format import PromptFormat
from openflan.errors import ModelError, Problem
from openflan.scoring.forward import accepted_arguments, inference, turned_beyond, window_of
from openflan.scoring.store import CHUNK_ITEMS, in_chunks

if TYPE_CHECKING:
    from torch import Tensor

    from openflan.encoding.encode import EncodedPrompt
    from openflan.models.load import LanguageModel

BATCH_TOKENS = 8192
MAX_NEW_TOKENS = 256
"""The paper's target length (Wei et al. 2022 section 2.4)."""
SHARED_TOKENS, SHARED_PROMPTS = 32, 4
"""The shortest common beginning that is computed once, and the fewest prompts it is done for."""
ENGINE = "greedy-3"
"""Part of the store's key: changes whenever the output may."""

Ids = tuple[int, ...]
Ended = Literal["eos", "stop", "length"]
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One prompt to continue."""

    id: str
    prompt_ids: Ids


@dataclass(frozen=True, slots=True)
class Generation:
    """What the model wrote after a prompt, and why it ended."""

    id: str
    text: str
    """Without the stop text and what follows it in the same token."""
    token_ids: Ids
    """As generated, without the EOS."""
    ended: Ended
    """"eos": the model's end token; "stop": a stop text was written; "length": no room or no budget was left."""

    @property
    def num_tokens(self) -> int:
        """Tokens written, the EOS left out."""
        return len(self.token_ids)


def requests_of(encoded: "Iterable[EncodedPrompt]") -> list[GenerationRequest]:
    """One request for each encoded example, named by it."""
    return [GenerationRequest(e.read.id, e.prompt_ids) for e in encoded]


def generate(
    lm: "LanguageModel",
    requests: Sequence[GenerationRequest],
    *,
    max_new_tokens: int = MAX_NEW_TOKENS,
    stops: Sequence[str] | None = None,
    store: Path | None = None,
    batch_tokens: int = BATCH_TOKENS,
    chunk_requests: int = CHUNK_ITEMS,
    report: Callable[[int], None] | None = None,
) -> list[Generation]:
    """The likeliest next token, again and again, for each prompt; in the order given.

    Generation ends at the tokenizer's EOS, at a text of `stops` (by default what stands between exemplars in the
    model's prompt format), at `max_new_tokens`, or where the model's context is full. Stop texts are looked for in the
    text after the prompt only, wherever token borders fall in them. Prompts that begin alike, as few-shot ones do, have
    their common beginning computed once for a batch. `report` gets the number of prompts answered.

    Raises ModelError for ids used twice, for prompts that leave no room in the model's context or have a token it does
    not know, and for a budget of no token.
    """
    if max_new_tokens < 1:
        raise ModelError(f"max_new_tokens is {max_new_tokens}: at least one token is generated")
    _check(requests, lm)
    if lm.prefix_ids:
        requests = [GenerationRequest(request.id, lm.prefix_ids + request.prompt_ids) for request in requests]
    if not requests:
        return []
    rules = _Rules.of(lm, max_new_tokens, stops)
    alone_beyond = turned_beyond(lm.model)
    ordered = [request for group in _groups(requests) for request in group]
    found: dict[str, Generation] = {}
    with inference(lm.model):

        def compute(chunk: Sequence[GenerationRequest]) -> list[dict[str, Any]]:
            batches = _batches(chunk, rules, batch_tokens, alone_beyond)
            written = (one for batch in batches for one in _continue(lm, batch, rules))
            return [{"id": one.id, "text": one.text, "token_ids": one.token_ids, "ended": one.ended} for one in written]

        def content(request: GenerationRequest) -> list[Any]:
            return [request.id, request.prompt_ids]

        dtype = f"{lm.dtype} on {lm.device.type}"
        key = [ENGINE, lm.identity, dtype, batch_tokens, max_new_tokens, sorted(rules.stops), sorted(rules.eos_ids)]
        for records, _ in in_chunks(
            ordered, compute, key=key, content=content, folder=store, chunk_items=chunk_requests
        ):
            for record in records:
                one = Generation(record["id"], record["text"], tuple(record["token_ids"]), record["ended"])
                found[one.id] = one
            if report is not None:
                report(len(found))
    ended = [one.ended for one in found.values()]
    log.info("generate  %s", ", ".join(f"{ended.count(why):,} {why}" for why in ("eos", "stop", "length")))
    return [found[request.id] for request in requests]


def _check(requests: Sequence[GenerationRequest], lm: "LanguageModel") -> None:
    """Requests as they are before a soft prompt is put before them."""
    context, known = lm.context - len(lm.prefix_ids), lm.known_tokens
    problems: list[Problem] = []
    seen: set[str] = set()
    for request in requests:
        if request.id in seen:
            problems.append(Problem(request.id, "id used by two requests"))
        seen.add(request.id)
        if not request.prompt_ids:
            problems.append(Problem(request.id, "the prompt has no token"))
        elif (length := len(request.prompt_ids)) >= context:
            problems.append(Problem(request.id, f"{length} tokens leave no room, the model reads {context}"))
        elif what := unknown_token(request.prompt_ids, known):
            problems.append(Problem(request.id, what))
    if problems:
        raise ModelError(problems)


@dataclass(frozen=True, slots=True)
class _Rules:
    """When to end. `decode` turns ids into the text a reader sees."""

    decode: Callable[[Sequence[int]], str]
    eos_ids: frozenset[int]
    stops: tuple[str, ...]
    max_new_tokens: int
    context: int

    @staticmethod
    def of(lm: "LanguageModel", max_new_tokens: int, stops: Sequence[str] | None) -> "_Rules":
        tokenizer: Any = lm.tokenizer
        if stops is None:
            stops = [(lm.prompt_format or PromptFormat()).exemplar_separator]

        def decode(ids: Sequence[int]) -> str:
            return tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)

        eos: int | None = tokenizer.eos_token_id
        return _Rules(
            decode,
            frozenset() if eos is None else frozenset([eos]),
            tuple(filter(None, stops)),
            max_new_tokens,
            lm.context,
        )

    @property
    def window(self) -> int:
        """Tokens at the end of a text in which a stop that has just been completed lies whole."""
        # A token that is text has at least one byte; some more for tokens that are none.
        return 16 + max(len(stop.encode()) for stop in self.stops)

    def room(self, prompt_length: int) -> int:
        """New tokens allowed after a prompt of that many."""
        return min(self.max_new_tokens, self.context - prompt_length)


@dataclass(slots=True)
class _Writing:
    """One prompt being continued."""

    request: GenerationRequest
    rules: _Rules
    token_ids: list[int] = field(default_factory=list[int])
    ended: Ended | None = None

    def add(self, token_id: int) -> None:
        if self.ended is not None:
            return
        if token_id in self.rules.eos_ids:
            self.ended = "eos"
            return
        self.token_ids.append(token_id)
        if self.rules.stops and self._stopped():
            self.ended = "stop"
        elif len(self.token_ids) >= self.rules.room(len(self.request.prompt_ids)):
            self.ended = "length"

    def _stopped(self) -> bool:
        # Only the end is looked at: what stood before it was looked at when it was written.
        text = self.text(max(0, len(self.token_ids) - self.rules.window))
        return any(stop in text for stop in self.rules.stops)

    def text(self, start: int = 0) -> str:
        """What was written from token `start` on."""
        # Decoded behind the token before it: alone, many tokenizers would drop a leading space.
        last = self.token_ids[start - 1 : start] if start else list(self.request.prompt_ids[-1:])
        tail = self.token_ids[start:]
        before, whole = self.rules.decode(last), self.rules.decode([*last, *tail])
        return whole[len(before) :] if whole.startswith(before) else self.rules.decode(tail)

    def result(self) -> Generation:
        assert self.ended is not None
        text = before_stop(self.text(), self.rules.stops)
        return Generation(self.request.id, text, tuple(self.token_ids), self.ended)


def before_stop(text: str, stops: Sequence[str]) -> str:
    """The text up to where the first of the stops begins in it; all of it where none does.

    >>> before_stop("yes. No, no.", ["no", "No"])
    'yes. '
    """
    return text[: min((at for stop in stops if (at := text.find(stop)) >= 0), default=len(text))]


def _groups(requests: Sequence[GenerationRequest]) -> list[list[GenerationRequest]]:
    """Prompts that begin alike together, the others as the last group; the longest prompts of a group first.

    Alike: `SHARED_TOKENS` at least, and half of every prompt, so that a batch is not mostly padding.
    """
    groups: list[list[GenerationRequest]] = []
    shared = 0
    for request in sorted(requests, key=lambda request: (request.prompt_ids, request.id)):
        prompt = request.prompt_ids
        if groups:
            shared = min(shared, _common(groups[-1][0].prompt_ids, prompt))
        if groups and shared >= SHARED_TOKENS and 2 * shared >= max(len(prompt), len(groups[-1][0].prompt_ids)):
            groups[-1].append(request)
        else:
            groups.append([request])
            shared = len(prompt)
    alike = [group for group in groups if len(group) >= SHARED_PROMPTS]
    others = [request for group in groups if len(group) < SHARED_PROMPTS for request in group]
    for group in (*alike, others):
        group.sort(key=lambda request: (-len(request.prompt_ids), request.prompt_ids, request.id))
    return [*alike, others] if others else alike


def _common(first: Ids, second: Ids) -> int:
    """How many tokens two prompts begin with alike."""
    return next(
        (at for at, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), min(len(first), len(second))
    )


def _batches(
    requests: Sequence[GenerationRequest], rules: _Rules, batch_tokens: int, alone_beyond: int | None
) -> Iterable[Sequence[GenerationRequest]]:
    """`alone_beyond`: a text that may become longer than that goes alone."""
    for group in _groups(requests):
        start = 0
        while start < len(group):
            longest = len(group[start].prompt_ids)
            whole = longest + rules.room(longest)
            size = 1 if alone_beyond is not None and whole > alone_beyond else max(1, batch_tokens // whole)
            yield group[start : start + size]
            start += size


def _continue(lm: "LanguageModel", batch: Sequence[GenerationRequest], rules: _Rules) -> list[Generation]:
    """All of a batch, prompts padded on the left, keys and values kept; texts that have ended leave the batch."""
    import torch

    model: Any = lm.model
    device = next(model.parameters()).device
    writing = [_Writing(request, rules) for request in batch]
    if _counts_from_padding(model):
        return [_continue_alone(model, one, device) for one in writing]
    shared, cache = _shared_beginning(model, [request.prompt_ids for request in batch], device)
    rests = [request.prompt_ids[shared:] for request in batch]
    longest = max(map(len, rests))
    ids = torch.zeros(len(batch), longest, dtype=torch.long)
    mask = torch.zeros(len(batch), longest, dtype=torch.long)
    for row, rest in enumerate(rests):
        ids[row, longest - len(rest) :] = torch.tensor(rest)
        mask[row, longest - len(rest) :] = 1
    ids = ids.to(device)
    mask = torch.cat([torch.ones(len(batch), shared, dtype=torch.long), mask], dim=1).to(device)
    rows = writing
    while True:
        logits, cache = _next(model, ids, mask, cache)
        if cache is None:
            _say_slow(type(model).__name__)
            return [_continue_alone(model, one, device) for one in writing]
        token_ids = logits.argmax(-1)
        chosen: list[int] = cast(Any, token_ids).tolist()
        for one, token_id in zip(rows, chosen, strict=True):
            one.add(token_id)
        going = [row for row, one in enumerate(rows) if one.ended is None]
        if not going:
            return [one.result() for one in writing]
        ids = token_ids[:, None]
        mask = torch.cat([mask, torch.ones_like(ids)], dim=1)
        # Taking rows out copies all keys and values, so not at every end. A cache of another kind keeps its rows.
        if 2 * len(going) <= len(rows) and hasattr(cache, "batch_select_indices"):
            kept = torch.tensor(going, device=device)
            cache.batch_select_indices(kept)
            ids, mask, rows = ids[kept], mask[kept], [rows[row] for row in going]


def _continue_alone(model: Any, writing: _Writing, device: Any) -> Generation:
    """One prompt by itself, the whole text computed anew for every token: right for every architecture."""
    import torch

    while writing.ended is None:
        ids = torch.tensor([[*writing.request.prompt_ids, *writing.token_ids]], device=device)
        logits, _ = _next(model, ids, torch.ones_like(ids), None)
        writing.add(int(logits.argmax(-1)))
    return writing.result()


def _counts_from_padding(model: Any) -> bool:
    """Whether a model's positions begin behind the id of its padding, as RoBERTa's do: none it is given are right."""
    from torch import nn

    tables = ((name, part) for name, part in model.named_modules() if isinstance(part, nn.Embedding))
    return any("position" in name and part.padding_idx is not None for name, part in tables)


@functools.cache
def _say_slow(name: str) -> None:
    log.warning("%s keeps no keys and values: each text is computed anew for every token, which is slower", name)


def _shared_beginning(model: Any, prompts: Sequence[Ids], device: Any) -> tuple[int, Any]:
    """The length of the beginning that all prompts share, and its keys and values, once for each; (0, None) for none.

    Padding then stands between it and what follows, which is right where attention goes by mask and positions alone:
    not where a layer counts places, looks back a number of them, or keeps a state.
    """
    import torch

    shared = min(min(_common(prompts[0], prompt), len(prompt) - 1) for prompt in prompts)
    if not hasattr(model, "config") or len(prompts) < SHARED_PROMPTS or shared < SHARED_TOKENS:
        return 0, None
    kinds: set[str] = set(getattr(model.config.get_text_config(), "layer_types", None) or ())
    if window_of(model) is not None or kinds - {"full_attention"} or "position_ids" not in accepted_arguments(model):
        return 0, None
    ids = torch.tensor([prompts[0][:shared]], device=device)
    _, cache = _next(model, ids, torch.ones_like(ids), None)
    if not hasattr(cache, "batch_repeat_interleave"):
        return 0, None
    cache.batch_repeat_interleave(len(prompts))
    return shared, cache


def _next(model: Any, ids: "Tensor", mask: "Tensor", cache: Any) -> "tuple[Tensor, Any]":
    """Logits after the last of `ids` [B, T], which follow what `cache` holds; `mask` covers both. In float32.

    A recurrent model gives no cache: it keeps a state instead, which padding would change.
    """
    padded = cache is not None or not bool(mask.all())
    positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :] if padded else None
    wanted = {
        "input_ids": ids,
        "attention_mask": mask,
        "position_ids": positions,
        "past_key_values": cache,
        "use_cache": True,
        "logits_to_keep": 1,
    }
    accepted = accepted_arguments(model)
    output = model(**{name: value for name, value in wanted.items() if name in accepted and value is not None})
    return output.logits[:, -1].float(), getattr(output, "past_key_values", None)
