"""The pods: what they may do, what they are told, how they start and stop."""

from __future__ import annotations

import re
from typing import Any

import pytest

from portal.config.celery import app
from portal.config.environment import read_environment
from tests.chart.helm import CHART, ROOT, Document, load, pick, pick_kind
from tests.chart.matrix import ROWS, list_containers, list_pods, load_row, matches

OWN_IMAGES = ("ghcr.io/moorline/moorline:", "registry.example.com/moorline@")
WITH_RIGHTS = {"moorline-worker", "moorline-watch", "uplink-worker", "uplink-watch"}
SAMPLES = {
    "secret-key": "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ",
    "hop-secret": "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKL",
    "admin-password": "correct horse battery",
    "postgres-password": "letters",
    "valkey-password": "letters",
    "database-url": "postgres://moorline:letters@db/moorline",
    "redis-url": "rediss://:letters@cache:6379/0",
    "metadata.name": "moorline-gateway-5d4f8-x7x2z",
    "metadata.namespace": "moorline",
    "status.podIP": "10.1.2.3",
}


def is_own(container: Document) -> bool:
    """Say whether a container runs Moorline's own image."""
    return container["image"].startswith(OWN_IMAGES)


def read_variables(container: Document) -> dict[str, str]:
    """Return the environment that a container gets, with samples for what a cluster fills in."""
    variables: dict[str, str] = {}
    for variable in container["env"]:
        source = variable.get("valueFrom", {})
        if "secretKeyRef" in source:
            key = source["secretKeyRef"]["key"]
            value = SAMPLES[
                "redis-url" if source["secretKeyRef"]["name"] == "cache" else key.replace("uri", "database-url")
            ]
        elif "fieldRef" in source:
            value = SAMPLES[source["fieldRef"]["fieldPath"]]
        else:
            value = variable["value"]
        variables[variable["name"]] = re.sub(r"\$\((\w+)\)", lambda match: variables[match[1]], value)
    return variables


@pytest.mark.parametrize("row", ROWS)
def test_every_pod_keeps_to_the_restricted_standard_and_to_a_root_that_is_read_only(row: str) -> None:
    for name, pod in list_pods(load_row(row)).items():
        security = pod["spec"]["securityContext"]
        assert security["runAsNonRoot"] is True, name
        assert security["runAsUser"] > 0, name
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}, name
        for container in list_containers(pod):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }, name
            assert container["resources"]["limits"]["memory"], name
            mounted = {mount["name"] for mount in container["volumeMounts"]}
            claimed = {"data"} if name.startswith("StatefulSet") else set()
            assert mounted <= {volume["name"] for volume in pod["spec"]["volumes"]} | claimed, name


@pytest.mark.parametrize("row", ROWS)
def test_only_worker_and_watch_can_speak_to_kubernetes(row: str) -> None:
    documents = load_row(row)
    accounts = pick_kind(documents, "ServiceAccount")
    for name, pod in list_pods(documents).items():
        expected = name.removeprefix("Deployment ") in WITH_RIGHTS
        assert pod["spec"]["automountServiceAccountToken"] is expected, name
        account = pod["spec"].get("serviceAccountName")
        if account is not None:
            assert accounts[account]["automountServiceAccountToken"] is expected, name


@pytest.mark.parametrize("row", ROWS)
def test_moorline_accepts_the_environment_of_every_container(row: str) -> None:
    for name, pod in list_pods(load_row(row)).items():
        for container in list_containers(pod):
            variables = [variable["name"] for variable in container.get("env", [])]
            assert len(set(variables)) == len(variables), name
            if is_own(container) and variables:
                environment = read_environment(read_variables(container))
                assert environment.target == "kubernetes"
                assert environment.installation == "moorline"


@pytest.mark.parametrize("row", ROWS)
def test_moorline_knows_every_variable(row: str) -> None:
    known = set(re.findall(r"MOORLINE_[A-Z_]+", (ROOT / "portal/config/environment.py").read_text()))
    for name, pod in list_pods(load_row(row)).items():
        for container in list_containers(pod):
            variables = {variable["name"] for variable in container.get("env", [])}
            assert {variable for variable in variables if variable.startswith("MOORLINE_")} <= known, name


@pytest.mark.parametrize("row", ROWS)
def test_every_secret_that_is_read_is_made_or_given(row: str) -> None:
    documents = load_row(row)
    made = {name: set(secret["data"]) for name, secret in pick_kind(documents, "Secret").items()}
    given = {"database": {"uri"}, "cache": {"uri"}, "moorline-secrets": {"secret-key", "hop-secret", "admin-password"}}
    for name, pod in list_pods(documents).items():
        for container in list_containers(pod):
            for variable in container.get("env", []):
                reference = variable.get("valueFrom", {}).get("secretKeyRef")
                if reference:
                    assert reference["key"] in {**given, **made}[reference["name"]], name


