"""Title case for American English, by Unicode's word boundaries: `o'neil's FOO-bar` becomes `O'neil's Foo-Bar`."""

from __future__ import annotations

import unicodedata
from typing import Final

# A dot, a colon or an apostrophe between letters does not end a word; a hyphen does.
_WITHIN: Final = frozenset("'.:\u00b7\u0387\u05f4\u2018\u2019\u2024\u2027\ufe13\ufe52\ufe55\uff07\uff0e\uff1a")


def title(text: str) -> str:
    """Return `text` with the first letter of each word in upper case and the others in lower case."""
    parts: list[str] = []
    start = 0
    for at, char in enumerate(text):
        if _in_word(char) or (
            char in _WITHIN and at > start and _in_word(text[at - 1]) and _in_word(text[at + 1 : at + 2])
        ):
            continue
        parts += (_titled(text[start:at]), char)
        start = at + 1
    return "".join([*parts, _titled(text[start:])])


def _in_word(char: str) -> bool:
    return char.isalnum() or char == "_" or unicodedata.category(char or " ").startswith("M")


def _titled(word: str) -> str:
    for index, char in enumerate(word):
        if char.lower() != char or char.upper() != char:
            return word[:index] + char.title() + _lower(word[index + 1 :])
    return word


def _lower(rest: str) -> str:
    """Return the rest of a word in lower case; at its end a sigma is another letter."""
    if "\u03a3" not in rest:
        return rest.lower()
    # The letter in front tells Python that the sigma does not stand alone.
    return "".join(
        ("a" + rest[index:]).lower()[1] if char == "\u03a3" else char.lower() for index, char in enumerate(rest)
    )
