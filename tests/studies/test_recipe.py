from pathlib import Path

import pytest

from openflan.errors import ConfigError
from openflan.studies.recipe import RECIPES, Recipe, differing_keys, load_recipe, resolve


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
    recipe = resolve("demo", {"tuning": {"steps": 3, "lr": None}}, model="world:small", hold_out=[], seed=None)
    base = resolve("demo")
    assert (recipe.tuning.steps, recipe.tuning.lr, recipe.model) == (3, base.tuning.lr, "world:small")
    assert recipe.hold_out == base.hold_out
    with pytest.raises(ConfigError, match="--model and --hold-out"):
        resolve(None)