def test_the_secret_of_the_gateways_and_the_password_of_staff_go_to_nobody_else() -> None:
    holders: dict[str, set[str]] = {}
    for name, pod in list_pods(load()).items():
        for container in list_containers(pod):
            for variable in container.get("env", []):
                reference = variable.get("valueFrom", {}).get("secretKeyRef")
                if reference:
                    holders.setdefault(reference["key"], set()).add(re.sub(r"-[0-9a-f]{8}$", "", name))
    assert holders["hop-secret"] == {"Deployment moorline-gateway"}
    assert holders["admin-password"] == {"Job moorline-migration"}


def test_a_variable_of_the_values_takes_the_place_of_the_charts() -> None:
    variables = read_variables(
        pick(load_row("everything"), "Deployment", "uplink-portal")["spec"]["template"]["spec"]["containers"][0]
    )
    assert variables["MOORLINE_LOG_LEVEL"] == "debug"
    assert variables["MOORLINE_MAX_SESSIONS"] == "4"


def test_what_a_gateway_is_told() -> None:
    deployments = pick_kind(load_row("dedicated"), "Deployment")
    told = {
        name: read_variables(deployments[name]["spec"]["template"]["spec"]["containers"][0])
        for name in ("moorline-gateway", "moorline-gateway-acme")
    }
    shared, dedicated = told["moorline-gateway"], told["moorline-gateway-acme"]
    assert shared["MOORLINE_GATEWAY_NAME"] == SAMPLES["metadata.name"]
    assert shared["MOORLINE_GATEWAY_ADDRESS"] == SAMPLES["status.podIP"]
    assert (shared["MOORLINE_LISTEN_HOST"], shared["MOORLINE_HOP_PORT"]) == ("0.0.0.0", "8001")
    assert "MOORLINE_GATEWAY_CUSTOMERS" not in shared
    assert dedicated["MOORLINE_GATEWAY_CUSTOMERS"] == "acmeco,acmecorp"
    assert (shared["MOORLINE_DRAIN_TIMEOUT"], dedicated["MOORLINE_DRAIN_TIMEOUT"]) == ("30", "120")


def test_the_labels_that_the_worker_opens_ports_for_are_those_of_all_gateways_and_of_nothing_else() -> None:
    for row in ("dedicated", "everything"):
        pods = list_pods(load_row(row))
        worker = next(pod for name, pod in pods.items() if name.endswith("-worker"))
        variables = read_variables(worker["spec"]["containers"][0])
        labels = read_environment(variables).gateway_labels
        selected = {name for name, pod in pods.items() if matches({"matchLabels": labels}, pod["metadata"]["labels"])}
        assert selected == {name for name in pods if re.search(r"-gateway(-\w+)?$", name)}


@pytest.mark.parametrize("row", ["bare", "dedicated", "everything"])
def test_selectors_select_their_own_pods_and_no_others(row: str) -> None:
    documents = load_row(row)
    pods = list_pods(documents)
    owners = [d for d in documents if d["kind"] in ("Deployment", "StatefulSet")]
    for owner in owners:
        name = f"{owner['kind']} {owner['metadata']['name']}"
        chosen = [other for other, pod in pods.items() if matches(owner["spec"]["selector"], pod["metadata"]["labels"])]
        assert chosen == [name]
    for service in pick_kind(documents, "Service").values():
        selector = {"matchLabels": service["spec"]["selector"]}
        chosen = [name for name, pod in pods.items() if matches(selector, pod["metadata"]["labels"])]
        assert len(chosen) == 1
        assert chosen[0].endswith(f" {service['metadata']['name']}")
        ports = {port["name"] for c in pods[chosen[0]]["spec"]["containers"] for port in c["ports"]}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports


def test_budgets_keep_drains_from_taking_all_pods_of_a_role() -> None:
    budgets = pick_kind(load_row("dedicated"), "PodDisruptionBudget")
    roles = ["portal", "gateway", "gateway-acme", "gateway-globex", "worker", "watch"]
    assert set(budgets) == {f"moorline-{role}" for role in roles}
    assert all(budget["spec"]["maxUnavailable"] == 1 for budget in budgets.values())
    gateways = budgets["moorline-gateway"]["spec"]["selector"]["matchLabels"]
    assert gateways["moorline.dev/gateway"] == "shared"


@pytest.mark.parametrize("row", ["bare", "dedicated", "everything"])
def test_a_gateway_is_given_the_time_that_draining_takes(row: str) -> None:
    for name, pod in list_pods(load_row(row)).items():
        if re.search(r"-gateway(-\w+)?$", name):
            container = pod["spec"]["containers"][0]
            told = read_variables(container)
            before = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
            needed = before + int(told["MOORLINE_DRAIN_TIMEOUT"]) + int(told["MOORLINE_LISTENER_LINGER"])
            assert pod["spec"]["terminationGracePeriodSeconds"] >= needed + 10, name


