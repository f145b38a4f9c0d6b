"""How an example becomes the text a model reads: one format for tuning, scoring and generation.

Takes an `Example`, gives the prompt's text. The format is saved beside the weights as `openflan.json`.
Read next: `boundary.py`.
"""

from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from openflan.rendering.example import Example


class PromptFormat(BaseModel):
    """The characters between the parts of a prompt, and which special tokens frame it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    separator: str = "\n"
    """Stands between inputs and targets, in exemplars too."""
    exemplar_separator: str = "\n\n"
    """Stands after each exemplar."""
    bos: Literal["auto", "never"] = "auto"
    """"auto": exactly one BOS where the tokenizer itself adds one."""
    end: Literal["eos"] = "eos"
    """What ends every target in tuning, and every generation."""

    def prompt(self, inputs: str, exemplars: Sequence[tuple[str, str]] = ()) -> str:
        """All the model reads before the target.

        >>> PromptFormat().prompt("2 + 2 =", [("1 + 1 =", "2")])
        '1 + 1 =\\n2\\n\\n2 + 2 =\\n'
        """
        shown = [f"{asked}{self.separator}{answered}{self.exemplar_separator}" for asked, answered in exemplars]
        return "".join((*shown, inputs, self.separator))

    def of(self, example: Example) -> str:
        """The prompt of an example, exemplars included."""
        return self.prompt(example.inputs, example.exemplars)


class Lengths(BaseModel):
    """The most tokens a prompt and a target may have. Source: Wei et al. 2022 §2.4 (1,024 and 256)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    inputs: int = Field(default=1024, ge=1)
    """Tokens of the prompt: exemplars, inputs, separator and BOS."""
    targets: int = Field(default=256, ge=1)
    """Tokens of the target, EOS included; the most tokens generated."""
