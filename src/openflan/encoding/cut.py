"""Where a text may be cut so that its parts, encoded apart, have the ids of the whole.

Takes a tokenizer and a text, gives a place. A prompt that stands before several continuations is then encoded once, and
not again with each of them. Read next: `boundary.py`.

The place is between a letter and a space that a letter follows, and only for tokenizers of which it is known: those
that split text into words by one of `PATTERNS` and encode each word by itself. In each of these patterns nothing that
contains a letter goes on to a space, a space before a letter begins a word, and nothing looks further than the
character after a run of whitespace, which here is a letter. For any other tokenizer there is no place.
"""

import json
import re
from typing import Any

PATTERNS = frozenset(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}" + digits + r"| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
    for digits in ("", "{1,3}")
)
"""Of Qwen 2 and later, and of Llama 3; GPT-2's own, which many use, is built into `ByteLevel`."""
_PLACE = re.compile(r".*[A-Za-z](?= [A-Za-z])", re.DOTALL)


def last_place(text: str) -> int:
    """The last place where `text` may be cut, in characters; 0 where there is none.

    >>> last_place("Is it so? Yes or no:")
    16
    """
    found = _PLACE.match(text)
    return found.end() if found else 0


def can_be_cut(tokenizer: Any) -> bool:
    """Whether `last_place` holds for a tokenizer of transformers."""
    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or backend.truncation is not None or backend.padding is not None:
        return False
    added = backend.get_added_tokens_decoder().values()
    if any(" " in token.content or token.lstrip or token.rstrip or token.single_word for token in added):
        return False
    if backend.normalizer is not None and _described(backend.normalizer)["type"] != "NFC":
        return False
    return backend.pre_tokenizer is not None and _splits_words(_described(backend.pre_tokenizer))


def _described(part: Any) -> dict[str, Any]:
    """What a part of the backend is made of, as in tokenizer.json."""
    return json.loads(part.__getstate__())


def _splits_words(described: dict[str, Any]) -> bool:
    steps: list[dict[str, Any]] = described["pretokenizers"] if described["type"] == "Sequence" else [described]
    first = [step for step in steps if step["type"] != "Digits"]
    if first and first[0]["type"] == "Split":
        split, *first = first
        if split["behavior"] != "Isolated" or split["invert"] or split["pattern"].get("Regex") not in PATTERNS:
            return False
        return [step["type"] for step in first] == ["ByteLevel"] and not first[0]["use_regex"]
    return [step["type"] for step in first] == ["ByteLevel"] and first[0]["use_regex"]
