"""The command `gateway`: its options and environment variables."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from snakepit_bridge.cli import main
from workers.gateway import GatewayLimits, GatewaySettings, Grants, to_toml
from workers.gateway.access.authentication import GrantScope


@pytest.fixture(autouse=True)
def silent_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("DSPEX_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[GatewaySettings]:
    seen: list[GatewaySettings] = []

    def run_gateway(settings: GatewaySettings, *, announce: Callable[[str], None]) -> None:
        seen.append(settings)
        announce('{"grpc": null, "http": "127.0.0.1:7"}')

    monkeypatch.setattr("workers.gateway.run_gateway", run_gateway)
    return seen


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    paths = {name: tmp_path / name for name in ("tokens", "certificate", "key", "client-ca")}
    for file in paths.values():
        file.write_text("")
    paths["tokens"].write_text(to_toml("shop", "t", ["read"], ["*"]))
    return paths


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    return int(ended.value.code or 0)


def test_without_options_it_serves_both_on_loopback(served: list[GatewaySettings]) -> None:
    assert run("gateway") == 0
    assert served == [GatewaySettings()]


def test_each_option_is_passed_to_the_settings(served: list[GatewaySettings], files: dict[str, Path]) -> None:
    shared = ("--redis-url", "redis://r:1/2", "--namespace", "n", "--queue", "q")
    given = [f"--{name}={file}" for name, file in files.items()]
    more = (
        "--grpc=0.0.0.0:1",
        "--no-http",
        "--bridge=e:1",
        "--message-bytes=5",
        "--rate=6",
        "--streams=7",
        "--drain=8",
    )
    assert run(*shared, "gateway", *given, *more) == 0
    (settings,) = served
    assert (settings.redis_url, settings.namespace, settings.queue) == ("redis://r:1/2", "n", "q")
    assert (settings.grpc, settings.http, settings.bridge, settings.drain_s) == ("0.0.0.0:1", None, "e:1", 8)
    assert settings.grants == Grants.load(files["tokens"])
    assert settings.limits == GatewayLimits(message_bytes=5, calls_per_s=6, streams=7)
    assert settings.tls is not None
    assert (settings.tls.certificate, settings.tls.key, settings.tls.client_ca) == (
        files["certificate"], files["key"], files["client-ca"]
    )  # fmt: skip


def test_environment_variables_set_the_same_options(
    served: list[GatewaySettings], files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    variables: dict[str, Any] = {
        "GATEWAY_HTTP": "127.0.0.1:9", "GATEWAY_RATE": "6", "BRIDGE": "e:1", "ALLOWED_PACKAGES": "shop,tools",
        "IMPORTS": "shop.targets",
        "GATEWAY_CERTIFICATE": files["certificate"], "GATEWAY_KEY": files["key"],
        "GATEWAY_TOKENS_TOML": files["tokens"].read_text(),
    }  # fmt: skip
    for name, value in variables.items():
        monkeypatch.setenv(f"DSPEX_{name}", str(value))
    assert run("gateway") == 0
    (settings,) = served
    assert (settings.http, settings.limits.calls_per_s, settings.bridge) == ("127.0.0.1:9", 6, "e:1")
    assert (settings.allowed_packages, settings.imports) == (("shop", "tools"), ("shop.targets",))
    assert settings.grants == Grants.load(files["tokens"])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--grpc", "0.0.0.0:1"], "without TLS and a token"),
        (["--certificate", "{certificate}"], "both a certificate and its key"),
        (["--no-grpc", "--no-http"], "nothing to do"),
        (["--http", "nowhere"], "HOST:PORT"),
        (["--tokens", "{key}"], "tables [tokens.NAME]"),
    ],
)
def test_an_invalid_option_is_reported_in_one_line(
    options: list[str], says: str, served: list[GatewaySettings], files: dict[str, Path],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    assert run("gateway", *(option.format(**files) for option in options)) == 1
    assert says in capsys.readouterr().err
    assert not served


def test_the_console_signs_in_by_openid_connect_and_links_to_traces_where_that_is_set(
    served: list[GatewaySettings],
    files: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    head = 'issuer = "https://login.example.com"\nclient_id = "console"\nurl = "https://fleet.example.com"\n'
    files["key"].write_text(f"{head}[groups.support]\n", encoding="utf-8")
    monkeypatch.setenv("DSPEX_GATEWAY_OIDC", str(files["key"]))
    assert run("gateway") == 1
    assert "OpenID Connect needs a tokens file" in capsys.readouterr().err
    monkeypatch.setenv("DSPEX_GATEWAY_OIDC_SECRET", "a-client-secret")
    monkeypatch.setenv("DSPEX_TRACE_URL", "https://traces.example.com/{trace_id}")
    assert run("gateway", f"--tokens={files['tokens']}") == 0
    (settings,) = served
    assert settings.openid is not None
    assert (settings.openid.client_secret, "a-client-secret" in repr(settings)) == ("a-client-secret", False)
    assert (list(settings.openid.groups), settings.trace_url) == (["support"], "https://traces.example.com/{trace_id}")


def test_a_token_is_shown_once_with_its_table_for_the_tokens_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("gateway-token", "shop", "--scope", "read", "--scope", "publish", "-s", "user-*") == 0
    shown = capsys.readouterr()
    token = shown.err.strip().rpartition(" ")[2]
    grant = Grants.parse(shown.out).find(token)
    assert grant is not None
    assert (grant.name, grant.sessions) == ("shop", ("user-*",))
    assert token not in shown.out
    assert run("gateway-token", "shop", "--scope", "everything") == 1


def test_the_console_is_served_alone_by_a_link_that_signs_its_reader_in(
    served: list[GatewaySettings], files: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("console", "--redis-url", "redis://r:1/2", "--http", "127.0.0.1:1") == 0
    (settings,) = served
    assert (settings.redis_url, settings.http, settings.grpc, settings.console) == (
        "redis://r:1/2", "127.0.0.1:1", None, True,
    )  # fmt: skip
    link = capsys.readouterr().out.strip()
    address, _, token = link.partition("#token=")
    grant = settings.grants.find(token)
    assert address == "The console: http://127.0.0.1:7/sign-in"
    assert grant is not None
    assert (grant.covers_all, grant.allows(GrantScope.CONTROL)) == (True, True)
    assert run("console", "--tokens", str(files["tokens"])) == 0
    assert capsys.readouterr().out.strip() == "The console: http://127.0.0.1:7/sign-in"
    assert served[1].grants.find("t") is not None


def test_a_gateway_may_serve_no_console(served: list[GatewaySettings], monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("gateway", "--no-console") == 0
    monkeypatch.setenv("DSPEX_GATEWAY_CONSOLE", "false")
    assert run("gateway") == 0
    assert [settings.console for settings in served] == [False, False]
