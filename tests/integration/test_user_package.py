"""A user's own package on the workers: a module, a tool and a field type, installed by pip, allowed in the settings."""

from __future__ import annotations

import importlib
import importlib.util
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import dspy
import pytest

from snakepit_bridge.client import Fleet
from snakepit_bridge.exceptions import InputError, PredictionFailedError, ProgramSpecError
from tests.harness.stage import Stage, fresh, stage
from tests.harness.waiting import PATIENCE_S

PACKAGE = "acme_desk"
WAIT_S = PATIENCE_S

FILES = {
    "pyproject.toml": """
        [build-system]
        requires = ["hatchling"]
        build-backend = "hatchling.build"
        [project]
        name = "acme-desk"
        version = "1.2.3"
        """,
    "acme_desk/__init__.py": "",
    "acme_desk/kinds.py": """
        from pydantic import BaseModel

        class Ticket(BaseModel):
            title: str
            urgency: int
        """,
    "acme_desk/tools.py": """
        import os

        def stock(item: str) -> str:
            \"\"\"Tells how many of an item are left.\"\"\"
            return f"seven of {item}"
        """,
    "acme_desk/metric.py": """
        def polite(inputs, prediction):
            return 1.0 if prediction.answer.startswith("answer of") else 0.0
        """,
    "acme_desk/modules.py": """
        import dspy
        from acme_desk.kinds import Ticket

        class Read(dspy.Signature):
            \"\"\"Make a ticket of a customer's words.\"\"\"

            text: str = dspy.InputField()
            ticket: Ticket = dspy.OutputField()

        class Triage(dspy.Module):
            def __init__(self, greeting="Hello"):
                super().__init__()
                self.greeting = greeting
                self.read = dspy.Predict(Read)
                self.reply = dspy.Predict("title -> answer")

            def forward(self, text):
                ticket = self.read(text=text).ticket
                answer = self.reply(title=ticket.title).answer
                return dspy.Prediction(ticket=ticket, answer=f"{self.greeting}! {answer}")

        class Careless(dspy.Module):
            def forward(self, text):
                raise KeyError(f"no {text} here")
        """,
}

