"""Whether soft prompts and LoRA do something, and only what they should; whether what is saved is what was there.

Read next: `examine.py`.
"""

import contextlib
import copy
import dataclasses
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from openflan.errors import ModelError
from openflan.models import adapters, load, soft_prompt
from openflan.models.load import LanguageModel
from openflan.studies.doctor.finding import Finding, Measure, judged, not_applicable
from openflan.studies.doctor.patient import Ids, Patient, Taken, alone, packed, relative
from openflan.studies.doctor.scoring import padding_differences
from openflan.studies.doctor.tuning import packed_order
from openflan.tuning import optimizer as optimizers
from openflan.tuning.settings import TuningSettings

COPIED_BYTES = 4 << 30
"""Models over that are copied, to memory or disk, only where the check is asked for by name."""
LEARNING_RATE = 0.01


def soft_prompts(patient: Patient) -> Finding:
    """Learned vectors before each packed example, against the same vectors put before its embeddings by hand."""
    if patient.room < 4:
        return not_applicable("the context leaves no room for a soft prompt")
    with _with_soft_prompt(patient) as lm:
        embedding = cast(soft_prompt.SoftPromptEmbedding, lm.model.get_input_embeddings())
        vectors, allowed = embedding.vectors, patient.tolerances
        plain = patient.draw_examples(room=lm.context - len(lm.prefix_ids))
        rows = packed(soft_prompt.prepend(plain, lm.prefix_ids))
        in_order = packed_order(plain, rows)
        taken = Taken.by(lm.model, max(len(row.input_ids) for row in rows))
        measures: list[Measure] = []
        with torch.no_grad():
            ours = taken.logits(lm.model, rows)
            by_hand = [_by_hand(lm, embedding, one.prompt_ids + one.target_ids) for one in in_order]
            expected = torch.cat([one[-len(e.target_ids) - 1 : -1] for one, e in zip(by_hand, in_order, strict=True)])
            measures.append(Measure("logits with the vectors by hand", relative(ours, expected), allowed.logits))
            text = min((one.prompt_ids for one in plain), key=len)
            without, given = (alone(lm.model, ids)[-len(text) :] for ids in (text, lm.prefix_ids + text))
            # Turned, not scaled: some models norm embeddings first of all.
            kept = vectors.clone()
            vectors.copy_(vectors.roll(1, dims=1))
            turned = alone(lm.model, lm.prefix_ids + text)[-len(text) :]
            vectors.copy_(kept)
        effect = min(relative(given, without), relative(turned, given))
        if effect < allowed.effect:
            said = f"the soft prompt changes logits by {effect:.1e} only: it is ignored"
            return Finding("fail", said, tuple(measures))
        texts = [lm.prefix_ids + one.prompt_ids for one in plain]
        measures.append(Measure("logits by padding side", max(padding_differences(patient, texts)), allowed.logits))
        taken.backward(lm.model, rows)
        others = [name for name, p in lm.model.named_parameters() if p is not vectors and p.grad is not None]
        reached = 0 if vectors.grad is None else int((vectors.grad.float().norm(dim=-1) > 0).sum())
    if reached < len(vectors) or others:
        said = f"the gradient reaches {reached} of {len(vectors)} vectors" + f" and {', '.join(others[:3])}" * bool(
            others
        )
        return Finding("fail", f"{said}: expected all vectors and nothing else", tuple(measures))
    return judged(
        measures,
        said=f"{len(vectors)} vectors before each of {len(plain)} examples change logits by {effect:.1%}, and the "
        "gradient reaches them and nothing else",
        otherwise="examples do not read their soft prompt; do not tune with method = soft_prompt",
    )


