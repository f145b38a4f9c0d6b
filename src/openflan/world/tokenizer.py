"""The word-level tokenizer of the micro-world.

One entry per word and punctuation mark, uncased, as an ordinary `PreTrainedTokenizerFast` folder that `AutoTokenizer`
reads. `decode(encode(text))` is `text` in lower case with a space between tokens and none around line breaks. The end-
of-text token also starts every sequence (it is what the pretraining text has between documents), and encoding puts
exactly one in front.
"""

import random
import re
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from openflan.world import language as lang
from openflan.world.carriers import CARRIERS
from openflan.world.text import STAGES, document

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

__all__ = [
    "EOS",
    "PAD",
    "TASKS_FOLDER",
    "UNKNOWN",
    "build_tokenizer",
    "counted_words",
    "lexicon_words",
    "template_pieces",
    "template_words",
    "tokens",
    "vocabulary",
]

PAD, EOS, UNKNOWN = "<pad>", "<eos>", "<unk>"
TASKS_FOLDER = Path(__file__).with_name("tasks")
"""The task files of the micro-world."""

MARKS = tuple('\n.,?!:;()"-=|/*')
"""Punctuation marks of the vocabulary, whether the pretraining text uses them often or not."""

_TOKEN = re.compile(r"<eos>|\n|\w+|[^\w\s]")
_EXPRESSION = re.compile(r"\{\{.*?\}\}|\{%.*?%\}", re.DOTALL)
_QUOTED = re.compile(r"'([^']*)'|\"([^\"]*)\"")


def tokens(text: str) -> list[str]:
    """The tokens of a text, as the tokenizer makes them (before the look-up)."""
    return _TOKEN.findall(text.lower())


def template_pieces(folder: Path = TASKS_FOLDER) -> Iterator[tuple[str, str]]:
    """Every literal piece of text of every task template: (task name, piece). Expressions split the pieces."""
    for file in sorted(folder.glob("*.toml")):
        task = tomllib.loads(file.read_text(encoding="utf-8"))
        for template in task["template"]:
            for side in ("inputs", "targets"):
                for piece in _EXPRESSION.split(template.get(side, "")):
                    if piece.strip():
                        yield task["name"], piece.strip()


def template_words(folder: Path = TASKS_FOLDER) -> set[str]:
    """Every literal word and mark in the tasks' templates, fixed answers and the strings of their expressions."""
    words: set[str] = set(tokens("OPTIONS:\n- "))
    for file in sorted(folder.glob("*.toml")):
        task = tomllib.loads(file.read_text(encoding="utf-8"))
        for text in _strings([task.get("answer", {}).get("options", []), *_option_words(task)]):
            words.update(tokens(text))
        for template in task["template"]:
            for side in ("inputs", "targets"):
                text = template.get(side, "")
                for expression in _EXPRESSION.findall(text):
                    for single, double in _QUOTED.findall(expression):
                        words.update(tokens(single or double))
                words.update(tokens(_EXPRESSION.sub(" ", text)))
    return words


def _option_words(task: dict[str, Any]) -> Iterator[Any]:
    for template in task["template"]:
        if isinstance(template.get("options"), list):
            yield template["options"]


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        return
    for item in cast("Iterable[Any]", value):
        if isinstance(item, str):
            yield item
        else:
            yield from _strings(item)


def lexicon_words() -> set[str]:
    """Every word that `language` can produce, and those of the carrier sentences."""
    texts: list[str] = [word for words in lang.KINDS.values() for word in words]
    texts += [
        *lang.NUMBERS,
        *lang.DAYS,
        *lang.ADJECTIVES,
        *lang.ZED.values(),
        *lang.REVIEW_THINGS,
        *lang.KINDS,
        *lang.RELATIONS,
    ]
    texts += [*lang.POSITIVE_ADJECTIVES, *lang.NEGATIVE_ADJECTIVES, *lang.POSITIVE_OPINIONS, *lang.NEGATIVE_OPINIONS]
    texts += [*lang.NEUTRAL_SENTENCES, "he she his her", *CARRIERS]
    for relation in lang.RELATIONS.values():
        texts += [*relation.statements, *relation.denials, *relation.wh_questions, *relation.inverse_questions]
        texts += relation.yes_no_questions
    for table in lang.TABLES.values():
        texts += [
            *table.pairs,
            *table.values,
            *table.statements,
            *table.denials,
            *table.questions,
            *table.inverse_questions,
        ]
    for script in lang.SCRIPTS:
        texts += [*script.causes, *script.effects]
    return {token for text in texts for token in tokens(re.sub(r"\{\w+\}", " ", text))}


def counted_words(count: int, seed: int = 0) -> Counter[str]:
    """How often each token occurs in `count` documents of the full stage and a tenth as many of the others."""
    words: Counter[str] = Counter()
    for stage in STAGES:
        rng = random.Random(f"words {stage} {seed}")
        for _ in range(count if stage == "full" else count // 10):
            words.update(tokens(document(rng, stage).text))
    return words


def vocabulary(documents: int = 60_000) -> list[str]:
    """All entries in order: the three special tokens, the marks, the words by alphabet, and fillers up to a multiple of
    32.

    `documents` is how many are read for words that neither the language nor the templates name. Raises ValueError if
    there are too many entries for the small models this is made for.
    """
    words = lexicon_words() | template_words() | set(counted_words(documents))
    words -= {EOS, *MARKS}
    entries = [PAD, EOS, UNKNOWN, *MARKS, *sorted(words)]
    entries += [f"<unused{number}>" for number in range(-len(entries) % 32)]
    if len(entries) >= 1024:
        raise ValueError(f"the vocabulary has {len(entries)} entries; it is meant to stay below 1024")
    return entries


def build_tokenizer(entries: list[str] | None = None) -> "PreTrainedTokenizerFast":
    """The tokenizer over `entries` (`vocabulary()` by default); save it with `save_pretrained`."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    ids = {entry: index for index, entry in enumerate(entries or vocabulary())}
    backend = Tokenizer(models.WordLevel(ids, unk_token=UNKNOWN))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\n"), "isolated"),
            pre_tokenizers.Split(Regex(r"[^\S\n]+"), "removed"),
            pre_tokenizers.Punctuation("isolated"),
        ]
    )
    backend.decoder = decoders.Sequence(
        [
            decoders.WordPiece(prefix="##", cleanup=False),
            decoders.Fuse(),
            decoders.Replace(Regex(r" *\n *"), "\n"),
        ]
    )
    backend.post_processor = processors.TemplateProcessing(
        single=f"{EOS} $A", pair=f"{EOS} $A $B", special_tokens=[(EOS, ids[EOS])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=EOS,
        eos_token=EOS,
        pad_token=PAD,
        unk_token=UNKNOWN,
        clean_up_tokenization_spaces=False,
        model_max_length=1024,
        padding_side="left",
    )
