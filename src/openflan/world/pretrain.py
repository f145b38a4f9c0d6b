"""Pretrains a base model of the micro-world from scratch: `python -m openflan.world.pretrain --size base --seed 0 ...`.

One process, on a CPU one thread; `--device cuda` takes a GPU. A CPU with bf16 matrix products passes 5,000 to 11,000
tokens a second at the base size, with tiles for them (AMX) and `--compile` 16,000 to 26,000 there and 9,000 to 14,000
at the large one; where bf16 is emulated, `--precision float32` is several times as fast as emulation.
The model is a Llama in every respect; training uses a compact module (`FastLlama`), and `export` writes it as an
ordinary `LlamaForCausalLM` folder with its tokenizer, after checking that both give the same logits.

What the run does, in order: very simple text, simple text (longer with `--patterns exercises`), everything,
one-question documents until yes-or-no verification has formed, then everything again; with `--patterns exercises` the
tokens from 24 million on have labels of whole texts too. The learning rate is constant and falls linearly over the last
part of the tokens (warm-up, stable, decay). A checkpoint is written every million tokens; the same command continues
from it.
"""

import argparse
import dataclasses
import itertools
import json
import math
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from openflan.seeding import derive
from openflan.world.probes import PROBES, Probe, accuracies
from openflan.world.text import Patterns, Stage, documents
from openflan.world.tokenizer import EOS, PAD, build_tokenizer

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

__all__ = ["SIZES", "FastLlama", "Settings", "Size", "export", "main", "pretrain"]

WINDOW = 256
"""Longest training sequence, in tokens."""

Start = Literal["mimetic", "induction"]
"""Where the attention heads start: near the matching of equal tokens, or two of each layer already paired as what looks
labels and values up in a context (`FastLlama`)."""

VERSION = 1
"""Of the checkpoints: bump when text, tokenizer or training change."""


@dataclass(frozen=True)
class Size:
    """The shape of a model."""

    width: int
    layers: int
    heads: int

    @property
    def hidden(self) -> int:
        """Width of the feed-forward layer: 8/3 of the model's, in steps of 32."""
        return int(8 * self.width / 3 / 32) * 32


SIZES = {
    "tiny": Size(32, 2, 2),
    "mini": Size(64, 3, 2),
    "small": Size(96, 4, 3),
    "base": Size(128, 5, 4),
    "large": Size(192, 6, 6),
    "huge": Size(320, 8, 10),
}
"""0.05, 0.2, 0.5, 1.0, 2.8 and 10 million parameters."""


@dataclass(frozen=True)
class Settings:
    """Everything a run depends on.

    Token counts are given for the whole run; the stages end at fixed counts or, in short runs, at fixed shares of them.
    """

    size: str = "base"
    seed: int = 0
    tokens: int = 25_000_000
    precision: Literal["bfloat16", "float32"] = "bfloat16"
    """Of the matrix products; weights and optimizer are float32."""
    patterns: Patterns = "short"
    """In the text."""
    start: Start = "mimetic"
    """Of the attention heads."""
    learning_rate: float = 1.2e-3
    decay: float = 0.35
    """Share of the tokens over which the learning rate falls."""
    first_tokens: int = 250_000
    early_tokens: int = 600_000
    focus_from: int = 3_000_000
    focus_tokens: int = 400_000
    focus_extension: int = 300_000
    focus_extensions: int = 3
    refresh_from: int = 9_000_000
    """Start of a second stage of one-question documents, for what the first did not form or did not keep."""
    refresh_tokens: int = 600_000
    refresh_extensions: int = 4
    labels_from: int = 24_000_000
    """Tokens after which a text with exercises has labels of whole texts among them."""
    wide_from: int = 5_000_000
    """Tokens after which a batch holds 2048 tokens rather than 1024."""

    def scaled(self) -> "Settings":
        """With the stages of its text; for runs too short for these, the same stages at shares of the run."""
        settings = self
        if self.patterns == "exercises":  # labels need a while of simple text to form
            settings = dataclasses.replace(self, early_tokens=max(self.early_tokens, 1_000_000))
        if self.tokens >= 2 * self.focus_from:
            return settings
        share = self.tokens / (2 * self.focus_from)
        names = ("first_tokens", "early_tokens", "focus_from", "focus_tokens", "focus_extension", "wide_from",
                 "refresh_from", "refresh_tokens")  # fmt: skip
        return dataclasses.replace(settings, **{name: int(getattr(settings, name) * share) for name in names})

    def continues(self, earlier: "Settings", tokens: int) -> bool:
        """Whether a run of `earlier` settings, now at `tokens`, can go on with these.

        Only the length of the run may differ, and only before the learning rate begins to fall in either.
        """
        if self == earlier:
            return True
        same = dataclasses.replace(self, tokens=earlier.tokens) == earlier
        return same and tokens <= (1 - self.decay) * min(self.tokens, earlier.tokens)


