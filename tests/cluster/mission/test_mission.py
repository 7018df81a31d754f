"""The mission: a customer's database answers inside the cluster, as `psql -h prod.acmeco -p 25060`, and only there."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from tests.cluster.mission.conftest import APPLICATION, COMPATIBLE, CUSTOMER, MANIFEST, NAMESPACE, RELEASE, Installation
from tests.cluster.mission.customer import Client, run_pages
from tests.cluster.mission.node import end, wait_for

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(400)]

CLIENT_POD = """\
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: acmeco}
spec:
  hostNetwork: true
  securityContext: {runAsNonRoot: true, fsGroup: 65532}
  containers:
  - name: client
    image: localhost/moorline-client:dev
    imagePullPolicy: IfNotPresent
    args: [--url, URL/acmeco/postgres-prod, --token-file, /run/token/token, --upstream, "25060=FINANCE"]
    securityContext: {readOnlyRootFilesystem: true, allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}
    volumeMounts: [{name: token, mountPath: /run/token, readOnly: true}]
  volumes: [{name: token, secret: {secretName: postgres-prod, defaultMode: 0440}}]
"""
# Opens one connection after another until it is told to stop; what fails is counted, and the first failures are told.
CONNECT_FOR_EVER = """\
rm -f /tmp/stop; good=0; bad=0
while [ ! -e /tmp/stop ]; do
  if out=$(PGCONNECT_TIMEOUT=5 psql -U postgres -h prod.acmeco -p 25060 -d finance -XAtc 'SELECT 1' 2>&1); then
    good=$((good + 1))
  else
    bad=$((bad + 1)); echo "failed: $(date +%T.%N) $out"
  fi
