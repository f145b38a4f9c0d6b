"""Tokenizers and random models small enough to build in a test: nothing is downloaded."""

from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from openflan.encoding import Encoded
from openflan.models.load import LanguageModel, load_model

SPECIAL = ["<s>", "</s>"]
BOS, EOS = 0, 1
VOCABULARY = 300
SMALL = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
SMALL |= {"bos_token_id": BOS, "eos_token_id": EOS}
PLAIN = SMALL | {"intermediate_size": 48, "max_position_embeddings": 64}
GROUPED = PLAIN | {"num_key_value_heads": 2}
OLDER = {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
OLDER |= {"attn_pdrop": 0.0, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "bos_token_id": BOS, "eos_token_id": EOS}
RECURRENCE = {"mamba_n_heads": 4, "mamba_n_groups": 1, "mamba_d_state": 8, "mamba_chunk_size": 8}
WINDOW = 4
"""Tokens of every sliding window: shorter than most examples."""

CONFIGS: dict[str, dict[str, object]] = {
    "llama": GROUPED | {"tie_word_embeddings": True},
    "qwen2": GROUPED,
    "gpt2": OLDER,
    "gpt_neox": PLAIN,
    "qwen3": GROUPED | {"head_dim": 8},
    "opt": SMALL | {"ffn_dim": 48, "word_embed_proj_dim": 32, "max_position_embeddings": 64, "dropout": 0.0},
    "mistral": GROUPED | {"sliding_window": WINDOW},
    "gemma": GROUPED | {"head_dim": 8},
    # Its layers take turns with the window; both caps bind.
    "gemma2": GROUPED
    | {"head_dim": 8, "sliding_window": WINDOW, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0},
    # Its embedding is more than a matrix: it multiplies by the square root of the hidden size.
    "gemma3_text": GROUPED | {"head_dim": 8, "sliding_window": WINDOW},
    "phi": PLAIN,
    "olmo2": GROUPED,
    "granite": GROUPED | {"logits_scaling": 3.0},
    "bloom": {"vocab_size": VOCABULARY, "hidden_size": 32, "n_layer": 2, "n_head": 4},
    "falcon": SMALL,
    "falcon_alibi": SMALL | {"model_type": "falcon", "alibi": True},
    "mpt": {"vocab_size": VOCABULARY, "d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 64},
    "gptj": OLDER | {"rotary_dim": 4},
    "gpt_oss": GROUPED | {"head_dim": 8, "num_local_experts": 4, "sliding_window": WINDOW, "rope_scaling": None},
    "mamba": {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 8},
    "rwkv": {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "attention_hidden_size": 32},
    "jamba": GROUPED
    | {"num_experts": 2, "attn_layer_period": 2, "attn_layer_offset": 1, "mamba_d_state": 8, "mamba_dt_rank": 4},
    "bamba": GROUPED | {"attn_layer_indices": [1], "mamba_d_head": 16} | RECURRENCE,
}
"""Settings by architecture; where the name is not transformers', `model_type` has that."""
FAMILIES = ("llama", "qwen2", "gpt2", "gpt_neox")
"""Enough for what does not depend on how an architecture attends."""
RAGGED = (*FAMILIES, "qwen3", "opt", "mistral", "gemma", "gemma2", "phi", "olmo2", "granite")
MASKED = ("bloom", "falcon", "falcon_alibi", "mpt", "gptj", "gpt_oss")
"""Those that build their own mask or add to scores what attention's interface does not hand over."""
RECURRENT = ("mamba", "rwkv", "jamba", "bamba")


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


def tiny(family: str = "llama", seed: int = 0, **settings: object) -> PreTrainedModel:
    """A random model of some ten thousand parameters, sharp enough that a wrong mask shows."""
    torch.manual_seed(seed)
    described = {"model_type": family} | CONFIGS[family] | settings
    built: PreTrainedModel = AutoModelForCausalLM.from_config(AutoConfig.for_model(**described))
    with torch.no_grad():
        for parameter in built.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4.0)
    return built.eval()


def saved(folder: Path, family: str = "llama", **settings: object) -> LanguageModel:
    """A tiny model and tokenizer written to `folder` and loaded from there."""
    tiny(family, **settings).save_pretrained(folder)
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
