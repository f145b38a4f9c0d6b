"""LoRA through peft, and folders that hold an adapter alone: a few weights, and the name of the model they stand on.

Takes a `LanguageModel`, gives one with adapters in place. Recipes name the settings, so this module loads torch late.

    FOLDER/
      adapter_config.json, adapter_model.safetensors    peft's own layout: plain peft loads the folder
      base.json        the base model's name, where it is from here, its identity, and the bits it was tuned in
      openflan.json    the prompt format, and what adapter and base were tuned on

Read next: `soft_prompt.py`, which is saved in such a folder too.
"""

import dataclasses
import hashlib
import importlib.util
import json
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast

from pydantic import BaseModel, ConfigDict, Field

from openflan.artifacts import canonical_json, file_sha256, write_json
from openflan.errors import ModelError, Problem
from openflan.models.identity import is_hub_id, local_folder

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from openflan.encoding.prompt_format import PromptFormat
    from openflan.models.load import LanguageModel

CONFIG_FILE, WEIGHTS_FILE, BASE_FILE = "adapter_config.json", "adapter_model.safetensors", "base.json"

Quantize = Literal["nf4", "int8"]
NF4_BLOCK = 64
"""Weights that share a scale (Dettmers et al. 2023)."""


class Base(NamedTuple):
    """The model that an adapter stands on, as `LanguageModel` has these."""

    name: str
    identity: str


class LoraSettings(BaseModel):
    """Which matrices get a low-rank update, and of what rank."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    rank: int = Field(default=16, ge=1)
    alpha: float = Field(default=32.0, gt=0)
    """The update is scaled by alpha / rank."""
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    target_modules: tuple[str, ...] | None = None
    """Names of the linear layers; None takes all of them but the head."""
    quantize: Quantize | None = None
    """Bits of the frozen base: "nf4" (4, doubly quantized: QLoRA, Dettmers et al. 2023), "int8" (LLM.int8()), or null
    for the weights as they are. Needs the extra `qlora`."""


@dataclasses.dataclass(frozen=True, eq=False)
class Adapted:
    """A model with LoRA layers in place, and the handle that saves or merges them."""

    lm: "LanguageModel"
    """Its `model` is the base's own class, so that packed attention and scoring find what they know."""
    peft: Any

    def save(self, folder: Path, prompt_format: "PromptFormat | None" = None) -> None:
        """Write the adapter alone."""
        config = self.peft.peft_config["default"]
        config.base_model_name_or_path, config.revision = peft_base(self.lm)
        self.peft.save_pretrained(folder, save_embedding_layers=False)
        write_base(self.lm, folder, prompt_format)

    def merged(self) -> "LanguageModel":
        """The model with the updates added to its weights; the adapter is gone after this.

        Raises ModelError where these are quantized: rounded again they would be another model than the one tuned.
        """
        if self.lm.quantize is not None:
            raise ModelError(f"{self.lm.name}: LoRA cannot be merged into {self.lm.quantize} weights without loss")
        return dataclasses.replace(self.lm, model=cast("PreTrainedModel", self.peft.merge_and_unload()))


def add_lora(lm: "LanguageModel", settings: LoraSettings, *, seed: int = 0) -> Adapted:
    """LoRA layers put into `lm.model` (in place); only they are trainable after this.

    Raises ModelError where they do not fit it, or it is not held in the bits the settings name.
    """
    import torch
    from peft import LoraConfig

    if lm.quantize != settings.quantize:
        raise ModelError(
            f"{lm.name} is held as {lm.quantize or 'it is'}, LoRA is set to quantize = {settings.quantize}"
        )
    if any("lora_" in name for name, _ in lm.model.named_parameters()):
        raise ModelError(f"{lm.name} has LoRA layers that cannot be merged: tune its base instead")
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=cast(int, settings.alpha),  # peft multiplies by it; its annotation is narrower than its code
        lora_dropout=settings.dropout,
        target_modules="all-linear" if settings.target_modules is None else list(settings.target_modules),
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed % 2**63)
        return _with_layers(lm, config)


def _with_layers(lm: "LanguageModel", config: Any) -> Adapted:
    from peft import get_peft_model

    try:
        adapted: Any = get_peft_model(cast(Any, lm.model), config)
    except ValueError as error:
        raise ModelError(f"{lm.name}: LoRA does not fit this model: {error}") from error
    return Adapted(dataclasses.replace(lm, model=cast("PreTrainedModel", adapted.get_base_model())), adapted)


