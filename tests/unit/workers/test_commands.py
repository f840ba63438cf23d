"""The fleet's own commands: what each one makes of its arguments, and what doctor says of the LM profiles."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from snakepit_bridge.cli import main
from snakepit_bridge.protocol.checks import Check
from snakepit_bridge.testing import RecordingLM
from workers import extras
from workers.commands import check_language_models
from workers.refresher import RefresherSettings

ROOT = Path(__file__).parents[3]
ELSEWHERE = "redis://:hunter2@elsewhere:1/0"


class Ended(Exception):
    """A process that was replaced by another program never comes back."""


@pytest.fixture(autouse=True)
def silent_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a command sets for the program that follows it is taken back after the test."""
    monkeypatch.setattr(os, "environ", os.environ.copy())
    for name in [name for name in os.environ if name.startswith("DSPEX_")]:
        del os.environ[name]


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    return int(ended.value.code or 0)


@pytest.mark.parametrize("first", ["workers.commands", "snakepit_bridge.cli", "snakepit_bridge.cli.main"])
def test_the_commands_join_whichever_module_is_imported_first(first: str) -> None:
    script = f"import {first}\nfrom snakepit_bridge.cli import main\nmain(['gateway', '--help'])"
    ran = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert "--certificate" in ran.stdout


# ---------------------------------------------------------------- worker


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Return the command line that `worker` turns into."""
    seen: list[list[str]] = []

    def execv(path: str, command: list[str]) -> None:
        assert path == command[0] == sys.executable
        seen.append(list(command))
        raise Ended

    monkeypatch.setattr(os, "execv", execv)
    # The name would stay reserved as long as this process runs.
    monkeypatch.setattr("workers.commands.reserve_node_name", lambda namespace: f"{namespace}@%h")

    def launch(*arguments: str) -> list[str]:
        with pytest.raises(Ended):
            main(arguments)
        return seen[-1]

    return launch


def test_a_worker_is_celerys_own_program_on_the_fleets_app(launched: Callable[..., list[str]]) -> None:
    command = launched("worker")
    assert command[1:] == [
        *("-m", "workers.worker_command", "-Q", "predictions"),
        *("--pool", "custom", "-c", "1000", "-l", "INFO", "-n", "dspex@%h"),
    ]
    assert all(isinstance(word, str) for word in command), "execv takes texts alone"


def test_a_workers_options_are_celerys(launched: Callable[..., list[str]]) -> None:
    command = launched("--queue", "q", "worker", "--pool", "prefork", "-c", "3", "-l", "DEBUG")
    assert command[command.index("workers.worker_command") + 1 :] == [
        "-Q",
        "q,q.code",
        "--pool",
        "prefork",
        "-c",
        "3",
        "-l",
        "DEBUG",
        "-n",
        "dspex@%h",
    ]


@pytest.mark.parametrize(
    ("pool", "concurrency"), [("asyncio", 1000), ("threads", 32), ("prefork", os.cpu_count()), ("solo", 1)]
)
def test_each_pool_has_a_concurrency_that_suits_it(
    launched: Callable[..., list[str]], pool: str, concurrency: int
) -> None:
    command = launched("worker", "--pool", pool)
    assert command[command.index("-c") + 1] == str(concurrency)


def test_what_the_command_does_not_know_goes_to_celery_as_it_is(launched: Callable[..., list[str]]) -> None:
    command = launched("worker", "-c", "1", "--without-gossip", "-n", "w1@%h", "--max-tasks-per-child=10")
    assert command[-3:] == ["-n", "w1@%h", "--max-tasks-per-child=10"]
    assert "--without-gossip" in command
    assert command.count("-n") == 1


def test_a_worker_finds_the_fleet_that_the_command_line_names(launched: Callable[..., list[str]]) -> None:
    launched("--namespace", "team", "--queue", "q", "worker", "--redis-url", ELSEWHERE)
    variables = {name: os.environ[name] for name in ("DSPEX_REDIS_URL", "DSPEX_NAMESPACE", "DSPEX_QUEUE")}
    assert variables == {"DSPEX_REDIS_URL": ELSEWHERE, "DSPEX_NAMESPACE": "team", "DSPEX_QUEUE": "q"}


def test_a_password_never_stands_in_the_process_list(launched: Callable[..., list[str]]) -> None:
    assert not [word for word in launched("worker", "--redis-url", ELSEWHERE) if "hunter2" in word]


def test_without_a_url_the_worker_keeps_to_its_environment(launched: Callable[..., list[str]]) -> None:
    launched("worker")
    assert "DSPEX_REDIS_URL" not in os.environ
    os.environ["DSPEX_REDIS_URL"] = ELSEWHERE
    launched("worker")
    assert os.environ["DSPEX_REDIS_URL"] == ELSEWHERE


def test_a_worker_is_started_with_the_path_that_the_shell_has(
    launched: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of the fleet's folders goes onto it, where they would shadow a user's modules."""
    monkeypatch.setenv("PYTHONPATH", "/mine")
    launched("worker")
    assert os.environ["PYTHONPATH"] == "/mine"


