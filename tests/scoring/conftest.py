"""Tiny random models of several architectures, and a model that writes what it is told."""

from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from openflan.encoding.prompt_format import PromptFormat
from openflan.models.load import LanguageModel, load_model
from openflan.scoring import gemm
from openflan.scoring.rank import ScoreRequest

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 260}
CONFIGS = {
    "llama": {**SMALL, "num_key_value_heads": 2, "intermediate_size": 48, "max_position_embeddings": 96},
    "qwen2": {**SMALL, "num_key_value_heads": 2, "intermediate_size": 48, "max_position_embeddings": 96},
    "gpt_neox": {**SMALL, "intermediate_size": 48, "max_position_embeddings": 96},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 260, "n_positions": 96},
    "opt": {**SMALL, "ffn_dim": 48, "word_embed_proj_dim": 32, "max_position_embeddings": 96},
    "mistral": {
        **SMALL,
        "num_key_value_heads": 2,
        "intermediate_size": 48,
        "max_position_embeddings": 96,
        "sliding_window": 8,
    },
    "gpt_neo": {
        "hidden_size": 32,
        "num_layers": 2,
        "num_heads": 4,
        "attention_types": [[["global", "local"], 1]],
        "window_size": 8,
        "vocab_size": 260,
        "max_position_embeddings": 96,
    },
    "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 4, "vocab_size": 260},
    "granite": {
        **SMALL,
        "num_key_value_heads": 2,
        "intermediate_size": 48,
        "max_position_embeddings": 96,
        "logits_scaling": 3.0,
    },
    "qwen3": {**SMALL, "num_key_value_heads": 2, "head_dim": 8, "intermediate_size": 48, "max_position_embeddings": 96},
    "phi": {**SMALL, "intermediate_size": 48, "max_position_embeddings": 96},
    "phi3": {**SMALL, "intermediate_size": 48, "max_position_embeddings": 96, "pad_token_id": 0, "eos_token_id": 1},
    "gemma": {**SMALL, "num_key_value_heads": 2, "head_dim": 8, "intermediate_size": 48, "max_position_embeddings": 96},
    "gemma3_text": {
        **SMALL,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "intermediate_size": 48,
        "max_position_embeddings": 96,
        "sliding_window": 64,
    },
    "mixtral": {
        **SMALL,
        "num_key_value_heads": 2,
        "intermediate_size": 48,
        "max_position_embeddings": 96,
        "num_local_experts": 4,
    },
    "olmo2": {**SMALL, "num_key_value_heads": 2, "intermediate_size": 48, "max_position_embeddings": 96},
    "falcon": {**SMALL},
    "mamba": {"hidden_size": 32, "num_hidden_layers": 2, "vocab_size": 260},
    "gpt_oss": {
        **SMALL,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "intermediate_size": 48,
        "num_local_experts": 4,
        "sliding_window": 64,
    },
    "gemma2": {
        **SMALL,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "intermediate_size": 48,
        "max_position_embeddings": 96,
        "sliding_window": 8,
        "final_logit_softcapping": 2.0,
    },
}


AS_TREES = frozenset(CONFIGS) - {"mistral", "bloom", "falcon", "mamba", "gpt_oss", "gemma2", "gpt_neo"}
"""The others are scored by padded texts: a window of 8 tokens, biases and sinks that attention is not told of in a way
it knows, no attention."""


def byte_tokenizer(*words: str) -> PreTrainedTokenizerFast:
    """Bytes, `words` as tokens of their own, <s> = 0 and </s> = 1."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate(["<s>", "</s>", *letters])}
    tokenizer = Tokenizer(BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
    fast.add_tokens(list(words))
    return fast


def tiny(architecture: str, **changed: Any) -> LanguageModel:
    """A random model whose attention matters: larger weights than an untrained model's."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(architecture, **CONFIGS.get(architecture, {}) | changed)
    config.initializer_range = 0.3
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    return LanguageModel(
        name=architecture,
        model=model,
        tokenizer=byte_tokenizer(),
        prompt_format=PromptFormat(),
        context=96,
        identity=architecture,
    )


@pytest.fixture(scope="session", autouse=True)
def _torchs_own_products() -> Iterator[None]:  # pyright: ignore[reportUnusedFunction] -- pytest calls it
    """On every processor: whether oneDNN is faster on this one decides nothing here; a test of it says so itself."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gemm, "onednn_is_faster", lambda: False)
        yield


@pytest.fixture(scope="session")
def llama() -> LanguageModel:
    return tiny("llama")


@pytest.fixture(scope="session")
def stories_lm(stories: str) -> LanguageModel:
    return load_model(stories, device="cpu")


def naive(lm: LanguageModel, request: ScoreRequest) -> list[list[float]]:
    """Each option fed alone behind its prompt, the whole model, float64 log-softmax."""
    found: list[list[float]] = []
    for option in request.option_ids:
        ids = torch.tensor([[*lm.prefix_ids, *request.prompt_ids, *option]])
        with torch.inference_mode():
            logprobs = lm.model(ids).logits[0].double().log_softmax(-1)
        start = ids.shape[1] - len(option) - 1
        found.append([logprobs[start + k, token].item() for k, token in enumerate(option)])
    return found


class Scripted(torch.nn.Module):
    """Writes `scripts[first prompt token]`, token by token, whatever it reads after that."""

    device = torch.device("cpu")

    def __init__(self, scripts: dict[int, Sequence[int]], vocabulary: int) -> None:
        super().__init__()
        self.scripts, self.vocabulary = scripts, vocabulary
        self.unused = torch.nn.Parameter(torch.zeros(1))

    def get_input_embeddings(self):
        return SimpleNamespace(num_embeddings=self.vocabulary)

    def get_output_embeddings(self):
        return None

    def forward(self, input_ids, attention_mask, past_key_values=None, use_cache=True):
        if past_key_values is None:
            first = attention_mask.int().argmax(1)
            past_key_values = [[int(row[at]) for row, at in zip(input_ids, first, strict=True)], -1]
        past_key_values[1] += 1
        logits = torch.zeros(len(input_ids), 1, self.vocabulary)
        for row, first in enumerate(past_key_values[0]):
            script = self.scripts[first]
            logits[row, 0, script[min(past_key_values[1], len(script) - 1)]] = 1
        return SimpleNamespace(logits=logits, past_key_values=past_key_values)
