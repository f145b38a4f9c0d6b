"""Text to token ids, the only place: tuning and scoring share every function here.

Takes `Example`, gives `Encoded` (tuning), `EncodedOptions` (scoring), `EncodedPrompt` (generation) and `PackedRow`.
Read next: `boundary.py`, where prompt and target are told apart; then `models/`.
"""

from openflan.encoding.boundary import Boundary, split, split_many
from openflan.encoding.encode import Encoded, EncodedOptions, EncodedPrompt, encode, encode_options, encode_prompts
from openflan.encoding.pack import PackedRow, pack
from openflan.encoding.prompt_format import Lengths, PromptFormat

__all__ = [
    "Boundary",
    "Encoded",
    "EncodedOptions",
    "EncodedPrompt",
    "Lengths",
    "PackedRow",
    "PromptFormat",
    "encode",
    "encode_options",
    "encode_prompts",
    "pack",
    "split",
    "split_many",
]
