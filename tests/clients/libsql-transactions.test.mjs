// @libsql/client against a user's database, batches and transactions: what its authors try servers with, in cases of our
// own. Those that ask no server (addresses, files, databases in memory) are left out.

import assert from "node:assert/strict";

import { about, fresh } from "./lib.mjs";
import { cells, fails, failsAt, first, using, withTable } from "./libsql.mjs";

const batch = about("batch");

batch("queries", using(async (client) => {
    const results = await client.batch([
        "SELECT 2 * 3",
        "SELECT 1 AS a, 2 AS b",
        { sql: "SELECT ?", args: ["ash"] },
        ["VALUES (?), (?)", ["oak", "elm"]],
    ], "read");
    assert.deepEqual(results.map(cells), [[[6]], [[1, 2]], [["ash"]], [["oak"], ["elm"]]]);
}));

batch("runs one after the other", using(async (client) => {
    const results = await client.batch([
        ...fresh("t", "a, b"),
        "INSERT INTO t VALUES (1, 'x')",
        "SELECT * FROM t ORDER BY a",
        "INSERT INTO t VALUES (2, 'y')",
        "SELECT * FROM t ORDER BY a",
        "DROP TABLE t",
    ], "write");
    assert.deepEqual([results[3], results[5]].map(cells), [[[1, "x"]], [[1, "x"], [2, "y"]]]);
}));

batch("is a transaction, among many at once", using(async (client) => {
    await client.batch([...fresh("t", "a"), ...fresh("u", "a")], "write");
    const count = 100;
    await Promise.all(Array.from({ length: count }, async (_, i) => {
        const results = await client.batch([
            { sql: "INSERT INTO t VALUES (?)", args: [i] },
            { sql: "INSERT INTO u VALUES (?)", args: [i * 7] },
            "SELECT sum(a) FROM t",
            "SELECT sum(a) FROM u",
        ], "write");
        assert.equal(results[3].rows[0][0], results[2].rows[0][0] * 7);
    }));
    assert.equal(await first(client, "SELECT sum(a) FROM t"), (count * (count - 1)) / 2);
}));

batch("an error", using((client) => fails(client.batch(["SELECT 1", "SELECT no_such"], "read"))));

batch("an error rolls back", withTable("a", async (client) => {
    await client.execute("INSERT INTO t VALUES (1)");
    await fails(client.batch(["INSERT INTO t VALUES (2)", "SELECT no_such", "INSERT INTO t VALUES (3)"], "write"));
    assert.equal(await first(client, "SELECT count(*) FROM t"), 1);
}));

for (const index of [0, 1, 2]) {
    batch(`names the statement ${index} that failed`, using(async (client) => {
        const statements = ["SELECT 1", "SELECT 2", "SELECT 3"];
        statements[index] = "SELECT nothing_of_the_kind";
        await failsAt(client.batch(statements, "read"), index);
    }));
}

batch("names the statement that conflicted, and rolls back", withTable("a UNIQUE", async (client) => {
    await client.execute("INSERT INTO t VALUES (1)");
    const conflict = [2, 3, 1, 4].map((a) => `INSERT INTO t VALUES (${a})`);
    await failsAt(client.batch(conflict, "write"), 2);
    assert.equal(await first(client, "SELECT count(*) FROM t"), 1);
}));

batch("a thousand different statements", using(async (client) => {
    const results = await client.batch(Array.from({ length: 1000 }, (_, i) => `SELECT ${i}`), "read");
    assert.deepEqual(results.map((result) => result.rows[0][0]), Array.from({ length: 1000 }, (_, i) => i));
}));

batch("four thousand of a few texts", using(async (client) => {
    const statements = Array.from({ length: 4000 }, (_, i) => ({ sql: `SELECT ?, ${i % 200}`, args: [i] }));
    const results = await client.batch(statements, "read");
    for (const [i, result] of results.entries()) {
        assert.deepEqual(cells(result), [[i, i % 200]]);
    }
}));

