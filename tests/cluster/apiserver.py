"""A Kubernetes API server for tests: etcd and kube-apiserver as processes, or the cluster of MOORLINE_TEST_KUBECONFIG.

The programs are looked for in KUBEBUILDER_ASSETS, as envtest does, then where tests/cluster/node/build puts them.
No controllers run beside the server that is started here: nothing collects garbage, no quota is counted, and a deleted
namespace stays Terminating. So every test takes namespaces by names of its own: `ApiServer.make_name`.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

PROGRAMS = ("etcd", "kube-apiserver", "kubectl")
START_SECONDS = 40.0
KUBECTL_SECONDS = 30.0
ADMINISTRATOR = "test-administrator"

# One line a request, written before the request is answered; watches when they begin. What the server asks of itself is
# left out.
AUDIT_POLICY = """\
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- {level: None, users: [system:apiserver, system:anonymous]}
- {level: Metadata, verbs: [watch], omitStages: [ResponseComplete]}
- {level: Metadata}
"""


@dataclass(frozen=True)
class Request:
    """One request that the API server answered, or a watch that it began.

    Args:
        verb: as in RBAC rules; server-side apply is `patch`.
        resource: plural, with `/status` and the like; the path of a request that is for no resource.
        group: the API group, "" for the core one.
        code: HTTP status of the answer.
    """

    verb: str
    resource: str
    group: str
    namespace: str
    name: str
    user: str
    user_agent: str
    code: int


class ApiServer:
    """A cluster that tests may write to.

    Args:
        kubeconfig: of a cluster administrator.
        kubectl: the program, and what comes before it where that is needed.
        folder: for files that go away with the tests.
    """

    def __init__(self, kubeconfig: Path, kubectl: Sequence[str | Path], folder: Path) -> None:
        self.kubeconfig = kubeconfig
        self.folder = folder
        self._kubectl = kubectl
        self._names: list[str] = []

    def kubectl(
        self,
        *arguments: str,
        input: str | None = None,
        kubeconfig: Path | None = None,
        timeout: float = KUBECTL_SECONDS,
    ) -> str:
        """Run kubectl as the administrator, or with another kubeconfig, and return what it printed.

        Raises:
            AssertionError: kubectl failed; the message is what it said.
        """
        ended = self.try_kubectl(*arguments, input=input, kubeconfig=kubeconfig, timeout=timeout)
        assert ended.returncode == 0, f"kubectl {' '.join(arguments)}: {ended.stderr}"
        return ended.stdout

    def try_kubectl(
        self,
        *arguments: str,
        input: str | None = None,
        kubeconfig: Path | None = None,
        timeout: float = KUBECTL_SECONDS,
    ) -> subprocess.CompletedProcess[str]:
        """Run kubectl where failing is one of the answers; it is ended after `timeout` seconds."""
        command = [*self._kubectl, "--kubeconfig", kubeconfig or self.kubeconfig, *arguments]
        return subprocess.run(
            command,
            input=input,
            stdin=subprocess.DEVNULL if input is None else None,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def read(self, *arguments: str) -> Any:
        """Return the document of `kubectl get ARGUMENTS -o json`."""
        return json.loads(self.kubectl("get", *arguments, "-o", "json"))

    def make_name(self, prefix: str) -> str:
        """Return a name that no other test uses; a namespace of this name is deleted at the end."""
        name = f"{prefix}-{secrets.token_hex(4)}"
        self._names.append(name)
        return name

    def make_namespace(self, prefix: str, labels: dict[str, str] | None = None) -> str:
        """Create a namespace with a name of its own and return the name."""
        name = self.make_name(prefix)
        metadata = {"name": name, "labels": labels or {}}
        self.kubectl(
            "create", "-f", "-", input=yaml.safe_dump({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})
        )
        return name

    def make_kubeconfig(self, account: str, namespace: str) -> Path:
        """Return a kubeconfig of a service account, which has no right until a test binds it to a role.

        Namespace and account are created where they are missing: what the chart renders may be applied before or after.
        """
        for words in (["namespace", namespace], ["--namespace", namespace, "serviceaccount", account]):
            created = self.try_kubectl("create", *words)
            assert created.returncode == 0 or "AlreadyExists" in created.stderr, created.stderr
        token = self.kubectl("--namespace", namespace, "create", "token", account, "--duration", "4h").strip()
        document = json.loads(self.kubectl("config", "view", "--raw", "--minify", "--flatten", "-o", "json"))
        document["users"] = [{"name": document["users"][0]["name"], "user": {"token": token}}]
        path = self.folder / f"{namespace}-{account}.kubeconfig"
        path.write_text(json.dumps(document), encoding="utf-8")
        return path

    def pause(self) -> None:
        """Stop the API server, keeping its data: connections are refused from now on."""
        pytest.skip("the API server of MOORLINE_TEST_KUBECONFIG is not ours to stop")

    def resume(self) -> None:
        """Start the API server again at the same address with the same data, and wait until it is ready."""
        pytest.skip("the API server of MOORLINE_TEST_KUBECONFIG is not ours to stop")

    def mark(self) -> int:
        """Return a point in time to count requests from."""
        pytest.skip("requests are counted on an API server that was started here")

    def list_requests(self, since: int, user: str | None = None) -> list[Request]:
        """Return the requests since a `mark`, all or those of one user such as `system:serviceaccount:NS:NAME`."""
        pytest.skip("requests are counted on an API server that was started here")

    def count_requests(self, since: int, user: str | None = None) -> Counter[tuple[str, str]]:
        """Count requests since a `mark` by verb and resource: `{("patch", "services"): 2}`."""
        return Counter((request.verb, request.resource) for request in self.list_requests(since, user))

    def close(self) -> None:
        """Delete the namespaces that tests took, without waiting for the end of it."""
        if self._names:
            self.try_kubectl("delete", "namespace", "--ignore-not-found", "--wait=false", *self._names)


class OwnApiServer(ApiServer):
    """etcd and kube-apiserver as processes of this machine, on free ports of the loopback interface.

    Args:
        programs: the folder of etcd, kube-apiserver and kubectl.
        folder: for data, keys and logs.
    """

    def __init__(self, programs: Path, folder: Path) -> None:
        super().__init__(folder / "admin.kubeconfig", [programs / "kubectl"], folder)
        self._programs = programs
        self._audit = folder / "audit.log"
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._etcd_ports = [find_port(), find_port()]
        self._port = find_port()

    def start(self) -> None:
        """Start both programs and wait until requests are answered.

        Raises:
            AssertionError: one ended, or it took too long; the message has the end of the log.
        """
        token = secrets.token_urlsafe(24)
        (self.folder / "tokens.csv").write_text(f'{token},{ADMINISTRATOR},{ADMINISTRATOR},"system:masters"\n')
        (self.folder / "audit.yaml").write_text(AUDIT_POLICY)
        key = ec.generate_private_key(ec.SECP256R1()).private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
        )
        (self.folder / "accounts.key").write_bytes(key)
        self._audit.touch()
        client, peer = (f"http://127.0.0.1:{port}" for port in self._etcd_ports)
        self._run(
            "etcd",
            *("--data-dir", str(self.folder / "etcd"), "--unsafe-no-fsync", "--log-level", "warn"),
            *("--listen-client-urls", client, "--advertise-client-urls", client, "--listen-peer-urls", peer),
            *("--initial-advertise-peer-urls", peer, "--initial-cluster", f"default={peer}"),
        )
        self._run_server()
        certificate = base64.b64encode((self.folder / "keys" / "apiserver.crt").read_bytes()).decode()
        cluster = {"server": f"https://127.0.0.1:{self._port}", "certificate-authority-data": certificate}
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "tests", "cluster": cluster}],
            "users": [{"name": "tests", "user": {"token": token}}],
            "contexts": [{"name": "tests", "context": {"cluster": "tests", "user": "tests"}}],
            "current-context": "tests",
        }
        self.kubeconfig.write_text(json.dumps(document), encoding="utf-8")

    def pause(self) -> None:
        """Stop the API server, keeping its data: connections are refused from now on."""
        self._end("kube-apiserver")

    def resume(self) -> None:
        """Start the API server again at the same address with the same data, and wait until it is ready."""
        if "kube-apiserver" not in self._processes:
            self._run_server()

    def mark(self) -> int:
        """Return a point in time to count requests from."""
        return self._audit.stat().st_size

    def list_requests(self, since: int, user: str | None = None) -> list[Request]:
        """Return the requests since a `mark`, all or those of one user such as `system:serviceaccount:NS:NAME`."""
        with self._audit.open("rb") as log:
            log.seek(since)
            requests = [_read_request(json.loads(line)) for line in log if line.endswith(b"\n")]
        return [request for request in requests if user is None or request.user == user]

    def close(self) -> None:
        """End both programs."""
        self._end("kube-apiserver")
        self._end("etcd")

    def _run_server(self) -> None:
        folder = self.folder
        self._run(
            "kube-apiserver",
            *(f"--etcd-servers=http://127.0.0.1:{self._etcd_ports[0]}", f"--cert-dir={folder / 'keys'}"),
            *("--bind-address=127.0.0.1", "--advertise-address=127.0.0.1", f"--secure-port={self._port}"),
            "--service-cluster-ip-range=10.0.0.0/16",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={folder / 'accounts.key'}",
            f"--service-account-signing-key-file={folder / 'accounts.key'}",
            *(f"--token-auth-file={folder / 'tokens.csv'}", "--authorization-mode=RBAC"),
            *(
                "--disable-admission-plugins=ServiceAccount",
                "--allow-privileged=true",
                "--endpoint-reconciler-type=none",
            ),
            *(f"--audit-policy-file={folder / 'audit.yaml'}", f"--audit-log-path={self._audit}"),
            *("--audit-log-mode=blocking", "--audit-log-maxsize=1000"),
        )
        deadline = time.monotonic() + START_SECONDS
        while not self._is_ready():
            ended = self._processes["kube-apiserver"].poll() is not None
            if ended or time.monotonic() > deadline:
                log = (folder / "kube-apiserver.log").read_text(errors="replace")[-2000:]
                pytest.fail(f"kube-apiserver {'ended' if ended else f'was not ready in {START_SECONDS:g} s'}: {log}")
            time.sleep(0.05)

    def _is_ready(self) -> bool:
        # The certificate is made by the server; until it is there, nothing listens.
        with suppress(OSError, urllib.error.URLError):
            context = ssl.create_default_context(cafile=str(self.folder / "keys" / "apiserver.crt"))
            url = f"https://127.0.0.1:{self._port}/readyz"
            with urllib.request.urlopen(url, timeout=2, context=context) as answer:
                return answer.status == 200
        return False

    def _run(self, name: str, *arguments: str) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            command = [self._programs / name, *arguments]
            self._processes[name] = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def _end(self, name: str) -> None:
        process = self._processes.pop(name, None)
        if process is not None:
            process.kill()  # asked kindly, the server waits for its watchers for up to a minute
            process.wait(timeout=10)


def find_port() -> int:
    """Return a TCP port of the loopback interface that is free at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def find_kubernetes_programs(names: Sequence[str]) -> Path | None:
    """Return the folder that has all of the programs, None where there is none."""
    cache = Path(os.environ.get("MOORLINE_CLUSTER") or "~/.cache/moorline-cluster").expanduser()
    assets = os.environ.get("KUBEBUILDER_ASSETS")
    for folder in (Path(assets).expanduser() if assets else None, cache / "bin"):
        if folder is not None and all(os.access(folder / name, os.X_OK) for name in names):
            return folder
    return None