# ---------------------------------------------------------------------------------------------------------------- model


def _frequencies(length: int) -> Tensor:
    """Radians per position of a head's rotary pairs (length / 2), fastest first."""
    return 1 / (10000 ** (torch.arange(0, length, 2) / length))


class Block(nn.Module):
    """One Llama layer with fused projections. Input and output: (batch, length, width), in the model's dtype."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        width = size.width
        self.heads = size.heads
        self.attention_norm = nn.Parameter(torch.ones(width))
        self.feed_norm = nn.Parameter(torch.ones(width))
        self.query_key_value = nn.Linear(width, 3 * width, bias=False)
        self.output = nn.Linear(width, width, bias=False)
        self.gate_up = nn.Linear(width, 2 * size.hidden, bias=False)
        self.down = nn.Linear(size.hidden, width, bias=False)

    def forward(self, x: Tensor, cosine: Tensor, sine: Tensor, mask: Tensor) -> Tensor:
        batch, length, width = x.shape
        normed = F.rms_norm(x, (width,), self.attention_norm.to(x.dtype), 1e-6)
        parts = self.query_key_value(normed).view(batch, length, 3, self.heads, width // self.heads)
        query_key, value = parts.permute(2, 0, 3, 1, 4).split((2, 1))
        first, second = query_key.chunk(2, -1)
        query, key = query_key * cosine + torch.cat((-second, first), -1) * sine
        # Plain bmm is 1.5 to 1.8 times as fast as the fused attention on CPU at this size.
        rows = batch * self.heads
        query, key, value = (part.reshape(rows, length, -1) for part in (query, key, value))
        scale = 1 / math.sqrt(width // self.heads)
        scores = torch.baddbmm(mask.expand(rows, length, length), query, key.transpose(1, 2), alpha=scale)
        mixed = torch.bmm(torch.softmax(scores, -1), value).view(batch, self.heads, length, -1)
        x = x + self.output(mixed.transpose(1, 2).reshape(batch, length, width))
        gate, up = self.gate_up(F.rms_norm(x, (width,), self.feed_norm.to(x.dtype), 1e-6)).chunk(2, -1)
        return x + self.down(F.silu(gate) * up)


class FastLlama(nn.Module):
    """A Llama with tied embeddings for training in `dtype` (weights stay fp32).

    The initialisation decides whether in-context lookup forms at all: embeddings of deviation 0.06 and small output
    projections, so that token identity is not drowned in the residual stream; keys start near queries and outputs near
    the transposed values ("mimetic"), so that attention starts out matching equal tokens.

    With `start="induction"` two heads of each layer start further on, as the pair that Olsson et al. (2022) found
    behind learning in a context: the first attends to the token before and keeps a projection of it; the second, one
    layer above, looks for a token before which there was what is here now, and copies it. Nothing of the language is in
    this; by itself such a pair has not come in any run of up to 17 million tokens.
    """

    embedding_scale, output_scale, inner_scale = 0.06, 0.05, 0.7
    key_from_query, output_from_value = 0.7, 0.3
    back_sharpness, match_sharpness, kept, copied = 6.0, 4.0, 0.7, 0.5
    fast, slow_from = 8, 7
    """Of the frequencies of positions: the first ones tell the token before, the later ones hardly tell position."""

    def __init__(
        self, vocabulary: int, size: Size, seed: int, dtype: torch.dtype = torch.bfloat16, start: Start = "mimetic"
    ) -> None:
        super().__init__()
        self.size = size
        self.dtype = dtype
        self.embedding = nn.Embedding(vocabulary, size.width)
        self.blocks = nn.ModuleList(Block(size) for _ in range(size.layers))
        self.norm = nn.Parameter(torch.ones(size.width))
        head = size.width // size.heads
        angles = torch.arange(WINDOW)[:, None] * _frequencies(head)
        angles = torch.cat((angles, angles), -1)
        self.register_buffer("cosine", angles.cos().to(dtype), persistent=False)
        self.register_buffer("sine", angles.sin().to(dtype), persistent=False)
        self.register_buffer("mask", torch.full((WINDOW, WINDOW), -torch.inf).triu(1).to(dtype), persistent=False)
        self._initialise(seed)
        if start == "induction":
            self._pair_heads(seed)

    @torch.no_grad()
    def _initialise(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        for name, weight in self.named_parameters():
            if weight.dim() < 2:
                continue
            if "embedding" in name:
                scale = self.embedding_scale
            elif name.endswith(("output.weight", "down.weight")):
                scale = self.output_scale / math.sqrt(weight.shape[1])
            else:
                scale = self.inner_scale / math.sqrt(weight.shape[1])
            nn.init.normal_(weight, 0, scale, generator=generator)
        for block in self.layers():
            query, key, value = block.query_key_value.weight.chunk(3)
            key.copy_(self.key_from_query * query + (1 - self.key_from_query) * key)
            block.output.weight.add_(self.output_from_value * value.T)

    @torch.no_grad()
    def _pair_heads(self, seed: int) -> None:
        """Starts heads 0 and 1 of the layers as pairs (class docstring)."""
        width, length = self.size.width, self.size.width // self.size.heads
        generator = torch.Generator().manual_seed(derive(seed, "pairs") % 2**63)
        stream = self.embedding_scale * math.sqrt(width)
        # What all tokens share, from which a query and a key come that depend on position alone. Being shared, it
        # does not move the softmax over the vocabulary.
        shared = F.normalize(torch.randn(width, generator=generator), dim=0)
        self.embedding.weight.add_(shared * stream)
        fast = min(self.fast, length // 2)
        angles = _frequencies(length)[:fast]
        query_back, key_back = torch.zeros(length), torch.zeros(length)
        query_back[:fast] = 1
        key_back[:fast], key_back[length // 2 : length // 2 + fast] = angles.cos(), angles.sin()
        slow = torch.tensor([i for i in range(length) if i % (length // 2) >= min(self.slow_from, length // 4)])
        share = math.sqrt(width / 2)  # of a normed token, half of whose square is what is shared
        blocks = list(self.layers())
        for block, above in itertools.pairwise(blocks):
            query, key, value = (part[:length] for part in block.query_key_value.weight.chunk(3))
            query.copy_(self.back_sharpness / share * torch.outer(query_back, shared))
            key.copy_(self.back_sharpness / share * torch.outer(key_back, shared))
            content = torch.randn(len(slow), width, generator=generator) / math.sqrt(width)
            content -= torch.outer(content @ shared, shared)
            place = torch.linalg.qr(torch.randn(width, len(slow), generator=generator))[0]
            gain = self.kept * math.sqrt(width / len(slow))
            value.zero_()[: len(slow)] = content
            block.output.weight[:, :length].zero_()[:, : len(slow)] = place * gain * self.embedding_scale
            query, key, value = (part[length : 2 * length] for part in above.query_key_value.weight.chunk(3))
            query.zero_()[slow] = self.match_sharpness * content
            key.zero_()[slow] = self.match_sharpness * place.T / gain
            value.copy_(torch.linalg.qr(torch.randn(width, length, generator=generator))[0].T)
            copied = self.copied * self.embedding_scale * math.sqrt(width / length)
            above.output.weight[:, length : 2 * length] = copied * value.T

    def layers(self) -> Iterator[Block]:
        """The layers, in order."""
        for block in self.blocks:
            assert isinstance(block, Block)
            yield block

    def forward(self, ids: Tensor) -> Tensor:
        """Logits (batch, length, vocabulary) in the model's dtype for ids (batch, length), padded on the right."""
        length = ids.shape[1]
        cosine, sine = self.cosine[:length], self.sine[:length]  # type: ignore[index]
        mask = self.mask[:length, :length]  # type: ignore[index]
        x = self.embedding(ids).to(self.dtype)
        with torch.autocast(ids.device.type, torch.bfloat16, enabled=self.dtype == torch.bfloat16):
            for block in self.blocks:
                x = block(x, cosine, sine, mask)
            x = F.rms_norm(x, (x.shape[-1],), self.norm.to(x.dtype), 1e-6)
            return x @ self.embedding.weight.T.to(self.dtype)