TRIAGE: dict[str, Any] = {
    "module": "acme_desk.modules:Triage",
    "arguments": {"greeting": "Good day"},
    "bindings": {"temperature": "temp", "greeting": "greeting"},
}
TYPED = {"module": "Predict", "signature": "ticket: acme_desk.kinds.Ticket -> tickets: list[acme_desk.kinds.Ticket]"}
AGENT = {"module": "ReAct", "signature": "question -> answer", "tools": ["acme_desk.tools:stock"]}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder that pip has installed the user's package into."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("site")
    for name, text in FILES.items():
        path = source / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("\n".join(line.removeprefix(" " * 8) for line in text.splitlines()), encoding="utf-8")
    pip = [sys.executable, "-m", "pip"]
    if importlib.util.find_spec("pip") is None:  # an environment made without it is filled by the system's
        pip = ["python3", "-m", "pip", "--python", sys.executable]
    offline = ["--quiet", "--no-index", "--no-deps", "--no-build-isolation", "--disable-pip-version-check"]
    done = subprocess.run(
        [*pip, "install", *offline, "--target", str(target), str(source)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (target / "acme_desk-1.2.3.dist-info").is_dir()
    return target


@pytest.fixture(scope="module")
def play(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> Generator[Stage]:
    """Workers on two queues: one where the package is installed and allowed, one where it is merely installed."""
    with stage(tmp_path_factory.mktemp("stage"), worker=False) as play:
        there = {"PYTHONPATH": str(installed)}
        play.start(wait=False, env={**there, "DSPEX_ALLOWED_PACKAGES": f"other, {PACKAGE}"})
        play.start(wait=False, env=there, queues=("strict",), name="strict")
        for worker in play.workers:
            assert worker.ready()
        yield play


@pytest.fixture
def fleet(play: Stage, installed: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[Fleet]:
    """A client that has the package too, and allows it: what registers a program by its path builds it first."""
    monkeypatch.syspath_prepend(str(installed))
    yield Fleet(play.url, allowed_packages=[PACKAGE])
    for name in [name for name in sys.modules if name.partition(".")[0] == PACKAGE]:
        del sys.modules[name]


def test_a_module_of_the_users_is_registered_by_its_path_and_obeys_variables(play: Stage, fleet: Fleet) -> None:
    session, text = fresh("s"), fresh("a broken door")
    program = fleet.register("triage", TRIAGE)
    token = fleet.session(session).blocking.set_variables({"temp": 0.35, "greeting": "Servus"})
    prediction = fleet.submit("triage", {"text": text}, session=session, at_least=token).get(WAIT_S)
    assert prediction.answer.startswith("Servus! answer of ")
    assert prediction.ticket.keys() == {"title", "urgency"}
    assert prediction.provenance.module == "Triage"
    assert prediction.provenance.digest == program.digest
    [read], [reply] = play.requests_with(text), play.requests_with(prediction.ticket["title"])
    assert (read.temperature, reply.temperature) == (0.35, 0.35)


def test_an_instance_of_the_users_is_registered_as_it_is(fleet: Fleet) -> None:
    modules = importlib.import_module("acme_desk.modules")
    # The client holds the instance already, so its own code needs no permission here; on the workers it does.
    plain = Fleet(fleet.url)
    program = plain.register("triage-instance", modules.Triage("Hi"), arguments={"greeting": "Hi"})
    assert program.spec.module == "acme_desk.modules:Triage"
    prediction = plain.submit("triage-instance", {"text": "a lost key"}).get(WAIT_S)
    assert prediction.answer.startswith("Hi! ")


def test_a_reward_function_of_the_users_is_taken_as_a_tool_is(fleet: Fleet) -> None:
    """A metric of an allowed package, of an instance that the client holds."""
    metric = importlib.import_module("acme_desk.metric")
    best = dspy.BestOfN(dspy.Predict("question -> answer"), N=2, reward_fn=metric.polite, threshold=1.0)
    program = Fleet(fleet.url).register("polite", best)
    assert program.spec.functions == {"reward_fn": "acme_desk.metric:polite"}
    question = fresh("please")
    assert fleet.submit("polite", {"question": question}).get(WAIT_S).answer == f"answer of {question}"


def test_a_result_says_which_release_of_the_package_made_it_and_reads_like_the_object(fleet: Fleet) -> None:
    """The distribution's version stands in provenance; ``prediction.ticket.title`` works."""
    fleet.register("triage-plain", {"module": "acme_desk.modules:Triage"})
    prediction = fleet.submit("triage-plain", {"text": fresh("a squeak")}).get(WAIT_S)
    assert prediction.provenance.packages == {"acme-desk": "1.2.3"}
    assert prediction.ticket.title == prediction.ticket["title"]
    assert prediction.ticket.urgency == prediction.ticket["urgency"]
    modules, kinds = importlib.import_module("acme_desk.modules"), importlib.import_module("acme_desk.kinds")
    assert isinstance(prediction.typed(modules.Read).ticket, kinds.Ticket)
    # What came back goes in again.
    fleet.register("typed", TYPED)
    [again] = fleet.map("typed", [{"ticket": prediction.ticket}], timeout=WAIT_S)
    assert again.tickets[0].title


def test_a_field_type_of_the_users_goes_in_and_out(play: Stage, fleet: Fleet) -> None:
    fleet.register("typed", TYPED)
    title = fresh("leak")
    prediction = fleet.submit("typed", {"ticket": {"title": title, "urgency": 3}}).get(WAIT_S)
    assert all(ticket.keys() == {"title", "urgency"} for ticket in prediction.tickets)
    assert play.requests_with(title)[0].inputs["ticket"] == f'{{"title": "{title}", "urgency": 3}}'
    with pytest.raises(InputError, match=r"input 'ticket': urgency: .*valid integer"):
        fleet.submit("typed", {"ticket": {"title": title, "urgency": "very"}}).get(WAIT_S)


def test_a_tool_of_the_users_is_called_on_the_worker(play: Stage, fleet: Fleet) -> None:
    fleet.register("agent", AGENT)
    question = fresh("bolts")
    assert fleet.submit("agent", {"question": question}).get(WAIT_S).answer
    assert f"seven of {question}" in play.requests_with(question)[1].inputs["trajectory"]


def test_what_the_users_module_raises_is_named(fleet: Fleet) -> None:
    fleet.register("careless", {"module": "acme_desk.modules:Careless"})
    with pytest.raises(PredictionFailedError, match=r"'careless' raised KeyError: 'no cellar here'"):
        fleet.submit("careless", {"text": "cellar"}).get(WAIT_S)


@pytest.mark.parametrize("spec", [TRIAGE, TYPED, AGENT], ids=["module", "type", "tool"])
def test_a_client_that_does_not_allow_the_package_refuses_its_path(fleet: Fleet, spec: dict[str, Any]) -> None:
    name = fresh("p")
    with pytest.raises(ProgramSpecError, match=r"acme_desk\S+ isn't in an allowed package \(none\); allow it"):
        Fleet(fleet.url).register(name, spec)
    assert name not in {listed.name for listed in fleet.programs()}


@pytest.mark.parametrize("spec", [TRIAGE, TYPED, AGENT], ids=["module", "type", "tool"])
def test_a_worker_that_does_not_allow_the_package_refuses_its_path(
    play: Stage, fleet: Fleet, spec: dict[str, Any]
) -> None:
    name, session = fresh("p"), fresh("s")
    fleet.register(name, spec)
    fleet.session(session).blocking.set_variables({"temp": 0.5, "greeting": "Hey"})
    before = len(play.lm.requests)
    strict = Fleet(play.url, queue="strict")
    with pytest.raises(ProgramSpecError, match=r"acme_desk\S+ isn't in an allowed package \(none\); allow it"):
        strict.submit(name, {"text": "x"}, session=session).get(WAIT_S)
    assert len(play.lm.requests) == before


def test_what_an_allowed_module_merely_imports_stays_out_of_reach(fleet: Fleet) -> None:
    for tool in ("acme_desk.tools:os.system", "acme_desk.tools.os:system"):
        with pytest.raises(ProgramSpecError, match=r"refused at tools"):
            fleet.register(fresh("p"), {**AGENT, "tools": [tool]})
