// The notes API as a plain Durable Objects worker: an object a tenant, its notes in the object's
// own SQLite. No framework, no ORM. The object answers over RPC, and a reply leaves only after
// what it wrote is committed (the output gate).

import { DurableObject } from "cloudflare:workers";

const letters = "abcdefghijklmnopqrstuvwxyz";

function noteId() {
  let id = "note_";
  while (id.length < 21) {
    // 234 is the largest multiple of 26 in a byte: above it the letters would not be equally likely.
    for (const byte of crypto.getRandomValues(new Uint8Array(20))) {
      if (byte < 234 && id.length < 21) id += letters[byte % 26];
    }
  }
  return id;
}

function toNote({ id, text, created, updated }) {
  return {
    id,
    text,
    created: new Date(created).toISOString(),
    updated: new Date(updated).toISOString(),
  };
}

export class Tenant extends DurableObject {
  constructor(ctx, env) {
    super(ctx, env);
    this.sql = ctx.storage.sql;
    // A tenant that was only read stays without a table, so reading creates nothing.
    this.exists = this.sql.exec("SELECT 1 FROM sqlite_master WHERE name = 'notes'").toArray().length > 0;
  }

  create(text) {
    if (!this.exists) {
      this.sql.exec(
        "CREATE TABLE notes (seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, text TEXT NOT NULL, " +
          "created INTEGER NOT NULL, updated INTEGER NOT NULL) STRICT",
      );
      this.exists = true;
    }
    const now = Date.now();
    const id = noteId();
    this.sql.exec("INSERT INTO notes (id, text, created, updated) VALUES (?, ?, ?, ?)", id, text, now, now);
    return toNote({ id, text, created: now, updated: now });
  }

  list(limit, cursor) {
    if (!this.exists) return null;
    const rows = this.sql
      .exec("SELECT * FROM notes WHERE seq > ? ORDER BY seq LIMIT ?", cursor, limit + 1)
      .toArray();
    const page = rows.slice(0, limit);
    const answer = { notes: page.map(toNote) };
    if (rows.length > limit) answer.next_cursor = String(page.at(-1).seq);
    return answer;
  }

  read(id) {
    if (!this.exists) return null;
    const [row] = this.sql.exec("SELECT * FROM notes WHERE id = ?", id).toArray();
    return row ? toNote(row) : null;
  }
}

const problem = (status) => new Response(null, { status });

export default {
  async fetch(request, env) {
    const url = new URL(request.url);
    const [, user, id] = url.pathname.split("/");
    if (user === "readyz") return new Response(null);
    if (!user) return problem(404);
    const tenant = env.TENANTS.getByName(decodeURIComponent(user));

    if (id === undefined && request.method === "POST") {
      const { text } = await request.json();
      if (typeof text !== "string") return problem(422);
      const note = await tenant.create(text);
      return Response.json({ note }, { status: 201, headers: { location: `/${user}/${note.id}` } });
    }
    if (request.method !== "GET") return problem(405);
    if (id === undefined) {
      const limit = Math.min(Number(url.searchParams.get("limit") ?? 20), 100);
      const page = await tenant.list(limit, Number(url.searchParams.get("cursor") ?? 0));
      return page ? Response.json(page) : problem(404);
    }
    const note = await tenant.read(id);
    return note ? Response.json({ note }) : problem(404);
  },
};
