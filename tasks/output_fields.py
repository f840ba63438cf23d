"""Incremental parsers for the output fields of a streamed answer.

DSPy's stream listeners buffer ten chunks: they take ``[[`` in a text for the end of its field, leave JSON's quotes and
escapes in, and lose an answer that comes in one chunk. These parsers read characters, and yield exactly the text that
the adapter's own ``parse`` returns in the end, however the provider splits its answer.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Collection, Iterator
from typing import Protocol

Text = tuple[str, str]
"""A field's name, and the next part of its text."""


class FieldReader(Protocol):
    """Incremental parser for one adapter's format."""

    def feed(self, text: str) -> Iterator[Text]:
        """Parse the next part of the answer; yield text that is certain."""
        ...

    def end(self) -> Iterator[Text]:
        """Yield the remaining text at the end of the answer."""
        ...


class _Stripper:
    """Strips leading and trailing whitespace of a field's text, as adapters do."""

    def __init__(self) -> None:
        self._pending = ""
        self._started = False

    def feed(self, text: str) -> str:
        text = self._pending + text if self._started else text.lstrip()
        certain = text.rstrip()
        self._pending = text[len(certain) :] if certain or self._started else ""
        self._started = self._started or bool(certain)
        return certain


# ---------------------------------------------------------------- headers

_HEADER = re.compile(r"\[\[ ## (\w+) ## \]\]")
_OPENS, _CLOSES = "[[ ## ", " ## ]]"
_BREAK = re.compile(r"\r\n|[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]")


def _may_be_header(beginning: str) -> bool:
    """Return whether the beginning of a line can still become a header."""
    if len(beginning) <= len(_OPENS):
        return _OPENS.startswith(beginning)
    name = re.match(r"\w*", beginning.removeprefix(_OPENS))
    if not beginning.startswith(_OPENS) or name is None:
        return False
    rest = beginning[len(_OPENS) + name.end() :]
    return rest != _CLOSES and _CLOSES.startswith(rest)


class ChatFields:
    """Fields under header lines, in the format of ``ChatAdapter``; a repeated field is ignored.

    Args:
        names: the fields to read.
    """

    def __init__(self, names: Collection[str]) -> None:
        self._names = names
        self._line = ""
        self._is_checked = False
        self._field: str | None = None
        self._seen: set[str] = set()
        self._text = _Stripper()

    def feed(self, text: str) -> Iterator[Text]:
        """Parse the next part of the answer; yield text that is certain."""
        self._line += text
        while (match := _BREAK.search(self._line)) is not None:
            if match[0] == "\r" and match.end() == len(self._line):
                break  # a line feed may follow
            line, self._line = self._line[: match.start()], self._line[match.end() :]
            yield from self._read_line(line, whole=True)
            yield from self._emit("\n")
            self._is_checked = False
        if self._line and not self._line.endswith("\r"):
            yield from self._read_partial_line()

    def end(self) -> Iterator[Text]:
        """Yield the remaining text at the end of the answer."""
        line, self._line = self._line, ""
        yield from self._read_line(line.rstrip("\r"), whole=True)

    def _read_partial_line(self) -> Iterator[Text]:
        """Read an incomplete line, unless it may still become a header."""
        bare = self._line.lstrip()
        if not self._is_checked and (not bare or _may_be_header(bare)):
            return
        line, self._line = self._line, ""
        yield from self._read_line(line, whole=False)

    def _read_line(self, line: str, *, whole: bool) -> Iterator[Text]:
        header = None if self._is_checked else _HEADER.match(line.strip() if whole else line.lstrip())
        self._is_checked = True
        if header is None:
            yield from self._emit(line)
            return
        name = header[1]
        self._field = name if name in self._names and name not in self._seen else None
        self._seen.add(name)
        self._text = _Stripper()
        yield from self._emit(line.lstrip()[header.end() :])

    def _emit(self, text: str) -> Iterator[Text]:
        if self._field is not None and (certain := self._text.feed(text)):
            yield self._field, certain


# ---------------------------------------------------------------- JSON

_ESCAPES = {'"': '"', "\\": "\\", "/": "/", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}


