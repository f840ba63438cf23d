"""Errors cross Celery's JSON result backend as themselves, and their docstring's tree is the whole tree."""

from __future__ import annotations

import dataclasses
import errno
import inspect
import json
import pickle
import re
from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery

from snakepit_bridge import exceptions
from snakepit_bridge.datasets.versions import DatasetReference
from snakepit_bridge.exceptions import (
    BridgeError,
    ConfigurationError,
    DatasetNotFoundError,
    DeadlineExceededError,
    InputError,
    LMError,
    LMUnavailableError,
    PredictionTimeoutError,
    ProgramNotFoundError,
    StoreUnavailableError,
    UnknownModuleError,
    ValidationError,
    VariableNotFoundError,
    copy_error,
    error_text,
    join_names,
    suggest_name,
)
from snakepit_bridge.programs.registry import Reference

SAMPLES: dict[str, Any] = {"str": "some text", "int": 7, "float": 1.5, "bool": True, "Sequence[str]": ("one", "two")}


def subclasses(kind: type[BridgeError]) -> Iterator[type[BridgeError]]:
    for child in kind.__subclasses__():
        yield child
        yield from subclasses(child)


KINDS = [BridgeError, *sorted(set(subclasses(BridgeError)), key=lambda kind: kind.__name__)]
OURS = [kind for kind in KINDS if kind.__module__ == exceptions.__name__]


def sample(kind: type[BridgeError]) -> BridgeError:
    if not dataclasses.is_dataclass(kind):
        return kind("what happened, and what to do")
    return kind(*(SAMPLES[str(field.type)] for field in dataclasses.fields(kind)))


@pytest.fixture(scope="module")
def backend() -> Any:
    return Celery(backend="cache+memory://", set_as_current=False).backend


@pytest.mark.parametrize("kind", OURS, ids=lambda kind: kind.__name__)
def test_an_error_crosses_the_result_backend_as_itself(backend: Any, kind: type[BridgeError]) -> None:
    error = sample(kind)
    stored = json.loads(json.dumps(backend.prepare_exception(error, "json")))
    back = backend.exception_to_python(stored)
    assert type(back) is kind
    assert str(back) == str(error)
    assert list(back.args) == [list(arg) if isinstance(arg, tuple) else arg for arg in error.args]
    for field in dataclasses.fields(kind) if dataclasses.is_dataclass(kind) else ():
        sent, got = getattr(error, field.name), getattr(back, field.name)
        assert list(got) == list(sent) if isinstance(sent, tuple) else got == sent


@pytest.mark.parametrize("kind", OURS, ids=lambda kind: kind.__name__)
def test_an_error_travels_between_processes_of_a_pool(kind: type[BridgeError]) -> None:
    error = sample(kind)
    back = pickle.loads(pickle.dumps(error))  # noqa: S301 - what prefork does with a child's error
    assert type(back) is kind
    assert (back.args, str(back)) == (error.args, str(error))


@pytest.mark.parametrize("kind", OURS, ids=lambda kind: kind.__name__)
def test_a_message_is_one_line_that_holds_what_was_found(kind: type[BridgeError]) -> None:
    error = sample(kind)
    assert "\n" not in str(error)
    if dataclasses.is_dataclass(kind):
        texts = [value for value in error.args if isinstance(value, str)]
        assert any(text in str(error) for text in texts)


def test_the_docstring_draws_the_whole_tree() -> None:
    bases: dict[str, str | None] = {}
    path: list[str] = []
    for line in (exceptions.__doc__ or "").splitlines():
        match = re.match(r"^    ((?:│   |    )*)(?:[├└]── )?([A-Z]\w+)", line)
        if match is None:
            continue
        depth = 0 if "──" not in line else len(match[1]) // 4 + 1
        path = [*path[:depth], match[2]]
        bases[match[2]] = path[depth - 1] if depth else None
    assert set(bases) == {kind.__name__ for kind in OURS}
    for kind in OURS[1:]:
        assert bases[kind.__name__] in {base.__name__ for base in kind.__bases__}


def test_the_docstring_names_the_built_in_that_each_also_is() -> None:
    text = exceptions.__doc__ or ""
    for kind in OURS:
        also = [base.__name__ for base in kind.__bases__ if base.__module__ == "builtins" and base is not Exception]
        [line] = re.findall(rf"^.*\b{kind.__name__}\b.*$", text, re.MULTILINE)
        inherited = [name for name in also if not any(name == base.__name__ for base in kind.__bases__[0].__mro__)]
        assert re.findall(r"\(also (\w+)\)", line) == inherited


def test_every_error_has_a_docstring_of_its_own() -> None:
    assert [kind.__name__ for kind in OURS if not inspect.getdoc(kind) or "__doc__" not in vars(kind)] == []


def test_errors_are_caught_by_the_built_in_that_they_also_are() -> None:
    assert isinstance(ValidationError("v", "1", "rule"), ValueError)
    assert isinstance(InputError("p", "f", "problem"), ValueError)
    assert isinstance(VariableNotFoundError("v"), ValueError)
    assert isinstance(DeadlineExceededError("id", 1.0), TimeoutError)
    assert isinstance(PredictionTimeoutError("id", 1.0), TimeoutError)
    assert isinstance(StoreUnavailableError("url", "refused"), ConnectionError)
    assert isinstance(LMUnavailableError("m", "c", "text"), LMError)


