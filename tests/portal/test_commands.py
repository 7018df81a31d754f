"""The commands of manage.py that write."""

from __future__ import annotations

from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import yaml
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command

from portal.authorization import authorize
from portal.models import Customer, Event, Token, Tunnel
from portal.services.events import Actor
from portal.services.tokens import revoke_token


@pytest.fixture(autouse=True)
def redis_is_set(settings: Any) -> None:
    settings.MOORLINE_REDIS_URL = "redis://127.0.0.1:1/0"


def run(*arguments: Any) -> str:
    out = StringIO()
    call_command(*[str(argument) for argument in arguments], stdout=out)
    return out.getvalue()


def test_a_tunnel_with_its_customer_and_token_is_made_from_nothing(db: None, tmp_path: Path) -> None:
    assert run("create_customer", "acmeco", "--display-name", "Acme") == "Created acmeco.\n"
    said = run("create_tunnel", "acmeco/prod", "--tcp-port=25060", "--tcp-port=22", "--host-name=identity1.local")
    assert said == "Created acmeco/prod; gateways listen for TCP 22 on 20000, HTTP 8000 on 8001, TCP 25060 on 25060.\n"
    token = run("mint_token", "acmeco/prod", "--name", "laptop").strip()
    assert authorize(customer="acmeco", tunnel="prod", token=token).hosts == ("identity1.local",)
    actors = set(Event.objects.values_list("actor", flat=True))
    assert len(actors) == 1
    assert actors.pop().startswith("command line (")


def test_what_exists_is_left_alone_if_asked(prod: Tunnel) -> None:
    assert run("create_customer", "acmeco", "--if-absent") == "acmeco exists.\n"
    assert run("create_tunnel", "acmeco/prod", "--tcp-port=1", "--if-absent") == "acmeco/prod exists.\n"
    assert (Customer.objects.count(), Tunnel.objects.count()) == (1, 1)
    assert list(prod.ports.values_list("port", flat=True)) == [8000, 25060]


def test_a_token_is_written_to_a_file_for_its_owner_alone(prod: Tunnel, tmp_path: Path) -> None:
    file = tmp_path / "token"
    said = run("mint_token", "acmeco/prod", "--name=laptop", "--output", file)
    assert file.stat().st_mode & 0o777 == 0o600
    token = file.read_text().strip()
    assert token not in said
    assert authorize(customer="acmeco", tunnel="prod", token=token)
    assert list(tmp_path.iterdir()) == [file]


def test_a_token_in_force_is_kept_if_asked_and_one_that_is_not_is_replaced(prod: Tunnel, tmp_path: Path) -> None:
    command = ("mint_token", "acmeco/prod", "--name=laptop", "--output", tmp_path / "token", "--if-absent")
    run(*command)
    first = (tmp_path / "token").read_text()
    run(*command)
    assert (tmp_path / "token").read_text() == first
    assert Token.objects.count() == 1
    revoke_token(token=Token.objects.get(), actor=Actor("staff"))
    run(*command)
    assert (tmp_path / "token").read_text() != first
    assert Token.objects.count() == 2


def test_a_token_may_expire(prod: Tunnel) -> None:
    run("mint_token", "acmeco/prod", "--name=laptop", "--expires-in-days=1")
    token = Token.objects.get()
    assert (token.expires_at - token.created_at).total_seconds() == pytest.approx(86400, abs=5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["create_customer", "acmeco"], "name: A customer of this name exists already. Choose another name."),
        (["create_customer", "admin"], "name: “admin” is reserved. Choose another name."),
        (["create_tunnel", "prod"], "'prod' does not name a tunnel. Write customer/tunnel, such as acmeco/prod."),
        (["create_tunnel", "a/b/c"], "'a/b/c' does not name a tunnel. Write customer/tunnel, such as acmeco/prod."),
        (
            ["create_tunnel", "globex/prod"],
            "There is no customer globex. Create it with: manage.py create_customer globex",
        ),
        (
            ["create_tunnel", "acmeco/test", "--tcp-port=8000", "--host-name=a_b"],
            "tcp_ports: Port 8000 is the HTTP port of every tunnel. Choose another port; the client can forward it to"
            " 8000.; host_names: “a_b” is not a host name. Write one such as intranet.local.",
        ),
        (
            ["mint_token", "acmeco/test", "--name=x"],
            "There is no tunnel acmeco/test. Create it with: manage.py create_tunnel acmeco/test",
        ),
        (["mint_token", "acmeco/prod", "--name="], "name: This field cannot be blank."),
        (
            ["mint_token", "acmeco/prod", "--name=x", "--expires-in-days=0"],
            "--expires-in-days takes a number from 1 to 36500.",
        ),
        (["mint_token", "acmeco/prod", "--name=x", "--if-absent"], "--if-absent needs --output."),
        (
            ["mint_token", "acmeco/prod", "--name=x", "--output=/does/not/exist"],
            "/does/not/exist cannot be written: No such file or directory.",
        ),
        (["create_admin"], "Set MOORLINE_ADMIN_PASSWORD, or add --password-file FILE or --print-password."),
    ],
)
def test_what_is_wrong_is_told_in_one_line(prod: Tunnel, arguments: list[str], message: str) -> None:
    before = Event.objects.count()
    with pytest.raises(CommandError) as error:
        run(*arguments)
    assert str(error.value) == message
    assert Event.objects.count() == before


