"""A model's sizes from its configuration alone: no weight is read or made.

Takes a model's name, or a number of parameters; gives a `ModelShape`, counted on torch's meta device, and what one of
its forward passes keeps for the backward pass, from a pass over tensors without data. Read next: `studies/plan.py`.
"""

import contextlib
import functools
import math
import tomllib
import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from openflan.encoding.pack import PackedRow
from openflan.errors import ModelError, Problem
from openflan.models.adapters import LoraSettings, add_lora
from openflan.models.load import LanguageModel, context_length, find_model
from openflan.models.packed_forward import attending, collate, target_logits
from openflan.models.soft_prompt import add_soft_prompt

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SHAPES = Path(__file__).with_name("shapes.toml")
Method = Literal["full", "lora", "soft_prompt"]
VOCABULARY = 32_000
TRACED_TOKENS = 512
"""Tokens of an example in a traced pass: long enough that attention takes the kernel it takes on a GPU."""


@dataclass(frozen=True, slots=True)
class Matrix:
    """A linear layer of the body, and how many of its size there are."""

    name: str
    """The last part of its module's name, as LoRA's `target_modules` has it."""
    inputs: int
    outputs: int
    number: int


@dataclass(frozen=True, eq=False)
class ModelShape:
    """What a model's memory and FLOPs follow from. Numbers of parameters unless said otherwise."""

    name: str
    source: str
    """Where the configuration comes from."""
    assumed: tuple[str, ...]
    """What is not known of the model and was taken to be so."""
    config: Any
    parameters: int
    """All, those that are shared counted once."""
    body: float
    """In matrices that every token is multiplied with; of a mixture of experts, the share a token passes."""
    head: int
    """In the matrix that a position is multiplied with where its logits are computed."""
    embedding: int
    layers: int
    """Number of layers."""
    largest_layer: int
    outside: int
    """In no layer: embedding, head, last norm."""
    attention_width: int
    """Query heads times their size, one layer's."""
    matrices: tuple[Matrix, ...]
    tensors: int
    """Number of parameter tensors."""
    factored: int
    """Numbers in Adafactor's factored averages."""
    largest_tensor: int

    @property
    def hidden(self) -> int:
        """Width of the residual stream."""
        return int(self.config.get_text_config().hidden_size)

    @property
    def vocabulary(self) -> int:
        """Number of tokens the head knows."""
        return self.head // self.hidden

    @property
    def context(self) -> int:
        """The most tokens of a sequence."""
        return context_length(self.config)

    def adapted(self, lora: LoraSettings) -> int:
        """Parameters of the LoRA matrices that these settings add."""
        return lora.rank * sum(m.number * (m.inputs + m.outputs) for m in self.adapted_matrices(lora))

    def adapted_matrices(self, lora: LoraSettings) -> list[Matrix]:
        """The matrices that LoRA is put beside."""
        wanted = lora.target_modules
        return [m for m in self.matrices if wanted is None or m.name in wanted]


@dataclass(frozen=True, slots=True)
class Kept:
    """Bytes a forward pass keeps for the backward pass: copies of weights in lower precision, and activations."""

    weights: int
    """Outside the layers."""
    weights_of_layer: int
    token: float
    """For each token, outside the layers."""
    token_of_layer: float
    """For each token, in each layer."""
    operations_of_layer: int
    """Operations in a layer's forward pass: kernels to launch."""
    traced: bool
    """False: estimated, as this architecture could not be traced."""


def model_shape(name: str) -> ModelShape:
    """The shape of the model called `name`: a folder's, `world:NAME`'s, a hub id's, or one of `shapes.toml`.

    A hub id's configuration comes from the cache, else from `shapes.toml`, else from the hub; weights never do.
    Raises ModelError where there is none.
    """
    known = tomllib.loads(SHAPES.read_text(encoding="utf-8"))
    try:
        found = cached_folder(name)
        if found is None and name in known:
            entry = known[name]
            return shape_of(_made(entry["config"]), name, entry["source"], tuple(entry.get("assumed", ())))
        if found is None:
            config, source = AutoConfig.from_pretrained(find_model(name) if _is_local(name) else name), "config.json"
        else:
            config, source = AutoConfig.from_pretrained(found), str(found)
    except (OSError, ValueError, KeyError, ImportError) as error:
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(
            Problem(name, f"its configuration cannot be had ({said})", "give its size instead: --params 7B")
        ) from error
    return shape_of(config, name, source)


