"""Tokens that an endpoint echoes, laid on the text it was sent: the border of prompt and option without a tokenizer.

Takes the text and the tokens as strings, gives `Echo`s, and of several echoes the border they share. Read next:
`remote.py`.

Servers write tokens in several ways: decoded, or as the vocabulary spells them (▁the, Ġthe, <0x0A>); with or without
the BOS; and the parts of a split character as U+FFFD, as nothing, or as bytes:\\xe2. Certain is where a whole piece of
text stands. Where a token's start is not certain it is None, and no border is put there.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

MOST_SPECIAL = 4
"""Special tokens before a text."""
LONGEST_FIRST = 64
"""Characters of a first token whose text a server does not tell."""

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_SPELLINGS = (("▁", " "), ("Ġ", " "), ("Ċ", "\n"), ("ĉ", "\t"))

Tokens = Sequence[str | None]
Starts = tuple[int | None, ...]


@dataclass(frozen=True, slots=True)
class Echo:
    """The tokens of one text, without any generated after it: one entry for each token in every field."""

    tokens: tuple[str | None, ...]
    """As the server writes them; None where it does not tell."""
    logprobs: tuple[float | None, ...]
    """Nats; None where there is none, as for the first token."""
    starts: Starts
    """The character of the text each begins at; None where that is not certain."""


def lay(text: str, tokens: Tokens) -> Starts | None:
    """Where each of `tokens` begins in `text`, or None where they do not add up to it.

    Some tokenizers lose spaces (the second of two, or all), some capitals. Where nothing else is missing, spaces go to
    the token after them.

    >>> lay("yes, no", ["<s>", "yes", ",", " no"])
    (None, 0, 3, 4)
    >>> lay("Yes, no", ["yes", ",", "no"])
    (0, 3, 4)
    """
    pieces = [token or "" for token in tokens]
    unknown = bool(tokens) and tokens[0] is None
    starts = _lay_all(text, pieces, unknown)
    if starts is not None:
        return starts
    kept = [place for place, char in enumerate(text) if char != " "]
    bare = "".join(text[place] for place in kept)
    solid = {place: piece for place, piece in enumerate(pieces) if not piece or piece.replace("▁", "").replace(" ", "")}
    plain = [piece.replace("▁", "").replace(" ", "") for piece in solid.values()]
    for spelled in (bare, "".join(char.lower() if len(char.lower()) == 1 else char for char in bare)):
        starts = _lay_all(spelled, plain, unknown)
        if starts is not None:
            return _with_spaces(text, kept, len(pieces), dict(zip(solid, starts, strict=True)))
    return None


def _with_spaces(text: str, kept: Sequence[int], num_tokens: int, bare: dict[int, int | None]) -> Starts:
    """Starts in the text of starts in it without spaces, which tokens of nothing but spaces do not have yet."""
    found: list[int | None] = [None] * num_tokens
    for token, start in bare.items():
        if start is None:
            continue
        found[token] = kept[start - 1] + 1 if start else 0
        first_space = next((i + 1 for i in range(token - 1, -1, -1) if i in bare), 0)
        if first_space < token and text[found[token] or 0] == " ":
            found[first_space], found[token] = found[token], kept[start]
    return tuple(found)


def _lay_all(text: str, pieces: Sequence[str], unknown: bool) -> Starts | None:
    """As `lay`, letter by letter. `unknown`: the server does not tell the first token's text."""
    if unknown:
        for length in range(min(LONGEST_FIRST, len(text)) + 1):
            rest = _lay(text, pieces, 1, length)
            if rest is not None:
                return (0 if length else None, *rest[1:])
        return None
    # A special token may be written as nothing, and so may part of a character: the first is by far the commoner.
    for num_special in range(pieces[:1] == [""], min(MOST_SPECIAL, len(pieces) - 1) + 1):
        starts = _lay(text, pieces, num_special, 0)
        if starts is not None:
            return starts
    return None


