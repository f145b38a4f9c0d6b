"""Carries a plan out on any causal language model that attends through transformers' interface.

Takes a `Plan`, gives the log-probability of each token asked for. Whether a model can be scored this way is tried on
the model itself (`check_tree`); nothing is known by name. Read next: `tree_attention.py`.
"""

import contextlib
import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from openflan.errors import ModelError
from openflan.models.packed_attention import attention
from openflan.scoring.forward import HeadReader, Readout, inference, readout, whole_logits, window_of
from openflan.scoring.padded import Spent, texts_to_read
from openflan.scoring.plan import CALL, Plan, make_plan
from openflan.scoring.tree_attention import NAME as ATTENTION
from openflan.scoring.tree_attention import KeysValues, PassState

if TYPE_CHECKING:
    from openflan.models.load import LanguageModel
    from openflan.scoring.rank import ScoreRequest

NAME = "tree-2"
"""Part of the store's key: changes whenever the numbers may."""
PASS_TOKENS = {"cpu": 1024, "cuda": 16_384}
"""More gains nothing on a CPU, where passes of a few hundred tokens run at full speed, and takes memory."""
KEPT_BYTES = 1 << 28
"""Keys and values kept at one time, unless one text alone needs more."""
TOLERANCE = {torch.float32: 1e-3, torch.float16: 0.06, torch.bfloat16: 0.3}
"""Nats for one token; wrong masks make 0.1 and more. Rounding in float32 moved the benchmark's model M by 2e-4 in any
engine, half precision moves log-probabilities by up to 0.13 between batch sizes of one engine."""

LATER_TOKENS = 0.1
"""Most that logits may differ, relatively, with and without later tokens; half precision makes a hundredth."""

NO_INTERFACE = "it does not attend through transformers' attention interface"

Nats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class TreeCheck:
    """Whether a model is scored right as trees, and how that was found."""

    reason: str | None
    """Why not; None where it is right."""
    difference: float = math.nan
    """The largest found between a token's log-probability scored as part of trees and in its text alone, in nats."""
    tokens: int = 0
    """So many log-probabilities were compared."""
    window: int | None = None
    """Right for texts of so many tokens only: the narrowest sliding window."""
    token_bytes: int = 0
    """Keys and values of one token."""
    pruned: bool = False
    """The last layer runs at scored tokens only, behind its attention."""

    def __str__(self) -> str:
        if self.reason is not None:
            return self.reason
        limit = f", for texts of up to {self.window:,} tokens (sliding window)" if self.window else ""
        return f"{self.tokens} log-probabilities as trees and alone differ by at most {self.difference:.1e}{limit}"


