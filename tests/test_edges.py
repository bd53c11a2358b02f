"""Values at the edge of what can be written: each is taken or refused in one short sentence, and nothing else."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gnsnn_jax.errors import LISTED, LONGEST_NAME, InputError, at_least_one, listed, nearest, printable, shown

NESTED = []
for _ in range(5000):
    NESTED = [NESTED]
HOLDS_ITSELF = {}
HOLDS_ITSELF["itself"] = HOLDS_ITSELF


def is_plain(text):
    """On one line, short, and without anything that moves the cursor of a terminal."""
    return text.isprintable() and len(text) <= 10 * LONGEST_NAME


# Foreign names in sentences.


@given(st.text() | st.integers() | st.floats() | st.binary() | st.lists(st.text()))
@example("\x1b[31m\x07\r\n")
@example("a" * 5000)
@example("\udc80\u202e")
def test_any_value_is_shown_on_one_short_line(value):
    assert is_plain(shown(value))
    assert is_plain(printable(value))
    if isinstance(value, str):
        assert is_plain(nearest(value, [value]))
        assert printable(value) == value or len(value) > LONGEST_NAME or not value.isprintable()


@pytest.mark.parametrize(
    "value",
    [10**5000, -(10**5000), NESTED, HOLDS_ITSELF, np.zeros((100, 100))],
    ids=["above", "below", "nested", "holds itself", "array"],
)
def test_values_that_python_cannot_show_are_shown_too(value):
    assert is_plain(shown(value))
    assert is_plain(printable(value))


@pytest.mark.parametrize("value", ["conv1.0.weight", 4, -1.5, None, True, [1, 2], ("a",), {"a": 1}])
def test_what_is_short_and_plain_is_shown_as_python_writes_it(value):
    assert shown(value) == repr(value)


@given(st.lists(st.text(st.characters(exclude_characters=",")), max_size=3 * LISTED))
@example([f"left{n}" for n in range(1000)])
def test_long_lists_count_what_they_leave_out(names):
    found = listed(names)
    assert is_plain(found)
    kept, _, rest = found.partition(f" and {len(names) - LISTED} more") if len(names) > LISTED else (found, "", "")
    assert len(kept.split(", ")) == max(1, min(len(names), LISTED)) or any(" " in name for name in names)
    assert rest == ""


@pytest.mark.parametrize("value", [10**5000, -(10**5000)], ids=["above", "below"])
def test_counts_of_any_length_are_refused(value):
    with pytest.raises(InputError, match=r"steps must be at (most 1000000|least 1), got an integer of 16610 bits"):
        at_least_one("steps", value)