def test_a_database_that_was_not_migrated_is_told_in_one_line(db: None) -> None:
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE portal_customer RENAME TO gone")
    with pytest.raises(CommandError, match=r"^The database .* failed \(.*\)\. Was manage\.py migrate run\?$"):
        run("create_customer", "acmeco")


def test_an_admin_gets_a_made_up_password_in_a_file(db: None, tmp_path: Path) -> None:
    file = tmp_path / "password"
    said = run("create_admin", "--password-file", file)
    password = file.read_text().strip()
    assert said == "Created admin.\n"
    assert file.stat().st_mode & 0o777 == 0o600
    assert User.objects.get(username="admin").check_password(password)
    assert run("create_admin", "--password-file", file) == "admin exists.\n"
    assert file.read_text().strip() == password


def test_an_admin_gets_the_password_of_the_environment(db: None, settings: Any) -> None:
    settings.MOORLINE_ADMIN_PASSWORD = "from the environment"
    assert run("create_admin", "--username=bert") == "Created bert.\n"
    assert User.objects.get(username="bert").check_password("from the environment")


def test_a_password_is_printed_only_if_asked(db: None) -> None:
    name, password = run("create_admin", "--print-password").splitlines()
    assert name == "Created admin."
    assert User.objects.get().check_password(password)


@pytest.mark.parametrize(
    ("password", "message"),
    [
        ("short", "password: This password is too short. It must contain at least 12 characters."),
        ("123456789012345", "password: This password is entirely numeric."),
    ],
)
def test_an_admin_gets_no_password_that_is_easy_to_guess(db: None, settings: Any, password: str, message: str) -> None:
    settings.MOORLINE_ADMIN_PASSWORD = password
    with pytest.raises(CommandError) as error:
        run("create_admin")
    assert str(error.value) == message
    assert not User.objects.exists()


def test_the_manifests_of_a_tunnel_are_printed_without_a_database() -> None:
    words = ("acmeco/prod", "--tcp-port=25060", "--host-name=shop.local", "--gateway=10.0.0.1")
    printed = list(yaml.safe_load_all(run("render_tunnel", *words)))
    assert [(one["kind"], one["metadata"]["name"]) for one in printed] == [
        ("Namespace", "acmeco"),
        ("Service", "prod"),
        ("EndpointSlice", "prod-moorline"),
        ("Service", "shop-local"),
        ("EndpointSlice", "shop-local-moorline"),
        ("Tunnel", "prod"),
    ]
    assert printed[2]["endpoints"][0]["addresses"] == ["10.0.0.1"]


def test_the_manifests_of_a_stored_tunnel_are_printed(prod: Tunnel) -> None:
    printed = list(yaml.safe_load_all(run("render_tunnel", "acmeco/prod", "--stored")))
    assert printed[1]["spec"]["ports"][1] == {
        "name": "tcp-25060",
        "port": 25060,
        "protocol": "TCP",
        "targetPort": 25060,
    }


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("acmeco",), "does not name a tunnel"),
        (("acmeco/prod", "--tcp-port=0"), "is not a port"),
        (("acmeco/1", "--tcp-port=1"), "Begin with a letter"),
        (("kube-system/prod",), "is reserved"),
        (("acmeco/prod", "--gateway=x"), "is no address"),
        (("acmeco/prod", "--stored", "--tcp-port=1"), "Leave out"),
    ],
)
def test_what_cannot_be_rendered_is_said_in_a_line(words: tuple[str, ...], said: str) -> None:
    with pytest.raises(CommandError, match=said):
        run("render_tunnel", *words)
