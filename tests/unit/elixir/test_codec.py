"""Values on the wire: every type there and back, and nothing but the known shapes."""

from __future__ import annotations

import json
import math
import struct
from contextlib import suppress
from typing import Any

import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from hypothesis import given
from hypothesis import strategies as st

from snakepit_bridge.elixir.codec import decode, encode, encode_constraints, encode_erlang_floats, parse_erlang_floats
from snakepit_bridge.elixir.errors import UnreadableVariableError
from snakepit_bridge.elixir.generated import snakepit_bridge_pb2 as pb
from snakepit_bridge.testing.elixir.coercion import write
from snakepit_bridge.variables import Constraints, Tensor, Variable, VariableType

VALUES = [
    ("float", 0.5),
    ("float", math.nan),
    ("float", -math.inf),
    ("float", 1e308),
    ("integer", 10**30),
    ("integer", -1),
    ("string", 'naïve 🙂 \\ " \n'),
    ("string", "NaN"),
    ("string", ""),
    ("boolean", True),
    ("choice", "größer"),
    ("module", "ChainOfThought"),
    ("embedding", (1.0, -2.5, math.inf)),
    ("embedding", tuple(float(n) for n in range(3_000))),
    ("tensor", Tensor(((1, 2.5), (3, math.nan)), (2, 2))),
    ("tensor", Tensor((1, 2, 3, 4), (2, 2))),
]


def message(kind: str, value: AnyMessage, name: str = "v", binary: bytes = b"", constraints: str = "{}") -> pb.Variable:
    return pb.Variable(
        id=f"var_{name}_1",
        name=name,
        type=kind,
        value=value,
        binary_value=binary,
        constraints_json=constraints,
        version=4,
    )


def any_of(kind: str, text: str) -> AnyMessage:
    return AnyMessage(type_url=f"type.googleapis.com/snakepit.{kind}", value=text.encode())


@pytest.mark.parametrize(("kind", "value"), VALUES, ids=str)
def test_what_is_sent_reads_back_the_same(kind: str, value: Any) -> None:
    variable = Variable("größe 🙂", VariableType(kind), value)
    assert decode(message(kind, encode(variable), variable.name)).variable == variable


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize(("kind", "value"), VALUES, ids=str)
def test_what_the_server_sends_reads_as_it_was_set(kind: str, value: Any, binary: bool) -> None:
    sent, data = write(VariableType(kind), value, binary=binary)
    assert decode(message(kind, sent, binary=data)).variable == Variable("v", VariableType(kind), value)


def test_a_sent_value_has_the_servers_type_url_and_plain_json() -> None:
    sent = encode(Variable("v", VariableType.EMBEDDING, (1, 2.5)))
    assert (sent.type_url, sent.value) == ("type.googleapis.com/snakepit.embedding", b"[1.0,2.5]")


def test_id_version_and_constraints_come_along() -> None:
    remote = decode(message("float", any_of("float", "0.5"), constraints='{"min":0,"max":2,"unit":"x"}'))
    assert (remote.id, remote.version) == ("var_v_1", 4)
    assert json.loads(encode_constraints(remote.variable.constraints)) == {"min": 0, "max": 2, "unit": "x"}


def test_a_value_outside_its_bounds_is_read_all_the_same() -> None:
    remote = decode(message("float", any_of("float", '"NaN"'), constraints='{"min":0,"max":2}'))
    assert math.isnan(remote.variable.value)


def test_a_constraint_that_python_cannot_read_is_dropped_and_named_and_the_value_stays() -> None:
    remote = decode(message("string", any_of("string", '"x"'), constraints='{"pattern":"\\\\h+(","max_length":9}'))
    assert remote.variable == Variable("v", VariableType.STRING, "x", Constraints(max_length=9))
    assert remote.dropped == ("pattern",)


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=40))
def test_every_list_of_floats_survives_as_an_erlang_term(floats: list[float]) -> None:
    assert parse_erlang_floats(encode_erlang_floats(tuple(floats))) == tuple(floats)


def test_an_erlang_term_is_read_to_the_byte() -> None:
    term = bytes.fromhex("83 6c 00000002 46 3ff0000000000000 46 c000000000000000 6a")
    assert parse_erlang_floats(term) == (1.0, -2.0)
    assert encode_erlang_floats((1.0, -2.0)) == term


GOOD = encode_erlang_floats((1.0, 2.0))


@pytest.mark.parametrize(
    "term",
    [
        b"",
        GOOD[:-1],
        GOOD + b"\x00",
        b"\x82" + GOOD[1:],
        GOOD[:1] + b"\x68" + GOOD[2:],
        GOOD[:2] + struct.pack(">I", 2**32 - 1) + GOOD[6:],
        GOOD[:6] + b"\x61" + GOOD[7:],
        GOOD[:-1] + b"\x6c",
        encode_erlang_floats((1.0, math.nan)),
        b"\x83\x6a",
        b"\x80\x04\x95cposix\nsystem",
    ],
    ids=range(11),
)
def test_any_other_term_is_refused(term: bytes) -> None:
    with pytest.raises(ValueError, match="binary data"):
        parse_erlang_floats(term)


@given(st.binary(max_size=64))
def test_no_bytes_make_the_reader_fail_otherwise(term: bytes) -> None:
    with suppress(ValueError):
        assert encode_erlang_floats(parse_erlang_floats(term)) == term


LABEL = '{"binary_format":"erlang_binary","dtype":"float32","shape":[2],"type":"embedding"}'


@pytest.mark.parametrize(
    ("kind", "value", "binary"),
    [
        ("float", any_of("float", "nil"), b""),
        ("float", any_of("float", "NaN"), b""),
        ("float", any_of("integer", "1"), b""),
        ("float", AnyMessage(value=b"1.0"), b""),
        ("integer", any_of("integer", "1.5"), b""),
        ("integer", any_of("integer", "9" * 5_000), b""),
        ("boolean", any_of("boolean", "1"), b""),
        ("string", any_of("string", "[" * 100_000), b""),
        ("choice", any_of("choice", '"\\ud800"'), b""),
        ("embedding", any_of("embedding.binary", LABEL), b"\x83"),
        ("embedding", any_of("embedding.binary", LABEL.replace("[2]", "[3]")), GOOD),
        ("embedding", any_of("embedding.binary", LABEL.replace("erlang_binary", "pickle")), GOOD),
        ("embedding", any_of("embedding.binary", "[]"), GOOD),
        ("tensor", any_of("tensor.binary", LABEL), GOOD),
        ("tensor", any_of("tensor", '{"data":[1,2,3],"shape":[2,2]}'), b""),
        ("quantum", any_of("quantum", "1"), b""),
    ],
    ids=range(16),
)
def test_a_value_that_is_not_of_its_type_is_an_error_that_names_the_variable(
    kind: str, value: AnyMessage, binary: bytes
) -> None:
    with pytest.raises(UnreadableVariableError, match="Variable 'v' came from Elixir unreadable"):
        decode(message(kind, value, binary=binary))


def test_constraints_that_are_no_json_are_an_error() -> None:
    with pytest.raises(UnreadableVariableError):
        decode(message("float", any_of("float", "1.0"), constraints="{"))


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_the_stand_in_spells_every_float_so_that_it_reads_back_the_same(number: float) -> None:
    sent, _ = write(VariableType.FLOAT, number, binary=True)
    assert decode(message("float", sent)).variable.value == number
    assert "." in sent.value.decode()
