"""A plan computes every token once, in an order that has what each token needs, within its limits."""

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openflan.scoring.plan import Plan, chunk_borders, make_plan, text_at, unique_tokens
from openflan.scoring.rank import ScoreRequest

TOKENS = st.sampled_from([5, 6])
REQUESTS = st.lists(
    st.tuples(
        st.lists(TOKENS, min_size=1, max_size=12).map(tuple),
        st.lists(st.lists(TOKENS, min_size=1, max_size=5).map(tuple), min_size=1, max_size=5),
    ),
    min_size=1,
    max_size=8,
).map(lambda drawn: [ScoreRequest(str(i), prompt, tuple(options)) for i, (prompt, options) in enumerate(drawn)])
LIMITS = st.fixed_dictionaries(
    {"pass_tokens": st.integers(1, 40), "kept_tokens": st.integers(0, 40), "call": st.sampled_from([0, 4, 1024])}
)


def prefixes_of(requests: list[ScoreRequest]) -> set[tuple[int, ...]]:
    """Every distinct text beginning that has to be computed."""
    texts = [r.prompt_ids + option[:-1] for r in requests for option in r.option_ids]
    return {text[:stop] for text in texts for stop in range(1, len(text) + 1)}


def alive_tokens(plan: Plan) -> list[int]:
    """Tokens whose keys and values exist while each pass runs, its own prefixes included."""
    found, alive = [], {}
    for one in plan.passes:
        alive |= {tree.keep: tree.stop - tree.start for tree in one.trees if tree.keep is not None}
        found.append(sum(alive.values()))
        for name in one.release:
            del alive[name]
    assert not alive
    return found


@given(REQUESTS, LIMITS)
def test_every_token_is_computed_once_and_every_request_is_found_in_the_plan(requests, limits):
    plan = make_plan(requests, **limits)
    texts = [text_at(plan, place) for place in range(len(plan.token_ids))]
    assert len(texts) == len(set(texts)) == unique_tokens(requests)
    assert set(texts) == prefixes_of(requests)
    assert [len(text) - 1 for text in texts] == plan.positions.tolist()
    expected = [
        (r.prompt_ids + option[:k], token)
        for r in requests
        for option in r.option_ids
        for k, token in enumerate(option)
    ]
    asked = zip(plan.asked_at.tolist(), plan.asked.tolist(), strict=True)
    assert [(texts[place], token) for place, token in asked] == expected


@given(REQUESTS, LIMITS)
def test_a_plan_keeps_its_limits(requests, limits):
    plan = make_plan(requests, **limits)
    assert max(one.stop - one.start for one in plan.passes) <= limits["pass_tokens"]
    longest = max(len(text) for text in prefixes_of(requests))
    assert max(alive_tokens(plan)) <= max(limits["kept_tokens"], longest)


@given(REQUESTS, LIMITS)
def test_what_a_pass_needs_was_kept_and_not_released_before_it(requests, limits):
    kept: set[int] = set()
    for one in make_plan(requests, **limits).passes:
        assert [tree.start for tree in one.trees] == [0, *(tree.stop for tree in one.trees[:-1])]
        for tree in one.trees:
            assert kept.issuperset(tree.prefixes)
            assert tree.keep is None or len(tree.branches) == 1
        # Rows behind one prefix are neighbours, so that one attention call serves them.
        for name in {name for tree in one.trees for name in tree.prefixes}:
            behind = [index for index, tree in enumerate(one.trees) if name in tree.prefixes]
            assert behind == list(range(behind[0], behind[-1] + 1))
        kept |= {tree.keep for tree in one.trees if tree.keep is not None}
        kept -= set(one.release)
    assert not kept


def shared_exemplars(examples: int = 30) -> list[ScoreRequest]:
    drawn = random.Random(0)

    def ids(length: int) -> tuple[int, ...]:
        return tuple(drawn.randrange(2, 30_000) for _ in range(length))

    few_shot = [ids(700), ids(700)]
    return [
        ScoreRequest(str(i), few_shot[i % 2] + ids(80), tuple(ids(drawn.randrange(1, 8)) for _ in range(3)))
        for i in range(examples)
    ]


def test_long_shared_beginnings_are_kept_and_short_ones_are_not():
    plan = make_plan(shared_exemplars(), pass_tokens=1024, kept_tokens=4096)
    kept = [tree for one in plan.passes for tree in one.trees if tree.keep is not None]
    assert [tree.stop - tree.start for tree in kept] == [700, 700]
    # One prompt and its options: cheaper as one tree than as a prefix and three.
    small = make_plan([ScoreRequest("a", tuple(range(20)), ((5, 6, 7), (8, 9)))], pass_tokens=1024, kept_tokens=4096)
    ((tree,),) = (one.trees for one in small.passes)
    assert len(tree.branches) == 3 and tree.keep is None


def test_prefixes_are_dropped_when_what_follows_them_is_done():
    plan = make_plan(shared_exemplars(), pass_tokens=1024, kept_tokens=1000)
    assert max(alive_tokens(plan)) == 700
    assert max(alive_tokens(make_plan(shared_exemplars(), pass_tokens=2048, kept_tokens=2000))) == 1400


def test_passes_are_full():
    plan = make_plan(shared_exemplars(200), pass_tokens=1024, kept_tokens=100_000)
    assert len(plan.token_ids) / (1024 * len(plan.passes)) > 0.85


@settings(max_examples=50)
@given(REQUESTS, st.integers(1, 6))
def test_chunks_take_every_request_in_order(requests, most):
    ordered = sorted(requests, key=lambda request: request.prompt_ids)
    borders = chunk_borders(ordered, most)
    assert borders[0] == 0 and borders[-1] == len(ordered)
    assert all(0 < stop - start <= most for start, stop in itertools.pairwise(borders))


def test_a_chunk_ends_where_little_is_shared():
    ordered = [ScoreRequest(str(i), (i // 7, *range(20), i), ((1,),)) for i in range(40)]
    assert chunk_borders(ordered, 10) == [0, 7, 14, 21, 28, 35, 40]


@pytest.mark.parametrize("number", [2000])
def test_very_deep_nesting_is_no_recursion(number):
    requests = [ScoreRequest(str(i), (5,) * (i + 1), ((6, 7), (8, 9))) for i in range(number)]
    plan = make_plan(requests, pass_tokens=1024, kept_tokens=10_000)
    assert len(plan.token_ids) == unique_tokens(requests) == 3 * number