def _lay(text: str, pieces: Sequence[str], num_before: int, at: int) -> Starts | None:
    """As `lay`, where that many tokens stand before character `at`."""
    starts: list[int | None] = [None] * num_before
    sure = True
    while len(starts) < len(pieces):
        first = len(starts)
        whole = next((i for i in range(first, len(pieces)) if pieces[i]), len(pieces))
        length = _length(pieces[whole], text, at) if whole < len(pieces) else None
        if length is not None:
            # Nothing-tokens may be parts of the character that follows, so a border stands before them or nowhere.
            starts += [at if length and sure else None, *[None] * (whole - first)]
            at, sure = at + length, True
            continue
        gap = _split_characters(text, at, pieces, first)
        if gap is None:
            return None
        # Where parts of characters are left out of all tokens, the tokens around may hold such parts too.
        sure = any(pieces[first : first + gap[0]])
        starts += _starts_of_parts(text, at, gap[1], gap[0]) if sure else [None] * gap[0]
        at += gap[1]
    return tuple(starts) if at == len(text) else None


def _starts_of_parts(text: str, at: int, length: int, num_tokens: int) -> list[int | None]:
    """Where tokens begin that hold parts of characters: known of the first, and of all if each is a single byte."""
    sizes = [len(char.encode()) for char in text[at : at + length]]
    if sum(sizes) > num_tokens:
        return [at, *[None] * (num_tokens - 1)]
    return [start for i, size in enumerate(sizes) for start in (at + i, *[None] * (size - 1))]


def _length(piece: str, text: str, at: int) -> int | None:
    """Characters of `text` that the piece covers at `at`, by any spelling; None where it does not stand there."""
    byte = _BYTE.fullmatch(piece)
    spellings = [piece, chr(int(byte[1], 16)) if byte and int(byte[1], 16) < 128 else piece]
    for written, meant in _SPELLINGS:
        spellings.append(piece.replace(written, meant))
    for spelling in spellings:
        if text.startswith(spelling, at):
            return len(spelling)
    # Some vocabularies put a space before every text.
    bare = next((spelling[1:] for spelling in spellings if spelling.startswith(" ")), None)
    return len(bare) if at == 0 and bare is not None and text.startswith(bare) else None


def _is_whole(piece: str) -> bool:
    """The piece holds no part of a split character."""
    return bool(piece) and "\ufffd" not in piece and not _spells_bytes(piece)


def _spells_bytes(piece: str) -> bool:
    byte = _BYTE.fullmatch(piece)
    return piece.startswith("bytes:") or (byte is not None and int(byte[1], 16) >= 128)


def _told(piece: str) -> str:
    """The whole characters that a token holds beside parts of others."""
    if _spells_bytes(piece):
        return bytes(int(byte, 16) for byte in re.findall(r"\\x([0-9A-Fa-f]{2})", piece)).decode(errors="ignore")
    return piece.replace("\ufffd", "")


def _holds(text: str, letters: str) -> bool:
    """Whether the letters stand in the text in that order."""
    rest = iter(text)
    return all(letter in rest for letter in letters)


def _split_characters(text: str, at: int, pieces: Sequence[str], first: int) -> tuple[int, int] | None:
    """Tokens from `first` on that hold parts of split characters, and the characters of `text` they cover together.

    None where the tokens there are no such parts, or no stretch of text fits them.
    """
    end = next((i for i in range(first, len(pieces)) if _is_whole(pieces[i])), len(pieces))
    if end == first:
        return None
    gap = pieces[first:end]
    told = "".join(map(_told, gap))
    # Each mark of a lost part stands for a byte at least, as does each token.
    least = sum(max(1, len(_told(piece).encode()) + piece.count("\ufffd")) for piece in gap)
    for stop in range(at + 1, len(text) + 1):
        # A plain letter is never split; it may stand in one token with part of its neighbour.
        if text[stop - 1].isascii() and text[stop - 1] not in told:
            return None
        enough = len(text[at:stop].encode()) >= least and _holds(text[at:stop], told)
        fits = stop == len(text) if end == len(pieces) else _length(pieces[end], text, stop) is not None
        if enough and fits:
            return end - first, stop - at
    return None


def shared_border(echoes: Sequence[Echo], join: int) -> int | None:
    """The token all texts can be scored from: the last border at or before character `join`, all before it alike.

    None where there is no such border with a token before it to stand as its context.
    """
    shared = min(len(echo.tokens) - 1 for echo in echoes)
    for echo in echoes[1:]:
        pairs = zip(echoes[0].tokens[:shared], echo.tokens[:shared], strict=True)
        shared = next((i for i, (one, other) in enumerate(pairs) if one != other), shared)
    for border in range(shared, 0, -1):
        begins = {echo.starts[border] for echo in echoes}
        start = echoes[0].starts[border]
        if len(begins) == 1 and start is not None and start <= join:
            return border
    return None