# ----------------------------------------------------------------------------------------------------------------- data


@dataclass(frozen=True)
class Batch:
    """Ids (rows, length), padded on the right; loss weights alike (0 on padding); number of tokens without padding."""

    ids: Tensor
    weights: Tensor
    tokens: int


def _encoded(tokenizer: "PreTrainedTokenizerFast", texts: Sequence[tuple[str, Sequence[tuple[int, int]]]],
             weight: float,
             eos: int) -> list[tuple[list[int], list[float]]]:  # fmt: skip
    """Ids and loss weights of texts with their answer spans, an end-of-text token at both ends, cut to the window."""
    rows: list[tuple[list[int], list[float]]] = []
    for (_, answers), encoding in zip(
        texts, tokenizer.backend_tokenizer.encode_batch([text for text, _ in texts]), strict=True
    ):
        ids = [*encoding.ids, eos]
        weights = [1.0] * len(ids)
        spans = iter(answers)
        span = next(spans, None)
        for position, (start, end) in enumerate(encoding.offsets):
            while span and start >= span[1]:
                span = next(spans, None)
            if span and start >= span[0] and end > start:
                weights[position] = weight
        rows.append((ids[: WINDOW + 1], weights[: WINDOW + 1]))
    return rows


def _special_ids(tokenizer: "PreTrainedTokenizerFast") -> tuple[int, int]:
    """The ids of <pad> and <eos>."""
    words = tokenizer.get_vocab()
    return words[PAD], words[EOS]


