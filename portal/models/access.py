"""Check what goes into Kubernetes objects as it is: who may connect, and quotas."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any

from django.core.exceptions import ValidationError

MOST_PEERS = 50
MOST_TERMS = 50
FIRST_YEAR, LAST_YEAR = 2000, 9000
SELECTORS = ("namespaceSelector", "podSelector")
OPERATORS = ("In", "NotIn", "Exists", "DoesNotExist")
# kubernetes.io/docs/concepts/overview/working-with-objects/labels: an optional DNS prefix, a name, and a value.
_NAME = "[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
LABEL_KEY = re.compile(rf"([a-z0-9]([-a-z0-9.]{{0,251}}[a-z0-9])?/)?{_NAME}")
LABEL_VALUE = re.compile(rf"({_NAME})?")
QUANTITY = re.compile(r"[0-9]{1,15}(\.[0-9]{1,6})?(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?")
RESOURCE = re.compile(r"[a-z0-9]([-a-z0-9./]{0,251}[a-z0-9])?")

# Not "invalid": where a code is one of JSONField's own, Django puts that one's message in place of ours.
MALFORMED = "malformed"
EXAMPLE = '[{"namespaceSelector": {"matchLabels": {"team": "billing"}}}]'


def validate_access(peers: Any) -> None:
    """Refuse what is no list of peers of a NetworkPolicy, each with a namespaceSelector, a podSelector or both.

    Raises:
        ValidationError: with a message that says what to do.
    """
    if not isinstance(peers, list):
        raise ValidationError(f"Write a list of peers, such as {EXAMPLE}.", code=MALFORMED)
    if len(peers) > MOST_PEERS:
        raise ValidationError(f"List {MOST_PEERS} peers at most.", code="too_many")
    for place, peer in enumerate(peers, 1):
        if not isinstance(peer, dict) or not peer or set(peer) - set(SELECTORS):
            raise ValidationError(
                f"Peer {place} is not understood. Give it a namespaceSelector, a podSelector or both, as in {EXAMPLE}.",
                code=MALFORMED,
            )
        for name, selector in peer.items():
            if not _is_selector(selector):
                raise ValidationError(
                    f"The {name} of peer {place} is no label selector. Write matchLabels or matchExpressions, "
                    f"as in {EXAMPLE}.",
                    code=MALFORMED,
                )


def validate_quota(quota: Any) -> None:
    """Refuse what is no ``hard`` of a ResourceQuota: names of resources with their quantities.

    Raises:
        ValidationError: with a message that says what to do.
    """
    if not isinstance(quota, dict) or len(quota) > MOST_TERMS:
        raise ValidationError('Write names with quantities, such as {"count/services": "50"}.', code=MALFORMED)
    for name, amount in quota.items():
        if not (RESOURCE.fullmatch(str(name)) and isinstance(amount, str) and QUANTITY.fullmatch(amount)):
            raise ValidationError(
                f"“{str(name)[:80]}” is not understood. Write a resource and its quantity as text, such as "
                '"count/services": "50".',
                code=MALFORMED,
            )


def validate_expiry(when: datetime) -> None:
    """Refuse times that not every program can write down (RFC 3339 has four digits for a year).

    Raises:
        ValidationError: with a message that says what to do.
    """
    if not FIRST_YEAR <= when.year <= LAST_YEAR:
        raise ValidationError(f"Choose a time between the years {FIRST_YEAR} and {LAST_YEAR}.", code="range")


def _is_selector(selector: Any) -> bool:
    if not isinstance(selector, dict) or set(selector) - {"matchLabels", "matchExpressions"}:
        return False
    labels, expressions = selector.get("matchLabels", {}), selector.get("matchExpressions", [])
    return (
        isinstance(labels, dict)
        and isinstance(expressions, list)
        and len(labels) <= MOST_TERMS
        and len(expressions) <= MOST_TERMS
        and all(_is_key(key) and _is_value(value) for key, value in labels.items())
        and all(_is_expression(expression) for expression in expressions)
    )


def _is_expression(expression: Any) -> bool:
    if not isinstance(expression, dict) or set(expression) - {"key", "operator", "values"}:
        return False
    values, operator = expression.get("values", []), expression.get("operator")
    has_values = operator in ("In", "NotIn")
    return (
        _is_key(expression.get("key"))
        and operator in OPERATORS
        and isinstance(values, list)
        and bool(values) is has_values
        and len(values) <= MOST_TERMS
        and all(_is_value(value) for value in values)
    )


def _is_key(key: Any) -> bool:
    return isinstance(key, str) and LABEL_KEY.fullmatch(key) is not None


def _is_value(value: Any) -> bool:
    return isinstance(value, str) and LABEL_VALUE.fullmatch(value) is not None
