"""Every metric against a public implementation or a sum done by hand."""

import math

import numpy as np
import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st
from lm_eval.tasks.drop.utils import get_metrics
from rouge_score.rouge_scorer import RougeScorer
from scipy.stats import pearsonr
from sklearn.metrics import f1_score

from openflan.catalog.task import Metric as MetricName
from openflan.errors import CatalogError, RunError
from openflan.evaluation.metrics import (
    METRICS,
    Outcome,
    choose,
    constant,
    distinct,
    guessing,
    metric,
    ranked,
    unmatched,
)

YES_NO = ("no", "yes")


def text(prediction, *references):
    return Outcome(prediction=prediction, references=references)


def chosen(predicted, *gold, options=YES_NO):
    return ranked(options, gold, predicted)


def test_every_metric_of_the_catalog_is_here():
    assert set(METRICS) == set(MetricName.__args__)


def test_an_unknown_metric_names_the_nearest():
    with pytest.raises(CatalogError, match="did you mean accuracy"):
        metric("acuracy")


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_over_nothing_is_an_error(name):
    with pytest.raises(RunError, match="over nothing"):
        METRICS[name].over([])


# Choosing an option


def test_the_likeliest_option_is_chosen_and_ties_go_to_the_first():
    assert choose([-3.0, -1.0, -2.0], ["a", "b", "c"]) == (1, False)
    assert choose([-3.0, -1.0, -1.0], ["a", "b", "c"]) == (1, True)


def test_equal_texts_are_one_option_and_no_tie():
    assert choose([-1.0, -2.0, -1.0], ["a", "b", "a"]) == (0, False)
    assert distinct(["a", "b", "a", "b"]) == (0, 1, 0, 1)
    assert METRICS["accuracy"].value(ranked(["a", "b", "a"], [2], 0)) == 1.0


def test_any_gold_option_counts():
    assert METRICS["accuracy"].value(chosen(2, 0, 2, options=("a", "b", "c"))) == 1.0
    assert METRICS["accuracy"].value(chosen(1, 0, 2, options=("a", "b", "c"))) == 0.0


def test_missing_log_probabilities_are_an_error():
    with pytest.raises(RunError):
        choose([-1.0], ["a", "b"])


# Rank metrics


def test_accuracy_by_hand():
    assert METRICS["accuracy"].over([chosen(0, 0), chosen(0, 1), chosen(1, 1)]) == {"accuracy": pytest.approx(2 / 3)}


def test_f1a_is_over_all_answer_rows():
    # Of three gold answers two are found, with one false alarm: precision 2/3, recall 2/3.
    rows = [chosen(1, 1), chosen(1, 1), chosen(0, 1), chosen(1, 0), chosen(0, 0)]
    assert METRICS["f1a"].over(rows) == {"f1a": pytest.approx(2 / 3)}
    assert METRICS["f1a"].over([chosen(0, 0)]) == {"f1a": 0.0}


@pytest.mark.parametrize("name", ["f1", "f1a"])
def test_binary_f1_refuses_other_option_counts(name):
    with pytest.raises(CatalogError, match="two options"):
        METRICS[name].over([chosen(0, 0, options=("a", "b", "c"))])


ANSWERS = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=30)


@pytest.mark.reference
@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=30))
def test_f1_equals_scikit_learn(pairs):
    predicted, gold = zip(*pairs, strict=True)
    found = METRICS["f1"].over([chosen(p, g) for p, g in pairs])["f1"]
    assert found == pytest.approx(f1_score(gold, predicted, zero_division=0.0), abs=1e-12)


@pytest.mark.reference
@given(ANSWERS)
def test_macro_f1_equals_scikit_learn(pairs):
    predicted, gold = zip(*pairs, strict=True)
    found = METRICS["macro_f1"].over([chosen(p, g, options=("a", "b", "c")) for p, g in pairs])["macro_f1"]
    assert found == pytest.approx(f1_score(gold, predicted, average="macro", zero_division=0.0), abs=1e-12)


