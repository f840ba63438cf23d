"""The settings of OpenID Connect: what the file may say, and which group of a person counts."""

from __future__ import annotations

from pathlib import Path

import pytest

from snakepit_bridge.exceptions import ConfigurationError
from snakepit_bridge.redaction import redact
from workers.gateway import Grants
from workers.gateway.access.authentication import GrantScope, to_toml
from workers.gateway.access.openid_settings import OpenIdSettings, describe_person

HEAD = 'issuer = "https://login.example.com"\nclient_id = "console"\nurl = "https://fleet.example.com"\n'
GROUPS = '[groups.admins]\nscopes = ["admin", "read"]\nsessions = ["*"]\n[groups."*"]\nsessions = ["shop-*"]\n'


def load(folder: Path, text: str, secret: str | None = None) -> OpenIdSettings:
    file = folder / "oidc.toml"
    file.write_text(text, encoding="utf-8")
    return OpenIdSettings.load(file, secret)


def test_the_first_group_that_a_person_is_in_counts(tmp_path: Path) -> None:
    settings = load(tmp_path, HEAD + GROUPS)
    assert [settings.choose_group(groups) for groups in (["x", "admins"], ["x"], [])] == ["admins", "*", "*"]
    grant = settings.grant_of("oidc:ann", "*")
    assert grant is not None
    assert (grant.name, grant.scopes, grant.sessions) == ("oidc:ann", {GrantScope.READ}, ("shop-*",))
    assert settings.grant_of("oidc:ann", "absent") is None


def test_without_a_group_for_everybody_a_stranger_has_none(tmp_path: Path) -> None:
    settings = load(tmp_path, f"{HEAD}[groups.admins]")
    assert settings.choose_group(["Admins", "admin", ""]) is None


def test_the_secret_is_read_from_a_file_or_the_environment_and_masked(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("a-secret-of-the-file\n", encoding="utf-8")
    by_file = f'client_secret_file = "{tmp_path / "secret"}"\n'
    for text, secret, expected in (
        (by_file, None, "a-secret-of-the-file"),
        ("", "a-secret-of-the-environment", "a-secret-of-the-environment"),
        ("", None, ""),
    ):
        settings = load(tmp_path, HEAD + text + GROUPS, secret)
        assert (settings.client_secret, expected in repr(settings) and expected != "") == (expected, False)
        assert not expected or expected not in redact(f"it is {expected}")
    with pytest.raises(ConfigurationError, match="given twice"):
        load(tmp_path, HEAD + by_file + GROUPS, "another")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (GROUPS, "needs issuer"),
        (HEAD, "needs a table"),
        (HEAD + 'client_secret = "x"\n' + GROUPS, "has .*client_secret"),
        (HEAD.replace("https://login", "http://login") + GROUPS, "issuer must be an https"),
        (HEAD.replace("https://fleet", "http://fleet") + GROUPS, "url must be an https"),
        (HEAD.replace("fleet.example.com", "fleet.example.com/console") + GROUPS, "without a path"),
        (HEAD + 'request_scopes = ["profile"]\n' + GROUPS, "needs openid"),
        (HEAD + 'client_secret_file = "/absent"\n' + GROUPS, "client_secret_file can't be read"),
        (HEAD + '[groups.admins]\nscopes = ["everything"]', "needs scopes"),
        (HEAD + "[groups.admins]\nscopes = []", "needs scopes"),
        (HEAD + "[groups.admins]\nsessions = [1]", "sessions must be a list"),
        (HEAD + "[groups.admins]\nsha256 = []", "may have scopes and sessions"),
        (HEAD + "[groups]\nadmins = 1", "may have scopes and sessions"),
        ("issuer =", "can't be read"),
    ],
)
def test_what_cannot_be_is_refused_by_name(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(ConfigurationError, match=problem):
        load(tmp_path, text)


@pytest.mark.parametrize("name", [None, 7, "", " ann", "a\nb", "a\u202eb", "ann (says: bob", "x" * 96])
def test_nobody_is_recorded_under_a_name_that_misleads(name: object) -> None:
    with pytest.raises(ValueError, match="it"):
        describe_person(name)


def test_no_token_has_the_name_of_a_person() -> None:
    assert describe_person("ann@example.com") == "oidc:ann@example.com"
    with pytest.raises(ConfigurationError, match="begins with 'oidc:'"):
        Grants.parse(to_toml("ann", "token", ["read"], ["*"]).replace('"ann"', '"oidc:ann"'))
