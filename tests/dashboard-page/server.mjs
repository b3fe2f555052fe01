// A real server with a folder of its own, what the identity provider and operators send to it, and its tenants.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { createHash, createHmac, randomBytes } from "node:crypto";
import { mkdirSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { createInterface } from "node:readline";

/** A server whose data are in `data` of its folder; `again` starts it there once more. */
export class Server {
  key = randomBytes(16).toString("hex");
  secret = randomBytes(24);
  log = [];

  constructor(cubby, folder, settings = []) {
    Object.assign(this, { cubby, folder, settings, address: "127.0.0.1:0" });
  }

  static async start(...given) {
    const server = new Server(...given);
    await server.again();
    return server;
  }

  async again() {
    const all = ["--listen", this.address, "--data", "data", "--log-format", "text", ...this.settings];
    const env = { ...process.env, ADMIN_API_KEY: this.key, CLERK_WEBHOOK_SECRET: `whsec_${this.secret.toString("base64")}` };
    mkdirSync(this.folder, { recursive: true });
    this.child = spawn(this.cubby, all, { cwd: this.folder, env, stdio: ["ignore", "ignore", "pipe"] });
    this.ended = new Promise((ended) => this.child.once("exit", ended));
    this.address = await new Promise((found, reject) => {
      createInterface({ input: this.child.stderr }).on("line", (line) => {
        this.log.push(line);
        const [, address] = line.match(/serving on http:\/\/([0-9.:]+)/) ?? [];
        if (address) found(address);
      });
      this.ended.then((code) => reject(new Error(`the server ended with ${code}\n${this.log.join("\n")}`)));
    });
    this.url = `http://${this.address}`;
  }

  async stop() {
    this.child.kill("SIGTERM");
    await this.ended;
  }

  /** A request to one of the operators' routes. */
  async operator(method, path, body) {
    const headers = { authorization: `Bearer ${this.key}`, "content-type": "application/json" };
    const answer = await fetch(`${this.url}/api/admin${path}`, { method, headers, body: body && JSON.stringify(body) });
    const text = await answer.text();
    assert.ok(answer.ok, `${method} ${path}: ${answer.status} ${text}`);
    return JSON.parse(text);
  }

  /** Signs in as the form does, and gives the session's cookie. */
  async session() {
    const page = await fetch(`${this.url}/admin/sign-in`);
    const [, csrf] = (await page.text()).match(/name="csrf" value="([^"]+)"/);
    const headers = { cookie: page.headers.get("set-cookie").split(";")[0] };
    const body = new URLSearchParams({ csrf, key: this.key });
    const answer = await fetch(`${this.url}/admin/sign-in`, { method: "POST", headers, body, redirect: "manual" });
    const [name, value] = answer.headers.getSetCookie()[0].split(";")[0].split("=");
    return { name, value, domain: "127.0.0.1", path: "/admin", httpOnly: true, sameSite: "Strict" };
  }

  /** Sends a signed delivery, and gives the status. Whatever is not text is sent as JSON. */
  async deliver(event, id = `msg_${randomBytes(9).toString("hex")}`) {
    const body = typeof event === "string" ? event : JSON.stringify(event);
    const at = Math.floor(Date.now() / 1000);
    const mac = createHmac("sha256", this.secret).update(`${id}.${at}.${body}`).digest("base64");
    const headers = { "svix-id": id, "svix-timestamp": `${at}`, "svix-signature": `v1,${mac}`, "content-type": "application/json" };
    return (await fetch(`${this.url}/webhooks/clerk`, { method: "POST", headers, body })).status;
  }

  /** Writes a note as the tenant's user. */
  async note(id, text) {
    const headers = { "content-type": "application/json" };
    return fetch(`${this.url}/${encodeURIComponent(id)}`, { method: "POST", headers, body: JSON.stringify({ text }) });
  }

  /** Makes these tenants' files something else than databases, and has the server find that. */
  async spoil(...ids) {
    const paths = [];
    for (const id of ids) paths.push((await this.operator("GET", `/tenants/${encodeURIComponent(id)}`)).path);
    await this.stop();
    for (const path of paths) writeFileSync(resolve(this.folder, path), "this is no database\n".repeat(1000));
    await this.again();
    for (const id of ids) await (await fetch(`${this.url}/${encodeURIComponent(id)}`)).body?.cancel();
  }
}

/** The provider's event of a user who has signed up. */
export const signedUp = ({ id, first, last, email, ...more }) => ({
  type: "user.created", timestamp: Date.now(),
  data: { id, first_name: first, last_name: last, email_addresses: [{ id: "a", email_address: email }], ...more },
});

const FIRST = "Ada Grace Alan Edsger Barbara Donald Radia Ken Frances Tony Katherine Niklaus Margaret Dennis Hedy".split(" ");
const LAST = "Lovelace Hopper Turing Dijkstra Liskov Knuth Perlman Thompson Allen Hoare Johnson Wirth Hamilton".split(" ");
const DOMAINS = ["example.com", "example.org", "mail.example"];

/** A user of the many; `at` is their number. */
export function person(at) {
  const [first, last] = [FIRST[at % FIRST.length], LAST[at % LAST.length]];
  const id = createHash("sha256").update(`${at}`).digest("base64url").replace(/[-_]/g, "x").slice(0, 20);
  const email = `${first}.${last}.${at}@${DOMAINS[at % DOMAINS.length]}`.toLowerCase();
  return { id: `user_${id}`, first, last, email };
}

/** Runs over all, some at once. */
async function each(all, run) {
  const rest = all.values();
  await Promise.all(Array.from({ length: 16 }, async () => {
    for (const item of rest) await run(item);
  }));
}

export const MANY = 1000;

/** A server with a thousand tenants, some of which need attention. */
export async function many(cubby, work) {
  const server = await Server.start(cubby, join(work, "many"));
  await each(Array.from({ length: MANY }, (_, at) => at), async (at) => {
    assert.equal(await server.deliver(signedUp(person(at))), 200);
    if (at % 25 === 0) assert.ok((await server.note(person(at).id, "buy milk ".repeat(at))).ok);
  });
  await server.operator("POST", `/tenants/${person(7).id}/suspend`, { reason: "three unpaid bills" });
  await server.operator("POST", `/tenants/${person(19).id}/suspend`, { reason: "asked for a pause" });
  await server.operator("DELETE", `/tenants/${person(31).id}`);
  await server.operator("POST", "/keys", { name: "nightly report", read_only: true, expires_in: 90 * 24 * 3600 });
  assert.equal(await server.deliver({ type: "user.created", data: { id: "not an id" } }), 422);
  assert.equal(await server.deliver({ type: "session.created", data: { user_id: person(3).id } }), 200);
  await server.spoil(person(43).id);
  return server;
}
