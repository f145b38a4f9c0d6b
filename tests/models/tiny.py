"""Tokenizers and random models small enough to build in a test: nothing is downloaded."""

from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from openflan.encoding import Encoded
from openflan.models.load import LanguageModel, load_model

SPECIAL = ["<s>", "</s>"]
BOS, EOS = 0, 1
VOCABULARY = 300
SMALL = {"vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
SMALL |= {"num_attention_heads": 4, "max_position_embeddings": 64, "bos_token_id": BOS, "eos_token_id": EOS}
FAMILIES = ("llama", "qwen2", "gpt2", "gpt_neox")


def bpe(*merged: str, add_bos: bool = True, add_eos: bool = False) -> PreTrainedTokenizerFast:
    """A byte BPE that builds each of `merged` from its characters, across spaces and line breaks too."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: at for at, token in enumerate([*SPECIAL, *alphabet])}
    merges: list[tuple[str, str]] = []
    for text in merged:
        pieces = [
            c for c, _ in pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(text)
        ]
        left, *rest = "".join(pieces)
        for right in rest:
            if left + right not in vocabulary:
                vocabulary[left + right] = len(vocabulary)
                merges.append((left, right))
            left += right
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    single = ("<s> " if add_bos else "") + "$A" + (" </s>" if add_eos else "")
    named = [(token, at) for at, token in enumerate(SPECIAL) if token in single]
    tokenizer.post_processor = processors.TemplateProcessing(single=single, special_tokens=named)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")


def tiny(family: str = "llama", seed: int = 0) -> PreTrainedModel:
    """A random model of some ten thousand parameters, sharp enough that a wrong mask shows."""
    torch.manual_seed(seed)
    built: PreTrainedModel
    if family == "llama":
        built = LlamaForCausalLM(LlamaConfig(**SMALL, num_key_value_heads=2, tie_word_embeddings=True))
    elif family == "qwen2":
        built = Qwen2ForCausalLM(Qwen2Config(**SMALL, num_key_value_heads=2))
    elif family == "gpt2":
        config = GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=64, bos_token_id=BOS)
        config.eos_token_id = EOS
        config.attn_pdrop = config.resid_pdrop = config.embd_pdrop = 0.0
        built = GPT2LMHeadModel(config)
    else:
        built = GPTNeoXForCausalLM(GPTNeoXConfig(**SMALL))
    with torch.no_grad():
        for parameter in built.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4.0)
    return built.eval()


def saved(folder: Path, family: str = "llama") -> LanguageModel:
    """A tiny model and tokenizer written to `folder` and loaded from there."""
    tiny(family).save_pretrained(folder)
    bpe().save_pretrained(folder)
    return load_model(str(folder), device="cpu")


def examples(count: int, *, seed: int = 0, longest: int = 12, task: str = "toy") -> list[Encoded]:
    """Random examples of 2 to `longest` tokens; the target's last is EOS."""
    drawn = np.random.default_rng(seed)
    made: list[Encoded] = []
    for number in range(count):
        total = int(drawn.integers(2, longest + 1))
        targets = int(drawn.integers(1, total))
        ids = [int(i) for i in drawn.integers(2, VOCABULARY, total)]
        prompt, target = ids[: total - targets], [*ids[total - targets : -1], EOS]
        made.append(Encoded(task, f"train/{number}", "t", tuple(prompt), tuple(target)))
    return made
