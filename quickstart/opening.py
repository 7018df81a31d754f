"""``python -m quickstart.opening CUSTOMER/TUNNEL``: open what a member of staff may have closed in the last run."""

import sys

import django


def open_tunnel(path: str) -> None:
    """Resume the customer and enable the tunnel that ``customer/tunnel`` names; what is open already stays as it is."""
    # Models can be imported once Django is set up.
    from portal.management.base import find_tunnel, read_actor  # noqa: PLC0415
    from portal.services.customers import resume_customer  # noqa: PLC0415
    from portal.services.tunnels import enable_tunnel  # noqa: PLC0415

    tunnel = find_tunnel(path)
    resume_customer(customer=tunnel.customer, actor=read_actor())
    enable_tunnel(tunnel=tunnel, actor=read_actor())


if __name__ == "__main__":
    django.setup()
    open_tunnel(sys.argv[1])
