"""Arms that an endpoint answers for: the same numbers as of the model loaded here, and never a name that misleads."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from openflan.artifacts import read_json
from openflan.catalog.load import load_catalog
from openflan.encoding.prompt_format import PromptFormat
from openflan.errors import ConfigError, ModelError, RunError, SourceError
from openflan.evaluation.evaluate import evaluate
from openflan.evaluation.samples import MATCHED
from openflan.ledger import Ledger
from openflan.models.load import WORLD_FOLDER
from openflan.models.remote import RemoteSettings
from openflan.rendering.example import Example
from openflan.reports import arms
from openflan.reports.report import write_report
from openflan.studies.evaluate import evaluate_only
from openflan.studies.recipe import EvaluationSettings, Recipe, load_recipe, recipe_from, resolve
from openflan.studies.remote import GENERATED, answer_remotely
from openflan.studies.run import run
from tests.conftest import Serving

TASKS = {name: load_catalog("world").task(name) for name in ("world_liked", "world_title")}


def ranked(row: int, **changes: Any) -> tuple[Any, Example]:
    facts = {"inputs": f"Did they like it {row}?", "targets": "yes", "options": ("yes", "no"), "gold": (row % 2,)}
    return "test", Example(**({"task": "world_liked", "row_id": f"test/{row}", "template": "t"} | facts | changes))


def titled(row: int) -> tuple[Any, Example]:
    return "test", Example(
        task="world_title", row_id=f"test/{row}", template="t", inputs=f"Title {row}", targets="it", references=("it",)
    )


def answered(
    serving: Serving,
    examples: list[Any],
    folder: Path,
    ledger: Ledger | None = None,
    *,
    separator: str = "\n",
    **changes: Any,
) -> Any:
    settings = RemoteSettings.model_validate({"url": serving.url, "model": "toy", "retries": 0} | changes)
    return answer_remotely(
        "remote:toy",
        settings,
        examples,
        TASKS,
        prompt_format=PromptFormat(separator=separator),
        settings=EvaluationSettings(max_new_tokens=3),
        folder=folder / "scores",
        ledger=Ledger() if ledger is None else ledger,
        report=lambda done, total: None,
    )


def test_options_are_ranked_and_the_rest_is_generated(toy: Serving, tmp_path: Path) -> None:
    ledger = Ledger()
    examples = [ranked(0), ranked(1), titled(0)]
    samples = answered(toy, examples, tmp_path, ledger, input_price=1, output_price=2)
    assert samples["arm"].unique().to_list() == ["remote:toy"]
    liked = samples.filter(pl.col("task") == "world_liked")
    assert liked["logprobs"].list.len().to_list() == [2, 2] and liked["predicted"].null_count() == 0
    assert samples.filter(pl.col("task") == "world_title")["reason"].str.starts_with("ended:").all()
    told = read_json(tmp_path / "scores" / "endpoint.json")
    assert told["options"] == "rank classification, log-probabilities by echo"
    assert told["usage"]["requests"] == 5 and told["cost"] > 0
    assert any("5 requests" in note and "cost" in note for note in ledger.notes)
    assert ledger.kept["encode", "world_liked"] == ledger.kept["answer", "world_liked"] == 2


def test_where_nothing_is_ranked_every_name_says_so(toy: Serving, tmp_path: Path, caplog: Any) -> None:
    toy.set(prompt_logprobs="generated")  # as llama.cpp's server does
    ledger = Ledger()
    examples = [ranked(i, inputs=f"so word{i}") for i in range(20)]
    samples = answered(toy, examples, tmp_path, ledger, separator="")  # the toy heeds the last word only
    assert samples["arm"].unique().to_list() == ["remote:toy" + GENERATED]
    assert samples["logprobs"].list.len().sum() == 0
    assert set(samples["reason"]) <= set(MATCHED.values())
    found = evaluate(samples, tasks=TASKS, held_out=(), seed=0, resamples=100).to_json()
    task = found["arms"]["remote:toy+generated"]["tasks"]["world_liked"]
    assert sum(task["matched"].values()) == task["n"] == 20
    assert task["matched"]["unmatched"] > 0, "the toy writes other words than yes and no too"
    # An answer that names no option is wrong, not left out.
    assert task["unscored"] == 0
    assert task["mean"] == pytest.approx(samples["value"].sum() / 20)
    assert (samples.filter(pl.col("predicted").is_null())["value"] == 0).all()
    assert "not rank classification" in read_json(tmp_path / "scores" / "endpoint.json")["options"]
    assert any("options were not ranked" in note for note in ledger.notes)
    assert "NOT ranked" in caplog.text


def test_reports_call_it_by_that_name() -> None:
    assert arms.GENERATED == GENERATED
    assert arms.style("remote:gpt" + GENERATED).title == "gpt, generated"
    assert "not ranked" in arms.style("untuned" + GENERATED).meaning
    assert arms.style("untuned").title in arms.style("untuned" + GENERATED).title


def test_long_prompts_lose_exemplars_then_passage_then_are_counted(toy: Serving, tmp_path: Path) -> None:
    ledger = Ledger()
    shot = ("word " * 150, "yes")
    rows = ("train/0", "train/1", "train/2")
    long = "begin " + "word " * 600 + "end"
    examples = [
        ranked(0, exemplars=(shot, shot, shot), exemplar_rows=rows),
        ranked(1, inputs=long, trimmable=(6, len(long) - 3), exemplars=(shot,), exemplar_rows=rows[:1]),
        ranked(2, inputs=long),
        *(ranked(3 + i) for i in range(3)),
    ]
    samples = answered(toy, examples, tmp_path, ledger)
    assert set(samples["row_id"]) == {f"test/{i}" for i in (0, 1, 3, 4, 5)}
    kept = {
        (reason, tuple(rows)) for (_, _, reason), rows in ledger.examples.items() if ledger.dropped or ledger.shortened
    }
    assert kept == {
        ("exemplars left out", ("test/0",)),
        ("all exemplars left out", ("test/1",)),
        ("passage cut in the middle", ("test/1",)),
        ("inputs longer than the endpoint's context", ("test/2",)),
    }
    assert samples.filter(pl.col("row_id") == "test/0")["exemplars"].to_list() == [["train/0", "train/1"]]
    asked = [one["prompt"] for one in toy.asked() if one.get("prompt", "").startswith("begin")]
    assert any(" … " in prompt and prompt.endswith("end\nyes") for prompt in asked)


def test_too_many_unusable_answers_stop_the_arm_and_are_listed(toy: Serving, tmp_path: Path) -> None:
    toy.set(statuses=[400] * 2, message="against our policy")
    with pytest.raises(SourceError, match=r"world_liked: 2 of 10 rows dropped in answer.*against our policy"):
        answered(toy, [ranked(i) for i in range(10)], tmp_path, scoring="generation", concurrency=1)


# Recipes

REMOTE = {"toy": {"url": "http://127.0.0.1:1/v1", "model": "toy"}}


def test_an_arm_needs_its_table_and_a_tuned_arm_a_model() -> None:
    base = {"model": "world:small-early", "hold_out": ["nli"], "arms": ["untuned", "remote:toy"]}
    recipe = recipe_from(base | {"remote": REMOTE}, "recipe")
    assert recipe.endpoint_of("remote:toy") == RemoteSettings(url="http://127.0.0.1:1/v1", model="toy")
    assert recipe.endpoint_of("untuned") is None
    with pytest.raises(ConfigError, match=r"remote:toy needs a table \[remote.toy\]"):
        recipe_from(base, "recipe")
    with pytest.raises(ConfigError, match="expected one of model, model_completion, untuned, "):
        recipe_from(base | {"arms": ["untund"]}, "recipe")
    asked = {"model": "remote:m@http://127.0.0.1:1/v1?concurrency=2", "hold_out": ["nli"]}
    with pytest.raises(ConfigError, match="arms: tuned tunes its model, and an endpoint can only be asked"):
        recipe_from(asked, "recipe")
    with pytest.raises(ConfigError, match="did you mean concurrency"):
        recipe_from(asked | {"model": "remote:m@http://a/v1?concurency=2", "arms": ["untuned"]}, "recipe")
    assert recipe_from(asked | {"arms": ["untuned"]}, "recipe").endpoint_of("untuned") is not None


def test_a_recipe_with_endpoints_comes_back_from_its_toml(tmp_path: Path) -> None:
    table = {"remote": {"toy": REMOTE["toy"] | {"key_env": "TOY_KEY", "concurrency": 3, "context": 2048}}}
    recipe = resolve(None, model="world:small-early", hold_out=["nli"], arms=["untuned", "remote:toy"], **table)
    file = tmp_path / "recipe.toml"
    file.write_text(recipe.to_toml())
    assert "[remote.toy]" in file.read_text()
    assert load_recipe(file) == recipe
    assert "remote" not in Recipe(model="m", hold_out=("nli",)).to_toml()


def test_the_fingerprint_follows_the_endpoint_and_not_its_speed() -> None:
    def recipe(**changes: Any) -> Recipe:
        table = {"toy": REMOTE["toy"] | changes}
        return resolve(None, model="m", hold_out=["nli"], arms=["untuned", "remote:toy"], remote=table)

    def model(name: str) -> Recipe:
        return resolve(None, model=name, hold_out=["nli"], arms=["untuned"])

    assert recipe().fingerprint == recipe(concurrency=64, key_env="KEY", timeout_seconds=5, input_price=3).fingerprint
    assert len({recipe().fingerprint, *(recipe(**c).fingerprint for c in ({"model": "n"}, {"context": 9}))}) == 3
    url = "remote:m@http://127.0.0.1:1/v1"
    assert model(url).fingerprint == model(url + "?concurrency=3").fingerprint != model(url + "?context=3").fingerprint


# End to end


def settings(**top: Any) -> Recipe:
    sections = {"evaluation": {"items": 4, "dev_items": 2, "resamples": 100, "max_new_tokens": 12}}
    return resolve(None, sections, **({"catalogs": ["world"], "hold_out": ["(tasks)"], "arms": ["untuned"]} | top))


@pytest.mark.slow
def test_an_evaluation_of_an_endpoint_goes_on_after_its_death_and_ends_the_same(toy: Serving, tmp_path: Path) -> None:
    whole, halved = tmp_path / "whole", tmp_path / "halved"
    evaluate_only(settings(model=f"remote:toy@{toy.url}"), list(TASKS), whole)
    result = read_json(whole / "result.json")
    assert set(result["arms"]["untuned"]["tasks"]) == set(TASKS)
    assert "matched" not in result["arms"]["untuned"]["tasks"]["world_liked"]
    assert write_report(whole).exists()
    text = json.dumps(read_json(whole / "ledger.json"))
    assert re.search(r"toy at http://127.0.0.1:\d+/v1: [\d,]+ requests, [\d,]+ tokens read", text)

    # It breaks down after 60 answers: ten times, so that no thread gets past it.
    toy.set(statuses=[-1] * 60 + [503] * 10)
    name = f"remote:toy@{toy.url}?retries=0&concurrency=2"
    with pytest.raises(ModelError, match="the same command goes on from there"):
        evaluate_only(settings(model=name), list(TASKS), halved)
    first = toy.asked()
    toy.set()
    evaluate_only(settings(model=name), list(TASKS), halved)
    bought_twice = {one["prompt"] for one in first[3:59]} & {one["prompt"] for one in toy.asked()[3:]}
    assert len(first) < 75 and len(bought_twice) <= 4, "only what was under way is asked again"
    for file in ("samples.parquet", "result.json"):
        assert (halved / file).read_bytes() == (whole / file).read_bytes()


@pytest.fixture(scope="module")
def serving() -> Iterator[Serving]:
    serving = Serving(str(WORLD_FOLDER / "small-early"))
    yield serving
    serving.stop()


@pytest.mark.slow
def test_a_run_compares_an_endpoint_with_the_model_it_serves_and_finds_them_equal(
    serving: Serving, tmp_path: Path
) -> None:
    serving.set()
    recipe = settings(
        model="world:small-early",
        hold_out=["summarization"],
        arms=["untuned", "remote:served"],
        remote={"served": {"url": serving.url, "model": "small-early", "scoring": "logprobs"}},
        threads=1,
    ).changed(evaluation={"items": 2, "dev_items": 1, "resamples": 100, "max_new_tokens": 8})
    run(recipe, tmp_path / "run")
    samples = pl.read_parquet(tmp_path / "run" / "samples.parquet")
    key = ["task", "split", "row_id", "template"]
    here = samples.filter(pl.col("arm") == "untuned").sort(key)
    there = samples.filter(pl.col("arm") == "remote:served").sort(key)
    assert here.select(key).equals(there.select(key)) and here.height > 80
    assert here["tokens"].to_list() == there["tokens"].to_list()
    largest = (here["logprobs"].explode() - there["logprobs"].explode()).abs().max()
    assert largest < 1e-4
    assert here["prediction"].to_list() == there["prediction"].to_list()
    result = read_json(tmp_path / "run" / "result.json")
    assert result["arms"]["untuned"]["clusters"] == result["arms"]["remote:served"]["clusters"]
    with pytest.raises(RunError, match=r"remote\.served\.model"):
        changed = {"served": {"url": serving.url, "model": "other", "scoring": "logprobs"}}
        run(recipe.changed(remote=changed), tmp_path / "run")


def test_exemplars_stand_before_what_an_endpoint_is_asked(toy: Serving, tmp_path: Path) -> None:
    toy.set(prompt_logprobs="generated")
    sections = {"evaluation": {"items": 2, "dev_items": 1, "resamples": 100, "shots": [0, 2]}}
    top = {"catalogs": ["world"], "hold_out": ["(tasks)"], "arms": ["untuned"], "model": f"remote:toy@{toy.url}"}
    evaluate_only(resolve(None, sections, **top), ["world_liked"], tmp_path)
    result = read_json(tmp_path / "result.json")
    assert set(result["arms"]) == {"untuned" + GENERATED, f"untuned{GENERATED}@2"}
    samples = pl.read_parquet(tmp_path / "samples.parquet").filter(pl.col("arm").str.ends_with("@2"))
    assert samples["shots"].unique().to_list() == [2] and samples["exemplars"].list.len().unique().to_list() == [2]
    assert "generated, 2 exemplars" in arms.style(f"untuned{GENERATED}@2").title
    assert write_report(tmp_path).exists()


def test_a_missing_key_is_said_before_anything_is_tuned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    table = {"remote": {"toy": {"url": "http://127.0.0.1:1/v1", "model": "m", "key_env": "NO_SUCH_KEY"}}}
    recipe = resolve(
        None, model="world:tiny", hold_out=["nli"], catalogs=["world"], arms=["tuned", "remote:toy"], **table
    )
    with pytest.raises(ConfigError, match="NO_SUCH_KEY"):
        run(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()
