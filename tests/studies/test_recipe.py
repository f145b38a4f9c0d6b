import re
import tomllib
from pathlib import Path

import pytest

from openflan.encoding.prompt_format import Lengths, PromptFormat
from openflan.errors import ConfigError
from openflan.mixture.mixture import MixtureSettings
from openflan.models.adapters import LoraSettings
from openflan.studies.recipe import RECIPES, EvaluationSettings, Recipe, differing_keys, load_recipe, resolve
from openflan.studies.seen import SoftPromptSettings, SupervisedSettings
from openflan.tuning.settings import TuningSettings


@pytest.mark.parametrize("file", sorted(RECIPES.glob("*.toml")), ids=lambda path: path.stem)
def test_every_shipped_recipe_loads_and_comes_back_from_its_own_toml(file: Path, tmp_path: Path) -> None:
    recipe = load_recipe(file)
    copy = tmp_path / "copy.toml"
    copy.write_text(recipe.to_toml())
    assert load_recipe(copy) == recipe


def test_the_papers_values_are_the_defaults() -> None:
    recipe = Recipe(model="m", hold_out=("nli",))
    assert (recipe.mixture.max_examples, recipe.mixture.rate_cap) == (30_000, 3_000)
    assert (recipe.tuning.steps, recipe.tuning.tokens_per_step, recipe.tuning.lr) == (30_000, 8_192, 3e-5)
    assert recipe.tuning.optimizer == "adafactor"
    assert (recipe.lengths.inputs, recipe.lengths.targets) == (1_024, 256)


def test_the_fingerprint_follows_what_decides_numbers() -> None:
    recipe = Recipe(model="m", hold_out=("nli",))
    assert recipe.fingerprint == recipe.changed(data_root="elsewhere").fingerprint
    changes = ({"seed": 1}, {"model": "n"}, {"hold_out": ["sentiment"]}, {"tuning": {"steps": 5}})
    assert len({recipe.fingerprint, *(recipe.changed(**change).fingerprint for change in changes)}) == 5


def test_differing_keys_are_named() -> None:
    one = Recipe(model="m", hold_out=("nli",))
    other = one.changed(seed=4, tuning={"steps": 7})
    told = {problem.where for problem in differing_keys(one.content(), other.content())}
    assert told == {"seed", "tuning.steps"}


def test_flags_go_on_top_of_a_recipe() -> None:
    recipe = resolve("demo", {"tuning": {"steps": 3, "lr": None}}, model="world:small-early", hold_out=[], seed=None)
    base = resolve("demo")
    assert (recipe.tuning.steps, recipe.tuning.lr, recipe.model) == (3, base.tuning.lr, "world:small-early")
    assert recipe.hold_out == base.hold_out
    with pytest.raises(ConfigError, match="--model and --hold-out"):
        resolve(None)


@pytest.mark.parametrize(("method", "lr"), [("lora", 2e-4), ("soft_prompt", 0.3), ("full", 3e-5)])
def test_a_method_given_on_top_brings_its_own_rate_unless_the_recipe_names_one(
    tmp_path: Path, method: str, lr: float
) -> None:
    silent, speaking = tmp_path / "silent.toml", tmp_path / "speaking.toml"
    silent.write_text('model = "m"\nhold_out = ["nli"]\ntuning = { steps = 7 }\n')
    speaking.write_text('model = "m"\nhold_out = ["nli"]\ntuning = { lr = 0.125 }\n')
    assert resolve(str(silent), {"tuning": {"method": method}}).tuning.lr == lr
    assert resolve(str(speaking), {"tuning": {"method": method}}).tuning.lr == 0.125


def test_what_is_unlimited_comes_back_from_toml(tmp_path: Path) -> None:
    unlimited = Recipe.model_validate({
        "model": "m", "hold_out": ["nli"], "evaluation": {"items": "all"}, "tuning": {"clip_norm": "none"},
    })  # fmt: skip
    assert (unlimited.evaluation.items, unlimited.tuning.clip_norm) == (None, None)
    file = tmp_path / "recipe.toml"
    file.write_text(unlimited.to_toml())
    assert load_recipe(file) == unlimited


def test_an_endpoint_is_asked_and_not_tuned_where_no_arms_are_named() -> None:
    assert resolve(None, model="remote:m@http://a/v1", hold_out=["nli"]).arms == ("untuned", "untuned_completion")
    assert "tuned" in resolve(None, model="m", hold_out=["nli"]).arms


def test_seed_and_threads_stand_above_the_tables(tmp_path: Path) -> None:
    file = tmp_path / "recipe.toml"
    head = 'model = "m"\nhold_out = ["nli"]\n'
    file.write_text(head + "tuning = { seed = 7, threads = 2 }\n")
    with pytest.raises(ConfigError, match="above the tables: `seed = 7` and `threads = 2`"):
        load_recipe(file)
    file.write_text(head + "seed = 7\nthreads = 2\n")
    recipe = load_recipe(file)
    assert (recipe.tuning_of("tuned").seed, recipe.threads) == (7, 2)
    # As run folders had it.
    assert recipe.changed(tuning={"seed": 0, "threads": None}).fingerprint == recipe.fingerprint
    assert not {"seed", "threads"} & tomllib.loads(recipe.to_toml())["tuning"].keys()


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("tuning.clip_norm", 'or "none", which clips nothing, got inf'),
        ("mixture.temperature", "1e9 mixes all tasks alike, got inf"),
        ("tuning.lr", "finite number, got inf"),
        ("supervised.lr", "finite number, got inf"),
        ("soft_prompt.weight_decay", "finite number, got inf"),
    ],
)
def test_infinity_is_refused_with_what_to_write_in_its_place(key: str, said: str, tmp_path: Path) -> None:
    section, name = key.split(".")
    file = tmp_path / "recipe.toml"
    file.write_text(f'model = "m"\nhold_out = ["nli"]\n{section} = {{ {name} = inf }}\n')
    with pytest.raises(ConfigError, match=f"{re.escape(key)}: .*{re.escape(said)}"):
        load_recipe(file)


def test_an_arm_is_named_once() -> None:
    with pytest.raises(ConfigError, match="arms: tuned: named twice"):
        resolve("demo", arms=["tuned", "untuned", "tuned"])
    with pytest.raises(ConfigError) as raised:
        resolve("demo", arms=["tunde"])
    assert "tunde" in str(raised.value) and "at least 1 item" not in str(raised.value)


def test_every_key_of_a_recipe_is_documented() -> None:
    page = (Path(__file__).parents[2] / "docs" / "recipes.md").read_text()
    named = set(re.findall(r"[a-z_]+", page))
    tables = (Recipe, MixtureSettings, Lengths, TuningSettings, LoraSettings, EvaluationSettings, SupervisedSettings,
              SoftPromptSettings, PromptFormat)  # fmt: skip
    keys = {key for table in tables for key in table.model_fields}
    assert not keys - named
