"""Where the prompt ends and the target begins, in tokens: one rule for tuning and scoring.

Takes a tokenizer, a prompt and its continuations as text; gives token ids split at one point for all of them.
Read next: `encode.py`.

The rule:
1. Spaces that end the prompt move to the continuations, since most vocabularies join a space to the word after it.
2. Prompt and prompt + continuation are encoded as whole texts. The prompt's tokens are the longest prefix that all
   these encodings share. Where a token spans the join the split backs up before that token, for every continuation
   alike (`merged`), so that options are compared from the same point.
3. A continuation has zero tokens only where it and the prompt have none between them, and a prompt has at least one:
   the tokenizer's BOS, else its EOS.

Wherever no token spans the join the ids equal those of lm-eval's `_encode_pair`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from openflan.encoding.cut import can_be_cut, last_place
from openflan.errors import ModelError

WHITESPACE = " \t\n\r\v\f"
"""For `moved`: what lm-eval moves from the prompt to the continuation, line breaks included."""

Ids = tuple[int, ...]


class Tokenizer(Protocol):
    """What is asked of a transformers tokenizer here."""

    @property
    def bos_token_id(self) -> int | None: ...
    @property
    def eos_token_id(self) -> int | None: ...
    def __call__(self, text: Any, **options: Any) -> Any: ...


@dataclass(frozen=True, slots=True)
class BackendTokenizer:
    """A fast tokenizer's backend with what is asked of the whole: light to send to a process, which gets equal ids."""

    backend_tokenizer: Any
    bos_token_id: int | None
    eos_token_id: int | None
    prefix: Ids
    """What the whole puts before every text."""

    def __call__(self, text: Any, **options: Any) -> Any:
        return {"input_ids": self.prefix + plain_ids(self, [text])[0]}


@dataclass(frozen=True, slots=True)
class Boundary:
    """A prompt and its continuations in tokens: `prompt_ids + continuation_ids[i]` is the whole text."""

    prompt_ids: Ids
    continuation_ids: tuple[Ids, ...]
    merged: bool
    """A token spans the join: the continuations begin with the last characters of the prompt."""


def split(
    tokenizer: Tokenizer,
    prompt: str,
    continuations: Sequence[str],
    *,
    bos: Literal["auto", "never"] = "auto",
    moved: str = " ",
) -> Boundary:
    """The tokens of one prompt and its continuations; see the module's rule. Without continuations, the prompt alone.

    `moved` names the characters that go from the prompt's end to the continuations.
    """
    return split_many(tokenizer, [(prompt, continuations)], bos=bos, moved=moved)[0]


def split_many(
    tokenizer: Tokenizer,
    items: Sequence[tuple[str, Sequence[str]]],
    *,
    bos: Literal["auto", "never"] = "auto",
    moved: str = " ",
) -> list[Boundary]:
    """`split` of many (prompt, continuations), each distinct part of a text encoded once.

    A continuation is empty where it and its prompt have no token between them. Raises ModelError where the tokenizer
    has neither BOS nor EOS to stand before an empty prompt.
    """
    texts: dict[str, int] = {}

    def place(text: str, cut: int) -> tuple[int, int]:
        return texts.setdefault(text[:cut], len(texts)), texts.setdefault(text[cut:], len(texts))

    cuts = can_be_cut(tokenizer)
    places: list[tuple[tuple[int, int], list[tuple[int, int]]]] = []
    for prompt, continuations in items:
        kept = prompt.rstrip(moved) if moved else prompt
        # Cut where it makes no difference, so that what all texts begin with is encoded once.
        cut = last_place(kept) if cuts else 0
        places.append((place(kept, cut), [place(prompt + continuation, cut) for continuation in continuations]))
    prefix = () if bos == "never" else added_prefix(tokenizer)
    parts = plain_ids(tokenizer, list(texts))

    def joined(at: tuple[int, int]) -> Ids:
        return _framed(prefix, parts[at[0]] + parts[at[1]])

    return [_boundary(tokenizer, prefix, joined(at), list(map(joined, joint))) for at, joint in places]


def plain_ids(tokenizer: Tokenizer, texts: Sequence[str]) -> list[Ids]:
    """The ids of each text without the special tokens a tokenizer adds of itself."""
    if not texts:
        return []
    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    # A leftover truncation or padding setting of an earlier call would apply to a direct call of the backend.
    if backend is not None and backend.truncation is None and backend.padding is None:
        return [tuple(e.ids) for e in backend.encode_batch_fast(list(texts), add_special_tokens=False)]
    found = tokenizer(list(texts), add_special_tokens=False, truncation=False, padding=False, verbose=False)
    return [tuple(ids) for ids in found["input_ids"]]


def unknown_token(ids: Iterable[int], known_tokens: int) -> str:
    """What is wrong with ids of which a model, that knows so many tokens, does not know one; empty where it does."""
    largest = max(ids)
    return f"the tokenizer gives id {largest}, the model knows {known_tokens} tokens" if largest >= known_tokens else ""


def added_prefix(tokenizer: Tokenizer) -> Ids:
    """The ids the tokenizer itself puts before every text (BOS, as a rule); EOS it may add at the end is left out."""
    for text in ("a", "the", "0"):
        framed, plain = tuple(tokenizer(text)["input_ids"]), plain_ids(tokenizer, [text])[0]
        if plain:
            starts = range(len(framed) - len(plain) + 1)
            return next((framed[:at] for at in starts if framed[at : at + len(plain)] == plain), ())
    return ()


def without_transformers(tokenizer: Tokenizer) -> Tokenizer:
    """The tokenizer for a process that does not load transformers, which takes seconds; equal ids.

    One that has no fast backend, or is set to truncate or pad, is given back as it is.
    """
    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or backend.truncation is not None or backend.padding is not None:
        return tokenizer
    return BackendTokenizer(backend, tokenizer.bos_token_id, tokenizer.eos_token_id, added_prefix(tokenizer))


def _framed(prefix: Ids, ids: Ids) -> Ids:
    # The text itself may begin with the literal BOS, which a tokenizer reads as the token: one is enough.
    return ids if prefix and ids[:1] == prefix[-1:] else prefix + ids


def _boundary(tokenizer: Tokenizer, prefix: Ids, prompt: Ids, joint: Sequence[Ids]) -> Boundary:
    shared = len(prompt)
    if any(ids in ((), prefix) for ids in joint):  # so the prompt is empty too
        return Boundary((_context_id(tokenizer),), tuple(ids[len(prefix) :] for ids in joint), merged=False)
    for ids in joint:
        shared = min(_shared_length(prompt, ids), shared, len(ids) - 1)
    merged = shared < len(prompt)
    if shared == 0:
        return Boundary((_context_id(tokenizer),), tuple(joint), merged)
    return Boundary(prompt[:shared], tuple(ids[shared:] for ids in joint), merged)


def _shared_length(first: Ids, second: Ids) -> int:
    if second[: len(first)] == first:
        return len(first)
    return next((at for at, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), len(second))


def _context_id(tokenizer: Tokenizer) -> int:
    for token_id in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if token_id is not None:
            return token_id
    raise ModelError("an empty prompt needs a BOS or EOS token to stand in its place; the tokenizer has neither")
