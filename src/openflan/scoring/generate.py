"""Greedy generation in batches, with a reason for every end.

Takes `GenerationRequest`s, gives `Generation`s. Decoding is this module's own: a checkpoint's generation settings
(temperature, repetition penalty, ...) play no part. Read next: `evaluation/metrics.py`.
"""

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from openflan.encoding.prompt_format import PromptFormat
from openflan.errors import ModelError, Problem
from openflan.scoring.forward import accepted_arguments, inference
from openflan.scoring.store import CHUNK_ITEMS, in_chunks

if TYPE_CHECKING:
    from torch import Tensor

    from openflan.encoding.encode import EncodedPrompt
    from openflan.models.load import LanguageModel

BATCH_TOKENS = 8192
MAX_NEW_TOKENS = 256
"""The paper's target length (Wei et al. 2022 section 2.4)."""
ENGINE = "greedy-1"
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
    """One request for each encoded example, named "task row_id template"."""
    return [GenerationRequest(f"{e.task} {e.row_id} {e.template}", e.prompt_ids) for e in encoded]


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
    text after the prompt only, wherever token borders fall in them. `report` gets the number of prompts answered.

    Raises ModelError for ids used twice and for prompts that leave no room in the model's context.
    """
    if lm.prefix_ids:
        requests = [GenerationRequest(request.id, lm.prefix_ids + request.prompt_ids) for request in requests]
    _check(requests, lm.context)
    if not requests:
        return []
    rules = _Rules.of(lm, max_new_tokens, stops)
    order = sorted(
        range(len(requests)), key=lambda i: (-len(requests[i].prompt_ids), requests[i].prompt_ids, requests[i].id)
    )
    ordered = [requests[i] for i in order]
    found: dict[str, Generation] = {}
    with inference(lm.model):

        def compute(chunk: Sequence[GenerationRequest]) -> list[dict[str, Any]]:
            written = (one for batch in _batches(chunk, rules, batch_tokens) for one in _continue(lm, batch, rules))
            return [{"id": one.id, "text": one.text, "token_ids": one.token_ids, "ended": one.ended} for one in written]

        def content(request: GenerationRequest) -> list[Any]:
            return [request.id, request.prompt_ids]

        dtype = str(next(lm.model.parameters()).dtype)
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


def _check(requests: Sequence[GenerationRequest], context: int | None) -> None:
    problems: list[Problem] = []
    seen: set[str] = set()
    for request in requests:
        if request.id in seen:
            problems.append(Problem(request.id, "id used by two requests"))
        seen.add(request.id)
        if not request.prompt_ids:
            problems.append(Problem(request.id, "the prompt has no token"))
        elif context is not None and len(request.prompt_ids) >= context:
            problems.append(
                Problem(request.id, f"{len(request.prompt_ids)} tokens leave no room, the model reads {context}")
            )
    if problems:
        raise ModelError(problems)


@dataclass(frozen=True, slots=True)
class _Rules:
    """When to end. `decode` turns ids into the text a reader sees."""

    decode: Callable[[Sequence[int]], str]
    eos_ids: frozenset[int]
    stops: tuple[str, ...]
    max_new_tokens: int
    context: int | None

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

    def room(self, prompt_length: int) -> int:
        """New tokens allowed after a prompt of that many."""
        return self.max_new_tokens if self.context is None else min(self.max_new_tokens, self.context - prompt_length)


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
        if self.rules.stops and any(stop in self.text() for stop in self.rules.stops):
            self.ended = "stop"
        elif len(self.token_ids) >= self.rules.room(len(self.request.prompt_ids)):
            self.ended = "length"

    def text(self) -> str:
        # Decoded behind the prompt's last token: alone, many tokenizers would drop a leading space.
        last = self.request.prompt_ids[-1:]
        before, whole = self.rules.decode(last), self.rules.decode([*last, *self.token_ids])
        return whole[len(before) :] if whole.startswith(before) else self.rules.decode(self.token_ids)

    def result(self) -> Generation:
        assert self.ended is not None
        text = self.text()
        cuts = [at for stop in self.rules.stops if (at := text.find(stop)) >= 0]
        return Generation(self.request.id, text[: min(cuts)] if cuts else text, tuple(self.token_ids), self.ended)


def _batches(
    requests: Sequence[GenerationRequest], rules: _Rules, batch_tokens: int
) -> Iterable[Sequence[GenerationRequest]]:
    start = 0
    while start < len(requests):
        longest = len(requests[start].prompt_ids)
        size = max(1, batch_tokens // (longest + rules.room(longest)))
        yield requests[start : start + size]
        start += size


def _continue(lm: "LanguageModel", batch: Sequence[GenerationRequest], rules: _Rules) -> list[Generation]:
    """All of a batch, prompts padded on the left, keys and values kept."""
    import torch

    model: Any = lm.model
    device = next(model.parameters()).device
    writing = [_Writing(request, rules) for request in batch]
    longest = max(len(request.prompt_ids) for request in batch)
    ids = torch.zeros(len(batch), longest, dtype=torch.long)
    mask = torch.zeros(len(batch), longest, dtype=torch.long)
    for row, request in enumerate(batch):
        ids[row, longest - len(request.prompt_ids) :] = torch.tensor(request.prompt_ids)
        mask[row, longest - len(request.prompt_ids) :] = 1
    ids, mask = ids.to(device), mask.to(device)
    cache: Any = None
    for one in writing:
        if rules.room(len(one.request.prompt_ids)) < 1:
            one.ended = "length"
    while any(one.ended is None for one in writing):
        logits, cache = _next(model, ids, mask, cache)
        token_ids = logits.argmax(-1)
        chosen: list[int] = cast(Any, token_ids).tolist()
        for one, token_id in zip(writing, chosen, strict=True):
            one.add(token_id)
        ids = token_ids[:, None]
        mask = torch.cat([mask, torch.ones_like(ids)], dim=1)
    return [one.result() for one in writing]


def _next(model: Any, ids: "Tensor", mask: "Tensor", cache: Any) -> "tuple[Tensor, Any]":
    """Logits after the last of `ids` [B, T], which follow what `cache` holds; `mask` covers both. In float32."""
    positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
    wanted = {
        "input_ids": ids,
        "attention_mask": mask,
        "position_ids": positions,
        "past_key_values": cache,
        "use_cache": True,
        "logits_to_keep": 1,
    }
    accepted = accepted_arguments(model)
    output = model(**{name: value for name, value in wanted.items() if name in accepted})
    kept = getattr(output, "past_key_values", None)
    if kept is None:
        raise ModelError(f"{type(model).__name__} keeps no keys and values, so it cannot generate here")
    return output.logits[:, -1].float(), kept
