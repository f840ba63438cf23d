"""The Elixir package: its own tests against real gateways, and what can be told of it without Elixir."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
import trustme
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor, ServiceDescriptor

from snakepit_bridge.elixir.generated.dspex.fleet.v1 import fleet_pb2
from tests.harness.stage import Stage, stage
from workers.gateway import new_token, to_toml

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "elixir"
GENERATED = PACKAGE / "lib/dspex_fleet/wire/fleet.pb.ex"
V1 = "Dspex.Fleet.V1."
ASKED = {"module": "Predict", "signature": "question -> answer"}

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


@pytest.mark.parametrize("message", fleet_pb2.DESCRIPTOR.message_types_by_name.values(), ids=lambda param: param.name)
def test_the_elixir_messages_have_exactly_the_fields_of_the_proto(message: Descriptor) -> None:
    defined = fields(message.name)
    assert {name: number for name, (number, _) in defined.items()} == {
        declared.name: declared.number for declared in message.fields
    }
    for field in message.fields:
        rest = re.sub(r"\s+", " ", defined[field.name][1])
        assert re.search(rf"type: {re.escape(elixir_type(field))}(,|$| )", rest), (field.name, rest)
        assert ("repeated: true" in rest) == field.is_repeated, field.name
        optional = field.containing_oneof is not None and field.containing_oneof.name == f"_{field.name}"
        assert ("proto3_optional: true" in rest) == optional, field.name
        chosen = field.containing_oneof is not None and not optional
        assert (re.search(r"oneof: \d", rest) is not None) == chosen, field.name


@pytest.mark.parametrize("enum", fleet_pb2.DESCRIPTOR.enum_types_by_name.values(), ids=lambda param: param.name)
def test_the_elixir_enums_have_exactly_the_values_of_the_proto(enum: EnumDescriptor) -> None:
    defined = {name: number for name, (number, _) in fields(enum.name).items()}
    assert defined == {value.name: value.number for value in enum.values}


@pytest.mark.parametrize("service", fleet_pb2.DESCRIPTOR.services_by_name.values(), ids=lambda param: param.name)
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


class Elixir(NamedTuple):
    """What the package's tests run against."""

    play: Stage
    env: Mapping[str, str]


@pytest.fixture(scope="module")
def mix() -> str:
    """The ``mix`` that runs, with the package's dependencies in reach."""
    found = shutil.which("mix")
    if found is None:
        pytest.skip("Elixir isn't installed: there is no mix on the PATH")
    looked = run_mix(found, "do", "deps.loadpaths", "--no-compile", timeout=60)
    if looked.returncode:
        pytest.skip("the Elixir package's dependencies aren't there: run `mix deps.get` in elixir/")
    return found


@pytest.fixture(scope="module")
def elixir(mix: str, tmp_path_factory: pytest.TempPathFactory) -> Generator[Elixir]:
    """A fleet of one worker with a gateway that asks for tokens, and one that asks for client certificates."""
    folder = tmp_path_factory.mktemp("elixir")
    writer, reader = new_token(), new_token()
    tokens = folder / "tokens.toml"
    tokens.write_text(
        to_toml("elixir", writer, ["publish", "predict", "read", "admin"], ["*"])
        + to_toml("reader", reader, ["read"], ["elixir*"]),
        encoding="utf-8",
    )
    authority, files = certificates(folder)
    with stage(folder) as play:
        play.fleet.register("asked", ASKED, bindings={"temperature": "warmth"})
        guarded = ["--tokens", str(tokens), "--rate", "100000"]
        certified = ["--certificate", files["server"], "--key", files["server_key"], "--client-ca", authority]
        with gateway(play, *guarded) as address, gateway(play, *certified) as tls_address:
            yield Elixir(
                play,
                {
                    "DSPEX_FLEET_TARGET": address,
                    "DSPEX_FLEET_TOKEN": writer,
                    "DSPEX_FLEET_READER": reader,
                    "DSPEX_FLEET_TLS_TARGET": tls_address,
                    "DSPEX_FLEET_TLS_CA": authority,
                    "DSPEX_FLEET_TLS_CERT": files["client"],
                    "DSPEX_FLEET_TLS_KEY": files["client_key"],
                },
            )


@pytest.mark.timeout(600)
def test_the_package_passes_its_own_tests_against_a_real_gateway(mix: str, elixir: Elixir) -> None:
    compiled = run_mix(mix, "do", "format", "--check-formatted", "+", "compile", "--warnings-as-errors", timeout=300)
    assert compiled.returncode == 0, compiled.stdout[-4000:]
    done = run_mix(mix, "test", timeout=300, env=elixir.env)
    summary = re.search(r"(\d+) tests, 0 failures(, \d+ excluded)?", done.stdout)
    assert done.returncode == 0, done.stdout[-8000:]
    assert summary is not None, done.stdout[-4000:]
    assert int(summary[1]) >= 60
    assert summary[2] is None, "tests were left out though all that they need is there"


@pytest.mark.timeout(300)
def test_the_example_publishes_and_the_next_lm_requests_show_it(mix: str, elixir: Elixir) -> None:
    before = len(elixir.play.lm.requests)
    done = run_mix(mix, "run", "examples/variable_aware.exs", timeout=200, env=elixir.env)
    assert done.returncode == 0, done.stdout
    thought, short = elixir.play.lm.requests[before:]
    assert [request.body["temperature"] for request in (thought, short)] == [0.7, 0.2]
    assert [[output.name for output in request.ask.layout.outputs] for request in (thought, short)] == [
        ["reasoning", "answer"],
        ["answer"],
    ]
    assert "refused: Variable 'llm_temperature' can't be 3.0" in done.stdout
    assert "llm_temperature is 0.2" in done.stdout


@contextmanager
def gateway(play: Stage, *options: str) -> Generator[str]:
    """Runs a gateway process, and yields where it serves gRPC."""
    cli = [sys.executable, "-c", "from snakepit_bridge.cli import main; main()", "--redis-url", play.url]
    command = [*cli, "gateway", "--grpc", "127.0.0.1:0", "--no-http", "--drain", "1", *options]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, f"the gateway ended with {process.wait()}"
        yield json.loads(line)["grpc"]
    finally:
        process.terminate()
        process.communicate(timeout=30)


def certificates(folder: Path) -> tuple[str, dict[str, str]]:
    """Writes an authority, a server's and a client's certificate, and returns where."""
    authority = trustme.CA()
    issued = {
        "server": authority.issue_cert("127.0.0.1", "localhost"),
        "client": authority.issue_cert("elixir@example.org"),
    }
    blobs = {name: certificate.cert_chain_pems[0] for name, certificate in issued.items()}
    blobs |= {f"{name}_key": certificate.private_key_pem for name, certificate in issued.items()}
    for name, blob in {**blobs, "authority": authority.cert_pem}.items():
        blob.write_to_path(folder / f"{name}.pem")
    return str(folder / "authority.pem"), {name: str(folder / f"{name}.pem") for name in blobs}


def run_mix(
    mix: str, *arguments: str, timeout: float, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs a mix task of the package; it is asked nothing."""
    return subprocess.run(
        [mix, *arguments],
        cwd=PACKAGE,
        env={**os.environ, "MIX_ENV": "test", **(env or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout,
        check=False,
    )
