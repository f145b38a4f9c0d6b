from openflan.reports.numbers import BLANK, MINUS, interval, p_value, percent, points, points_interval


def test_percent_has_one_decimal_and_a_true_minus() -> None:
    assert [percent(rate) for rate in (0.562, 1.0, 0.0, -0.123, None)] == [
        "56.2",
        "100.0",
        "0.0",
        f"{MINUS}12.3",
        BLANK,
    ]


def test_points_always_have_a_sign_but_zero_has_none() -> None:
    assert [points(d) for d in (0.113, -0.113, 0.0, 0.0001, -0.0001)] == ["+11.3", f"{MINUS}11.3", "0.0", "0.0", "0.0"]


def test_a_missing_bound_is_blank_and_never_zero() -> None:
    assert interval(None, 0.3) == BLANK
    assert points_interval(0.1, None) == BLANK
    assert interval(0.3, 0.456) == "30.0 to 45.6"


def test_small_p_values_are_not_rounded_to_zero() -> None:
    assert [p_value(p) for p in (0.00001, 0.004, 0.41, None)] == ["p < 0.001", "p = 0.004", "p = 0.41", ""]
