"""The Elixir package: its own tests and its example, against real gateways."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import pytest
import trustme

from tests.harness.otlp import Collector, ExportedSpan, collector
from tests.harness.preloaded import PreloadedPopen
from tests.harness.stage import Stage, stage
from tests.harness.waiting import PATIENCE_S, wait_until
from workers.gateway import new_token, to_toml

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "elixir"
TRACED = PACKAGE / "test" / "support" / "traced.exs"
ASKED = {"module": "Predict", "signature": "question -> answer"}


class Elixir(NamedTuple):
    """What the package's tests run against."""

    play: Stage
    env: Mapping[str, str]
    exported: Collector


@pytest.fixture(scope="module")
def mix() -> str:
    """The ``mix`` that runs, with the package's dependencies in reach."""
    found = shutil.which("mix")
    if found is None:
        pytest.skip("Elixir isn't installed: there is no mix on the PATH")
    looked = run_mix(found, "do", "deps.loadpaths", "--no-compile", timeout=PATIENCE_S)
    if looked.returncode:
        pytest.skip("the Elixir package's dependencies aren't there: run `mix deps.get` in elixir/")
    return found


@pytest.fixture(scope="module")
def elixir(mix: str, tmp_path_factory: pytest.TempPathFactory) -> Generator[Elixir]:
    """A fleet of two workers, one for code, with a gateway that asks for tokens and one that asks for certificates."""
    folder = tmp_path_factory.mktemp("elixir")
    writer, reader, approver = new_token(), new_token(), new_token()
    tokens = folder / "tokens.toml"
    tokens.write_text(
        to_toml("elixir", writer, ["publish", "predict", "read", "admin", "control", "content"], ["*"])
        + to_toml("reader", reader, ["read"], ["elixir*"])
        + to_toml("approver", approver, ["read", "approve"], ["*"]),
        encoding="utf-8",
    )
    authority, files = certificates(folder)
    settings = {"DSPEX_REQUIREMENT_WAIT_S": "5", "DSPEX_CAPTURE_LM_CALLS": "true"}
    with collector() as exported, stage(folder, **settings, **telemetry(exported)) as play:
        # The wait is long enough for a request under load to find a prediction that waits for its token.
        play.fleet.register("asked", ASKED, bindings={"temperature": "warmth"})
        play.start(pool="prefork", concurrency=1, queues=("predictions.code",), name="code")
        guarded = ["--tokens", str(tokens)]
        certified = ["--certificate", files["server"], "--key", files["server_key"], "--client-ca", authority]
        with gateway(play, *guarded, env=telemetry(exported)) as address, gateway(play, *certified) as tls_address:
            yield Elixir(
                play,
                {
                    "DSPEX_FLEET_TARGET": address,
                    "DSPEX_FLEET_TOKEN": writer,
                    "DSPEX_FLEET_READER": reader,
                    "DSPEX_FLEET_APPROVER": approver,
                    "DSPEX_FLEET_GATEWAY": json.dumps(gateway_command(play)),
                    "DSPEX_FLEET_TLS_TARGET": tls_address,
                    "DSPEX_FLEET_TLS_CA": authority,
                    "DSPEX_FLEET_TLS_CERT": files["client"],
                    "DSPEX_FLEET_TLS_KEY": files["client_key"],
                },
                exported,
            )


@pytest.mark.timeout(1500)
def test_the_package_passes_its_own_tests_against_a_real_gateway(mix: str, elixir: Elixir) -> None:
    compiled = run_mix(mix, "do", "format", "--check-formatted", "+", "compile", "--warnings-as-errors", timeout=300)
    assert compiled.returncode == 0, compiled.stdout[-4000:]
    done = run_mix(mix, "test", timeout=1100, env=elixir.env)
    summary = re.search(r"(\d+) tests, 0 failures(, \d+ excluded)?", done.stdout)
    assert done.returncode == 0, done.stdout[-8000:]
    assert summary is not None, done.stdout[-4000:]
    assert int(summary[1]) >= 190
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


