"""The harness itself: workers that answer, run tasks, and come back from kill -9; a broker that comes back as well."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from celery import Celery
from celery.result import AsyncResult
from pytest_celery import CeleryTestSetup
from redis import Redis

from tests.conftest import wait_until
from tests.harness.containers import ROOT, WorkerSpec, local_redis, local_worker
from tests.harness.fixtures import StartWorker
from tests.harness.leaks import leaked_keys
from tests.harness.preloaded import PreloadedPopen, can_fork, run_preloaded
from tests.harness.waiting import PATIENCE_S

SAMPLE = WorkerSpec(app="tests.harness.sample_app", queues=("sample",), name="sample")
PRELOADED = replace(SAMPLE, preloaded=True)


@pytest.fixture
def worker_spec() -> WorkerSpec:
    return SAMPLE


def call(app: Celery, task: str, *args: int) -> int:
    return answer(app.send_task(task, args, queue="sample"))


def answer(result: AsyncResult) -> int:
    # Asked for, not waited for: Celery's own waiting can miss a result when the broker restarts meanwhile.
    wait_until(result.ready, f"a result of {result.id}", timeout_s=30)
    value: Any = result.get()
    return value


def group_is_empty(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


def test_a_worker_answers_a_ping_and_runs_a_task(celery_setup: CeleryTestSetup) -> None:
    assert celery_setup.ready(control=True)
    assert call(celery_setup.app, "sample.add", 2, 3) == 5
    celery_setup.worker.assert_log_exists("sample.add")


def test_a_worker_killed_by_sigkill_is_gone_with_its_children_and_comes_back(start_worker: StartWorker) -> None:
    worker = start_worker(pool="prefork")
    child, first = call(worker.app, "sample.where"), worker.container.pid
    assert child != first
    worker.kill()
    assert worker.container.status == "exited"
    assert worker.container.returncode == -signal.SIGKILL
    wait_until(lambda: group_is_empty(first), "the pool's processes to die with the worker")
    queued = worker.app.send_task("sample.add", (4, 5), queue="sample")
    worker.restart()
    assert worker.container.pid != first
    assert answer(queued) == 9


def test_a_preloaded_worker_is_a_process_of_its_own_that_dies_and_comes_back_like_any_other() -> None:
    with local_redis() as server, local_worker(PRELOADED, server.celeryconfig["host_url"]) as worker:
        first = psutil.Process(worker.container.pid)
        assert first.ppid() != os.getpid(), "it is forked"
        assert os.getsid(first.pid) == os.getpgid(first.pid) == first.pid
        assert call(worker.app, "sample.add", 2, 3) == 5
        assert "sample.add" in worker.logs()
        worker.kill()
        assert worker.container.returncode == -signal.SIGKILL
        worker.restart()
        assert worker.container.pid != first.pid
        assert call(worker.app, "sample.add", 4, 5) == 9
        worker.container.kill("SIGTERM")
        wait_until(lambda: worker.container.returncode == 0, "a warm shutdown")


def test_a_preloaded_command_has_its_files_its_arguments_and_its_exit_code(tmp_path: Path) -> None:
    code = "import os, sys; print(sys.stdin.read(), sys.argv[1:], os.getcwd()); sys.stderr.write('oh'); sys.exit(3)"
    ran = run_preloaded([sys.executable, "-c", code, "word"], input="hello", cwd=tmp_path)
    assert (ran.returncode, ran.stdout, ran.stderr) == (3, f"hello ['word'] {tmp_path}\n", "oh")


def test_a_preloaded_command_is_waited_for_and_signalled() -> None:
    command = [sys.executable, "-P", "-c", "import time; print('up'); time.sleep(600)"]
    with PreloadedPopen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.01)
        assert process.poll() is None
        process.terminate()
        assert process.wait(PATIENCE_S) == process.poll() == -signal.SIGTERM


def test_a_preloaded_worker_does_not_outlive_the_tests() -> None:
    code = (
        "import time; from tests.harness.containers import *\n"
        f"with local_redis() as server, local_worker({PRELOADED!r}, server.celeryconfig['host_url']) as worker:\n"
        "    print(worker.container.pid, flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=ROOT) as tests:
        assert tests.stdout is not None
        worker = psutil.Process(int(tests.stdout.readline()))
        tests.kill()
        wait_until(lambda: not worker.is_running(), "the worker to end with the process that started it")


@pytest.mark.parametrize("name", ["PYTHONDEVMODE", "DSPY_CACHEDIR"])
def test_a_worker_whose_environment_counts_as_it_loads_is_not_forked(name: str) -> None:
    env = WorkerSpec(env={"DSPEX_LEASE_S": "1"}).environment("redis://h")
    assert can_fork(env) == (sys.platform == "linux")
    assert not can_fork({**env, name: "1"})


def test_a_broker_that_restarts_keeps_its_queue_and_its_workers(celery_setup: CeleryTestSetup) -> None:
    app, broker = celery_setup.app, celery_setup.broker
    assert call(app, "sample.add", 1, 1) == 2
    url = broker.config()["host_url"]
    broker.kill()
    assert broker.container.status == "exited"
    broker.restart()
    assert broker.config()["host_url"] == url
    assert celery_setup.worker.ready()
    assert call(app, "sample.add", 2, 2) == 4


def test_two_workers_of_different_pools_share_one_module_of_tests_without_fixtures() -> None:
    with local_redis() as server:
        url = server.celeryconfig["host_url"]
        with (
            local_worker(SAMPLE, url, wait=False) as prefork,
            local_worker(WorkerSpec(SAMPLE.app, "solo", queues=("sample",), name="solo"), url, wait=False) as solo,
        ):
            assert prefork.ready()
            assert solo.ready()
            assert {prefork.container.pid, solo.container.pid} == {
                int(reply["pid"]) for reply in prefork.app.control.inspect().stats().values()
            }


def test_a_worker_that_cannot_start_fails_at_once_and_shows_its_log(start_worker: StartWorker) -> None:
    with pytest.raises(AssertionError, match=r"ended with exit code 2[\s\S]*no_such_app"):
        start_worker(app="tests.harness.no_such_app")


def test_a_failing_test_shows_the_logs_of_its_processes(pytester: pytest.Pytester) -> None:
    pytester.makeconftest("pytest_plugins = ['tests.harness.fixtures']")
    pytester.makepyfile(
        """
        def test_fails(default_redis_broker):
            assert False
        """
    )
    root = str(Path(__file__).parents[2])
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider", "-o", f"pythonpath={root}")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*broker *, running*", "*Ready to accept connections*"])


def test_containers_are_used_only_where_a_daemon_answers(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.makeconftest("pytest_plugins = ['tests.harness.fixtures']")
    monkeypatch.setenv("DOCKER_HOST", "unix:///nonexistent/docker.sock")
    result = pytester.runpytest_subprocess("--containers", "-o", f"pythonpath={Path(__file__).parents[2]}")
    result.stderr.fnmatch_lines(["*--containers needs a Docker daemon, and none answers*"])


def test_a_key_without_an_expiry_is_a_leak_unless_it_is_listed(redis_url: str) -> None:
    with Redis.from_url(redis_url) as client:
        client.set("stays", "1")
        client.set("goes", "1", ex=60)
        client.rpush("predictions", "message")
        assert leaked_keys(client) == ["stays"]
        assert leaked_keys(client, ["sta.s"]) == []
        client.delete("stays")


def test_each_test_begins_with_an_empty_database(redis_url: str) -> None:
    with Redis.from_url(redis_url) as client:
        assert client.dbsize() == 0