@contextmanager
def run_api_server(folder: Path) -> Iterator[ApiServer]:
    """Give the cluster of MOORLINE_TEST_KUBECONFIG, or start an API server in an empty folder and end it afterwards.

    Skips where there is neither, and fails instead with MOORLINE_REQUIRE_ALL.
    """
    named = os.environ.get("MOORLINE_TEST_KUBECONFIG")
    names = ["kubectl"] if named else PROGRAMS
    programs = find_kubernetes_programs(names)
    if programs is None:
        missing = f"no folder with {', '.join(names)} in KUBEBUILDER_ASSETS: tests/cluster/node/build makes one"
        if os.environ.get("MOORLINE_REQUIRE_ALL"):
            pytest.fail(missing)
        pytest.skip(missing)
    own = OwnApiServer(programs, folder)
    server = ApiServer(Path(named).resolve(), [programs / "kubectl"], folder) if named else own
    try:
        if server is own:
            own.start()
        yield server
    finally:
        server.close()


def _read_request(line: dict[str, Any]) -> Request:
    target = line.get("objectRef", {})
    resource = target.get("resource", "")
    if target.get("subresource"):
        resource = f"{resource}/{target['subresource']}"
    return Request(
        verb=line["verb"],
        resource=resource or line["requestURI"],
        group=target.get("apiGroup", ""),
        namespace=target.get("namespace", ""),
        name=target.get("name", ""),
        user=line["user"].get("username", ""),
        user_agent=line.get("userAgent", ""),
        code=line.get("responseStatus", {}).get("code", 0),
    )