done
echo "good $good bad $bad"
"""
LOAD = """\
echo 'SELECT count(*) FROM accounts;' >/tmp/load.sql; echo $$ >/tmp/load.pid
exec pgbench -U postgres -h prod.acmeco -p 25060 --no-vacuum -f /tmp/load.sql --client 4 --time 300 --progress 5 finance
"""


def test_helm_test_says_that_everything_answers(installation: Installation) -> None:
    tested = installation.node.helm("test", RELEASE, "--namespace", NAMESPACE, "--timeout", "60s")
    assert "Succeeded" in tested


def test_kubectl_shows_what_was_applied(acmeco: Installation) -> None:
    header, *rows = acmeco.node.kubectl("get", "tun", "-A").splitlines()
    assert header.split() == ["NAMESPACE", "NAME", "PORTS", "DOMAINS", "CONNECTED", "READY", "AGE"]
    assert sorted(row.split()[:3] for row in rows) == [
        [CUSTOMER, "postgres-prod", "[25060]"],
        [CUSTOMER, "prod", "[25060]"],
    ]


def test_psql_answers_by_the_short_name_from_another_namespace(acmeco: Installation, client: Client) -> None:
    began = time.monotonic()
    client.start(connections=2)
    wait_for("both gateways hold a session", lambda: len(acmeco.endpoints("prod")) == 2, 20)
    print(f"two sessions were in the EndpointSlice {time.monotonic() - began:.2f} s after the client's start")
    assert acmeco.psql("prod.acmeco", "-c", "SELECT count(*) FROM accounts") == "5"
    wait_for("connected", lambda: acmeco.condition("prod", "Connected") == "True", 10)


def test_the_client_image_serves_the_manifest_of_the_readme(acmeco: Installation, finance: str) -> None:
    pod = CLIENT_POD.replace("URL", acmeco.url).replace("FINANCE", finance)
    acmeco.node.kubectl("create", "-f", "-", input=pod)
    try:
        wait_for("a session", lambda: acmeco.endpoints("postgres-prod"), 30)
        assert acmeco.psql("postgres-prod.acmeco", "-c", "SELECT count(*) FROM accounts") == "5"
    finally:
        acmeco.node.kubectl("--namespace", CUSTOMER, "delete", "pod", "client", "--grace-period=1")


def test_http_answers_by_the_host_name_of_a_tunnel_that_staff_made(acmeco: Installation, tmp_path: Path) -> None:
    acmeco.manage("create_tunnel", "acmeco/web", "--host-name", "identity1.local")
    shown = wait_for("a resource", lambda: acmeco.node.read("--namespace", CUSTOMER, "tunnels.moorline.dev", "web"), 10)
    assert shown["metadata"]["labels"]["moorline.dev/managed-by"] == "portal"
    token = acmeco.manage("mint_token", "acmeco/web", "--name", "client")
    with run_pages(acmeco.node, tmp_path, "who are you?") as address:
        upstream = f"identity1.local=http://{address}"
        client = Client(acmeco.node, f"{acmeco.url}/{CUSTOMER}/web", token, [upstream], tmp_path / "client.log")
        client.start(connections=1)
        try:
            wait_for("a session", lambda: acmeco.endpoints("identity1-local"), 20)
            request = "GET / HTTP/1.1\\r\\nHost: identity1.local\\r\\nConnection: close\\r\\n\\r\\n"
            ask = f"exec 3<>/dev/tcp/identity1-local.acmeco/8000; printf '{request}' >&3; cat <&3"
            answered = acmeco.node.run(APPLICATION, "shell", "bash", "-c", ask)
        finally:
            client.stop()
    assert "HTTP/1.1 200" in answered.stdout.splitlines()[0], answered
    assert answered.stdout.endswith("who are you?")


def test_a_gateway_without_the_session_answers_too(acmeco: Installation, client: Client) -> None:
    client.start(connections=1)
    wait_for("one gateway holds the session", lambda: len(acmeco.endpoints("prod")) == 1, 20)
    service = acmeco.node.read("--namespace", CUSTOMER, "service", "prod")
    listens_on = next(port["targetPort"] for port in service["spec"]["ports"] if port["port"] == 25060)
    gateways = acmeco.gateways()
    assert len(gateways) == 2
    for address in gateways.values():
        assert acmeco.psql(address, "-c", "SELECT count(*) FROM accounts", port=listens_on) == "5"


def test_a_killed_client_is_noticed_at_once(acmeco: Installation, client: Client) -> None:
    client.start(connections=1)
    wait_for("a session", lambda: acmeco.endpoints("prod"), 20)
    wait_for("connected", lambda: acmeco.condition("prod", "Connected") == "True", 10)
    line = "host=prod.acmeco port=25060 user=postgres dbname=finance"
    waiting = acmeco.node.start(APPLICATION, "shell", "psql", line, "-c", "SELECT pg_sleep(100)")
    try:
        sleeping = "SELECT count(*) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(100)'"
        wait_for("a query in flight", lambda: acmeco.psql("prod.acmeco", "-c", sleeping) == "1", 10)
        client.kill()
        killed = time.monotonic()
        wait_for("an empty EndpointSlice", lambda: acmeco.endpoints("prod") == [], 2, pause=0.02)
        emptied = time.monotonic() - killed
        out, _ = waiting.communicate(timeout=5)
        assert "server closed the connection" in out or "reset by peer" in out, out
        wait_for("kubectl shows it", lambda: acmeco.condition("prod", "Connected") == "False", 5)
        print(
            f"the EndpointSlice was empty after {emptied:.2f} s, the condition after {time.monotonic() - killed:.2f} s"
        )
    finally:
        end(waiting)


def test_a_rolling_restart_refuses_no_new_connection(acmeco: Installation, client: Client) -> None:
    node = acmeco.node
    client.start(connections=2)
    wait_for("both gateways hold a session", lambda: len(acmeco.endpoints("prod")) == 2, 20)
    before = acmeco.gateways()
    fresh = node.start(APPLICATION, "shell", "bash", "-c", CONNECT_FOR_EVER)
    load = node.start(APPLICATION, "shell", "sh", "-c", LOAD)
    try:
        node.kubectl("-n", NAMESPACE, "rollout", "restart", f"deployment/{RELEASE}-gateway")
        node.kubectl(
            *("-n", NAMESPACE, "rollout", "status", f"deployment/{RELEASE}-gateway", "--timeout=150s"), timeout=160
        )
        wait_for("the old gateways are gone", lambda: not set(before) & set(acmeco.gateways()), 90, pause=0.5)
        wait_for("both new gateways hold a session", lambda: len(acmeco.endpoints("prod")) == 2, 30)
        node.run(APPLICATION, "shell", "touch", "/tmp/stop")
        told, _ = fresh.communicate(timeout=20)
        node.run(APPLICATION, "shell", "sh", "-c", "kill -INT $(cat /tmp/load.pid)")
        carried, _ = load.communicate(timeout=20)
    finally:
        for process in (fresh, load):
            end(process)
    print(f"fresh connections: {told}\nstreams in flight, of pgbench:\n{carried}")
    counted = re.search(r"good (\d+) bad (\d+)", told)
    assert counted, told
    assert int(counted[2]) == 0, told
    assert int(counted[1]) > 100, "too few connections to tell"


def test_a_resource_of_the_compatible_group_is_served(acmeco: Installation) -> None:
    group = "tunnels.uplink.inlets.dev"
    acmeco.node.kubectl("apply", "-f", "-", input=COMPATIBLE)
    wait_for("legacy is provisioned", lambda: acmeco.condition("legacy", "Provisioned", group) == "True", 30)
    ports = acmeco.node.read("--namespace", CUSTOMER, "service", "legacy")["spec"]["ports"]
    assert {port["port"] for port in ports} == {25060, 8000}
    acmeco.node.kubectl("--namespace", CUSTOMER, "delete", group, "legacy", timeout=40)


def test_what_a_deleted_resource_has_made_goes(acmeco: Installation) -> None:
    node = acmeco.node
    node.kubectl("delete", "-f", "-", input=MANIFEST, timeout=40)
    kinds = "services,endpointslices,secrets"

    def left() -> list[str]:
        names = [item["metadata"]["name"] for item in node.read("--namespace", CUSTOMER, kinds)["items"]]
        return [name for name in names if name.startswith("postgres-prod")]

    wait_for("nothing is left of postgres-prod", lambda: not left(), 30)
    assert node.read("--namespace", CUSTOMER, "service", "prod")


def test_uninstall_leaves_the_namespaces_that_moorline_did_not_make(acmeco: Installation) -> None:
    node = acmeco.node
    node.helm("uninstall", RELEASE, "--namespace", NAMESPACE, "--wait", "--timeout", "120s")
    namespace = node.read("namespace", CUSTOMER)
    assert namespace["status"]["phase"] == "Active"
    assert namespace["metadata"]["labels"]["moorline.dev/uplink"] == "1"
