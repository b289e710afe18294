"""The words of a text, in any script: what two instructions share if they are the same.

Case, punctuation and spaces do not matter; everything else does. A number is a word, with its sign
and decimals, and so is each symbol (an arrow, a degree, an emoji) and each character of a script
that is written without spaces.
"""

from __future__ import annotations

import re
import unicodedata

_MINUS = re.compile(r"[\u2010-\u2014\u2212](?=\d)")  # other ways to write the one of "-5"
_NUMBER = re.compile(r"(?:(?<![^\s(])-)?\d+(?:[.,:]\d+)*")  # but "2-5" has no minus
_BY_CHARACTER = ("CJK", "HIRAGANA", "KATAKANA")  # names of such letters begin so


def words_of(text: str) -> list[str]:
    """Words of a text: normalised (NFKC), without case, without punctuation."""
    text = unicodedata.normalize("NFKC", text).casefold()
    text = _MINUS.sub("-", unicodedata.normalize("NFKC", text))
    words: list[str] = []
    place = 0
    goes_on = False  # whether a letter would belong to the last word
    while place < len(text):
        if number := _NUMBER.match(text, place):
            words.append(number.group())
            place, goes_on = number.end(), False
            continue
        char = text[place]
        kind = unicodedata.category(char)
        place += 1
        if kind[0] in "LN" or kind in ("Mn", "Mc"):
            if unicodedata.name(char, "").startswith("VARIATION SELECTOR"):
                continue
            if goes_on:
                words[-1] += char
            else:
                words.append(char)
            goes_on = not unicodedata.name(char, "").startswith(_BY_CHARACTER)
        elif kind in ("Sm", "Sc", "So", "Co", "Cn") or char in "%\u2030":
            words.append(char)
            goes_on = False
        elif kind != "Cf" or char == "\u200b":  # a soft hyphen, say, ends no word
            goes_on = False
    return words
