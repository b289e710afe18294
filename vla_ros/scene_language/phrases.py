"""Templates with slots: values become words in one of many phrasings, and words values again."""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Iterator, Mapping, Sequence

Values = Mapping[str, object]


class Slot:
    """The phrases for the values that may stand in one place of a template.

    Args:
        phrases: for each value its phrases, lower-case words separated by spaces.

    Raises:
        ValueError: two values have the same phrase, so that it could not be read.
    """

    def __init__(self, phrases: Mapping[object, Sequence[str]]) -> None:
        self.phrases = {
            value: [tuple(text.split()) for text in texts] for value, texts in phrases.items()
        }
        self.values: dict[str, object] = {}
        for value, texts in phrases.items():
            for text in texts:
                if self.values.setdefault(text, value) != value:
                    raise ValueError(f"'{text}' means both {self.values[text]} and {value}")
        longest_first = sorted(self.values, key=len, reverse=True)
        self.pattern = "|".join(re.escape(text) for text in longest_first)


class Grammar:
    """Kinds of statements, each with templates such as "{subject} is {relation} {landmark}".

    A template's words are separated by spaces. Punctuation is said, but need not be there when
    words are read. Slots of the same phrases are told apart by a digit: "landmark2" is filled as
    "landmark" is.

    Args:
        slots: by the name that templates use.
        templates: for each kind its templates.
    """

    def __init__(
        self, slots: Mapping[str, Slot], templates: Mapping[object, Sequence[str]]
    ) -> None:
        self._slots = dict(slots)
        self._templates: dict[object, list[tuple[str, ...]]] = {}
        self._patterns: list[tuple[object, re.Pattern[str]]] = []
        for kind, texts in templates.items():
            self._templates[kind] = [tuple(text.split()) for text in texts]
            for text in self._templates[kind]:
                self._patterns.append((kind, re.compile(self._pattern(text))))

    def _pattern(self, template: Sequence[str]) -> str:
        parts = []
        for word in template:
            if word.startswith("{"):
                name = word[1:-1]
                parts.append(f"(?P<{name}>{self._slots[_table(name)].pattern})")
            elif word.isalnum():
                parts.append(word)
        return " ".join(parts)

    def words(self) -> set[str]:
        """All that the grammar can say or read."""
        said = {w for texts in self._templates.values() for text in texts for w in text}
        for slot in self._slots.values():
            said |= {word for text in slot.values for word in text.split()}
        return {word for word in said if not word.startswith("{")}

    def say(self, kind: object, values: Values, rng: random.Random | None = None) -> list[str]:
        """Words and punctuation for `values` by slot name: the first phrasing, or one of `rng`.

        Raises:
            ValueError: no template of this kind can say these values.
        """
        for template in self._shuffled(kind, rng):
            words: list[str] = []
            for part in template:
                if part[0] != "{":
                    words.append(part)
                    continue
                phrases = self._slots[_table(part[1:-1])].phrases.get(values[part[1:-1]])
                if phrases is None:
                    break
                words += phrases[0] if rng is None else _pick(phrases, rng)
            else:
                return words
        raise ValueError(f"nothing says {kind} of {dict(values)}")

    def _shuffled(self, kind: object, rng: random.Random | None) -> Iterator[tuple[str, ...]]:
        templates = self._templates[kind]
        if rng is None:
            yield from templates
            return
        yield _pick(templates, rng)
        yield from rng.sample(templates, len(templates))  # seldom needed: the first one fits mostly

    def phrasings(self, kind: object, values: Values) -> Iterator[list[str]]:
        """All that `say` may return."""
        for template in self._templates[kind]:
            choices = []
            for part in template:
                if part[0] != "{":
                    choices.append([(part,)])
                else:
                    slot = self._slots[_table(part[1:-1])]
                    choices.append(slot.phrases.get(values[part[1:-1]], []))
            for chosen in itertools.product(*choices):
                yield [word for words in chosen for word in words]

    def parse(self, words: Sequence[str]) -> list[tuple[object, dict[str, object]]]:
        """Kinds and values that are said by `words` (punctuation is passed over), in all ways."""
        text = " ".join(word for word in words if word.isalnum())
        found = []
        for kind, pattern in self._patterns:
            match = pattern.fullmatch(text)
            if match:
                values = {
                    name: self._slots[_table(name)].values[said]
                    for name, said in match.groupdict().items()
                }
                if (kind, values) not in found:
                    found.append((kind, values))
        return found


def _table(name: str) -> str:
    return name.rstrip("0123456789")


def _pick(options: Sequence, rng: random.Random):
    return options[int(rng.random() * len(options))]
