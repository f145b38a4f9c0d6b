"""A language model by name, and back to a folder.

Takes a hub id, a folder or `world:NAME`; gives a `LanguageModel`. Read next: `packing.py`.
"""

import contextlib
import difflib
import hashlib
import json
from collections import Counter
from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from huggingface_hub.errors import StrictDataclassError
from pydantic import ValidationError
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as bars

from openflan.artifacts import write_text
from openflan.encoding.prompt_format import PromptFormat
from openflan.errors import ModelError, Problem
from openflan.models import adapters
from openflan.models.identity import (
    FORMAT_FILE,
    WORLD_FOLDER,
    WORLD_PREFIX,
    folder_identity,
    folder_named,
    is_hub_id,
)
from openflan.models.provenance import KEY, UNTUNED, TunedOn, tuned_in
from openflan.models.remote import is_remote

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

CONTEXT_KEYS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "max_sequence_length")
"""What configurations call the context length, the first one present counts."""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "auto": "auto"}
MOST_NAMED = 5
"""So many of the weights that a folder lacks are named."""

HUB_FILES = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]


@dataclass(frozen=True, eq=False)
class LanguageModel:
    """A causal language model with its tokenizer and the words it was tuned to be asked in."""

    name: str
    model: "PreTrainedModel"
    tokenizer: "PreTrainedTokenizerBase"
    prompt_format: PromptFormat | None
    """The format it was tuned in; None for a model that openflan did not tune."""
    context: int
    """The most tokens a sequence may have."""
    identity: str
    """SHA-256 of weights, configuration and tokenizer: two models of one identity answer alike."""
    prefix_ids: tuple[int, ...] = ()
    """Ids that stand before every prompt: those of a soft prompt, see `soft_prompt.py`."""
    base: adapters.Base | None = None
    """What a loaded soft prompt stands before, and is saved with again; None for any other model."""
    quantize: adapters.Quantize | None = None
    """The bits its matrices are held in; None for weights as they are."""
    tuned_on: TunedOn = UNTUNED
    """What it was tuned on, its base models included; saved with it."""

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def known_tokens(self) -> int:
        """Ids below this one are fed and predicted; those of a soft prompt are not among them."""
        embedding, head = cast(Any, self.model.get_input_embeddings()), cast(Any, self.model.get_output_embeddings())
        rows = int(getattr(embedding, "num_embeddings", None) or embedding.weight.shape[0])
        return rows if getattr(head, "weight", None) is None else min(rows, int(head.weight.shape[0]))

    @property
    def dtype(self) -> torch.dtype:
        """What it computes in, see `weights_dtype`."""
        return weights_dtype(self.model)


