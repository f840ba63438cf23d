"""The request that a real worker's LM gets is the one that the local program sends, byte for byte.

Signatures, demos and inputs are drawn at random from what DSPy takes: texts, numbers, containers, models, enums, dates,
images, sounds, files, histories. The program runs here and on the fleet, before the same recording LM.
"""

from __future__ import annotations

import datetime
import decimal
import json
import uuid
import warnings
from collections.abc import Generator, Mapping
from typing import Any, cast

import dspy
import dspy.experimental
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from snakepit_bridge.client import Fleet
from snakepit_bridge.exceptions import PredictionTimeoutError
from snakepit_bridge.testing import AskedQuestion
from tests.harness.stage import LM_KEY, Stage, fresh, stage
from tests.harness.value_types import Colour, Part, Stamp, Ticket
from tests.harness.waiting import PATIENCE_S

WAIT_S = PATIENCE_S
CODE: Any = cast(Any, dspy.Code)["python"]
DOCUMENT: Any = dspy.experimental.Document
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
IMAGES = st.sampled_from([dspy.Image("https://example.org/a.png"), dspy.Image("data:image/png;base64,aGk=")])
PARTS = st.builds(
    Part,
    weight=st.decimals(allow_nan=False, allow_infinity=False, places=2, min_value=-99, max_value=99),
    lasts=st.timedeltas(datetime.timedelta(0), datetime.timedelta(9)),
)
TICKETS = st.builds(
    Ticket,
    title=TEXTS,
    colour=st.sampled_from(Colour),
    parts=st.lists(PARTS, max_size=2),
    also=st.dictionaries(TEXTS, st.integers(0, 9), max_size=3),
)
JSONS = st.recursive(
    st.none() | st.booleans() | st.integers(-99, 10**20) | st.floats(allow_nan=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
# By the type of a field: what may be given for it.
KINDS: Mapping[Any, st.SearchStrategy[Any]] = {
    str: TEXTS,
    int: st.integers(-(10**20), 10**20),
    float: st.floats(),
    bool: st.booleans(),
    list[str]: st.lists(TEXTS, max_size=3),
    dict: st.dictionaries(TEXTS, JSONS, max_size=3),
    dict[str, Any]: st.dictionaries(TEXTS, JSONS | IMAGES, max_size=3),
    list[dict]: st.lists(st.dictionaries(TEXTS, JSONS, max_size=2), max_size=2),  # pyright: ignore[reportMissingTypeArgument]
    tuple[int, str]: st.tuples(st.integers(), TEXTS),
    int | None: st.none() | st.integers(),
    str | int: TEXTS | st.integers(),
    bytes: st.binary(max_size=5),
    decimal.Decimal: st.decimals(),
    list[decimal.Decimal]: st.lists(st.decimals(), max_size=3),
    uuid.UUID: st.uuids(),
    datetime.datetime: st.datetimes() | st.datetimes(timezones=st.just(datetime.UTC)),
    datetime.date: st.dates(),
    datetime.time: st.times(),
    datetime.timedelta: st.timedeltas(),
    Colour: st.sampled_from(Colour),
    Part: PARTS,
    Ticket: TICKETS,
    list[Ticket]: st.lists(TICKETS, max_size=2),
    dspy.Image: IMAGES,
    list[dspy.Image]: st.lists(IMAGES, max_size=2),
    dspy.Audio: st.just(dspy.Audio(data="aGk=", audio_format="wav")),
    dspy.File: st.just(dspy.File.from_bytes(b"hi", filename="a.txt")),
    CODE: st.builds(lambda code: CODE(code=code), TEXTS),
    DOCUMENT: st.builds(lambda text: DOCUMENT(data=text), TEXTS),
    Stamp: st.builds(Stamp, text=TEXTS),
    Any: JSONS | IMAGES | st.tuples(TEXTS, st.integers()) | TICKETS | st.dates(),
}
OUTPUTS: list[Any] = [str, int, list[str], bool, Colour, Ticket, dict[str, int], float | None]
HISTORIES = st.lists(st.fixed_dictionaries({"extra": TEXTS | IMAGES, "answer": TEXTS}), max_size=2).map(
    lambda messages: dspy.History(messages=messages)
)


@st.composite
def cases(draw: st.DrawFn) -> tuple[dict[str, Any], dict[str, Any], list[dict[str, Any]], dict[str, Any]]:
    """Draw the types of input fields, those of output fields, demos and inputs."""
    names = ["beta", "alpha", "extra"][: draw(st.integers(1, 3))]
    kinds = {name: draw(st.sampled_from(list(KINDS))) for name in names}
    outputs = {"answer": str} | {
        f"more{number}": draw(st.sampled_from(OUTPUTS)) for number in range(draw(st.integers(0, 1)))
    }
    values = lambda: {name: draw(KINDS[kind]) for name, kind in kinds.items()}  # noqa: E731
    demos = [values() | {"answer": draw(TEXTS)} for _ in range(draw(st.integers(0, 2)))]
    inputs = values()
    if draw(st.booleans()):
        kinds, inputs = {**kinds, "history": dspy.History}, {**inputs, "history": draw(HISTORIES)}
    return kinds, outputs, demos, inputs


def module_of(kinds: Mapping[str, Any], outputs: Mapping[str, Any], demos: list[dict[str, Any]], untyped: bool) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if untyped:
            module = dspy.Predict(f"{', '.join(kinds)} -> {', '.join(outputs)}")
        else:
            fields: dict[str, Any] = {name: (kind, dspy.InputField()) for name, kind in kinds.items()}
            fields |= {name: (kind, dspy.OutputField()) for name, kind in outputs.items()}
            module = dspy.Predict(dspy.make_signature(fields))
    module.demos = [dspy.Example(**demo).with_inputs(*kinds) for demo in demos]
    return module


def fixed(ask: AskedQuestion) -> Mapping[str, Any]:
    """Answer something that each type of output can be read from."""
    values = {"int": 1, "bool": True, "str": "x", "dict[str, int]": {"a": 1}, "list[str]": ["a"]}
    return {
        output.name: values.get(output.annotation, {"title": "t"} if output.name == "Ticket" else "x")
        for output in ask.layout.outputs
    }


@pytest.fixture(scope="module")
def play(tmp_path_factory: pytest.TempPathFactory) -> Generator[Stage]:
    with stage(tmp_path_factory.mktemp("stage"), answer=fixed, DSPEX_ALLOWED_PACKAGES="tests") as play:
        yield play


def local_request(play: Stage, module: Any, inputs: Mapping[str, Any]) -> Any:
    """Return the first request of the local program, or the error that kept it from sending one."""
    before = len(play.lm.requests)
    lm = dspy.LM("openai/demo", api_base=play.lm.url, api_key=LM_KEY, cache=False)
    try:
        with dspy.context(lm=lm, adapter=dspy.ChatAdapter(use_json_adapter_fallback=False)), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module(**inputs)
    except Exception as error:  # noqa: BLE001 - what it raises of the answer doesn't matter, its request was sent
        return first(play, before) or error
    return first(play, before)


def fleet_request(play: Stage, module: Any, inputs: Mapping[str, Any]) -> Any:
    """The same of the program on the fleet."""
    name, before = fresh("p"), len(play.lm.requests)
    try:
        fleet = Fleet(play.url, allowed_packages=("tests",))
        fleet.register(name, module)
        fleet.submit(name, inputs).get(WAIT_S)
    except PredictionTimeoutError:
        raise  # its request would be taken for that of the next example
    except Exception as error:  # noqa: BLE001 - it is compared
        return first(play, before) or error
    return first(play, before)


def first(play: Stage, before: int) -> Any:
    found = play.lm.requests[before:]
    return json.dumps(found[0].body) if found else None


def is_known(kinds: Mapping[str, Any], untyped: bool) -> bool:
    """Check whether local DSPy shows a Python object itself, which only its process has: models in an untyped list."""
    return untyped and any(kind in (list[Ticket], Stamp) for kind in kinds.values())


def agree(play: Stage, module: Any, inputs: Mapping[str, Any]) -> None:
    here = local_request(play, module, inputs)
    there = fleet_request(play, module, inputs)
    if isinstance(here, Exception):
        return  # local DSPy can't send it either
    assert there == here, there


@settings(max_examples=25, deadline=None, suppress_health_check=cast("Any", [*HealthCheck]), print_blob=True)
@given(case=cases(), untyped=st.booleans())
def test_the_prompt_is_the_local_one(play: Stage, case: Any, untyped: bool) -> None:
    """For random signatures, demos and inputs."""
    kinds, outputs, demos, inputs = case
    assume(not is_known(kinds, untyped))
    agree(play, module_of(kinds, outputs, demos, untyped), inputs)


@pytest.mark.parametrize("kind", list(KINDS), ids=str)
@pytest.mark.parametrize("untyped", [False, True])
def test_each_type_is_sent_as_local_dspy_sends_it(play: Stage, kind: Any, untyped: bool) -> None:
    """Each type once by itself, as an input and in a demo."""
    if is_known({"beta": kind}, untyped):
        pytest.skip("the local prompt shows a Python object")
    value = EXAMPLES[kind]
    agree(play, module_of({"beta": kind}, {"answer": str}, [{"beta": value, "answer": "a"}], untyped), {"beta": value})


EXAMPLES: Mapping[Any, Any] = {
    str: 'a "q" {x} [[ ## y ## ]]',
    int: 10**19,
    float: 0.1,
    bool: True,
    list[str]: ["b", "a"],
    dict: {"z": 1, "a": {"y": 2, "b": None}},
    dict[str, Any]: {"z": dspy.Image("https://example.org/a.png"), "a": 1},
    list[dict]: [{"z": 1, "a": 2}],  # pyright: ignore[reportMissingTypeArgument]
    tuple[int, str]: (1, "a"),
    int | None: None,
    str | int: 3,
    bytes: b"hi",
    decimal.Decimal: decimal.Decimal("-Infinity"),
    list[decimal.Decimal]: [decimal.Decimal("1.50"), decimal.Decimal("NaN")],
    uuid.UUID: uuid.UUID(int=4),
    datetime.datetime: datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC),
    datetime.date: datetime.date(2026, 1, 2),
    datetime.time: datetime.time(3, 4),
    datetime.timedelta: datetime.timedelta(hours=1),
    Colour: Colour.BLUE,
    Part: Part(decimal.Decimal("1.0"), datetime.timedelta(1)),
    Ticket: Ticket(title="t", also={"z": 1, "a": 2}),
    list[Ticket]: [Ticket(title="t")],
    dspy.Image: dspy.Image("https://example.org/a.png"),
    list[dspy.Image]: [dspy.Image("https://example.org/a.png")] * 2,
    dspy.Audio: dspy.Audio(data="aGk=", audio_format="wav"),
    dspy.File: dspy.File.from_bytes(b"hi", filename="a.txt"),
    CODE: CODE(code="x = 1"),
    DOCUMENT: DOCUMENT(data="text"),
    Stamp: Stamp(text="s"),
    Any: (1, {"z": 2, "a": 3}),
}
