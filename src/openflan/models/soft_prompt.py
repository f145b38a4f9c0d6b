"""Soft prompts: learned vectors in front of every example. Source: Lester et al. 2021; Wei et al. 2022 §4.5.

Takes a `LanguageModel`, gives one whose embedding knows P more ids, V .. V + P - 1, V being its vocabulary size.

The vectors are addressed as token ids (`LanguageModel.prefix_ids`), so that whatever handles ids handles soft prompts:
each example of a packed row has its own, positions count them, padding on either side is harmless, and prefixes are
shared in scoring. The head still knows V tokens only; a soft prompt is never predicted. Read next: `tuning/tune.py`.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from openflan.encoding.encode import Encoded
from openflan.errors import ModelError
from openflan.models.adapters import WEIGHTS_FILE, peft_base, write_base
from openflan.models.load import LanguageModel

VECTORS = "prompt_embeddings"
"""What peft calls them."""


class SoftPromptEmbedding(nn.Module):
    """The model's embedding, extended by learned vectors for the ids from V on."""

    def __init__(self, embedding: nn.Module, vectors: Tensor) -> None:
        super().__init__()
        self.embedding = embedding
        self.vectors = nn.Parameter(vectors)
        """[P, hidden]"""
        self.num_embeddings: int = cast(Tensor, embedding.weight).shape[0]

    @property
    def weight(self) -> Tensor:
        """The base's weights: what tied heads and transformers look for."""
        return cast(Tensor, self.embedding.weight)

    def forward(self, input_ids: Tensor) -> Tensor:
        soft = input_ids >= self.num_embeddings
        words = self.embedding(input_ids.masked_fill(soft, 0))
        learned = functional.embedding((input_ids - self.num_embeddings).clamp_min(0), self.vectors)
        return torch.where(soft[..., None], learned.to(words.dtype), words)


def add_soft_prompt(lm: LanguageModel, *, num_tokens: int = 10, seed: int = 0) -> LanguageModel:
    """The model with `num_tokens` learned vectors before every prompt (in place); only they are trainable after this.

    The vectors start as the embeddings of tokens drawn from the vocabulary, as Lester et al. found best but for class
    labels.
    """
    weight = _embedding_weight(lm)
    drawn = torch.randint(len(weight), (num_tokens,), generator=torch.Generator().manual_seed(seed % 2**63))
    with torch.no_grad():  # as the embedding gives them: Gemma 3's are its weights times a factor
        start = cast(Tensor, lm.model.get_input_embeddings()(drawn.to(weight.device)))
    return put_before(lm, start.float().clone())


def prepend(encoded: Sequence[Encoded], prefix_ids: tuple[int, ...]) -> Sequence[Encoded]:
    """The examples with a model's `prefix_ids` before each prompt."""
    if not prefix_ids:
        return encoded
    return [dataclasses.replace(e, prompt_ids=prefix_ids + e.prompt_ids) for e in encoded]


def save_soft_prompt(lm: LanguageModel, folder: Path) -> None:
    """Write the vectors as peft writes a prompt-tuning adapter; the base's weights stay where they are."""
    from peft import PromptTuningConfig, TaskType

    embedding = lm.model.get_input_embeddings()
    if not isinstance(embedding, SoftPromptEmbedding):
        raise ModelError(f"{lm.name} has no soft prompt to save")
    folder.mkdir(parents=True, exist_ok=True)
    vectors = embedding.vectors.detach().cpu().contiguous()
    save_file({VECTORS: vectors}, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    text = cast(Any, lm.model.config).get_text_config()
    base, revision = peft_base(lm)
    config = PromptTuningConfig(
        task_type=TaskType.CAUSAL_LM,
        num_virtual_tokens=len(vectors),
        token_dim=vectors.shape[1],
        num_transformer_submodules=1,
        num_attention_heads=getattr(text, "num_attention_heads", None),
        num_layers=getattr(text, "num_hidden_layers", None),
        base_model_name_or_path=base,
        revision=revision,
        inference_mode=True,
    )
    config.save_pretrained(str(folder))
    write_base(lm, folder, lm.prompt_format)


def vectors_of(weights: Mapping[str, Tensor], folder: Path) -> Tensor:
    """[P, hidden] of a saved soft prompt. Raises ModelError where the file holds something else."""
    if set(weights) != {VECTORS} or weights[VECTORS].dim() != 2:
        raise ModelError(
            f"{folder / WEIGHTS_FILE}: expected one matrix {VECTORS!r}, found {', '.join(sorted(weights))}"
        )
    return weights[VECTORS]


def put_before(lm: LanguageModel, vectors: Tensor) -> LanguageModel:
    """The model with these vectors [P, hidden] before every prompt (in place); only they are trainable after this.

    Raises ModelError where the model has a soft prompt already, or one of another width.
    """
    if lm.prefix_ids:
        raise ModelError(f"{lm.name} has a soft prompt already")
    model, vocabulary, width = lm.model, *_embedding_weight(lm).shape
    if vectors.shape[1] != width:
        raise ModelError(f"{lm.name} has embeddings of {width} numbers, the soft prompt of {vectors.shape[1]}")
    model.requires_grad_(False)
    cast(Any, model).set_input_embeddings(SoftPromptEmbedding(model.get_input_embeddings(), vectors))
    prefix_ids = tuple(range(vocabulary, vocabulary + len(vectors)))
    return dataclasses.replace(lm, prefix_ids=prefix_ids)


def _embedding_weight(lm: LanguageModel) -> Tensor:
    return cast(Tensor, lm.model.get_input_embeddings().weight)
