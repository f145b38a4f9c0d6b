"""What a study runs on: models, seeds, splits and grids, as one TOML file that is frozen before it is reported on."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from openflan.catalog.load import load_toml
from openflan.errors import ConfigError
from openflan.evaluation.points import Replicate
from openflan.studies.recipe import SECTIONS, Arm, Recipe
from openflan.tuning.settings import TuningSettings

Positive = Annotated[int, Field(ge=1)]
Split = Annotated[tuple[str, ...], Field(min_length=1)]


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
    counts: tuple[Positive, ...] = (1, 2, 4, 7)
    """`clusters`: how many clusters are tuned on."""
    orders: Positive = 4
    """`clusters`: orders in which they are added."""
    shots: Annotated[tuple[Positive, ...], Field(min_length=1)] = (1, 3)
    """`shots`: exemplars in front."""
    examples: Annotated[tuple[Positive | None, ...], Field(min_length=1)] = (32, None)
    """`prompt_tuning`: rows that a soft prompt is learned on; null takes all."""
    tasks_per_cluster: Annotated[tuple[Positive, ...], Field(min_length=1)] = (1, 2, 4)
    """`breadth`"""
    templates_per_task: Annotated[tuple[Positive, ...], Field(min_length=1)] = (1, 4, 10)
    """`breadth`"""

    def content(self) -> dict[str, Any]:
        """What the numbers depend on, as plain data."""
        return self.model_dump(mode="json", exclude={"recipe"}) | {"recipe": self.recipe.content()}

    @property
    def replicates(self) -> list[Replicate]:
        """Every base model with every tuning seed."""
        return [Replicate(model, seed) for model in self.models for seed in self.seeds]

    def recipe_of(self, replicate: Replicate, arm: Arm, hold_out: tuple[str, ...], **changes: Any) -> Recipe:
        """The recipe of one arm in one replicate. `changes` are of sections (tuning={"steps": 9}) or whole keys.

        What is not tuned and shown no exemplar depends on no tuning seed, and gets the first one: it is run once.
        """
        plain = self.recipe.model_dump(mode="json")
        for key, value in changes.items():
            plain[key] = plain[key] | value if isinstance(value, dict) else value
        seed = replicate.seed
        if arm.startswith("untuned") and "soft_prompt" not in arm and plain["evaluation"]["shots"] == [0]:
            seed = self.seeds[0]
        return self.recipe.changed(
            **plain | {"model": replicate.model, "hold_out": list(hold_out), "arms": [arm], "seed": seed}
        )


SETTINGS = Path(__file__).parent / "settings"


def load_settings(file: Path) -> StudySettings:
    """Read a file of settings; raises ConfigError listing every problem with its key and the nearest good name."""
    if not file.exists():
        raise ConfigError(f"{file}: no such file; `world` is the settings file that ships, for the micro-world")
    return load_toml(StudySettings, file, ConfigError, Recipe, TuningSettings, *SECTIONS)