@dataclass(eq=False)
class TreeScorer:
    """A model set up to be scored as trees; to be used inside `ready`."""

    model: Readout
    last: "LastAttention | None" = None
    """Where given, what follows it is done at scored tokens only."""
    kept: dict[int, list[KeysValues]] = field(default_factory=dict[int, list[KeysValues]])
    state: PassState | None = None

    @contextlib.contextmanager
    def ready(self, model: Any) -> Generator[None, None, None]:
        """The model's attention set to trees, its last layer to what is scored; all as before afterwards."""
        with attention(model, ATTENTION), contextlib.ExitStack() as stack:
            for module in _behind(self.last.module, self.model.module) if self.last else ():
                stack.callback(module.register_forward_pre_hook(self._only_scored).remove)
                stack.callback(module.register_forward_hook(self._put_back).remove)
            yield

    def score(self, plan: Plan) -> tuple[Nats, Spent]:
        """[K] nats of the tokens asked for."""
        self.kept.clear()
        order = np.argsort(plan.asked_at, kind="stable")
        at, asked = plan.asked_at[order], plan.asked[order]
        values = np.empty(len(order), np.float32)
        reader = HeadReader(self.model, values)
        for one in plan.passes:
            some = slice(*np.searchsorted(at, (one.start, one.stop)))
            rows, which = np.unique(at[some] - one.start, return_inverse=True)
            # A pass nothing is asked of makes keys and values only; one row keeps all shapes ordinary.
            scored = torch.from_numpy(rows if len(rows) else np.zeros(1, np.int64)).to(self.model.device)
            self.state = PassState(one.trees, self.kept, scored, self.last.call if self.last else None)
            hidden = self._hidden(plan.token_ids[one.start : one.stop], plan.positions[one.start : one.stop])
            if self.state.module is None:
                raise ModelError(NO_INTERFACE)
            for name in one.release:
                del self.kept[name]
            if len(rows):
                reader.add(hidden, which, asked[some], order[some])
        reader.read()
        return values, Spent(len(plan.token_ids), 0, reader.positions)

    def _hidden(self, ids: npt.NDArray[np.int64], positions: npt.NDArray[np.int64]) -> Tensor:
        """[M, hidden] at the scored rows of the pass; logits where the model is taken as a whole."""
        state = self.state
        assert state is not None
        device = self.model.device
        given = {
            "input_ids": torch.from_numpy(ids)[None].to(device),
            "position_ids": torch.from_numpy(positions)[None].to(device),
            "use_cache": False,
            "openflan_pass": state,
        }
        if self.model.whole:
            return self.model.module(**given, logits_to_keep=state.scored).logits[0]
        return self.model.module(**given).last_hidden_state[0].index_select(0, state.scored)

    def _only_scored(self, _module: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...] | None:
        state = self.state
        if state is None or not state.only_scored or len(given) != 1 or not _has_rows(given[0], state.size):
            return None
        return (given[0].index_select(-2, state.scored),)

    def _put_back(self, _module: nn.Module, given: tuple[Any, ...], found: Any) -> Any:
        state = self.state
        if state is None or not state.only_scored or len(given) != 1:
            return None
        number = len(state.scored)
        if not _has_rows(given[0], number) or not _has_rows(found, number):
            return None
        whole = found.new_zeros(*found.shape[:-2], state.size, found.shape[-1])
        return whole.index_copy_(-2, state.scored, found)


def _has_rows(value: Any, number: int) -> bool:
    return isinstance(value, Tensor) and value.dim() >= 2 and value.shape[-2] == number


@dataclass(frozen=True, eq=False, slots=True)
class LastAttention:
    """The last module that attends in a pass, and the number of its call, counted from 0."""

    module: nn.Module
    call: int


def _behind(attends: nn.Module, body: nn.Module) -> list[nn.Module]:
    """The parts of the layer of `attends` that work on each token by itself, as far as structure tells.

    Those are the layer's other parts and the matrices of the one that attends. Which of them run behind attention is
    seen when they run; that the rest of the layer can do without the other tokens, the check sees.
    """
    stacks = (module for module in body.modules() if isinstance(module, nn.ModuleList))
    layers = (layer for stack in stacks for layer in stack if any(part is attends for part in layer.modules()))
    found: list[nn.Module] = []
    for part in next(layers, nn.Module()).children():
        if all(inner is not attends for inner in part.modules()):
            found.append(part)
        else:
            found += [inner for inner in part.modules() if not list(inner.children()) and _is_matrix(inner)]
    return found


