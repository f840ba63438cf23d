"""A prediction can't see another's state: what a user's module keeps is copied for each one."""

from __future__ import annotations

import collections
import functools
import itertools
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import dspy
import pytest
from pydantic import BaseModel

from snakepit_bridge.dspy_integration.isolation import Isolation, UncopyableError
from snakepit_bridge.dspy_integration.modules import variable_aware
from tests.harness.signatures import make_signature

numpy = pytest.importorskip("numpy")


class Memory:
    """An ordinary object, with a lock that Python's own deepcopy refuses."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.items: list[str] = []

    def add(self, text: str) -> None:
        with self.lock:
            self.items.append(text)


class Slotted:
    __slots__ = ("__hidden", "items")

    def __init__(self) -> None:
        self.items: list[str] = []
        self.__hidden = self.items

    def both(self) -> tuple[list[str], list[str]]:
        return self.items, self.__hidden


@dataclass
class Record:
    seen: list[str] = field(default_factory=list[str])


class Notes(BaseModel):
    texts: list[str] = []


class Inner(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.ask = dspy.Predict("question -> answer")
        self.kept: list[str] = []


class OfClass:
    past: list[str] = []  # noqa: RUF012


def closing_over(kept: list[str]) -> Callable[[str], list[str]]:
    def keep(text: str) -> list[str]:
        kept.append(text)
        return kept

    return keep


class Keeps(dspy.Module):
    of_class: list[str] = []  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__()
        self.plain = "nothing"
        self.count = 0
        self.a_list: list[Any] = []
        self.same_list = self.a_list
        self.a_dict: dict[str, Any] = {"deep": {"er": []}}
        self.a_set: set[str] = set()
        self.a_deque: collections.deque[str] = collections.deque(maxlen=3)
        self.a_tuple = ([], 1)
        self.bytes = bytearray()
        self.array = numpy.zeros(3)
        self.memory = Memory()
        self.slotted = Slotted()
        self.record = Record()
        self.notes = Notes()
        self.history_ = dspy.History(messages=[])
        self.example = dspy.Example(question="q")
        self.prediction = dspy.Prediction(answer="a")
        self.counter = itertools.count()
        self.ordered: collections.OrderedDict[str, str] = collections.OrderedDict()
        self.inner = Inner()
        self.several = {"one": Inner()}
        self.closure = closing_over([])
        self.part = functools.partial(list.append, [])
        self.method = self.memory.add

    def forward(self, question: str) -> Any: ...


def change_everything(module: Any) -> None:
    module.plain = "secret"
    module.count += 1
    module.a_list.append("secret")
    module.a_dict["deep"]["er"].append("secret")
    module.a_set.add("secret")
    module.a_deque.append("secret")
    module.a_tuple[0].append("secret")
    module.bytes.extend(b"secret")
    module.array[0] = 7
    module.method("secret")
    module.slotted.items.append("secret")
    module.record.seen.append("secret")
    module.notes.texts.append("secret")
    module.history_.messages.append({"question": "secret"})
    module.example.question = "secret"
    module.prediction.answer = "secret"
    next(module.counter)
    module.ordered["secret"] = "secret"
    module.inner.kept.append("secret")
    module.inner.ask.demos.append(dspy.Example(question="secret", answer="secret"))
    module.inner.ask.config["temperature"] = 0.666
    module.inner.ask.signature = module.inner.ask.signature.with_instructions("secret")
    module.several["one"].kept.append("secret")
    module.closure("secret")
    module.part("secret")
    module.of_class.append("secret")
    module.new = "secret"


def seen(module: Any) -> dict[str, Any]:
    return {
        **{name: repr(value) for name, value in vars(module).items() if name[0] != "_" and " at 0x" not in repr(value)},
        "memory": list(module.memory.items),
        "slotted": list(module.slotted.items),
        "inner": (list(module.inner.kept), list(module.inner.ask.demos), dict(module.inner.ask.config)),
        "instructions": module.inner.ask.signature.instructions,
        "several": list(module.several["one"].kept),
        "of_class": list(module.of_class),
        "closure": list(module.closure.__closure__[0].cell_contents),
        "part": list(module.part.args[0]),
        "new": getattr(module, "new", None),
    }


def test_nothing_that_one_copy_keeps_is_seen_by_another() -> None:
    isolation = Isolation.of(variable_aware(Keeps)())
    assert isolation is not None
    before = isolation.copy()
    untouched = seen(before)

    change_everything(isolation.copy())

    assert seen(isolation.copy()) == untouched
    assert seen(before) == untouched
    assert "secret" not in repr(untouched)
    assert Keeps.of_class == []


def test_a_copy_keeps_the_identities_within_it() -> None:
    isolation = Isolation.of(Keeps())
    assert isolation is not None
    twin = isolation.copy()

    assert twin.same_list is twin.a_list
    twin.method("x")
    assert twin.memory.items == ["x"]
    items, hidden = twin.slotted.both()
    assert items is hidden
    assert twin.a_deque.maxlen == 3
    assert type(twin) is Keeps
    assert twin.inner.ask is not isolation.copy().inner.ask


def test_an_object_that_refers_back_to_its_module_refers_to_the_copy() -> None:
    class Helper:
        def __init__(self, owner: Any) -> None:
            self.owner = owner

    class Refers(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.helper = Helper(self)
            self.bound = self.forward_to

        def forward_to(self) -> Any:
            return self

        def forward(self, question: str) -> Any: ...

    isolation = Isolation.of(Refers())
    assert isolation is not None
    twin = isolation.copy()
    assert twin.helper.owner is twin
    assert twin.bound() is twin


@pytest.mark.parametrize(
    "module", [dspy.Predict("a -> b"), dspy.ReAct(make_signature("a -> b"), tools=[])], ids=["Predict", "ReAct"]
)
def test_dspys_own_modules_are_shared(module: Any) -> None:
    assert Isolation.of(module) is None


def test_what_cant_be_copied_is_refused_by_name_with_the_way_out() -> None:
    class Connected(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner: Any = Inner()
            self.inner.stream = (number for number in range(3))

        def forward(self, question: str) -> Any: ...

    with pytest.raises(UncopyableError, match="generator") as refused:
        Isolation.of(Connected())
    assert refused.value.attribute == "inner.stream"
    assert "shared_attributes = ('stream',)" in refused.value.problem


def test_a_class_may_name_what_its_predictions_share() -> None:
    class Shares(dspy.Module):
        shared_attributes = ("index", "stream")

        def __init__(self) -> None:
            super().__init__()
            self.index: list[str] = ["a"]
            self.stream = (number for number in range(3))
            self.own: list[str] = []

        def forward(self, question: str) -> Any: ...

    module = Shares()
    isolation = Isolation.of(module)
    assert isolation is not None
    assert isolation.copy().index is module.index
    assert isolation.copy().own is not module.own


def test_what_is_too_large_to_copy_each_time_is_refused_by_name() -> None:
    class Large(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rows = [[] for _ in range(20)]

        def forward(self, question: str) -> Any: ...

    with pytest.raises(UncopyableError, match="21 objects are too many"):
        Isolation.of(Large(), max_objects=20)


def test_lms_and_functions_are_shared() -> None:
    lm = dspy.LM("openai/none", api_key="k")

    class Holds(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lm_ = lm
            self.function = len
            self.kinds = (str, int)

        def forward(self, question: str) -> Any: ...

    isolation = Isolation.of(Holds())
    assert isolation is not None
    assert isolation.copy().lm_ is lm