def load_model(
    name: str,
    *,
    dtype: str = "float32",
    device: str = "auto",
    quantize: adapters.Quantize | None = None,
    tokenizer: "PreTrainedTokenizerBase | None" = None,
) -> LanguageModel:
    """The model called `name`: a hub id (`owner/name`, `owner/name@revision`), a local folder, or `world:NAME`.

    The folder of an adapter gives its base model with the adapter. device: "auto" takes a GPU where there is one;
    "meta" gives a model without weights, which takes no memory (an adapter's folder: one on the CPU). quantize: hold
    matrices in few bits, for LoRA to stand beside. tokenizer: in place of the folder's own. Raises ModelError with what
    was tried and the nearest names.
    """
    if dtype not in DTYPES:
        raise ModelError(f"dtype = {dtype!r}: expected one of {', '.join(DTYPES)}")
    _check_device(device)
    folder = find_model(name)
    if adapters.is_adapter(folder):
        if quantize is not None:
            raise ModelError(f"{name} is an adapter, whose base has the bits it was tuned in: tune that base instead")
        where = "cpu" if device == "meta" else device
        return adapters.load_adapter(folder, name=name, dtype=dtype, device=where, tokenizer=tokenizer)
    few_bits = {} if quantize is None else adapters.quantized_options(name, quantize, _device(device))
    try:
        if device == "meta":
            with torch.device("meta"):
                config = AutoConfig.from_pretrained(folder)
                loaded = AutoModelForCausalLM.from_config(config, dtype=DTYPES[dtype])
        else:
            with _no_bars():
                # Sizes that do not match are told with the rest, where transformers would raise an error of its own.
                asked = few_bits | {"ignore_mismatched_sizes": True, "output_loading_info": True}
                read = cast(Any, AutoModelForCausalLM.from_pretrained)
                loaded, told = read(folder, dtype=DTYPES[dtype], **asked)
            _check_complete(name, folder, told)
    except (OSError, ValueError, KeyError, ImportError, SafetensorError, StrictDataclassError) as error:
        raise ModelError(f"{name}: {folder} does not hold a causal language model: {error}") from error
    except RuntimeError as error:
        if quantize is None:
            raise
        raise ModelError(f"{name}: quantize = {quantize!r} does not work on {_device(device)}: {error}") from error
    model = cast("PreTrainedModel", loaded)
    if quantize is None:
        cast(Any, model).to(_device(device))
    else:  # it lies where it was put
        adapters.settle_few_bits(model, name)
    model.eval()
    identity = folder_identity(folder)
    return LanguageModel(
        name=name,
        model=model,
        tokenizer=tokenizer or load_tokenizer(name),
        prompt_format=read_prompt_format(folder),
        context=context_length(model.config),
        identity=identity if quantize is None else hashlib.sha256(f"{identity} {quantize}".encode()).hexdigest(),
        quantize=quantize,
        tuned_on=tuned_in(folder),
    )


def load_tokenizer(name: str) -> "PreTrainedTokenizerBase":
    """The tokenizer of the model called `name`; its weights are not read where the name is a folder's."""
    folder = find_model(name)
    if adapters.is_adapter(folder) and not adapters.has_tokenizer(folder):
        return load_tokenizer(adapters.base_name(folder))
    try:
        return cast("PreTrainedTokenizerBase", AutoTokenizer.from_pretrained(folder))
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ModelError(f"{name}: {folder} holds no tokenizer: {error}") from error


def find_model(name: str) -> Path:
    """The folder holding the model called `name`, downloaded where it is a hub id."""
    if is_remote(name):
        raise ModelError(
            f"{name}: an endpoint has no weights or tokenizer here; `score`, `evaluate` and `run` can ask it"
        )
    folder = folder_named(name)
    if _holds_model(folder):
        return folder
    if name.startswith(WORLD_PREFIX):
        raise ModelError(f"{name}: no such micro-world checkpoint in {WORLD_FOLDER}{_near(name)}")
    if folder.exists():
        raise ModelError(f"{name}: the folder has no config.json, so it is no model's{_near(name)}")
    if not is_hub_id(name):
        raise ModelError(f"{name}: no such folder{_near(name)}")
    return _download(name)


def save_model(lm: LanguageModel, folder: Path, prompt_format: PromptFormat | None) -> None:
    """Write weights, tokenizer, prompt format and what it was tuned on; plain transformers loads the folder too."""
    folder.mkdir(parents=True, exist_ok=True)
    with _no_bars():
        lm.model.save_pretrained(folder)
    lm.tokenizer.save_pretrained(folder)
    write_prompt_format(folder, prompt_format, lm.tuned_on)


def write_prompt_format(folder: Path, prompt_format: PromptFormat | None, tuned_on: TunedOn = UNTUNED) -> None:
    """Put the format beside the weights, and what these were tuned on; nothing is written where there is neither."""
    described: dict[str, Any] = {} if prompt_format is None else {"prompt_format": prompt_format.model_dump()}
    described |= {KEY: tuned_on.to_json()} if tuned_on else {}
    if not described:
        return
    described["format"] = 1
    write_text(folder / FORMAT_FILE, json.dumps(described, sort_keys=True, indent=1) + "\n")


