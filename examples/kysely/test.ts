// Tries the journal against CUBBY_URL, a server with the migrations of this folder and the users ada and eve.

import assert from "node:assert/strict";
import { test } from "node:test";

import { LibsqlDialect } from "@libsql/kysely-libsql";
import { Kysely, sql } from "kysely";

import { byDay, openJournal, type Tables, write } from "./journal";

const server = process.env.CUBBY_URL ?? "http://127.0.0.1:8080";

for (const [name, user, open] of [
    ["the newest client", "ada", () => openJournal(server, "ada")],
    ["the dialect's own client", "eve", () => new Kysely<Tables>({ dialect: new LibsqlDialect({ url: `${server}/eve/sql` }) })],
] as const) {
    test(`${name}: creates, reads, updates and deletes`, async () => {
        const journal = open();
        const { id } = await write(journal, "2026-03-01", "planted an ash", 0.5);
        await write(journal, "2026-03-01", "it rained", 1);
        await write(journal, "2026-03-02", "nothing");
        assert.deepEqual(await byDay(journal), [
            { day: "2026-03-01", entries: 2, mood: 0.75 },
            { day: "2026-03-02", entries: 1, mood: null },
        ]);
        const changed = await journal.updateTable("entries").set({ mood: 0 }).where("id", "=", id).executeTakeFirst();
        assert.equal(changed.numUpdatedRows, 1n);
        const gone = await journal.deleteFrom("days").where("day", "=", "2026-03-01").executeTakeFirst();
        assert.equal(gone.numDeletedRows, 1n);
        assert.deepEqual((await byDay(journal)).map((day) => day.day), ["2026-03-02"]);
        await journal.destroy();
    });

    test(`${name}: a transaction that throws leaves nothing, one that is controlled commits`, async () => {
        const journal = open();
        const before = await byDay(journal);
        await assert.rejects(journal.transaction().execute(async (tx) => {
            await tx.insertInto("days").values({ day: "2026-04-01" }).execute();
            await tx.insertInto("entries").values({ day: "2026-04-02", text: "no such day" }).execute();
        }), /FOREIGN KEY/);
        assert.deepEqual(await byDay(journal), before);
        const held = await journal.startTransaction().execute();
        await held.insertInto("days").values({ day: "2026-04-01" }).execute();
        await held.rollback().execute();
        assert.equal((await journal.selectFrom("days").selectAll().execute()).length, 1);
        await journal.destroy();
    });

    test(`${name}: introspection`, async () => {
        const journal = open();
        const tables = await journal.introspection.getTables();
        const entries = tables.find((table) => table.name === "entries");
        assert.deepEqual(entries?.columns.map((column) => [column.name, column.dataType, column.isNullable]), [
            ["id", "INTEGER", true], ["day", "TEXT", false], ["text", "TEXT", false], ["mood", "REAL", true],
        ]);
        await journal.destroy();
    });

    test(`${name}: refuses what would change the schema`, async () => {
        const journal = open();
        await assert.rejects(sql`CREATE TABLE mine (x)`.execute(journal), /CUBBY_MIGRATIONS/);
        await journal.destroy();
    });
}
