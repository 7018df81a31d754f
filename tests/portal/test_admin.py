"""What staff see and do in the admin."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from portal.addresses import client_command
from portal.authorization import authorize
from portal.models import Customer, Event, Session, Token, Tunnel
from portal.services.customers import suspend_customer
from portal.services.events import Actor
from portal.services.sessions import open_session
from portal.services.tokens import mint_token, revoke_token
from portal.services.tunnels import create_tunnel, disable_tunnel
from tunnels.client.upstreams import parse_upstream

STAFF = Actor("staff")
ONE_ENDS = "1 live session ends within seconds, and with it every connection inside."


def tunnel_form(**changes: Any) -> dict[str, Any]:
    form = {
        "name": "test",
        "enabled": "on",
        "tcp_ports": "5432, 22",
        "host_names": "A.local\nb.local.",
        "max_sessions": "4",
        "max_streams": "100",
    }
    return form | changes


def inline_forms(*prefixes: str) -> dict[str, int]:
    """Say what a browser says of the lists below a form, in which nothing can be edited."""
    counts = ("TOTAL_FORMS", "INITIAL_FORMS", "MIN_NUM_FORMS", "MAX_NUM_FORMS")
    return {f"{prefix}-{count}": 0 for prefix in prefixes for count in counts}


def mint_form(staff: Client, url: str, **changes: str) -> dict[str, str]:
    """Open the form for a token, as a browser does before it sends one."""
    return {"name": "laptop", "expires": "", "form_key": staff.get(url).context["form_key"]} | changes


def open_live_session(tunnel: Tunnel, **changes: Any) -> Session:
    facts = {
        "session_id": "0b8f1f0e-5d3b-4f7f-9d0e-0d9d3f5a1c01",
        "tunnel_id": tunnel.pk,
        "token_id": tunnel.tokens.get().pk,
        "gateway": "gateway-0",
        "client_version": "0.1.0",
        "client_instance": "laptop",
        "client_address": "198.51.100.7",
        "transport": "native",
        "opened_at": timezone.now(),
    }
    return open_session(**(facts | changes))


@pytest.fixture
def page(staff: Client) -> Callable[..., str]:
    """Get a page of the admin as text, with spaces folded."""

    def get(name: str, *args: Any, query: str = "") -> str:
        response = staff.get(reverse(f"admin:{name}", args=args) + query)
        assert response.status_code == 200
        return re.sub(r"\s+", " ", response.content.decode())

    return get


def written(verb: str) -> Event:
    """Find the one event of this kind, which tells that a service wrote it for this person."""
    event = Event.objects.get(verb=verb, actor="admin")
    assert event.source_address == "127.0.0.1"
    return event


PAGES = ["index", *(f"portal_{model}_changelist" for model in ("customer", "tunnel", "token", "session", "event"))]
PAGES += ["portal_customer_add", "portal_tunnel_add", "auth_user_changelist", "auth_user_add", "auth_group_changelist"]


@pytest.mark.parametrize("name", PAGES)
def test_it_works(name: str, page: Callable[..., str], token: str) -> None:
    assert "Moorline" in page(name)


@pytest.mark.parametrize("model", [Customer, Tunnel, Token, Session, Event])
def test_the_page_of_a_row_works(model: Any, page: Callable[..., str], prod: Tunnel, token: str) -> None:
    open_live_session(prod)
    row = model.objects.first()
    assert "Moorline" in page(f"portal_{model._meta.model_name}_change", row.pk)


@pytest.mark.parametrize("name", PAGES)
def test_nobody_enters_without_logging_in(name: str, client: Client, db: None) -> None:
    response = client.get(reverse(f"admin:{name}"))
    assert response.status_code == 302
    assert response.url.startswith("/admin/login/")


def test_the_root_leads_to_the_admin(client: Client, db: None) -> None:
    assert client.get("/").url == "/admin/"


def test_the_overview_shows_how_every_tunnel_is(
    page: Callable[..., str], acmeco: Customer, prod: Tunnel, token: str
) -> None:
    create_tunnel(customer=acmeco, name="test", actor=STAFF)
    open_live_session(prod)
    text = page("index")
    assert re.search(r"prod\.acmeco.*Connected.*25060.*identity1\.local", text)
    assert re.search(r"test\.acmeco.*Never connected", text)
    assert "Acme &amp; Co" in text


def test_the_overview_of_an_empty_portal_says_where_to_begin(page: Callable[..., str]) -> None:
    assert "No tunnel yet." in page("index")


def test_a_customer_is_created_by_the_service(staff: Client) -> None:
    response = staff.post(
        reverse("admin:portal_customer_add"),
        {"name": "globex", "display_name": "Globex", "contact_email": "it@globex.example"},
    )
    assert response.url == reverse("admin:portal_customer_changelist")
    globex = Customer.objects.get()
    assert (globex.name, globex.display_name, globex.contact_email) == ("globex", "Globex", "it@globex.example")
    assert written("customer.create").customer == globex


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("name", "", "This field is required."),
        ("name", "Acme", "Use 1 to 63 lower-case letters, digits and hyphens"),
        ("name", "admin", "“admin” is reserved. Choose another name."),
        ("name", "acmeco", "A customer of this name exists already. Choose another name."),
        ("contact_email", "nobody", "Enter a valid email address."),
    ],
)
def test_a_wrong_customer_is_refused_at_the_field(
    staff: Client, acmeco: Customer, field: str, value: str, message: str
) -> None:
    form = {"name": "globex", "display_name": "", "contact_email": ""} | {field: value}
    response = staff.post(reverse("admin:portal_customer_add"), form)
    errors = response.context["adminform"].form.errors
    assert list(errors) == [field]
    assert message in errors[field][0]
    assert Customer.objects.count() == 1


def test_a_customer_is_changed_by_the_service_and_keeps_its_name(staff: Client, acmeco: Customer) -> None:
    url = reverse("admin:portal_customer_change", args=[acmeco.pk])
    form = {"name": "other", "display_name": "Acme", "contact_email": ""}
    assert staff.post(url, form | inline_forms("tunnels")).status_code == 302
    acmeco.refresh_from_db()
    assert (acmeco.name, acmeco.display_name) == ("acmeco", "Acme")
    assert written("customer.update").details == {"display_name": {"from": "Acme & Co", "to": "Acme"}}


def test_deleting_a_customer_tells_the_consequences_and_is_done_by_the_service(
    staff: Client, page: Callable[..., str], acmeco: Customer, prod: Tunnel, token: str
) -> None:
    open_live_session(prod)
    text = page("portal_customer_delete", acmeco.pk)
    assert "Its tunnels are deleted: prod." in text
    assert ONE_ENDS in text
    assert staff.post(reverse("admin:portal_customer_delete", args=[acmeco.pk]), {"post": "yes"}).status_code == 302
    assert not Customer.objects.exists()
    assert written("customer.delete").customer_name == "acmeco"


def test_a_customer_is_suspended_and_resumed_after_a_question(
    staff: Client, page: Callable[..., str], acmeco: Customer
) -> None:
    suspend, resume = (reverse(f"admin:portal_customer_{name}", args=[acmeco.pk]) for name in ("suspend", "resume"))
    assert suspend in page("portal_customer_change", acmeco.pk)
    assert "Its clients are refused until you resume it." in page("portal_customer_suspend", acmeco.pk)
    acmeco.refresh_from_db()
    assert not acmeco.suspended

    staff.post(suspend)
    assert written("customer.suspend").customer == acmeco
    text = page("portal_customer_change", acmeco.pk)
    assert resume in text
    assert suspend not in text

    staff.post(resume)
    assert written("customer.resume").customer == acmeco
    acmeco.refresh_from_db()
    assert not acmeco.suspended


def test_the_new_tunnel_button_of_a_customer_leads_to_a_form_with_the_customer(staff: Client, acmeco: Customer) -> None:
    response = staff.get(reverse("admin:portal_customer_new_tunnel", args=[acmeco.pk]), follow=True)
    assert response.context["adminform"].form.initial["customer"] == str(acmeco.pk)


def test_a_tunnel_is_created_by_the_service(staff: Client, acmeco: Customer) -> None:
    response = staff.post(reverse("admin:portal_tunnel_add"), tunnel_form(customer=acmeco.pk))
    tunnel = Tunnel.objects.get()
    assert response.url == reverse("admin:portal_tunnel_change", args=[tunnel.pk])
    mint = reverse("admin:portal_tunnel_mint_token", args=[tunnel.pk])
    assert f'Now <a class="underline" href="{mint}">mint a token</a>' in staff.get(response.url).content.decode()
    assert str(tunnel) == "acmeco/test"
    assert list(tunnel.ports.values_list("kind", "port")) == [("tcp", 22), ("tcp", 5432), ("http", 8000)]
    assert list(tunnel.hosts.values_list("name", flat=True)) == ["a.local", "b.local"]
    assert (tunnel.enabled, tunnel.max_sessions, tunnel.max_streams) == (True, 4, 100)
    assert written("tunnel.create").tunnel == tunnel


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("name", "", "This field is required."),
        ("name", "-", "Use 1 to 63 lower-case letters, digits and hyphens"),
        ("name", "1st", "Begin with a letter: the name becomes the name of a Service."),
        ("name", "gateway", "“gateway” is reserved. Choose another name."),
        ("name", "prod", "This customer has a tunnel of this name already. Choose another name."),
        ("customer", "", "This field is required."),
        ("customer", "999", "Select a valid choice."),
        ("tcp_ports", "0", "“0” is not a port. Write a whole number from 1 to 65535."),
        ("tcp_ports", "65536", "“65536” is not a port. Write a whole number from 1 to 65535."),
        ("tcp_ports", "ssh", "“ssh” is not a port. Write a whole number from 1 to 65535."),
        ("tcp_ports", "22 22", "Port 22 is listed 2 times. List it once."),
        ("tcp_ports", "8000", "Port 8000 is the HTTP port of every tunnel. Choose another port"),
        ("host_names", "a_b", "“a_b” is not a host name. Write one such as intranet.local."),
        ("host_names", "a.local A.LOCAL.", "“a.local” is listed 2 times. List it once."),
        ("max_sessions", "0", "Ensure this value is greater than or equal to 1."),
        ("max_sessions", "1025", "Ensure this value is less than or equal to 1024."),
        ("max_streams", "0", "Ensure this value is greater than or equal to 1."),
        ("max_streams", "x", "Enter a whole number."),
    ],
)
def test_a_wrong_tunnel_is_refused_at_the_field(
    staff: Client, prod: Tunnel, field: str, value: str, message: str
) -> None:
    form = tunnel_form(customer=prod.customer_id) | {field: value}
    response = staff.post(reverse("admin:portal_tunnel_add"), form)
    errors = response.context["adminform"].form.errors
    assert list(errors) == [field]
    assert message in errors[field][0]
    assert Tunnel.objects.count() == 1


def test_what_only_the_service_refuses_is_said_on_the_page(staff: Client, acmeco: Customer, settings: Any) -> None:
    settings.MOORLINE_TUNNELS_NAMESPACE = "globex"
    response = staff.post(reverse("admin:portal_tunnel_add"), tunnel_form(customer=acmeco.pk), follow=True)
    assert "This installation serves the customer globex alone." in response.content.decode()
    assert not Tunnel.objects.exists()


def test_a_tunnel_is_changed_by_the_service(staff: Client, prod: Tunnel) -> None:
    url = reverse("admin:portal_tunnel_change", args=[prod.pk])
    assert staff.get(url).context["adminform"].form.initial["tcp_ports"] == "25060"
    form = tunnel_form(name="other", tcp_ports="25060 5432", host_names="")
    assert staff.post(url, form | inline_forms("sessions", "tokens")).status_code == 302
    prod.refresh_from_db()
    assert (prod.name, prod.generation) == ("prod", 2)
    assert written("tunnel.update").details == {
        "tcp_ports": {"from": [25060], "to": [5432, 25060]},
        "host_names": {"from": ["identity1.local"], "to": []},
        "max_sessions": {"from": 16, "to": 4},
        "max_streams": {"from": 4096, "to": 100},
    }


def test_the_page_of_a_tunnel_shows_connected_clients_and_where_gateways_listen(
    page: Callable[..., str], prod: Tunnel, token: str
) -> None:
    open_live_session(prod)
    text = page("portal_tunnel_change", prod.pk)
    for shown in ("198.51.100.7", "gateway-0", "0.1.0", "HTTP 8000 on 8001, TCP 25060 on 25060", "prod.acmeco"):
        assert shown in text
    assert "ws://127.0.0.1:8000/acmeco/prod" in text


def test_the_page_of_a_tunnel_shows_where_it_answers_on_this_machine(
    page: Callable[..., str], prod: Tunnel, settings: Any
) -> None:
    text = page("portal_tunnel_change", prod.pk)
    assert "<code>127.0.0.1:25060</code>" in text
    assert "<code>127.0.0.1:8001</code>" in text
    settings.MOORLINE_LISTEN_HOST = "::1"
    assert "<code>[::1]:25060</code>" in page("portal_tunnel_change", prod.pk)
    settings.MOORLINE_LISTEN_HOST = "0.0.0.0"
    text = page("portal_tunnel_change", prod.pk)
    assert "Nowhere: gateways listen for the cluster." in text
    assert ":25060</code>" not in text


def test_the_page_of_a_tunnel_with_many_ports_shows_the_first_addresses_and_counts_the_rest(
    page: Callable[..., str], acmeco: Customer
) -> None:
    tunnel = create_tunnel(customer=acmeco, name="many", tcp_ports=range(2001, 2021), actor=STAFF)
    text = page("portal_tunnel_change", tunnel.pk)
    assert text.count("<code>127.0.0.1:") == 8
    assert "+13 more, on the numbers below" in text


def test_tunnels_are_found_by_state(page: Callable[..., str], acmeco: Customer, prod: Tunnel, token: str) -> None:
    create_tunnel(customer=acmeco, name="test", actor=STAFF)
    open_live_session(prod)
    connected = page("portal_tunnel_changelist", query="?state=connected")
    assert "prod.acmeco" in connected
    assert "test.acmeco" not in connected
    assert "test.acmeco" in page("portal_tunnel_changelist", query="?state=never+connected")


def test_deleting_a_tunnel_tells_the_consequences_and_is_done_by_the_service(
    staff: Client, page: Callable[..., str], prod: Tunnel, token: str
) -> None:
    open_live_session(prod)
    text = page("portal_tunnel_delete", prod.pk)
    assert ONE_ENDS in text
    assert "prod.acmeco answers no more inside the cluster." in text
    assert staff.post(reverse("admin:portal_tunnel_delete", args=[prod.pk]), {"post": "yes"}).status_code == 302
    assert not Tunnel.objects.exists()
    assert written("tunnel.delete").tunnel_name == "prod"


def test_a_tunnel_is_disabled_and_enabled_after_a_question(
    staff: Client, page: Callable[..., str], prod: Tunnel
) -> None:
    disable, enable = (reverse(f"admin:portal_tunnel_{name}", args=[prod.pk]) for name in ("disable", "enable"))
    assert "Its clients are refused until you enable it." in page("portal_tunnel_disable", prod.pk)
    assert Tunnel.objects.get().enabled
    staff.post(disable)
    assert not Tunnel.objects.get().enabled
    assert written("tunnel.disable").tunnel == prod
    text = page("portal_tunnel_change", prod.pk)
    assert enable in text
    assert disable not in text
    staff.post(enable)
    assert Tunnel.objects.get().enabled
    assert written("tunnel.enable").tunnel == prod


def test_rows_are_deleted_one_at_a_time(staff: Client, prod: Tunnel) -> None:
    for name in ("portal_customer_changelist", "portal_tunnel_changelist"):
        form = {"action": "delete_selected", "_selected_action": [prod.pk], "post": "yes"}
        staff.post(reverse(f"admin:{name}"), form)
    assert Tunnel.objects.exists()


def test_a_minted_token_is_shown_once_with_a_command_line(
    staff: Client, page: Callable[..., str], prod: Tunnel
) -> None:
    url = reverse("admin:portal_tunnel_mint_token", args=[prod.pk])
    assert "The token is shown once" in page("portal_tunnel_mint_token", prod.pk)
    assert not Token.objects.exists()

    response = staff.post(url, mint_form(staff, url))
    plain_text = response.context["plain_text"]
    assert authorize(customer="acmeco", tunnel="prod", token=plain_text)
    assert re.fullmatch(r"mlt_[-\w]{43}", plain_text)
    assert plain_text in response.content.decode()
    assert response.context["command"] == (
        "moorline client \\\n"
        "  --url ws://127.0.0.1:8000/acmeco/prod \\\n"
        "  --upstream 25060=192.168.1.10:25060 \\\n"
        "  --upstream identity1.local=http://192.168.1.10:80"
    )
    text = response.content.decode()
    assert "read -rs MOORLINE_TOKEN &amp;&amp; export MOORLINE_TOKEN</pre>" in text
    assert "Replace the address <code>192.168.1.10</code> by that of your service." in text
    assert "no-store" in response["Cache-Control"]
    token = Token.objects.get()
    assert (token.name, token.expires_at, token.created_by) == ("laptop", None, "admin")
    assert plain_text not in str(written("token.mint").details)

    for again in ("portal_tunnel_change", "portal_tunnel_mint_token"):
        assert plain_text not in page(again, prod.pk)
    assert plain_text not in page("portal_token_change", token.pk)
    assert plain_text not in page("index")


def test_every_upstream_of_the_command_line_is_one_that_the_client_understands(staff: Client, prod: Tunnel) -> None:
    words = client_command(prod).split()
    upstreams = [parse_upstream(word) for before, word in pairwise(words) if before == "--upstream"]
    assert [(one.route.port, one.route.host, one.address) for one in upstreams] == [
        (25060, "", "192.168.1.10:25060"),
        (0, "identity1.local", "192.168.1.10:80"),
    ]


def test_a_tunnel_with_no_port_and_no_host_name_gets_a_command_line_without_a_false_hint(
    staff: Client, acmeco: Customer
) -> None:
    tunnel = create_tunnel(customer=acmeco, name="bare", actor=STAFF)
    url = reverse("admin:portal_tunnel_mint_token", args=[tunnel.pk])
    text = staff.post(url, mint_form(staff, url)).content.decode()
    assert "This tunnel has no port and no host name yet" in text
    assert "Replace the address" not in text


def test_a_page_with_a_token_that_is_loaded_again_mints_no_other(staff: Client, prod: Tunnel) -> None:
    url = reverse("admin:portal_tunnel_mint_token", args=[prod.pk])
    form = mint_form(staff, url)
    staff.post(url, form)
    again = staff.post(url, form, follow=True)
    assert again.redirect_chain == [(reverse("admin:portal_tunnel_change", args=[prod.pk]), 302)]
    assert "its token was shown already. No other was minted." in again.content.decode()
    assert Token.objects.count() == 1


def test_a_form_that_was_wrong_at_first_mints_when_it_is_put_right(staff: Client, prod: Tunnel) -> None:
    url = reverse("admin:portal_tunnel_mint_token", args=[prod.pk])
    form = mint_form(staff, url, name="")
    form["form_key"] = staff.post(url, form).context["form_key"]
    staff.post(url, form | {"name": "laptop"})
    assert Token.objects.get().name == "laptop"


def test_a_form_that_was_never_shown_mints_nothing(staff: Client, prod: Tunnel) -> None:
    url = reverse("admin:portal_tunnel_mint_token", args=[prod.pk])
    assert staff.post(url, {"name": "laptop", "expires": ""}).status_code == 302
    assert not Token.objects.exists()


def test_a_token_may_expire(staff: Client, prod: Tunnel) -> None:
    url = reverse("admin:portal_tunnel_mint_token", args=[prod.pk])
    staff.post(url, mint_form(staff, url, expires="7"))
    lifetime = Token.objects.get().expires_at - timezone.now()
    assert lifetime.days == 6


@pytest.mark.parametrize(("field", "value"), [("name", ""), ("name", "  "), ("name", "x" * 101), ("expires", "-1")])
def test_a_wrong_token_is_refused_at_the_field(staff: Client, prod: Tunnel, field: str, value: str) -> None:
    form = {"name": "laptop", "expires": ""} | {field: value}
    response = staff.post(reverse("admin:portal_tunnel_mint_token", args=[prod.pk]), form)
    assert list(response.context["form"].errors) == [field]
    assert not Token.objects.exists()


def test_a_token_is_revoked_after_a_question(staff: Client, page: Callable[..., str], prod: Tunnel, token: str) -> None:
    open_live_session(prod)
    row = prod.tokens.get()
    url = reverse("admin:portal_token_revoke", args=[row.pk])
    assert url in page("portal_tunnel_change", prod.pk)
    assert ONE_ENDS in page("portal_token_revoke", row.pk)
    row.refresh_from_db()
    assert row.revoked_at is None

    assert staff.post(url).url == reverse("admin:portal_tunnel_change", args=[prod.pk])
    row.refresh_from_db()
    assert row.revoked_at is not None
    assert written("token.revoke").tunnel == prod
    assert url not in page("portal_tunnel_change", prod.pk)


def test_a_revoked_token_is_not_revoked_again(staff: Client, prod: Tunnel, token: str) -> None:
    row = revoke_token(token=prod.tokens.get(), actor=STAFF)
    for ask in (staff.get, staff.post):
        text = ask(reverse("admin:portal_token_revoke", args=[row.pk])).content.decode()
        assert "is revoked already." in text
        assert 'name="post"' not in text
    assert Event.objects.filter(verb="token.revoke").count() == 1


def test_names_keep_their_small_letters_above_a_page(page: Callable[..., str], prod: Tunnel) -> None:
    text = page("portal_tunnel_change", prod.pk)
    assert re.search(r"> acmeco/prod </a", text)
    assert re.search(r"> Tunnels </a", text)
    assert "Acmeco" not in text


@pytest.mark.parametrize("name", ["portal_customer", "portal_tunnel", "auth_user"])
def test_a_page_that_adds_a_row_says_so(page: Callable[..., str], name: str) -> None:
    assert f">Add {name.split('_')[1]}</h2>" in page(f"{name}_add")


@pytest.mark.parametrize("model", ["session", "event", "token"])
def test_records_are_not_added_changed_or_deleted_by_hand(staff: Client, prod: Tunnel, token: str, model: str) -> None:
    open_live_session(prod)
    row = {"session": Session, "event": Event, "token": Token}[model].objects.first()
    assert staff.get(reverse(f"admin:portal_{model}_add")).status_code == 403
    assert staff.post(reverse(f"admin:portal_{model}_delete", args=[row.pk]), {"post": "yes"}).status_code == 403
    assert staff.post(reverse(f"admin:portal_{model}_change", args=[row.pk]), {"name": "x"}).status_code == 403


@pytest.mark.parametrize(
    ("name", "needed"),
    [
        ("portal_tunnel_mint_token", "add_token"),
        ("portal_tunnel_disable", "change_tunnel"),
        ("portal_customer_suspend", "change_customer"),
        ("portal_customer_new_tunnel", "add_tunnel"),
        ("portal_token_revoke", "change_token"),
    ],
)
def test_each_button_asks_for_its_permission(client: Client, prod: Tunnel, token: str, name: str, needed: str) -> None:
    rows = {"tunnel": prod.pk, "customer": prod.customer_id, "token": prod.tokens.get().pk}
    url = reverse(f"admin:{name}", args=[rows[name.split("_")[1]]])
    user = User.objects.create_user("viewer", password="x", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__startswith="view_"))
    client.force_login(user)
    assert client.get(url).status_code == 403
    assert client.post(url).status_code == 403
    user.user_permissions.add(Permission.objects.get(codename=needed))
    assert client.get(url).status_code in (200, 302)


@pytest.mark.parametrize("name", ["portal_tunnel_changelist", "index", "portal_customer_change"])
def test_lists_show_the_first_of_many_ports_and_count_the_rest(
    page: Callable[..., str], acmeco: Customer, name: str
) -> None:
    create_tunnel(customer=acmeco, name="many", tcp_ports=range(101, 121), actor=STAFF)
    text = page(name, *([acmeco.pk] if name == "portal_customer_change" else []))
    assert "101, 102, 103, 104, 105, 106, 107, 108 <span title=" in text
    assert "+12 more</span>" in text


def test_lists_cut_long_names_and_show_the_whole_under_the_pointer(page: Callable[..., str], acmeco: Customer) -> None:
    host, name = ".".join(["abcdefghi"] * 8), "t" * 63
    tunnel = create_tunnel(customer=acmeco, name=name, host_names=[host], actor=STAFF)
    for listed in ("portal_tunnel_changelist", "index"):
        text = page(listed)
        assert f'<span title="{host}">{host[:47]}…</span>' in text
        assert f'<span title="{name}.acmeco">{name[:47]}…</span>' in text
    assert f"{name}.acmeco<" in re.sub("> | <", lambda found: found[0].strip(), page("portal_tunnel_change", tunnel.pk))


@pytest.mark.parametrize("name", ["portal_tunnel_changelist", "index"])
def test_a_tunnel_without_ports_and_host_names_has_none(page: Callable[..., str], acmeco: Customer, name: str) -> None:
    create_tunnel(customer=acmeco, name="bare", actor=STAFF)
    assert len(re.findall(r">\s*none\s*<", page(name))) == 2


def test_lists_that_are_empty_say_so(page: Callable[..., str], acmeco: Customer) -> None:
    assert "This customer has no tunnel." in page("portal_customer_change", acmeco.pk)
    tunnel = create_tunnel(customer=acmeco, name="test", actor=STAFF)
    text = page("portal_tunnel_change", tunnel.pk)
    assert "No client is connected." in text
    assert "No token was minted for this tunnel." in text
    mint_token(tunnel=tunnel, name="laptop", actor=STAFF)
    assert "No token was minted" not in page("portal_tunnel_change", tunnel.pk)
    assert "This customer has no tunnel." not in page("portal_customer_change", acmeco.pk)


def test_the_page_of_a_tunnel_explains_its_words(page: Callable[..., str], prod: Tunnel) -> None:
    text = page("portal_tunnel_change", prod.pk)
    assert "Address in the cluster" in text
    assert "Rises with every change to what is desired of the tunnel." in text


def test_staff_without_permissions_see_an_empty_overview(client: Client, prod: Tunnel) -> None:
    client.force_login(User.objects.create_user("new", password="x", is_staff=True))
    text = client.get(reverse("admin:index")).content.decode()
    assert "prod.acmeco" not in text
    assert "Choose a list on the left." in text


@pytest.mark.parametrize("name", ["portal_customer_changelist", "portal_tunnel_changelist", "index"])
def test_lists_need_no_more_queries_for_more_rows(
    staff: Client, acmeco: Customer, prod: Tunnel, name: str, django_assert_max_num_queries: Any
) -> None:
    def count() -> int:
        with django_assert_max_num_queries(100) as queries:
            staff.get(reverse(f"admin:{name}"))
        return len(queries)

    # The first request sets up the session.
    staff.get(reverse(f"admin:{name}"))
    few = count()
    for number in range(5):
        tunnel = create_tunnel(customer=acmeco, name=f"t{number}", tcp_ports=[100 + number], actor=STAFF)
        mint_token(tunnel=tunnel, name="laptop", actor=STAFF)
    assert count() == few


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda tunnel: disable_tunnel(tunnel=tunnel, actor=STAFF), "Disabled"),
        (lambda tunnel: suspend_customer(customer=tunnel.customer, actor=STAFF), "Customer suspended"),
        (lambda tunnel: revoke_token(token=tunnel.tokens.get(), actor=STAFF), "Revoked"),
    ],
)
def test_states_are_said_in_words(
    page: Callable[..., str], prod: Tunnel, token: str, change: Callable[[Tunnel], Any], words: str
) -> None:
    change(prod)
    assert words in page("portal_tunnel_change", prod.pk)