@pytest.mark.parametrize(
    ("command", "extra"), [("worker", "worker"), ("demo", "server"), ("gateway", "server"), ("gateway-token", "server")]
)
def test_a_command_without_its_packages_says_what_to_install(
    command: str, extra: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda name: None if name in ("greenlet", "uvicorn") else name)
    arguments = ("shop", "--scope", "read") if command == "gateway-token" else ()
    assert run(command, *arguments) == 1
    lacking = "greenlet" if command in ("worker", "demo") else "uvicorn"
    errors = capsys.readouterr().err
    assert f"dspex-fleet {command} needs packages that aren't installed: {lacking}." in errors
    assert f"pip install 'dspex-fleet[{'worker' if lacking == 'greenlet' else extra}]'" in errors


@pytest.mark.parametrize("arguments", [("-c", "0"), ("--pool", "gevent"), ("-c", "many")], ids=" ".join)
def test_a_worker_that_cannot_be_is_not_launched(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "execv", lambda *_: pytest.fail("launched"))
    assert run("worker", *arguments) == 2
    assert arguments[0].lstrip("-") in capsys.readouterr().err


# ---------------------------------------------------------------- refresher


@pytest.fixture
def followed(monkeypatch: pytest.MonkeyPatch) -> list[RefresherSettings]:
    seen: list[RefresherSettings] = []
    monkeypatch.setattr("workers.refresher.run_refresher", lambda settings, name="": seen.append(settings))
    return seen


def test_a_refresher_needs_no_more_than_the_elixir_server(followed: list[RefresherSettings]) -> None:
    assert run("refresher", "--bridge", "elixir:50051") == 0
    assert followed == [RefresherSettings(bridge="elixir:50051")]


def test_each_option_of_a_refresher_arrives(followed: list[RefresherSettings]) -> None:
    shared = ("--namespace", "team", "--redis-url", ELSEWHERE)
    given = ("--bridge", "e:1", "-s", "a", "--session", "b", "--poll", "0.5", "--no-watch", "--heartbeat", "7")
    assert run(*shared, "refresher", *given, "--idle", "8", "--lease", "9", "-l", "debug") == 0
    assert followed == [
        RefresherSettings(
            bridge="e:1",
            redis_url=ELSEWHERE,
            namespace="team",
            queue="team.predictions",
            sessions=("a", "b"),
            poll_s=0.5,
            watch=False,
            heartbeat_s=7.0,
            idle_s=8.0,
            lease_s=9.0,
        )
    ]


