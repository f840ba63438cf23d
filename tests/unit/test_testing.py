"""The users' test kit, against real DSPy modules over HTTP: what it answers, what it records, how it misbehaves."""

from __future__ import annotations

import ast
import asyncio
import enum
import json
import re
import socket
import sys
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any, Literal

import dspy
import httpx
import pydantic
import pytest
from dspy.primitives.code_interpreter import FinalOutput

from snakepit_bridge import testing
from snakepit_bridge.exceptions import ConfigurationError
from snakepit_bridge.testing import AskedQuestion, Raw, RecordingLM, default_answer, read_ask, scripted
from snakepit_bridge.testing.lm.rendering import render
from snakepit_bridge.testing.lm.values import value_for
from tests.harness.waiting import PATIENCE_S, wait_until

CHAT = dspy.ChatAdapter(use_json_adapter_fallback=False)
ADAPTERS = pytest.mark.parametrize(
    "adapter", [CHAT, dspy.JSONAdapter(), dspy.XMLAdapter(use_json_adapter_fallback=False)], ids=["chat", "json", "xml"]
)


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Address(pydantic.BaseModel):
    street: str
    number: int = pydantic.Field(ge=1, le=99)


class Person(pydantic.BaseModel):
    name: str
    address: Address
    nicknames: list[str] = []


class Everything(dspy.Signature):
    """Say something of every type.

    A second paragraph."""

    text: str = dspy.InputField(desc="any text")
    numbers: list[int] = dspy.InputField()
    word: str = dspy.OutputField(desc="one\nword")
    count: int = dspy.OutputField(ge=3, le=5)
    share: float = dspy.OutputField(gt=0, lt=1)
    flag: bool = dspy.OutputField()
    label: Literal["it's; here", "there", 3] = dspy.OutputField()
    colour: Colour = dspy.OutputField()
    tags: list[str] = dspy.OutputField()
    maybe: float | None = dspy.OutputField()


class Nested(dspy.Signature):
    """Say nested things."""

    text: str = dspy.InputField()
    scores: dict[str, int] = dspy.OutputField()
    pair: tuple[int, str] = dspy.OutputField()
    person: Person = dspy.OutputField()
    people: list[Person] = dspy.OutputField()


@pytest.fixture(autouse=True)
def no_metadata_download(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "true")


@pytest.fixture
def server() -> Generator[RecordingLM]:
    with RecordingLM() as server:
        yield server


def model(server: RecordingLM, **parameters: Any) -> dspy.LM:
    settings: dict[str, Any] = {"api_key": "x", "cache": False, "num_retries": 0, **parameters}
    return dspy.LM("openai/demo", api_base=server.url, **settings)


def completions(server: RecordingLM, content: str = "hello", **body: Any) -> httpx.Response:
    message = {"role": "user", "content": content}
    return httpx.post(f"{server.url}/chat/completions", json={"model": "demo", "messages": [message], **body})


def add(a: float, b: float, label: Literal["sum", "total"], note: str = "") -> str:
    """Adds two numbers."""
    return f"{label}: {a + b}"


def search(query: str) -> str:
    """Searches the web."""
    return f"found {query}"


# ------------------------------------------------------------------ what it answers


@ADAPTERS
def test_every_type_of_output_is_answered_so_that_dspy_can_parse_it(server: RecordingLM, adapter: Any) -> None:
    with dspy.context(lm=model(server), adapter=adapter):
        prediction = dspy.Predict(Everything)(text="hi", numbers=[1, 2])
    types = [type(prediction[name]) for name in ("word", "count", "share", "flag", "colour", "maybe")]
    assert types == [str, int, float, bool, Colour, float]
    assert 3 <= prediction.count <= 5
    assert 0 < prediction.share < 1
    assert prediction.label in ("it's; here", "there", 3)
    assert prediction.tags
    assert all(isinstance(tag, str) for tag in prediction.tags)
    assert len(server.requests) == 1


