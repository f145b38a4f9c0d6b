"""Written answers and the options they name, if they name one."""

import pytest

from openflan.scoring.matching import Match, match


@pytest.mark.parametrize(
    ("text", "options", "found"),
    [
        (" yes", ["yes", "no"], Match(0, "equal")),
        ("YES.", ["yes", "no"], Match(0, "equal")),
        ("- no", ["yes", "no"], Match(1, "equal")),
        ("“It  rains”", ["it rains", "it snows"], Match(0, "equal")),
        ("no, it does not", ["yes", "no"], Match(1, "begins")),
        ("nobody knows", ["yes", "no"], Match(None, "none")),
        ("It's impossible to say", ["yes", "it's impossible to say", "no"], Match(1, "equal")),
        ("not sure about it", ["not", "not sure"], Match(1, "begins")),
        ("A", ["A", "B"], Match(0, "equal")),
        ("A) the park", ["A", "B"], Match(0, "begins")),
        ("The answer is yes", ["yes", "no"], Match(None, "none")),
        ("yes or no", ["yes", "no"], Match(0, "begins")),
        ("", ["yes", "no"], Match(None, "none")),
        ("...", ["...", "!"], Match(0, "equal")),
        ("?", ["...", "!"], Match(None, "none")),
        ("Yes", ["yes", "yes"], Match(0, "equal")),
        ("yes!", ["yes", "Yes"], Match(None, "several")),
        ("Yes", ["yes", "Yes"], Match(1, "equal")),
        ("4.5", ["4", "4.5"], Match(1, "equal")),
        ("3.7", ["3", "3.5"], Match(None, "none")),
        ("3. Three", ["3", "3.5"], Match(0, "begins")),
        ("1,000", ["1", "100"], Match(None, "none")),
        ("1/2", ["1", "2"], Match(None, "none")),
        ("-5", ["5", "10"], Match(None, "none")),
        ("5", ["-5", "10"], Match(None, "none")),
        ("(−5)", ["5", "-5"], Match(1, "equal")),
        ("- 5", ["5", "-5"], Match(0, "equal")),
        (".5", ["5", "10"], Match(None, "none")),
        ("It's raining", ["it", "they"], Match(None, "none")),
        ("It’s raining", ["it", "they"], Match(None, "none")),
        ("no-one", ["no", "yes"], Match(None, "none")),
        ("C++.", ["C", "C++", "C#"], Match(1, "equal")),
        ("c#.", ["C", "C++", "C#"], Match(2, "equal")),
        ("C.", ["C", "C++", "C#"], Match(0, "equal")),
        ("Yes.", ["yes", "Yes"], Match(1, "equal")),
        ("½", ["1⁄2", "2"], Match(0, "equal")),
    ],
)
def test_a_text_names_an_option_or_none(text, options, found):
    assert match(text, options) == found