def test_a_restart_takes_no_gateway_away_before_another_one_is_ready() -> None:
    for name in ("moorline-gateway", "moorline-gateway-acme", "moorline-portal"):
        spec = pick(load_row("dedicated"), "Deployment", name)["spec"]
        assert spec["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}


@pytest.mark.parametrize("row", ["bare", "dedicated", "external urls"])
def test_pods_that_stay_are_probed_and_wait_for_the_migration(row: str) -> None:
    documents = load_row(row)
    deployments = pick_kind(documents, "Deployment")
    for name, deployment in deployments.items():
        spec = deployment["spec"]["template"]["spec"]
        (first,) = spec["initContainers"]
        assert first["command"] == ["python", "manage.py", "await_database", "--migrated", "--timeout", "300"]
        container = spec["containers"][0]
        assert {"startupProbe", "livenessProbe"} <= set(container)
        web = name.startswith(("moorline-portal", "moorline-gateway"))
        assert ("readinessProbe" in container) == web, name
    for store in pick_kind(documents, "StatefulSet").values():
        assert {"startupProbe", "livenessProbe"} <= set(store["spec"]["template"]["spec"]["containers"][0])


def test_roles_run_these_commands() -> None:
    commands = {
        name: deployment["spec"]["template"]["spec"]["containers"][0]["command"]
        for name, deployment in pick_kind(load(), "Deployment").items()
    }
    celery = ["celery", "--app", "portal.config.celery"]
    serve = ["python", "manage.py", "serve", "--role"]
    worker = ["worker", "--concurrency", "4", "--without-gossip", "--without-mingle", "--loglevel", "INFO"]
    assert commands == {
        "moorline-portal": [*serve, "portal", "--bind", "0.0.0.0"],
        "moorline-gateway": [*serve, "gateway", "--bind", "0.0.0.0"],
        "moorline-worker": [*celery, *worker],
        "moorline-beat": [*celery, "beat", "--schedule", "/tmp/schedule", "--loglevel", "INFO"],
        "moorline-watch": ["python", "manage.py", "watch"],
    }


def test_there_is_one_beat_and_never_two() -> None:
    spec = pick(load_row("high availability"), "Deployment", "moorline-beat")["spec"]
    assert (spec["replicas"], spec["strategy"]) == (1, {"type": "Recreate"})


def test_a_scaled_gateway_has_no_fixed_number_of_pods() -> None:
    documents = load_row("dedicated")
    scaler = pick(documents, "HorizontalPodAutoscaler", "moorline-gateway-globex")["spec"]
    assert scaler["scaleTargetRef"] == {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "name": "moorline-gateway-globex",
    }
    assert (scaler["minReplicas"], scaler["maxReplicas"]) == (2, 9)
    assert "replicas" not in pick(documents, "Deployment", "moorline-gateway-globex")["spec"]
    assert pick(documents, "Deployment", "moorline-gateway")["spec"]["replicas"] == 2
    assert list(pick_kind(documents, "HorizontalPodAutoscaler")) == ["moorline-gateway-globex"]


def test_a_dedicated_gateway_has_the_values_of_the_shared_ones_but_for_its_own() -> None:
    documents = load(ROWS["dedicated"] | {"gateway": {"priorityClassName": "low", "podLabels": {"tier": "edge"}}})
    dedicated = pick(documents, "Deployment", "moorline-gateway-acme")["spec"]["template"]
    assert dedicated["spec"]["priorityClassName"] == "high"
    assert dedicated["spec"]["nodeSelector"] == {"pool": "moorline"}
    assert {"team": "net", "tier": "edge"}.items() <= dedicated["metadata"]["labels"].items()
    globex = pick(documents, "Deployment", "moorline-gateway-globex")["spec"]["template"]
    assert globex["spec"]["priorityClassName"] == "low"


def test_pods_are_spread_over_zones_and_nodes_unless_the_values_say_how() -> None:
    spread = pick(load(), "Deployment", "moorline-gateway")["spec"]["template"]["spec"]["topologySpreadConstraints"]
    assert [part["topologyKey"] for part in spread] == ["topology.kubernetes.io/zone", "kubernetes.io/hostname"]
    other = pick(load_row("everything"), "Deployment", "uplink-gateway")["spec"]["template"]["spec"]
    assert [part["topologyKey"] for part in other["topologySpreadConstraints"]] == ["rack"]


def test_stores_do_not_start_anew_because_moorline_has_a_new_version() -> None:
    version = re.search(r"appVersion: (\S+)", (CHART / "Chart.yaml").read_text())
    assert version is not None
    for store in pick_kind(load(), "StatefulSet").values():
        assert version[1] not in str(store["spec"])


def test_stores_take_the_variables_of_the_official_images_and_keep_their_data_on_a_volume() -> None:
    stores = pick_kind(load(), "StatefulSet")
    postgres = stores["moorline-postgres"]["spec"]
    container = postgres["template"]["spec"]["containers"][0]
    assert read_variables(container) == {
        "POSTGRES_USER": "moorline",
        "POSTGRES_DB": "moorline",
        "POSTGRES_PASSWORD": SAMPLES["postgres-password"],
        "PGDATA": "/var/lib/postgresql/data/pgdata",
    }
    assert {"name": "data", "mountPath": "/var/lib/postgresql/data"} in container["volumeMounts"]
    for store in stores.values():
        (claim,) = store["spec"]["volumeClaimTemplates"]
        assert claim["metadata"]["name"] == "data"
        assert "storageClassName" not in claim["spec"]
    volatile = pick(load_row("little"), "StatefulSet", "moorline-postgres")["spec"]
    assert "volumeClaimTemplates" not in volatile
    assert {"name": "data", "emptyDir": {}} in volatile["template"]["spec"]["volumes"]


def test_the_password_of_valkey_is_in_no_list_of_processes() -> None:
    container = pick(load(), "StatefulSet", "moorline-valkey")["spec"]["template"]["spec"]["containers"][0]
    assert "valkey-password" in str(container["env"])
    (script,) = container["args"]
    assert "exec valkey-server /tmp/valkey.conf" in script
    assert "printf" in script.partition("VALKEY_PASSWORD")[0].splitlines()[-1]


def test_generated_secrets_are_strong_and_stay() -> None:
    secret = pick(load(), "Secret", "moorline")
    lengths = {key: len(value) * 3 // 4 for key, value in secret["data"].items()}
    assert lengths["secret-key"] >= 50
    assert lengths["hop-secret"] >= 32
    assert min(lengths.values()) >= 24
    assert len(set(secret["data"].values())) == len(secret["data"])
    assert secret["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}


def test_a_secret_of_the_operator_takes_the_place_of_the_generated_one() -> None:
    assert pick_kind(load_row("external secrets"), "Secret") == {}


def read_checksum(values: dict[str, Any], name: str = "moorline") -> str:
    """Return by what pods notice that the values name or hold other secrets."""
    pod = pick(load(values, name=name), "Deployment", f"{name}-portal")["spec"]["template"]
    checksum: str = pod["metadata"]["annotations"]["checksum/secrets"]
    return checksum


def test_pods_start_anew_when_the_values_name_another_secret() -> None:
    values = ROWS["external secrets"]
    assert read_checksum(values) == read_checksum({**values, "portal": {"replicas": 3}})
    assert read_checksum(values) != read_checksum({**values, "secrets": {"existingSecret": "others"}})
    assert read_checksum(values) != read_checksum({**values, "externalRedis": {"existingSecret": "others"}})


def test_no_annotation_lets_a_password_be_guessed() -> None:
    """Whoever may read pods could try passwords on a checksum over nothing but them."""
    values = ROWS["external urls"]
    assert read_checksum(values) != read_checksum(values, "moorline-2"), "each installation has a key of its own"
    existing = {**values, "secrets": {"existingSecret": "moorline-secrets"}}  # without a cluster its key is not seen
    changed = {**existing, "externalDatabase": {"url": "postgres://moorline:other@db.example.com:5432/moorline"}}
    assert read_checksum(existing) == read_checksum(changed)


def test_a_worker_is_given_the_time_that_its_longest_task_may_take() -> None:
    app.loader.import_default_modules()
    own = [task for name, task in app.tasks.items() if name.startswith("portal.")]
    longest = max(task.time_limit or app.conf.task_time_limit for task in own)
    assert longest > app.conf.task_time_limit
    worker = pick(load(), "Deployment", "moorline-worker")["spec"]["template"]["spec"]
    assert worker["terminationGracePeriodSeconds"] >= longest + 10


def test_on_the_first_install_the_migration_comes_with_everything_else() -> None:
    # A hook before it would find no database, and for one after it `helm install --wait` would wait for ever.
    jobs = pick_kind(load(), "Job")
    (name,) = jobs
    assert re.fullmatch(r"moorline-migration-[0-9a-f]{8}", name)
    assert "annotations" not in jobs[name]["metadata"]
    script = jobs[name]["spec"]["template"]["spec"]["containers"][0]["args"][0]
    assert script.index("await_database") < script.index("migrate --no-input") < script.index("create_admin")


def test_another_migration_is_another_job() -> None:
    # What a Job runs cannot be changed.
    names = {name for image in ("1", "2") for name in pick_kind(load({"image": {"tag": image}}), "Job")}
    assert len(names) == 2
