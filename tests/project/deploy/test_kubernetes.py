"""The manifests for Kubernetes: valid, safe, and true to the commands, settings, ports and metrics that there are."""

from __future__ import annotations

import copy
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
from celery.bin.worker import worker as celery_worker

from config.lm_profiles import read_profiles
from config.settings import FleetSettings
from snakepit_bridge.cli.lazy_command import LazyCommand
from snakepit_bridge.cli.main import command_line
from snakepit_bridge.protocol.messages import code_queue
from snakepit_bridge.telemetry.metrics import CATALOG
from snakepit_bridge.telemetry.prometheus_meter import prometheus_labels, prometheus_name
from tests.harness.image_steps import read_stages
from tests.harness.manifests import (
    COMPONENTS,
    PRODUCTION,
    ROOT,
    Manifest,
    container_of,
    find_violations,
    kubectl,
    of_kind,
    pods,
    read_settings,
    render,
    render_with,
)
from tests.harness.waiting import PATIENCE_S
from workers.health.checks import Problems
from workers.health.server import HealthServer

GUIDE = (ROOT / "docs" / "how-to" / "kubernetes.md").read_text(encoding="utf-8")
TELEMETRY = (ROOT / "docs" / "reference" / "telemetry.md").read_text(encoding="utf-8")
# Since which the cluster evicts unhealthy pods as the disruption budgets say.
OLDEST = "1.27"
SUPERVISOR_MARGIN_S = 10
WORKERS = ("dspex-worker", "dspex-code-worker")

