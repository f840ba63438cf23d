"""One list of operations: the proto's. Routes, OpenAPI, the docs and the Elixir package have each of them."""

from __future__ import annotations

import json
import re
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from google.protobuf.descriptor import MethodDescriptor

from snakepit_bridge.elixir.generated.dspex.fleet.v1 import fleet_pb2 as pb
from workers.gateway.http.openapi import build_description
from workers.gateway.http.summaries import SUMMARIES
from workers.gateway.operation import Operation
from workers.gateway.operations import build_operations

ROOT = Path(__file__).parents[4]
RPCS: dict[str, MethodDescriptor] = {
    f"{service.name}.{method.name}": method
    for service in pb.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}
DEFAULTING = {"Predictions.Submit", "Evaluations.Start", "Optimizations.Start"}
_ROW = re.compile(r"^\| (?P<service>\w*) ?\| (?P<methods>\w+(?:, \w+)*) \| [a-z]+", re.MULTILINE)


@cache
def operations() -> dict[str, Operation]:
    return {operation.name: operation for operation in build_operations(Mock())}


def documented() -> Counter[str]:
    """Return how often each operation is in the table of the gateway's page."""
    text = (ROOT / "docs/reference/gateway.md").read_text(encoding="utf-8")
    table = text.partition("| service | methods | scope |")[2].partition("\n\n")[0]
    found, service = Counter[str](), ""
    for row in _ROW.finditer(table):
        service = row["service"] or service
        found.update(f"{service}.{method}" for method in row["methods"].split(", "))
    return found


def elixir() -> dict[str, Any]:
    return json.loads((ROOT / "elixir/operations.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", RPCS)
def test_an_rpc_has_a_route_a_description_and_a_row_in_the_docs(name: str) -> None:
    assert name in operations(), "add it to workers/gateway/operations.py"
    assert name in SUMMARIES, "add it to workers/gateway/http/summaries.py"
    assert documented()[name] == 1, "give it a row in docs/reference/gateway.md"
    described = build_description([operations()[name]])
    verb, path = operations()[name].http
    assert described["paths"][path][verb.lower()]["operationId"] == name.replace(".", "_")


@pytest.mark.parametrize("name", RPCS)
def test_an_rpc_is_offered_as_the_proto_has_it(name: str) -> None:
    rpc, operation = RPCS[name], operations()[name]
    assert (operation.request.DESCRIPTOR.name, operation.response.DESCRIPTOR.name) == (
        rpc.input_type.name, rpc.output_type.name,
    )  # fmt: skip
    assert (operation.streaming is not None, operation.unary is None) == (rpc.server_streaming,) * 2
    in_path = re.findall(r"{(\w+)}", operation.http[1])
    assert set(in_path) <= set(rpc.input_type.fields_by_name)


def test_nothing_else_is_offered_or_documented() -> None:
    assert set(operations()) == set(SUMMARIES) == set(documented()) == set(RPCS)


def test_flags_are_described_beside_the_operations() -> None:
    described = build_description(operations().values())
    flags = "/ofrep/v1/evaluate/flags"
    assert {flags, f"{flags}/{{key}}"} <= set(described["paths"])
    assert described["paths"][flags]["post"]["security"] == [{"bearer": []}, {"apiKey": []}]
    without_tokens = build_description(operations().values(), requires_token=False)
    assert "security" not in without_tokens["paths"][flags]["post"]


def test_no_two_operations_have_the_same_route() -> None:
    routes = Counter(operation.http for operation in operations().values())
    assert [route for route, count in routes.items() if count > 1] == []


@pytest.mark.parametrize("name", RPCS)
def test_a_request_for_one_session_is_admitted_by_that_session(name: str) -> None:
    operation = operations()[name]
    has_session = "session" in operation.request.DESCRIPTOR.fields_by_name
    # These may leave the session out, so that the service checks what that stands for.
    assert operation.is_of_session == (has_session and name not in DEFAULTING)


def test_the_elixir_package_has_each_operation_or_names_it_as_missing() -> None:
    functions, missing = elixir()["functions"], elixir()["missing"]
    assert sorted([*functions, *missing]) == sorted(RPCS), "add it to elixir/operations.json"


@pytest.mark.parametrize("name", elixir()["functions"])
def test_an_operation_is_a_public_function_of_the_elixir_package(name: str) -> None:
    module, _, function = elixir()["functions"][name].rpartition(".")
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "elixir/lib").rglob("*.ex")]
    homes = [source for source in sources if f"defmodule {module} do" in source]
    assert homes, f"elixir/lib has no module {module}"
    defined = re.compile(rf"^\s*def(delegate)?\s+{re.escape(function)}\(", re.MULTILINE)
    assert any(map(defined.search, homes)), f"{module} has no function {function}"
