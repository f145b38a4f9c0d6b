"""A recipe: everything that decides what a run's numbers are, as one TOML file."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import tomli_w
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from openflan.artifacts import fingerprint
from openflan.catalog.holdout import Rule
from openflan.catalog.load import read_toml, validated
from openflan.encoding.prompt_format import Lengths, PromptFormat
from openflan.errors import ConfigError, Problem, nearest
from openflan.evaluation.samples import SEEN_ARMS, with_shots
from openflan.mixture.mixture import MixtureSettings
from openflan.models.adapters import LoraSettings
from openflan.models.remote import REMOTE_PREFIX, RemoteSettings, is_remote, remote_settings
from openflan.rendering.exemplars import Draw
from openflan.rendering.render import Wording
from openflan.studies.seen import SoftPromptSettings, SupervisedSettings
from openflan.tuning.settings import TuningSettings

ARMS = (
    "model",
    "model_completion",
    "untuned",
    "untuned_completion",
    "tuned",
    "few_shot",
    "no_options",
    "no_template",
    "no_template_options",
    "dataset_name",
    *SEEN_ARMS,
)
_REMOTE_ARM = re.compile(rf"{REMOTE_PREFIX}[A-Za-z0-9][A-Za-z0-9._-]*")


def _known_arm(name: str) -> str:
    if name not in ARMS and not _REMOTE_ARM.fullmatch(name):
        raise ValueError(f"expected one of {', '.join(ARMS)}, or remote:NAME with a table [remote.NAME]")
    return name


Arm = Annotated[str, AfterValidator(_known_arm)]
"""The systems compared, by the paper's names (DESIGN section 9): one of `ARMS`, or `remote:NAME`. `model` and
`model_completion` are what `openflan evaluate` scores: a model as it is, which may have been tuned on anything."""
OWN_STYLE: tuple[Arm, ...] = ("model_completion", "untuned_completion")
"""The arms that are asked through completion templates."""

TUNED_WITH: dict[Arm, Wording] = {
    "tuned": "instructions",
    "few_shot": "instructions",
    "no_options": "no_options",
    "no_template": "no_template",
    "no_template_options": "no_template_options",
    "dataset_name": "dataset_name",
}
"""Which wording the rows of an arm's tuning are read through; other arms are not tuned on the mixture."""

UNTUNED: tuple[Arm, ...] = ("untuned", "untuned_completion")
"""What an endpoint is asked where no arms are named."""

_OF_THE_RUN = ("seed", "threads")
"""Settings of tuning that a recipe has for the whole run, and not in [tuning]."""

MODEL_OF: dict[Arm, Arm] = {"few_shot": "tuned", "soft_prompt": "tuned"}
"""Arms that ask another arm's model, or put a soft prompt in front of it."""


