"""What a study runs on: models, seeds, splits and grids, as one TOML file that is frozen before it is reported on."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from openflan.catalog.load import read_toml, validated
from openflan.errors import ConfigError, nearest
from openflan.evaluation.points import Replicate
from openflan.studies.recipe import SECTIONS, Arm, Recipe, laid_over, recipe_from, resolve

WORLD_PREFIX = "world:"

Positive = Annotated[int, Field(ge=1)]
Split = Annotated[tuple[str, ...], Field(min_length=1)]
StudyName = Literal["holdout", "clusters", "scale", "instructions", "shots", "prompt_tuning", "breadth", "templates"]


class StudySettings(BaseModel):
    """Grids of all studies. The paper's own choices are named in docs/studies.md."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    recipe: Recipe
    """What all systems share; model, hold_out, arms, seed and shots are filled in by each study."""
    models: Annotated[tuple[str, ...], Field(min_length=1)]
    """Base models of one size: one, or several pretraining seeds."""
    seeds: Annotated[tuple[int, ...], Field(min_length=1)] = (0,)
    """Of mixture and tuning."""
    report_seed: int = 0
    """Of the resampling that makes intervals."""
    resamples: Annotated[int, Field(ge=100)] = 2_000
    ladder: tuple[Split, ...] = ()
    """`scale`: the models of each size, smallest first; empty leaves the study out of `all`."""
    splits: Annotated[tuple[Split, ...], Field(min_length=1)]
    """`holdout`, `shots`, `prompt_tuning`: what is held out, a model tuned for each."""
    together: Split
    """`clusters`, `scale`, `instructions`, `breadth`: the clusters that are held out at once."""
    counts: Annotated[tuple[Positive, ...], Field(min_length=1)] = (1, 2, 4, 7)
    """`clusters`: how many clusters are tuned on."""
    orders: Positive = 4
    """`clusters`: orders in which they are added."""
    shots: Annotated[tuple[Positive, ...], Field(min_length=1)] = (1, 3)
    """`shots`: exemplars in front."""
    prompt_rows: Annotated[tuple[Positive | None, ...], Field(min_length=1)] = (32, None)
    """`prompt_tuning`: rows that a soft prompt is learned on; None, in files "all", takes all."""
    tasks_per_cluster: Annotated[tuple[Positive, ...], Field(min_length=1)] = (1, 2, 4)
    """`breadth`"""
    templates_per_task: Annotated[tuple[Positive, ...], Field(min_length=1)] = (1, 4, 10)
    """`breadth`, `templates`"""
    studies: Mapping[StudyName, Mapping[str, Any]] = {}
    """What one study has in place of the values above, so that the dear ones can be smaller."""

    @field_validator("splits")
    @classmethod
    def _apart(cls, splits: tuple[Split, ...]) -> tuple[Split, ...]:
        named = [cluster for split in splits for cluster in split]
        if twice := sorted({cluster for cluster in named if named.count(cluster) > 1}):
            raise ValueError(f"{', '.join(twice)}: in two splits; a cluster is held out by one")
        return splits

    @field_validator("prompt_rows", mode="before")
    @classmethod
    def _all_rows(cls, given: Any) -> Any:
        return [None if rows == "all" else rows for rows in given] if isinstance(given, list | tuple) else given

    @field_validator("studies")
    @classmethod
    def _whole_values(cls, studies: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Mapping[str, Any]]:
        allowed = set(cls.model_fields) - {"recipe", "studies"}
        for study, values in studies.items():
            if unknown := sorted(set(values) - allowed):
                raise ValueError(f"{study} cannot set {', '.join(unknown)}; it can: {', '.join(sorted(allowed))}")
        return studies

    def of_study(self, name: StudyName) -> "StudySettings":
        """What the study `name` runs on; raises ConfigError."""
        own = self.studies.get(name, {})
        table = self.model_dump(mode="json", exclude={"studies"}) | dict(own)
        return validated(StudySettings, table, f"studies.{name}", ConfigError)

    def content(self, grids: Sequence[str]) -> dict[str, Any]:
        """What the numbers of a study with these grids depend on, as plain data."""
        # Tables of arms that the shared recipe does not name are some study's all the same.
        of_arms = {name: getattr(self.recipe, name).model_dump(mode="json") for name in ("supervised", "soft_prompt")}
        shared = self.model_dump(mode="json", include={"models", "seeds", "report_seed", "resamples", *grids})
        return shared | {"recipe": self.recipe.content() | of_arms}

    @property
    def replicates(self) -> list[Replicate]:
        """Every base model with every tuning seed."""
        return [Replicate(model, seed) for model in self.models for seed in self.seeds]

    def recipe_of(self, replicate: Replicate, arm: Arm, hold_out: tuple[str, ...], **changes: Any) -> Recipe:
        """The recipe of one arm in one replicate. `changes` are of sections (tuning={"steps": 9}) or whole keys.

        What is not tuned and shown no exemplar depends on no tuning seed, and gets the first one: it is run once.
        """
        plain = self.recipe.model_dump(mode="json")
        plain |= {"model": replicate.model, "hold_out": list(hold_out), "arms": [arm], "seed": replicate.seed}
        plain |= {key: plain[key] | value if isinstance(value, dict) else value for key, value in changes.items()}
        fixed = arm.startswith("untuned") and "soft_prompt" not in arm and plain["evaluation"]["shots"] == [0]
        if fixed and "seed" not in changes:
            plain["seed"] = self.seeds[0]
        return recipe_from(plain, "recipe")


