"""How numbers are written on pages and terminals: percent with one decimal, a true minus sign, honest blanks."""

BLANK = "–"
MINUS = "\N{MINUS SIGN}"


def percent(rate: float | None) -> str:
    """A rate 0..1 in percent without the sign, one decimal.

    >>> percent(0.5625), percent(None)
    ('56.2', '–')
    """
    return BLANK if rate is None else _signed(f"{100 * rate:.1f}")


def points(difference: float | None) -> str:
    """A difference of rates in percentage points, always with its sign.

    >>> points(0.124), points(-0.031), points(0.0)
    ('+12.4', '−3.1', '0.0')
    """
    if difference is None:
        return BLANK
    text = _signed(f"{100 * difference:.1f}")
    return text if text == "0.0" or text.startswith(MINUS) else f"+{text}"


def interval(low: float | None, high: float | None) -> str:
    """Bounds in percent: `48.0 to 56.1`. A word between them, since a dash beside minus signs misleads."""
    return BLANK if low is None or high is None else f"{percent(low)} to {percent(high)}"


def points_interval(low: float | None, high: float | None) -> str:
    """Bounds of a difference in percentage points: `+8.1 to +16.6`."""
    return BLANK if low is None or high is None else f"{points(low)} to {points(high)}"


def count(number: int | None) -> str:
    """A count with thousands separators: `12,288`."""
    return BLANK if number is None else f"{number:,}"


def p_value(p: float | None) -> str:
    """`p = 0.03`, `p < 0.001`; empty where there is none."""
    if p is None:
        return ""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.01 else f"p = {p:.2f}"


def p_number(p: float | None) -> str:
    """A p-value below a head that says p: `0.03`, `< 0.001`; empty where there is none."""
    return p_value(p).removeprefix("p = ").removeprefix("p ")


def nats(value: float | None) -> str:
    """A log-probability in nats, two decimals."""
    return BLANK if value is None else _signed(f"{value:.2f}")


def _signed(text: str) -> str:
    if not text.strip("-0."):
        return text.lstrip("-")
    return f"{MINUS}{text[1:]}" if text.startswith("-") else text
