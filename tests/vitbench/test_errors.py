"""What a row says of an error: in one line, with its root."""

from __future__ import annotations

import pytest

from vitbench.errors import causes, named


def wrapped(*, explicit: bool, silent: bool = False) -> BaseException:
    """What a library raises of a KeyError: from it, in its handling, or in its place."""
    try:
        try:
            raise KeyError("the root")
        except KeyError as root:
            if explicit or silent:
                raise RuntimeError("step 3/3 failed\nNext steps") from (None if silent else root)
            raise RuntimeError("step 3/3 failed\nNext steps")  # noqa: B904 - as libraries do
    except RuntimeError as error:
        return error


@pytest.mark.parametrize("explicit", [True, False])
def test_the_root_of_an_error_is_named(explicit: bool) -> None:
    """Beside what was raised of it, whether that says so or not."""
    error = wrapped(explicit=explicit)
    assert named(error) == "RuntimeError: step 3/3 failed; raised from KeyError: 'the root'"
    assert [type(cause) for cause in causes(error)] == [RuntimeError, KeyError]


def test_what_was_raised_in_place_of_another() -> None:
    """Its author meant that one to be silent."""
    assert named(wrapped(explicit=False, silent=True)) == "RuntimeError: step 3/3 failed"


def test_it_is_one_readable_line() -> None:
    """However long the messages are, and coloured; notes stand at its end."""
    error = wrapped(explicit=True)
    error.args = ("\x1b[96mlong \x1b[0m" * 1000,)
    error.add_note("raised at mine.py:3\nand more")
    line = named(error)
    assert line.startswith("RuntimeError: long long ")
    assert line.endswith("; raised from KeyError: 'the root'; raised at mine.py:3")
    assert "\x1b" not in line
    assert len(line) < 600
    assert len(line.splitlines()) == 1


def test_causes_that_go_round() -> None:
    """Each is named once."""
    first, second = ValueError("a"), ValueError("b")
    first.__cause__, second.__cause__ = second, first
    assert causes(first) == [first, second]


@pytest.mark.parametrize(
    ("message", "line"),
    [
        (
            "Exception from src/core/graph_rewrite.cpp:298:\n[Matcher] Check 'fits' failed "
            "at shape_inference.hpp:89:\nWhile validating node 'a':\nMask does not fit.\n\n",
            "Mask does not fit.",
        ),
        (
            "Check 'false' failed at src/report.cpp:151:\nIt failed:\n-- No rule: svd",
            "-- No rule: svd",
        ),
        ("Exception from src/core.cpp:84:\n\n", "Exception from src/core.cpp:84:"),
        ("mine.py:3: bad input\nand more", "mine.py:3: bad input"),
        ("two devices:\ncpu and cuda:0", "two devices:"),
    ],
)
def test_where_is_not_what(message: str, line: str) -> None:
    """A message that begins with a location in a source file ends with what went wrong."""
    assert named(RuntimeError(message)) == f"RuntimeError: {line}"
