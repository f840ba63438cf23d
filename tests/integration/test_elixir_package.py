"""The Elixir package: its own tests against real gateways, and what can be told of it without Elixir."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
import trustme
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor, ServiceDescriptor

from snakepit_bridge.wire.generated.dspex.fleet.v1 import fleet_pb2
from tests.harness.stage import Stage, stage
from tests.harness.waiting import wait_until
from workers.gateway import hashed, new_token

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "elixir"
GENERATED = PACKAGE / "lib/dspex_fleet/wire/fleet.pb.ex"
V1 = "Dspex.Fleet.V1."

_MODULE = re.compile(rf"^defmodule {re.escape(V1)}(?P<name>[\w.]+) do\n(?P<body>.*?)^end", re.MULTILINE | re.DOTALL)
_FIELD = re.compile(r"^  field :(?P<name>\w+), (?P<number>\d+)(?P<rest>.*?)(?=^  field|\Z)", re.MULTILINE | re.DOTALL)
_SCALARS = {
    FieldDescriptor.TYPE_BOOL: ":bool",
    FieldDescriptor.TYPE_BYTES: ":bytes",
    FieldDescriptor.TYPE_DOUBLE: ":double",
    FieldDescriptor.TYPE_STRING: ":string",
    FieldDescriptor.TYPE_UINT32: ":uint32",
    FieldDescriptor.TYPE_UINT64: ":uint64",
}


def generated(name: str) -> str:
    """The body of one generated Elixir module."""
    found = {match["name"]: match["body"] for match in _MODULE.finditer(GENERATED.read_text(encoding="utf-8"))}
    assert name in found, f"{GENERATED.name} has no {name}; elixir/README.md says how it is written anew"
    return found[name]


def fields(name: str) -> dict[str, tuple[int, str]]:
    """The fields of a generated module: their numbers, and what stands behind."""
    return {match["name"]: (int(match["number"]), match["rest"]) for match in _FIELD.finditer(generated(name))}


def elixir_type(field: FieldDescriptor) -> str:
    """The type of a field as a generated module spells it."""
    named = field.enum_type or field.message_type
    if named is None:
        return _SCALARS[field.type]
    return V1 + named.name if named.file is fleet_pb2.DESCRIPTOR else f"Google.Protobuf.{named.name}"


@pytest.mark.parametrize("message", fleet_pb2.DESCRIPTOR.message_types_by_name.values(), ids=lambda one: one.name)
def test_the_elixir_messages_have_exactly_the_fields_of_the_proto(message: Descriptor) -> None:
    made = fields(message.name)
    assert {name: number for name, (number, _) in made.items()} == {one.name: one.number for one in message.fields}
    for field in message.fields:
        rest = re.sub(r"\s+", " ", made[field.name][1])
        assert re.search(rf"type: {re.escape(elixir_type(field))}(,|$| )", rest), (field.name, rest)
        assert ("repeated: true" in rest) == field.is_repeated, field.name
        optional = field.containing_oneof is not None and field.containing_oneof.name == f"_{field.name}"
        assert ("proto3_optional: true" in rest) == optional, field.name
        assert (re.search(r"oneof: \d", rest) is not None) == (field.containing_oneof is not None), field.name


@pytest.mark.parametrize("enum", fleet_pb2.DESCRIPTOR.enum_types_by_name.values(), ids=lambda one: one.name)
def test_the_elixir_enums_have_exactly_the_values_of_the_proto(enum: EnumDescriptor) -> None:
    assert {name: number for name, (number, _) in fields(enum.name).items()} == enum.values_by_name_number() if hasattr(
        enum, "values_by_name_number"
    ) else {one.name: one.number for one in enum.values}


@pytest.mark.parametrize("service", fleet_pb2.DESCRIPTOR.services_by_name.values(), ids=lambda one: one.name)
def test_the_elixir_stubs_have_exactly_the_methods_of_the_proto(service: ServiceDescriptor) -> None:
    body = generated(f"{service.name}.Service")
    assert f'name: "{service.full_name}"' in body
    wanted = [
        (method.name, V1 + method.input_type.name, spelled(V1 + method.output_type.name, method.server_streaming))
        for method in service.methods
    ]
    assert re.findall(r"rpc :(\w+), ([\w.]+), ([\w.()]+)", body) == wanted


def spelled(kind: str, streaming: bool) -> str:
    """The type of an answer as a generated module spells it."""
    return f"stream({kind})" if streaming else kind


@contextmanager
def gateway(folder: Path, play: Stage, *options: str) -> Generator[str]:
    """Runs a gateway process, and yields where it serves gRPC."""
    address = f"127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", "snakepit_bridge.cli", "--redis-url", play.url, "gateway", "--grpc", address]
    with (folder / "gateway.log").open("ab") as log:
        process = subprocess.Popen([*command, "--no-http", *options], cwd=ROOT, stdout=log, stderr=log)
    try:
        wait_until(lambda: process.poll() is not None or answers(address), "the gateway answers")
        assert process.poll() is None, (folder / "gateway.log").read_text()
        yield address
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)
