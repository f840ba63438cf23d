"""The LM of the profile ``demo``: a deterministic stand-in, not a language model.

It exists so that the demo, the tests and the benchmarks run anywhere, without a key, and so that every request can be
read back from its log. It knows the answers to examples/questions.jsonl by heart; other texts it answers by small
rules (one sum, a word list, patterns for money and dates), and fields that it knows nothing about with made-up values
of the right type.
"""

from __future__ import annotations

import argparse
import json
import operator
import re
import sys
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from snakepit_bridge.exceptions import BridgeError, ConfigurationError
from snakepit_bridge.testing import STAND_IN, Answerer, AskedQuestion, RecordingLM

QUESTIONS = Path(__file__).parents[2] / "examples" / "questions.jsonl"

_SUM = re.compile(r"(-?\d[\d,]*(?:\.\d+)?)\s*([-+*/])\s*(-?\d[\d,]*(?:\.\d+)?)")
_OPERATIONS = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
}
_GLAD = re.compile(r"\b(?:amazing|beautiful|best|delicious|excellent|fantastic|great|happy|love|perfect|wonderful)\b")
_CROSS = re.compile(r"\b(?:awful|bad|broke|broken|crashed|disappointing|horrible|poor|rude|terrible|useless|worst)\b")
_MONTH = "(?:January|February|March|April|May|June|July|August|September|October|November|December)"
_DATE = re.compile(rf"\d{{4}}-\d\d-\d\d|\d{{1,2}} {_MONTH} \d{{4}}|{_MONTH} \d{{1,2}}, \d{{4}}")
_DATE_FORMS = ("%Y-%m-%d", "%d %B %Y", "%B %d, %Y")
_MONEY = re.compile(r"(?:[$£€]|EUR |USD )(\d[\d,]*(?:\.\d+)?)|(\d[\d,]*(?:\.\d+)?) ?(?:euros?|dollars?|EUR|USD)\b")
_COMPANY = re.compile(r"\b(?:from|to|by|at) ((?:[A-Z][\w&'-]+ ?){2,3})")


def demo_answerer(questions: Path = QUESTIONS) -> Answerer:
    """Return the stand-in's answerer: known questions by heart, others by rule.

    Args:
        questions: JSON lines with ``id``, ``inputs`` and ``expected``.

    Raises:
        ConfigurationError: the file isn't there or a line isn't such a question.
    """
    known = _read(questions)

    def answer(ask: AskedQuestion) -> Mapping[str, Any]:
        found = next((known[text] for text in map(_key, ask.inputs.values()) if text in known), None)
        values = dict(found["expected"]) if found else _by_rule(ask)
        source = f"known question {found['id']}" if found else "small rules"
        return values | {"reasoning": f"Answered from {source}; this is {STAND_IN}."}

    return answer


def _read(questions: Path) -> dict[str, dict[str, Any]]:
    try:
        lines = [json.loads(line) for line in questions.read_text(encoding="utf-8").splitlines() if line.strip()]
        return {_key(text): {"id": line["id"], "expected": line["expected"]} for line in lines for text in _texts(line)}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as problem:
        raise ConfigurationError(f"The demo's questions in {questions} can't be read: {problem!r}.") from problem


def _texts(line: Mapping[str, Any]) -> list[str]:
    return [text for text in line["inputs"].values() if isinstance(text, str)]


def _key(text: str) -> str:
    return " ".join(text.split())


def _by_rule(ask: AskedQuestion) -> dict[str, Any]:
    text = "\n".join(ask.inputs.values())
    rules = {"answer": _sum, "label": _label, "amount": _amount, "date": _date, "company": _company}
    values = {output.name: rules[output.name](text) for output in ask.layout.outputs if output.name in rules}
    fits = {output.name: output.schema.get("enum") for output in ask.layout.outputs}
    return {name: value for name, value in values.items() if value is not None and value in (fits[name] or [value])}


def _sum(text: str) -> float | None:
    match = _SUM.search(text)
    if match is None:
        return None
    with suppress(ZeroDivisionError):
        result = _OPERATIONS[match[2]](_number(match[1]), _number(match[3]))
        return int(result) if result == int(result) else result
    return None


def _number(text: str) -> float:
    return float(text.replace(",", ""))


def _label(text: str) -> str:
    score = len(_GLAD.findall(text.lower())) - len(_CROSS.findall(text.lower()))
    return "neutral" if score == 0 else "positive" if score > 0 else "negative"


def _amount(text: str) -> float | None:
    match = _MONEY.search(text)
    return _number(match[1] or match[2]) if match else None


def _date(text: str) -> str | None:
    match = _DATE.search(text)
    if match is None:
        return None
    for form in _DATE_FORMS:
        with suppress(ValueError):
            return datetime.strptime(match[0], form).date().isoformat()  # noqa: DTZ007 - a date has no zone
    return None


def _company(text: str) -> str | None:
    match = _COMPANY.search(text)
    return match[1].strip() if match else None


def _arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m workers.dev.stand_in_lm", description=f"The demo's LM: {STAND_IN}."
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free port; the line on stdout names it")
    parser.add_argument("--log", type=Path, help="file to which each request is appended as a JSON line")
    parser.add_argument("--latency-s", type=float, default=0.0, help="seconds before each answer")
    parser.add_argument("--jitter-s", type=float, default=0.0, help="up to that many seconds more")
    parser.add_argument("--keep", type=int, default=20_000, help="how many requests GET /requests remembers")
    parser.add_argument("--api-key-file", type=Path, help="file with the bearer key to ask for; none is asked without")
    parser.add_argument("--questions", type=Path, default=QUESTIONS, help="JSON lines of questions and their answers")
    return parser.parse_args(arguments)


def _server(chosen: argparse.Namespace) -> RecordingLM:
    return RecordingLM(
        demo_answerer(chosen.questions),
        host=chosen.host,
        port=chosen.port,
        api_key=chosen.api_key_file.read_text(encoding="utf-8").strip() if chosen.api_key_file else None,
        latency_s=chosen.latency_s,
        jitter_s=chosen.jitter_s,
        keep=chosen.keep,
        file=chosen.log,
    )


def _announce(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main(arguments: list[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; the first line on stdout is JSON with ``url``, ``host`` and ``port``."""
    try:
        _server(_arguments(arguments)).serve_forever(_announce)
    except (BridgeError, OSError) as problem:
        sys.stderr.write(f"{problem}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