@pytest.mark.parametrize("adapter", [CHAT, dspy.JSONAdapter()], ids=["chat", "json"])
def test_nested_types_are_answered_from_their_json_schema(server: RecordingLM, adapter: Any) -> None:
    with dspy.context(lm=model(server), adapter=adapter):
        prediction = dspy.Predict(Nested)(text="hi")
    assert isinstance(prediction.person, Person)
    assert 1 <= prediction.person.address.number <= 99
    assert all(isinstance(person, Person) for person in prediction.people)
    assert all(isinstance(score, int) for score in prediction.scores.values())
    assert isinstance(prediction.pair[0], int)


def test_equal_inputs_get_equal_answers_and_other_inputs_others(server: RecordingLM) -> None:
    with dspy.context(lm=model(server)):
        ask = dspy.ChainOfThought("question -> answer")
        first, again, other = (ask(question=text) for text in ("one", "one", "two"))
    assert first.toDict() == again.toDict()
    assert first.answer != other.answer
    assert first.reasoning


@ADAPTERS
def test_a_react_agent_calls_the_first_tool_once_and_finishes(server: RecordingLM, adapter: Any) -> None:
    with dspy.context(lm=model(server, temperature=0.4), adapter=adapter):
        prediction = dspy.ReAct("question -> answer: int", tools=[search, add])(question="what is new?")  # pyright: ignore[reportArgumentType]
    assert prediction.trajectory["tool_args_0"] == {"query": "what is new?"}
    assert prediction.trajectory["observation_0"] == "found what is new?"
    assert prediction.trajectory["tool_name_1"] == "finish"
    assert isinstance(prediction.answer, int)
    assert len(server.requests) == 3
    server.assert_all_sent(temperature=0.4)


def test_a_react_agent_gives_each_tool_argument_its_type(server: RecordingLM) -> None:
    with dspy.context(lm=model(server)):
        prediction = dspy.ReAct("question -> answer", tools=[add])(question="2 and 2?")  # pyright: ignore[reportArgumentType]
    assert re.fullmatch(r"(sum|total): \d+\.\d+", prediction.trajectory["observation_0"])
    assert prediction.trajectory["tool_args_0"].keys() == {"a", "b", "label"}


def test_the_second_react_module_gets_tool_calls_and_a_submit(server: RecordingLM) -> None:
    with dspy.context(lm=model(server)):
        prediction = dspy.ReActV2("question -> answer: int", tools=[search])(question="what?")  # pyright: ignore[reportArgumentType]
    assert isinstance(prediction.answer, int)


class OneLineInterpreter:
    """Runs the one program that the default answerer writes, by reading it: no sandbox is needed for that."""

    tools: dict[str, Any] = {}  # noqa: RUF012

    def start(self) -> None: ...

    def shutdown(self) -> None: ...

    def execute(self, code: str, variables: dict[str, Any] | None = None) -> FinalOutput:
        assigned, submitted = ast.parse(code).body
        assert ast.unparse(submitted) == "SUBMIT(result)"
        assert isinstance(assigned, ast.Assign)
        return FinalOutput(ast.literal_eval(assigned.value))


@pytest.mark.filterwarnings("ignore:ProgramOfThought is deprecated")
def test_a_program_of_thought_gets_a_program_that_submits_the_wanted_fields(server: RecordingLM) -> None:
    with dspy.context(lm=model(server)):
        thinker = dspy.ProgramOfThought("question -> answer: float, unit", interpreter_factory=OneLineInterpreter)
        prediction = thinker(question="how far?")
    assert isinstance(prediction.answer, float)
    assert json.loads(server.requests[-1].inputs["code_output"]).keys() == {"answer", "unit"}


def test_demos_do_not_hide_the_question(server: RecordingLM) -> None:
    with dspy.context(lm=model(server)):
        dspy.Predict("question -> answer")(question="new", demos=[dspy.Example(question="old", answer="older")])
    assert server.requests[0].inputs == {"question": "new"}


def test_a_header_inside_a_value_stays_part_of_the_value(server: RecordingLM) -> None:
    with dspy.context(lm=model(server)):
        dspy.Predict("text, hint -> answer")(text="a\n\n[[ ## other ## ]]\nb", hint="c\n\nRespond with care")
    assert server.requests[0].inputs == {"text": "a\n\n[[ ## other ## ]]\nb", "hint": "c\n\nRespond with care"}