def batches(
    tokenizer: "PreTrainedTokenizerFast",
    seed: int,
    stage: Stage,
    batch_tokens: int,
    answer_weight: float,
    *,
    patterns: Patterns = "short",
) -> Iterator[Batch]:
    """Endless batches of one stage: documents of similar length together, in random order.

    Each block of 1,500 texts is made from a seed of its own, so that a resumed run continues with fresh text.
    """
    pad, eos = _special_ids(tokenizer)
    tokenizer.backend_tokenizer.no_padding()
    tokenizer.backend_tokenizer.no_truncation()
    for block in itertools.count():
        rng = random.Random(derive(seed, "block", stage, block))
        texts = [documents(rng, stage, patterns=patterns) for _ in range(1500)]
        rows = _encoded(tokenizer, [(text.text, text.answers) for text in texts], answer_weight, eos)
        rows.sort(key=lambda row: len(row[0]))
        groups: list[list[tuple[list[int], list[float]]]] = [[]]
        for row in rows:
            if groups[-1] and (len(groups[-1]) + 1) * len(row[0]) > batch_tokens:
                groups.append([])
            groups[-1].append(row)
        rng.shuffle(groups)
        for group in groups:
            length = max(len(ids) for ids, _ in group)
            ids = torch.tensor([ids + [pad] * (length - len(ids)) for ids, _ in group])
            weights = torch.tensor([weights + [0.0] * (length - len(weights)) for _, weights in group])
            yield Batch(ids, weights, sum(len(ids) for ids, _ in group))


# ------------------------------------------------------------------------------------------------------------- training


@dataclass
class _Progress:
    """Where a run is; saved with its checkpoints."""

    tokens: int = 0
    steps: int = 0
    seconds: float = 0.0
    focus_until: int = 0
    extensions: int = 0
    refresh_until: int = 0
    refresh_extensions: int = 0
    restarts: int = 0


