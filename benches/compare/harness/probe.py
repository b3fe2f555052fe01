"""Before anything is measured: does each server start, and answer in the agreed shapes?

Cubby's own answers are kept, for the limit server to repeat: a header that Cubby adds is then paid
for on both sides, and cannot drift from what the limit sends."""

import json

from . import sql
from .load import BODY, TEXT, Client
from .problem import Problem

TENANT = "user_probe"


def expect(name, what, status, wanted, body, shape):
    text = body.decode(errors="replace")
    if status != wanted:
        raise Problem(f"{name}: {what} answered {status}, not {wanted}: {text[:200]}")
    try:
        matches = shape(json.loads(text))
    except (ValueError, KeyError, TypeError, IndexError):
        matches = False
    if not matches:
        raise Problem(f"{name}: {what} answered in another shape: {text[:200]}")


def is_note(note):
    # Twenty-four characters are RFC 3339 in UTC with milliseconds.
    return (
        list(note) == ["id", "text", "created", "updated"]
        and note["id"].startswith("note_") and len(note["id"]) == 21
        and note["text"] == TEXT
        and len(note["created"]) == 24 and note["created"].endswith("Z")
    )


def probe(server, keep=None):
    """Checks the three routes; returns the size of each response on the wire."""
    client = Client(server.port)
    for _ in range(20):
        created = client.request("POST", f"/{TENANT}", BODY)
    expect(server.name, "POST", created[0], 201, created[2], lambda answer: is_note(answer["note"]))
    location = created[1].get("location", "")
    if f"/{TENANT}/note_" not in location and server.stores:
        raise Problem(f"{server.name}: POST answered without a Location")
    note = json.loads(created[2])["note"]["id"]
    listed = client.request("GET", f"/{TENANT}?limit=20")
    expect(server.name, "GET list", listed[0], 200, listed[2],
           lambda answer: list(answer) == ["notes"] and len(answer["notes"]) == 20
           and all(map(is_note, answer["notes"])))
    one = client.request("GET", f"/{TENANT}/{note}")
    expect(server.name, "GET note", one[0], 200, one[2], lambda answer: is_note(answer["note"]))
    if server.stores:
        status = client.request("GET", f"/user_nobody/{note}")[0]
        if status != 404:
            raise Problem(f"{server.name}: a note of a tenant that does not exist answered {status}, not 404")
    client.close()
    sizes = {}
    for name, (_, _, body, head) in (("create", created), ("list", listed), ("read", one)):
        sizes[name] = len(head) + 4 + len(body)
        if keep:
            (keep / f"{name}.http").write_bytes(head + b"\r\n\r\n" + body)
    return sizes


def probe_sql(server, keep=None):
    """The same of SQL over HTTP: one row by its key."""
    note = sql.seed(server, 1, 1, first=999_999)[0]
    client = Client(server.port)
    host, path, body = sql.selects(server, [note])[0]
    status, _, answer, head = client.request("POST", path, body.encode(), host=host)
    client.close()

    def is_row(answer):
        row = answer["results"][0]["response"]["result"]["rows"][0]
        return len(row) == 4 and row[1] == {"type": "text", "value": TEXT}

    expect(server.name, "SELECT", status, 200, answer, is_row)
    if keep:
        (keep / "select.http").write_bytes(head + b"\r\n\r\n" + answer)
    return {"select": len(head) + 4 + len(answer)}
