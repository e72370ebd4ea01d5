"""Text of a user's, harmless wherever it is shown: names of files, settings, messages of errors."""

from __future__ import annotations

import re
import unicodedata

# Control and format characters, line ends, halves of a character, those of no meaning.
_INVISIBLE = {"Cc", "Cf", "Cs", "Cn", "Co", "Zl", "Zp"}
# What Markdown, or GitHub, takes for more than itself: signs, links, numbers of issues.
_MARKDOWN = re.compile(
    r"[\\`*\[\]<>|&~$@]|(?<![^\W_])_|_(?![^\W_])|:(?=//)|(?i:(?<=mailto)|(?<=xmpp)):"
    r"|(?i:(?<=ww)w(?=\.))|#(?=\d)|(?i:(?<=gh))-(?=\d)"
)
# With these a spreadsheet begins a formula; the last four are their wide forms.
_FORMULA = re.compile(r"\s*[=+\-@\uff1d\uff0b\uff0d\uff20]|[\t\r]")


def visible(text: str) -> str:
    """On one line, in the order in which it is read: what is invisible, or turns the direction of
    writing, stands as its code."""
    if text.isprintable():
        return text
    return "".join(
        _code(char) if unicodedata.category(char) in _INVISIBLE else char for char in text
    )


def _code(char: str) -> str:
    return "\\n" if char == "\n" else f"\\u{ord(char):04x}"


def markdown(text: str) -> str:
    """As Markdown, and in a cell of its tables, that shows the text and nothing else."""
    return _MARKDOWN.sub(_escaped, visible(text))


def _escaped(match: re.Match[str]) -> str:
    char = match[0]
    if char == "@":  # GitHub looks for names of users in what is shown
        return "@<!-- -->"
    return f"\\{char}" if char in "`*[]|~_#" else f"&#{ord(char)};"


def spreadsheet(text: str) -> str:
    """As the cell of a CSV file that no spreadsheet takes for a formula; its lines end alike."""
    text = f"'{text}" if _FORMULA.match(text) else text
    return text.replace("\r\n", "\n").replace("\r", "\n")