# The fields of other projects' objects that the manifests may use, by what those projects document.
CUSTOM_FIELDS = {
    "ScaledObject": {
        "scaleTargetRef", "minReplicaCount", "maxReplicaCount", "pollingInterval", "cooldownPeriod", "fallback",
        "advanced", "triggers",
    },
    "RedisReplication": {
        "clusterSize", "kubernetesConfig", "redisConfig", "pdb", "podSecurityContext", "securityContext", "storage",
    },
    "RedisSentinel": {
        "clusterSize", "kubernetesConfig", "redisSentinelConfig", "pdb", "podSecurityContext", "securityContext",
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def production() -> list[Manifest]:
    return render(PRODUCTION)


def validate(manifest: Manifest, version: str) -> None:
    kubernetes_validate.validate(dict(manifest), version, strict=True)


@pytest.mark.parametrize("version", [OLDEST, kubernetes_validate.latest_version()])
@pytest.mark.parametrize("component", COMPONENTS)
def test_each_component_is_valid_beside_the_base(component: str, version: str, tmp_path: Path) -> None:
    manifests = render_with(component, tmp_path)
    assert len(manifests) > len(pods(manifests))
    for each in manifests:
        if fields := CUSTOM_FIELDS.get(each["kind"]):
            assert each["spec"].keys() <= fields, f"{each['kind']} {each['metadata']['name']}"
        else:
            validate(each, version)


def test_a_mistake_in_a_manifest_is_found(production: list[Manifest]) -> None:
    broken: Any = copy.deepcopy(of_kind(production, "Deployment")["dspex-worker"])
    broken["spec"]["template"]["spec"]["terminationGracePeriod"] = 60
    with pytest.raises(kubernetes_validate.ValidationError):
        validate(broken, OLDEST)


def test_the_guide_renders_what_it_says_it_renders() -> None:
    commands = re.findall(r"^\$ kubectl (kustomize [^|<>\n]*)", GUIDE, re.MULTILINE)
    assert commands
    for command in commands:
        assert "kind: Deployment" in kubectl(*command.split())


def test_the_guide_names_metrics_that_there_are() -> None:
    named = set(re.findall(r"`?(dspex_[a-z_]+)", GUIDE))
    assert "dspex_queue_demand" in named
    assert named <= {prometheus_name(metric) for metric in CATALOG.values()}


# ------------------------------------------------------------------------------------------------ what they agree with


def find_command(name: str) -> Any:
    """Return a command of ``dspex-fleet``, which typer has built."""
    group: Any = command_line()
    command = group.get_command(group.context_class(group), name)
    assert command is not None
    return command.load() if isinstance(command, LazyCommand) else command


@pytest.mark.parametrize("name", [*WORKERS, "dspex-gateway", "dspex-refresher"])
def test_a_pod_runs_a_command_that_there_is_with_options_that_it_has(production: list[Manifest], name: str) -> None:
    pod = pods(production)[name]
    program, role, *options = container_of(pod)["args"]
    assert program == "dspex-fleet"
    given = {key: value for key, value in read_settings(pod, production).items() if value and "/" not in value}
    with pytest.MonkeyPatch.context() as patch:
        for key, value in given.items():
            patch.setenv(key, value)
        context = find_command(role).make_context(
            role, [re.sub(r"\$\((\w+)\)", lambda m: given[m[1]], o) for o in options]
        )
    if role == "worker":
        rest = celery_worker.make_context("worker", context.args, resilient_parsing=True)
        queues = rest.params["queues"] or context.params["pool"].queue_names(given["DSPEX_QUEUE"]).split(",")
        assert queues == [queue_of(name)]
        assert context.params["concurrency"]


def queue_of(deployment: str) -> str:
    queue = FleetSettings.model_validate({}).queue
    return code_queue(queue) if "code" in deployment else queue


@pytest.mark.parametrize("name", [*WORKERS, "dspex-gateway", "dspex-refresher"])
def test_each_variable_is_a_setting_or_an_option_and_has_a_value_that_it_takes(
    production: list[Manifest], name: str
) -> None:
    pod = pods(production)[name]
    settings = read_settings(pod, production)
    options = {parameter.envvar for parameter in find_command(container_of(pod)["args"][1]).params}
    known = {f"DSPEX_{field.upper()}" for field in FleetSettings.model_fields} | options
    assert {variable for variable in settings if variable.startswith("DSPEX_")} <= known
    others = {variable for variable in settings if not variable.startswith("DSPEX_")}
    assert {variable for variable in others if f"`{variable}`" not in TELEMETRY} <= {"OTEL_EXPORTER_PROMETHEUS_PORT"}
    fields = {key.removeprefix("DSPEX_").lower(): value for key, value in settings.items() if value}
    assert FleetSettings.model_validate(fields).health_address == "0.0.0.0:8063"


def test_no_secret_stands_in_a_manifest_and_the_guide_creates_each_that_is_named(production: list[Manifest]) -> None:
    assert not of_kind(production, "Secret")
    for pod in pods(production).values():
        for variable in container_of(pod)["env"]:
            if re.search(r"_KEY$|TOKEN$|SECRET|PASSWORD|_URL$", variable["name"]) and "value" in variable:
                assert variable["value"].startswith("/etc/dspex/"), f"{variable['name']} must come from a secret"
    named = set(list_secrets(production))
    assert {
        "fleet-redis",
        "fleet-lm-keys",
        "fleet-gateway-tls",
        "fleet-gateway-tokens",
        "fleet-redis-password",
    } == named
    assert {name for name in named if not re.search(rf"kubectl create secret \w+ {name}\b", GUIDE)} == set()


def list_secrets(node: Any) -> Iterator[str]:
    """Yield the names of all secrets that objects refer to."""
    if isinstance(node, list):
        for each in node:
            yield from list_secrets(each)
    elif isinstance(node, dict):
        for key, value in node.items():
            if key in ("secretKeyRef", "secretRef", "redisSecret"):
                yield value["name"]
            elif key == "secretName":
                yield value
            else:
                yield from list_secrets(value)


def test_the_redis_url_of_each_role_is_its_own_and_the_guide_has_it(production: list[Manifest]) -> None:
    for pod in pods(production).values():
        (url,) = [each["valueFrom"]["secretKeyRef"] for each in container_of(pod)["env"] if "REDIS_URL" in each["name"]]
        assert url == {"name": "fleet-redis", "key": f"{container_of(pod)['name']}-url"}
        assert f"--from-literal={url['key']}=" in GUIDE


def test_the_lm_profiles_are_read_and_their_keys_come_from_the_secret(
    production: list[Manifest], tmp_path: Path
) -> None:
    for name in WORKERS:
        pod = pods(production)[name]
        (volume,) = [each for each in pod["volumes"] if each["name"] == "lm-profiles"]
        files = of_kind(production, "ConfigMap")[volume["configMap"]["name"]]["data"]
        (mount,) = [each for each in container_of(pod)["volumeMounts"] if each["name"] == "lm-profiles"]
        assert read_settings(pod, production)["DSPEX_LM_PROFILES"] == f"{mount['mountPath']}/lm.toml"
        (tmp_path / "lm.toml").write_text(files["lm.toml"])
        for table in read_profiles(tmp_path / "lm.toml").profiles.values():
            assert f"--from-literal={table.api_key_env}=" in GUIDE
        assert {"secretRef": {"name": "fleet-lm-keys"}} in container_of(pod)["envFrom"]


# ------------------------------------------------------------------------------------------------------------ security


def test_each_pod_is_what_the_restricted_pod_security_standard_allows(production: list[Manifest]) -> None:
    found = pods(production)
    assert len(found) == 4
    for name, pod in found.items():
        assert list(find_violations(pod)) == [], name
        assert container_of(pod)["securityContext"]["readOnlyRootFilesystem"] is True
        assert pod["automountServiceAccountToken"] is pod["enableServiceLinks"] is False
    (namespace,) = of_kind(production, "Namespace").values()
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("securityContext", {}),
        ("securityContext", {"runAsNonRoot": True, "runAsUser": 0, "seccompProfile": {"type": "RuntimeDefault"}}),
        ("hostPID", True),
        ("volumes", [{"name": "disk", "hostPath": {"path": "/"}}]),
        ("containers", [{"name": "worker", "securityContext": {"allowPrivilegeEscalation": False}}]),
    ],
)
def test_a_pod_that_takes_a_liberty_is_found(production: list[Manifest], field: str, value: object) -> None:
    assert list(find_violations({**pods(production)["dspex-worker"], field: value}))