SETTINGS = Path(__file__).parent / "settings"
"""Settings that ship with the package."""


EXTENDS = "extends"
"""The key of a settings file that names another, whose values it begins from."""


def load_settings(name: str | Path) -> StudySettings:
    """Settings from a file, or shipped ones by name; raises ConfigError listing every problem with its key."""
    tables = _tables(name)
    table: dict[str, Any] = {}
    for under in tables.values():
        table = laid_over(under, table)
    return validated(StudySettings, table, str(next(iter(tables))), ConfigError, Recipe, *SECTIONS)


def settings_files(name: str | Path) -> list[Path]:
    """The file that `name` is or means, what it extends, what that extends; raises ConfigError."""
    return list(_tables(name))


def _tables(name: str | Path) -> dict[Path, dict[str, Any]]:
    """What stands in each of `settings_files`, which other file it extends left out."""
    file = settings_file(name)
    found = {file: read_toml(file, ConfigError)}
    while (further := found[file].pop(EXTENDS, None)) is not None:
        if not isinstance(further, str):
            raise ConfigError(f"{file}: {EXTENDS} = {further!r}: expected the name of shipped settings, or a file")
        beside = file.parent / further
        other = beside if beside.is_file() else settings_file(further)
        if other in found:
            raise ConfigError(f"{file}: {EXTENDS} = {further!r} comes back to {other}")
        file = other
        found[file] = read_toml(file, ConfigError)
    return found


def settings_file(name: str | Path) -> Path:
    """The file, or the one that ships by that name; raises ConfigError."""
    if Path(name).is_file():
        return Path(name)
    shipped = {path.stem: path for path in SETTINGS.glob("*.toml")}
    if str(name) not in shipped:
        raise ConfigError(f"no settings file or shipped settings {str(name)!r} ({nearest(str(name), shipped)})")
    return shipped[str(name)]


def resolve_settings(
    name: str | None,
    recipe: str | None,
    *,
    models: Sequence[str] = (),
    splits: Sequence[Sequence[str]] = (),
    together: Sequence[str] = (),
    seeds: Sequence[int] = (),
    sections: Mapping[str, Mapping[str, Any]] | None = None,
    **top: Any,
) -> tuple[StudySettings, Path | None]:
    """The settings a command line means: a file's (the micro-world's, by default) with what was given on top; the file.

    With `recipe`, or with models that are not the micro-world's, the systems share that recipe (or the defaults) in
    place of the settings'; `splits` are then needed. What is held out at once is all of the splits where it is not
    said. Models given are of one size: they leave no ladder. Values of None and empty ones were not given.

    Raises ConfigError for what is wrong or missing.
    """
    foreign = recipe is not None or any(not model.startswith(WORLD_PREFIX) for model in models)
    file = None if name is None and foreign else settings_file(name or "world")
    if file is None:
        if not splits or not (models or recipe):
            raise ConfigError("give --hold-out (one split each; clusters of one split joined by +) and --model")
        base = resolve(recipe, needs=(), model=models[0] if models else None, hold_out=list(splits[0]))
        plain: dict[str, Any] = {
            "recipe": base.model_dump(mode="json"),
            "models": [base.model],
        }
    else:
        plain = load_settings(file).model_dump(mode="json")
        if recipe is not None:
            plain["recipe"] = resolve(recipe, needs=()).model_dump(mode="json")
    at_once = together or list(dict.fromkeys(cluster for split in splits for cluster in split))
    lists = {"models": models, "splits": [list(split) for split in splits], "together": at_once, "seeds": seeds}
    given = {key: list(value) for key, value in lists.items() if value}
    plain |= given | ({"ladder": []} if models else {})
    own = plain.get("studies", {})
    plain["studies"] = {name: {key: own[name][key] for key in own[name] if key not in given} for name in own}
    plain["recipe"] |= {key: value for key, value in top.items() if value not in (None, [])}
    for section, values in (sections or {}).items():
        plain["recipe"][section] |= {key: value for key, value in values.items() if value is not None}
    return validated(StudySettings, plain, name or "command line", ConfigError, Recipe, *SECTIONS), file
