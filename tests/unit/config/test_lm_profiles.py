"""The LM profiles' file: every key it may hold arrives, anything else is refused by its place, no key stands in it."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from config.lm_profiles import ProfilesFile, ProfileTable, read_profiles

KEYS = {"MY_KEY": "sk-secret"}

WHOLE = """\
default = "smart"

[profiles.smart]
model = "openai/gpt-4o"
tier = "batch"
batch = { wait_s = 5 }
models = ["openai/gpt-4o-mini", "openai/o3"]
api_base = "http://localhost:8000/v1"
api_key_env = "MY_KEY"
parameters = { temperature = 0.7, max_tokens = 1000, stop = ["END"] }
engine = "litellm"
limits = { timeout_s = 60, max_in_flight = 100 }
fallbacks = ["plain"]
retry = { attempts = 5, on = ["server"] }
circuit = { failures = 3 }
price = { input = 2.5, cached_input = 1.25, output = 10 }
middleware = ["shop.lm:Mask"]
note = "the box under the desk"

[profiles.plain]
model = "openai/gpt-4o"
"""


def written(folder: Path, text: str | bytes) -> Path:
    path = folder / "lm.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def refusal(folder: Path, text: str | bytes) -> str:
    path = written(folder, text)
    with pytest.raises(ValueError, match="The LM profiles file ") as raised:
        read_profiles(path)
    message = str(raised.value)
    assert str(path) in message
    return message


def smart(line: str) -> str:
    """A file whose one profile has one more line."""
    return f'[profiles.smart]\nmodel = "openai/gpt-4o"\n{line}\n'


def test_every_key_of_the_file_arrives(tmp_path: Path) -> None:
    file = read_profiles(written(tmp_path, WHOLE))
    assert file.default == "smart"
    first, second = file.values(KEYS)
    assert first == {
        "name": "smart",
        "tier": "batch",
        "batch": {"wait_s": 5.0},
        "model": "openai/gpt-4o",
        "models": ("openai/gpt-4o-mini", "openai/o3"),
        "api_base": "http://localhost:8000/v1",
        "api_key": SecretStr("sk-secret"),
        "key_name": "MY_KEY",
        "parameters": {"temperature": 0.7, "max_tokens": 1000, "stop": ["END"]},
        "engine": "litellm",
        "timeout_s": 60.0,
        "max_in_flight": 100,
        "fallbacks": ("plain",),
        "retry": {"attempts": 5, "on": ("server",)},
        "circuit": {"failures": 3},
        "middleware": ("shop.lm:Mask",),
        "price": {
            "input": Decimal("2.5"),
            "cached_input": Decimal("1.25"),
            "output": Decimal(10),
            "reasoning": None,
        },
        "model_prices": {},
        "note": "the box under the desk",
    }
    assert second == {
        "name": "plain",
        "model": "openai/gpt-4o",
        "models": (),
        "api_base": None,
        "api_key": None,
        "key_name": "",
        "parameters": {},
        "engine": "auto",
        "timeout_s": 120.0,
        "max_in_flight": None,
        "fallbacks": (),
        "retry": {},
        "circuit": {},
        "middleware": (),
        "price": None,
        "model_prices": {},
        "tier": "standard",
        "batch": {},
        "note": "",
    }


def test_each_field_of_a_table_is_handed_to_the_library() -> None:
    table = ProfileTable(model="m")
    (values,) = ProfilesFile(profiles={"p": table}).values({})
    handed = {"name", "api_key", "key_name", "timeout_s", "max_in_flight"} | set(ProfileTable.model_fields) - {
        "api_key_env",
        "limits",
    }
    assert set(values) == handed


def test_what_the_whole_fleet_may_use_and_what_it_costs_are_read_apart(tmp_path: Path) -> None:
    file = read_profiles(written(tmp_path, smart("limits = { requests_per_min = 60, timeout_s = 5 }")))
    assert file.fleet_limits()["smart"] == {
        "requests_per_min": 60,
        "tokens_per_min": None,
        "concurrency": None,
        "spend_per_hour": None,
    }
    assert file.prices() == {}
    priced = read_profiles(written(tmp_path, smart("price = { input = 0.1, cached_input = 0.025, output = 10 }")))
    assert priced.prices() == {
        ("smart", "openai/gpt-4o"): {
            "input": Decimal("0.1"),
            "output": Decimal(10),
            "cached_input": Decimal("0.025"),
            "reasoning": None,
        }
    }
    own = 'models = ["openai/o3"]\nmodel_prices = { "openai/o3" = { input = 2, output = 8 } }'
    assert list(read_profiles(written(tmp_path, smart(own))).prices()) == [("smart", "openai/o3")]


@pytest.mark.parametrize(
    ("price", "problem"),
    [
        ("{ input = 1 }", "price.output: Field required"),
        ("{ input = 1, output = 2, spend = 3 }", "price.spend"),
        ("{ input = -1, output = 2 }", "price.input"),
        ("{ input = nan, output = 2 }", "price.input"),
        ("{ input = inf, output = 2 }", "price.input"),
        ("{ input = 0.0000001, output = 2 }", "price.input"),
        ("{ input = 1, output = 10001 }", "price.output"),
        ("{ input = '1', output = 2 }", "a price is a number of USD per million tokens, not '1'"),
        ("{ input = true, output = 2 }", "a price is a number of USD per million tokens, not True"),
    ],
)
def test_a_price_that_cannot_be_is_refused(price: str, problem: str, tmp_path: Path) -> None:
    assert problem in refusal(tmp_path, smart(f"price = {price}"))


def test_another_model_has_a_price_of_its_own(tmp_path: Path) -> None:
    own = 'model_prices = { "openai/o3" = { input = 2, output = 8 } }'
    values = read_profiles(written(tmp_path, smart(f"models = ['openai/o3']\n{own}"))).values(KEYS)[0]
    assert values["model_prices"]["openai/o3"]["output"] == 8
    assert "'openai/o3', which isn't among the profile's models" in refusal(tmp_path, smart(own))


def test_the_library_takes_what_the_file_gives(tmp_path: Path) -> None:
    from snakepit_bridge.costs.usage import Price
    from snakepit_bridge.lm.policies import CircuitPolicy, RetryPolicy
    from snakepit_bridge.lm.profiles import LMProfile

    values = read_profiles(written(tmp_path, WHOLE)).values(KEYS)[0]
    retry, circuit = RetryPolicy().with_changes(values.pop("retry")), CircuitPolicy(**values.pop("circuit"))
    price = Price.of(**values.pop("price"))
    profile = LMProfile(**values, retry=retry, circuit=circuit, price=price)
    assert (profile.retry.attempts, profile.retry.on, profile.circuit.failures) == (5, ("server",), 3)
    assert (profile.name, profile.max_in_flight, profile.timeout_s) == ("smart", 100, 60.0)
    assert profile.price_of("openai/gpt-4o") == Price(Decimal("2.5"), Decimal(10), Decimal("1.25"))
    assert profile.price_of("openai/o3") is None
    assert "sk-secret" not in repr(profile)


def test_without_a_default_none_is_named(tmp_path: Path) -> None:
    assert read_profiles(written(tmp_path, smart(""))).default is None


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("dafault = 'smart'\n" + smart(""), "dafault"),
        (smart("temprature = 0.5"), "profiles.smart.temprature"),
        (smart("limits = { timeout = 5 }"), "profiles.smart.limits.timeout"),
        (smart("retry = { attempts = 0 }"), "profiles.smart.retry.attempts"),
        (smart("retry = { on = ['auth'] }"), "profiles.smart.retry.on.0"),
        (smart("circuit = { open_s = -1 }"), "profiles.smart.circuit.open_s"),
        (smart("limits = { concurrency = -1 }"), "profiles.smart.limits.concurrency"),
        (smart("price = { input_per_million = 1 }"), "profiles.smart.price.input"),
        (smart("") + "[profile.other]\nmodel = 'x'", "profile"),
    ],
)
def test_an_unknown_key_is_refused_by_its_place(text: str, place: str, tmp_path: Path) -> None:
    assert f"is wrong at {place}:" in refusal(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("", "profiles"),
        ("[profiles]", "profiles"),
        ("[profiles.smart]\nnote = 'no model'", "profiles.smart.model"),
        ("[profiles.smart]\nmodel = ''", "profiles.smart.model"),
        (smart("models = 'openai/o3'"), "profiles.smart.models"),
        (smart("engine = 'other'"), "profiles.smart.engine"),
        (smart("parameters = 3"), "profiles.smart.parameters"),
        (smart("limits = { timeout_s = 0 }"), "profiles.smart.limits.timeout_s"),
        (smart("limits = { max_in_flight = 0 }"), "profiles.smart.limits.max_in_flight"),
        (smart("limits = { max_in_flight = 1.5 }"), "profiles.smart.limits.max_in_flight"),
    ],
)
def test_a_value_that_cannot_be_is_refused_by_its_place(text: str, place: str, tmp_path: Path) -> None:
    assert f"is wrong at {place}:" in refusal(tmp_path, text)


@pytest.mark.parametrize(
    ("line", "place"),
    [
        ("api_key = 'sk-secret'", "profiles.smart.api_key"),
        ("api_key_env = 'sk-secret'", "profiles.smart.api_key_env"),
        ("parameters = { api_key = 'sk-secret' }", "profiles.smart.parameters"),
    ],
)
def test_a_key_in_the_file_is_refused_and_not_repeated(line: str, place: str, tmp_path: Path) -> None:
    message = refusal(tmp_path, smart(line))
    assert f"is wrong at {place}:" in message
    assert "sk-secret" not in message


@pytest.mark.parametrize("name", ["model", "api_base", "timeout", "cache", "num_retries", "engine"])
def test_a_parameter_that_the_profile_says_elsewhere_is_refused_by_name(name: str, tmp_path: Path) -> None:
    message = refusal(tmp_path, smart(f"parameters = {{ {name} = 1 }}"))
    assert f"is wrong at profiles.smart.parameters: '{name}'" in message


@pytest.mark.parametrize("environment", [{}, {"MY_KEY": ""}])
def test_a_key_that_is_not_in_the_environment_is_named(environment: dict[str, str], tmp_path: Path) -> None:
    file = read_profiles(written(tmp_path, WHOLE))
    with pytest.raises(ValueError, match="environment variable MY_KEY, which api_key_env names, isn't set"):
        file.values(environment)


def test_keys_come_from_the_process_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "sk-mine")
    values = read_profiles(written(tmp_path, WHOLE)).values()
    assert values[0]["api_key"].get_secret_value() == "sk-mine"
    assert "sk-mine" not in repr(values)


@pytest.mark.parametrize(
    ("text", "says"),
    [("default = ", "isn't TOML"), ("default = 1\ndefault = 2", "isn't TOML"), (b"\xff\xfe", "isn't TOML: 'utf-8'")],
)
def test_what_is_no_toml_is_told_with_the_file(text: str | bytes, says: str, tmp_path: Path) -> None:
    assert says in refusal(tmp_path, text)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere.toml", tmp_path):
        with pytest.raises(ValueError, match=r"The LM profiles file .* can't be read: ") as raised:
            read_profiles(path)
        assert str(path) in str(raised.value)


def test_the_file_of_the_deployment_is_one() -> None:
    path = Path(__file__).parents[3] / "deploy" / "lm.toml"
    file = read_profiles(path)
    environment = {table.api_key_env: "k" for table in file.profiles.values() if table.api_key_env}
    names: list[Any] = [values["name"] for values in file.values(environment)]
    assert file.default is None or file.default in names
