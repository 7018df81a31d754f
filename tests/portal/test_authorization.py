"""Which token opens which tunnel."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

import pytest
from django.utils import timezone

from portal.authorization import Grant, Refused, authorize, renew
from portal.models import Customer, Token, Tunnel
from portal.services.customers import create_customer, delete_customer, resume_customer, suspend_customer
from portal.services.events import Actor
from portal.services.tokens import mint_token, revoke_token
from portal.services.tunnels import create_tunnel, delete_tunnel, disable_tunnel, enable_tunnel, update_tunnel

STAFF = Actor("staff")
UNKNOWN_TOKEN = "mlt_" + "x" * 43


def test_a_token_opens_its_tunnel(prod: Tunnel, token: str) -> None:
    row = prod.tokens.get()
    assert authorize(customer="acmeco", tunnel="prod", token=token) == Grant(
        customer="acmeco",
        tunnel="prod",
        tunnel_id=str(prod.pk),
        token_id=str(row.pk),
        tcp_ports={25060: 25060},
        http_port=8001,
        hosts=("identity1.local",),
        revision=1,
        max_sessions=16,
        max_streams=4096,
    )


def _revoke(token: Token) -> None:
    revoke_token(token=token, actor=STAFF)


def _expire(token: Token) -> None:
    Token.objects.filter(pk=token.pk).update(expires_at=datetime.fromisoformat("2026-01-02T03:04:05+00:00"))


def _disable(token: Token) -> None:
    disable_tunnel(tunnel=token.tunnel, actor=STAFF)


def _suspend(token: Token) -> None:
    suspend_customer(customer=token.tunnel.customer, actor=STAFF)


def _delete_tunnel(token: Token) -> None:
    delete_tunnel(tunnel=token.tunnel, actor=STAFF)


def _delete_customer(token: Token) -> None:
    delete_customer(customer=token.tunnel.customer, actor=STAFF)


def _leave(token: Token) -> None:
    pass


NO_TOKEN = "No token was given. Start the client with the token that your provider gave you."
NOT_KNOWN = "This token is not known. Check that it was copied whole, or ask your provider for another."
OTHER_TUNNEL = "This token belongs to another tunnel. Check the URL and the token."
NO_TUNNEL = "There is no tunnel at this URL. Check its last two parts, /<customer>/<tunnel>."
REVOKED = "The token {prefix}… was revoked. Ask your provider for another."
EXPIRED = "The token {prefix}… expired at 2026-01-02 03:04 UTC. Ask your provider for another."
DISABLED = "The tunnel acmeco/prod is disabled. Ask your provider to enable it."
SUSPENDED = "The customer acmeco is suspended. Ask your provider."


@pytest.mark.parametrize(
    ("change", "path", "shown", "status", "reason"),
    [
        (_leave, "acmeco/prod", "", 401, NO_TOKEN),
        (_leave, "acmeco/nothing", "", 401, NO_TOKEN),
        (_leave, "acmeco/prod", UNKNOWN_TOKEN, 401, NOT_KNOWN),
        (_leave, "acmeco/nothing", UNKNOWN_TOKEN, 401, NOT_KNOWN),
        (_leave, "acmeco/prod", "a" * 10_000, 401, NOT_KNOWN),
        (_leave, "acmeco/prod", "mlt_\udcff\x00", 401, NOT_KNOWN),
        (_leave, "acmeco/nothing", None, 404, NO_TUNNEL),
        (_leave, "nobody/prod", None, 404, NO_TUNNEL),
        (_leave, "ACMECO/prod", None, 404, NO_TUNNEL),
        (_leave, "acmeco/prod\x00", None, 404, NO_TUNNEL),
        (_leave, "acmeco/prod\udcff", None, 404, NO_TUNNEL),
        (_leave, "acmeco/test", None, 403, OTHER_TUNNEL),
        (_leave, "globex/prod", None, 403, OTHER_TUNNEL),
        (_revoke, "acmeco/prod", None, 403, REVOKED),
        # A token that opens nothing any more does not tell which tunnels exist.
        (_revoke, "acmeco/nothing", None, 403, REVOKED),
        (_expire, "acmeco/prod", None, 403, EXPIRED),
        (_disable, "acmeco/prod", None, 403, DISABLED),
        (_suspend, "acmeco/prod", None, 403, SUSPENDED),
        (_delete_tunnel, "acmeco/prod", None, 401, NOT_KNOWN),
    ],
)
def test_what_a_token_does_not_open_is_refused_with_what_to_do(
    acmeco: Customer, prod: Tunnel, token: str, change: Callable, path: str, shown: str | None, status: int, reason: str
) -> None:
    create_tunnel(customer=acmeco, name="test", actor=STAFF)
    create_tunnel(customer=create_customer(name="globex", actor=STAFF), name="prod", actor=STAFF)
    row = prod.tokens.get()
    change(row)
    customer, tunnel = path.split("/")
    with pytest.raises(Refused) as refusal:
        authorize(customer=customer, tunnel=tunnel, token=token if shown is None else shown)
    assert (refusal.value.status, refusal.value.reason) == (status, reason.format(prefix=row.prefix))
    assert not Token.objects.filter(last_used_at__isnull=False).exists()


@pytest.mark.parametrize(
    ("change", "status", "reason"),
    [
        (_revoke, 403, REVOKED),
        (_expire, 403, EXPIRED),
        (_disable, 403, DISABLED),
        (_suspend, 403, SUSPENDED),
        (_delete_tunnel, 404, "The tunnel acmeco/prod was deleted. Ask your provider."),
        (_delete_customer, 404, "The tunnel acmeco/prod was deleted. Ask your provider."),
    ],
)
def test_a_grant_is_not_renewed_after_its_ground_is_gone(
    prod: Tunnel, token: str, change: Callable, status: int, reason: str
) -> None:
    grant = authorize(customer="acmeco", tunnel="prod", token=token)
    row = prod.tokens.get()
    change(row)
    with pytest.raises(Refused) as refusal:
        renew(grant)
    assert (refusal.value.status, refusal.value.reason) == (status, reason.format(prefix=row.prefix))


def test_a_token_opens_again_what_is_enabled_and_resumed(acmeco: Customer, prod: Tunnel, token: str) -> None:
    disable_tunnel(tunnel=prod, actor=STAFF)
    suspend_customer(customer=acmeco, actor=STAFF)
    enable_tunnel(tunnel=prod, actor=STAFF)
    resume_customer(customer=acmeco, actor=STAFF)
    assert authorize(customer="acmeco", tunnel="prod", token=token).revision == 5


def test_a_renewed_grant_says_what_is_desired_now(prod: Tunnel, token: str) -> None:
    grant = authorize(customer="acmeco", tunnel="prod", token=token)
    update_tunnel(
        tunnel=prod,
        tcp_ports=[25060, 80],
        host_names=["a.local", "b.local"],
        max_sessions=2,
        max_streams=9,
        actor=STAFF,
    )
    renewed = renew(grant)
    assert renewed.tcp_ports == {25060: 25060, 80: 20000}
    assert renewed.hosts == ("a.local", "b.local")
    assert (renewed.max_sessions, renewed.max_streams, renewed.revision) == (2, 9, 2)
    assert (renewed.http_port, renewed.token_id, renewed.tunnel_id) == (
        grant.http_port,
        grant.token_id,
        grant.tunnel_id,
    )


def test_a_token_opens_until_the_moment_it_expires(prod: Tunnel) -> None:
    end = timezone.now() + timedelta(hours=1)
    _, token = mint_token(tunnel=prod, name="laptop", expires_at=end, actor=STAFF)
    assert authorize(customer="acmeco", tunnel="prod", token=token, now=end - timedelta(microseconds=1))
    with pytest.raises(Refused):
        authorize(customer="acmeco", tunnel="prod", token=token, now=end)


def test_the_last_use_is_noted_at_most_once_a_minute(prod: Tunnel, token: str) -> None:
    start = timezone.now()
    noted = []
    for seconds in (0, 59, 60, 61):
        authorize(customer="acmeco", tunnel="prod", token=token, now=start + timedelta(seconds=seconds))
        noted.append((prod.tokens.get().last_used_at - start).total_seconds())
    assert noted == [0, 0, 60, 60]


def test_few_queries_decide(prod: Tunnel, token: str, django_assert_num_queries) -> None:
    with django_assert_num_queries(4):  # the token with its tunnel and customer, its last use, ports, host names
        grant = authorize(customer="acmeco", tunnel="prod", token=token)
    with django_assert_num_queries(3):
        authorize(customer="acmeco", tunnel="prod", token=token)
    with django_assert_num_queries(3):
        renew(grant)
    with django_assert_num_queries(1), pytest.raises(Refused):
        authorize(customer="acmeco", tunnel="prod", token=UNKNOWN_TOKEN)
    with django_assert_num_queries(0), pytest.raises(Refused):
        authorize(customer="acmeco", tunnel="prod", token="")


def test_an_expired_tunnel_lets_nobody_in_and_ends_its_sessions(prod: Tunnel, token: str) -> None:
    grant = authorize(customer="acmeco", tunnel="prod", token=token)
    now = timezone.now()
    update_tunnel(tunnel=prod, expires_at=now + timedelta(seconds=5), actor=STAFF)
    assert authorize(customer="acmeco", tunnel="prod", token=token, now=now)
    later = now + timedelta(seconds=6)
    for ask in (
        lambda: authorize(customer="acmeco", tunnel="prod", token=token, now=later),
        lambda: renew(grant, now=later),
    ):
        with pytest.raises(Refused) as refusal:
            ask()
        assert (refusal.value.status, refusal.value.disabled) == (403, True)
        assert "acmeco/prod expired at" in refusal.value.reason
