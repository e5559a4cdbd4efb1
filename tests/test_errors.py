"""What a user is told: one line, of words that are not Python's."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chainrule.errors import LONGEST, UserError, find_reason


@given(st.text(max_size=3000), st.text(max_size=3000) | st.none())
def test_a_sentence_is_one_line_of_at_most_so_many_letters(cause: str, cure: str | None) -> None:
    said = str(UserError(cause, cure))
    assert said.isprintable()
    assert len(said) <= 2 * LONGEST + 2


@pytest.mark.parametrize(
    "error",
    [
        AttributeError("'NoneType' object has no attribute 'config'"),
        OSError("Can't load it: 'int' object has no attribute 'pop'"),
        ValueError("f() got an unexpected keyword argument 'beta'"),
        RuntimeError("f() takes 1 positional argument but 2 were given"),
    ],
)
def test_what_python_says_is_not_passed_on(error: Exception) -> None:
    assert find_reason(error) == "it is not of the kind that is expected"


def test_a_class_is_called_by_its_name() -> None:
    found = find_reason(ValueError("x is not for <class 'pathlib.Path'> or <class 'int'>"))
    assert found == "x is not for Path or int"