def test_macro_f1_by_hand():
    # Class a: one of one predicted right, one of two found, F1 2/3. Class b: F1 2/3. Class c never comes up.
    rows = [chosen(p, g, options=("a", "b", "c")) for p, g in [(0, 0), (1, 0), (1, 1)]]
    assert METRICS["macro_f1"].over(rows)["macro_f1"] == pytest.approx(2 / 3)


@given(ANSWERS)
def test_matthews_equals_the_correlation_of_indicators(pairs):
    found = METRICS["matthews"].over([chosen(p, g, options=("a", "b", "c")) for p, g in pairs])["matthews"]
    predicted, gold = (np.eye(3)[list(column)] for column in zip(*pairs, strict=True))
    covariance = ((predicted - predicted.mean(0)) * (gold - gold.mean(0))).sum()
    spread = ((predicted - predicted.mean(0)) ** 2).sum() * ((gold - gold.mean(0)) ** 2).sum()
    assert found == pytest.approx(covariance / math.sqrt(spread) if spread > 1e-12 else 0.0, abs=1e-9)


def test_an_answer_that_is_no_option_is_one_more_choice_to_matthews_and_nothing_to_pearson():
    rows = [chosen(1, 1), chosen(0, 0), chosen(1, 0), unmatched("perhaps", ("no", "yes"), (1,))]
    as_third = [chosen(p, g, options=("a", "b", "c")) for p, g in ((1, 1), (0, 0), (1, 0), (2, 1))]
    assert METRICS["matthews"].over(rows) == pytest.approx(METRICS["matthews"].over(as_third))
    assert METRICS["pearson"].over(rows) == pytest.approx(METRICS["pearson"].over(rows[:3]))
    assert METRICS["accuracy"].over(rows) == {"accuracy": 0.5}
    assert METRICS["f1a"].over(rows) == {"f1a": 2 * 1 / (2 + 2)}


def test_matthews_by_hand():
    # tp 2, tn 1, fp 1, fn 0
    rows = [chosen(1, 1), chosen(1, 1), chosen(0, 0), chosen(1, 0)]
    assert METRICS["matthews"].over(rows)["matthews"] == pytest.approx((2 * 1 - 1 * 0) / math.sqrt(3 * 2 * 2 * 1))


@given(ANSWERS)
def test_pearson_equals_scipy(pairs):
    options = ("0", "2.5", "5")
    found = METRICS["pearson"].over([chosen(p, g, options=options) for p, g in pairs])["pearson"]
    x, y = ([float(options[index]) for index in column] for column in zip(*pairs, strict=True))
    if len(set(x)) == 1 or len(set(y)) == 1:
        assert found == 0.0
    else:
        assert found == pytest.approx(pearsonr(x, y).statistic, abs=1e-9)


@given(st.lists(st.tuples(st.integers(0, 5), st.floats(0, 5)), min_size=3, max_size=30))
def test_pearson_is_with_the_grade_before_rounding(pairs):
    options = tuple("012345")
    x, y = zip(*pairs, strict=True)
    rows = [ranked(options, [round(grade)], predicted, grade) for predicted, grade in pairs]
    found = METRICS["pearson"].over(rows)["pearson"]
    if np.std(x) > 0.1 and np.std(y) > 0.1:
        assert found == pytest.approx(pearsonr(x, y).statistic, abs=1e-9)


def test_grades_in_words_count_by_position():
    words = ("not alike", "somewhat", "the same")
    rows = [chosen(0, 0, options=words), chosen(1, 2, options=words), chosen(2, 1, options=words)]
    assert METRICS["pearson"].over(rows)["pearson"] == pytest.approx(pearsonr([0, 1, 2], [0, 2, 1]).statistic)


# Chance


