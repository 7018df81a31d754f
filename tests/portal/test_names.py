"""What a customer, a tunnel and a host may be called."""

import pytest
from django.core.exceptions import ValidationError

from portal.models.names import (
    RESERVED_CUSTOMERS,
    RESERVED_TUNNELS,
    validate_customer_name,
    validate_host_name,
    validate_tunnel_name,
)

LABEL_RULE = "Use 1 to 63 lower-case letters, digits and hyphens; the first and last character are no hyphen."
NOT_LABELS = ["", "-acme", "acme-", "Acme", "acme.co", "acme_co", "acme co", "acmé", "acme\n", "a" * 64, "١٢٣"]


@pytest.mark.parametrize("name", ["acmeco", "abc", "a", "4u", "acme-co", "a--b", "a" * 63])
def test_dns_labels_are_customer_names(name: str) -> None:
    validate_customer_name(name)


@pytest.mark.parametrize("name", NOT_LABELS)
@pytest.mark.parametrize("validate", [validate_customer_name, validate_tunnel_name])
def test_what_is_no_dns_label_is_refused(validate, name: str) -> None:
    with pytest.raises(ValidationError) as refusal:
        validate(name)
    assert refusal.value.messages == [LABEL_RULE]


@pytest.mark.parametrize("name", [*sorted(RESERVED_CUSTOMERS), "kube-system", "kube-anything", "moorline-x"])
def test_reserved_customer_names_are_refused(name: str) -> None:
    with pytest.raises(ValidationError) as refusal:
        validate_customer_name(name)
    assert refusal.value.messages == [f"“{name}” is reserved. Choose another name."]


@pytest.mark.parametrize(
    "name", ["admin", "api", "static", "healthz", "readyz", "default", "status", "ws", "com", "svc"]
)
def test_names_that_would_take_over_a_path_a_namespace_or_a_domain_are_reserved(name: str) -> None:
    assert name in RESERVED_CUSTOMERS


def test_a_customer_is_not_named_as_a_country_domain() -> None:
    with pytest.raises(ValidationError, match="country's domain"):
        validate_customer_name("de")


@pytest.mark.parametrize("name", ["prod", "de", "com", "p", "a1", "p" * 63])
def test_dns_labels_that_begin_with_a_letter_are_tunnel_names(name: str) -> None:
    validate_tunnel_name(name)


def test_a_tunnel_name_begins_with_a_letter_as_a_service_does() -> None:
    with pytest.raises(ValidationError) as refusal:
        validate_tunnel_name("1prod")
    assert refusal.value.messages == ["Begin with a letter: the name becomes the name of a Service."]


@pytest.mark.parametrize("name", [*sorted(RESERVED_TUNNELS), "kube-dns", "moorline-gateway"])
def test_reserved_tunnel_names_are_refused(name: str) -> None:
    with pytest.raises(ValidationError) as refusal:
        validate_tunnel_name(name)
    assert refusal.value.messages == [f"“{name}” is reserved. Choose another name."]


@pytest.mark.parametrize("name", ["identity1.local", "intranet", "xn--bcher-kva.example", "1.example", "a.b.c.d"])
def test_dns_names_are_host_names(name: str) -> None:
    validate_host_name(name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "“” is not a host name. Write one such as intranet.local."),
        ("Identity1.local", "“Identity1.local” is not a host name. Write one such as intranet.local."),
        ("a..b", "“a..b” is not a host name. Write one such as intranet.local."),
        ("*.local", "“*.local” is not a host name. Write one such as intranet.local."),
        ("a_b.local", "“a_b.local” is not a host name. Write one such as intranet.local."),
        ("http://a.local", "“http://a.local” is not a host name. Write one such as intranet.local."),
        ("a.local:80", "“a.local:80” is not a host name. Write one such as intranet.local."),
        ("a" * 64, f"“{'a' * 64}” is not a host name. Write one such as intranet.local."),
        ("abc." * 63 + "ab", f"“{'abc.' * 20}” is not a host name. Write one such as intranet.local."),
        ("10.0.0.1", "“10.0.0.1” is an address. Write a host name, such as intranet.local."),
        ("::1", "“::1” is an address. Write a host name, such as intranet.local."),
        ("bücher.local", "“bücher.local” has letters outside ASCII. Write it in its xn-- form, as browsers send it."),
    ],
)
def test_what_is_no_host_name_is_refused_with_what_to_write(name: str, message: str) -> None:
    with pytest.raises(ValidationError) as refusal:
        validate_host_name(name)
    assert refusal.value.messages == [message]
