"""``dataset``: add, make of predictions, list, show, compare, export and remove datasets."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from snakepit_bridge.cli.arguments import parse_duration_s
from snakepit_bridge.cli.connection_options import AsJson, RedisUrl, resolve_fleet
from snakepit_bridge.cli.output import dump_json, echo, print_table
from snakepit_bridge.cli.sessions import author

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from snakepit_bridge.datasets.dataset import Dataset
    from snakepit_bridge.datasets.diff import DatasetDiff
    from snakepit_bridge.datasets.rows import Row
    from snakepit_bridge.datasets.versions import DatasetVersion

dataset = typer.Typer(
    name="dataset",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Add, list, show, compare, export or remove datasets.",
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the dataset.", show_default=False)]
Reference = Annotated[
    str,
    typer.Argument(metavar="DATASET", help="golden, which is its newest version, or golden:3.", show_default=False),
]
Inputs = Annotated[
    str | None,
    typer.Option(metavar="FIELDS", help="The input fields, with commas between them; '' for none.", show_default=False),
]


@dataset.command()
def add(
    ctx: typer.Context,
    name: Name,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A .jsonl, .csv or .parquet file.", show_default=False)],
    inputs: Inputs = None,
    json: AsJson = False,
    redis_url: RedisUrl = None,
) -> None:
    """Store a file's examples as the newest version of a dataset.

    Content that a version of the dataset has already keeps that version. The first line of a .jsonl file can mark the
    input fields itself: {"$inputs": ["question"]}.
    """
    datasets = resolve_fleet(ctx, redis_url).fleet().datasets
    added = datasets.add(name, file, inputs=_split(inputs), author=author())
    version = datasets.find(str(added))
    echo(dump_json(version.as_dict()) if json else _summarize(version))


@dataset.command("list")
def list_datasets(
    ctx: typer.Context,
    name: Annotated[
        str | None,
        typer.Argument(metavar="[NAME]", help="A dataset, to list its versions.", show_default=False),
    ] = None,
    json: AsJson = False,
    redis_url: RedisUrl = None,
) -> None:
    """List the datasets with their newest versions, or the versions of one of them."""
    datasets = resolve_fleet(ctx, redis_url).fleet().datasets
    if name is None:
        found = [listing.latest for listing in datasets.list()]
    else:
        datasets.find(name)
        found = datasets.versions(name)
    if json:
        echo(dump_json([version.as_dict() for version in found]))
    elif found:
        columns = ("dataset", "examples", "inputs", "KiB", "added", "by", "from", "digest")
        print_table(columns, map(_row, found), numbers=("examples", "KiB"))
    else:
        echo("datasets: none; add one with: dspex-fleet dataset add NAME FILE --inputs FIELD")


@dataset.command()
def show(
    ctx: typer.Context,
    reference: Reference,
    limit: Annotated[int, typer.Option(min=1, help="How many examples to show.")] = 10,
    json: AsJson = False,
    redis_url: RedisUrl = None,
) -> None:
    """Show what is known of a dataset, and its first examples."""
    datasets = resolve_fleet(ctx, redis_url).fleet().datasets
    found = datasets.get(reference)
    version, rows = datasets.find(str(found)), found.rows[:limit]
    if json:
        echo(dump_json({**version.as_dict(), "rows": [dict(row) for row in rows]}))
        return
    echo(_summarize(version))
    _print_rows(found, rows)
    if len(found) > limit:
        echo(f"{len(found) - limit} more: dspex-fleet dataset export {found} FILE")


@dataset.command()
def diff(
    ctx: typer.Context,
    before: Reference,
    after: Reference,
    limit: Annotated[int, typer.Option(min=1, help="How many examples to show of each kind.")] = 20,
    json: AsJson = False,
    redis_url: RedisUrl = None,
) -> None:
    """Show which examples were added, removed or changed between two datasets or versions."""
    found = resolve_fleet(ctx, redis_url).fleet().datasets.diff(before, after)
    if json:
        echo(dump_json(found.as_dict()))
        return
    counts = f"{len(found.added)} added, {len(found.removed)} removed, {len(found.changed)} changed"
    echo(f"{before} to {after}: {counts}, {found.unchanged} unchanged")
    if set(found.before) != set(found.after):
        echo(f"inputs: {_join(found.before)} to {_join(found.after)}")
    if found.added or found.removed or found.changed:
        print_table(("", "example", "differs"), _diff_rows(found, limit))


@dataset.command()
def export(
    ctx: typer.Context,
    reference: Reference,
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="The .jsonl file to write; - for stdout.", show_default=False)
    ],
    redis_url: RedisUrl = None,
) -> None:
    """Write a dataset's examples as a .jsonl file that marks the inputs, so that it can be edited and added again."""
    from snakepit_bridge.datasets.readers import encode_jsonl
    from snakepit_bridge.exceptions import BridgeError

    found = resolve_fleet(ctx, redis_url).fleet().datasets.get(reference)
    if str(file) == "-":
        for line in encode_jsonl(found):
            typer.get_binary_stream("stdout").write(line)
        return
    try:
        with file.open("wb") as target:
            target.writelines(encode_jsonl(found))
    except OSError as exc:
        raise BridgeError(f"The file {file} can't be written: {exc.strerror}. Check its path.") from None
    echo(f"{len(found)} examples of {found} are in {file}")