def _phase(settings: Settings, progress: _Progress) -> tuple[Stage, int, float]:
    """Stage, tokens per batch and weight of the answers at this point of the run."""
    done = progress.tokens
    if done < settings.first_tokens:
        return "first", 1024, 2.0
    if done < settings.early_tokens:
        return "early", 1024, 2.0
    if settings.focus_from <= done < progress.focus_until:
        return "focus", 1024, 4.0
    if settings.refresh_from <= done < progress.refresh_until:
        return "refresh", 1024, 4.0
    if done >= settings.labels_from and settings.patterns == "exercises":
        return "labels", 2048, 2.0
    if done >= settings.refresh_from:
        return "late", 2048, 2.0
    return ("full", 1024, 3.0) if done < settings.wide_from else ("full", 2048, 2.0)


def _learning_rate(settings: Settings, progress: _Progress) -> float:
    remaining = max(0.0, 1 - progress.tokens / settings.tokens)
    return (
        settings.learning_rate * min(1.0, (progress.steps + 1) / 80) * max(0.02, min(1.0, remaining / settings.decay))
    )


def pretrain(
    settings: Settings,
    out: Path,
    *,
    probes: Sequence[Probe] = PROBES,
    report_every: int = 500_000,
    save_every: int = 1_000_000,
    tokenizer: "PreTrainedTokenizerFast | None" = None,
    device: str = "cpu",
    compiled: bool = False,
) -> FastLlama:
    """Trains (or continues to train) one model; writes `checkpoint.pt`, `log.jsonl` and at the end `model/` into `out`.

    `compiled`: the step through torch's compiler, a minute and a half of work that makes 2.8 million parameters a fifth
    faster. Returns the trained model. Raises ValueError if `out` holds a run with other settings.
    """
    settings = settings.scaled()
    out.mkdir(parents=True, exist_ok=True)
    tokenizer = tokenizer or _shared_tokenizer(out)
    dtype = getattr(torch, settings.precision)
    weights_seed = derive(settings.seed, "weights") % 2**63
    model = FastLlama(len(tokenizer), SIZES[settings.size], weights_seed, dtype, settings.start).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), settings.learning_rate, (0.9, 0.98), weight_decay=0.1, fused=True)
    progress = _Progress(focus_until=settings.focus_from + settings.focus_tokens)
    checkpoint = out / "checkpoint.pt"
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True, map_location="cpu")
        progress = _Progress(**state["progress"])
        if not settings.continues(Settings(**state["settings"]), progress.tokens):
            raise ValueError(f"{checkpoint} was made with other settings: {state['settings']}")
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        progress.restarts += 1
    progress.refresh_until = progress.refresh_until or settings.refresh_from + settings.refresh_tokens
    reported = saved = progress.tokens
    loss_sum, loss_count = 0.0, 0
    clock, since = time.monotonic(), time.monotonic()
    probe_seconds = 0.0
    phase: tuple[Stage, int, float] | None = None
    stream: Iterator[Batch] = iter(())
    loss_of = torch.compile(_loss, dynamic=True) if compiled else _loss
    while progress.tokens < settings.tokens:
        current = _phase(settings, progress)
        stage = current[0]
        if current != phase:
            phase = current
            seed = derive(settings.seed, "text", progress.tokens, progress.restarts)
            stream = batches(tokenizer, seed, *phase, patterns=settings.patterns)
        batch = next(stream)
        rate = _learning_rate(settings, progress)
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss = loss_of(model, batch.ids.to(device), batch.weights.to(device))
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        progress.tokens += batch.tokens
        progress.steps += 1
        loss_sum, loss_count = loss_sum + loss.item(), loss_count + 1
        focus_ends = stage in ("focus", "refresh") and _phase(settings, progress)[0] != stage
        if progress.tokens - reported >= report_every or focus_ends or progress.tokens >= settings.tokens:
            before = time.monotonic()
            scores = accuracies(probes, lambda ids: _logits(model, ids), tokenizer)
            probe_seconds = time.monotonic() - before
            _append(
                out / "log.jsonl",
                {
                    "tokens": progress.tokens,
                    "stage": stage,
                    "loss": round(loss_sum / loss_count, 4),
                    "learning_rate": rate,
                    "tokens_per_second": round((progress.tokens - reported) / (before - since)),
                    "seconds": round(progress.seconds + time.monotonic() - clock, 1),
                    "probe_seconds": round(probe_seconds, 1),
                    "probes": scores,
                },
            )
            if focus_ends and _verification(scores) < 0.8:
                _extend(settings, progress)
            reported, loss_sum, loss_count, since = progress.tokens, 0.0, 0, time.monotonic()
        if progress.tokens - saved >= save_every or progress.tokens >= settings.tokens:
            progress.seconds += time.monotonic() - clock
            clock = time.monotonic()
            _save(checkpoint, settings, progress, model, optimizer)
            saved = progress.tokens
    export(model.cpu(), tokenizer, out / "model", _card(settings, progress), probes)
    return model