def test_a_prompt_that_no_adapter_wrote_is_answered_in_plain_text(server: RecordingLM) -> None:
    assert testing.STAND_IN in completions(server).json()["choices"][0]["message"]["content"]
    assert server.requests[0].outputs == ()


@pytest.mark.parametrize(
    ("schema", "holds"),
    [
        ({"type": "integer", "exclusiveMinimum": 4, "exclusiveMaximum": 6}, lambda value: value == 5),
        ({"type": "integer", "maximum": -3}, lambda value: value <= -3),
        ({"type": "integer", "minimum": 10, "maximum": 30, "multipleOf": 7}, lambda value: value in (14, 21, 28)),
        ({"type": "number", "minimum": 2, "maximum": 2}, lambda value: value == 2),
        ({"type": "string", "minLength": 40}, lambda value: len(value) >= 40),
        ({"type": "string", "maxLength": 3}, lambda value: len(value) <= 3),
        ({"type": "string", "format": "date"}, lambda value: re.fullmatch(r"2024-\d\d-\d\d", value)),
        ({"type": "array", "items": {"type": "boolean"}, "minItems": 5}, lambda value: len(value) >= 5),
        ({"anyOf": [{"type": "null"}, {"type": "integer"}]}, lambda value: isinstance(value, int)),
        ({"const": "fixed"}, lambda value: value == "fixed"),
        ({"type": "null"}, lambda value: value is None),
    ],
)
def test_a_made_up_value_keeps_its_schema(schema: dict[str, Any], holds: Any) -> None:
    for seed in map(str, range(50)):
        assert holds(value_for(schema, seed, "field"))


# ------------------------------------------------------------------ scripted answers


def test_a_script_is_followed_in_order_and_says_when_it_ends() -> None:
    with RecordingLM(scripted(["Paris", {"answer": "Rome"}])) as server, dspy.context(lm=model(server)):
        ask = dspy.Predict("question -> answer")
        assert [ask(question="a").answer, ask(question="b").answer] == ["Paris", "Rome"]
        with pytest.raises(Exception, match="the script has 2 answers and was asked 3 times"):
            ask(question="c")
    assert server.requests[-1].status == 500


def test_a_script_may_repeat_be_a_function_or_fill_only_some_fields() -> None:
    def shout(ask: AskedQuestion) -> dict[str, Any]:
        return {"answer": ask.inputs["question"].upper()}

    with RecordingLM(scripted(shout)) as server, dspy.context(lm=model(server)):
        prediction = dspy.ChainOfThought("question -> answer")(question="why")
        assert prediction.answer == "WHY"
        assert prediction.reasoning
    ask = read_ask({"messages": []})
    again = scripted([1, 2], repeat=True)
    assert [again(ask) for _ in range(3)] == [{"answer": 1}, {"answer": 2}, {"answer": 1}]


def test_a_raw_answer_is_sent_word_for_word_and_an_error_becomes_a_500() -> None:
    with RecordingLM(scripted([Raw("as is"), KeyError("oh no")])) as server:
        assert completions(server).json()["choices"][0]["message"]["content"] == "as is"
        failed = completions(server)
    assert failed.status_code == 500
    assert "KeyError" in failed.json()["error"]["message"]


def test_a_scripted_model_is_rendered_for_the_adapter_that_asks() -> None:
    person = Person(name="Ada", address=Address(street="Byron Row", number=12))
    with RecordingLM(scripted([{"person": person}])) as server, dspy.context(lm=model(server)):
        assert dspy.Predict(Nested)(text="who?").person == person
    assert render("chat", {"flag": True, "none": None}) == (
        "[[ ## flag ## ]]\nTrue\n\n[[ ## none ## ]]\nnull\n\n[[ ## completed ## ]]"
    )


# ------------------------------------------------------------------ what it records


