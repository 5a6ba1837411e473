"""A value keeps its setting's type and bounds, or is refused in words that say what would do."""

import math
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from videomae2.bounds import SHOWN, Between, Lasting, expectation, fit, from_words, shown

COUNT = Annotated[int, Between(1, 64)]
BELOW_ONE = Annotated[float, Between(0, 1, below=True)]
PAIR = Annotated[tuple[float, float], Between(0, 1)]
MAYBE = Annotated[int | None, Between(1, 64)]
DURATION = Annotated[int | str, Lasting()]
CHOICE = Literal["dense", "segments"]


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        (COUNT, 1, 1),
        (COUNT, 64, 64),
        (BELOW_ONE, 0, 0.0),
        (BELOW_ONE, 0.999, 0.999),
        (PAIR, [0, 1], (0.0, 1.0)),
        (MAYBE, None, None),
        (MAYBE, 3, 3),
        (DURATION, 12000, 12000),
        (DURATION, "0.5ep", "0.5ep"),
        (DURATION, " 5 % ", " 5 % "),
        (DURATION, "100", "100"),
        (CHOICE, "dense", "dense"),
        (bool, False, False),
        (str, "", ""),
    ],
)
def test_what_fits(kind: Any, value: Any, expected: Any) -> None:
    found = fit(kind, value)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("kind", "value", "words"),
    [
        (COUNT, 0, "expected a whole number from 1 to 64, got 0"),
        (COUNT, 65, "expected a whole number from 1 to 64, got 65"),
        (COUNT, 3.0, "expected a whole number from 1 to 64, got 3.0"),
        (COUNT, True, "expected a whole number from 1 to 64, got True"),
        (COUNT, None, "got None"),
        (BELOW_ONE, 1, "expected a number from 0 to below 1, got 1"),
        (BELOW_ONE, -1e-9, "got -1e-09"),
        (BELOW_ONE, math.nan, "got nan"),
        (BELOW_ONE, math.inf, "got inf"),
        (BELOW_ONE, "0.5", "got '0.5'"),
        (PAIR, [0.5], "expected 2 numbers from 0 to 1, got [0.5]"),
        (PAIR, [0.5, 0.6, 0.7], "got [0.5, 0.6, 0.7]"),
        (PAIR, [0.5, 2], "got [0.5, 2]"),
        (PAIR, 0.5, "got 0.5"),
        (MAYBE, 0, "expected a whole number from 1 to 64 or none, got 0"),
        (
            DURATION,
            -1,
            'expected a duration such as 12000 (optimizer steps), "30ep" (epochs) or "5%" (of the run)',
        ),
        (DURATION, 1.5, "got 1.5"),
        (DURATION, "1.5", "got '1.5'"),
        (DURATION, "2 parsecs", "got '2 parsecs'"),
        (DURATION, "9999999999ep", "got '9999999999ep'"),
        (DURATION, 2 * 10**9, "got 2000000000"),
        (DURATION, "-3ep", "got '-3ep'"),
        (CHOICE, "sparse", "expected one of dense, segments, got 'sparse'"),
        (CHOICE, ["dense"], "got ['dense']"),
        (bool, 1, "expected true or false, got 1"),
        (str, 3, "expected text, got 3"),
    ],
)
def test_what_does_not_fit_is_told_in_words(kind: Any, value: Any, words: str) -> None:
    with pytest.raises(ValueError, match="expected ") as caught:
        fit(kind, value)
    assert words in str(caught.value)


@given(st.one_of(st.integers(), st.floats(), st.integers(10**400, 10**401)))
def test_a_number_fits_exactly_where_it_lies_between_the_bounds(number: int | float) -> None:
    for kind, inside in ((COUNT, 1 <= number <= 64 and type(number) is int), (BELOW_ONE, 0 <= number < 1)):
        try:
            assert fit(kind, number) == number
            fitted = True
        except ValueError:
            fitted = False
        assert fitted == inside


@given(
    st.one_of(
        st.text(), st.integers(), st.floats(), st.lists(st.text()), st.dictionaries(st.text(), st.none())
    )
)
def test_whatever_comes_is_shown_on_one_short_line(value: object) -> None:
    assert "\n" not in shown(value)
    assert len(shown(value)) < SHOWN + 40


def test_what_python_itself_will_not_write_out_is_shown_by_its_type() -> None:
    nested: Any = []
    for _ in range(100_000):
        nested = [nested]
    assert shown(nested) == "something too large to show (list)"
    assert shown(1 << 100_000) == "something too large to show (int)"
    assert shown("x" * 1000) == "'" + "x" * (SHOWN - 1) + "... (1002 characters)"


@pytest.mark.parametrize(
    ("kind", "words", "expected"),
    [
        (COUNT, ["3"], 3),
        (COUNT, ["3.5"], 3.5),
        (COUNT, ["many"], "many"),
        (COUNT, ["1", "2"], ["1", "2"]),
        (COUNT, ["nan"], "nan"),
        (COUNT, ["9" * 5000], "9" * 5000),  # more digits than Python reads
        (MAYBE, ["None"], None),
        (PAIR, ["0.9", "0.95"], [0.9, 0.95]),
        (PAIR, ["0.9,0.95"], [0.9, 0.95]),
        (PAIR, ["a,b"], ["a", "b"]),
        (DURATION, ["12000"], 12000),
        (DURATION, ["30ep"], "30ep"),
        (bool, ["TRUE"], True),
        (bool, ["1"], "1"),
        (str, ["12"], "12"),
        (str, ["none"], "none"),
        (CHOICE, ["none"], "none"),
    ],
)
def test_words_become_what_the_type_asks_for(kind: Any, words: list[str], expected: Any) -> None:
    assert from_words(kind, words) == expected


def test_a_types_words() -> None:
    assert expectation(PAIR) == "2 numbers from 0 to 1"
    assert expectation(bool) == "true or false"