def shape_of(config: Any, name: str, source: str, assumed: tuple[str, ...] = ()) -> ModelShape:
    """The shape of a model with this configuration. Raises ModelError where it is no causal language model's."""
    try:
        with torch.device("meta"):
            model = cast("PreTrainedModel", AutoModelForCausalLM.from_config(config, dtype=torch.float32))
    except (ValueError, KeyError, ImportError) as error:
        raise ModelError(f"{name}: not a causal language model's configuration: {error}") from error
    text = config.get_text_config()
    head = model.get_output_embeddings()
    if head is None:
        raise ModelError(f"{name}: {type(model).__name__} has no head that gives logits")
    layers = max((m for m in model.modules() if isinstance(m, nn.ModuleList)), key=len)
    parameters = list(model.parameters())
    in_layers = sum(p.numel() for p in layers.parameters())
    heads = int(text.num_attention_heads)
    share, routed = _expert_share(text)
    body = sum(
        p.numel() * (share if routed and ".experts." in at else 1.0)
        for at, p in model.named_parameters()
        if p.ndim == 3 or (p.ndim == 2 and _is_matrix(model, at, head))
    )
    return ModelShape(
        name=name,
        source=source,
        assumed=assumed + ((f"a token passes {share:.1%} of the experts",) if routed else ()),
        config=config,
        parameters=sum(p.numel() for p in parameters),
        body=body,
        head=cast(torch.Tensor, head.weight).numel(),
        embedding=cast(torch.Tensor, model.get_input_embeddings().weight).numel(),
        layers=len(layers),
        largest_layer=max(sum(p.numel() for p in layer.parameters()) for layer in layers),
        outside=sum(p.numel() for p in parameters) - in_layers,
        attention_width=heads * int(getattr(text, "head_dim", None) or text.hidden_size // heads),
        matrices=_matrices(model, head),
        tensors=len(parameters),
        factored=sum(_factored(p.shape) for p in parameters),
        largest_tensor=max(p.numel() for p in parameters),
    )


def shape_from_size(
    parameters: float, *, layers: int | None = None, hidden: int | None = None, vocabulary: int | None = None
) -> ModelShape:
    """A Llama-like shape of about that many parameters, embeddings not counted; what was not given is assumed.

    Raises ModelError where the numbers do not go together.
    """
    assumed: list[str] = ["a Llama block: gated feed-forward, attention with as many key as query heads"]
    if layers is None and hidden is None:
        # N = 12 layers hidden², and hidden = 128 layers, about the proportion of models from 1 to 100 B.
        layers = max(1, round((parameters / (12 * 128**2)) ** (1 / 3)))
        assumed.append(f"{layers} layers: hidden size 128 times the number of layers")
    if hidden is None:
        assert layers is not None
        hidden = max(128, 128 * round(math.sqrt(parameters / (12 * layers)) / 128))
        assumed.append(f"hidden size {hidden:,}: 12 parameters for each layer and hidden²")
    if layers is None:
        layers = max(1, round(parameters / (12 * hidden**2)))
        assumed.append(f"{layers} layers: 12 parameters for each layer and hidden²")
    if vocabulary is None:
        vocabulary = VOCABULARY
        assumed.append(f"vocabulary {vocabulary:,}, embedding and head apart")
    feed_forward = round((parameters / layers - 4 * hidden**2) / (3 * hidden))
    if feed_forward < 1:
        raise ModelError(
            f"{parameters:.3g} parameters in {layers} layers of hidden size {hidden}: attention alone has "
            f"{4 * layers * hidden**2:.3g}; give fewer --layers or a smaller --hidden"
        )
    assumed.append(f"feed-forward {feed_forward:,}: what the parameters leave for it")
    head_size = next(size for size in (128, 64, 32, 16, 8, 4, 2, 1) if hidden % size == 0)
    config = {
        "model_type": "llama",
        "hidden_size": hidden,
        "intermediate_size": feed_forward,
        "num_hidden_layers": layers,
        "num_attention_heads": hidden // head_size,
        "num_key_value_heads": hidden // head_size,
        "head_dim": head_size,
        "vocab_size": vocabulary,
        "max_position_embeddings": 8192,
        "tie_word_embeddings": False,
    }
    return shape_of(_made(config), f"{parameters:.3g} parameters", "the number of parameters given", tuple(assumed))


@functools.lru_cache(maxsize=16)
def kept_bytes(shape: ModelShape, *, bfloat16: bool, method: Method, lora: LoraSettings) -> Kept:
    """What a forward pass of this model keeps, from passes of one and two of its layers over tensors without data.

    The passes are openflan's own, so that another architecture, precision or adapter shows its own numbers. Where an
    architecture cannot be traced, activations are 34 bytes a token, layer and hidden unit at 16 bits, twice that at 32
    (Korthikanti et al. 2022, arXiv 2205.05198 §4.1).
    """
    trace = functools.partial(_traced, shape, bfloat16=bfloat16, method=method, lora=lora)
    try:
        (one, operations), (one_long, _) = trace(1, 1), trace(1, 2)
        (two, operations_of_two), (two_long, _) = trace(2, 1), trace(2, 2)
    except Exception:  # an architecture can fail in any way here, and the estimate serves
        width = 34 * (1 if bfloat16 else 2)
        copies = 2 if bfloat16 else 0
        in_layer = copies * shape.largest_layer
        return Kept(copies * shape.outside, in_layer, 4.0 * shape.hidden, float(width * shape.hidden), 40, traced=False)
    length = _traced_length(shape)
    token_of_one, token_of_two = (one_long - one) / length, (two_long - two) / length
    token_of_layer = token_of_two - token_of_one
    weights_of_one, weights_of_two = one - token_of_one * length, two - token_of_two * length
    weights_of_layer = weights_of_two - weights_of_one
    return Kept(
        weights=round(weights_of_one - weights_of_layer),
        weights_of_layer=round(weights_of_layer),
        token=token_of_one - token_of_layer,
        token_of_layer=token_of_layer,
        operations_of_layer=operations_of_two - operations,
        traced=True,
    )


def _traced(
    shape: ModelShape, layers: int, examples: int, *, bfloat16: bool, method: Method, lora: LoraSettings
) -> tuple[int, int]:
    """(bytes kept, operations) of a forward pass of the first layers over that many examples, each with one target."""
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.utils._python_dispatch import TorchDispatchMode

    class Counting(TorchDispatchMode):
        number = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.number += (
                func.namespace == "aten" and not func.is_view and func is not torch.ops.aten._unsafe_view.default
            )
            return func(*args, **(kwargs or {}))

    counting = Counting()
    kept: dict[int, torch.Tensor] = {}
    with torch.device("meta"):
        model = cast(
            "PreTrainedModel", AutoModelForCausalLM.from_config(_cut(shape.config, layers), dtype=torch.float32)
        )
        lm = LanguageModel(shape.name, model, cast(Any, None), None, shape.context, "")
    with warnings.catch_warnings():  # of peft's use of transformers
        warnings.simplefilter("ignore", FutureWarning)
        if method == "lora":
            lm = add_lora(lm, lora).lm
        elif method == "soft_prompt":
            lm = add_soft_prompt(lm, num_tokens=1)
    with FakeTensorMode(allow_non_fake_inputs=True):
        _put_on_cpu(lm.model)
        lm.model.train()
        weights = {_storage(p) for p in lm.model.parameters()}

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            if (storage := _storage(tensor)) not in weights:
                kept.setdefault(storage, tensor)
            return tensor

        batch = collate([_row(_traced_length(shape))] * examples)
        with (
            attending(lm.model, "ragged"),
            torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
            torch.autocast("cpu", torch.bfloat16, enabled=bfloat16),
            counting,
        ):
            logits = target_logits(lm.model, batch)
        kept.pop(_storage(logits), None)
        return sum(tensor.untyped_storage().nbytes() for tensor in kept.values()), counting.number


def _storage(tensor: torch.Tensor) -> int:
    """Names the memory a tensor is a view of, also where there is none."""
    return int(cast(Any, tensor.untyped_storage())._cdata)


def _put_on_cpu(model: nn.Module) -> None:
    """Parameters and buffers that are on no device, made anew on the CPU; inside a FakeTensorMode they take no room."""
    made: dict[int, Any] = {}
    modules: Any = model.modules()
    for module in modules:
        for held in (module._parameters, module._buffers):
            for name, tensor in held.items():
                if tensor is not None and id(tensor) not in made:
                    new = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")
                    is_parameter = isinstance(tensor, nn.Parameter)
                    made[id(tensor)] = nn.Parameter(new, tensor.requires_grad) if is_parameter else new
                held[name] = None if tensor is None else made[id(tensor)]


def _traced_length(shape: ModelShape) -> int:
    return min(TRACED_TOKENS, shape.context)


def _row(length: int) -> PackedRow:
    ids, places = np.zeros(length, np.int32), np.arange(length, dtype=np.int32)
    return PackedRow(ids, places, np.array([length], np.int32), places[:1], ids[:1], ("traced",))


def _cut(config: Any, layers: int) -> Any:
    """The configuration with fewer layers."""
    cut = type(config).from_dict(config.to_dict())
    text = cut.get_text_config()
    text.num_hidden_layers = layers
    if getattr(text, "layer_types", None):
        text.layer_types = text.layer_types[:layers]
    return cut


def cached_folder(name: str) -> Path | None:
    """The folder of a local model or of a hub's cached configuration; None for a hub id that is not cached."""
    if _is_local(name):
        return find_model(name)
    from huggingface_hub import try_to_load_from_cache

    repo, _, revision = name.partition("@")
    with contextlib.suppress(ValueError):  # not the shape of a hub id
        found = try_to_load_from_cache(repo, "config.json", revision=revision or None)
        return Path(found).parent if isinstance(found, str) else None
    return None


def _is_local(name: str) -> bool:
    return ":" in name or name.startswith((".", "/", "~")) or Path(name).expanduser().exists()


def _made(config: Mapping[str, Any]) -> Any:
    return AutoConfig.for_model(**config)


def _is_matrix(model: nn.Module, parameter: str, head: nn.Module) -> bool:
    """Whether a parameter is the weight of a linear layer of the body."""
    owner = model.get_submodule(parameter.rpartition(".")[0])
    return isinstance(owner, nn.Linear | Conv1D) and owner is not head


def _matrices(model: nn.Module, head: nn.Module) -> tuple[Matrix, ...]:
    sizes: Counter[tuple[str, int, int]] = Counter()
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | Conv1D) and module is not head:
            rows, columns = cast(torch.Tensor, module.weight).shape
            inputs, outputs = (columns, rows) if isinstance(module, nn.Linear) else (rows, columns)
            sizes[name.rpartition(".")[2], inputs, outputs] += 1
    return tuple(Matrix(*size, number) for size, number in sizes.items())


def _expert_share(text: Any) -> tuple[float, bool]:
    """The share of a layer's experts that a token passes, and whether there are any."""
    chosen = getattr(text, "num_experts_per_tok", None)
    for key in ("num_experts", "num_local_experts", "n_routed_experts"):
        experts = getattr(text, key, None)
        if chosen and experts:
            return chosen / experts, True
    return 1.0, False


def _factored(shape: torch.Size) -> int:
    if len(shape) < 2:
        return shape.numel()
    return shape[:-1].numel() + shape[:-2].numel() * shape[-1]