def test_objects_of_the_redis_operator_keep_to_the_same_standard(production: list[Manifest]) -> None:
    for kind in ("RedisReplication", "RedisSentinel"):
        (spec,) = [each["spec"] for each in of_kind(production, kind).values()]
        container = {"name": kind, "securityContext": spec["securityContext"]}
        assert list(find_violations({"securityContext": spec["podSecurityContext"], "containers": [container]})) == []


def test_a_pod_runs_as_the_image_does_and_writes_where_it_may(production: list[Manifest]) -> None:
    (_, *_, final) = read_stages()
    (user,) = [line.split()[1] for line in final if line.startswith("USER ")]
    for pod in pods(production).values():
        context = pod["securityContext"]
        assert user == f"{context['runAsUser']}:{context['runAsGroup']}"
        writable = {each["name"] for each in pod["volumes"] if "emptyDir" in each}
        assert {each["mountPath"] for each in container_of(pod)["volumeMounts"] if each["name"] in writable} == {"/tmp"}


def test_a_pod_reaches_nothing_that_no_policy_allows(production: list[Manifest]) -> None:
    policy = of_kind(production, "NetworkPolicy")["dspex-fleet"]["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert policy["podSelector"] == {"matchExpressions": [{"key": "dspex-fleet/role", "operator": "Exists"}]}
    for name, deployment in of_kind(production, "Deployment").items():
        assert deployment["spec"]["template"]["metadata"]["labels"]["dspex-fleet/role"] == name.removeprefix("dspex-")
    assert "ingress" not in policy
    bridge = read_settings(pods(production)["dspex-refresher"], production)["DSPEX_BRIDGE"]
    (rule,) = of_kind(production, "NetworkPolicy")["dspex-fleet-elixir"]["spec"]["egress"]
    assert bridge
    assert bridge.endswith(f":{rule['ports'][0]['port']}")


def test_a_policy_names_ports_that_its_pods_have(production: list[Manifest]) -> None:
    declared = {port["name"] for pod in pods(production).values() for port in container_of(pod)["ports"]}
    named = {
        port["port"]
        for policy in of_kind(production, "NetworkPolicy").values()
        for rule in policy["spec"].get("ingress", ())
        for port in rule["ports"]
    }
    assert {"grpc", "http", "metrics"} <= named
    assert {port for port in named if isinstance(port, str)} <= declared


# ------------------------------------------------------------------------------------------------- probes and shutdown


class _Healthy:
    def live(self) -> Problems:
        return {}

    def ready(self) -> Problems:
        return {}

    def started(self) -> Problems:
        return {}


@pytest.mark.parametrize("name", [*WORKERS, "dspex-gateway", "dspex-refresher"])
def test_probes_ask_where_the_process_answers(production: list[Manifest], name: str) -> None:
    pod = pods(production)[name]
    container = container_of(pod)
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    address = read_settings(pod, production)["DSPEX_HEALTH_ADDRESS"]
    server = HealthServer("127.0.0.1:0")
    server.start(_Healthy())
    try:
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            request = container[probe]["httpGet"]
            assert address == f"0.0.0.0:{ports[request['port']]}"
            with urllib.request.urlopen(
                f"http://127.0.0.1:{server.port}{request['path']}", timeout=PATIENCE_S
            ) as answer:
                assert answer.status == 200
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(f"http://127.0.0.1:{server.port}/healthy", timeout=PATIENCE_S)
    finally:
        server.stop()


@pytest.mark.parametrize("name", WORKERS)
def test_the_watchdog_ends_a_worker_that_hangs_before_its_probe_does_and_can_kill_it(
    production: list[Manifest], name: str
) -> None:
    pod = pods(production)[name]
    probe = container_of(pod)["livenessProbe"]
    assert (
        probe["periodSeconds"] * (probe["failureThreshold"] - 1) >= 3 * FleetSettings.model_validate({}).stall_limit_s
    )
    assert pod["shareProcessNamespace"] is True, "else the worker is process 1"


@pytest.mark.parametrize("name", WORKERS)
def test_a_worker_has_the_time_to_hand_back_what_it_has_not_finished(production: list[Manifest], name: str) -> None:
    pod = pods(production)[name]
    settings = read_settings(pod, production)
    assert float(settings["DSPEX_STOP_GRACE_S"] or 0) + SUPERVISOR_MARGIN_S <= pod["terminationGracePeriodSeconds"]
    assert float(settings["DSPEX_SUPERVISOR_GRACE_S"] or 0) == pod["terminationGracePeriodSeconds"]


def test_a_gateway_has_the_time_to_end_its_calls_after_it_has_left_the_service(production: list[Manifest]) -> None:
    pod = pods(production)["dspex-gateway"]
    _, leaving_s = container_of(pod)["lifecycle"]["preStop"]["exec"]["command"]
    drain_s = float(read_settings(pod, production)["DSPEX_GATEWAY_DRAIN_S"] or 0)
    assert float(leaving_s) + drain_s + SUPERVISOR_MARGIN_S <= pod["terminationGracePeriodSeconds"]


def test_a_worker_for_code_has_memory_for_all_its_sandboxes(production: list[Manifest]) -> None:
    pod = pods(production)["dspex-code-worker"]
    (processes,) = [int(each.partition("=")[2]) for each in container_of(pod)["args"] if "--concurrency" in each]
    sandbox_mb = int(read_settings(pod, production)["DSPEX_SANDBOX_MEMORY_MB"] or 0)
    limit = container_of(pod)["resources"]["limits"]["memory"]
    assert limit.endswith("Mi")
    assert int(limit.removesuffix("Mi")) >= processes * (sandbox_mb + 350) + 500


# ------------------------------------------------------------------------------------------- what refers to what, scale


def test_services_budgets_and_scalers_are_about_deployments_that_there_are(production: list[Manifest]) -> None:
    deployments = of_kind(production, "Deployment")
    templates = {name: each["spec"]["template"] for name, each in deployments.items()}
    for service in of_kind(production, "Service").values():
        (pod,) = [
            each
            for each in templates.values()
            if service["spec"]["selector"].items() <= each["metadata"]["labels"].items()
        ]
        ports = {port["name"] for port in container_of(pod["spec"])["ports"]}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports
    budgets = of_kind(production, "PodDisruptionBudget")
    assert budgets.keys() == deployments.keys()
    for name, budget in budgets.items():
        assert budget["spec"]["selector"] == deployments[name]["spec"]["selector"]
        assert budget["spec"]["maxUnavailable"] == 1, "with minAvailable a single pod keeps its node from being drained"
    assert of_kind(production, "ScaledObject").keys() == set(WORKERS)
    assert not [name for name in WORKERS if "replicas" in deployments[name]["spec"]], "KEDA says how many there are"


@pytest.mark.parametrize("name", WORKERS)
def test_keda_reads_a_metric_that_a_gateway_exports_of_the_queue_that_the_worker_takes(
    production: list[Manifest], name: str
) -> None:
    scaler = of_kind(production, "ScaledObject")[name]["spec"]
    assert scaler["scaleTargetRef"]["name"] == name
    (trigger,) = [each["metadata"] for each in scaler["triggers"]]
    found = re.fullmatch(r'(\w+){(\w+)="([^"]+)"}', trigger["valueLocation"])
    assert found
    (metric,) = [each for each in CATALOG.values() if prometheus_name(each) == found[1]]
    assert ("gateway" in metric.processes, list(prometheus_labels(metric.labels))) == (True, [found[2]])
    assert found[3] == queue_of(name)
    service = of_kind(production, "Service")["dspex-fleet-metrics"]
    port = service["spec"]["ports"][0]["port"]
    assert trigger["url"] == f"http://dspex-fleet-metrics.{service['metadata']['namespace']}.svc:{port}/metrics"
    (most,) = [int(each.partition("=")[2]) for each in container_of(pods(production)[name])["args"] if "--conc" in each]
    assert 0.5 * most <= float(trigger["targetValue"]) <= most
    assert (scaler["minReplicaCount"], trigger["activationTargetValue"]) == (0, "0")


def test_another_namespace_is_named_in_one_place(tmp_path: Path) -> None:
    text = (PRODUCTION / "kustomization.yaml").read_text().replace("namespace: dspex-fleet", "namespace: shop")
    here = Path(*([".."] * (len(tmp_path.resolve().parts) - 1))) / ROOT.relative_to("/") / "deploy" / "kubernetes"
    (tmp_path / "kustomization.yaml").write_text(text.replace("../../", f"{here}/"))
    manifests = render(tmp_path)
    named = {each["metadata"].get("namespace") for each in manifests if each["kind"] != "Namespace"}
    assert (named, list(of_kind(manifests, "Namespace"))) == ({"shop"}, ["shop"])
    for scaler in of_kind(manifests, "ScaledObject").values():
        assert ".shop.svc:" in scaler["spec"]["triggers"][0]["metadata"]["url"]


def test_redis_keeps_what_it_is_told_and_evicts_nothing(tmp_path: Path) -> None:
    manifests = render_with("redis-operator", tmp_path)
    (replication,) = of_kind(manifests, "RedisReplication").values()
    config = of_kind(manifests, "ConfigMap")[replication["spec"]["redisConfig"]["additionalRedisConfig"]]["data"]
    lines = config["redis-additional.conf"].splitlines()
    assert {"appendonly yes", "appendfsync everysec", "maxmemory-policy noeviction"} <= set(lines)
    (sentinel,) = of_kind(manifests, "RedisSentinel").values()
    group = sentinel["spec"]["redisSentinelConfig"]
    assert group["redisReplicationName"] == replication["metadata"]["name"]
    assert f"{sentinel['metadata']['name']}-sentinel:26379/{group['masterGroupName']}/0" in GUIDE
