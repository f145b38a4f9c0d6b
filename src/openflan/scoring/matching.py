"""A written answer matched to the options it was given: what is done where an endpoint gives no log-probabilities.

Takes a text and options, gives a `Match`. This is not rank classification: an answer may match no option at all.
Read next: `remote.py`.
"""

import re
import string
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

How = Literal["equal", "begins", "none", "several"]
_AROUND = string.whitespace + string.punctuation + "“”‘’«»…–—•"
_AHEAD = re.compile(rf"^(?:(?![-+–]?[.,]?\d)[{re.escape(_AROUND)}])+")
"""What stands around a text at its beginning: not the sign of a number, nor its point."""
_ENDS = r"(?!\w|[.,'’‐-]\w|(?<=\d)[/⁄:]\d)"
"""No word goes on here, and no number: after "3" neither ".7" nor ",000", after "it" no "'s"."""


@dataclass(frozen=True, slots=True)
class Match:
    """The option a text names."""

    index: int | None
    how: How
    """"equal": the whole text is the option; "begins": it begins with it; "none", "several": it names not just one."""


def match(text: str, options: Sequence[str]) -> Match:
    """By the first rule that finds one: the option as written, as normalised, or the longest that the text begins with.

    Normalised: NFKC, case folded, single spaces, no punctuation around save what belongs to a number. A text begins
    with whole words and whole numbers of an option. Of options that are normalised alike it names the one that it
    spells, a final full stop aside.

    >>> match("Yes, it does.", ["yes", "no"])
    Match(index=0, how='begins')
    >>> match("1,000", ["1", "100"])
    Match(index=None, how='none')
    """
    if text.strip() in options:
        return Match(options.index(text.strip()), "equal")
    answer, plain = normalise(text), [normalise(option) for option in options]
    equal = [index for index, option in enumerate(plain) if option == answer and option]
    begins = [index for index, option in enumerate(plain) if option and re.match(re.escape(option) + _ENDS, answer)]
    longest = max((len(plain[index]) for index in begins), default=0)
    found, how = (equal, "equal") if equal else ([i for i in begins if len(plain[i]) == longest], "begins")
    for spelt in (str.strip, _folded):
        if len({options[index] for index in found}) > 1:
            found = [i for i in found if _unstopped(spelt(options[i])) == _unstopped(spelt(text))] or found
    if not found:
        return Match(None, "none")
    if len({options[index] for index in found}) > 1:
        return Match(None, "several")
    return Match(found[0], how)


def normalise(text: str) -> str:
    """A text with nothing left in it that a writer may vary.

    >>> normalise(" - It  Does not."), normalise("(-5)")
    ('it does not', '-5')
    """
    return _AHEAD.sub("", _folded(text)).rstrip(_AROUND)


def _folded(text: str) -> str:
    folded = unicodedata.normalize("NFKC", text).casefold().replace("\N{MINUS SIGN}", "-")
    return " ".join(folded.split())


def _unstopped(text: str) -> str:
    return text.removesuffix(".")