class EvaluationSettings(BaseModel):
    """What is scored and how intervals are made."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    items: Annotated[int, Field(ge=1)] | None = 100
    """Test rows of each task; "all", or None in Python, takes all."""
    dev_items: Annotated[int, Field(ge=1)] = 20
    """Dev rows of each task, used only to choose the best template (paper section 2.3 has 200)."""
    resamples: Annotated[int, Field(ge=100)] = 2_000
    """Bootstrap resamples for each interval."""
    max_new_tokens: Annotated[int, Field(ge=1)] = 64
    """Longest answer of a generation task, in tokens."""
    shots: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)] = (0,)
    """Exemplars shown before each row; every arm is asked once for each of these numbers."""
    wording: Wording = "instructions"
    """How rows are asked; an arm tuned with the dataset's name can be asked with it, as in the paper's figure 8."""
    few_shot: Annotated[int, Field(ge=1)] = 16
    """Exemplars that the arm `few_shot` is shown at most: as many as fit (FLAN's code has up to 16)."""
    exemplars: Draw = "fixed"
    """"fixed": the same for all rows of a task and template; "per_item": drawn for each row, as in FLAN's code."""

    @field_validator("items", mode="before")
    @classmethod
    def _all(cls, items: Any) -> Any:
        return None if items == "all" else items

    @field_validator("shots")
    @classmethod
    def _each_once(cls, shots: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(shots)) < len(shots):
            raise ValueError("a number of exemplars is named twice")
        return tuple(sorted(shots))


class Recipe(BaseModel):
    """One run. The paper's values are the defaults; `fingerprint` names the run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    """Hub id, folder, `world:NAME`, or an endpoint as `remote:MODEL@URL`, which can only be asked."""
    hold_out: tuple[str, ...]
    """Clusters that are evaluated and never tuned on. Only a mixture for another trainer may hold out none."""
    catalogs: Annotated[tuple[str, ...], Field(min_length=1)] = ("flan",)
    train_clusters: tuple[str, ...] | None = None
    hold_out_rule: Rule = "strict"
    arms: Annotated[tuple[Arm, ...], Field(min_length=1)] = (*UNTUNED, "tuned")
    seed: int = 0
    world_seed: int = 0
    threads: Annotated[int, Field(ge=1)] | None = None
    """CPU threads of the numerical libraries; null leaves the choice to them. Part of the run: sums depend on it."""
    data_root: str | None = None
    """Where local rows are. Not part of the fingerprint: the mixture's lock names the rows by content."""
    require_all: bool = False
    """Whether a dataset that cannot be loaded ends the run; otherwise it is left out, and said so."""
    mixture: MixtureSettings = MixtureSettings()
    prompt: PromptFormat | None = None
    """null takes the format the model was tuned with, else the default one."""
    lengths: Lengths = Lengths()
    tuning: TuningSettings = TuningSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    supervised: SupervisedSettings = SupervisedSettings()
    soft_prompt: SoftPromptSettings = SoftPromptSettings()
    remote: Mapping[str, RemoteSettings] = {}
    """The endpoints of arms `remote:NAME`, by NAME."""

    @field_validator("tuning")
    @classmethod
    def _seed_and_threads_are_the_runs(cls, tuning: TuningSettings) -> TuningSettings:
        # Not where they are at their defaults: run folders made before have `seed = 0` there.
        set_here = [name for name in _OF_THE_RUN if getattr(tuning, name) != getattr(TuningSettings(), name)]
        if set_here:
            above = " and ".join(f"`{name} = {getattr(tuning, name)}`" for name in set_here)
            raise ValueError(f"{' and '.join(set_here)} of the whole run, tuning too, stand above the tables: {above}")
        return tuning

    @field_validator("arms")
    @classmethod
    def _each_once(cls, arms: tuple[Arm, ...]) -> tuple[Arm, ...]:
        if twice := [arm for arm, count in Counter(arms).items() if count > 1]:
            raise ValueError(f"{', '.join(twice)}: named twice")
        return arms

    @model_validator(mode="after")
    def _arms_fit(self) -> "Recipe":
        problems = [
            f"arms: {arm} needs a table [remote.{name}] with url and model"
            for arm in self.arms
            if is_remote(arm) and (name := arm.removeprefix(REMOTE_PREFIX)) not in self.remote
        ]
        if is_remote(self.model):
            try:
                remote_settings(self.model)
            except ConfigError as error:
                problems += map(str, error.problems)
            problems += [
                f"arms: {arm} tunes its model, and an endpoint can only be asked"
                for arm in self.arms
                if arm in (*TUNED_WITH, *SEEN_ARMS)
            ]
        if self.evaluation.wording != "instructions" and self.needs_exemplars:
            problems.append(f"evaluation.wording = {self.evaluation.wording!r}: exemplars come with instructions only")
        if "soft_prompt" in self.arms and self.tuning.method == "soft_prompt":
            problems.append("arms: soft_prompt stands before the tuned model, which tuning.method gives one already")
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def endpoint_of(self, arm: Arm) -> RemoteSettings | None:
        """The endpoint that answers for an arm; None where a model is loaded here."""
        if is_remote(arm):
            return self.remote[arm.removeprefix(REMOTE_PREFIX)]
        return remote_settings(self.model) if is_remote(self.model) else None

    @property
    def hold_out_options(self) -> dict[str, Any]:
        """The keyword arguments of `hold_out` that this recipe sets."""
        return {"train_clusters": self.train_clusters, "rule": self.hold_out_rule}

    def shots_of(self, arm: Arm) -> dict[str, int]:
        """The most exemplars an arm is shown, by the name its answers go under."""
        if arm == "few_shot":
            return {arm: self.evaluation.few_shot}
        return {with_shots(arm, shots): shots for shots in self.evaluation.shots}

    def tuning_of(self, arm: Arm) -> TuningSettings:
        """How the model or models of an arm are tuned."""
        settings = self.tuning.model_copy(update={"seed": self.seed})
        if arm == "supervised":
            return self.supervised.tuning(settings)
        return self.soft_prompt.tuning(settings) if arm in SEEN_ARMS else settings

    @property
    def sees_tasks(self) -> bool:
        """Whether an arm is tuned on the evaluated tasks' own rows."""
        return any(arm in SEEN_ARMS for arm in self.arms)

    @property
    def needs_exemplars(self) -> bool:
        return any(shots for arm in self.arms for shots in self.shots_of(arm).values())

    def content(self) -> dict[str, Any]:
        """What the numbers depend on, as plain data."""
        left_out = {"data_root", "require_all", "remote"}
        # A table that no arm reads decides no number.
        left_out |= {"supervised"} - set(self.arms)
        left_out |= {"soft_prompt"} if {"soft_prompt", "untuned_soft_prompt"}.isdisjoint(self.arms) else set()
        plain = self.model_dump(mode="json", exclude=left_out)
        plain |= {"mixture": self.mixture.content(), "tuning": self.tuning.content()}
        if is_remote(self.model):
            plain["model"] = {"remote": remote_settings(self.model).content()}
        if self.remote:
            plain["remote"] = {name: settings.content() for name, settings in sorted(self.remote.items())}
        return plain

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.content())

    def to_toml(self) -> str:
        """The resolved recipe as TOML, without nulls and arms' tables at their defaults; it reads back the same."""
        own = {"supervised": SupervisedSettings(), "soft_prompt": SoftPromptSettings(), "remote": {}}
        left_out = {name for name, default in own.items() if getattr(self, name) == default}
        table = self.model_dump(mode="json", exclude=left_out)
        # TOML has no null, and without these keys their defaults would be read back.
        table["evaluation"]["items"] = self.evaluation.items or "all"
        for name in _OF_THE_RUN:
            del table["tuning"][name]
        table["tuning"]["clip_norm"] = self.tuning.clip_norm or "none"
        return tomli_w.dumps(_without_nulls(table))

    def changed(self, **updates: Any) -> "Recipe":
        """A copy with top-level keys replaced, checked again; raises ConfigError."""
        return recipe_from(self.model_dump(mode="json") | updates, "recipe")


