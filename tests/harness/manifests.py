"""The manifests of deploy/kubernetes as kubectl renders them, and what restricted pod security asks of a pod."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.harness.servers import missing
from tests.harness.waiting import PATIENCE_S

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "kubernetes"
COMPONENTS = sorted(path.name for path in (FOLDER / "components").iterdir())
PRODUCTION = FOLDER / "overlays" / "production"

# The Kustomize of kubectl 1.21, the first that knows components.
_OLDEST_KUBECTL = (1, 21)
_VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}

Manifest = Mapping[str, Any]


def kubectl(*arguments: str) -> str:
    """Return what kubectl prints.

    Raises:
        pytest.skip.Exception: there is no kubectl, or it is too old to render components.
        pytest.fail.Exception: there is none although CI promises it.
        AssertionError: it failed.
    """
    found = shutil.which("kubectl")
    if found is None:
        missing("kubectl", "kubernetes-client")
    if (version := _read_version(found)) < _OLDEST_KUBECTL:
        pytest.skip(f"kubectl {'.'.join(map(str, version))} renders no components; 1.21 does")
    done = subprocess.run(
        [found, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@cache
def _read_version(executable: str) -> tuple[int, ...]:
    command = [executable, "version", "--client", "--output=json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=True)
    client = json.loads(done.stdout)["clientVersion"]
    return int(client["major"]), int(re.sub(r"\D", "", client["minor"]))


def render(folder: Path) -> list[Manifest]:
    """Return the objects of a kustomization."""
    return [each for each in YAML(typ="safe").load_all(kubectl("kustomize", str(folder))) if each]


def render_with(component: str, folder: Path, **fields: Any) -> list[Manifest]:
    """Return the objects of the base with one component, from a kustomization that is written into the folder."""
    near = {"resources": FOLDER / "base", "components": FOLDER / "components" / component}
    content = {key: [os.path.relpath(path, folder.resolve())] for key, path in near.items()} | fields
    (folder / "kustomization.yaml").write_text(json.dumps(content))
    return render(folder)


def of_kind(manifests: list[Manifest], kind: str) -> dict[str, Manifest]:
    """Return the objects of a kind by their names."""
    return {each["metadata"]["name"]: each for each in manifests if each["kind"] == kind}


def pods(manifests: list[Manifest]) -> dict[str, Manifest]:
    """Return the specs of the deployments' pods, by the deployments' names."""
    return {name: each["spec"]["template"]["spec"] for name, each in of_kind(manifests, "Deployment").items()}


def container_of(pod: Manifest) -> Manifest:
    """Return a pod's only container."""
    (container,) = pod["containers"]
    return container


def read_settings(pod: Manifest, manifests: list[Manifest]) -> dict[str, str | None]:
    """Return the variables of a pod's container that a manifest states; None for those from secrets."""
    found: dict[str, str | None] = {}
    container, maps = container_of(pod), of_kind(manifests, "ConfigMap")
    for source in container.get("envFrom", ()):
        if "configMapRef" in source:
            found |= maps[source["configMapRef"]["name"]]["data"]
    for variable in container.get("env", ()):
        found[variable["name"]] = variable.get("value")
    return found


def find_violations(pod: Manifest) -> Iterator[str]:
    """Yield what the restricted pod security standard forbids about a pod.

    The standard: https://kubernetes.io/docs/concepts/security/pod-security-standards/
    """
    for field in ("hostNetwork", "hostPID", "hostIPC"):
        if pod.get(field):
            yield f"{field} is set"
    for volume in pod.get("volumes", ()):
        if not volume.keys() - {"name"} <= _VOLUMES:
            yield f"volume {volume['name']} is of a forbidden kind"
    for container in (*pod.get("initContainers", ()), *pod["containers"]):
        yield from (f"{container['name']}: {problem}" for problem in _of_container(container, pod))


def _of_container(container: Manifest, pod: Manifest) -> Iterator[str]:
    own = container.get("securityContext", {})
    both = {**pod.get("securityContext", {}), **own}
    if own.get("privileged"):
        yield "it is privileged"
    if own.get("allowPrivilegeEscalation") is not False:
        yield "it may gain privileges"
    if own.get("capabilities", {}).get("drop") != ["ALL"]:
        yield "it doesn't drop all capabilities"
    if set(own.get("capabilities", {}).get("add", ())) - {"NET_BIND_SERVICE"}:
        yield "it adds capabilities"
    if both.get("runAsNonRoot") is not True or both.get("runAsUser") == 0:
        yield "it may run as root"
    if both.get("seccompProfile", {}).get("type") not in ("RuntimeDefault", "Localhost"):
        yield "it has no seccomp profile"
    if any(port.get("hostPort") for port in container.get("ports", ())):
        yield "it listens on the host"