def read_prompt_format(folder: Path) -> PromptFormat | None:
    """The format beside the weights, or None. Raises ModelError where the file is damaged."""
    path = folder / FORMAT_FILE
    if not path.exists():
        return None
    try:
        described = json.loads(path.read_text(encoding="utf-8"))
        if KEY in described and "prompt_format" not in described:
            return None
        return PromptFormat.model_validate(described["prompt_format"])
    except (ValueError, KeyError, TypeError, ValidationError) as error:
        raise ModelError(f"{path}: not a prompt format: {error}") from error


def weights_dtype(model: "PreTrainedModel") -> torch.dtype:
    """The floating-point type of most weights: a soft prompt's vectors are float32 before weights of any type."""
    counts: Counter[torch.dtype] = Counter()
    for parameter in model.parameters():
        if parameter.is_floating_point():
            counts[parameter.dtype] += parameter.numel()
    return counts.most_common(1)[0][0]


def context_length(config: Any) -> int:
    """The most tokens of a sequence, by the model's configuration; 2,048 where it names none."""
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    for key in CONTEXT_KEYS:
        value = getattr(text, key, None)
        if isinstance(value, int) and value > 0:
            return value
    return 2048


@contextlib.contextmanager
def _no_bars() -> Generator[None, None, None]:
    """transformers' progress bars off: what a library prints is its caller's business."""
    shown = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            bars.enable_progress_bar()


def _check_complete(name: str, folder: Path, told: Mapping[str, Any]) -> None:
    """Raise ModelError where a weight is not in the files as the configuration has it: it would be drawn at random."""
    problems = [Problem(name, f"{folder} has no weights for {key}") for key in sorted(told["missing_keys"])]
    for key, there, wanted in sorted(told["mismatched_keys"]):
        said = f"{key} is {list(there)} in {folder}, by its configuration {list(wanted)}"
        problems.append(Problem(name, said))
    if problems:
        more = [Problem(name, f"and {len(problems) - MOST_NAMED} more weights")] if len(problems) > MOST_NAMED else []
        raise ModelError(problems[:MOST_NAMED] + more)


def _holds_model(folder: Path) -> bool:
    return (folder / "config.json").is_file() or adapters.is_adapter(folder)


def _device(device: str) -> str:
    return device if device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"


def _check_device(device: str) -> None:
    if device in ("auto", "meta", "cpu"):
        return
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, ImportError) as error:
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(Problem(f"device {device}", f"cannot be used: {said}", "auto takes what there is")) from error


def _download(name: str) -> Path:
    from huggingface_hub import snapshot_download

    repo, _, revision = name.partition("@")

    def fetch(patterns: list[str]) -> Path:
        return Path(
            snapshot_download(
                repo, revision=revision or None, allow_patterns=patterns, ignore_patterns=["*/*", "consolidated*"]
            )
        )

    try:
        folder = fetch(HUB_FILES)
        if not any(folder.glob("*.safetensors")):
            folder = fetch([*HUB_FILES, "*.bin"])
    except Exception as error:  # whatever the hub's client, the network or a proxy says
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(
            f"{name}: no folder of that name here, and the hub did not give a model {repo!r} ({said}){_near(name)}"
        ) from error
    if not _holds_model(folder):
        raise ModelError(f"{name}: the hub's repository has no config.json, so it is no transformers model")
    return folder


def _near(name: str) -> str:
    """ "; nearest names: ..." among the micro-world's checkpoints and the folders beside the path that was meant."""
    known = [WORLD_PREFIX + folder.name for folder in _siblings(WORLD_FOLDER / "any")]
    known += [str(path) for path in _siblings(Path(name).expanduser())]
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.0)
    return f"; nearest names: {', '.join(close)}" if close else ""


def _siblings(path: Path) -> Iterable[Path]:
    try:
        return [sibling for sibling in sorted(path.parent.iterdir()) if _holds_model(sibling)]
    except OSError:
        return []
