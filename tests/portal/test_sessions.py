"""The record of sessions, the states drawn from it, and the tasks that keep it true."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from portal import queries, tasks
from portal.config.celery import app
from portal.models import Customer, Session, Token, Tunnel
from portal.queries import TokenState, TunnelState
from portal.services import sessions
from portal.services.customers import create_customer, suspend_customer
from portal.services.events import Actor
from portal.services.tokens import mint_token, revoke_token
from portal.services.tunnels import create_tunnel, delete_tunnel, disable_tunnel

STAFF = Actor("staff")
OPENED = timezone.now()


def open_session(tunnel: Tunnel, **changes: Any) -> Session:
    facts = {
        "session_id": str(uuid.uuid4()),
        "tunnel_id": str(tunnel.pk),
        "token_id": str(tunnel.tokens.first().pk),
        "gateway": "gateway-0",
        "client_version": "0.1.0",
        "client_instance": "laptop",
        "client_address": "198.51.100.7",
        "transport": "native",
        "opened_at": OPENED,
    }
    return sessions.open_session(**(facts | changes))


@pytest.fixture
def session(prod: Tunnel, token: str) -> Session:
    return open_session(prod)


def is_live(session: Session) -> bool:
    session.refresh_from_db()
    return session.closed_at is None


def test_a_session_is_live_until_it_is_closed(session: Session) -> None:
    assert list(queries.live_sessions(session.tunnel)) == [session]
    assert sessions.close_session(session_id=str(session.pk), code="SHUTDOWN", reason="bye")
    assert not is_live(session)
    assert (session.close_code, session.close_reason) == ("SHUTDOWN", "bye")
    assert not queries.live_sessions().exists()


def test_the_first_reason_of_a_close_stays(session: Session) -> None:
    sessions.close_session(session_id=session.pk, code="REVOKED")
    assert not sessions.close_session(session_id=session.pk, code="LOST")
    session.refresh_from_db()
    assert session.close_code == "REVOKED"


def test_a_second_report_of_a_session_changes_nothing(session: Session) -> None:
    again = open_session(session.tunnel, session_id=str(session.pk), gateway="other")
    assert (again.pk, again.gateway) == (session.pk, "gateway-0")
    assert Session.objects.count() == 1


def test_what_a_client_says_of_itself_is_cut_and_cleaned(prod: Tunnel, token: str) -> None:
    session = open_session(prod, client_version="9" * 1000, client_instance="a\x00b\x1b[31m\nc", client_address="")
    session.refresh_from_db()
    assert (session.client_version, session.client_instance) == ("9" * 64, "ab[31mc")


def test_a_session_of_a_deleted_tunnel_is_refused_and_its_end_does_no_harm(session: Session) -> None:
    tunnel = session.tunnel
    tunnel_id, token_id = tunnel.pk, tunnel.tokens.get().pk
    delete_tunnel(tunnel=tunnel, actor=STAFF)
    tunnel.pk = tunnel_id
    with pytest.raises(Tunnel.DoesNotExist):
        sessions.open_session(
            session_id=str(uuid.uuid4()),
            tunnel_id=tunnel_id,
            token_id=token_id,
            gateway="g",
            client_version="",
            client_instance="",
            client_address="",
            transport="native",
            opened_at=OPENED,
        )
    assert not sessions.close_session(session_id=session.pk, code="LOST")


def test_a_gateway_that_starts_closes_what_its_earlier_life_left(prod: Tunnel, session: Session) -> None:
    other = open_session(prod, gateway="gateway-1")
    assert sessions.close_gateway_sessions(gateway="gateway-0") == 1
    assert not is_live(session)
    assert is_live(other)
    assert (session.close_code, session.close_reason) == ("LOST", "The gateway was started anew.")


@pytest.mark.parametrize(("seconds", "live"), [(59, True), (61, False)])
def test_a_session_nobody_speaks_of_for_a_minute_is_closed(session: Session, seconds: int, live: bool) -> None:
    now = session.last_seen_at + timedelta(seconds=seconds)
    assert sessions.sweep_stale_sessions(now=now) == (0 if live else 1)
    assert is_live(session) is live
    assert session.close_reason == ("" if live else "The gateway has not been heard of for 60 seconds.")


def test_a_heartbeat_keeps_a_session_live(prod: Tunnel, session: Session) -> None:
    other = open_session(prod, gateway="gateway-1")
    later = session.last_seen_at + timedelta(seconds=59)
    both = [str(session.pk), str(other.pk)]
    assert sessions.heartbeat_sessions(gateway="gateway-0", carried=dict.fromkeys(both, (0, 0)), now=later) == 1
    sessions.sweep_stale_sessions(now=later + timedelta(seconds=30))
    assert is_live(session)
    assert not is_live(other)


def test_what_a_session_has_carried_is_kept_by_heartbeats_and_at_its_end(session: Session) -> None:
    sessions.heartbeat_sessions(gateway="gateway-0", carried={str(session.pk): (5_000_000_000, 7)})
    session.refresh_from_db()
    assert (session.bytes_received, session.bytes_sent) == (5_000_000_000, 7)
    assert sessions.close_session(session_id=session.pk, code="OK", carried=(6_000_000_000, 8))
    session.refresh_from_db()
    assert (session.bytes_received, session.bytes_sent) == (6_000_000_000, 8)


def test_a_session_swept_by_mistake_is_live_again_at_the_next_heartbeat(session: Session) -> None:
    later = session.last_seen_at + timedelta(minutes=5)
    sessions.sweep_stale_sessions(now=later)
    sessions.heartbeat_sessions(gateway="gateway-0", carried={str(session.pk): (0, 0)}, now=later)
    assert is_live(session)
    assert (session.close_code, session.close_reason, session.last_seen_at) == ("", "", later)


def test_a_session_that_was_closed_stays_closed_whatever_a_heartbeat_says(session: Session) -> None:
    sessions.close_session(session_id=session.pk, code="LOST", reason="The client is gone.")
    assert sessions.heartbeat_sessions(gateway="gateway-0", carried={str(session.pk): (0, 0)}) == 0
    assert not is_live(session)


def test_closed_sessions_are_forgotten_after_a_month(prod: Tunnel, session: Session) -> None:
    closed = open_session(prod)
    sessions.close_session(session_id=closed.pk, code="OK", now=OPENED)
    assert sessions.prune_closed_sessions(now=OPENED + timedelta(days=30)) == 0
    assert sessions.prune_closed_sessions(now=OPENED + timedelta(days=30, seconds=1)) == 1
    assert Session.objects.get() == session


def state_of(tunnel: Tunnel) -> TunnelState:
    return TunnelState(queries.tunnels_with_state().get(pk=tunnel.pk).state)


def test_the_state_of_a_tunnel_is_said(prod: Tunnel, token: str) -> None:
    assert state_of(prod) == TunnelState.NEVER_CONNECTED
    session = open_session(prod)
    assert state_of(prod) == TunnelState.CONNECTED
    sessions.close_session(session_id=session.pk, code="LOST")
    assert state_of(prod) == TunnelState.DISCONNECTED
    Session.objects.all().delete()
    Token.objects.update(last_used_at=OPENED)
    assert state_of(prod) == TunnelState.DISCONNECTED
    disable_tunnel(tunnel=prod, actor=STAFF)
    assert state_of(prod) == TunnelState.DISABLED
    suspend_customer(customer=prod.customer, actor=STAFF)
    assert state_of(prod) == TunnelState.SUSPENDED


def test_customers_and_tunnels_are_counted_without_a_query_each(
    acmeco: Customer, prod: Tunnel, token: str, django_assert_num_queries: Any
) -> None:
    open_session(prod)
    open_session(prod)
    create_tunnel(customer=acmeco, name="test", actor=STAFF)
    create_customer(name="globex", actor=STAFF)
    with django_assert_num_queries(1):
        counted = queries.annotate_customers(Customer.objects.all()).values_list(
            "name", "tunnel_count", "connected_tunnel_count"
        )
        assert list(counted) == [("acmeco", 2, 1), ("globex", 0, 0)]
    with django_assert_num_queries(3):
        found = [
            (str(tunnel), tunnel.state, tunnel.live_session_count, len(tunnel.ports.all()), len(tunnel.hosts.all()))
            for tunnel in queries.tunnels_with_state()
        ]
    assert found == [("acmeco/prod", "connected", 2, 2, 1), ("acmeco/test", "never connected", 0, 1, 0)]
    with django_assert_num_queries(3):
        assert queries.count_totals() == queries.Totals(customers=2, tunnels=2, connected_tunnels=1, live_sessions=2)


def test_tunnels_that_need_a_look_come_first(acmeco: Customer, prod: Tunnel, token: str) -> None:
    open_session(prod)
    disabled = create_tunnel(customer=acmeco, name="a", enabled=False, actor=STAFF)
    never = create_tunnel(customer=acmeco, name="b", actor=STAFF)
    lost = create_tunnel(customer=acmeco, name="c", actor=STAFF)
    mint_token(tunnel=lost, name="laptop", actor=STAFF)
    lost.tokens.update(last_used_at=OPENED)
    assert list(queries.tunnels_by_need()) == [lost, never, prod, disabled]


def test_the_state_of_a_token_is_said(prod: Tunnel) -> None:
    end = timezone.now() + timedelta(hours=1)
    token, _ = mint_token(tunnel=prod, name="laptop", expires_at=end, actor=STAFF)
    assert queries.token_state(token) == TokenState.ACTIVE
    assert list(queries.active_tokens(prod)) == [token]
    assert queries.token_state(token, now=end) == TokenState.EXPIRED
    assert not queries.active_tokens(prod, now=end).exists()
    assert queries.token_state(revoke_token(token=token, actor=STAFF)) == TokenState.REVOKED
    assert not queries.active_tokens(prod).exists()


LAPSES: dict[str, Callable[[Tunnel], Any]] = {
    "expired": lambda tunnel: tunnel.tokens.update(expires_at=timezone.now() - timedelta(seconds=1)),
    "revoked": lambda tunnel: revoke_token(token=tunnel.tokens.get(), actor=STAFF),
    "disabled": lambda tunnel: disable_tunnel(tunnel=tunnel, actor=STAFF),
    "suspended": lambda tunnel: suspend_customer(customer=tunnel.customer, actor=STAFF),
}


@pytest.mark.parametrize("lapse", LAPSES)
def test_live_sessions_that_lapsed_are_announced_until_they_end(
    prod: Tunnel, session: Session, notices: Callable[[], list[str]], lapse: str
) -> None:
    open_session(prod)
    assert tasks.announce_lapsed_sessions() == 0
    LAPSES[lapse](prod)
    for _ in range(2):
        assert tasks.announce_lapsed_sessions() == 1
        assert notices() == [str(prod.pk)]
    sessions.close_gateway_sessions(gateway="gateway-0")
    assert tasks.announce_lapsed_sessions() == 0
    assert notices() == []


def test_tasks_may_run_twice(session: Session) -> None:
    Session.objects.update(last_seen_at=OPENED - timedelta(minutes=2))
    assert [tasks.sweep_stale_sessions(), tasks.sweep_stale_sessions()] == [1, 0]
    Session.objects.update(closed_at=OPENED - timedelta(days=31))
    assert [tasks.prune_closed_sessions(), tasks.prune_closed_sessions()] == [1, 0]


def test_every_task_runs_by_the_clock() -> None:
    scheduled = {entry["task"] for entry in app.conf.beat_schedule.values()}
    own = {name for name in app.tasks if name.startswith("portal.")}
    assert scheduled == own
    assert len(own) == 6
