"""What a user sees: help, tables, JSON, errors."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from openflan.catalog.load import load_catalog
from openflan.cli.app import app, main
from openflan.cli.console import out
from tests.catalog.toys import task_toml, write_catalog

VERBS = ("demo", "run", "tune", "evaluate", "score", "doctor", "render", "mix", "report", "compare", "web", "catalog")


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(app, list(arguments), catch_exceptions=False)


def failing(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str) -> tuple[int, str]:
    monkeypatch.setattr("sys.argv", ["openflan", *arguments])
    with pytest.raises(SystemExit) as left:
        main()
    return int(left.value.code or 0), " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_an_example(verb: str) -> None:
    text = invoke(verb, "--help").stdout
    assert "Example: openflan" in text or verb == "catalog"


def test_help_shows_the_format_of_answers() -> None:
    text = " ".join(invoke("score", "--help").stdout.split())
    answer = '{"id": …, "logprobs": [sum per option], "tokens": [count per option], "bytes": [count per option]}'
    assert answer in text and '{"id": …, "error": "…"}' in text


def test_the_catalog_lists_as_json() -> None:
    tasks = json.loads(invoke("catalog", "list", "--json").stdout)
    assert {"rte", "squad_v1"} <= {task["name"] for task in tasks}
    assert all(task["templates"]["direct"] >= 7 for task in tasks)
    assert len(json.loads(invoke("catalog", "clusters", "--json").stdout)) == 12
    shown = json.loads(invoke("catalog", "show", "rte", "--json").stdout)
    assert shown["source"]["hub"] == "aps/super_glue"
    assert "rte" in invoke("catalog", "list", "--cluster", "nli").stdout


@pytest.mark.parametrize("width", [40, 80, 10_000])
def test_names_of_tasks_and_clusters_are_never_cut(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(out, "width", width)
    catalog = load_catalog("flan")
    listed = {line.split()[0] for line in invoke("catalog", "list").stdout.splitlines() if line.strip()}
    assert listed >= catalog.tasks.keys()
    assert "…" not in invoke("catalog", "clusters").stdout + invoke("catalog", "lineage", "--held-out", "nli").stdout


def test_what_is_no_terminal_gets_whole_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    (line,) = (line for line in invoke("catalog", "list").stdout.splitlines() if line.startswith(" arc_challenge"))
    assert line.split()[-1] == "allenai/ai2_arc"


def test_brackets_in_a_users_task_are_no_markup(tmp_path: Path) -> None:
    folder = write_catalog(tmp_path / "tasks", ("toy", "nli", ("old [v1]",)))
    task = folder / "toy.toml"
    task.write_text(task.read_text().replace("A toy", "Tickets [v2] [/x]"))
    assert "Tickets [v2] [/x]" in invoke("catalog", "show", "toy", "--catalog", str(folder)).stdout
    assert "old [v1]" in invoke("catalog", "lineage", "--catalog", str(folder)).stdout


def test_check_reports_a_users_folder_and_fails(tmp_path: Path) -> None:
    folder = write_catalog(tmp_path / "tasks", ("toy", "nli"))
    data = tmp_path / "data" / "toy"
    data.mkdir(parents=True)
    for split in ("train", "validation"):
        (data / f"{split}.jsonl").write_text('{"premise": "It rains.", "hypothesis": "It is wet.", "label": 0}\n' * 5)
    common = ("catalog", "check", "--catalog", str(folder), "--data-root", str(tmp_path / "data"), "--json")
    report = json.loads(invoke(*common).stdout)
    assert (report["tasks"], report["problems"], report["not_read"], report["rows"]) == (1, [], [], {"toy": 10})
    (folder / "toy.toml").write_text(task_toml("toy").replace("{{ hypothesis }}\n{{", "{{ hypotesis }}\n{{"))
    done = invoke(*common)
    assert done.exit_code == 1
    assert json.loads(done.stdout)["problems"][0]["hint"].startswith("did you mean hypothesis")


def test_render_shows_what_a_model_reads() -> None:
    done = invoke("render", "world_entailment", "--limit", "1", "--json")
    examples = json.loads(done.stdout)
    assert len(examples) >= 7
    assert all(example["inputs"] and example["targets"] for example in examples)


def test_render_shows_exemplars_in_front() -> None:
    common = ("render", "world_entailment", "--limit", "1", "--json")
    plain, shown = (json.loads(invoke(*common, *more).stdout) for more in ((), ("--shots", "2")))
    assert [example["exemplars"] for example in plain] == [[]] * len(plain)
    assert all(len(example["exemplars"]) == 2 for example in shown)
    assert all(example["row_id"] not in example["exemplar_rows"] for example in shown)
    assert [example["inputs"] for example in shown] == [example["inputs"] for example in plain]
    text = invoke("render", "world_entailment", "--shots", "2", "--template", plain[0]["template"]).stdout
    assert text.count("exemplar: row train/") == 2


def test_render_tells_what_was_left_out_in_json_too(tmp_path: Path) -> None:
    rows = [{"premise": "It rains.", "hypothesis": "It is wet.", "label": 0}, {"premise": "It rains.", "label": 0}]
    (tmp_path / "rte").mkdir()
    for split, kept in (("train", rows[:1]), ("validation", rows)):
        (tmp_path / "rte" / f"{split}.jsonl").write_text("\n".join(map(json.dumps, kept)), encoding="utf-8")
    done = invoke("render", "rte", "--data-root", str(tmp_path), "--split", "test", "--limit", "2", "--json")
    assert {example["row_id"] for example in json.loads(done.stdout)} == {"validation/0"}
    assert "rte: 1 rows left out" in done.stderr


@pytest.mark.parametrize(
    ("code", "arguments", "told"),
    [
        (1, ("catalog", "show", "rtee"), "did you mean rte"),
        (
            1,
            ("run", "--model", "world:small-early", "--hold-out", "nlii", "--catalog", "world", "--dry-run"),
            "did you mean nli?",
        ),
        (1, ("study", "holdout", "--hold-out", "nlii", "--dry-run"), "did you mean nli?"),
        (1, ("study", "clusters", "--together", "nlii", "--dry-run"), "did you mean nli?"),
        (1, ("render", "rte", "--template", "folows", "--data-root", "nowhere"), "no such"),
        (1, ("report", "nowhere"), "nowhere"),
        (1, ("compare", "nowhere", "elsewhere"), "elsewhere: no such run folder"),
        (2, ("run", "--hold-out", "nli"), "--model"),
        (2, ("run", "no-such-recipe"), "no recipe file or shipped recipe 'no-such-recipe'"),
        (2, ("catalog", "lineage", "--rule", "papper"), "did you mean paper?"),
        (
            2,
            ("evaluate", "--model", "world:small-early", "--hold-out", "nli", "--shots", "0,few"),
            "few: expected whole numbers",
        ),
        (2, ("run", "demo", "--shots", "3,3", "--dry-run"), "named twice"),
        (2, ("catalog", "list", "--no-such-flag"), "--no-such-flag"),
    ],
)
def test_errors_say_what_to_do_and_misuse_exits_with_two(
    code: int,
    arguments: tuple[str, ...],
    told: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    left, text = failing(capsys, monkeypatch, *arguments)
    assert left == code
    assert told in text


def test_after_ctrl_c_it_says_how_to_go_on(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def pressed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("openflan.catalog.load.load_catalog", pressed)
    code, text = failing(capsys, monkeypatch, "catalog", "list")
    assert code == 130 and text.startswith("interrupted; ")


def test_answers_do_not_take_the_place_of_the_requests(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("questions.jsonl").write_text('{"id": 1, "inputs": "Is it?", "options": ["yes", "no"]}\n')
    same = ("--requests", "questions.jsonl", "--out", str(tmp_path / "questions.jsonl"))
    code, text = failing(capsys, monkeypatch, "score", "--model", "not-loaded-yet", *same)
    assert code == 2 and "holds the requests" in text  # lines are cut within long paths
    assert "Is it?" in Path("questions.jsonl").read_text()


@pytest.mark.parametrize(
    "arguments",
    [
        ("mix", "--catalog", "world", "--out", "a/file/out"),
        ("mix", "--catalog", "world", "--verify", "a/file/mixture.lock"),
        ("score", "--model", "not-loaded-yet", "--requests", "questions.jsonl", "--out", "a/file/answers.jsonl"),
        ("study", "contamination", "--catalog", "world", "--tasks", "world_about", "--out", "a/file"),
        ("catalog", "docs", "--catalog", "world", "--out", "a/file"),
    ],
)
def test_what_the_system_refuses_is_one_line_with_the_path(
    arguments: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "file").write_text("")
    (tmp_path / "questions.jsonl").write_text('{"id": 1, "inputs": "Is it?", "options": ["yes", "no"]}\n')
    code, text = failing(capsys, monkeypatch, *arguments)
    assert code == 1 and re.fullmatch(r"\w+Error: a/file\S*: (Not a directory|File exists)", text), text


def test_a_mixture_goes_into_a_new_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, text = failing(capsys, monkeypatch, "mix", "--catalog", "world", "--out", ".")
    assert code == 2 and "is the folder you are in" in text


@pytest.mark.parametrize("content", ["subject,label\n", "[1, 2]", '{"arms": {}}'])
def test_a_file_that_is_no_lock_is_not_verified(
    content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "no.lock").write_text(content)
    code, text = failing(capsys, monkeypatch, "mix", "--catalog", "world", "--verify", str(tmp_path / "no.lock"))
    assert code == 1 and re.search(r"no\.lock: is (not JSON|no lock file)", text)


def test_every_problem_of_a_recipe_is_told_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "bad.toml"
    file.write_text(
        'model = "world:small-early"\nhold_out = ["nli"]\nseeds = 3\n[tuning]\nlearning_rate = 1\nsteps = 0\n'
    )
    code, text = failing(capsys, monkeypatch, "run", str(file))
    assert code == 2
    assert "seeds: unknown key (did you mean seed" in text
    assert "tuning.learning_rate: unknown key" in text
    assert "tuning.steps" in text


def test_a_dry_run_resolves_everything_and_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = invoke("run", "demo", "--hold-out", "sentiment", "--dry-run", "--json")
    plan = json.loads(done.stdout)
    assert plan["split"]["held_out"] == ["sentiment"]
    assert plan["recipe"]["hold_out"] == ["sentiment"]
    assert not list(tmp_path.iterdir())


def test_options_a_study_has_no_use_for_are_refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, said = failing(capsys, monkeypatch, "study", "holdout", "--together", "nli", "--dry-run")
    assert code == 2 and "use --hold-out" in said
    code, said = failing(capsys, monkeypatch, "study", "scale", "--model", "world:tiny", "--dry-run")
    assert code == 2 and "no --model" in said