def _verification(scores: dict[str, float]) -> float:
    """How well the model can tell true from false: the weakest of the probes that need only that."""
    return min((scores[name] for name in ("yes_no", "yes_no_unseen", "entailed") if name in scores), default=1.0)


def _extend(settings: Settings, progress: _Progress) -> None:
    """Prolongs the stage of one-question documents that has just ended, if it may be."""
    if progress.tokens < settings.refresh_from:
        if progress.extensions < settings.focus_extensions:
            progress.focus_until += settings.focus_extension
            progress.extensions += 1
    elif progress.refresh_extensions < settings.refresh_extensions:
        progress.refresh_until += settings.focus_extension
        progress.refresh_extensions += 1


def _loss(model: FastLlama, ids: Tensor, weights: Tensor) -> Tensor:
    """Cross-entropy of the next token, weighted by position; ids and weights (rows, length)."""
    logits = model(ids[:, :-1])
    losses = F.cross_entropy(logits.flatten(0, 1).float(), ids[:, 1:].flatten(), reduction="none")
    return (losses * weights[:, 1:].flatten()).sum() / weights[:, 1:].sum()


@torch.no_grad()
def _logits(model: FastLlama, ids: Tensor) -> Tensor:
    return model(ids.to(model.embedding.weight.device)).float().cpu()


def _append(file: Path, line: dict[str, Any]) -> None:
    with file.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(line) + "\n")


def _save(
    file: Path, settings: Settings, progress: _Progress, model: FastLlama, optimizer: torch.optim.Optimizer
) -> None:
    """Writes the checkpoint under another name first, so that an interruption leaves the old one whole."""
    partial = file.with_suffix(".partial")
    torch.save(
        {
            "settings": dataclasses.asdict(settings),
            "progress": dataclasses.asdict(progress),
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
        },
        partial,
    )
    partial.replace(file)


def _shared_tokenizer(out: Path) -> "PreTrainedTokenizerFast":
    """The tokenizer of the run: the one saved with it, so that a resumed run keeps its vocabulary."""
    from transformers import PreTrainedTokenizerFast

    folder = out / "tokenizer"
    if not folder.exists():
        build_tokenizer().save_pretrained(folder)
    return PreTrainedTokenizerFast.from_pretrained(folder)


# --------------------------------------------------------------------------------------------------------------- export


def _card(settings: Settings, progress: _Progress) -> dict[str, Any]:
    """What `training.json` says about a checkpoint."""
    return {
        "version": VERSION,
        "command": f"python -m openflan.world.pretrain --size {settings.size} --seed {settings.seed} "
        f"--tokens {settings.tokens} --precision {settings.precision} --patterns {settings.patterns} "
        f"--start {settings.start}",
        "settings": dataclasses.asdict(settings),
        "tokens": progress.tokens,
        "steps": progress.steps,
        "seconds": round(progress.seconds),
        "restarts": progress.restarts,
    }