def test_what_dspy_sent_is_in_the_record(server: RecordingLM) -> None:
    signature: Any = dspy.Signature("question -> answer: int", "Answer in\n\n- one number\n  exactly.")  # pyright: ignore[reportCallIssue]
    with dspy.context(lm=model(server, temperature=0.3, max_tokens=77, top_p=0.5, stop=["END"])):
        dspy.Predict(signature)(question="how many?", config={"temperature": 0.9})
    record = server.requests[0]
    assert (record.model, record.temperature, record.max_tokens, record.top_p) == ("demo", 0.9, 77, 0.5)
    assert record.body["stop"] == ["END"]
    assert record.instructions == "Answer in\n\n- one number\n  exactly."
    assert record.inputs == {"question": "how many?"}
    assert record.outputs == ("answer",)
    assert record.system == record.body["messages"][0]["content"]
    assert record.status == 200
    assert record.answered_at is not None
    assert 0 <= record.answered_at - record.received_at < 5
    server.assert_sent(temperature=0.9, instructions=lambda text: "one number" in text)


def test_a_failed_assertion_shows_what_there_was(server: RecordingLM) -> None:
    with pytest.raises(AssertionError, match="the server received no request"):
        server.assert_sent(temperature=0.9)
    completions(server, temperature=0.2)
    with pytest.raises(AssertionError, match=r"(?s)temperature=0.9, seed=1.*#0 temperature=0.2, seed='\(absent\)'"):
        server.assert_sent(temperature=0.9, seed=1)
    completions(server, temperature=0.9)
    server.assert_sent(temperature=0.9)
    with pytest.raises(AssertionError, match="every request with"):
        server.assert_all_sent(temperature=0.9)


