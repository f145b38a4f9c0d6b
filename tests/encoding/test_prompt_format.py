"""What the model reads, character for character."""

import pytest
from pydantic import ValidationError

from openflan.encoding import Lengths, PromptFormat
from openflan.rendering.example import Example


def test_prompt_of_an_example_shows_its_exemplars_first() -> None:
    example = Example(
        task="sum",
        row_id="0",
        template="t",
        inputs="2 + 2 =",
        targets="4",
        exemplars=(("0 + 0 =", "0"), ("1 + 1 =", "2")),
    )
    assert PromptFormat().of(example) == "0 + 0 =\n0\n\n1 + 1 =\n2\n\n2 + 2 =\n"
    assert PromptFormat(separator=" ", exemplar_separator="|").of(example) == "0 + 0 = 0|1 + 1 = 2|2 + 2 = "


def test_unknown_keys_are_refused() -> None:
    with pytest.raises(ValidationError, match="seperator"):
        PromptFormat.model_validate({"seperator": "\n"})


def test_lengths_are_the_papers() -> None:
    assert (Lengths().inputs, Lengths().targets) == (1024, 256)