@dataset.command("from-predictions")
def from_predictions(
    ctx: typer.Context,
    program: Annotated[
        str, typer.Argument(metavar="PROGRAM", help="Name of the program that is recorded.", show_default=False)
    ],
    name: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Name of the dataset; PROGRAM-predictions if not given.", show_default=False),
    ] = None,
    score: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CONDITION",
            help="Such as 'helpful<0.5' or 'tone=curt'; repeatable, all of them hold.",
            show_default=False,
        ),
    ] = None,
    error: Annotated[
        str,
        typer.Option(metavar="CLASS", help="Those that failed with this error; any for any.", show_default=False),
    ] = "",
    session: Annotated[str, typer.Option("--session", "-s", help="Those of a session.", show_default=False)] = "",
    token: Annotated[str, typer.Option(metavar="TOKEN", help="Those of a revision.", show_default=False)] = "",
    version: Annotated[int | None, typer.Option(help="Those of a version of the program.", show_default=False)] = None,
    since: Annotated[
        str | None,
        typer.Option(metavar="DURATION", help="How far back, such as 90m, 24h or 7d.", show_default=False),
    ] = None,
    limit: Annotated[int, typer.Option(help="How many at most, the newest ones.")] = 1_000,
    json: AsJson = False,
    redis_url: RedisUrl = None,
) -> None:
    """Store recorded predictions of a program as the newest version of a dataset.

    'record set' says what is recorded. A row has inputs and outputs, a column score_NAME for each score, and
    error if the prediction failed.
    """
    since_s = None if since is None else parse_duration_s(since)
    datasets = resolve_fleet(ctx, redis_url).fleet().datasets
    added = datasets.from_predictions(
        program,
        name or f"{program}-predictions",
        scores=score or (),
        error=error,
        session=session,
        token=token,
        version=version,
        since_s=since_s,
        limit=limit,
        author=author(),
    )
    found = datasets.find(str(added))
    echo(dump_json(found.as_dict()) if json else _summarize(found))


@dataset.command()
def remove(ctx: typer.Context, reference: Reference, redis_url: RedisUrl = None) -> None:
    """Remove a version, or with a name alone all versions of the dataset; their numbers aren't given again."""
    removed = resolve_fleet(ctx, redis_url).fleet().datasets.remove(reference)
    echo(f"removed: {', '.join(map(str, removed)) or 'nothing, another client was faster'}")


def _split(fields: str | None) -> list[str] | None:
    return None if fields is None else [name.strip() for name in fields.split(",") if name.strip()]


def _join(inputs: Sequence[str]) -> str:
    return ", ".join(inputs) or "none"


def _summarize(version: DatasetVersion) -> str:
    origin = f" from {version.source}" if version.source else ""
    return (
        f"{version}  {version.examples} examples  inputs {_join(version.inputs)}  digest {version.digest[:12]}  "
        f"added {_format_time(version.at)}{origin}"
    )


def _row(version: DatasetVersion) -> tuple[Any, ...]:
    size = f"{version.size_bytes / 1024:.1f}"
    about = (_format_time(version.at), version.author, version.source, version.digest[:12])
    return (str(version), version.examples, _join(version.inputs), size, *about)


def _print_rows(found: Dataset, rows: Sequence[Row]) -> None:
    fields = found.fields
    columns = ("#", *(f"{name} (input)" if name in found.inputs else name for name in fields))
    numbered = ((number, *(row.get(name, "") for name in fields)) for number, row in enumerate(rows, 1))
    print_table(columns, numbered, numbers=("#",))


def _diff_rows(found: DatasetDiff, limit: int) -> Iterable[tuple[Any, ...]]:
    for mark, rows in (("-", found.removed), ("+", found.added)):
        yield from ((mark, dict(row), "") for row in rows[:limit])
    for change in found.changed[:limit]:
        differing = {name: [change.before.get(name), change.after.get(name)] for name in change.fields}
        same = {name: value for name, value in change.after.items() if name not in differing}
        yield ("~", same, differing)


def _format_time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(sep=" ", timespec="seconds").removesuffix("+00:00")
