"""Proves on the actual model, before time is spent on it, that the fast ways of tuning and scoring it are exact.

Takes a model's name or a `LanguageModel`, gives a `Report`. Each check compares a fast way with the plain model, one
text at a time. Where a fast way is refused, a small Llama is put to the same trial as a control: only where that passes
is the refusal the architecture's and the slower way a fallback; else something is broken.

Read next: `finding.py`, `patient.py`, then the checks in the order of `CHECKS`.
"""

import dataclasses
import inspect
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from openflan.errors import ConfigError, OpenflanError, Problem, nearest
from openflan.models.load import LanguageModel, find_model, load_model
from openflan.models.remote import Endpoint, is_remote, remote_settings
from openflan.scoring import remote
from openflan.studies.doctor import adapters, scoring, tuning, weights, words
from openflan.studies.doctor.finding import Finding, Outcome
from openflan.studies.doctor.patient import Patient
from openflan.studies.progress import Progress, ProgressEvent, silent

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

EXAMINED: dict[str, Callable[[Patient], Finding]] = {
    "forward": weights.forward_pass,
    "placement": weights.placement,
    "context": weights.context,
    "vocabulary": weights.vocabulary_size,
    "tied": weights.tied,
    "round-trip": words.round_trip,
    "bos": words.one_bos,
    "eos": words.one_eos,
    "boundary": words.boundary,
    "options": words.options,
    "prompt-format": words.prompt_format,
    "packing": tuning.packing,
    "isolation": tuning.isolation,
    "accumulation": tuning.accumulation,
    "trees": scoring.trees,
    "padding": scoring.padding,
    "generation": scoring.generation,
    "soft-prompt": adapters.soft_prompts,
    "lora": adapters.lora,
    "reload": adapters.reload,
}
TOKENIZER_FILES = ("tokenizer*", "vocab*", "*.model", "*.tiktoken", "merges.txt", "adapter_config.json")
"""A folder with none of these has no tokenizer; a soft prompt's has that of its base."""
ENDPOINT = "endpoint"
"""The one check of a model that is not loaded here."""


@dataclass(frozen=True, slots=True)
class Check:
    """One check, and what it found."""

    name: str
    compares: str
    finding: Finding

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        found = self.finding
        return {
            "name": self.name,
            "compares": self.compares,
            "outcome": found.outcome,
            "said": found.said,
            "measures": [measure.to_json() for measure in found.measures],
            **({"cost": found.cost} if found.cost else {}),
        }


@dataclass(frozen=True, slots=True)
class Report:
    """All that was checked of one model."""

    model: str
    identity: str
    checks: tuple[Check, ...]

    @property
    def outcome(self) -> Outcome:
        """ "fail" where one check fails, else "falls back" where one does, else "pass"."""
        found = {check.finding.outcome for check in self.checks}
        return "fail" if "fail" in found else "falls back" if "falls back" in found else "pass"

    def __str__(self) -> str:
        """One sentence: what to do with this model."""
        failed = [check.name for check in self.checks if check.finding.outcome == "fail"]
        costs = [check.finding.cost for check in self.checks if check.finding.cost]
        if failed:
            return f"{self.model} fails {', '.join(failed)}: read what is said there before you use it."
        if costs:
            return f"{self.model} can be used, not in the fastest way: {'; '.join(costs)}."
        return f"{self.model} can be used, in the fastest way."

    def to_json(self) -> dict[str, Any]:
        """Plain data, the same for the same model on the same machine."""
        return {
            "format": 1,
            "model": self.model,
            "identity": self.identity,
            "outcome": self.outcome,
            "said": str(self),
            "checks": [check.to_json() for check in self.checks],
        }


def described(name: str) -> str:
    """What the check called `name` compares, in a line."""
    return " ".join((inspect.getdoc(EXAMINED[name]) or "").split())


def chosen(only: Collection[str]) -> list[str]:
    """The checks to make, in order: those named, or all. Raises ConfigError naming every unknown one."""
    unknown = [name for name in only if name not in EXAMINED]
    if unknown:
        raise ConfigError([Problem("--only", f"no check {name!r}", nearest(name, EXAMINED)) for name in unknown])
    return [name for name in EXAMINED if name in only or not only]


def examine(
    model: str | LanguageModel,
    *,
    only: Collection[str] = (),
    dtype: str = "float32",
    device: str = "auto",
    progress: Progress = silent,
) -> Report:
    """The checks of a model by its name, or of one that is loaded, which stays as it is.

    only: names of checks (`EXAMINED`); all where none is given. Raises ModelError where there is no such model,
    ConfigError for an unknown check.
    """
    names = chosen(only)
    if isinstance(model, str) and is_remote(model):
        return _examine_endpoint(model, names, only)
    patient = _loaded(model, dtype, device) if isinstance(model, str) else Patient(model)
    patient = dataclasses.replace(patient, asked=frozenset(only))
    checks: list[Check] = []
    for name in names:
        progress(ProgressEvent("doctor", len(checks), len(names), name))
        checks.append(Check(name, described(name), _found(name, patient)))
    progress(ProgressEvent("doctor", len(checks), len(names)))
    return Report(patient.lm.name, patient.lm.identity, tuple(checks))


def _found(name: str, patient: Patient) -> Finding:
    training = patient.model.training
    patient.model.eval()
    try:
        return EXAMINED[name](patient)
    except Exception as error:  # an architecture can fail in any way here, and each of them is an answer
        said = (str(error).strip().splitlines() or [""])[0]
        named = said if isinstance(error, OpenflanError) else f"{type(error).__name__}: {said}"
        return Finding("fail", f"the check cannot be made: {named}")
    finally:
        patient.model.train(training)


def _loaded(name: str, dtype: str, device: str) -> Patient:
    folder = find_model(name)
    if any(next(folder.glob(pattern), None) for pattern in TOKENIZER_FILES):
        return Patient(load_model(name, dtype=dtype, device=device), folder)
    lm = load_model(name, dtype=dtype, device=device, tokenizer=_no_tokenizer())
    return Patient(lm, folder, has_tokenizer=False)


def _no_tokenizer() -> "PreTrainedTokenizerBase":
    """A stand-in that knows no word and has no special token."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"?": 0}, unk_token="?")))


def _examine_endpoint(name: str, names: Collection[str], only: Collection[str]) -> Report:
    """What can be known of a model behind an endpoint: whether it gives usable log-probabilities."""
    if only:
        raise ConfigError(
            Problem("--only", f"{', '.join(names)}: an endpoint shows no weights and no tokens", "leave --only out")
        )
    settings = remote_settings(name)
    with Endpoint(settings) as endpoint:
        connected = remote.connect(endpoint, ranks=True)
    if connected.way is None:
        finding = Finding(
            "falls back",
            f"options cannot be ranked: {connected.why}; written answers are matched to them, which is another measure",
            cost="options are not ranked, written answers are matched to them",
        )
    else:
        finding = Finding("pass", f"options are ranked by {connected.way}; its own next-token probabilities agree")
    compares = "Log-probabilities of a prompt's tokens against those of the same tokens as continuations."
    return Report(name, "", (Check(ENDPOINT, compares, finding),))