def test_chance_is_the_mean_of_gold_over_options():
    rows = [chosen(0, 0), chosen(0, 0, 1, options=("a", "b", "c", "d")), chosen(0, 1, options=("a", "a", "b"))]
    # The last row's gold text "a" is one of two distinct choices.
    assert guessing(METRICS["accuracy"], rows) == pytest.approx((1 / 2 + 2 / 4 + 1 / 2) / 3)


def test_chance_of_other_metrics_follows_the_same_rule():
    rows = [chosen(0, 1), chosen(0, 0), chosen(0, 0), chosen(0, 0)]
    assert guessing(METRICS["f1a"], rows) == pytest.approx(2 * 0.5 / (2 + 1))
    assert guessing(METRICS["matthews"], rows) == pytest.approx(0)
    assert guessing(METRICS["pearson"], rows) == pytest.approx(0)
    assert guessing(METRICS["squad"], [text("a", "a")]) is None


def test_majority_is_a_word_where_words_are_fixed_and_a_position_where_not():
    # The word "yes" is gold three times of four, wherever it stands.
    fixed = [chosen(0, 0, options=("yes", "no")), chosen(0, 1, options=("no", "yes"))] * 2
    fixed[-1] = chosen(0, 0, options=("no", "yes"))
    assert constant(METRICS["accuracy"], fixed) == 0.75
    free = [chosen(0, 1, options=(f"a{i}", f"b{i}")) for i in range(3)] + [chosen(0, 0, options=("x", "y"))]
    assert constant(METRICS["accuracy"], free) == 0.75
    # The third position is gold each time; where two options are the same words, the first of them counts.
    third = [ranked(["p", "q", "r"], [2], 0), ranked(["s", "t", "u"], [2], 0), ranked(["a", "b", "a"], [2], 0)]
    assert constant(METRICS["accuracy"], [*third, ranked(["v", "w", "x"], [2], 0)]) == 1.0
    assert constant(METRICS["exact_match"], [text("a", "a")]) is None


# Text metrics


def test_exact_match_keeps_case_and_inner_space():
    assert METRICS["exact_match"].value(text(" 42\n", "41", "42")) == 1.0
    assert METRICS["exact_match"].value(text("Forty two", "forty two")) == 0.0


def test_squad_takes_the_best_reference_for_each_number():
    found = METRICS["squad"].over([text("the red house", "house", "red brick house"), text("x", "y")])
    # F1 2*2/(2+3) with the second reference; neither reference matches exactly.
    assert found == {"f1": pytest.approx(0.8 / 2), "exact_match": 0.0}
    assert METRICS["trivia"].over([text("The_Beatles", "beatles")]) == {"exact_match": 1.0, "f1": 1.0}


SPANS = st.lists(
    st.lists(
        st.sampled_from(["the", "14", "14.0", "3-yard", "1,000", "Joe", "joe's", "field", "goal.", "-", "$5", "nan"]),
        min_size=1, max_size=4,
    ).map(" ".join),
    min_size=1, max_size=4,
)  # fmt: skip


@pytest.mark.reference
@settings(max_examples=300)
@given(SPANS, st.lists(SPANS, min_size=1, max_size=3))
def test_drop_equals_the_official_evaluator(predicted, golds):
    """As lm-eval carries it, which takes the spans of an answer apart."""
    found = METRICS["drop"].over([text(", ".join(predicted), *(", ".join(gold) for gold in golds))])
    scores = [get_metrics(predicted, gold) for gold in golds]
    assert found == {"f1": max(f1 for _, f1 in scores), "exact_match": max(exact for exact, _ in scores)}


def test_drop_by_hand():
    drop = METRICS["drop"].over
    assert drop([text("two", "2")]) == {"f1": 0.0, "exact_match": 0.0}
    assert drop([text("14 yards", "14.0-yards")]) == {"f1": 1.0, "exact_match": 1.0}
    # Words alone count for nothing where the number is wrong; SQuAD's rule would give a half.
    assert drop([text("15 yards", "14 yards")]) == {"f1": 0.0, "exact_match": 0.0}
    assert METRICS["squad"].over([text("15 yards", "14 yards")])["f1"] == 0.5
    # One of two spans found, and a third that is wrong: 1 / 3.
    assert drop([text("b, c, d", "a, b")])["f1"] == 0.33


