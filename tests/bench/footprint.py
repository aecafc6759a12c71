"""footprint.py - what a server takes beside time: memory for an idle connection, user-space instructions for a message."""
import sys

from idle import hold
from instructions import LOAD, per_message
from servers import NotHere

HELD = 4000 # idle connections, or as many as the server can hold


def connection_bytes(server, client):
    """Private memory of the server's processes. Raises NotHere."""
    held = hold([server], [min(HELD, server.spec.get("connections", HELD))], client)
    if "failed" in held:
        raise NotHere(held["failed"])
    return held["bytes"]


def message_instructions(server, client):
    return per_message(server.spec, server.values["portico"], server.values["build"], client, LOAD)


KINDS = {"bytes": connection_bytes, "instructions": message_instructions}


def footprints(servers, client):
    """{server: {"bytes": of a connection, "instructions": of a message, "why_not": {one of these: the reason why it is None}}}"""
    found = {}
    for server in servers:
        print(f"== memory and instructions: {server.name}", file=sys.stderr)
        row = found[server.name] = {"why_not": {}}
        for kind, measure in KINDS.items():
            try:
                row[kind] = measure(server, client)
            except NotHere as error:
                row[kind], row["why_not"][kind] = None, str(error)
    return found
