import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from openflan.encoding.prompt_format import PromptFormat
from openflan.errors import ConfigError
from openflan.interop import export as module
from openflan.interop.export import FORMATS, PARQUET_SCHEMA, Format, export, prompt_and_completion, split_of
from openflan.rendering.example import Example

CLUSTERS = {"rte": "nli", "multirc": "reading_comprehension", "zed": "translation"}
OPTIONS = ("yes", "no")


def choice(number: int, split: str = "train", **more: Any) -> Example:
    values: dict[str, Any] = {
        "task": "rte", "row_id": f"{split}/{number}", "template": "follows", "inputs": f"Tom has lamp {number}.\nTrue?",
        "targets": OPTIONS[number % 2], "options": OPTIONS, "gold": (number % 2,),
    }  # fmt: skip
    return Example(**values | more)


EXAMPLES = (
    *(choice(number) for number in range(5)),
    choice(0, "test"),
    choice(6, task="multirc", template="which", targets="no", gold=(0, 1)),
    choice(7, template="back", kind="inverted", targets="Tom has\u2028lamp «7».", options=(), gold=()),
    choice(8, task="zed", template="into", targets="zo lam", options=(), gold=(), references=("zo lam", "lam")),
    choice(9, exemplars=(("Is it so?", "yes"),)),
)  # fmt: skip


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("format", FORMATS)
def test_every_example_is_written_once_and_counted(tmp_path: Path, format: Format) -> None:
    summary = export(iter(EXAMPLES), CLUSTERS, tmp_path / "out", format, PromptFormat())
    assert summary.examples + sum(summary.left_out.values()) == len(EXAMPLES)
    assert sum(summary.splits.values()) == summary.examples
    assert set(summary.files) == set(contents(tmp_path / "out"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]
    assert f"{summary.examples} examples of 3 tasks" in str(summary)


@pytest.mark.parametrize("format", FORMATS)
def test_equal_examples_give_equal_bytes_however_they_are_buffered(
    tmp_path: Path, format: Format, monkeypatch: pytest.MonkeyPatch
) -> None:
    export(EXAMPLES, CLUSTERS, tmp_path / "a", format, PromptFormat())
    monkeypatch.setattr(module, "BUFFERED_ROWS", 2)
    export(iter(EXAMPLES), CLUSTERS, tmp_path / "b", format, PromptFormat())
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_parquet_round_trip(tmp_path: Path) -> None:
    summary = export(EXAMPLES, CLUSTERS, tmp_path / "out", "parquet", PromptFormat())
    assert summary.splits == {"test": 1, "train": 9}
    frame = pl.read_parquet(tmp_path / "out/data/train-*.parquet")
    assert dict(frame.schema) == PARQUET_SCHEMA
    for row, example in zip(frame.to_dicts(), [e for e in EXAMPLES if split_of(e) == "train"], strict=True):
        assert (row["task"], row["row_id"], row["template"], row["kind"]) == (
            example.task,
            example.row_id,
            example.template,
            example.kind,
        )
        assert (row["targets"], tuple(row["options"]), tuple(row["gold"])) == (
            example.targets,
            example.options,
            example.gold,
        )
        assert tuple(row["references"]) == example.references
        assert row["cluster"] == CLUSTERS[example.task]
        assert row["inputs"].endswith(example.inputs)
        assert row["shots"] == len(example.exemplars)


def test_parquet_is_cut_into_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SHARD_ROWS", 4)
    summary = export(EXAMPLES, CLUSTERS, tmp_path / "out", "parquet", PromptFormat())
    assert [name for name in summary.files if "train" in name] == [f"data/train-0000{n}.parquet" for n in range(3)]
    assert pl.read_parquet(tmp_path / "out/data/train-*.parquet").height == 9


def test_messages_are_a_question_and_its_answer(tmp_path: Path) -> None:
    export(EXAMPLES, CLUSTERS, tmp_path / "out", "messages", PromptFormat())
    rows = lines(tmp_path / "out/train.jsonl")
    assert rows[1]["messages"] == [
        {"role": "user", "content": "Tom has lamp 1.\nTrue?"},
        {"role": "assistant", "content": "no"},
    ]
    assert rows[1]["flan"] == {
        "task": "rte", "cluster": "nli", "template": "follows", "kind": "direct", "row": "train/1",
        "options": ["yes", "no"], "gold": [1],
    }  # fmt: skip
    assert rows[6]["messages"][1]["content"] == "Tom has\u2028lamp «7»."
    assert rows[8]["messages"][0]["content"] == "Is it so?\nyes\n\nTom has lamp 9.\nTrue?"


@pytest.mark.parametrize("format", ["prompt-completion", "segments"])
@pytest.mark.parametrize("separator", ["\n", " ", "\nAnswer: ", ""])
def test_joined_parts_are_the_text_that_is_tuned_on(tmp_path: Path, format: Format, separator: str) -> None:
    export(EXAMPLES, CLUSTERS, tmp_path / "out", format, PromptFormat(separator=separator))
    train = [example for example in EXAMPLES if split_of(example) == "train"]
    for row, example in zip(lines(tmp_path / "out/train.jsonl"), train, strict=True):
        if format == "segments":
            assert [segment["label"] for segment in row["segments"]] == [False, True]
            parts = [segment["text"] for segment in row["segments"]]
        else:
            parts = [row["prompt"], row["completion"]]
        assert "".join(parts) == PromptFormat(separator=separator).of(example) + example.targets
        assert parts[1].lstrip(" ") == example.targets
        assert not parts[0].endswith(" ")


@given(inputs=st.text(), targets=st.text(min_size=1), separator=st.sampled_from(["\n", " ", "  \n", ": "]))
def test_no_text_is_lost_at_the_border(inputs: str, targets: str, separator: str) -> None:
    example = choice(0, inputs=inputs, targets=targets)
    prompt, completion = prompt_and_completion(example, PromptFormat(separator=separator))
    assert prompt + completion == inputs + separator + targets


def test_lm_eval_files_leave_out_inverted_templates_and_say_so(tmp_path: Path) -> None:
    summary = export(EXAMPLES, CLUSTERS, tmp_path / "out", "lm-eval", PromptFormat(separator=" "))
    assert summary.left_out == {"inverted templates are never scored": 1}
    assert "1 examples (inverted templates are never scored)" in (tmp_path / "out/README.md").read_text(
        encoding="utf-8"
    )
    ranked = yaml.safe_load((tmp_path / "out/rte__follows.yaml").read_text(encoding="utf-8"))
    assert ranked["output_type"] == "multiple_choice"
    assert ranked["target_delimiter"] == " "
    assert ranked["doc_to_target"] == "label"
    assert ranked["tag"] == ["openflan", "openflan_nli", "openflan_rte"]
    several = yaml.safe_load((tmp_path / "out/multirc__which.yaml").read_text(encoding="utf-8"))
    assert several["doc_to_target"] == "gold"
    written = yaml.safe_load((tmp_path / "out/zed__into.yaml").read_text(encoding="utf-8"))
    assert written["output_type"] == "generate_until"
    assert lines(tmp_path / "out/zed__into.jsonl")[0]["references"] == ["zo lam", "lam"]


@pytest.mark.slow
@pytest.mark.reference
def test_lm_eval_asks_exactly_our_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = pytest.importorskip("lm_eval.tasks", reason="lm-eval is not installed (openflan[dev])")
    out = tmp_path / "out"
    export(EXAMPLES, CLUSTERS, out, "lm-eval", PromptFormat())
    monkeypatch.chdir(out)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    manager = tasks.TaskManager(include_path=str(out), include_defaults=False)
    loaded = manager.load(["openflan_rte__follows", "openflan_multirc__which", "openflan_zed__into"])["tasks"]
    for name, task in loaded.items():
        task.build_all_requests(rank=0, world_size=1)
        mine = [e for e in EXAMPLES if f"openflan_{e.task}__{e.template}" == name and e.kind == "direct"]
        asked = {(instance.doc["row_id"], instance.idx): instance.arguments for instance in task.instances}
        for example in mine:
            prompt = PromptFormat().of(example)
            if example.options:
                for index, option in enumerate(example.options):
                    assert "".join(asked[example.row_id, index]) == prompt + option
                gold = task.doc_to_target(next(doc for doc in task.eval_docs if doc["row_id"] == example.row_id))
                assert (gold if isinstance(gold, list) else [gold]) == list(example.gold)
            else:
                assert asked[example.row_id, 0][0] == prompt


@pytest.mark.parametrize("format", FORMATS)
def test_the_card_has_counts_and_readable_front_matter(tmp_path: Path, format: Format) -> None:
    summary = export(EXAMPLES, CLUSTERS, tmp_path / "out", format, PromptFormat())
    text = (tmp_path / "out/README.md").read_text(encoding="utf-8")
    front = yaml.safe_load(text.split("---")[1])
    assert front["license"] == "other"
    for task, number in summary.tasks.items():
        assert f"| {task} | {CLUSTERS[task]} | {number} |" in text
    for entry in front.get("configs", [{}])[0].get("data_files", []):
        assert list((tmp_path / "out").glob(entry["path"]))


def test_exemplars_are_joined_as_the_prompt_format_says(tmp_path: Path) -> None:
    form = PromptFormat(exemplar_separator="\n###\n")
    export(EXAMPLES, CLUSTERS, tmp_path / "out", "prompt-completion", form)
    (shown,) = (row["prompt"] for row in lines(tmp_path / "out" / "train.jsonl") if row["flan"]["row"] == "train/9")
    assert shown == form.of(EXAMPLES[-1])
    assert "\n###\n" in shown


def test_a_folder_that_another_process_writes_is_refused(tmp_path: Path) -> None:
    def meanwhile() -> Iterator[Example]:
        with pytest.raises(ConfigError, match="another process is writing there"):
            export(EXAMPLES, CLUSTERS, tmp_path / "out", "messages", PromptFormat())
        yield from EXAMPLES

    assert export(meanwhile(), CLUSTERS, tmp_path / "out", "messages", PromptFormat()).examples == len(EXAMPLES)
    assert len(lines(tmp_path / "out" / "train.jsonl")) + len(lines(tmp_path / "out" / "test.jsonl")) == len(EXAMPLES)


def test_a_failed_export_leaves_nothing(tmp_path: Path) -> None:
    def broken() -> Iterator[Example]:
        yield EXAMPLES[0]
        raise KeyError("source")

    with pytest.raises(KeyError):
        export(broken(), CLUSTERS, tmp_path / "out", "messages", PromptFormat())
    assert os.listdir(tmp_path) == []  # noqa: PTH208


def _file(folder: Path) -> None:
    folder.mkdir()
    (folder / "mine.txt").write_text("keep", encoding="utf-8")


@pytest.mark.parametrize(
    ("prepare", "clusters", "format", "says"),
    [
        (_file, CLUSTERS, "messages", "not empty"),
        (lambda folder: None, {"rt": "nli"}, "messages", "did you mean rt"),
        (lambda folder: None, CLUSTERS, "mesages", "did you mean messages"),
    ],
)
def test_what_cannot_be_done_is_refused_with_the_cure(
    tmp_path: Path, prepare: Callable[[Path], None], clusters: dict[str, str], format: Any, says: str
) -> None:
    prepare(tmp_path / "out")
    before = contents(tmp_path)
    with pytest.raises(ConfigError, match=says):
        export(EXAMPLES, clusters, tmp_path / "out", format, PromptFormat())
    assert contents(tmp_path) == before


def test_an_empty_folder_may_be_filled(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    assert export(EXAMPLES, CLUSTERS, tmp_path / "out", "segments", PromptFormat()).examples == len(EXAMPLES)