def _is_matrix(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    return isinstance(weight, Tensor) and weight.dim() == 2


def check_tree(lm: "LanguageModel") -> TreeCheck:
    """Whether this model's log-probabilities come out the same as trees as from each text alone.

    Two short random prompts with options that share beginnings are scored both ways: an architecture may use attention
    in ways its interface does not tell (a recurrent layer, positions it counts itself, a bias on distances).
    """
    with inference(lm.model):
        return set_up_tree(lm, readout(lm.model, _probe_requests(lm)[0].prompt_ids))[0]


def set_up_tree(lm: "LanguageModel", model: Readout) -> tuple[TreeCheck, TreeScorer | None]:
    """What `check_tree` finds, and where that is good the scorer it was found with.

    Raises ModelError where logits depend on later tokens (BERT's, say): they tell nothing of the next one.
    """
    name, requests = type(lm.model).__name__, _probe_requests(lm)
    try:
        expected = _alone(lm.model, requests, model.device)
        later = _by_later_tokens(lm.model, requests[0], model.device)
    except Exception as error:  # a context too short for the probes, say
        return TreeCheck(f"{name}: a text to check with fails: {error}"), None
    if later > LATER_TOKENS:
        raise ModelError(
            f"{lm.name}: {name} is no causal language model: its logits differ by {later:.0%} with what follows"
        )
    tolerance = TOLERANCE.get(lm.dtype, TOLERANCE[torch.bfloat16])

    def difference(scorer: TreeScorer, call: int) -> float:
        plan = make_plan(requests, pass_tokens=PASS_TOKENS["cpu"], kept_tokens=PASS_TOKENS["cpu"], call=call)
        with scorer.ready(lm.model):
            found = float(np.abs(scorer.score(plan)[0] - expected).max())
        return found if math.isfinite(found) else math.inf

    scorer = TreeScorer(model)
    try:
        # As the plan has it for so short texts, all as one tree; then every fork apart, prefixes behind prefixes.
        found = max(difference(scorer, call) for call in (CALL, 0))
    except Exception as error:  # an architecture can fail in any way here, and each of them is an answer
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        if scorer.state is not None and scorer.state.module is None and said != NO_INTERFACE:
            said = f"{NO_INTERFACE} ({said})"
        return TreeCheck(f"{name}: {said}"), None
    state = scorer.state
    assert state is not None and state.module is not None
    # Some have a window in a mask of their own, which attention through the interface is not told of.
    window = min(filter(None, (state.window, window_of(lm.model))), default=None)
    check = TreeCheck(None, found, 2 * len(expected), window, state.token_bytes)
    longest = max(len(text.ids) for text in texts_to_read(requests))
    if found > tolerance and window is not None and window < longest:
        return replace(check, reason=f"{name}: its sliding window of {window} tokens is too short to check"), None
    if found > tolerance:
        said = f"differ by up to {found:.1e} nats, allowed are {tolerance:.0e}"
        return replace(check, reason=f"{name}: log-probabilities as trees and alone {said}"), None
    pruned = TreeScorer(model, LastAttention(state.module, state.calls - 1))
    with contextlib.suppress(Exception):  # as above; what is lost is little
        if (found := difference(pruned, 0)) <= tolerance:
            return replace(check, difference=max(found, check.difference), pruned=True), pruned
    return check, scorer


def _by_later_tokens(model: Any, request: "ScoreRequest", device: Any) -> float:
    """How much logits at the tokens of the prompt differ, relatively, with and without an option behind it."""
    logits_of = whole_logits(model)
    prompt, option = request.prompt_ids, request.option_ids[0]
    texts = [torch.tensor([ids], device=device) for ids in (prompt, prompt + option)]
    found = [logits_of(ids, torch.ones_like(ids))[0].float() for ids in texts]
    without, followed = (logits[: len(prompt)] for logits in found)
    return float((followed - without).norm() / without.norm().clamp_min(1e-30))


def _probe_requests(lm: "LanguageModel") -> "list[ScoreRequest]":
    from openflan.scoring.rank import ScoreRequest

    words = int(lm.model.config.get_text_config().vocab_size)
    drawn = np.random.default_rng(0).integers(0, words, 24).tolist()
    shared, more, other = drawn[:5], drawn[5:8], drawn[8:12]
    a, b, c, d, e, f, g, h, i = drawn[12:21]
    prefix = lm.prefix_ids
    return [
        ScoreRequest("first", (*prefix, *shared, *more), ((a, b, c), (a, d, e, f), (g,), (a, b, c, h))),
        ScoreRequest("second", (*prefix, *shared, *other), ((i, a, b), (i,))),
    ]


def _alone(model: Any, requests: "Sequence[ScoreRequest]", device: Any) -> Nats:
    """[K] nats, each text through the model as it stands, without padding."""
    values = np.empty(sum(len(option) for r in requests for option in r.option_ids), np.float32)
    logits_of = whole_logits(model)
    for text in texts_to_read(requests):
        ids = torch.tensor([text.ids], device=device)
        nats = logits_of(ids, torch.ones_like(ids))[0].float().log_softmax(-1)
        for position, token, place in text.wanted:
            values[place] = float(nats[position, token])
    return values
