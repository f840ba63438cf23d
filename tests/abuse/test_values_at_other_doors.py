"""Any JSON object is data at the gateway and the command line too, and its keys keep their order."""

from __future__ import annotations

import json
from collections.abc import Generator
from pathlib import Path
from typing import Any

import dspy
import pytest

from snakepit_bridge.cli import main
from snakepit_bridge.elixir.generated.dspex.fleet.v1 import fleet_pb2 as pb
from tests.abuse.test_values import SEEN, answers
from tests.harness.stage import Stage, stage
from tests.integration.gateway_clients import connected, gateway, grants, http

# Not in the order of its keys.
DOCUMENT: dict[str, Any] = {
    "z": {"y": 1, "b": 2},
    "seen": SEEN,
    "a": {f"n{at}": value for at, value in enumerate(SEEN)},
}
TEXT = json.dumps(DOCUMENT)


@pytest.fixture(scope="module")
def play(tmp_path_factory: pytest.TempPathFactory) -> Generator[Stage]:
    with stage(tmp_path_factory.mktemp("stage"), answer=answers, DSPEX_RESULT_EXPIRES_S="600") as play:
        play.fleet.register("same", dspy.Predict("document: dict -> twin: dict"))
        yield play


def shown(play: Stage) -> str:
    """What the LM was shown last of a document: text, so that the order of keys counts."""
    return play.lm.requests[-1].inputs["document"]


async def test_over_http_and_grpc(play: Stage) -> None:
    async with gateway(play.url, grants=grants()) as served:
        async with http(served.http_address) as client:
            body = '{"program":"same","inputs":{"document":' + TEXT + "}}"
            sent = await client.post("/v1/predictions", content=body, headers={"content-type": "application/json"})
            assert sent.status_code == 200, sent.text
            path = f"/v1/predictions/{sent.json()['id']}/await"
            found = (await client.get(path, params={"timeout_s": 20})).json()
        assert found["outputs"] == {"twin": DOCUMENT}, found
        assert json.dumps(found["outputs"]["twin"]) == TEXT
        assert shown(play) == json.dumps(DOCUMENT, ensure_ascii=False)
        async with connected(served.grpc_address) as client:
            task_id = await client.submit("same", "default", {"document": DOCUMENT})
            request = pb.AwaitRequest(id=task_id, timeout_s=20)
            result = await client.predictions.Await(request, metadata=client.metadata)
        assert json.loads(result.outputs_json) == {"twin": DOCUMENT}
        assert shown(play) == json.dumps(DOCUMENT, ensure_ascii=False)


def test_at_the_command_line(play: Stage, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    def run(*arguments: str) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(["--redis-url", play.url, *arguments])
        out, err = capsys.readouterr()
        assert not ended.value.code, err
        return out

    assert json.loads(run("predict", "same", f"document={TEXT}", "--json"))["outputs"] == {"twin": DOCUMENT}
    assert shown(play) == json.dumps(DOCUMENT, ensure_ascii=False)
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    lines = [{"document": DOCUMENT}, *({"id": at, "inputs": {"document": value}} for at, value in enumerate(SEEN))]
    source.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    run("batch", "same", "--input", str(source), "--output", str(output), "--batch", "4")
    outputs = [json.loads(line)["outputs"]["twin"] for line in output.read_text(encoding="utf-8").splitlines()]
    assert outputs == [DOCUMENT, *SEEN]
