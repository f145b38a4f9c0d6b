"""What a check gets: the model, short random examples that fit it, and a control known to be well.

The random examples are token ids and owe nothing to the tokenizer, so that a fault of the one is not blamed on the
other. Each example has tokens of its own, which no other example has. Read next: `examine.py`.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from openflan.encoding import Encoded, PackedRow, pack
from openflan.models import packed_forward, packing
from openflan.models.load import LanguageModel
from openflan.models.packed_forward import Way
from openflan.scoring.forward import accepted_arguments
from openflan.seeding import generator
from openflan.tuning import loss
from openflan.tuning.feed import row_length
from openflan.tuning.settings import TuningSettings

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Ids = tuple[int, ...]

SIZES = ((9, 4), (20, 7), (3, 1), (6, 6), (14, 2), (11, 5), (2, 2))
"""(prompt, target) tokens of the random examples; shorter where the model reads less."""
WATCHED_VALUES = 1 << 28
"""Up to so many parameters all gradients are compared, else those of vectors: norms and biases, which all have."""


@dataclass(frozen=True)
class Tolerances:
    """The largest differences that rounding explains, relative to the norm of what is compared."""

    logits: float
    loss: float
    gradient: float
    effect: float
    """Less than this is no effect."""

    @staticmethod
    def of(dtype: torch.dtype) -> "Tolerances":
        """Half precision moves gradients of sharp models by a fifth; what leaks moves them by their own size."""
        if dtype in (torch.float32, torch.float64):
            return Tolerances(1e-4, 1e-4, 1e-3, 1e-5)
        return Tolerances(5e-2, 5e-2, 0.3, 1e-3)


@dataclass(frozen=True, eq=False)
class Patient:
    """The model under examination. Checks leave it as they found it."""

    lm: LanguageModel
    folder: Path | None = None
    """Where it was loaded from."""
    has_tokenizer: bool = True
    asked: frozenset[str] = frozenset()
    """Checks the user named: done even where they are expensive."""

    @property
    def model(self) -> "PreTrainedModel":
        return self.lm.model

    @property
    def kind(self) -> str:
        """The name of the architecture."""
        return type(self.model).__name__

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the weights."""
        return self.lm.dtype

    @property
    def tolerances(self) -> Tolerances:
        return Tolerances.of(self.dtype)

    @property
    def room(self) -> int:
        """Tokens a text may have beside the soft prompt."""
        return self.lm.context - len(self.lm.prefix_ids)

    @functools.cached_property
    def token_ids(self) -> list[int]:
        """Ids random examples are made of: all the embedding has but special ones, which some models treat apart."""
        config = cast(Any, self.model.config).get_text_config()
        special: set[Any] = set()
        for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
            found = getattr(config, name, None)
            special.update(cast("list[Any]", found) if isinstance(found, list) else [found])
        num_ids = vocabulary(self.model)
        return [one for one in range(num_ids) if one not in special] or list(range(num_ids))

    def draw(self, sizes: Sequence[int], name: str, *, room: int | None = None) -> list[Ids]:
        """Texts of those lengths, each of tokens that no other one has; at most `room` tokens each."""
        room = self.room if room is None else room
        drawn, number = generator(0, "doctor", name), len(sizes)
        shares = [self.token_ids[i::number] or self.token_ids for i in range(number)]
        return [
            tuple(share[at] for at in drawn.integers(0, len(share), max(1, min(size, room))))
            for share, size in zip(shares, sizes, strict=True)
        ]

    def draw_examples(self, *, room: int | None = None) -> list[Encoded]:
        """Examples to tune on, of tokens that no other one has."""
        room = self.room if room is None else room
        made: list[Encoded] = []
        for (_, target), ids in zip(SIZES, self.draw([sum(s) for s in SIZES], "examples", room=room), strict=True):
            cut = max(1, len(ids) - target)
            made.append(Encoded("doctor", f"random/{len(made)}", "ids", ids[:cut], ids[cut:]))
        return [one for one in made if one.target_ids]

    @functools.cached_property
    def examples(self) -> list[Encoded]:
        """What tuning would read: a soft prompt's ids first, where the model has one."""
        return [
            dataclasses.replace(one, prompt_ids=self.lm.prefix_ids + one.prompt_ids) for one in self.draw_examples()
        ]

    @functools.cached_property
    def rows(self) -> list[PackedRow]:
        """Several rows of several examples."""
        return packed(self.examples)

    @functools.cached_property
    def taken(self) -> "Taken":
        """The way tuning takes examples through this model, for rows as long as they will be."""
        return Taken.by(self.model, row_length((), TuningSettings(), self.lm.context))

    @functools.cached_property
    def control(self) -> "Patient":
        """A small Llama on the same device in the same precision: what it cannot do is not the model's fault."""
        return Patient(_small_llama(self.dtype, self.lm.device))


