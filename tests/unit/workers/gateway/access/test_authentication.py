"""Tokens: the tokens file, and what its tokens grant."""

from __future__ import annotations

from pathlib import Path

import pytest

from snakepit_bridge.exceptions import ConfigurationError
from workers.gateway.access.authentication import Grants, GrantScope, hash_token, new_token, to_toml


def test_a_token_has_the_grant_of_its_table() -> None:
    token = new_token()
    grants = Grants.parse(to_toml("ann's", token, ["read", "publish"], ["user-*", "grüße"]))
    grant = grants.find(token)
    assert grant is not None
    assert (grant.name, grant.scopes) == ("ann's", {GrantScope.READ, GrantScope.PUBLISH})
    assert grant.covers("user-1")
    assert grant.covers("grüße")
    assert not grant.covers("User-1")
    assert not grant.covers("my user-1")
    assert grants.find(token + " ") is None
    assert grants.find("") is None
    assert grants.find("\ud800") is None


def test_new_tokens_differ_and_only_their_hash_is_kept() -> None:
    first, second = new_token(), new_token()
    assert first != second
    assert len(first) > 40
    assert first not in to_toml("x", first, ["read"], ["*"])


def test_a_token_can_be_replaced_while_the_old_one_is_still_valid() -> None:
    text = f"[tokens.a]\nsha256 = ['{hash_token('old')}', '{hash_token('new')}']\nscopes = ['read']\nsessions = ['*']"
    grants = Grants.parse(text)
    assert grants.find("old") is grants.find("new") is not None


GOOD = f"sha256 = ['{hash_token('t')}']\nscopes = ['read']\nsessions = ['*']\n"
WRONG = {
    "no TOML": "[tokens",
    "no table": "tokens = 1",
    "something else": f"[tokens.a]\n{GOOD}[other]\n",
    "a token in place of its hash": "[tokens.a]\nsha256 = ['secret-token']\nscopes = ['read']\nsessions = ['*']\n",
    "a capital hash": f"[tokens.a]\n{GOOD.replace(hash_token('t'), hash_token('t').upper())}",
    "no hash": "[tokens.a]\nscopes = ['read']\nsessions = ['*']\n",
    "an unknown scope": f"[tokens.a]\n{GOOD.replace('read', 'write')}",
    "no scope": f"[tokens.a]\nsha256 = ['{hash_token('t')}']\nscopes = []\n",
    "an unknown key": f"[tokens.a]\n{GOOD}token = 'x'\n",
    "a limit of nothing": f"[tokens.a]\n{GOOD}streams = 0\n",
    "a limit in words": f"[tokens.a]\n{GOOD}calls_per_s = 'many'\n",
    "a limit that is true": f"[tokens.a]\n{GOOD}streams = true\n",
    "one token twice": f"[tokens.a]\n{GOOD}[tokens.b]\n{GOOD}",
}


@pytest.mark.parametrize("text", WRONG.values(), ids=WRONG.keys())
def test_an_invalid_file_is_rejected_as_a_whole_without_revealing_tokens(text: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        Grants.parse(text, "tokens.toml")
    assert "tokens.toml" in str(refused.value)
    assert "secret-token" not in str(refused.value)


def test_tokens_come_from_a_file_or_a_variable_but_not_both(tmp_path: Path) -> None:
    file = tmp_path / "tokens.toml"
    file.write_text(f"[tokens.a]\n{GOOD}")
    assert Grants.from_sources(file, None).find("t") == Grants.from_sources(None, f"[tokens.a]\n{GOOD}").find("t")
    assert not Grants.from_sources(None, None)
    for wrong in ((file, "[tokens]"), (tmp_path / "missing.toml", None)):
        with pytest.raises(ConfigurationError):
            Grants.from_sources(*wrong)


def test_a_table_with_an_unknown_scope_is_an_error() -> None:
    with pytest.raises(ConfigurationError, match="publish, predict, read, admin"):
        to_toml("x", "t", ["all"], ["*"])
