"""Tokens in Secrets, against a real API server: made, rotated, brought along."""

from __future__ import annotations

import base64
import json
from datetime import timedelta

import pytest
from django.conf import LazySettings
from django.utils import timezone

from portal.authorization import Refused, authorize
from portal.cluster import repair
from portal.cluster.reconcile import reconcile_due
from portal.cluster.target import KubernetesTarget
from portal.models import Customer, Source, Token, Tunnel
from portal.services import customers, tunnels, work
from portal.services.tokens import mint_token
from portal.services.tunnels import Resource
from tests.cluster.apiserver import ApiServer
from tests.cluster.test_reconcile import conditions, message, reconcile
from tests.conftest import STAFF

pytestmark = [pytest.mark.api, pytest.mark.django_db]

LONG = "0123456789abcdef0123456789abcdef"


@pytest.fixture
def acmeco(cluster: ApiServer) -> Customer:
    namespace = cluster.make_namespace("acmeco", {"moorline.dev/uplink": "1"})
    return customers.create_customer(name=namespace, source=Source.RESOURCE, actor=STAFF)


@pytest.fixture
def prod(acmeco: Customer) -> Tunnel:
    return tunnels.create_tunnel(
        customer=acmeco, name="prod", tcp_ports=[25060], resource=Resource("moorline.dev"), actor=STAFF
    )


@pytest.fixture
def brought(acmeco: Customer) -> Tunnel:
    """A tunnel that brings its token along."""
    resource = Resource("moorline.dev", token_secret="mine", token_key="secret-token")
    return tunnels.create_tunnel(customer=acmeco, name="prod", resource=resource, actor=STAFF)


def read_token(cluster: ApiServer, namespace: str, name: str = "prod", key: str = "token") -> str:
    return base64.b64decode(cluster.read("secret", name, "-n", namespace)["data"][key]).decode()


def put_token(cluster: ApiServer, namespace: str, token: str) -> None:
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "mine", "namespace": namespace},
        "stringData": {"secret-token": token},
    }
    cluster.kubectl("apply", "-f", "-", input=json.dumps(secret))


def is_let_in(tunnel: Tunnel, token: str) -> bool:
    try:
        authorize(customer=tunnel.customer.name, tunnel=tunnel.name, token=token)
    except Refused:
        return False
    return True


def test_the_token_in_the_secret_opens_the_tunnel(cluster: ApiServer, target: KubernetesTarget, prod: Tunnel) -> None:
    reconcile(target)
    token = read_token(cluster, prod.customer.name)
    assert is_let_in(prod, token)
    assert "tunnels.moorline.dev" not in cluster.kubectl("get", "tunnels.moorline.dev", "-n", prod.customer.name)
    work.touch_tunnels([prod.pk])
    assert reconcile(target).written == 0
    assert read_token(cluster, prod.customer.name) == token


def test_deleting_the_secret_makes_a_new_token_and_ends_the_old_one(
    cluster: ApiServer, target: KubernetesTarget, prod: Tunnel
) -> None:
    reconcile(target)
    old = read_token(cluster, prod.customer.name)
    assert repair.check_secrets(target) == 0
    cluster.kubectl("delete", "secret", "prod", "-n", prod.customer.name)
    assert repair.check_secrets(target) == 1
    reconcile(target)
    new = read_token(cluster, prod.customer.name)
    assert (is_let_in(prod, old), is_let_in(prod, new)) == (False, True)


def test_a_secret_that_was_edited_gets_a_token_again(
    cluster: ApiServer, target: KubernetesTarget, prod: Tunnel
) -> None:
    reconcile(target)
    patch = json.dumps({"stringData": {"token": "hello"}})
    cluster.kubectl("patch", "secret", "prod", "-n", prod.customer.name, "--type=merge", "-p", patch)
    assert repair.check_secrets(target) == 1
    reconcile(target)
    assert is_let_in(prod, read_token(cluster, prod.customer.name))


def test_a_foreign_secret_is_left_alone(cluster: ApiServer, target: KubernetesTarget, prod: Tunnel) -> None:
    cluster.kubectl("create", "secret", "generic", "prod", "-n", prod.customer.name, "--from-literal=a=b")
    tally = reconcile_due(target)
    assert [problem.reason for problem in tally.problems] == ["NameTaken"]
    assert "data" in cluster.read("secret", "prod", "-n", prod.customer.name)
    assert conditions(prod)["Provisioned"] == ("False", "NameTaken")
    assert not Token.objects.exists()


def test_a_secret_that_cannot_be_written_leaves_no_token(
    cluster: ApiServer, target: KubernetesTarget, prod: Tunnel, settings: LazySettings
) -> None:
    from portal.cluster.api import connect

    settings.MOORLINE_KUBECONFIG = str(cluster.make_kubeconfig("nobody", target.installation.namespace))
    powerless = KubernetesTarget(connect(), target.installation, range(20000, 20100))
    assert "Forbidden" in {problem.reason for problem in reconcile_due(powerless).problems}
    assert not Token.objects.exists()


def test_a_deleted_tunnel_takes_its_secret_along(cluster: ApiServer, target: KubernetesTarget, prod: Tunnel) -> None:
    reconcile(target)
    tunnels.delete_tunnel(tunnel=prod, resource=Resource("moorline.dev"), actor=STAFF)
    reconcile(target)
    assert "NotFound" in cluster.try_kubectl("get", "secret", "prod", "-n", prod.customer.name).stderr


def test_a_token_that_is_brought_along_opens_the_tunnel_until_it_is_replaced(
    cluster: ApiServer, target: KubernetesTarget, brought: Tunnel
) -> None:
    namespace = brought.customer.name
    tally = reconcile_due(target)
    assert [problem.reason for problem in tally.problems] == ["TokenMissing"]
    assert message(brought, "Provisioned").endswith("Create it with the key secret-token.")
    put_token(cluster, namespace, "short")
    work.touch_tunnels([brought.pk])
    assert [problem.reason for problem in reconcile_due(target).problems] == ["TokenRefused"]
    put_token(cluster, namespace, LONG)
    work.touch_tunnels([brought.pk])
    reconcile(target)
    assert is_let_in(brought, LONG)
    put_token(cluster, namespace, LONG[::-1])
    assert repair.check_secrets(target) == 1
    reconcile(target)
    assert (is_let_in(brought, LONG), is_let_in(brought, LONG[::-1])) == (False, True)


def test_no_token_opens_two_tunnels(cluster: ApiServer, target: KubernetesTarget, brought: Tunnel) -> None:
    put_token(cluster, brought.customer.name, LONG)
    reconcile(target)
    resource = Resource("moorline.dev", token_secret="mine", token_key="secret-token")
    other = tunnels.create_tunnel(customer=brought.customer, name="other", resource=resource, actor=STAFF)
    assert [problem.reason for problem in reconcile_due(target).problems] == ["TokenRefused"]
    assert conditions(other)["Provisioned"] == ("False", "TokenRefused")
    assert is_let_in(brought, LONG)


def test_a_token_of_the_portal_may_be_brought_along(
    cluster: ApiServer, target: KubernetesTarget, brought: Tunnel
) -> None:
    token, plain_text = mint_token(tunnel=brought, name="made in the portal", actor=STAFF)
    put_token(cluster, brought.customer.name, plain_text)
    reconcile(target)
    assert repair.check_secrets(target) == 0
    Token.objects.filter(pk=token.pk).update(expires_at=timezone.now() - timedelta(seconds=1))
    assert repair.check_secrets(target) == 1
    assert [problem.reason for problem in reconcile_due(target).problems] == ["TokenRefused"]
