"""What staff take away ends within two seconds, and the client says what to do."""

from __future__ import annotations

import asyncio
import http.cookiejar
import re
import urllib.parse
import urllib.request
from collections.abc import Callable
from time import monotonic

import pytest

from tests.gateway.conftest import until

from .installation import Gateway, Installation, Line
from .programs import Programs, accepts
from .services import Conversation, Services, echo

AT_ONCE = 2.0  # seconds


def revoke(line: Line) -> tuple[str, object]:
    return "revoke_token", line.token_id


def disable(line: Line) -> tuple[str, object]:
    return "disable_tunnel", line.tunnel_id


def suspend(line: Line) -> tuple[str, object]:
    return "suspend_customer", line.name.partition("/")[0]


WRITES = [
    (revoke, "REVOKED", "the token opens this tunnel no more", "Ask your provider for another; next"),
    (disable, "DISABLED", "the provider has closed this tunnel", "Ask your provider to enable it; next"),
    (suspend, "DISABLED", "the provider has closed this tunnel", "is suspended. Ask your provider; next attempt in"),
]


@pytest.mark.parametrize(("write", "code", "said", "advice"), WRITES, ids=["token", "tunnel", "customer"])
async def test_another_process_ends_a_live_session_within_two_seconds(
    write: Callable[[Line], tuple[str, object]],
    code: str,
    said: str,
    advice: str,
    installation: Installation,
    programs: Programs,
    gateway: Gateway,
    services: Services,
) -> None:
    line = await installation.make_line(1, customer=f"customer-{write.__name__}")
    client = await installation.start_client(programs, line, gateway, f"1={await services.start(echo)}")
    conversation = await Conversation.open(line.port)
    session = await installation.live_session(line)

    await installation.staff.do(*write(line))
    await conversation.wait_for_reset(AT_ONCE)
    await until(lambda: not accepts(line.port), "the port to be closed", AT_ONCE)
    await client.wait_for("warning", "not connected", said, advice)

    async def recorded() -> bool:
        rows = {row["id"]: row for row in await installation.staff.do("list_sessions", line.tunnel_id)}
        return (rows[session["id"]]["live"], rows[session["id"]]["code"]) == (False, code)

    await until(recorded, "the end in the portal's records", AT_ONCE)


async def test_a_token_that_is_revoked_leaves_the_sessions_of_the_others(
    installation: Installation, programs: Programs, gateway: Gateway, services: Services
) -> None:
    line = await installation.make_line(1)
    upstream = f"1={await services.start(echo)}"
    stays = await installation.start_client(programs, line, gateway, upstream)
    conversation = await Conversation.open(line.port)
    minted = await installation.staff.do("mint_token", line.tunnel_id)
    other_file = installation.state.write_private("other.token", minted["token"])
    words = ("--url", gateway.url(line.name), "--token-file", str(other_file), "--upstream", upstream)
    goes = await installation.run_client(programs, *words)
    await goes.wait_for("connected: tunnel")
    await installation.staff.do("revoke_token", minted["token_id"])
    await goes.wait_for("the token opens this tunnel no more", bound=AT_ONCE)
    await conversation.ask()
    assert not stays.find("not connected")


class Browser:
    """A member of staff in front of the admin's pages."""

    def __init__(self, port: int) -> None:
        self._origin = f"http://127.0.0.1:{port}"
        cookies = urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar())
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), cookies)

    def get(self, path: str) -> str:
        return self._read(self._origin + path)

    def submit(self, path: str, **fields: str) -> str:
        """Open the page of a form, send the form with *fields*, and return the page that follows."""
        found = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', self.get(path))
        assert found is not None, f"{path} has no form"
        form = urllib.parse.urlencode({"csrfmiddlewaretoken": found[1], **fields}).encode()
        request = urllib.request.Request(self._origin + path, form, {"Referer": self._origin + path})
        return self._read(request)

    def _read(self, request: str | urllib.request.Request) -> str:
        with self._opener.open(request, timeout=20) as response:
            return " ".join(response.read().decode().split())


async def test_the_admins_pages_revoke_a_token_within_two_seconds(
    installation: Installation, programs: Programs, gateway: Gateway, services: Services
) -> None:
    line = await installation.make_line(1)
    client = await installation.start_client(programs, line, gateway, f"1={await services.start(echo)}")
    conversation = await Conversation.open(line.port)
    await installation.live_session(line)  # the portal knows of it

    def revoke_by_hand() -> float:
        browser = Browser(installation.settings.portal_port)
        browser.submit("/admin/login/", username="admin", password=installation.admin_password, next="/admin/")
        page = browser.get(f"/admin/portal/tunnel/{line.tunnel_id}/change/")
        link = re.search(r'href="(/admin/portal/token/[^"]*revoke[^"]*)"', page)
        assert link is not None, "the tunnel's page shows no way to revoke its token"
        asked = browser.get(link[1])
        assert "1 live session ends within seconds, and with it every connection inside." in asked
        assert "is revoked." in browser.submit(link[1])
        return monotonic()

    async def reset() -> float:
        await conversation.wait_for_reset(30)
        return monotonic()

    revoked_at, reset_at = await asyncio.gather(asyncio.to_thread(revoke_by_hand), reset())
    assert reset_at - revoked_at < AT_ONCE
    await client.wait_for("the token opens this tunnel no more", "Ask your provider for another; next")
