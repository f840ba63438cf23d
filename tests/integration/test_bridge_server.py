"""The stand-in behaves on the wire like snakepit 0.4.3, including its quirks."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Generator

import grpc
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage

from snakepit_bridge.elixir.generated import snakepit_bridge_pb2 as pb
from snakepit_bridge.elixir.generated.snakepit_bridge_pb2_grpc import BridgeServiceStub
from snakepit_bridge.testing.elixir.server import BridgeServer
from tests.harness.waiting import PATIENCE_S


@pytest.fixture
def elixir() -> Generator[BridgeServer]:
    with BridgeServer() as server:
        server.begin("s")
        yield server


@pytest.fixture
def stub(elixir: BridgeServer) -> Generator[BridgeServiceStub]:
    with grpc.insecure_channel(elixir.address) as channel:
        yield BridgeServiceStub(channel)


def any_of(kind: str, text: str, prefix: str = "type.googleapis.com/snakepit.") -> AnyMessage:
    return AnyMessage(type_url=prefix + kind, value=text.encode())


def register(stub: BridgeServiceStub, name: str, kind: str, text: str, rules: str = "") -> str:
    request = pb.RegisterVariableRequest(
        session_id="s", name=name, type=kind, initial_value=any_of(kind, text), constraints_json=rules
    )
    return stub.RegisterVariable(request, timeout=PATIENCE_S).variable_id


def get(stub: BridgeServiceStub, identifier: str) -> pb.Variable:
    return stub.GetVariable(
        pb.GetVariableRequest(session_id="s", variable_identifier=identifier), timeout=PATIENCE_S
    ).variable


def set_to(stub: BridgeServiceStub, name: str, value: AnyMessage, **metadata: str) -> pb.SetVariableResponse:
    request = pb.SetVariableRequest(
        session_id="s", variable_identifier=name, value=value, metadata=metadata, expected_version=99
    )
    return stub.SetVariable(request, timeout=PATIENCE_S)


def listed(stub: BridgeServiceStub, pattern: str = "") -> list[str]:
    request = pb.ListVariablesRequest(session_id="s", pattern=pattern)
    return [variable.name for variable in stub.ListVariables(request, timeout=PATIENCE_S).variables]


def refusal(error: pytest.ExceptionInfo[grpc.RpcError]) -> tuple[grpc.StatusCode, str]:
    return error.value.code(), error.value.details() or ""


def test_versions_start_at_0_and_grow_by_equal_values_whatever_was_expected(stub: BridgeServiceStub) -> None:
    register(stub, "x", "float", "1.0")
    assert get(stub, "x").version == 0
    assert [set_to(stub, "x", any_of("float", "1.0")).new_version for _ in range(2)] == [1, 2]


def test_ids_and_versions_repeat_after_a_restart_and_sessions_are_gone(
    stub: BridgeServiceStub, elixir: BridgeServer
) -> None:
    first = register(stub, "x", "float", "1.0")
    address = elixir.address
    elixir.restart()
    assert elixir.address == address
    with pytest.raises(grpc.RpcError) as gone:
        stub.ListVariables(pb.ListVariablesRequest(session_id="s"), timeout=PATIENCE_S, wait_for_ready=True)
    assert refusal(gone) == (grpc.StatusCode.NOT_FOUND, "Session not found: s")
    elixir.begin("s")
    assert register(stub, "x", "float", "2.0") == first == "var_x_1"
    assert get(stub, "x").version == 0


@pytest.mark.parametrize(
    ("kind", "sent", "kept"),
    [
        ("float", "1", "1.0"),
        ("float", "100000.0", "1.0e5"),
        ("float", '"-Infinity"', '"-Infinity"'),
        ("integer", "1" + "0" * 30, "1" + "0" * 30),
        ("integer", "3.0", "3"),
        ("string", '"\\u00fc"', '"ü"'),
        ("tensor", '{"data":[1,2.5],"shape":[2]}', '{"data":[1,2.5],"shape":[2]}'),
    ],
)
def test_values_are_kept_and_spelled_as_elixir_does(stub: BridgeServiceStub, kind: str, sent: str, kept: str) -> None:
    register(stub, "x", kind, sent)
    found = get(stub, "x")
    assert found.value == any_of(kind, kept)


def test_a_large_embedding_comes_as_an_erlang_term_with_a_wrong_label(
    stub: BridgeServiceStub, elixir: BridgeServer
) -> None:
    for count in (1_280, 1_281):
        elixir.register("s", f"v{count}", "embedding", [0.5] * count)
    small, large = get(stub, "v1280"), get(stub, "v1281")
    assert (small.value.type_url, small.binary_value) == ("type.googleapis.com/snakepit.embedding", b"")
    assert large.value.type_url == "type.googleapis.com/snakepit.embedding.binary"
    assert json.loads(large.value.value)["dtype"] == "float32"
    assert len(large.binary_value) == 7 + 9 * 1_281
    elixir.turn(binary_embeddings=False)
    assert get(stub, "v1281").binary_value == b""


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (any_of("float", "7.0"), "value 7.0 is above maximum 1"),
        (any_of("float", '"x"'), "must be a number"),
        (any_of("float", "1.0", prefix="type.googleapis.com/google.protobuf."), "unknown_type"),
        (AnyMessage(value=b"1.0"), "unknown_type"),
    ],
)
def test_a_refused_value_is_internal(stub: BridgeServiceStub, value: AnyMessage, text: str) -> None:
    register(stub, "x", "float", "0.5", '{"max": 1}')
    with pytest.raises(grpc.RpcError) as refused:
        set_to(stub, "x", value)
    assert refusal(refused)[0] is grpc.StatusCode.INTERNAL
    assert text in refusal(refused)[1]


@pytest.mark.parametrize(
    ("kind", "first", "sent", "kept"),
    [
        ("string", '"a"', "true", '"true"'),
        ("boolean", "true", "0", "false"),
        ("boolean", "true", '"false"', "false"),
        ("choice", '"a"', "null", '""'),
        ("integer", "1", "2.0", "2"),
    ],
)
def test_what_is_nearly_of_a_type_is_taken(
    stub: BridgeServiceStub, kind: str, first: str, sent: str, kept: str
) -> None:
    register(stub, "x", kind, first)
    set_to(stub, "x", any_of(kind, sent))
    assert get(stub, "x").value.value.decode() == kept


REFUSED = [
    ("string", '"ab"', '{"min_length": 2, "max_length": 3}', '"a"', "must be at least 2 characters, got 1"),
    ("string", '"ab"', '{"min_length": 2, "max_length": 3}', '"abcd"', "must be at most 3 characters, got 4"),
    ("string", '"ab"', '{"pattern": "^a"}', '"b"', "must match pattern: ^a"),
    ("choice", '"a"', '{"choices": ["a", "b"]}', '"c"', "must be one of: a, b"),
    ("module", '"A"', '{"allowed_modules": ["A"]}', '"B"', "must be one of the allowed modules: A"),
    ("embedding", "[1.0]", '{"dimensions": 1}', "[1.0, 2.0]", "must have exactly 1 dimensions"),
    ("tensor", '{"data":[1.0],"shape":[1]}', '{"shape": [1]}', '{"data":[1.0,2.0],"shape":[2]}', "shape must be [1]"),
    ("integer", "1", "{}", "1.5", "must be a whole number, got 1.5"),
    ("tensor", '{"data":[1.0],"shape":[1]}', "{}", '{"data":[1.0],"shape":[2]}', "data size doesn't match shape"),
]


@pytest.mark.parametrize(("kind", "first", "rules", "sent", "text"), REFUSED)
def test_a_refusal_is_in_elixirs_words(
    stub: BridgeServiceStub, kind: str, first: str, rules: str, sent: str, text: str
) -> None:
    register(stub, "x", kind, first, rules)
    with pytest.raises(grpc.RpcError) as refused:
        set_to(stub, "x", any_of(kind, sent))
    assert refusal(refused) == (grpc.StatusCode.INTERNAL, text)


def test_bounds_let_infinities_pass_and_another_prefix_is_taken(stub: BridgeServiceStub) -> None:
    register(stub, "x", "float", "0.5", '{"max": 1}')
    set_to(stub, "x", any_of("float", '"Infinity"'))
    set_to(stub, "x", any_of("float", "0.25", prefix="dspex.variables/"))
    assert get(stub, "x").value.value == b"0.25"


def test_several_are_got_under_the_identifiers_that_were_sent(stub: BridgeServiceStub) -> None:
    id = register(stub, "x", "float", "1.0")
    request = pb.BatchGetVariablesRequest(session_id="s", variable_identifiers=[id, "x", "y"])
    answer = stub.GetVariables(request, timeout=PATIENCE_S)
    assert set(answer.variables) == {id, "x"}
    assert list(answer.missing_variables) == ["y"]


def test_an_id_shadows_a_name(stub: BridgeServiceStub) -> None:
    id = register(stub, "x", "float", "1.0")
    register(stub, id, "float", "2.0")
    assert get(stub, id).name == "x"


def test_deleting_one_of_two_of_a_name_forgets_the_name_and_setting_one_by_id_gives_it_back(
    elixir: BridgeServer, stub: BridgeServiceStub
) -> None:
    older, newer = (elixir.register("s", "twice", "integer", n) for n in (1, 2))
    stub.DeleteVariable(pb.DeleteVariableRequest(session_id="s", variable_identifier=older))
    with pytest.raises(grpc.RpcError, match="Variable not found: twice"):
        stub.GetVariable(pb.GetVariableRequest(session_id="s", variable_identifier="twice"))
    elixir.set("s", newer, 3)
    found = stub.GetVariable(pb.GetVariableRequest(session_id="s", variable_identifier="twice")).variable
    assert (found.id, found.value.value) == (newer, b"3")


def test_patterns_are_unanchored_and_a_star_is_any_text(stub: BridgeServiceStub) -> None:
    for name in ("temperature", "top_p", "Temp"):
        register(stub, name, "float", "1.0")
    assert sorted(listed(stub, "t*p")) == ["temperature", "top_p"]
    assert listed(stub, "emp$") == ["Temp"]
    with pytest.raises(grpc.RpcError) as bad:
        listed(stub, "(")
    assert refusal(bad) == (grpc.StatusCode.UNKNOWN, "Internal Server Error")


def test_the_source_and_the_wall_clock_are_in_the_metadata_alone(stub: BridgeServiceStub) -> None:
    register(stub, "x", "float", "1.0")
    by = {"source": "elixir", "created_by": "session_store"}
    assert (get(stub, "x").source, dict(get(stub, "x").metadata)) == (pb.Variable.ELIXIR, by)
    set_to(stub, "x", any_of("float", "2.0"), source="python")
    found = get(stub, "x")
    assert found.source == pb.Variable.PYTHON
    assert "updated_at" in found.metadata
    assert found.last_updated_at.seconds < 0


def test_what_snakepit_does_not_implement_is_unimplemented(stub: BridgeServiceStub) -> None:
    with pytest.raises(grpc.RpcError) as rollback:
        stub.RollbackVariable(pb.RollbackVariableRequest(session_id="s"), timeout=PATIENCE_S)
    with pytest.raises(grpc.RpcError) as watch:
        next(stub.WatchVariables(pb.WatchVariablesRequest(session_id="s"), timeout=PATIENCE_S))
    assert {refusal(rollback)[0], refusal(watch)[0]} == {grpc.StatusCode.UNIMPLEMENTED}


def test_an_answer_above_four_megabytes_needs_a_higher_limit(elixir: BridgeServer, stub: BridgeServiceStub) -> None:
    elixir.register("s", "x", "string", "x" * 5_000_000)
    with pytest.raises(grpc.RpcError) as refused:
        get(stub, "x")
    assert refusal(refused)[0] is grpc.StatusCode.RESOURCE_EXHAUSTED
    with grpc.insecure_channel(elixir.address, [("grpc.max_receive_message_length", 2**24)]) as channel:
        assert len(get(BridgeServiceStub(channel), "x").value.value) == 5_000_002


def test_a_session_that_nobody_uses_is_gone_and_a_heartbeat_keeps_it(
    elixir: BridgeServer, stub: BridgeServiceStub
) -> None:
    assert stub.Heartbeat(pb.HeartbeatRequest(session_id="s"), timeout=PATIENCE_S).session_valid
    elixir.turn(session_ttl_s=0.0)
    assert not stub.Heartbeat(pb.HeartbeatRequest(session_id="s"), timeout=PATIENCE_S).session_valid


def test_an_unknown_switch_is_an_error(elixir: BridgeServer) -> None:
    with pytest.raises(AttributeError, match="flakey"):
        elixir.turn(flakey=0.5)


def test_it_runs_as_a_process_that_says_where_it_listens() -> None:
    command = [sys.executable, "-m", "snakepit_bridge.testing.elixir.server", "--watch"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            address = json.loads(process.stdout.readline())["address"]
            with grpc.insecure_channel(address) as channel:
                assert (
                    BridgeServiceStub(channel).Ping(pb.PingRequest(message="hi"), timeout=PATIENCE_S).message
                    == "pong: hi"
                )
            process.terminate()
            assert process.wait(PATIENCE_S) == 0
        finally:
            process.kill()
