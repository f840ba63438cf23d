"""The fleet on an app that exists: what of the app's configuration stays, what it takes, and which apps are refused."""

from __future__ import annotations

from typing import Any

import pytest
from celery import Celery, Task

from config.settings import FleetSettings
from snakepit_bridge.exceptions import ConfigurationError
from snakepit_bridge.protocol.messages import FLEET_TASKS, PREDICT
from workers.broker.request import FleetRequest, FleetTask
from workers.fleet_app import FleetApp
from workers.installation import install
from workers.pools import ASYNCIO_POOL

REDIS = "redis://127.0.0.1:1/0"


def nothing() -> None:
    """Stand for a task's function."""


def settings(**fields: Any) -> FleetSettings:
    return FleetSettings.model_validate(fields)


def shop(**conf: Any) -> Celery:
    app = Celery("shop", broker=REDIS, backend=REDIS, set_as_current=False)
    app.conf.update(conf)
    return app


def test_the_app_stays_itself_and_becomes_a_fleets() -> None:
    app = shop()
    assert install(app, settings()) is app
    assert isinstance(app, FleetApp)
    assert app.main == "shop"
    assert app.settings.redis == REDIS
    assert app.conf.worker_pool == ASYNCIO_POOL
    assert app.conf.worker_concurrency == 1_000
    assert issubclass(app.Task, FleetTask)


def test_a_subclass_of_celery_keeps_its_methods() -> None:
    class ShopApp(Celery):
        def till(self) -> str:
            return f"till of {self.main}"

    app = ShopApp("shop", broker=REDIS, backend=REDIS, set_as_current=False)
    install(app, settings())
    assert isinstance(app, FleetApp)
    assert app.till() == "till of shop"


def test_every_task_of_the_fleet_goes_to_the_fleets_queue() -> None:
    app = shop(task_default_queue="shop")
    install(app, settings())
    app.loader.import_default_modules()
    app.finalize()
    fleets = {name for name in app.tasks if name.startswith("tasks.")}
    assert fleets == set(FLEET_TASKS)
    assert {app.amqp.router.route({}, name)["queue"].name for name in fleets} == {settings().queue}


def test_what_the_app_decides_for_its_tasks_stays() -> None:
    route = {"shop.slow": {"queue": "slow"}}
    app = shop(
        task_default_queue="shop", task_routes=route, task_acks_late=False, task_default_priority=2, imports=("json",),
        worker_concurrency=7,
    )  # fmt: skip
    install(app, settings())
    assert app.conf.task_default_queue == "shop"
    assert app.conf.task_default_priority == 2
    assert app.conf.worker_concurrency == 7
    assert app.conf.imports[0] == "json"
    router = app.amqp.router
    assert router.route({}, "shop.slow")["queue"].name == "slow"
    assert router.route({}, "shop.other") == {"queue": app.amqp.queues["shop"]}
    app.loader.import_default_modules()
    own: Any = app.task(nothing, name="shop.own", shared=False)
    assert (own.acks_late, app.tasks[PREDICT].acks_late) == (False, True)
    assert app.tasks[PREDICT].reject_on_worker_lost is True


WAITING = {"celery", "predictions"}


@pytest.mark.parametrize(
    ("pool", "consumed"),
    [
        ("asyncio", WAITING),
        ("threads", WAITING),
        ("prefork", {*WAITING, "predictions.code"}),
        ("solo", {*WAITING, "predictions.code"}),
    ],
)
def test_workers_take_the_fleets_queues_beside_the_apps(pool: str, consumed: set[str]) -> None:
    app = shop()
    install(app, settings(), pool=pool)
    queues = app.amqp.queues.consume_from
    assert set(queues) == consumed
    assert {queue.name: (queue.exchange.name, queue.routing_key) for queue in queues.values()} == {
        name: (name, name) for name in consumed
    }, "two queues of one exchange and key would each get every message"
    assert app.amqp.router.route({}, PREDICT)["queue"].name == "predictions"


def test_a_task_base_of_the_apps_own_is_kept() -> None:
    class TillTask(Task):
        abstract = True
        currency = "EUR"

    app = Celery("shop", broker=REDIS, backend=REDIS, task_cls=TillTask, set_as_current=False)
    install(app, settings())
    task: Any = app.task(nothing, name="shop.own", shared=False)
    assert (task.currency, task.Request) == ("EUR", FleetTask.Request)
    assert FleetTask.Request == f"{FleetRequest.__module__}:FleetRequest"


def test_an_app_without_servers_takes_those_of_the_settings() -> None:
    app = Celery("shop", set_as_current=False)
    install(app, settings(redis_url=REDIS))
    assert (app.conf.broker_url, app.conf.result_backend) == (REDIS, REDIS)


def test_an_app_with_a_broker_alone_has_its_results_there_too() -> None:
    app = Celery("shop", broker=REDIS, set_as_current=False)
    assert install(app, settings()).settings.redis == REDIS


def used(app: Celery) -> Celery:
    app.finalize()
    return app


@pytest.mark.parametrize(
    ("app", "given", "says"),
    [
        (lambda: used(shop()), {}, "is in use"),
        (lambda: FleetApp(settings()), {}, "is a fleet's already"),
        (lambda: shop(accept_content=["json", "pickle"]), {}, "accepts messages as pickle"),
        (lambda: shop(result_accept_content=["yaml"]), {}, "accepts messages as yaml"),
        (lambda: shop(result_backend="db+sqlite:///x"), {}, "result backend must be Redis"),
        (shop, {"redis_url": "redis://:hunter2@elsewhere:1/0"}, "DSPEX_REDIS_URL is 'redis://***@elsewhere:1/0'"),
        (shop, {"broker_url": "amqp://u:hunter2@elsewhere//"}, "DSPEX_BROKER_URL is"),
    ],
)  # fmt: skip
def test_an_app_that_cannot_take_it_is_refused(app: Any, given: dict[str, str], says: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        install(app(), settings(**given))
    assert says in str(refused.value)
    assert "hunter2" not in str(refused.value)
