"""SQL over HTTP: the same statements for each server that speaks it, as libSQL's clients send them."""

import http.client
import json

from . import load
from .problem import Problem

# What Cubby's users have. A namespace of libSQL's server begins empty.
SCHEMA = """CREATE TABLE notes (
    id      TEXT    NOT NULL PRIMARY KEY,
    text    TEXT    NOT NULL,
    created INTEGER NOT NULL,
    updated INTEGER NOT NULL
) STRICT, WITHOUT ROWID"""
SELECT = "SELECT id, text, created, updated FROM notes WHERE id = ?"
INSERT = "INSERT INTO notes (id, text, created, updated) VALUES (?, ?, ?, ?)"
# `load.lua` puts another one in its place.
UNSET = "note_0000000000000000"
NOW = 1_790_000_000_000


def argument(value):
    if isinstance(value, int):
        return {"type": "integer", "value": str(value)}
    return {"type": "text", "value": value}


def statement(sql, *args):
    return {"sql": sql, "args": [argument(value) for value in args], "want_rows": True}


def execute(sql, *args):
    return {"type": "execute", "stmt": statement(sql, *args)}


def batch(*statements):
    return {"type": "batch", "batch": {"steps": [{"stmt": one} for one in statements]}}


def insert(note):
    return statement(INSERT, note, load.TEXT, NOW, NOW)


def post(server, user, *requests):
    """Host, path and body of a pipeline in a stream of its own."""
    body = json.dumps({"requests": [*requests, {"type": "close"}]}, separators=(",", ":"))
    if server.name == "sqld":
        return f"{user}.localhost", "/v2/pipeline", body
    return "localhost", f"/{user}/sql/v2/pipeline", body


def selects(server, notes):
    return [post(server, user, execute(SELECT, note)) for user, note in notes]


def inserts(server, notes):
    return [post(server, user, batch(insert(UNSET))) for user in users_of(notes)]


def send(server, client, post):
    """The results of a pipeline."""
    host, path, body = post
    status, _, answer, _ = client.request("POST", path, body.encode(), host=host)
    if status != 200 or b'"type":"error"' in answer or b'"step_errors":[{' in answer:
        raise Problem(f"{server.name}: {path} for {host} answered {status}: {answer[:300]!r}")
    return json.loads(answer)["results"]


def make(server, user):
    """A database that is not there yet."""
    if server.name != "sqld":
        return
    connection = http.client.HTTPConnection("127.0.0.1", server.admin_port, timeout=30)
    connection.request("POST", f"/v1/namespaces/{user}/create", "{}", {"content-type": "application/json"})
    status = connection.getresponse().status
    connection.close()
    if status != 200:
        raise Problem(f"{server.name}: creating {user} answered {status}")


def seed(server, tenants, notes, first=0):
    """Writes `notes` notes for each tenant; returns every user and id."""
    if server.name != "sqld":
        paths = load.seed(server, tenants, notes, first=first)
        return [tuple(path.strip("/").split("/")) for path in paths]
    made = []

    def work(client, user):
        make(server, user)
        ids = [f"note_{number:016}" for number in range(1, notes + 1)]
        send(server, client, post(server, user, execute(SCHEMA), *(execute(INSERT, note, load.TEXT, NOW, NOW)
                                                                   for note in ids)))
        made.extend((user, note) for note in ids)

    load.for_each(server, load.names(tenants, first), work)
    return made


def users_of(notes):
    return sorted({user for user, _ in notes})


def touch(server, notes):
    """Reads one note of each tenant."""
    by_user = dict(notes)

    def work(client, user):
        send(server, client, post(server, user, execute(SELECT, by_user[user])))

    load.for_each(server, users_of(notes), work)


def count(server, notes):
    """How many notes these tenants have."""
    counts = []

    def work(client, user):
        result = send(server, client, post(server, user, execute("SELECT count(*) FROM notes")))[0]
        counts.append(int(result["response"]["result"]["rows"][0][0]["value"]))

    load.for_each(server, users_of(notes), work)
    return sum(counts)
