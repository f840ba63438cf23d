"""The Elixir package's table of routes: what it calls is where the gateway serves it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from unittest.mock import Mock

from workers.gateway.operations import build_operations

PACKAGE = Path(__file__).parents[3] / "elixir"
ROUTES = PACKAGE / "lib/dspex_fleet/transport/http/routes.ex"
_ROUTE = re.compile(r'^    "(?P<operation>[\w.]+)" => {:(?P<verb>get|post), "(?P<path>[^"]+)"}', re.MULTILINE)


def routes() -> dict[str, tuple[str, str]]:
    text = ROUTES.read_text(encoding="utf-8")
    return {match["operation"]: (match["verb"].upper(), match["path"]) for match in _ROUTE.finditer(text)}


def test_each_route_of_the_package_is_the_gateways() -> None:
    served = {operation.name: operation.http for operation in build_operations(Mock())}
    assert len(routes()) >= 25
    assert {name: served.get(name) for name in routes()} == routes()


def test_each_operation_that_the_package_has_a_function_for_has_a_route() -> None:
    functions = json.loads((PACKAGE / "operations.json").read_text(encoding="utf-8"))["functions"]
    assert sorted(functions) == sorted(routes())


def test_each_operation_that_the_package_names_has_a_route() -> None:
    services = "|".join(sorted({name.partition(".")[0] for name in routes()}))
    sources = [path.read_text(encoding="utf-8") for path in (PACKAGE / "lib").rglob("*.ex") if path != ROUTES]
    named = {name for source in sources for name in re.findall(rf'"((?:{services})\.[A-Z]\w+)"', source)}
    assert named == routes().keys()