batch("deferred", using(async (client) => {
    const results = await client.batch(["SELECT 1", ...fresh("t", "a"), "INSERT INTO t VALUES (4) RETURNING a * a"], "deferred");
    assert.deepEqual(cells(results[3]), [[16]]);
}));

batch("to read only refuses to write", withTable("a", (client) =>
    fails(client.batch(["INSERT INTO t VALUES (1)"], "read"), "SQLITE_READONLY")));

batch("with ROLLBACK in it keeps nothing", withTable("a", async (client) => {
    await assert.rejects(client.batch(["INSERT INTO t VALUES (1)", "ROLLBACK", "INSERT INTO t VALUES (2)"], "write"));
    // Version 2 cannot ask whether the transaction is still open, so what comes behind ROLLBACK runs.
    assert.equal(await first(client, "SELECT count(*) FROM t WHERE a = 1"), 0);
}));

batch("migrate() is one transaction without foreign keys", using(async (client) => {
    await client.batch(["DROP TABLE IF EXISTS child", "DROP TABLE IF EXISTS parent"], "write");
    await client.migrate(["CREATE TABLE parent (id INTEGER PRIMARY KEY)", "CREATE TABLE child (p REFERENCES parent)",
        "INSERT INTO child VALUES (1)"]);
    assert.equal(await first(client, "SELECT count(*) FROM child"), 1);
    await fails(client.execute("INSERT INTO child VALUES (2)"), "SQLITE_CONSTRAINT");
    await client.batch(["DROP TABLE child", "DROP TABLE parent"], "write");
}));

const transaction = about("transaction");

transaction("rows", using(async (client) => {
    const open = await client.transaction("read");
    assert.deepEqual(cells(await open.execute("VALUES (1, 'a'), (2, 'b')")), [[1, "a"], [2, "b"]]);
    open.close();
}));

for (const [end, kept] of [["commit", 2], ["rollback", 0], ["close", 0]]) {
    transaction(`${end}()`, withTable("a", async (client) => {
        const open = await client.transaction("write");
        await open.execute("INSERT INTO t VALUES (1)");
        await open.execute("INSERT INTO t VALUES (2)");
        assert.equal(open.closed, false);
        await open[end]();
        assert.equal(open.closed, true);
        assert.equal(await first(client, "SELECT count(*) FROM t"), kept);
        await fails(open.execute("SELECT 1"), "TRANSACTION_CLOSED");
    }));
}

for (const mode of ["write", "read", "deferred"]) {
    for (const end of ["commit", "rollback"]) {
        transaction(`${mode}, ${end}() of nothing`, using(async (client) => (await client.transaction(mode))[end]()));
    }
}

transaction("an error does not roll back", withTable("a", async (client) => {
    const open = await client.transaction("write");
    await fails(open.execute("SELECT no_such"));
    await open.execute("INSERT INTO t VALUES (1)");
    await fails(open.execute("SELECT no_such"));
    await open.commit();
    assert.equal(await first(client, "SELECT count(*) FROM t"), 1);
}));

transaction("to read only refuses to write", withTable("a", async (client) => {
    const open = await client.transaction("read");
    await fails(open.execute("INSERT INTO t VALUES (1)"), "SQLITE_READONLY");
    open.close();
}));

transaction("others read meanwhile, and write after it", withTable("a", async (client) => {
    const open = await client.transaction("write");
    await open.execute("INSERT INTO t VALUES (1)");
    assert.equal(await first(client, "SELECT count(*) FROM t"), 0);
    const waits = client.execute("INSERT INTO t VALUES (2)");
    await open.commit();
    await waits;
    assert.equal(await first(client, "SELECT count(*) FROM t"), 2);
}));

transaction("ROLLBACK as a statement takes back what was before it", withTable("a", async (client) => {
    const open = await client.transaction("write");
    await open.execute("INSERT INTO t VALUES (1)");
    await open.execute("ROLLBACK");
    await fails(open.commit());
    open.close();
    assert.equal(await first(client, "SELECT count(*) FROM t"), 0);
}));

