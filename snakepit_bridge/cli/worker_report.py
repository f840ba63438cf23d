"""Reports of the workers, and checks that compare them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from snakepit_bridge.cli.remote_control import ask_workers
from snakepit_bridge.process.open_files import FileUsage
from snakepit_bridge.protocol.checks import PACKAGES, REPORT, Check

if TYPE_CHECKING:
    from snakepit_bridge.client import Fleet

# Older shortages aren't reported, and neither is a limit that no worker at full load comes near.
_RECENT_S = 3_600.0
_FEW_FILES = 4_096

Reports = Mapping[str, Mapping[str, Any]]


def collect_reports(fleet: Fleet, names: Sequence[str], wait_s: float) -> Reports:
    """Return what each worker reports, by its name.

    A worker's report includes a request to each LM profile's own endpoint, and the first report has imports to load.

    Args:
        fleet: whose workers.
        names: the workers to ask; waiting ends with as many reports.
        wait_s: seconds to wait for the next one.

    Raises:
        StoreUnavailableError: the broker is away.
    """
    answers = ask_workers(fleet, REPORT, wait_s, names=names)
    return {name: report for name, report in answers if "packages" in report}


def check_workers(reports: Reports, queue: str) -> Iterator[Check]:
    """Check the workers that sent a report: their queues, profiles, packages and versions."""
    taking = [name for name, report in reports.items() if queue in report["queues"]]
    if taking:
        count = f"{len(taking)} workers consume" if len(taking) > 1 else "1 worker consumes"
        yield Check("queue", "ok", f"{count} '{queue}'")
    else:
        others = sorted({name for report in reports.values() for name in report["queues"]})
        fix = f"start one: dspex-fleet --queue {queue} worker; or name another with --queue"
        yield Check("queue", "fail", f"no worker consumes '{queue}', only {', '.join(others)}", fix)
    yield from _releases(reports)
    yield from _profiles(reports)
    yield from _deployment(reports)
    yield from _open_files(reports)
    yield from _packages(reports)
    yield from _versions(reports)


def _profiles(reports: Reports) -> Iterator[Check]:
    """Check the workers' reports of their LM profiles: once where they agree, by worker where they don't."""
    for what, by_worker in _group(reports, "profiles").items():
        lacking = sorted(reports.keys() - by_worker.keys())
        yield from _merge(what, by_worker, agree=_agree(by_worker) and not lacking)
        if lacking:
            fix = "give all workers of a queue the same profiles"
            yield Check(what, "warn", f"{', '.join(lacking)} doesn't have it", fix)


def _releases(reports: Reports) -> Iterator[Check]:
    """Check for workers that leave messages to those of a newer release; older workers don't say."""
    for name, report in reports.items():
        if why := report.get("newer_release"):
            yield Check(
                f"release of {name}", "fail", f"{name} isn't ready: {why}", "upgrade it: docs/how-to/upgrade.md"
            )


def _deployment(reports: Reports) -> Iterator[Check]:
    """Check the workers' reports of how they are deployed, which differ between those of different pools."""
    for what, by_worker in _group(reports, "deployment").items():
        yield from _merge(what, by_worker, agree=_agree(by_worker))


def _group(reports: Reports, kind: str) -> Mapping[str, Mapping[str, Check]]:
    """Return what workers report of one kind, by what it is about and by worker; older workers lack some kinds."""
    found: dict[str, dict[str, Check]] = {}
    for name, report in reports.items():
        for check in report.get(kind, ()):
            found.setdefault(check["what"], {})[name] = Check(**check)
    return found


def _agree(by_worker: Mapping[str, Check]) -> bool:
    return len(set(by_worker.values())) == 1


def _merge(what: str, by_worker: Mapping[str, Check], *, agree: bool) -> Iterator[Check]:
    """Yield one check if the workers agree, else one for each."""
    if agree:
        yield next(iter(by_worker.values()))
    else:
        yield from (replace(check, what=f"{what} of {name}") for name, check in by_worker.items())


def _open_files(reports: Reports) -> Iterator[Check]:
    """Check for workers that ran out of open files recently, or may soon."""
    use = {name: FileUsage(**report["open_files"]) for name, report in reports.items() if "open_files" in report}
    fix = "raise its limit: ulimit -n, LimitNOFILE= or --ulimit nofile="
    for name, usage in use.items():
        found = f"{name} has {usage.open} of {usage.limit}"
        if usage.lacked_s_ago is not None and usage.lacked_s_ago < _RECENT_S:
            yield Check(
                "open files",
                "fail",
                f"{found}; the limit was reached {usage.lacked_s_ago:.0f} s ago, and work had to wait",
                fix,
            )
        elif 0 < usage.limit < _FEW_FILES:
            room = f", so that it makes at most {usage.room} LM calls at a time" if usage.room else ""
            yield Check("open files", "warn", f"{found}{room}", fix)
        else:
            yield Check("open files", "ok", found if usage.limit else f"{name} has {usage.open}, without a limit")


def _packages(reports: Reports) -> Iterator[Check]:
    for package in sorted({package for report in reports.values() for package in report["allowed_packages"]}):
        lacking = [name for name, report in reports.items() if package not in report["allowed_packages"]]
        releases = {str(report["allowed_packages"].get(package)) for report in reports.values()} - {"None"}
        if lacking:
            fix = f"name it in DSPEX_ALLOWED_PACKAGES of {', '.join(lacking)} too"
            yield Check(f"package {package}", "warn", "not every worker may use it", fix)
        elif len(releases) > 1:
            fix = "install the same release everywhere"
            yield Check(f"package {package}", "warn", f"releases differ: {', '.join(sorted(releases))}", fix)
        else:
            yield Check(f"package {package}", "ok", next(iter(releases), "not installed as a distribution"))


def _versions(reports: Reports) -> Iterator[Check]:
    """Check for versions that differ between workers, or between them and this client."""
    for package in PACKAGES:
        found = {name: report["packages"].get(package) for name, report in reports.items()}
        here = _here(package)
        if len({*found.values(), here}) > 1:
            listed = ", ".join(f"{name} {report or 'none'}" for name, report in found.items())
            fix = "run one version everywhere"
            yield Check(f"{package} of the workers", "warn", f"{listed}; here {here or 'none'}", fix)


def _here(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