def test_fields_left_out_take_their_defaults_and_stay_in_args() -> None:
    error = LMUnavailableError("model", "code", "text")
    assert error.args == ("model", "code", "text", 0, 0.0, "", 0)
    assert "HTTP" not in str(error)
    assert "(HTTP 503)" in str(LMUnavailableError("model", "code", "text", 503))


def test_a_misspelt_name_is_answered_with_the_nearest_one() -> None:
    assert suggest_name("temprature", ["temperature", "model"]) == " Did you mean 'temperature'?"
    assert suggest_name("zzz", ["temperature"]) == ""
    no_name: Any = None
    assert str(VariableNotFoundError(no_name, "shop", ("warmth",))).startswith("Variable not found: None in session")
    assert "Did you mean 'answers'" in str(ProgramNotFoundError("answer", ("answers", "qa")))
    assert "Did you mean 'Predict'" in str(UnknownModuleError("Predct", ("Predict", "ReAct")))


def test_a_reference_that_cant_be_any_is_not_called_unregistered() -> None:
    with pytest.raises(ProgramNotFoundError, match=r"^Program not found: 'qa:-1': a reference reads NAME, ") as raised:
        Reference.parse("qa:-1")
    assert "Registered: none" not in str(raised.value)
    with pytest.raises(DatasetNotFoundError, match=r"^Dataset not found: 'golden:x': a reference reads NAME or "):
        DatasetReference.parse("golden:x")


def test_a_broker_that_is_away_is_called_what_it_is() -> None:
    text = str(StoreUnavailableError("amqp://h//", "refused"))
    assert text == "RabbitMQ at amqp://h// is away: refused. Start it, or name another one with --broker-url."


def test_a_long_list_of_names_is_cut_where_it_would_stop_being_readable() -> None:
    assert join_names([]) == "none"
    assert join_names(["b", "a"]) == "a, b"
    assert join_names(map(str, range(100, 115))).endswith("111 and 3 more")


def test_an_error_with_a_message_alone_says_just_that() -> None:
    assert str(ConfigurationError("Set the key.")) == "Set the key."
    assert str(BridgeError("plain")) == "plain"


# ---------------------------------------------------------------- one error for each who raises it


class ToldInWords(Exception):
    """Its ``__init__`` takes other arguments than its ``args``, and adds to them at each call."""

    def __init__(self, status: int, *, body: str) -> None:
        super().__init__(f"HTTP {status}")
        self.status, self.body = status, body


class Slotted(OSError):
    __slots__ = ("path",)

    def __init__(self, code: int, path: str) -> None:
        super().__init__(code, "no such thing")
        self.path = path


class Uncopyable(Exception):
    def __new__(cls, *args: Any) -> Uncopyable:
        if args != ("the one",):
            raise TypeError("there is one alone")
        return super().__new__(cls, *args)

    def __init__(self, *args: Any) -> None:
        super().__init__(f"{args[0]} and only")


def _not_unicode() -> BaseException:
    try:
        b"\xff".decode()
    except UnicodeDecodeError as exc:
        return exc
    raise AssertionError


def raised(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as exc:  # noqa: BLE001
        return exc


@pytest.mark.parametrize(
    "error",
    [
        *(sample(kind) for kind in OURS),
        LookupError("as told"),
        KeyError("name"),
        OSError(errno.EMFILE, "Too many open files", "socket"),
        _not_unicode(),
        ImportError("no module", name="dspy", path="/x"),
        ToldInWords(503, body="down"),
        Slotted(errno.ENOENT, "/tmp/x"),
        ExceptionGroup("several", [LookupError("one"), KeyError("two")]),
        SystemExit(3),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_fresh_error_is_another_one_of_the_same_kind_text_and_fields(error: BaseException) -> None:
    cause = LookupError("cause")
    error.__cause__ = cause
    error.add_note("noted")
    raised(error)
    twin = copy_error(error)

    assert twin is not error
    assert (type(twin), str(twin), twin.args) == (type(error), str(error), error.args)
    for name in ("status", "body", "path", "errno", "filename", "object", "name", "code", "exceptions"):
        assert getattr(twin, name, None) == getattr(error, name, None)
    assert twin.__cause__ is cause
    assert twin.__suppress_context__
    assert twin.__traceback__ is None
    assert error.__traceback__ is not None
    twin.add_note("of the twin alone")
    assert error.__notes__ == ["noted"]


def test_what_an_error_was_given_beside_its_fields_is_kept() -> None:
    error = LMUnavailableError("m", "c", "text")
    error.again_in_s = 3.0
    assert copy_error(error).again_in_s == 3.0


def test_an_error_that_cant_be_copied_comes_back_as_ours_with_its_type_and_text() -> None:
    error = Uncopyable("the one")
    twin = copy_error(error)
    assert type(twin) is BridgeError  # type: ignore[comparison-overlap]
    assert str(twin) == "Uncopyable: the one and only"


class Unprintable(Exception):
    """An exception of a stranger's that can't say anything."""

    def __str__(self) -> str:
        raise ValueError("no text")

    __repr__ = __str__


def test_an_error_that_cannot_be_printed_can_be_copied_and_described() -> None:
    copied = copy_error(Unprintable("a"))
    assert str(copied) == "Unprintable: its text can't be rendered"
    assert error_text(Unprintable()) == "its text can't be rendered"
    assert error_text(ValueError("half \ud83d")) == "half \\ud83d"