def lora(patient: Patient) -> Finding:
    """One step of LoRA on a copy: logits change, only the adapter learned, saved and merged it answers alike."""
    if (reason := _too_large(patient, "lora", "copied in memory")) is not None:
        return not_applicable(reason)
    lm, allowed = dataclasses.replace(patient.lm, model=copy.deepcopy(patient.model)), patient.tolerances
    text = patient.examples[1].prompt_ids
    with torch.no_grad():
        base = alone(patient.model, text)
    try:
        adapted = adapters.add_lora(lm, adapters.LoraSettings(rank=4))
    except ModelError as error:
        return not_applicable(f"LoRA is refused: {error}")
    model = adapted.lm.model
    settings = TuningSettings(method="lora", optimizer="adamw", lr=LEARNING_RATE)
    optimizer = optimizers.make_optimizer(model.parameters(), settings)
    patient.taken.backward(model, patient.rows)
    others = [n for n, p in model.named_parameters() if p.grad is not None and "lora_" not in n]
    optimizer.step()
    with torch.no_grad(), tempfile.TemporaryDirectory(prefix="openflan-doctor-") as folder:
        after = alone(model, text)
        with adapted.peft.disable_adapter():
            without = alone(model, text)
        adapted.save(Path(folder))
        adapted.peft.load_adapter(folder, "again", torch_device=str(lm.device))
        adapted.peft.set_adapter("again")
        again = alone(model, text)
        adapted.peft.set_adapter("default")
        merged = alone(adapted.merged().model, text)
    effect = relative(after, base)
    measures = [
        Measure("logits without the adapter and of the base", relative(without, base), allowed.logits),
        Measure("logits saved and loaded", relative(again, after), allowed.logits),
        # Merging rounds the sum of two matrices to the weights' precision.
        Measure("logits merged and unmerged", relative(merged, after), 10 * allowed.logits),
    ]
    if effect < allowed.effect:
        return Finding("fail", f"a step changes logits by {effect:.1e} only: the adapter is ignored", tuple(measures))
    if others:
        return Finding("fail", f"weights of the base learned too: {', '.join(others[:3])}", tuple(measures))
    return judged(
        measures,
        said=f"a step changes logits by {effect:.0%}, through the adapter alone; loaded again or merged it gives "
        "the same",
        otherwise="what is saved is not what was tuned; do not tune with method = lora",
    )


def reload(patient: Patient) -> Finding:
    """The model saved and loaded again: logits, token ids and prompt format."""
    lm = patient.lm
    if lm.prefix_ids:
        return not_applicable("a soft prompt's folder holds no weights but the vectors")
    if (reason := _too_large(patient, "reload", "written to disk")) is not None:
        return not_applicable(reason)
    texts = patient.draw((12, 5), "reload")
    with tempfile.TemporaryDirectory(prefix="openflan-doctor-") as folder, torch.no_grad():
        load.save_model(lm, Path(folder) / "model", lm.prompt_format)
        again = load.load_model(
            str(Path(folder) / "model"), dtype=str(patient.dtype).removeprefix("torch."), device=str(lm.device)
        )
        difference = max(relative(alone(again.model, ids), alone(patient.model, ids)) for ids in texts)
    asked = ["Question: is it so?\nAnswer: yes, 12 times.", "a  b\n\nc"]
    tokens: Any = [(lm.tokenizer(text)["input_ids"], again.tokenizer(text)["input_ids"]) for text in asked]
    measures = [
        Measure("logits saved and loaded", difference, patient.tolerances.effect),
        Measure("texts with other token ids", sum(a != b for a, b in tokens), 0),
        Measure("prompt formats", float(again.prompt_format != lm.prompt_format), 0),
    ]
    return judged(
        measures,
        said="saved and loaded again it gives the same logits and the same token ids",
        otherwise="what tuning saves would not be what it made",
    )


@contextlib.contextmanager
def _with_soft_prompt(patient: Patient) -> Generator[LanguageModel, None, None]:
    """The patient's own soft prompt, or one added for as long as the block lasts; trainable alone either way."""
    model = patient.model
    embedding: Any = model.get_input_embeddings()
    before = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        if patient.lm.prefix_ids:
            model.requires_grad_(False)
            embedding.vectors.requires_grad_(True)
            yield patient.lm
        else:
            yield soft_prompt.add_soft_prompt(patient.lm, num_tokens=max(1, min(4, patient.room // 4)))
    finally:
        cast(Any, model).set_input_embeddings(embedding)
        for parameter, trainable in before:
            parameter.requires_grad_(trainable)
            parameter.grad = None


def _by_hand(lm: LanguageModel, embedding: soft_prompt.SoftPromptEmbedding, ids: Ids) -> Tensor:
    """[T, V] float32 logits of a text by the base model, given embeddings instead of ids."""
    words = embedding.embedding(torch.tensor(ids, device=lm.device))
    given = torch.cat([embedding.vectors.to(words.dtype), words])[None]
    return cast(Any, lm.model)(inputs_embeds=given, use_cache=False).logits[0].float()


def _too_large(patient: Patient, check: str, done: str) -> str | None:
    size = sum(parameter.numel() * parameter.element_size() for parameter in patient.model.parameters())
    if size <= COPIED_BYTES or check in patient.asked:
        return None
    return f"{size / 1e9:.1f} GB of weights would be {done}; --only {check} does it"
