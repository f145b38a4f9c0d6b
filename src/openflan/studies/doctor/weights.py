"""Whether the model is what its configuration says: context, vocabulary, tied weights, precision, finite numbers.

Read next: `words.py`.
"""

from typing import Any, cast

import torch

from openflan.models.load import CONTEXT_KEYS
from openflan.scoring.forward import accepted_arguments
from openflan.studies.doctor.finding import Finding, Measure, judged, not_applicable
from openflan.studies.doctor.patient import Patient, alone, relative, vocabulary

LONGEST_TOKENS = 256
"""Of the text that is tried whole."""


def forward_pass(patient: Patient) -> Finding:
    """Finite logits, the same ones twice, and none that depend on a later token."""
    (ids,) = patient.draw((LONGEST_TOKENS,), "forward")
    cut = max(1, len(ids) // 2)
    with torch.no_grad():
        logits = alone(patient.model, ids)
        beginning = alone(patient.model, ids[:cut])
        again = alone(patient.model, ids)
    if not torch.isfinite(logits).all():
        bad = int((~torch.isfinite(logits)).any(-1).sum())
        return Finding("fail", f"{bad} of {len(ids)} positions get logits that are not finite; try --dtype float32")
    return judged(
        [
            Measure("logits of one text, twice", relative(again, logits), patient.tolerances.effect),
            Measure(
                "logits with and without later tokens", relative(logits[:cut], beginning), patient.tolerances.logits
            ),
        ],
        said=f"{len(ids)} tokens give finite logits, none of which depends on a later token",
        otherwise="this is no causal language model, or it computes at random (dropout?); do not use it",
    )


def placement(patient: Patient) -> Finding:
    """Precision and device of all weights."""
    parameters = list(patient.model.parameters())
    precisions = sorted({str(p.dtype).removeprefix("torch.") for p in parameters})
    devices = sorted({str(p.device) for p in parameters})
    count = sum(p.numel() for p in parameters)
    said = f"{count:,} parameters of {patient.kind} in {' and '.join(precisions)} on {' and '.join(devices)}"
    missing = [name for name, p in patient.model.named_parameters() if p.is_meta]
    if missing:
        return Finding(
            "fail", f"{len(missing)} weights were not loaded, such as {missing[0]}; the folder is incomplete"
        )
    if precisions in (["bfloat16"], ["float16"]):
        said += "; tolerances are those of half precision, --dtype float32 checks more sharply"
    return Finding("pass", said)


def context(patient: Patient) -> Finding:
    """The context length of the configuration, and the model at its last position."""
    config = cast(Any, patient.model.config).get_text_config()
    length = patient.lm.context
    known = next((key for key in CONTEXT_KEYS if getattr(config, key, None) == length), None)
    if length < 2:
        return Finding("fail", f"a context of {length} tokens holds no prompt and target; correct the configuration")
    said = f"{length:,} tokens ({known})" if known else f"the configuration names none; {length:,} tokens are assumed"
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    if window is not None and window < length:
        said += f", of which attention looks back {window:,} (sliding window)"
    if "position_ids" not in accepted_arguments(patient.model):
        return Finding("pass", said)
    (ids,) = patient.draw((2,), "context")
    places = torch.arange(length - len(ids), length, device=patient.lm.device)[None]
    given = {"input_ids": torch.tensor([ids], device=patient.lm.device), "position_ids": places, "use_cache": False}
    try:
        with torch.no_grad():
            logits = cast(Any, patient.model)(**given).logits
    except (IndexError, RuntimeError) as error:
        return Finding("fail", f"{said}, but the model fails at position {length - 1:,}: {error}")
    if not torch.isfinite(logits).all():
        return Finding("fail", f"{said}, but logits at position {length - 1:,} are not finite")
    return Finding("pass", f"{said}; it runs at the last position")


def vocabulary_size(patient: Patient) -> Finding:
    """The tokenizer's largest id against the rows of the embedding and of the head."""
    if not patient.has_tokenizer:
        return not_applicable(NO_TOKENIZER)
    tokenizer: Any = patient.lm.tokenizer
    largest = max(tokenizer.get_vocab().values(), default=-1)
    rows = vocabulary(patient.model)
    head: Any = patient.model.get_output_embeddings()
    outputs = rows if head is None else int(head.weight.shape[0])
    if largest >= min(rows, outputs):
        return Finding(
            "fail",
            f"the tokenizer gives ids up to {largest:,}, the embedding has {rows:,} rows and the head {outputs:,}; "
            "the tokenizer is another model's, or its added tokens need model.resize_token_embeddings",
        )
    spare = rows - largest - 1
    return Finding("pass", f"ids up to {largest:,} for {rows:,} rows" + f" ({spare:,} without a token)" * (spare > 0))


def tied(patient: Patient) -> Finding:
    """Embedding and head one matrix exactly where the configuration ties them."""
    config: Any = patient.model.config
    wanted = bool(getattr(config.get_text_config(), "tie_word_embeddings", False))
    embedding: Any = patient.model.get_input_embeddings()
    head: Any = patient.model.get_output_embeddings()
    if head is None or getattr(head, "weight", None) is None:
        return not_applicable("the head is not told apart")
    shared = head.weight.data_ptr() == embedding.weight.data_ptr()
    if shared == wanted:
        return Finding("pass", "embedding and head are one matrix" if shared else "embedding and head are two matrices")
    return Finding(
        "fail",
        f"tie_word_embeddings is {str(wanted).lower()}, but embedding and head are "
        f"{'one matrix' if shared else 'two'}; correct the configuration, or the saved model will not be this one",
    )


NO_TOKENIZER = "the folder holds no tokenizer"