@pytest.mark.timeout(300)
def test_a_trace_goes_from_the_caller_in_elixir_through_the_gateway_to_the_worker(mix: str, elixir: Elixir) -> None:
    trace, caller = uuid4().hex, uuid4().hex[:16]
    done = run_mix(mix, "run", str(TRACED), trace, caller, timeout=200, env=elixir.env)
    assert done.returncode == 0, done.stdout
    called = [f"dspex.fleet.v1.Predictions/{name}" for name in ("Submit", "Await")]
    names = {*called, "submit predictions", "tasks.predict", "chat demo"}
    wait_until(lambda: names <= spans_of(elixir, trace).keys(), "the spans of the gateway and the worker")
    spans = spans_of(elixir, trace)
    assert [spans[name].parent for name in called] == [caller, caller]
    submitted, task = spans["submit predictions"], spans["tasks.predict"]
    assert (submitted.parent, task.parent) == (spans[called[0]].id, submitted.id)
    assert f"prediction {task.attributes['messaging.message.id']}" in done.stdout


@pytest.mark.timeout(120)
def test_the_package_builds_for_hex_with_its_licence_changelog_examples_and_links(mix: str, tmp_path: Path) -> None:
    url = "https://example.org/dspex-fleet"
    package = tmp_path / "package.tar"
    built = run_mix(mix, "hex.build", "--output", str(package), timeout=PATIENCE_S, env={"DSPEX_FLEET_SOURCE_URL": url})
    if "Could not find Hex" in built.stdout or "could not be found" in built.stdout:
        pytest.skip("Hex isn't there")
    assert built.returncode == 0, built.stdout
    assert "missing" not in built.stdout.lower()
    with tarfile.open(package) as tar:
        metadata = read_member(tar, "metadata.config").decode()
        contents = io.BytesIO(read_member(tar, "contents.tar.gz"))
    with tarfile.open(fileobj=contents) as tar:
        files = set(tar.getnames())
    assert {"LICENSE", "CHANGELOG.md", "README.md", "mix.exs", "examples/prediction_worker.ex"} <= files
    assert not {name for name in files if name.startswith(("test", "bench", "deps", "_build"))}
    assert f'{{<<"Source">>,<<"{url}">>}}' in metadata


def read_member(tar: tarfile.TarFile, name: str) -> bytes:
    """Return the content of a file in an archive."""
    member = tar.extractfile(name)
    assert member is not None
    return member.read()


def spans_of(elixir: Elixir, trace: str) -> dict[str, ExportedSpan]:
    """Return the spans of a trace by their names."""
    return {span.name: span for span in elixir.exported.trace(trace)}


def telemetry(exported: Collector) -> dict[str, Any]:
    """Return the settings of a process that exports its spans as soon as they end."""
    return {
        "OTEL_TRACES_EXPORTER": "otlp",
        "OTEL_METRICS_EXPORTER": "none",
        "OTEL_EXPORTER_OTLP_ENDPOINT": exported.url,
        "OTEL_BSP_SCHEDULE_DELAY": "100",
    }


@contextmanager
def gateway(play: Stage, *options: str, env: Mapping[str, str] | None = None) -> Generator[str]:
    """Run a gateway process, and yield where it serves HTTP."""
    command = [*gateway_command(play), "--http", "127.0.0.1:0", *options]
    process = PreloadedPopen(command, cwd=ROOT, env={**os.environ, **(env or {})}, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, f"the gateway ended with {process.wait()}"
        yield json.loads(line)["http"]
    finally:
        process.terminate()
        process.communicate(timeout=PATIENCE_S)


def gateway_command(play: Stage) -> list[str]:
    """Return the command that runs a gateway, for any test's number of calls."""
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from snakepit_bridge.cli import main; main()"
    limits = ["--rate", "100000", "--streams", "5000"]
    return [sys.executable, "-c", code, "--redis-url", play.url, "gateway", "--no-grpc", "--drain", "1", *limits]


def certificates(folder: Path) -> tuple[str, dict[str, str]]:
    """Write an authority, a server's and a client's certificate, and return where."""
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
    """Run a mix task of the package; it is asked nothing."""
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