@dataclass(frozen=True, slots=True)
class Taken:
    """The way examples go through a model in tuning, and why not in a faster one."""

    way: Way
    reason: str | None
    """None for the fastest way."""

    @staticmethod
    def by(model: "PreTrainedModel", longest: int) -> "Taken":
        """The way tuning would take for rows of so many tokens."""
        found = packing.packing_of(model, longest)
        return Taken(found.way, "; ".join(f"not {way}: {reason}" for way, reason in found.refused.items()) or None)

    def logits(self, model: "PreTrainedModel", rows: Sequence[PackedRow]) -> Tensor:
        """[K, V] float32: the logits of all target tokens, in the order of the rows."""
        return packed_forward.target_logits(model, packed_forward.collate(rows, model.device), self.way).float()

    def backward(self, model: "PreTrainedModel", rows: Sequence[PackedRow], *, forward_tokens: int = 1 << 30) -> float:
        """Leaves the gradient of a step on these rows in the parameters; gives its loss in nats per target token."""
        return loss.backward(model, rows, forward_tokens=forward_tokens, way=self.way)


def packed(examples: Sequence[Encoded]) -> list[PackedRow]:
    """The examples in rows of one and a half times the longest."""
    return pack(examples, max(len(one.prompt_ids) + len(one.target_ids) for one in examples) * 3 // 2)


def vocabulary(model: "PreTrainedModel") -> int:
    """Ids the embedding knows, without those of a soft prompt."""
    embedding = cast(Any, model.get_input_embeddings())
    return int(getattr(embedding, "num_embeddings", None) or embedding.weight.shape[0])


def alone(model: "PreTrainedModel", ids: Ids) -> Tensor:
    """[T, V] float32 logits of one text by the model as it stands: no padding, no packing, no cache."""
    given: dict[str, Any] = {"input_ids": torch.tensor([ids], device=model.device)}
    if "use_cache" in accepted_arguments(model):
        given["use_cache"] = False
    return cast(Any, model)(**given).logits[0, -len(ids) :].float()


def target_nats(logits: Tensor, example: Encoded) -> Tensor:
    """The summed cross-entropy of an example's target by the logits [T, V] of its whole text, or of the target's."""
    number = len(example.target_ids)
    before = logits[-number - 1 : -1] if len(logits) > number else logits
    return functional.cross_entropy(before, torch.tensor(example.target_ids, device=logits.device), reduction="sum")


def relative(found: Tensor, expected: Tensor) -> float:
    """The norm of the difference, relative to that of `expected`; 0 where both are 0."""
    difference, size = (found - expected).float().norm(), expected.float().norm()
    return float(difference / size) if float(size) else float(difference)


@contextlib.contextmanager
def watched(model: "PreTrainedModel") -> Generator[list[nn.Parameter], None, None]:
    """The parameters whose gradients are compared, the only trainable ones inside the block; all as before after it."""
    before = [(parameter, parameter.requires_grad, parameter.grad) for parameter in model.parameters()]
    every = [parameter for parameter in model.parameters() if parameter.is_floating_point()]
    chosen = every
    if sum(parameter.numel() for parameter in every) > WATCHED_VALUES:
        chosen = [parameter for parameter in every if parameter.ndim < 2] or every[:1]
    try:
        for parameter, _, _ in before:
            parameter.grad = None
            parameter.requires_grad_(False)
        for parameter in chosen:
            parameter.requires_grad_(True)
        yield chosen
    finally:
        for parameter, trainable, gradient in before:
            parameter.requires_grad_(trainable)
            parameter.grad = gradient


def take_gradients(parameters: Sequence[nn.Parameter]) -> list[Tensor | None]:
    """The gradients, which the parameters then have no more."""
    found = [parameter.grad for parameter in parameters]
    for parameter in parameters:
        parameter.grad = None
    return found


def gradient_difference(found: Sequence[Tensor | None], expected: Sequence[Tensor | None]) -> float:
    """The norm of the difference over all parameters, relative to that of `expected`."""
    difference = size = 0.0
    for ours, theirs in zip(found, expected, strict=True):
        if theirs is not None:
            size += float(theirs.float().square().sum())
        if ours is None or theirs is None:
            one = ours if theirs is None else theirs
            difference += 0.0 if one is None else float(one.float().square().sum())
        else:
            difference += float((ours.float() - theirs.float()).square().sum())
    return (difference / size) ** 0.5 if size else difference**0.5


def _small_llama(dtype: torch.dtype, device: torch.device) -> LanguageModel:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=256,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        initializer_range=0.2,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlamaForCausalLM(config)
    cast(Any, model).to(device=device, dtype=dtype)
    name = "a small Llama"
    return LanguageModel(name, model.eval(), cast(Any, None), None, context=256, identity=name)