# Folders


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter, ours or another peft user's."""
    return (folder / CONFIG_FILE).is_file()


def has_tokenizer(folder: Path) -> bool:
    """Whether an adapter's folder holds a tokenizer, as some trainers save it there; ours is the base's."""
    return (folder / "tokenizer_config.json").is_file()


def load_adapter(
    folder: Path, *, name: str, dtype: str, device: str, tokenizer: "PreTrainedTokenizerBase | None" = None
) -> "LanguageModel":
    """An adapter's base model, loaded by name, with the adapter: LoRA merged into it, a soft prompt before it.

    A tokenizer in the adapter's folder is the one it was tuned with, and takes the place of the base's.
    LoRA tuned beside quantized weights stays beside them. Raises ModelError where the adapter is damaged, of a kind we
    do not know or fits only in part, or where the base is not the model it was tuned on.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from openflan.models.load import load_tokenizer, read_prompt_format
    from openflan.models.provenance import tuned_in

    if tokenizer is None and has_tokenizer(folder):
        tokenizer = load_tokenizer(str(folder))
    try:
        config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        weights = load_file(folder / WEIGHTS_FILE)
        kind = str(config["peft_type"])
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise ModelError(f"{folder}: not an adapter: {error}") from error
    base = _load_base(folder, config, dtype, device, tokenizer)
    if kind == "PROMPT_TUNING":
        from openflan.models.soft_prompt import put_before, vectors_of

        loaded = put_before(base, vectors_of(weights, folder).to(base.device))
        loaded = dataclasses.replace(loaded, base=Base(base.name, base.identity))
    elif kind == "LORA":
        loaded = _with_lora(base, folder, weights)
    else:
        raise ModelError(f"{folder}: an adapter of kind {kind}: expected LORA or PROMPT_TUNING")
    loaded.model.eval()
    return dataclasses.replace(
        loaded,
        name=name,
        identity=_identity(base, config, folder),
        prompt_format=read_prompt_format(folder) or base.prompt_format,
        tuned_on=tuned_in(folder) | base.tuned_on,
    )


def _with_lora(base: "LanguageModel", folder: Path, weights: dict[str, Any]) -> "LanguageModel":
    from peft import PeftConfig
    from peft.utils.save_and_load import set_peft_model_state_dict

    config = PeftConfig.from_pretrained(str(folder))
    config.base_model_name_or_path = base.model.name_or_path  # which base it is has been settled
    adapted = _with_layers(base, config)
    try:
        loaded: Any = set_peft_model_state_dict(adapted.peft, weights)
    except RuntimeError as error:  # sizes; those of an embedding that was resized, say
        _, _, first = str(error).partition("\n")
        said = " ".join((first or str(error)).split("\n")[0].split())
        raise ModelError(f"{folder}: the adapter does not fit {base.name}: {said}") from error
    adapted.peft.requires_grad_(False)
    # peft passes over what does not fit, and the adapter would be without effect.
    wrong = [key for key in loaded.missing_keys if "lora_" in key] + list(loaded.unexpected_keys)
    if wrong:
        raise ModelError(f"{folder}: the adapter does not fit {base.name}: {len(wrong)} weights, the first {wrong[0]}")
    return adapted.lm if base.quantize else adapted.merged()


def write_base(lm: "LanguageModel", folder: Path, prompt_format: "PromptFormat | None") -> None:
    """Write which model the adapter in `folder` stands on, in which format it was tuned, and on what."""
    from openflan.models.load import write_prompt_format

    base = lm.base or lm
    # An adapter's folder says itself in which bits its base is.
    here = local_folder(base.name)
    quantize = None if here is not None and is_adapter(here) else lm.quantize
    described: dict[str, Any] = {"format": 1, "name": base.name, "identity": base.identity, "quantize": quantize}
    if (path := Path(base.name).expanduser()).is_dir():
        # A run folder that is moved takes its base along.
        described |= {"name": str(path.resolve()), "path": os.path.relpath(path.resolve(), folder.resolve())}
    write_json(folder / BASE_FILE, described)
    write_prompt_format(folder, prompt_format, lm.tuned_on)


def peft_base(lm: "LanguageModel") -> tuple[str, str | None]:
    """The base model as peft's configuration names it: a folder or a hub id, and a revision."""
    from openflan.models.load import find_model

    name = (lm.base or lm).name
    if is_hub_id(name):
        repo, _, revision = name.partition("@")
        return repo, revision or None
    return str(find_model(name).resolve()), None


