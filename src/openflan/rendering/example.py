"""The record that rendering makes and every later layer reads: text only, no tokenizer, no model."""

import dataclasses
from dataclasses import dataclass

from openflan.catalog.task import Kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One row of one task, read through one template."""

    task: str
    row_id: str
    """Stable in its task: "validation/17"."""
    template: str
    kind: Kind = "direct"
    inputs: str
    """What the model reads, without the separator that stands between inputs and targets."""
    targets: str
    """What it should write: the gold option, or the first reference."""
    options: tuple[str, ...] = ()
    """The choices ranked at evaluation; empty for generation and for inverted templates."""
    gold: tuple[int, ...] = ()
    """Indices of the right options; any of them counts."""
    grade: float | None = None
    """The number the right option was rounded from, where there is one."""
    references: tuple[str, ...] = ()
    """All right texts of a generation task."""
    group: str = ""
    """What several rows share (a passage); intervals are clustered by it. The row id where nothing is shared."""
    trimmable: tuple[int, int] | None = None
    """Character span of `inputs` whose middle may be cut where the example is too long."""
    exemplars: tuple[tuple[str, str], ...] = ()
    """(inputs, targets) pairs shown in front, in order."""
    exemplar_rows: tuple[str, ...] = ()
    """Row ids of the exemplars, where they are known."""

    @property
    def id(self) -> str:
        """What requests for it, and their answers, are called."""
        return f"{self.task} {self.row_id} {self.template}"

    def first_exemplars(self, count: int) -> "Example":
        """The example with no more than its first `count` exemplars."""
        if count >= len(self.exemplars):
            return self
        return dataclasses.replace(self, exemplars=self.exemplars[:count], exemplar_rows=self.exemplar_rows[:count])
