"""What a task is: the schema of one TOML file.

Takes a parsed TOML table, gives a frozen, checked `Task`. Read next: `load.py`.
"""

from itertools import combinations
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

NAME = r"^[a-z0-9][a-z0-9_]*$"
Name = Annotated[str, StringConstraints(pattern=NAME)]
Form = Literal["classification", "multiple_choice", "generation"]
Kind = Literal["direct", "inverted", "completion"]
Split = Literal["train", "dev", "test"]
EvaluatedSplit = Literal["dev", "test"]
Metric = Literal[
    "accuracy",
    "f1",
    "f1a",
    "macro_f1",
    "matthews",
    "pearson",
    "exact_match",
    "squad",
    "drop",
    "trivia",
    "bleu",
    "chrf",
    "rouge",
    "word_edit",
]

OF_OPTIONS: frozenset[Metric] = frozenset({"accuracy", "f1", "f1a", "macro_f1", "matthews", "pearson"})
"""Metrics of chosen options; the others compare texts, those of options too."""
OF_TWO_OPTIONS: frozenset[Metric] = frozenset({"f1", "f1a"})
"""Metrics of a yes and a no, the second option being the yes."""

SPLITS: tuple[Split, ...] = ("train", "dev", "test")
DEV_ROWS = 200
"""Rows set aside to choose the best template, never trained on (paper section 2.3; FLAN's code uses 200)."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", str_strip_whitespace=False)


class Template(_Record):
    """One wording of a task: two Jinja2 texts over the row's columns.

    `direct` templates ask for the answer. `inverted` ones give the answer and ask for the text (used in tuning,
    never scored; paper section 2.1). `completion` ones ask the way an untuned model is asked, as the paper does
    for its baselines, and are used for untuned models only.
    """

    id: Name
    kind: Kind = "direct"
    inputs: Annotated[str, Field(min_length=1)]
    targets: str = "{{ answer }}"
    options: tuple[str, ...] | str | None = None
    """Other words for the task's options, in the same order; None takes the task's own."""


def _in_both(one: str, other: str) -> str:
    """The hub split of which both expressions take a same part, or one of them all there is; or ""."""
    parts = {part.strip() for part in one.split("+")}
    for part in (part.strip() for part in other.split("+")):
        name = part.partition("[")[0]
        if part in parts or name in parts or (part == name and any(p.partition("[")[0] == name for p in parts)):
            return name
    return ""


class Source(_Record):
    """Where rows come from: a hub dataset, or a generator of the micro-world, or (local only) a data root."""

    hub: str | None = None
    config: str | None = None
    revision: str = "main"
    splits: dict[Split, str] = Field(default_factory=lambda: {"train": "train", "dev": "train", "test": "validation"})
    dev_rows: Annotated[int, Field(ge=1)] = DEV_ROWS
    prepare: tuple[str, ...] = ()
    obtain: str = ""
    """How a user gets the files where no hub copy can be loaded."""
    rows_of: Name | None = None
    """A task whose rows these are: its folder under a data root serves this one too."""
    world: str | None = None
    rows: dict[Split, int] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _one_place(self) -> "Source":
        if self.hub and self.world:
            raise ValueError("a source is either a hub dataset or a world generator, not both")
        if not (self.hub or self.world or self.obtain):
            raise ValueError("name a hub dataset, a world generator, or say in `obtain` how to get the files")
        if self.splits.get("test") is not None and self.splits.get("test") == self.splits.get("train"):
            raise ValueError("splits: train and test are the same rows; give test rows of its own, or leave train out")
        for (one, theirs), (other, others) in combinations(self.splits.items(), 2):
            if theirs != others and (name := _in_both(theirs, others)):
                what = f"splits: {one} and {other} share rows: {theirs!r} and {others!r} both take from {name!r}"
                raise ValueError(f"{what}; give each a part of its own, as 'train[:90%]' and 'train[90%:]'")
        if self.world and set(self.rows) != set(SPLITS):
            raise ValueError("a world source needs rows = { train = …, dev = …, test = … }")
        return self


class Answer(_Record):
    """Where the right answer stands: options and the index of the gold one, or one or several texts."""

    options: tuple[str, ...] | str | None = None
    gold: str | None = None
    text: str | None = None
    grade: str | None = None
    """The number that gold was rounded from: correlations are with it."""

    @model_validator(mode="after")
    def _options_or_text(self) -> "Answer":
        if (self.text is None) == (self.gold is None):
            raise ValueError("give either gold (with options) or text")
        if (self.options is None) != (self.gold is None):
            raise ValueError("options and gold go together")
        if self.grade is not None and self.gold is None:
            raise ValueError("grade stands beside gold, for options that are grades")
        return self


RESERVED = frozenset({"answer", "options", "options_", "row", "self"})
"""What templates and expressions have beside the task's columns; the last is Jinja's."""


class Paper(_Record):
    """What the paper and its code say of a dataset; sizes after the cap of 30,000 rows (their code's, where known)."""

    dataset: str | None = None
    """Its name in the paper's figure of 62 datasets; rounds and versions share one. None: not in that figure."""
    train: Annotated[int, Field(ge=0)] | None = None
    dev: Annotated[int, Field(ge=0)] | None = None
    test: Annotated[int, Field(ge=0)] | None = None


class Task(_Record):
    """One dataset, its answer, its metrics and its templates (DESIGN section 3)."""

    name: Name
    title: str
    clusters: Annotated[tuple[Name, ...], Field(min_length=1)]
    version: Annotated[int, Field(ge=1)] = 1
    licence: str
    cite: str
    derived_from: tuple[str, ...] = ()
    form: Form
    metrics: Annotated[tuple[Metric, ...], Field(min_length=1)]
    group: str | None = None
    """Column that names what several rows share (a passage, a question); intervals are clustered by it."""
    paper: Paper | None = None
    source: Source
    columns: Annotated[dict[str, str], Field(min_length=1)]
    answer: Answer
    templates: Annotated[tuple[Template, ...], Field(min_length=1, alias="template")]

    @model_validator(mode="after")
    def _consistent(self) -> "Task":
        if taken := sorted(RESERVED & self.columns.keys()):
            raise ValueError(f"columns {', '.join(taken)}: templates know other things by these names; rename them")
        ids = [template.id for template in self.templates]
        if repeated := sorted({name for name in ids if ids.count(name) > 1}):
            raise ValueError(f"template ids used twice: {', '.join(repeated)}")
        if (self.form == "generation") != (self.answer.text is not None):
            raise ValueError("a generation task has answer.text; the other forms have answer.options and answer.gold")
        if self.form == "generation" and (chosen := sorted(OF_OPTIONS.intersection(self.metrics))):
            raise ValueError(f"metrics {', '.join(chosen)}: need options, a generation task has none")
        fixed, of_two = self.answer.options, sorted(OF_TWO_OPTIONS.intersection(self.metrics))
        if of_two and isinstance(fixed, tuple) and len(fixed) != 2:
            raise ValueError(f"metrics {', '.join(of_two)}: need two options, the second being yes, not {len(fixed)}")
        if not self.of_kind("direct"):
            raise ValueError("at least one template must be direct")
        for template in self.templates:
            own = template.options
            if isinstance(own, tuple) and isinstance(fixed, tuple) and len(own) != len(fixed):
                raise ValueError(f"template {template.id} has {len(own)} options, the task has {len(fixed)}")
            if own is not None and fixed is None:
                raise ValueError(f"template {template.id} has options, the task has none")
        return self

    def of_kind(self, kind: Kind) -> tuple[Template, ...]:
        """The templates of one kind, in file order."""
        return tuple(template for template in self.templates if template.kind == kind)

    def content(self) -> dict[str, Any]:
        """Everything that decides what rows read like, as plain data; its fingerprint names caches and locks."""
        content = self.model_dump(mode="json", exclude={"licence", "cite", "paper"})
        if self.answer.grade is None:  # tasks without one keep the fingerprint they had before there was this key
            del content["answer"]["grade"]
        return content
