// Tries the handler with session tokens of a test key. CUBBY_URL is a server with the migrations of this folder that
// believes the key (CLERK_JWT_KEY), with CUBBY_AUTH=jwt, CUBBY_SQL=users and CUBBY_PROVISIONING=on-proof.

import assert from "node:assert/strict";
import { test } from "node:test";

import { createClient } from "@libsql/client";
import { sql } from "drizzle-orm";
import { drizzle } from "drizzle-orm/libsql";

import { handler } from "./handler";
import { token } from "./token";

async function ask(bearer: string | undefined, method: string, query = "", body?: object) {
    const headers = bearer ? { authorization: `Bearer ${bearer}` } : undefined;
    const response = await handler(new Request(`http://app.example/api/lists${query}`, {
        method, headers, body: body && JSON.stringify(body),
    }));
    const text = await response.text();
    return { status: response.status, body: text ? JSON.parse(text) : null };
}

const ada = token("user_ada");

test("a list with its to-dos is made, read, changed and deleted", async () => {
    const made = await ask(ada, "POST", "", { name: "garden", what: ["water", "weed"] });
    assert.equal(made.status, 201, JSON.stringify(made));
    const [list] = (await ask(ada, "GET")).body;
    assert.deepEqual([list.name, list.todos.map((todo: { what: string }) => todo.what)], ["garden", ["water", "weed"]]);
    const done = await ask(ada, "PATCH", `?id=${list.todos[0].id}`);
    assert.deepEqual([done.body.done, typeof done.body.created], [true, "string"]);
    assert.equal((await ask(ada, "PATCH", "?id=4711")).status, 404);
    assert.equal((await ask(ada, "DELETE", `?id=${list.id}`)).status, 204);
    assert.deepEqual((await ask(ada, "GET")).body, []);
});

test("a transaction that fails leaves nothing", async () => {
    await ask(ada, "POST", "", { name: "once", what: ["a"] });
    assert.equal((await ask(ada, "POST", "", { name: "once", what: ["b"] })).status, 409);
    const found = (await ask(ada, "GET")).body;
    assert.deepEqual(found.map((list: { todos: unknown[] }) => list.todos.length), [1]);
});

test("one user's token opens no other user's database", async () => {
    assert.deepEqual((await ask(token("user_eve"), "GET")).body, []);
    const client = createClient({ url: `${process.env.CUBBY_URL}/user_ada/sql`, authToken: token("user_eve") });
    await assert.rejects(client.execute("SELECT 1"), /no such user/);
    client.close();
});

test("a token that is forged, over or absent is refused", async () => {
    const [head, , signature] = token("user_eve").split(".");
    const forged = [head, ada.split(".")[1], signature].join(".");
    assert.equal((await ask(forged, "GET")).status, 401);
    assert.equal((await ask(token("user_ada", -90), "GET")).status, 401);
    assert.equal((await ask(undefined, "GET")).status, 401);
});

test("a user's SQL does not change the schema, and says where that is done", async () => {
    const db = drizzle(createClient({ url: `${process.env.CUBBY_URL}/user_ada/sql`, authToken: ada }));
    await assert.rejects(db.run(sql`CREATE TABLE mine (x)`).catch((error) => Promise.reject(error.cause ?? error)), /CUBBY_MIGRATIONS/);
    db.$client.close();
});
