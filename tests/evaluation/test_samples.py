"""The per-example record: what each column holds, and that equal records are equal files."""

import hashlib

import polars as pl
import pytest

from openflan.errors import CatalogError, RunError
from openflan.evaluation.samples import SAMPLE_SCHEMA, SampleScore, read_samples, sample_frame, write_samples
from openflan.rendering.example import Example
from openflan.scoring.generate import Generation
from openflan.scoring.rank import OptionScores
from openflan.scoring.remote import RemoteText

from .conftest import frame, sample

RANKED = Example(
    task="rte", row_id="validation/3", template="follows", inputs="Is it?", targets="no",
    options=("yes", "no"), gold=(1,), exemplars=(("1", "2"), ("3", "4")), exemplar_rows=("train/1", "train/9"),
)  # fmt: skip
WRITTEN = Example(
    task="nq",
    row_id="validation/4",
    template="ask",
    inputs="Who?",
    targets="Ada",
    references=("Ada", "Ada L."),
    group="p1",
)
WHERE = {"arm": "tuned", "cluster": "nli", "split": "test", "prompt": "Is it?\n"}


def test_a_ranking_is_recorded_whole():
    scores = OptionScores("x", ((-1.0, -2.0), (-0.5,)))
    one = SampleScore.ranking(RANKED, scores, metric_name="accuracy", **WHERE)
    assert one == SampleScore(
        arm="tuned", task="rte", cluster="nli", split="test", row_id="validation/3", group="validation/3",
        template="follows", shots=2, exemplars=("train/1", "train/9"),
        options=("yes", "no"), logprobs=(-3.0, -0.5), tokens=(2, 1), prediction="no",
        predicted=1, gold=(1,), references=("no",), value=1.0, prompt_sha=hashlib.sha256(b"Is it?\n").hexdigest(),
    )  # fmt: skip


def test_a_row_without_gold_is_kept_and_unscored():
    bare = Example(task="snli", row_id="0", template="a", inputs="x", targets="", options=("yes", "no"))
    one = SampleScore.ranking(bare, OptionScores("x", ((-1.0,), (-2.0,))), metric_name="accuracy", **WHERE)
    assert (one.value, one.reason, one.prediction) == (None, "no gold option", "yes")


def test_a_generation_is_recorded_with_how_it_ended():
    written = Generation("x", " Ada  L.\n", (5, 6), "stop")
    one = SampleScore.generation(WRITTEN, written, metric_name="trivia", **WHERE)
    assert (one.prediction, one.value, one.reason, one.tokens) == ("Ada  L.", 1.0, "ended: stop", (2,))
    assert (one.group, one.predicted, one.options, one.references) == ("p1", None, (), ("Ada", "Ada L."))
    with pytest.raises(CatalogError, match="needs options"):
        SampleScore.generation(WRITTEN, written, metric_name="accuracy", **WHERE)


@pytest.mark.parametrize(
    ("text", "predicted", "value", "reason"),
    [
        (" No.", 1, 1.0, "generated: equals the option"),
        ("yes it is", 0, 0.0, "generated: begins with the option"),
        ("perhaps", None, 0.0, "generated, unmatched: names no option"),
    ],
)
def test_a_written_answer_to_options_says_that_it_was_written(text, predicted, value, reason):
    written = RemoteText("x", 0, text, "stop", 3)
    one = SampleScore.matched(RANKED, written, metric_name="accuracy", **WHERE)
    assert (one.predicted, one.value, one.reason, one.tokens) == (predicted, value, reason, (3,))
    assert (one.logprobs, one.options, one.references) == ((), ("yes", "no"), ("no",))
    assert SampleScore.matched(RANKED, RemoteText("x", 0, text, "stop", None), metric_name="f1a", **WHERE).tokens == ()


def test_an_answer_without_a_grade_is_left_out_of_a_correlation():
    written = RemoteText("x", 0, "perhaps", "stop", 3)
    one = SampleScore.matched(RANKED, written, metric_name="pearson", **WHERE)
    assert one.value is None and one.reason.startswith("generated, unmatched")


def test_equal_samples_are_equal_bytes_in_any_order(tmp_path):
    rows = [sample(row_id=str(i), template=t, arm=a) for i in range(40) for t in "ab" for a in ("x", "y")]
    write_samples(frame(rows), tmp_path / "a.parquet")
    write_samples(frame(rows[::-1]), tmp_path / "b.parquet")
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    write_samples(frame([*rows[:-1], rows[-1] | {"value": 0.0}]), tmp_path / "c.parquet")
    assert (tmp_path / "a.parquet").read_bytes() != (tmp_path / "c.parquet").read_bytes()


def test_samples_come_back_as_they_went_in(tmp_path):
    scores = OptionScores("x", ((-1.0, -2.0), (-0.1 - 1e-17,)))
    made = sample_frame(
        [
            SampleScore.ranking(RANKED, scores, metric_name="accuracy", **WHERE),
            SampleScore.generation(WRITTEN, Generation("x", "日本 🙂", (5,), "eos"), metric_name="squad", **WHERE),
        ]
    )
    assert dict(made.schema) == SAMPLE_SCHEMA
    assert made["task"].to_list() == ["nq", "rte"]
    write_samples(made, tmp_path / "samples.parquet")
    assert read_samples(tmp_path / "samples.parquet").equals(made)


def test_wrong_files_and_repeated_samples_are_errors(tmp_path):
    with pytest.raises(RunError, match="no such file"):
        read_samples(tmp_path / "none.parquet")
    pl.DataFrame({"arm": ["x"], "task": [3]}).write_parquet(tmp_path / "other.parquet")
    with pytest.raises(RunError) as error:
        read_samples(tmp_path / "other.parquet")
    assert len(error.value.problems) == len(SAMPLE_SCHEMA) - 1
    with pytest.raises(RunError, match="2 samples share their identity"):
        write_samples(frame([sample(), sample()]), tmp_path / "twice.parquet")


def test_samples_of_older_runs_are_read(tmp_path):
    frame([sample()]).drop("exemplars", "grade").write_parquet(tmp_path / "samples.parquet")
    read = read_samples(tmp_path / "samples.parquet")
    assert dict(read.schema) == SAMPLE_SCHEMA
    assert read["exemplars"].to_list() == [[]]


def test_no_samples_make_an_empty_frame():
    assert dict(sample_frame([]).schema) == SAMPLE_SCHEMA