RECIPES = Path(__file__).parent / "recipes"
"""Recipes that ship with the package."""

SECTIONS = (
    MixtureSettings,
    PromptFormat,
    Lengths,
    TuningSettings,
    LoraSettings,
    EvaluationSettings,
    SupervisedSettings,
    SoftPromptSettings,
    RemoteSettings,
)


def load_recipe(file: Path) -> Recipe:
    """Read a recipe; raises ConfigError listing every problem with its key and the nearest good name."""
    return recipe_from(read_toml(file, ConfigError), str(file))


def recipe_from(table: dict[str, Any], where: str) -> Recipe:
    """A recipe from plain data; raises ConfigError listing every problem."""
    return validated(Recipe, table, where, ConfigError, *SECTIONS)


def shipped_recipe(name: str) -> Path:
    """The file of a shipped recipe, by its name without the ending; raises ConfigError naming the nearest ones."""
    names = {path.stem: path for path in RECIPES.glob("*.toml")}
    if name not in names:
        raise ConfigError(f"no recipe file or shipped recipe {name!r} ({nearest(name, names)})")
    return names[name]


def resolve(
    recipe: str | None,
    sections: Mapping[str, Mapping[str, Any]] | None = None,
    *,
    needs: Sequence[str] = ("model", "hold_out"),
    **top: Any,
) -> Recipe:
    """The recipe a command line means: a file's, or a shipped one's, with what was given on top.

    `needs`: the keys that must be there; the others may be empty. Values of None and empty lists were not given.

    Raises ConfigError for what is wrong or missing.
    """
    table: dict[str, Any] = {}
    if recipe is not None:
        file = Path(recipe)
        # recipes/NAME.toml is a shipped one's path in the documentation; no such folder need be here.
        shipped = file.suffix != ".toml" or file.parent == Path("recipes")
        found = shipped_recipe(file.name.removesuffix(".toml")) if shipped and not file.is_file() else file
        # As the file has it, without defaults: a method given on top brings its own learning rate.
        table = read_toml(found, ConfigError)
        recipe_from(table, str(found))
    table |= {key: value for key, value in top.items() if value not in (None, [])}
    for name, values in (sections or {}).items():
        if given := _without_nulls(dict(values)):
            table[name] = laid_over(table.get(name, {}), given)
    if missing := [f"--{key.replace('_', '-')}" for key in needs if not table.get(key)]:
        raise ConfigError(f"give a recipe, or {' and '.join(missing)}")
    table = {"model": "", "hold_out": [], **table}
    if is_remote(str(table["model"])):
        table.setdefault("arms", list(UNTUNED))
    return recipe_from(table, recipe or "command line")


def differing_keys(ours: dict[str, Any], theirs: dict[str, Any], prefix: str = "") -> list[Problem]:
    """One Problem for each key on which two recipes' contents differ."""
    problems: list[Problem] = []
    for key in sorted(ours.keys() | theirs.keys()):
        mine, other = ours.get(key), theirs.get(key)
        if isinstance(mine, dict) and isinstance(other, dict):
            problems += differing_keys(mine, other, f"{prefix}{key}.")
        elif mine != other:
            problems.append(Problem(f"{prefix}{key}", f"the run has {other!r}, this recipe {mine!r}"))
    return problems


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return value


def laid_over(below: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """A table with the keys given put in, those of inner tables one by one."""
    both = {
        key: laid_over(below[key], value) for key, value in given.items() if isinstance(value, dict) and key in below
    }
    return {**below, **given, **both}