def base_name(folder: Path) -> str:
    """The name of the model that the adapter in `folder` stands on. Raises ModelError where nothing names it."""
    try:
        config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        return _base_of(folder, config)[0]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{folder}: not an adapter: {error}") from error


def _base_of(folder: Path, config: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The base's name and what base.json says of it, empty of an adapter that openflan did not make."""
    if not (folder / BASE_FILE).is_file():
        repo, revision = config.get("base_model_name_or_path"), config.get("revision")
        if not repo:
            raise ModelError(f"{folder / CONFIG_FILE}: names no base model")
        return f"{repo}@{revision}" if revision and not Path(repo).is_dir() else str(repo), {}
    described = json.loads((folder / BASE_FILE).read_text(encoding="utf-8"))
    near = folder / described["path"] if "path" in described else None
    return str(near.resolve() if near and near.is_dir() else described["name"]), described


def _load_base(
    folder: Path, config: dict[str, Any], dtype: str, device: str, tokenizer: "PreTrainedTokenizerBase | None"
) -> "LanguageModel":
    from openflan.models.load import load_model

    try:
        name, described = _base_of(folder, config)
        quantize, wanted = described.get("quantize"), described.get("identity")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{folder / BASE_FILE}: {error}") from error
    base = load_model(name, dtype=dtype, device=device, quantize=quantize, tokenizer=tokenizer)
    if wanted is not None and base.identity != wanted:
        raise ModelError(
            f"{folder}: the adapter belongs to {name} ({wanted[:12]}), which is not what that name gives now "
            f"({base.identity[:12]})"
        )
    return base


def _identity(base: "LanguageModel", config: dict[str, Any], folder: Path) -> str:
    """By content alone: not by where the base lies."""
    plain = {key: value for key, value in config.items() if key not in ("base_model_name_or_path", "revision")}
    content: list[Any] = [base.identity, plain, file_sha256(folder / WEIGHTS_FILE)]
    if has_tokenizer(folder):
        content.append([[path.name, file_sha256(path)] for path in sorted(folder.glob("tokenizer*"))])
    return hashlib.sha256(canonical_json(content).encode()).hexdigest()


# Few bits


def quantized_options(name: str, quantize: Quantize, device: str) -> dict[str, Any]:
    """What `from_pretrained` is given to hold weights in few bits. Raises ModelError without bitsandbytes."""
    if importlib.util.find_spec("bitsandbytes") is None:
        how = "pip install 'openflan[qlora]'"
        raise ModelError(Problem(name, f"quantize = {quantize!r} needs bitsandbytes, which is not installed", how))
    import torch
    from transformers import BitsAndBytesConfig

    if quantize == "int8":
        # It says at every layer of every pass that float32 inputs become float16, which is what int8 is.
        logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
        config = BitsAndBytesConfig(load_in_8bit=True)
    else:
        config = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16 if device.startswith("cuda") else torch.float32,
        )
    return {"quantization_config": config, "device_map": {"": device}}


def settle_few_bits(model: "PreTrainedModel", name: str) -> None:
    """Have four bits on a CPU mean the same on every processor.

    A CPU with bfloat16 lays matrices out anew in the first pass that is not training, for products without a gradient:
    tuning after an evaluation would learn nothing. That is turned off. Raises ModelError where rows do not fill blocks
    of 64 weights, of which one with AVX-512 would read other weights than were written.
    """
    sizes: dict[str, int] = {}
    for path, module in model.named_modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            four_bits = cast(Any, module)
            four_bits.support_avx512bf16_for_cpu = False
            sizes[path] = four_bits.in_features
    uneven = [path for path, size in sizes.items() if size % NF4_BLOCK]
    if uneven and model.device.type == "cpu":
        raise ModelError(
            Problem(
                name,
                f"{uneven[0]} and {len(uneven) - 1} more take {sizes[uneven[0]]} values, which are no whole blocks of "
                f"{NF4_BLOCK}: bitsandbytes cannot hold them as nf4 on a CPU",
                "quantize = int8 can",
            )
        )
