"""Soft prompts: learned vectors in front of every example. Source: Lester et al. 2021; Wei et al. 2022 §4.5.

Takes a `LanguageModel`, gives one whose embedding knows P more ids, V .. V + P - 1, V being its vocabulary size.

The vectors are addressed as token ids (`LanguageModel.prefix_ids`), so that whatever handles ids handles soft prompts:
each example of a packed row has its own, positions count them, padding on either side is harmless, and prefixes are
shared in scoring. The head still knows V tokens only; a soft prompt is never predicted. Read next: `tuning/tune.py`.
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from openflan.artifacts import write_json
from openflan.encoding.encode import Encoded
from openflan.errors import ModelError
from openflan.models.load import LanguageModel, folder_identity, load_model, read_prompt_format, write_prompt_format

DESCRIPTION_FILE = "soft_prompt.json"
VECTORS_FILE = "soft_prompt.safetensors"


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
    if lm.prefix_ids:
        raise ModelError(f"{lm.name} has a soft prompt already")
    weight = _embedding_weight(lm)
    drawn = torch.randint(len(weight), (num_tokens,), generator=torch.Generator().manual_seed(seed))
    return _with_vectors(lm, weight.detach()[drawn.to(weight.device)].float().clone())


def prepend(encoded: Sequence[Encoded], prefix_ids: tuple[int, ...]) -> Sequence[Encoded]:
    """The examples with a model's `prefix_ids` before each prompt."""
    if not prefix_ids:
        return encoded
    return [dataclasses.replace(e, prompt_ids=prefix_ids + e.prompt_ids) for e in encoded]


def save_soft_prompt(lm: LanguageModel, folder: Path) -> None:
    """Write the vectors and the identity of the model they belong to; its weights stay where they are."""
    embedding = lm.model.get_input_embeddings()
    if not isinstance(embedding, SoftPromptEmbedding):
        raise ModelError(f"{lm.name} has no soft prompt to save")
    folder.mkdir(parents=True, exist_ok=True)
    save_file({"vectors": embedding.vectors.detach().cpu().contiguous()}, folder / VECTORS_FILE)
    base = str(Path(lm.name).resolve()) if Path(lm.name).is_dir() else lm.name
    write_json(folder / DESCRIPTION_FILE, {"format": 1, "base": base, "base_identity": lm.identity})
    if lm.prompt_format is not None:
        write_prompt_format(folder, lm.prompt_format)


def load_soft_prompt(
    folder: Path,
    *,
    name: str | None = None,
    base: LanguageModel | None = None,
    dtype: str = "float32",
    device: str = "auto",
) -> LanguageModel:
    """The soft prompt in `folder` in front of its base model, which is loaded by name unless given.

    Raises ModelError where the base is not the model the vectors were learned on.
    """
    try:
        described = json.loads((folder / DESCRIPTION_FILE).read_text(encoding="utf-8"))
        vectors = load_file(folder / VECTORS_FILE)["vectors"]
        base_name, wanted = str(described["base"]), str(described["base_identity"])
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"{folder}: not a soft prompt: {error}") from error
    if base is None:
        base = load_model(base_name, dtype=dtype, device=device)
    if base.identity != wanted:
        raise ModelError(
            f"{folder}: the soft prompt belongs to {base_name} ({wanted[:12]}), which is not what that name "
            f"gives now ({base.identity[:12]})"
        )
    loaded = _with_vectors(base, vectors.to(base.device))
    return dataclasses.replace(
        loaded,
        name=name or str(folder),
        identity=folder_identity(folder),
        prompt_format=read_prompt_format(folder) or base.prompt_format,
    )


def _with_vectors(lm: LanguageModel, vectors: Tensor) -> LanguageModel:
    model = lm.model
    model.requires_grad_(False)
    vocabulary = len(_embedding_weight(lm))
    cast(Any, model).set_input_embeddings(SoftPromptEmbedding(model.get_input_embeddings(), vectors))
    prefix_ids = tuple(range(vocabulary, vocabulary + len(vectors)))
    return dataclasses.replace(lm, prefix_ids=prefix_ids)


def _embedding_weight(lm: LanguageModel) -> Tensor:
    return cast(Tensor, lm.model.get_input_embeddings().weight)