@pytest.mark.parametrize(
    ("level_options", "level"), [((), "INFO"), (("-l", "debug"), "DEBUG"), (("-l", "ERROR"), "ERROR")]
)
def test_a_refresher_tells_as_much_as_it_is_told_to(
    level_options: tuple[str, ...], level: str, followed: list[RefresherSettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    monkeypatch.setattr("logging.basicConfig", lambda **options: seen.append(options["level"]))
    assert run("refresher", "--bridge", "e:1", *level_options) == 0
    assert seen == [level]


def test_a_slow_poll_slows_the_slowest_too(followed: list[RefresherSettings]) -> None:
    assert run("refresher", "--bridge", "e:1", "--poll", "30") == 0
    assert (followed[0].poll_s, followed[0].poll_max_s) == (30.0, 30.0)


def test_the_elixir_server_may_stand_in_the_environment(followed: list[RefresherSettings]) -> None:
    os.environ["DSPEX_BRIDGE"] = "env:1"
    assert run("refresher") == 0
    assert followed[0].bridge == "env:1"


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        ((), 2, "--bridge"),
        (("--bridge", "elixir"), 1, "HOST:PORT"),
        (("--bridge", "e:1", "--poll", "0"), 1, "poll_s must be above 0"),
        (("--bridge", "e:1", "--lease", "soon"), 2, "--lease"),
    ],
)
def test_a_refresher_that_cannot_be_says_why(
    arguments: tuple[str, ...],
    code: int,
    says: str,
    followed: list[RefresherSettings],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run("refresher", *arguments) == code
    assert says in capsys.readouterr().err
    assert followed == []


def test_an_unknown_level_is_told_without_a_traceback(
    followed: list[RefresherSettings], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("refresher", "--bridge", "e:1", "-l", "loud") == 2
    assert "loud" in capsys.readouterr().err
    assert followed == []


# ---------------------------------------------------------------- demo


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The demos that were run; each ends with code 1."""
    seen: list[dict[str, Any]] = []

    def run_demo(**options: Any) -> int:
        seen.append(options)
        return 1

    monkeypatch.setattr("workers.dev.demo.run_demo", run_demo)
    return seen


def test_a_demo_needs_nothing_and_its_code_is_the_commands(shown: list[dict[str, Any]]) -> None:
    assert run("demo") == 1
    questions = ROOT / "examples" / "questions.jsonl"
    nothing = dict.fromkeys(("redis_url", "lm", "bridge", "in_flight", "wait_s"))
    assert shown == [
        {**nothing, "questions": questions, "out": Path("out"), "workers": 2, "pool": "asyncio", "keep": False}
    ]


def test_each_option_of_a_demo_arrives(shown: list[dict[str, Any]], tmp_path: Path) -> None:
    (tmp_path / "q.jsonl").write_text("")
    given = ("--lm", "openai/gpt-4o", "--questions", str(tmp_path / "q.jsonl"), "--out", str(tmp_path / "out"))
    given += ("--bridge", "elixir:50051", "--in-flight", "3", "--wait", "9.5")
    run("demo", *given, "--workers", "3", "--pool", "prefork", "--redis-url", ELSEWHERE)
    assert shown == [
        {
            "redis_url": ELSEWHERE,
            "lm": "openai/gpt-4o",
            "questions": tmp_path / "q.jsonl",
            "out": tmp_path / "out",
            "workers": 3,
            "pool": "prefork",
            "bridge": "elixir:50051",
            "in_flight": 3,
            "wait_s": 9.5,
            "keep": False,
        }
    ]


def test_a_demo_goes_to_the_real_fleet_only_if_it_is_told_to(shown: list[dict[str, Any]]) -> None:
    os.environ["DSPEX_REDIS_URL"] = ELSEWHERE
    run("demo")
    run("--redis-url", ELSEWHERE, "demo")
    assert [options["redis_url"] for options in shown] == [None, ELSEWHERE]


@pytest.mark.parametrize("arguments", [("--workers", "0"), ("--questions", "/nowhere.jsonl"), ("--out", __file__)])
def test_a_demo_that_cannot_be_is_not_run(
    arguments: tuple[str, ...], shown: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("demo", *arguments) == 2
    assert arguments[0] in capsys.readouterr().err
    assert shown == []


# ---------------------------------------------------------------- doctor


def profiles(folder: Path, text: str) -> None:
    path = folder / "lm.toml"
    path.write_text(text, encoding="utf-8")
    os.environ["DSPEX_LM_PROFILES"] = str(path)


def test_no_profile_is_a_warning_that_says_where_to_declare_one() -> None:
    (check,) = check_language_models()
    assert (check.what, check.level, check.found) == ("LM profiles", "warn", "none")
    assert "DSPEX_LM_PROFILES" in check.fix
    assert "DSPEX_LM" in check.fix.replace("DSPEX_LM_PROFILES", "")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[profiles.a]\nmodle = 'x'", "profiles.a.model"),
        ("[profiles.a]\nmodel = 'x'\napi_key_env = 'COMMANDS_KEY'", "COMMANDS_KEY"),
        ("default = 'b'\n[profiles.a]\nmodel = 'x'", "'b'"),
    ],
)
def test_profiles_that_cannot_be_used_fail_with_the_reason(text: str, says: str, tmp_path: Path) -> None:
    profiles(tmp_path, text)
    (check,) = check_language_models()
    assert (check.what, check.level) == ("LM profiles", "fail")
    assert says in check.found
    assert "DSPEX_LM_PROFILES" in check.fix


def test_settings_that_cannot_be_read_fail_too() -> None:
    os.environ["DSPEX_TASK_ATTEMPTS"] = "none"
    (check,) = check_language_models()
    assert (check.what, check.level, check.fix) == ("settings", "fail", "correct the environment")
    assert "DSPEX_TASK_ATTEMPTS can't be 'none'" in check.found


def test_a_providers_endpoint_is_not_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("httpx.get", lambda *_, **__: pytest.fail("asked"))
    profiles(tmp_path, "[profiles.a]\nmodel = 'openai/gpt-4o'\nnote = 'dear'")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    assert list(check_language_models()) == [Check("LM profile a", "ok", "openai/gpt-4o, its provider's own key; dear")]


def test_an_endpoint_of_ones_own_has_to_answer(tmp_path: Path) -> None:
    os.environ["COMMANDS_KEY"] = "sk-secret"
    with RecordingLM(api_key="sk-secret") as lm:
        profiles(
            tmp_path,
            f'[profiles.up]\nmodel = "openai/a"\napi_base = "{lm.url}/"\napi_key_env = "COMMANDS_KEY"\n'
            '[profiles.down]\nmodel = "openai/b"\napi_base = "http://127.0.0.1:9/v1"\napi_key_env = "COMMANDS_KEY"\n',
        )
        up, down = check_language_models()
    assert up == Check("LM profile up", "ok", f"openai/a, with a key, answers at {lm.url}/")
    assert (down.what, down.level) == ("LM profile down", "fail")
    assert down.found == "openai/b, with a key: no answer (ConnectError)"
    assert "http://127.0.0.1:9/v1" in down.fix
    assert "sk-secret" not in f"{up}{down}"


@pytest.mark.parametrize(
    ("table", "found", "fix"),
    [
        ("model = 'demo'", "the model 'demo' names no provider", "write provider/model, such as openai/demo"),
        ("model = 'openai/a'\nmodels = ['nobody']", "the model 'nobody' names no provider", "openai/nobody"),
        ("model = 'openai/gpt-4o'", "there is no key: OPENAI_API_KEY isn't set", "set OPENAI_API_KEY, or name"),
        ("model = 'anthropic/claude-3'", "ANTHROPIC_API_KEY isn't set", "set ANTHROPIC_API_KEY"),
        (
            "model = 'openai/local'\napi_base = 'http://127.0.0.1:9/v1'",
            "the profile names no api_key_env",
            "for a server that asks for no key, any text will do",
        ),
    ],
)
def test_a_profile_that_could_send_no_request_is_told(
    table: str, found: str, fix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A missing key, a model without a provider and an endpoint without a key are no "ok"."""
    if "nobody" in table:
        monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    profiles(tmp_path, f"[profiles.a]\n{table}\n")
    (check,) = check_language_models()
    assert (check.what, check.level) == ("LM profile a", "fail")
    assert found in check.found
    assert fix in check.fix


def test_a_local_server_that_needs_no_key_is_only_asked_whether_it_answers(tmp_path: Path) -> None:
    with RecordingLM() as lm:
        profiles(tmp_path, f"[profiles.a]\nmodel = 'ollama/x'\napi_base = '{lm.url}'\n")
        (check,) = check_language_models()
    assert check.level == "ok", check


def test_an_endpoint_that_is_no_url_is_a_failure_and_not_a_traceback(tmp_path: Path) -> None:
    for url in ("localhost:8000", "http://[::1"):
        profiles(tmp_path, f'[profiles.a]\nmodel = "openai/a"\napi_base = "{url}"\n')
        (check,) = check_language_models()
        assert check.level == "fail"
        assert "api_base" in check.found
