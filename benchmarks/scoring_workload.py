"""An invented workload and models for the scoring benchmark: nothing is downloaded, equal seeds give equal bytes."""

import itertools
import json
import random
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

VOCABULARY = 32_000
SIZES = {
    "S": {"hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 6, "num_attention_heads": 6},
    "M": {"hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 12, "num_attention_heads": 12},
}
SHARPER = 2.0
"""Attention of an untrained model is flat, which would hide a wrong mask: queries and keys are scaled by this."""
KINDS = {
    # Words of the passage, whether options are fixed, their words.
    "inference": ((40, 110), ("yes", "no", "it is not possible to tell")),
    "story": ((60, 170), None),
    "topic": ((30, 90), ("world affairs", "sports", "business and money", "science and technology")),
    "boolean": ((60, 150), ("yes", "no")),
}
TEMPLATES = 5
SHOTS = 5


@dataclass(frozen=True)
class Item:
    """One prompt and its options, as text; joined as given."""

    inputs: str
    options: tuple[str, ...]


class Words:
    """Invented words, some far likelier than others, and sentences of them."""

    def __init__(self, seed: int) -> None:
        drawn = random.Random(f"words {seed}")
        onsets = [*"bcdfghjklmnprstvw", "st", "tr", "ch", "pl", "gr"]
        vowels = [*"aeiou", "ai", "ea", "ou"]
        codas = ["", "", "n", "r", "s", "t", "l", "ck", "nd"]

        def word() -> str:
            return "".join(
                drawn.choice(onsets) + drawn.choice(vowels) + drawn.choice(codas)
                for _ in range(drawn.choice([1, 2, 2, 3]))
            )

        self.words = list(dict.fromkeys(word() for _ in range(40_000)))
        self.cumulative = list(itertools.accumulate(1 / (rank + 20) for rank in range(len(self.words))))

    def some(self, drawn: random.Random, number: int) -> list[str]:
        """That many words."""
        return drawn.choices(self.words, cum_weights=self.cumulative, k=number)

    def text(self, drawn: random.Random, number: int) -> str:
        """Sentences of about so many words together."""
        sentences: list[str] = []
        while number > 0:
            length = min(number, drawn.randrange(6, 18))
            sentences.append(" ".join(self.some(drawn, length)).capitalize() + ".")
            number -= length
        return " ".join(sentences)


def workload(words: Words, examples: int, *, shots: int, seed: int, per_prefix: int | None = None) -> list[Item]:
    """`examples` examples under five templates each; every kind has its own five, three of which open with the passage.

    With shots, all examples of a kind and template show the same exemplars (or so many, where `per_prefix` says so).
    """
    items: list[Item] = []
    kinds = list(KINDS)
    if per_prefix is not None:
        kinds = kinds[: max(1, examples // per_prefix)]
    for number in range(examples):
        kind = kinds[number % len(kinds)]
        drawn = random.Random(f"example {seed} {number}")
        passage, question, options = example(words, drawn, kind)
        for template in range(TEMPLATES):
            before = ""
            if shots:
                shown = random.Random(f"exemplars {seed} {kind} {template}")
                for _ in range(shots):
                    its_passage, its_question, its_options = example(words, shown, kind)
                    before += asked(words, kind, template, its_passage, its_question)
                    before += f" {shown.choice(its_options)}\n\n"
            prompt = before + asked(words, kind, template, passage, question)
            items.append(Item(prompt, tuple(" " + option for option in options)))
    return items


def example(words: Words, drawn: random.Random, kind: str) -> tuple[str, str, tuple[str, ...]]:
    """A passage, a question on it and the options."""
    (fewest, most), fixed = KINDS[kind]
    passage = words.text(drawn, drawn.randrange(fewest, most))
    question = " ".join(words.some(drawn, drawn.randrange(5, 14))).capitalize()
    if fixed is not None:
        return passage, question, fixed
    number = drawn.randrange(2, 6)
    return passage, question, tuple(" ".join(words.some(drawn, drawn.randrange(1, 9))) + "." for _ in range(number))


def asked(words: Words, kind: str, template: int, passage: str, question: str) -> str:
    """The prompt of a template, which ends in a word and not in a space."""
    wording = random.Random(f"template {kind} {template}")
    lead = " ".join(words.some(wording, wording.randrange(5, 14))).capitalize()
    tail = " ".join(words.some(wording, wording.randrange(3, 8))).capitalize()
    if template < 3:
        return f"{passage}\n{lead} {question}?\n{tail}:"
    return f"{lead}:\n{passage}\n{question}? {tail}:"


def make_tokenizer(words: Words, vocabulary: int, *, texts: int = 1500, seed: int = 0) -> PreTrainedTokenizerFast:
    """A byte BPE of at most that many tokens, trained on so many invented texts."""
    drawn = random.Random(f"tokenizer {seed}")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["<s>", "</s>"],
        show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    tokenizer.train_from_iterator((words.text(drawn, 400) for _ in range(texts)), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", model_max_length=4096)


def build_model(folder: Path, size: str, words: Words, seed: int = 0) -> Path:
    """A random Llama of that size with a byte BPE trained on the invented words; made once."""
    if (folder / "config.json").is_file():
        return folder
    fast = make_tokenizer(words, VOCABULARY, seed=seed)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        max_position_embeddings=4096,
        initializer_range=0.05,
        tie_word_embeddings=False,
        bos_token_id=0,
        eos_token_id=1,
        **SIZES[size],
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.q_proj.weight.mul_(SHARPER)
            layer.self_attn.k_proj.weight.mul_(SHARPER)
    model.save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


def write_requests(items: list[Item], path: Path) -> None:
    """The file `openflan score` reads."""
    lines = (json.dumps({"id": i, "inputs": item.inputs, "options": item.options}) for i, item in enumerate(items))
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
