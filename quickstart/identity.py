"""A small HTTP service of the example site: it says who it is and what it was asked."""

import json
import signal
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import FrameType

from quickstart.ports import LOOPBACK


class IdentityHandler(BaseHTTPRequestHandler):
    """Answer every request with JSON: the service's name, the request line and the headers that arrived."""

    protocol_version = "HTTP/1.1"
    server_version = "identity"
    sys_version = ""
    timeout = 75  # seconds an idle kept-alive connection may last
    service = "identity"

    def do_GET(self) -> None:
        """Answer GET."""
        body = json.dumps(
            {
                "service": self.service,
                "method": self.command,
                "path": self.path,
                "headers": dict(self.headers.items()),
            },
            indent=2,
        ).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body) + 1))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body + b"\n")

    def do_HEAD(self) -> None:
        """Answer HEAD."""
        self.do_GET()


class IdentityServer(ThreadingHTTPServer):
    """Serve each connection in a thread of its own that does not outlive the process."""

    daemon_threads = True
    request_queue_size = 512


def run_identity(service: str, port: int) -> int:
    """Serve until SIGTERM.

    Args:
        service: the name the service answers with.
        port: the port on 127.0.0.1.

    Returns:
        The exit code.
    """

    def stop(_number: int, _frame: FrameType | None) -> None:
        sys.exit(0)

    signal.signal(signal.SIGTERM, stop)
    handler = type("NamedIdentityHandler", (IdentityHandler,), {"service": service})
    with IdentityServer((LOOPBACK, port), handler) as server:
        server.serve_forever()
    return 0
