"""A scenario that fills the console: reviews sorted by their mood, and a worse way to do it, which is rolled back.

python examples/fill_console.py
    starts a fleet of its own with the console on it, fills it, and prints the console's link
python examples/fill_console.py --redis-url URL --namespace NAME
    fills a fleet that runs, such as that of `dspex-fleet demo --keep`, which prints the command
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any
from uuid import uuid4

from snakepit_bridge.client import Fleet
from snakepit_bridge.client.handle import Handle
from snakepit_bridge.exceptions import BridgeError
from workers.dev.demo.kept import serve_console
from workers.dev.demo.parts import language_model, redis_server, worker_processes
from workers.dev.stand_in_lm import QUESTIONS
from workers.lifecycle import load_dspy

PROGRAM, LABEL, SESSION, SITE = "mood", "prod", "reviews", "storefront"
MOODS = "text -> label: Literal['positive', 'negative', 'neutral']"
TWO_MOODS = "text -> label: Literal['positive', 'negative']"
REVIEWS = [
    ("The headphones are excellent, and the case is beautiful.", "positive"),
    ("It broke on the second day.", "negative"),
    ("It arrived on Tuesday in a box of cardboard.", "neutral"),
    ("A perfect gift; my daughter is happy with it.", "positive"),
    ("Terrible sound, useless microphone.", "negative"),
    ("The cable is two metres long.", "neutral"),
    ("Great battery, and it charges in an hour.", "positive"),
    ("The worst support that I know, and rude as well.", "negative"),
    ("It comes in black and in white.", "neutral"),
    ("I love how light it is.", "positive"),
    ("The app crashed twice while I set it up.", "negative"),
    ("There are four screws in the bag.", "neutral"),
    ("A wonderful lamp.", "positive"),
    ("Poor stitching, and a horrible smell.", "negative"),
    ("The manual is in German and French.", "neutral"),
    ("The best pillow that I have had.", "positive"),
    ("A disappointing screen.", "negative"),
    ("It weighs about as much as a book.", "neutral"),
    ("Delicious, and it keeps for weeks.", "positive"),
    ("Bad glue: the handle came off.", "negative"),
    ("I bought it for the office.", "neutral"),
    ("Not my colour, but I wear it every day.", "positive"),
    ("It broke when I charged it.", "negative"),
    ("The lid is made of glass.", "neutral"),
]
# A stage that waits for a day, so that nothing but its guard ends it.
POLICY = {
    "stages": [{"share": 0.4, "min_s": 86_400}, {"share": 0.8}],
    "guards": [
        {"metric": "score", "name": "right", "max_decrease": 0.05},
        {"metric": "error_rate", "max_increase": 0.05},
        {"metric": "latency", "quantile": 0.95, "max_ratio": 3},
    ],
}
EXPERIMENT = {
    "name": "tone",
    "arms": [
        {"name": "calm", "weight": 0.5, "revision": "calm"},
        {"name": "lively", "weight": 0.5, "revision": "latest"},
    ],
}
_IN_FLIGHT, _MOST_WAVES = 5, 400


def fill(fleet: Fleet, lm: str | None) -> None:
    """Fill a fleet whose workers run.

    Args:
        fleet: the fleet.
        lm: the LM profile of the programs; None for the workers' default.
    """
    for name, step in (
        ("two versions of a program, and a session with a history", publish),
        ("an evaluation of each version", evaluate),
        ("an experiment", experiment),
        ("a rollout of the worse version, until its guard rolls it back", roll_out),
        ("a prediction that fails, and a message that nobody can run", fail),
    ):
        print(f"{name} …", flush=True)
        step(fleet, lm)


def publish(fleet: Fleet, lm: str | None) -> None:
    """Register both versions, the second one without the neutral mood, and publish what they are bound to."""
    for signature in (MOODS, TWO_MOODS):
        spec = {"module": "Predict", "signature": signature, "bindings": {"temperature": "temperature"}}
        fleet.register(PROGRAM, spec, lm=lm, author="bob")
    fleet.label(PROGRAM, LABEL, 1, author="ann", reason="it knows all three moods")
    fleet.recorders.set(PROGRAM)
    ann, bob = (fleet.session(SESSION, author=name).blocking for name in ("ann", "bob"))
    ann.set_variables({"temperature": 0.0, "style": "Be brief."}, reason="the first settings")
    ann.label("known_good")
    bob.set_variables({"temperature": 0.4}, reason="less repetitive")
    ann.set_variables({"temperature": 0.2, "style": "Be brief and kind."}, reason="a compromise")


def evaluate(fleet: Fleet, lm: str | None) -> None:
    """Evaluate both versions on the same reviews."""
    import dspy

    examples = [dspy.Example(text=text, label=mood).with_inputs("text") for text, mood in REVIEWS]
    fleet.datasets.add(SESSION, examples)
    arms = [f"{PROGRAM}:1", f"{PROGRAM}:2"]
    fleet.evaluate(PROGRAM, SESSION, is_right, arms=arms, session=SESSION)


def is_right(example: Any, prediction: Any, trace: Any = None) -> bool:
    """Return whether the mood is the expected one."""
    return bool(prediction.label == example.label)


def experiment(fleet: Fleet, lm: str | None) -> None:
    """Try two temperatures against each other."""
    site = fleet.session(SITE, author="ann").blocking
    site.set_variable("temperature", 0.1)
    site.label("calm")
    site.set_variable("temperature", 0.9)
    fleet.experiments.start(SITE, EXPERIMENT, author="ann", reason="which do people like?")
    sent = [
        fleet.submit(f"{PROGRAM}:1", {"text": text}, session=SITE, key=f"user-{number}")
        for number, (text, _) in enumerate(REVIEWS * 3)
    ]
    for handle in sent:
        is_calm = handle.get().provenance.variables["temperature"] < 0.5
        handle.score("helpful", 0.6 if is_calm else 0.9, scorer="ann")


def roll_out(fleet: Fleet, lm: str | None) -> None:
    """Roll the second version out, and send reviews until the guard has seen enough."""
    target = f"{PROGRAM}@{LABEL}"
    fleet.rollouts.start(target, 2, policy=POLICY, author="bob", reason="two moods are enough")
    users = count()
    for _ in range(_MOST_WAVES):
        sent = list(_send(fleet, target, users))
        for handle, mood in sent:
            handle.score("right", handle.get().label == mood, scorer="storefront")
        if not fleet.rollouts.show(target).is_open:
            return
    raise RuntimeError(f"no guard rolled {target} back")


def _send(fleet: Fleet, target: str, users: Iterator[int]) -> Iterator[tuple[Handle, str]]:
    for number in (next(users) for _ in range(_IN_FLIGHT)):
        text, mood = REVIEWS[number % len(REVIEWS)]
        yield fleet.submit(target, {"text": text}, session=SESSION, key=f"user-{number}"), mood


def fail(fleet: Fleet, lm: str | None) -> None:
    """Ask in a session that lacks a variable, and send a task that no worker knows."""
    fleet.session("unfinished", author="bob").blocking.set_variable("style", "Be brief.")
    with suppress(BridgeError):
        fleet.submit(PROGRAM, {"text": REVIEWS[0][0]}, session="unfinished").get()
    fleet.app.send_task("storefront.unknown", args=("order 4711",), queue=fleet.queue)


def run_own_fleet(redis_url: str | None) -> None:
    """Start a fleet on the stand-in LM, fill it, and serve the console on it until Ctrl-C."""
    namespace = f"dspex-scenario-{uuid4().hex[:8]}"
    with (
        tempfile.TemporaryDirectory(prefix="dspex-scenario-") as scratch,
        redis_server(redis_url, Path(scratch)) as url,
        language_model(None, QUESTIONS, Path(scratch)) as model,
    ):
        settings = {"DSPEX_REDIS_URL": url, "DSPEX_BROKER_URL": "", "DSPEX_NAMESPACE": namespace}
        settings |= {"DSPEX_QUEUE": namespace, **model.environment}
        fleet = Fleet(url, namespace=namespace, queue=namespace)
        with worker_processes(fleet, 2, "asyncio", settings, Path(scratch), name="scenario"):
            print(f"LM: {model.label}")
            fill(fleet, model.profile)
            serve_console(settings)


def main() -> None:
    """Fill the fleet that the arguments name, or one of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--redis-url", help="the Redis to use; without it an embedded server is started")
    parser.add_argument("--namespace", help="of a fleet that runs, whose queue has the same name")
    parser.add_argument("--lm", default="demo", help="its LM profile; demo if omitted")
    given = parser.parse_args()
    load_dspy()
    try:
        if given.namespace is None:
            run_own_fleet(given.redis_url)
        elif given.redis_url is None:
            parser.error("--namespace needs the --redis-url of its fleet")
        else:
            fill(Fleet(given.redis_url, namespace=given.namespace, queue=given.namespace), given.lm)
    except BridgeError as problem:
        sys.exit(str(problem))


if __name__ == "__main__":
    main()
