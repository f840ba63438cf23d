"""The gateway as grpcurl uses it: all descriptors come from its reflection service."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from tests.harness.preloaded import PreloadedPopen
from tests.harness.stage import Stage, fresh, stage
from tests.harness.waiting import PATIENCE_S
from workers.gateway import new_token, to_toml

ROOT = Path(__file__).parents[2]
SPEC = {"module": "Predict", "signature": "question -> answer", "bindings": {"temperature": "temp"}}


class Reflected:
    """A client that fetches descriptors from the server and converts from and to JSON, as grpcurl does."""

    def __init__(self, channel: grpc.Channel, token: str) -> None:
        self._channel = channel
        self._metadata = (("authorization", f"Bearer {token}"),)
        self._database = ProtoReflectionDescriptorDatabase(channel)
        self._pool = DescriptorPool(self._database)

    def services(self) -> set[str]:
        return set(self._database.get_services())

    def file_of(self, symbol: str) -> str | None:
        """Return the name of the file that a symbol is in, according to the server."""
        stub: Any = reflection_pb2_grpc.ServerReflectionStub(self._channel)
        request = reflection_pb2.ServerReflectionRequest(file_containing_symbol=symbol)
        (answer,) = stub.ServerReflectionInfo(iter([request]))
        files = answer.file_descriptor_response.file_descriptor_proto
        return FileDescriptorProto.FromString(files[0]).name if files else None

    def methods(self, service: str) -> dict[str, MethodDescriptor]:
        return dict(self._pool.FindServiceByName(service).methods_by_name)

    def call(self, method: str, fields: dict[str, Any]) -> dict[str, Any]:
        return next(self.stream(method, fields))

    def stream(self, method: str, fields: dict[str, Any]) -> Iterator[dict[str, Any]]:
        service, name = method.split("/")
        found = self.methods(service)[name]
        request, answer = GetMessageClass(found.input_type), GetMessageClass(found.output_type)
        kind: Any = self._channel.unary_stream if found.server_streaming else self._channel.unary_unary
        stub = kind(f"/{method}", lambda message: message.SerializeToString(), answer.FromString)
        answers = stub(
            ParseDict(fields, request(), descriptor_pool=self._pool), metadata=self._metadata, timeout=PATIENCE_S
        )
        for reply in answers if found.server_streaming else [answers]:
            yield MessageToDict(reply, preserving_proto_field_name=True, descriptor_pool=self._pool)


def encoded(value: Any) -> str:
    """Return JSON for a bytes field, which is base64 in protobuf's JSON."""
    return base64.b64encode(json.dumps(value).encode()).decode()


def decoded(text: str) -> Any:
    return json.loads(base64.b64decode(text))


@pytest.fixture(scope="module")
def play(tmp_path_factory: pytest.TempPathFactory) -> Generator[Stage]:
    with stage(tmp_path_factory.mktemp("stage")) as play:
        yield play


@pytest.fixture(scope="module")
def reflected(play: Stage, tmp_path_factory: pytest.TempPathFactory) -> Generator[Reflected]:
    token, file = new_token(), tmp_path_factory.mktemp("gateway") / "tokens.toml"
    file.write_text(to_toml("all", token, ["publish", "predict", "read", "admin"], ["*"]), encoding="utf-8")
    command = [sys.executable, "-m", "snakepit_bridge.cli", "--redis-url", play.url, "gateway", "--no-http"]
    process = PreloadedPopen(
        [*command, "--grpc", "127.0.0.1:0", "--tokens", str(file)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        with grpc.insecure_channel(json.loads(process.stdout.readline())["grpc"]) as channel:
            yield Reflected(channel, token)
    finally:
        process.terminate()
        process.communicate(timeout=PATIENCE_S)


def test_reflection_describes_every_service_and_its_methods(reflected: Reflected) -> None:
    assert reflected.services() >= {
        "dspex.fleet.v1.Variables",
        "dspex.fleet.v1.Predictions",
        "dspex.fleet.v1.Programs",
        "dspex.fleet.v1.Costs",
        "dspex.fleet.v1.Scores",
        "grpc.health.v1.Health",
    }
    for service in reflected.services():
        assert reflected.methods(service), service
    assert reflected.call("grpc.health.v1.Health/Check", {})["status"] == "SERVING"


@pytest.mark.parametrize("symbol", ["Variables", "Variables.Publish", "PublishRequest", "PublishRequest.session"])
def test_services_methods_messages_and_fields_are_symbols(symbol: str, reflected: Reflected) -> None:
    assert str(reflected.file_of(f"dspex.fleet.v1.{symbol}")).endswith("dspex/fleet/v1/fleet.proto")


@pytest.mark.parametrize("symbol", ["Variables.Nothing", "PublishRequest.nothing", "Nothing.Publish", ""])
def test_an_unknown_symbol_is_not_found(symbol: str, reflected: Reflected) -> None:
    assert reflected.file_of(f"dspex.fleet.v1.{symbol}") is None


def test_a_value_published_by_reflection_alone_is_in_the_next_predictions_lm_request(
    reflected: Reflected, play: Stage
) -> None:
    session, program = fresh("user"), fresh("qa")
    reflected.call("dspex.fleet.v1.Programs/Register", {"name": program, "spec_json": encoded(SPEC)})
    for temperature in (0.25, 1.5):
        question = fresh("question")
        change = {"name": "temp", "value_json": encoded(temperature)}
        published = {"session": session, "changes": [change]}
        token = reflected.call("dspex.fleet.v1.Variables/Publish", published)["token"]
        fields = {"program": program, "session": session, "inputs_json": encoded({"question": question})}
        id = reflected.call("dspex.fleet.v1.Predictions/Submit", {**fields, "at_least": token})["id"]
        ended = reflected.call("dspex.fleet.v1.Predictions/Await", {"id": id, "timeout_s": 30})
        assert ended["state"] == "PREDICTION_STATE_SUCCEEDED", ended
        assert (ended["provenance"]["token"], decoded(ended["outputs_json"])) == (
            token,
            {"answer": f"answer of {question}"},
        )
        (sent,) = play.requests_with(question)
        assert sent.body["temperature"] == temperature


def test_a_stream_is_read_by_reflection_alone(reflected: Reflected) -> None:
    session = fresh("user")
    change = {"name": "a", "value_json": encoded(1)}
    token = reflected.call("dspex.fleet.v1.Variables/Publish", {"session": session, "changes": [change]})["token"]
    shown = next(reflected.stream("dspex.fleet.v1.Variables/Watch", {"session": session}))
    assert (shown["token"], decoded(shown["variables"][0]["value_json"])) == (token, 1)