class JSONFields:
    """String fields of a JSON object, in the format of ``JSONAdapter``; other values are ignored.

    Args:
        names: the fields to read.
    """

    def __init__(self, names: Collection[str]) -> None:
        self._names = names
        self._depth = 0
        self._string: list[str] | None = None
        self._escape = ""
        self._key: str | None = None
        self._is_key = False

    def feed(self, text: str) -> Iterator[Text]:
        """Parse the next part of the answer; yield text that is certain."""
        certain: list[str] = []
        for character in text:
            if self._string is None:
                self._read_structure(character)
                continue
            decoded = self._read_string(character)
            if decoded is None:  # the text has ended
                if certain and self._key is not None:
                    yield self._key, "".join(certain)
                certain = []
                self._end_string()
            elif decoded and not self._is_key and self._key is not None:
                certain.append(decoded)
        if certain and self._key is not None:
            yield self._key, "".join(certain)

    def end(self) -> Iterator[Text]:
        """Yield nothing: an unterminated string was yielded already."""
        yield from ()

    def _read_structure(self, character: str) -> None:
        if character == '"' and self._depth:
            self._string = []
        elif character in "{[":
            self._depth += self._depth > 0 or character == "{"
        elif character in "}]" and self._depth:
            self._depth -= 1
        elif character == "," and self._depth == 1:
            self._key, self._is_key = None, True
        elif character == ":" and self._depth == 1:
            self._is_key = False
        if character == "{" and self._depth == 1:
            self._is_key = True

    def _read_string(self, character: str) -> str | None:
        """Return the decoded character of a string, empty within an escape, None at the end of the string."""
        if self._escape:
            self._escape += character
            whole = len(self._escape) == (6 if self._escape[1] == "u" else 2)
            return self._decode_escape() if whole else ""
        if character == "\\":
            self._escape = character
            return ""
        if character == '"':
            return None
        assert self._string is not None
        if self._is_key:
            self._string.append(character)
        return character

    def _decode_escape(self) -> str:
        escape, self._escape = self._escape, ""
        if escape[1] != "u":
            decoded = _ESCAPES.get(escape[1], escape)
        else:
            try:
                decoded = str(json.loads(f'"{escape}"'))
            except ValueError:
                decoded = escape
        if self._is_key and self._string is not None:
            self._string.append(decoded)
        return decoded

    def _end_string(self) -> None:
        if self._depth == 1 and self._is_key and self._string is not None:
            name = "".join(self._string)
            self._key = name if name in self._names else None
        elif self._depth == 1:
            self._key = None
        self._string = None


# ---------------------------------------------------------------- XML


class XMLFields:
    """Texts between tags, in the format of ``XMLAdapter``.

    Args:
        names: the fields to read.
    """

    def __init__(self, names: Collection[str]) -> None:
        self._opening = {f"<{name}>": name for name in names}
        self._rest = ""
        self._field: str | None = None
        self._text = _Stripper()

    def feed(self, text: str) -> Iterator[Text]:
        """Parse the next part of the answer; yield text that is certain."""
        self._rest += text
        while self._rest:
            before = self._field
            if self._field is None:
                self._open()
            else:
                yield from self._close(self._field)
            if self._field is before:
                return

    def end(self) -> Iterator[Text]:
        """Yield the remaining text at the end of the answer."""
        if self._field is not None and (certain := self._text.feed(html.unescape(self._rest))):
            yield self._field, certain
        self._rest = ""

    def _open(self) -> None:
        matches = [(place, tag) for tag in self._opening if (place := self._rest.find(tag)) >= 0]
        if not matches:
            self._rest = self._rest[-max(map(len, self._opening), default=0) :]
            return
        place, tag = min(matches)
        self._rest = self._rest[place + len(tag) :]
        self._field = self._opening.pop(tag)
        self._text = _Stripper()

    def _close(self, name: str) -> Iterator[Text]:
        closing = f"</{name}>"
        place = self._rest.find(closing)
        end = place if place >= 0 else self._certain_length(closing)
        inside, self._rest = self._rest[:end], self._rest[end:]
        if certain := self._text.feed(html.unescape(inside)):
            yield name, certain
        if place >= 0:
            self._rest = self._rest[len(closing) :]
            self._field = None

    def _certain_length(self, closing: str) -> int:
        """Return the length of the text that can't be the beginning of the closing tag or of an entity."""
        tag = self._rest.rfind("<")
        entity = self._rest.rfind("&")
        end = len(self._rest)
        if tag >= 0 and closing.startswith(self._rest[tag:]):
            end = tag
        if entity >= 0 and ";" not in self._rest[entity:] and len(self._rest) - entity <= 10:
            end = min(end, entity)
        return end
