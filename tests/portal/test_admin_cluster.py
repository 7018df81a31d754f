"""What staff see of the cluster, and what a Tunnel resource keeps to itself."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from portal.cluster.reconcile import reconcile_due
from portal.cluster.target import LocalTarget
from portal.models import Customer, CustomerStatus, Gateway, Tunnel, TunnelStatus
from portal.services.gateways import drain_gateway, register_gateway
from portal.services.tunnels import Resource, create_tunnel
from tests.conftest import STAFF
from tests.portal.test_admin import inline_forms, tunnel_form

INLINES = inline_forms("sessions", "tokens", "tunnels")
ACCESS = '[{"podSelector": {"matchLabels": {"app": "billing"}}}]'


def read(staff: Client, name: str, *arguments: Any) -> str:
    response = staff.get(reverse(f"admin:portal_{name}", args=arguments))
    assert response.status_code == 200
    return response.content.decode()


@pytest.fixture
def gitops(acmeco: Customer) -> Tunnel:
    return create_tunnel(customer=acmeco, name="gitops", tcp_ports=[1], resource=Resource("moorline.dev"), actor=STAFF)


def test_it_works(staff: Client) -> None:
    register_gateway(name="gateway-0", address="10.9.0.1", hop_port=8001, version="1.2.3", customers=["acmeco"])
    page = read(staff, "gateway_changelist")
    assert all(text in page for text in ("gateway-0", "10.9.0.1", "1.2.3", "acmeco", "Up"))
    drain_gateway(name="gateway-0")
    assert "Stopping" in read(staff, "gateway_changelist")
    Gateway.objects.update(last_seen_at=timezone.now() - timedelta(minutes=2))
    assert "Silent" in read(staff, "gateway_changelist")


def test_a_tunnel_shows_its_conditions(staff: Client, prod: Tunnel) -> None:
    assert "Not looked at yet" in read(staff, "tunnel_change", prod.pk)
    reconcile_due(LocalTarget())
    page = read(staff, "tunnel_change", prod.pk)
    assert all(text in page for text in ("Provisioned", "Not connected", "Not degraded", "No client is connected."))
    conditions = TunnelStatus.objects.get(tunnel=prod).conditions
    conditions[1] |= {"status": "False", "reason": "QuotaExceeded", "message": "<b>No room.</b>"}
    TunnelStatus.objects.filter(tunnel=prod).update(conditions=conditions)
    page = read(staff, "tunnel_change", prod.pk)
    assert "Not provisioned" in page
    assert "&lt;b&gt;No room.&lt;/b&gt;" in page


def test_who_may_connect_and_until_when_are_set_and_taken_back(staff: Client, acmeco: Customer) -> None:
    expires_at = {"expires_at_0": "2030-01-02", "expires_at_1": "03:04:05"}
    staff.post(
        reverse("admin:portal_tunnel_add"), tunnel_form(customer=acmeco.pk, access=ACCESS, **expires_at), follow=True
    )
    tunnel = Tunnel.objects.get()
    assert tunnel.access == [{"podSelector": {"matchLabels": {"app": "billing"}}}]
    assert tunnel.expires_at is not None
    staff.post(reverse("admin:portal_tunnel_change", args=[tunnel.pk]), tunnel_form(access="") | INLINES, follow=True)
    tunnel = Tunnel.objects.get()
    assert (tunnel.access, tunnel.expires_at) == ([], None)


def test_access_that_kubernetes_would_not_take_is_refused_at_the_field(staff: Client, acmeco: Customer) -> None:
    form = tunnel_form(customer=acmeco.pk, access='[{"ipBlock": {}}]')
    response = staff.post(reverse("admin:portal_tunnel_add"), form)
    assert "Peer 1 is not understood" in str(response.context["adminform"].form.errors["access"])


def test_what_a_resource_asks_for_is_shown_and_not_changed(staff: Client, gitops: Tunnel) -> None:
    page = read(staff, "tunnel_change", gitops.pk)
    assert "kubectl edit tunnels.moorline.dev gitops -n acmeco" in page
    url = reverse("admin:portal_tunnel_change", args=[gitops.pk])
    form = staff.get(url).context["adminform"].form
    assert {name for name, field in form.fields.items() if field.disabled} == {
        *("tcp_ports", "host_names", "access", "expires_at")
    }
    staff.post(url, tunnel_form(tcp_ports="9", max_sessions="7") | INLINES, follow=True)
    gitops.refresh_from_db()
    assert gitops.max_sessions == 7
    assert 9 not in gitops.ports.values_list("port", flat=True)


@pytest.mark.parametrize("kind", ["tunnel", "customer"])
def test_what_a_resource_asks_for_is_not_deleted_here(staff: Client, gitops: Tunnel, kind: str) -> None:
    row = gitops if kind == "tunnel" else gitops.customer
    assert staff.get(reverse(f"admin:portal_{kind}_delete", args=[row.pk])).status_code == 403


def test_the_quota_of_a_customer_is_set(staff: Client, acmeco: Customer) -> None:
    url = reverse("admin:portal_customer_change", args=[acmeco.pk])
    staff.post(url, {"resource_quota": '{"count/services": "9"}', "isolated": "on"} | INLINES, follow=True)
    acmeco.refresh_from_db()
    assert (acmeco.resource_quota, acmeco.isolated) == ({"count/services": "9"}, True)
    staff.post(url, {"resource_quota": ""} | INLINES, follow=True)
    acmeco.refresh_from_db()
    assert (acmeco.resource_quota, acmeco.isolated) == ({}, False)
    reconcile_due(LocalTarget())
    assert "As desired." in read(staff, "customer_change", acmeco.pk)


def test_deleting_a_customer_says_what_becomes_of_its_namespace(staff: Client, acmeco: Customer) -> None:
    said = "Its namespace acmeco, which Moorline made, is deleted with everything that is in it."
    assert said not in read(staff, "customer_delete", acmeco.pk)
    CustomerStatus.objects.update(made_namespace=True)
    assert said in read(staff, "customer_delete", acmeco.pk)


def test_no_address_of_this_machine_is_told_in_a_cluster(staff: Client, prod: Tunnel, settings: Any) -> None:
    assert "127.0.0.1:25060" in read(staff, "tunnel_change", prod.pk)
    settings.MOORLINE_TARGET = "kubernetes"
    assert "127.0.0.1:25060" not in read(staff, "tunnel_change", prod.pk)
