"""A bridge to an upstream over TLS, where the connection ends both ways at once."""

from __future__ import annotations

import asyncio
import datetime
import random
import select
import socket
import ssl

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tunnels.bridge import ProtocolBridge
from tunnels.protocol import Limits

from .wires import SOON, Wire, bridged, digest, receive, send, until

NOISE = random.Random(13).randbytes(400_000)


@pytest.fixture(scope="module")
def contexts(tmp_path_factory) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Return the contexts of an upstream with a certificate for localhost and of a client that believes it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "upstream.pem"
    plain = serialization.NoEncryption()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    path.write_bytes(pem + certificate.public_bytes(serialization.Encoding.PEM))
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(path)
    return server, ssl.create_default_context(cafile=str(path))


class Upstream:
    """The upstream's side, in threads: unlike asyncio's TLS it loses nothing of what it says before it hangs up."""

    def __init__(self, sock: ssl.SSLSocket) -> None:
        self._socket = sock

    async def hear(self, size: int) -> bytes:
        return await asyncio.to_thread(self._socket.recv, size)

    async def say(self, data: bytes) -> None:
        """Send *data* and hang up as most servers do: close_notify and FIN behind it, without waiting for an answer."""
        await asyncio.to_thread(self._say, data)

    def _say(self, data: bytes) -> None:
        self._socket.sendall(data)
        self._socket.setblocking(False)
        while True:
            try:
                self._socket.unwrap()
            except ssl.SSLWantWriteError:
                select.select([], [self._socket], [], SOON)
            except ssl.SSLWantReadError:
                break
        self._socket.close()

    def close(self) -> None:
        self._socket.close()


async def dial(wire: Wire, contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> Upstream:
    """Join the client's bridge to the upstream over TLS."""
    server, client = contexts
    await until(lambda: hasattr(wire, "client_bridge"), "OPEN")
    bridge = wire.client_bridge
    assert isinstance(bridge, ProtocolBridge)
    wire.upstream.settimeout(SOON)
    create = asyncio.get_running_loop().create_connection
    upstream, _ = await asyncio.gather(
        asyncio.to_thread(server.wrap_socket, wire.upstream, server_side=True),
        create(lambda: bridge, sock=wire.client_socket, ssl=client, server_hostname="localhost"),
    )
    return Upstream(upstream)


@pytest.mark.parametrize("limits", [None, Limits(1024, 2048)])
async def test_the_last_bytes_of_an_upstream_that_hangs_up_arrive(contexts, limits):
    async with bridged(ProtocolBridge, limits) as wires:
        wire = await wires.open(dial=False)
        upstream = await dial(wire, contexts)
        await send(wire.app, b"question")
        assert await upstream.hear(8) == b"question"
        received, _ = await asyncio.gather(receive(wire.app), upstream.say(NOISE))
        assert digest(received) == digest(NOISE)
        wire.app.shutdown(socket.SHUT_WR)
        await wire.over()


async def test_bytes_for_an_upstream_that_has_hung_up_reset_the_application(contexts):
    async with bridged(ProtocolBridge) as wires:
        wire = await wires.open(dial=False)
        upstream = await dial(wire, contexts)
        received, _ = await asyncio.gather(receive(wire.app), upstream.say(b"answer"))
        assert received == b"answer"
        await send(wire.app, b"more")
        await wire.over()
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            await send(wire.app, b"x")


async def test_without_a_half_close_of_its_own_the_answer_is_waited_for(contexts):
    async with bridged(ProtocolBridge) as wires:
        wire = await wires.open(dial=False)
        upstream = await dial(wire, contexts)
        await send(wire.app, b"question")
        wire.app.shutdown(socket.SHUT_WR)
        await until(lambda: wire.client_bridge._fin_written, "FIN")
        assert await upstream.hear(8) == b"question"
        received, _ = await asyncio.gather(receive(wire.app), upstream.say(NOISE))
        assert digest(received) == digest(NOISE)
        await wire.over()


async def test_an_answer_that_never_comes_is_not_waited_for_for_ever(contexts, monkeypatch):
    monkeypatch.setattr("tunnels.bridge.HALF_CLOSE_TIMEOUT", 0.05)
    async with bridged(ProtocolBridge) as wires:
        wire = await wires.open(dial=False)
        upstream = await dial(wire, contexts)
        wire.app.shutdown(socket.SHUT_WR)
        with pytest.raises(ConnectionResetError):
            await receive(wire.app)
        await wire.over()
        upstream.close()
