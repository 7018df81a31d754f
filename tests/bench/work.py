"""What is done on a path: bulk bytes with iperf3, requests with wrk."""

import json
import re
from abc import ABC, abstractmethod
from dataclasses import dataclass

from quickstart.children import Command
from quickstart.errors import StartFailed
from quickstart.ports import LOOPBACK

from .services import Service

GB = 1e9
CONNECT_MILLISECONDS = 5000


@dataclass(frozen=True)
class Sample:
    """What one run has shown.

    Args:
        rate: in the unit of the work.
        amount: what was moved, in the unit that CPU time is related to.
    """

    rate: float
    amount: float


class Work(ABC):
    """One kind of work; the unit of its rate, and the unit that CPU time is told for."""

    unit: str
    cost_unit: str
    service: Service
    name: str
    program: str

    @abstractmethod
    def command(self, port: int, seconds: int) -> Command:
        """Return the command that does it for *seconds* on the path whose near end is *port*."""

    @abstractmethod
    def parse(self, output: str) -> Sample:
        """Read what the command wrote. Raises StartFailed where it tells of errors."""


class Bulk(Work):
    """One connection that carries as much as it can; *up* goes towards the service, down comes from it."""

    unit = "GB/s"
    cost_unit = "GB"
    service = Service.IPERF3
    program = "iperf3"

    def __init__(self, name: str, *, up: bool) -> None:
        self.name = name
        self._up = up

    def command(self, port: int, seconds: int) -> Command:
        words = ["iperf3", "--client", LOOPBACK, "--port", str(port), "--time", str(seconds), "--json"]
        words += ["--connect-timeout", str(CONNECT_MILLISECONDS)]
        return Command(words if self._up else [*words, "--reverse"])

    def parse(self, output: str) -> Sample:
        document = json.loads(output)
        if "error" in document:
            raise StartFailed(f"{self.name}: iperf3 says: {document['error']}")
        received = document["end"]["sum_received"]
        return Sample(received["bits_per_second"] / 8 / GB, received["bytes"] / GB)


class Http(Work):
    """Requests one after the other on each of some connections that are kept alive."""

    unit = "requests/s"
    cost_unit = "100k requests"
    service = Service.NGINX
    program = "wrk"

    def __init__(self, name: str, *, connections: int) -> None:
        self.name = name
        self._connections = connections

    def command(self, port: int, seconds: int) -> Command:
        size = ["--threads", "1", "--connections", str(self._connections), "--duration", f"{seconds}s"]
        return Command(["wrk", *size, f"http://{LOOPBACK}:{port}/"])

    def parse(self, output: str) -> Sample:
        for trouble in ("Socket errors", "Non-2xx"):
            if trouble in output:
                line = next(line for line in output.splitlines() if trouble in line)
                raise StartFailed(f"{self.name}: wrk says: {line.strip()}")
        rate = re.search(r"^Requests/sec:\s+([\d.]+)$", output, re.MULTILINE)
        count = re.search(r"^\s*(\d+) requests in", output, re.MULTILINE)
        if rate is None or count is None:
            raise StartFailed(f"{self.name}: wrk said nothing of requests")
        return Sample(float(rate[1]), int(count[1]) / 1e5)


WORKS: tuple[Work, ...] = (
    Bulk("bulk_up", up=True),
    Bulk("bulk_down", up=False),
    Http("http_1", connections=1),
    Http("http_32", connections=32),
)