def test_word_edit_by_hand():
    found = METRICS["word_edit"].over([text("a B c", "A b d c"), text("", "x y")])
    assert found == {"words_kept": pytest.approx((0.75 + 0) / 2), "words_edited": 1.5}


SENTENCES = st.lists(
    st.sampled_from(["the", "cat", "sat", "on", "mat", "dogs", "don't", "1,000", "Ünï", "."]), max_size=12
).map(" ".join)


@pytest.mark.reference
@settings(max_examples=60)
@given(st.lists(st.tuples(SENTENCES, SENTENCES, SENTENCES), min_size=1, max_size=6))
def test_bleu_equals_sacrebleu(rows):
    found = METRICS["bleu"].over([text(prediction, *references) for prediction, *references in rows])["bleu"]
    predictions, *references = (list(column) for column in zip(*rows, strict=True))
    expected = sacrebleu.corpus_bleu(predictions, references, tokenize="intl", smooth_method="exp").score
    assert found == pytest.approx(expected / 100, abs=1e-9)


def test_bleu_of_a_perfect_answer_is_one():
    rows = [text("the cat sat on the mat .", "the cat sat on the mat .")]
    assert METRICS["bleu"].over(rows)["bleu"] == pytest.approx(1.0)


WRITING = st.text(st.sampled_from("ab é 雨村里下了.дождь"), max_size=12)


@pytest.mark.reference
@given(st.lists(st.tuples(WRITING, WRITING, WRITING), min_size=1, max_size=6))
def test_chrf_equals_sacrebleu(rows):
    found = METRICS["chrf"].over([text(prediction, *references) for prediction, *references in rows])["chrf"]
    predictions, *references = (list(column) for column in zip(*rows, strict=True))
    assert found == pytest.approx(sacrebleu.corpus_chrf(predictions, references).score / 100, abs=1e-9)


@pytest.mark.reference
@given(SENTENCES, SENTENCES, SENTENCES)
def test_rouge_is_the_best_reference_of_rouge_score(prediction, first, second):
    kinds = ["rouge1", "rouge2", "rougeLsum"]
    scorer = RougeScorer(kinds)
    parted = [sentence.replace(" . ", " .\n") for sentence in (prediction, first, second)]
    scores = [scorer.score(reference, parted[0]) for reference in parted[1:]]
    found = METRICS["rouge"].over([text(prediction, first, second)])
    assert found == {kind: pytest.approx(max(score[kind].fmeasure for score in scores)) for kind in kinds}


# What statistics rely on


@pytest.mark.parametrize("name", METRICS)
def test_sums_of_parts_are_the_sums_of_the_whole(name):
    measure = METRICS[name]
    rng = np.random.default_rng(0)
    if measure.needs_options:
        rows = [chosen(int(p), int(g)) for p, g in rng.integers(0, 2, (40, 2))]
    else:
        words = np.array(["a cat", "sat", "on the mat", "red house .", "x"])
        rows = [text(" ".join(p), " ".join(g), "a cat sat") for p, g in rng.choice(words, (40, 2, 3))]
    sums = measure.statistics(rows)
    weighted = np.repeat(np.arange(40), rng.integers(0, 3, 40))
    expected = measure.over([rows[index] for index in weighted])
    found = measure.finish(np.bincount(weighted, minlength=40)[None] @ sums)[0]
    assert dict(zip(measure.components, found, strict=True)) == pytest.approx(expected)
    assert np.isnan(measure.finish(np.zeros((1, sums.shape[1])))).all()
    if measure.is_mean:
        assert expected[measure.components[0]] == pytest.approx(np.mean([measure.value(rows[i]) for i in weighted]))