def export(
    model: FastLlama,
    tokenizer: "PreTrainedTokenizerFast",
    folder: Path,
    card: dict[str, Any],
    probes: Sequence[Probe] = PROBES,
) -> None:
    """Writes a `LlamaForCausalLM` folder in bf16 with its tokenizer and `training.json`.

    The card's probes are measured on what was written, in float32, as users load it.

    Raises AssertionError if the exported model does not give the logits of `model`.
    """
    llama = to_llama(model, tokenizer)
    ids = torch.tensor([tokenizer("Tom has the cup. Sue is in the kitchen.\nWhat does Tom have?\nCup.")["input_ids"]])
    with torch.no_grad():
        ours, theirs = model(ids).float(), llama(ids).logits
    assert (ours - theirs).abs().max() < 0.15, "the exported model gives other logits"
    llama.to(torch.bfloat16).save_pretrained(folder)  # pyright: ignore[reportArgumentType]
    tokenizer.save_pretrained(folder)
    card = card | {"probes": exported_accuracies(folder, probes)}
    (folder / "training.json").write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")


@torch.no_grad()
def exported_accuracies(folder: Path, probes: Sequence[Probe] = PROBES) -> dict[str, float]:
    """Probe accuracies of an exported model in float32."""
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return accuracies(probes, lambda ids: model(ids).logits, tokenizer)


def to_llama(model: FastLlama, tokenizer: "PreTrainedTokenizerFast") -> "LlamaForCausalLM":
    """The same model as a `LlamaForCausalLM` in fp32."""
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    size, (pad, eos) = model.size, _special_ids(tokenizer)
    config = LlamaConfig(
        vocab_size=model.embedding.num_embeddings,
        hidden_size=size.width,
        intermediate_size=size.hidden,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.heads,
        rms_norm_eps=1e-6,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        attention_bias=False,
        bos_token_id=eos,
        eos_token_id=eos,
        pad_token_id=pad,
    )
    weights = {
        "model.embed_tokens.weight": model.embedding.weight,
        "model.norm.weight": model.norm,
        "lm_head.weight": model.embedding.weight,
    }
    for index, block in enumerate(model.layers()):
        prefix = f"model.layers.{index}."
        query, key, value = block.query_key_value.weight.chunk(3)
        gate, up = block.gate_up.weight.chunk(2)
        weights |= {
            prefix + "self_attn.q_proj.weight": query,
            prefix + "self_attn.k_proj.weight": key,
            prefix + "self_attn.v_proj.weight": value,
            prefix + "self_attn.o_proj.weight": block.output.weight,
            prefix + "mlp.gate_proj.weight": gate,
            prefix + "mlp.up_proj.weight": up,
            prefix + "mlp.down_proj.weight": block.down.weight,
            prefix + "input_layernorm.weight": block.attention_norm,
            prefix + "post_attention_layernorm.weight": block.feed_norm,
        }
    llama = LlamaForCausalLM(config)
    llama.load_state_dict({name: weight.detach().clone() for name, weight in weights.items()})
    llama.generation_config = GenerationConfig(bos_token_id=eos, eos_token_id=eos, pad_token_id=pad, do_sample=False)
    return llama.eval()


def export_checkpoint(run: Path, folder: Path) -> None:
    """Exports the latest checkpoint of a run that is still going."""
    state = torch.load(run / "checkpoint.pt", weights_only=True)
    settings, progress = Settings(**state["settings"]), _Progress(**state["progress"])
    tokenizer = _shared_tokenizer(run)
    model = FastLlama(len(tokenizer), SIZES[settings.size], 0)
    model.load_state_dict(state["model"])
    export(model, tokenizer, folder, _card(settings, progress))


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Pretrain a base model of the micro-world.")
    parser.add_argument("--size", choices=sorted(SIZES), default="base")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tokens", type=float, default=25e6)
    parser.add_argument("--precision", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--patterns", choices=get_args(Patterns), default="short", help="in the text")
    parser.add_argument("--start", choices=get_args(Start), default="mimetic", help="of the attention heads")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--compile", action="store_true", help="a faster step, after a minute and a half of compiling")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run; an existing run is continued")
    parser.add_argument("--export-now", type=Path, metavar="FOLDER", help="only export the latest checkpoint of --out")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    if chosen.export_now:
        export_checkpoint(chosen.out, chosen.export_now)
        return
    settings = Settings(chosen.size, chosen.seed, int(chosen.tokens), chosen.precision, chosen.patterns, chosen.start)
    pretrain(settings, chosen.out, device=chosen.device, compiled=chosen.compile)


if __name__ == "__main__":
    main()