transaction("OR ROLLBACK takes back what was before it", withTable("a UNIQUE", async (client) => {
    await client.execute("INSERT INTO t VALUES (1)");
    const open = await client.transaction("write");
    await open.execute("INSERT INTO t VALUES (2)");
    await fails(open.execute("INSERT OR ROLLBACK INTO t VALUES (1)"), "SQLITE_CONSTRAINT");
    await fails(open.commit());
    open.close();
    assert.equal(await first(client, "SELECT count(*) FROM t"), 1);
}));

transaction("OR ROLLBACK as the first statement", withTable("a UNIQUE", async (client) => {
    await client.execute("INSERT INTO t VALUES (1)");
    const open = await client.transaction("write");
    await fails(open.execute("INSERT OR ROLLBACK INTO t VALUES (1)"), "SQLITE_CONSTRAINT");
    await fails(open.commit());
    open.close();
    assert.equal(await first(client, "SELECT count(*) FROM t"), 1);
}));

const statements = [...fresh("t", "a UNIQUE"), "INSERT INTO t VALUES (1), (2), (4)"];
for (const [subject, together] of [["transaction, batch", (open, list) => open.batch(list)],
    ["transaction, executeMultiple", (open, list) => open.executeMultiple(list.join(";\n"))]]) {
    const inTransaction = about(subject);

    inTransaction("as the first of it", using(async (client) => {
        const open = await client.transaction("write");
        await together(open, statements);
        assert.equal(await first(open, "SELECT sum(a) FROM t"), 7);
        open.close();
    }));

    inTransaction("as the second of it", using(async (client) => {
        const open = await client.transaction("write");
        await open.execute(statements[0]);
        await together(open, statements.slice(1));
        assert.equal(await first(open, "SELECT sum(a) FROM t"), 7);
        open.close();
    }));

    inTransaction("ends at an error, and what was before it can be committed", using(async (client) => {
        const open = await client.transaction("write");
        await fails(together(open, [...statements, "INSERT INTO t VALUES (4)", "INSERT INTO t VALUES (8)"]));
        assert.equal(await first(open, "SELECT sum(a) FROM t"), 7);
        await open.commit();
        assert.equal(await first(client, "SELECT sum(a) FROM t"), 7);
    }));
}

for (const [mode, list, index] of [
    ["write", [...statements, "INSERT INTO t VALUES (1)", "INSERT INTO t VALUES (9)"], 3],
    ["read", ["SELECT no_such", "SELECT 1", "SELECT 2"], 0],
    ["read", ["SELECT 1", "SELECT 2", "SELECT no_such", "SELECT 3"], 2],
]) {
    about("transaction, batch")(`names the statement ${index} that failed (${mode})`, using(async (client) => {
        const open = await client.transaction(mode);
        await failsAt(open.batch(list), index);
        assert.equal(await first(open, "SELECT 1"), 1);
        open.close();
    }));
}

const multiple = about("executeMultiple");

multiple("several statements", using(async (client) => {
    await client.executeMultiple(statements.join(";"));
    assert.equal(await first(client, "SELECT sum(a) FROM t"), 7);
}));

multiple("ends at an error, and keeps what was before it", using(async (client) => {
    await fails(client.executeMultiple([...statements, "INSERT INTO t VALUES (no_function())", "INSERT INTO t VALUES (8)"].join(";")));
    assert.equal(await first(client, "SELECT sum(a) FROM t"), 7);
}));

multiple("with a transaction in it", using(async (client) => {
    await client.executeMultiple([...fresh("t", "a"), "BEGIN", "INSERT INTO t VALUES (5)", "INSERT INTO t VALUES (6)", "COMMIT"].join(";"));
    assert.equal(await first(client, "SELECT sum(a) FROM t"), 11);
}));

multiple("an error in a transaction rolls it back", using(async (client) => {
    await fails(client.executeMultiple([...statements, "BEGIN", "INSERT INTO t VALUES (8)", "SELECT no_function()", "COMMIT"].join(";")));
    assert.equal(await first(client, "SELECT sum(a) FROM t"), 7);
}));
