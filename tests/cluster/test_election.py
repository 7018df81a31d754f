"""One of several leads: the Lease as a real API server keeps it."""

from __future__ import annotations

import pytest
from django.conf import LazySettings

from portal.cluster.api import KubernetesApi, connect
from portal.cluster.election import LEASE_SECONDS, Election
from tests.cluster.apiserver import ApiServer

pytestmark = pytest.mark.api


@pytest.fixture
def api(api_server: ApiServer, settings: LazySettings) -> KubernetesApi:
    settings.MOORLINE_KUBECONFIG = str(api_server.kubeconfig)
    return connect()


@pytest.fixture
def pair(api_server: ApiServer, api: KubernetesApi) -> tuple[Election, Election]:
    namespace = api_server.make_namespace("lease")
    return Election(api, namespace, "moorline-watch"), Election(api, namespace, "moorline-watch")


def test_the_first_leads_and_the_other_stands_by(pair: tuple[Election, Election]) -> None:
    first, second = pair
    for _ in range(3):
        first.step()
        second.step()
    assert (first.is_leading, first.terms) == (True, 1)
    assert (second.is_leading, second.terms) == (False, 0)


def test_what_is_given_back_is_taken_at_once(pair: tuple[Election, Election]) -> None:
    first, second = pair
    first.step()
    second.step()
    first.release()
    assert not first.is_leading
    second.step()
    assert second.is_leading
    # Who does not hold it gives nothing back.
    first.release()
    second.step()
    assert second.is_leading
    first.step()
    assert not first.is_leading


def test_a_lease_that_nobody_renews_is_free_after_its_time(
    pair: tuple[Election, Election], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [1000.0]
    monkeypatch.setattr("portal.cluster.election.monotonic", lambda: clock[0])
    first, second = pair
    first.step()
    clock[0] += 100.0  # how long ago it was renewed does not count, but how long that has been seen
    second.step()
    clock[0] += LEASE_SECONDS - 0.1
    second.step()
    assert not second.is_leading
    assert not first.is_leading  # it has not renewed it either
    clock[0] += 0.2
    second.step()
    assert second.is_leading
    # Who was away finds another leading.
    first.step()
    assert not first.is_leading


def test_of_two_that_reach_for_a_free_lease_one_gets_it(
    pair: tuple[Election, Election], monkeypatch: pytest.MonkeyPatch, api: KubernetesApi
) -> None:
    first, second = pair
    first.step()
    first.release()
    read = api.get

    def read_while_the_other_is_faster(*names: str) -> object:
        monkeypatch.setattr(api, "get", read)
        found = read(*names)
        second.step()
        return found

    monkeypatch.setattr(api, "get", read_while_the_other_is_faster)
    first.step()
    assert (first.is_leading, second.is_leading) == (False, True)


def test_an_api_server_that_is_away_ends_the_lead_by_the_clock_alone(
    api_server: ApiServer,
    pair: tuple[Election, Election],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = [1000.0]
    monkeypatch.setattr("portal.cluster.election.monotonic", lambda: clock[0])
    first, _ = pair
    first.step()
    api_server.pause()
    try:
        for _ in range(2):
            clock[0] += 5.0
            first.step()
            assert first.is_leading
        clock[0] += 5.1
        assert not first.is_leading
        first.release()  # which asks for nothing: it may be somebody else's by now
    finally:
        api_server.resume()
    lines = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(lines) == 1
    assert lines[0].startswith("The API server does not answer for the Lease moorline-watch (")
    first.step()
    assert (first.is_leading, first.terms) == (True, 2)