def test_the_key_is_noted_as_present_and_kept_nowhere(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    with RecordingLM(file=log) as server, dspy.context(lm=model(server, api_key="sk-very-secret")):
        dspy.Predict("question -> answer")(question="x")
        completions(server)
        kept = httpx.get(f"{server.url.removesuffix('/v1')}/requests").text
    assert [record.authorised for record in server.requests] == [True, False]
    assert "very-secret" not in kept + log.read_text() + repr(server.requests)
    assert [json.loads(line)["index"] for line in log.read_text().splitlines()] == [0, 1]


def test_the_log_is_read_in_pieces_and_cleared_over_http(server: RecordingLM) -> None:
    root = server.url.removesuffix("/v1")
    for content in "abc":
        completions(server, content, temperature=0.5)
    later = httpx.get(f"{root}/requests", params={"since": 2}).json()
    assert [record["index"] for record in later] == [2]
    assert testing.Recorded.from_json(later[0]) == server.requests[2]
    assert "body" not in httpx.get(f"{root}/requests", params={"brief": 1}).json()[0]
    assert httpx.get(f"{root}/requests", params={"since": "x"}).status_code == 400
    assert httpx.delete(f"{root}/requests").status_code == 204
    completions(server)
    assert [record.index for record in server.requests] == [3]


def test_only_the_newest_requests_are_kept() -> None:
    with RecordingLM(keep=2) as server:
        for content in "abc":
            completions(server, content)
        assert [record.index for record in server.requests] == [1, 2]


def test_requests_can_be_waited_for(server: RecordingLM) -> None:
    with pytest.raises(AssertionError, match=r"expected 1 requests within 0\.01 s"):
        server.wait_for_requests(1, timeout_s=0.01)
    completions(server)
    assert len(server.wait_for_requests(1)) == 1


# ------------------------------------------------------------------ OpenAI's surface


def test_several_choices_differ_and_usage_is_counted() -> None:
    with RecordingLM(scripted([Raw("one"), Raw("two, longer")])) as server:
        answer = completions(server, "twelve chars", n=2).json()
    assert [choice["message"]["content"] for choice in answer["choices"]] == ["one", "two, longer"]
    assert answer["usage"] == {"prompt_tokens": 3, "completion_tokens": 3, "total_tokens": 6}
    ask = read_ask({"messages": [{"role": "system", "content": "x"}, {"role": "user", "content": "y"}]})
    assert default_answer(ask) == {}


def test_usage_reaches_dspy(server: RecordingLM) -> None:
    with dspy.context(lm=model(server), track_usage=True):
        prediction = dspy.Predict("question -> answer")(question="x")
    assert prediction.get_lm_usage()["openai/demo"]["total_tokens"] > 0


def test_an_answer_is_streamed_in_pieces(server: RecordingLM) -> None:
    whole = completions(server).json()["choices"][0]["message"]["content"]
    body: dict[str, Any] = {"model": "demo", "stream": True, "stream_options": {"include_usage": True}}
    streamed = completions(server, **body)
    lines = [line.removeprefix("data: ") for line in streamed.text.splitlines() if line]
    chunks = [json.loads(line) for line in lines[:-1]]
    pieces = [choice["delta"].get("content", "") for chunk in chunks for choice in chunk["choices"]]
    assert streamed.headers["content-type"].startswith("text/event-stream")
    assert lines[-1] == "[DONE]"
    assert len(pieces) > 3
    assert "".join(pieces) == whole
    assert chunks[-1]["usage"]["total_tokens"] > 0


async def test_dspy_streams_a_field(server: RecordingLM) -> None:
    program: Any = dspy.streamify(
        dspy.Predict("question -> answer"),
        stream_listeners=[dspy.streaming.StreamListener(signature_field_name="answer")],
    )
    with dspy.context(lm=model(server)):
        seen = [item async for item in program(question="x")]
    last = seen[-1]
    assert "".join(item.chunk for item in seen[:-1]) == last.answer


def test_models_are_listed_and_nonsense_is_refused(server: RecordingLM) -> None:
    assert [entry["id"] for entry in httpx.get(f"{server.url}/models").json()["data"]] == ["demo"]
    for content in (b"{", b"[]", b'{"messages": "hi"}'):
        refused = httpx.post(f"{server.url}/chat/completions", content=content)
        assert refused.status_code == 400
        assert refused.json()["error"]["type"] == "invalid_request_error"
    assert [record.status for record in server.requests] == [400, 400, 400]


def test_a_wrong_key_is_refused_as_openai_does() -> None:
    with RecordingLM(api_key="right") as server:
        with dspy.context(lm=model(server, api_key="wrong")), pytest.raises(dspy.LMAuthError):
            dspy.Predict("question -> answer")(question="x")
        with dspy.context(lm=model(server, api_key="right")):
            dspy.Predict("question -> answer")(question="x")
        assert httpx.get(f"{server.url}/models").json()["error"]["code"] == "invalid_api_key"
    assert [record.status for record in server.requests] == [401, 200]


async def test_three_hundred_connections_are_answered_at_once() -> None:
    body = json.dumps({"model": "demo", "messages": [{"role": "user", "content": "x"}]})
    request = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n{body}".encode()

    async def post_twice() -> list[bytes]:
        reader, writer = await asyncio.open_connection(server.host, server.port)
        heads: list[bytes] = []
        for _ in range(2):
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(int(re.findall(rb"content-length: (\d+)", head)[0]))
            heads.append(head)
        writer.close()
        return heads

    with RecordingLM(latency_s=0.3) as server:
        answers = await asyncio.gather(*(post_twice() for _ in range(300)))
    assert all(head.startswith(b"HTTP/1.1 200") for heads in answers for head in heads)
    first_answer = min(record.answered_at or 0 for record in server.requests)
    assert sum(record.received_at < first_answer for record in server.requests) > 100


def test_answers_do_not_wait_for_the_clients_acknowledgement(server: RecordingLM) -> None:
    with httpx.Client() as client:
        body = {"model": "demo", "messages": [{"role": "user", "content": "x"}]}
        times: list[float] = []
        for _ in range(20):
            started = time.perf_counter()
            client.post(f"{server.url}/chat/completions", json=body)
            times.append(time.perf_counter() - started)
    # Without TCP_NODELAY nearly each answer takes 40 ms; on a busy machine some take as long with it.
    assert sorted(times)[5] < 0.035


# ------------------------------------------------------------------ how it misbehaves


def test_a_failure_on_request_carries_its_retry_after_and_passes(server: RecordingLM) -> None:
    server.fail(2, status=503, retry_after_s=7)
    ask = dspy.Predict("question -> answer")
    with dspy.context(lm=model(server)):
        for _ in range(2):
            with pytest.raises(dspy.LMServerError) as raised:
                ask(question="x")
            assert raised.value.retry_after == 7
        ask(question="x")
    assert [record.status for record in server.requests] == [503, 503, 200]


def test_a_rate_limit_is_one_to_dspy(server: RecordingLM) -> None:
    server.fail(status=429)
    with dspy.context(lm=model(server)), pytest.raises(dspy.LMRateLimitError):
        dspy.Predict("question -> answer")(question="x")


def test_a_hang_ends_with_the_clients_timeout(server: RecordingLM) -> None:
    server.hang()
    with dspy.context(lm=model(server, timeout=0.2)), pytest.raises((dspy.LMTimeoutError, dspy.LMTransportError)):
        dspy.Predict("question -> answer")(question="x")
    wait_until(lambda: server.requests[0].status is not None, "the server noticing that the client left")
    assert server.requests[0].status == 499


def test_a_hanging_request_does_not_hold_up_the_stop(server: RecordingLM) -> None:
    server.hang()
    with socket.create_connection((server.host, server.port), timeout=PATIENCE_S) as client:
        body = json.dumps({"messages": []}).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
        client.sendall(head.encode() + body)
        server.wait_for_requests(1)
        server.stop()
    assert server.requests[0].status == 499


def test_a_dropped_connection_is_a_transport_error(server: RecordingLM) -> None:
    server.drop()
    with dspy.context(lm=model(server)), pytest.raises(dspy.LMTransportError):
        dspy.Predict("question -> answer")(question="x")
    assert server.requests[0].status == 0


def test_a_garbled_answer_can_not_be_parsed(server: RecordingLM) -> None:
    server.garble(2)
    with dspy.context(lm=model(server)), pytest.raises(dspy.AdapterParseError):
        dspy.Predict("question -> answer")(question="x")
    # The ChatAdapter asks a second time, through the JSONAdapter.
    assert [record.ask.layout.style for record in server.requests] == ["chat", "json"]


def test_a_fault_can_be_meant_for_some_requests_only(server: RecordingLM) -> None:
    server.fail(None, status=500, containing="poison", body="no such luck")
    statuses = [completions(server, content).status_code for content in ("fine", "a poison pill", "fine", "poison")]
    assert statuses == [200, 500, 200, 500]
    server.faults.clear()
    assert completions(server, "poison").status_code == 200


def test_faults_are_set_over_http(server: RecordingLM) -> None:
    url = f"{server.url.removesuffix('/v1')}/faults"
    fault = {"times": 1, "status": 418, "body": {"error": {"message": "teapot"}}}
    state = httpx.post(url, json={"latency_s": 0.05, "jitter_s": 0.01, "fail": fault}).json()
    assert state == {"latency_s": 0.05, "jitter_s": 0.01, "pending": [{"kind": "status", "times": 1}]}
    assert completions(server).json() == {"error": {"message": "teapot"}}
    record = server.requests[0]
    assert record.answered_at is not None
    assert record.answered_at - record.received_at >= 0.05
    assert httpx.post(url, json={"clear": True}).json() == {"latency_s": 0.0, "jitter_s": 0.0, "pending": []}
    for wrong in ({"speed": 1}, {"fail": {"kind": "explode"}}, {"fail": {"times": 0}}, {"latency_s": "soon"}, []):
        assert httpx.post(url, json=wrong).status_code == 400


# ------------------------------------------------------------------ start and stop


def test_stop_frees_the_port_and_start_takes_it_again() -> None:
    server = RecordingLM().start()
    port = server.port
    assert server.start() is server
    server.stop()
    server.stop()
    with socket.create_server(("127.0.0.1", port)), pytest.raises(ConfigurationError, match="can't listen"):
        server.start()
    with server:
        assert server.port == port
        assert completions(server).status_code == 200


def test_without_the_server_extra_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "snakepit_bridge.testing.uvicorn_server", raising=False)
    monkeypatch.delattr(testing, "uvicorn_server", raising=False)
    with pytest.raises(ConfigurationError, match=re.escape("pip install dspex-fleet[server]")):
        RecordingLM().start()


def test_every_exported_name_is_there() -> None:
    assert all(hasattr(testing, name) for name in testing.__all__)
