// The notes API as a careful Node developer would write it: hono, better-sqlite3 with prepared
// statements, a file a tenant, the open ones in an LRU. One process, as better-sqlite3 is
// synchronous and a tenant's file wants one writer. Durable: WAL, synchronous=FULL.

import { serve } from "@hono/node-server";
import Database from "better-sqlite3";
import { Hono } from "hono";
import { LRUCache } from "lru-cache";
import { customAlphabet } from "nanoid";
import { existsSync } from "node:fs";
import { join } from "node:path";

const [host, port, folder, room] = process.argv.slice(2);
if (!room) {
  console.error("usage: node server.js HOST PORT DATA_FOLDER TENANTS_KEPT_OPEN");
  process.exit(2);
}

const noteId = customAlphabet("abcdefghijklmnopqrstuvwxyz", 16);

const schema = `CREATE TABLE IF NOT EXISTS notes (
  seq INTEGER PRIMARY KEY,
  id TEXT NOT NULL UNIQUE,
  text TEXT NOT NULL,
  created INTEGER NOT NULL,
  updated INTEGER NOT NULL
) STRICT`;

const tenants = new LRUCache({ max: Number(room), dispose: (tenant) => tenant.db.close() });

/** The open tenant, or undefined when it has no file and must not get one. */
function open(user, { create = false } = {}) {
  let tenant = tenants.get(user);
  if (tenant) return tenant;
  const path = join(folder, `${user}.db`);
  if (!create && !existsSync(path)) return undefined;
  const db = new Database(path);
  db.pragma("journal_mode = WAL");
  db.pragma("synchronous = FULL");
  db.pragma("foreign_keys = ON");
  if (create) db.exec(schema);
  tenant = {
    db,
    insert: db.prepare("INSERT INTO notes (id, text, created, updated) VALUES (?, ?, ?, ?)"),
    list: db.prepare("SELECT * FROM notes WHERE seq > ? ORDER BY seq LIMIT ?"),
    read: db.prepare("SELECT * FROM notes WHERE id = ?"),
  };
  tenants.set(user, tenant);
  return tenant;
}

function toNote({ id, text, created, updated }) {
  return {
    id,
    text,
    created: new Date(created).toISOString(),
    updated: new Date(updated).toISOString(),
  };
}

const app = new Hono();

app.get("/readyz", (c) => c.body(null));

app.post("/:user", async (c) => {
  const { text } = await c.req.json();
  if (typeof text !== "string") return c.body(null, 422);
  const user = c.req.param("user");
  const id = `note_${noteId()}`;
  const now = Date.now();
  open(user, { create: true }).insert.run(id, text, now, now);
  const note = toNote({ id, text, created: now, updated: now });
  return c.json({ note }, 201, { Location: `/${user}/${id}` });
});

app.get("/:user", (c) => {
  const tenant = open(c.req.param("user"));
  if (!tenant) return c.notFound();
  const limit = Math.min(Number(c.req.query("limit") ?? 20), 100);
  const rows = tenant.list.all(Number(c.req.query("cursor") ?? 0), limit + 1);
  const page = rows.slice(0, limit);
  const answer = { notes: page.map(toNote) };
  if (rows.length > limit) answer.next_cursor = String(page.at(-1).seq);
  return c.json(answer);
});

app.get("/:user/:note", (c) => {
  const row = open(c.req.param("user"))?.read.get(c.req.param("note"));
  return row ? c.json({ note: toNote(row) }) : c.notFound();
});

serve({ fetch: app.fetch, hostname: host, port: Number(port) });
