"""RayProgram: a program of the fleet as a callable class for ``ray.data.Dataset.map_batches``.

Each actor rebuilds the program from its spec, as a worker does, and runs it in its own process: under the session's
variables, with the LM profiles, the middleware and the limits of the fleet. Rows and answers stay in Ray. Redis is read
for the program and the variables, and asked for permits where a limit is set.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import json
import socket
import time
from collections.abc import Mapping, Sequence
from typing import Any, cast
from uuid import uuid4

from snakepit_bridge.exceptions import BridgeError, ConfigurationError, InputError
from snakepit_bridge.process.home_loop import run_on_home_loop
from snakepit_bridge.protocol.messages import DEFAULT_SESSION, PredictionRequest, Requirement, Result
from snakepit_bridge.protocol.plain_values import to_plain_value
from snakepit_bridge.protocol.token import Token

_PROVENANCE_COLUMNS = ("token", "program", "version", "digest", "model", "profile", "cost_usd")


class RayProgram:
    """A program that predicts the rows of a Ray dataset.

    Pass it to ``map_batches`` as a class, whose constructor's arguments are ``fn_constructor_kwargs``. A batch gets a
    column for each output; ``token``, ``program``, ``version``, ``digest``, ``model``, ``profile`` and ``cost_usd``;
    the whole ``provenance`` as JSON; and ``error``, which is empty for rows that were answered.

    Args:
        program: ``qa:3``, or another reference; name a version, so that all actors run the same one.
        exactly: the token of the session that all rows run under; None for the newest that each actor knows.
        session: whose variables the rows run under.
        inputs: input field to column, where their names differ; without it, columns that are called as an input.
        in_flight: rows of an actor that run at a time.
        settings: the settings of a worker as its environment has them, such as ``DSPEX_REDIS_URL`` and
            ``DSPEX_LM_PROFILES``; what isn't given comes from the actor's own environment.
        errors: ``column`` writes a row's error into its column ``error``; ``raise`` fails the batch.

    Raises:
        ConfigurationError: the fleet's code isn't installed on the node, or a setting can't be.
        ValueError: the token or ``errors`` can't be.
    """

    def __init__(
        self,
        program: str,
        *,
        exactly: Token | str | None = None,
        session: str = DEFAULT_SESSION,
        inputs: Mapping[str, str] | None = None,
        in_flight: int = 64,
        settings: Mapping[str, str] | None = None,
        errors: str = "column",
    ) -> None:
        if errors not in ("column", "raise"):
            raise ValueError(f"errors is 'column' or 'raise'; got {errors!r}")
        self._program = program
        self._session = session
        self._requirement = Requirement.of(None, exactly)
        self._inputs = inputs
        self._raises = errors == "raise"
        self._slots = in_flight
        self._runtime = _build_runtime(settings or {})
        self._worker = f"ray@{socket.gethostname()}"

    async def __call__(self, batch: Mapping[str, Any]) -> dict[str, list[Any]]:
        """Return a batch with the columns of its predictions.

        Raises:
            InputError: it lacks a column.
            BridgeError: a row failed, and ``errors`` is ``raise``.
        """
        columns = {name: _to_list(values) for name, values in batch.items()}
        rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        ended = await run_on_home_loop(self._predict_all(rows))
        return {**columns, **_to_columns(ended)}

    async def _predict_all(self, rows: Sequence[Mapping[str, Any]]) -> list[Result | BridgeError]:
        slots = asyncio.Semaphore(self._slots)

        async def predict(row: Mapping[str, Any]) -> Result | BridgeError:
            async with slots:
                try:
                    return await self._predict(row)
                except BridgeError as exc:
                    if self._raises:
                        raise
                    return exc

        names = await self._find_inputs(rows)
        selected = [{name: row[column] for name, column in names.items()} for row in rows]
        return list(await asyncio.gather(*map(predict, selected)))

    async def _predict(self, inputs: Mapping[str, Any]) -> Result:
        prediction: Any = importlib.import_module("tasks.prediction")
        requests: Any = importlib.import_module("tasks.requests")
        values = {name: to_plain_value(value, self._runtime.bounds) for name, value in inputs.items()}
        request = PredictionRequest(self._program, values, self._session, self._requirement)
        delivery = requests.Delivery(str(uuid4()), self._worker, 1, time.time())
        return await prediction.run_prediction(self._runtime, request, delivery)

    async def _find_inputs(self, rows: Sequence[Mapping[str, Any]]) -> Mapping[str, str]:
        """Return the column of each input.

        Raises:
            InputError: a column isn't there.
        """
        found = rows[0] if rows else {}
        names = self._inputs
        if names is None:
            spec = (await self._runtime.registry.get(self._program)).spec
            fields = [] if spec.signature is None else [f for f in spec.signature.fields if f.direction == "input"]
            required = {each.name for each in fields if not each.has_default}
            names = {each.name: each.name for each in fields if each.name in found or each.name in required}
            names = names or {name: name for name in found}
        if rows and (lacking := [column for column in names.values() if column not in found]):
            raise InputError(self._program, lacking[0], f"no column has this name; there are {', '.join(found)}")
        return names


def _build_runtime(settings: Mapping[str, str]) -> Any:
    """Return what a worker's tasks share, for this process.

    Raises:
        ConfigurationError: the fleet's code isn't there, or a setting can't be.
    """
    if importlib.util.find_spec("workers") is None or importlib.util.find_spec("tasks") is None:
        raise ConfigurationError(
            "Running a program in Ray needs the fleet's code on each node, as workers do: use the fleet's image, or a "
            "checkout on the nodes' PYTHONPATH, such as by runtime_env={'env_vars': {'PYTHONPATH': …}}."
        )
    config: Any = importlib.import_module("config.settings")
    runtimes: Any = importlib.import_module("workers.runtime")
    fields = {name.removeprefix("DSPEX_").lower(): value for name, value in settings.items()}
    return runtimes.build_runtime(config.FleetSettings(**fields), shares_process=True)


def _to_list(values: Any) -> list[Any]:
    """Return a column's values as Python has them."""
    return cast("list[Any]", values.tolist() if hasattr(values, "tolist") else list(values))


def _to_columns(ended: Sequence[Result | BridgeError]) -> dict[str, list[Any]]:
    """Return what rows have ended with as columns."""
    results = [each if isinstance(each, Result) else None for each in ended]
    names = dict.fromkeys(name for each in results if each is not None for name in each.outputs)
    columns: dict[str, list[Any]] = {
        name: [None if each is None else each.outputs.get(name) for each in results] for name in names
    }
    for name in _PROVENANCE_COLUMNS:
        columns[name] = [None if each is None else each.provenance.get(name) for each in results]
    columns["provenance"] = [None if each is None else json.dumps(dict(each.provenance)) for each in results]
    columns["error"] = [f"{type(each).__name__}: {each}" if isinstance(each, BridgeError) else "" for each in ended]
    return columns
