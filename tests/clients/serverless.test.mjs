// @tursodatabase/serverless and its layer with the interface of @libsql/client, against a user's database.

import assert from "node:assert/strict";

import { connect } from "@tursodatabase/serverless";
import { createClient } from "@tursodatabase/serverless/compat";

import { about, fresh, url } from "./lib.mjs";

const using = (run) => async () => {
    const connection = connect({ url });
    try {
        await connection.batch(fresh("t", "id INTEGER PRIMARY KEY, name TEXT UNIQUE"));
        await run(connection);
    } finally {
        await connection.close();
    }
};

const names = async (connection) => (await connection.all("SELECT name FROM t ORDER BY id")).map((row) => row.name);

const own = about("connection");

own("creates, reads, updates and deletes", using(async (connection) => {
    const insert = await connection.prepare("INSERT INTO t (name) VALUES (?)");
    for (const name of ["ash", "elm"]) {
        const { changes, lastInsertRowid } = await insert.run([name]);
        assert.deepEqual([changes, lastInsertRowid], [1, name === "ash" ? 1 : 2]);
    }
    assert.deepEqual((await connection.run("UPDATE t SET name = ? WHERE id = ?", "oak", 2)).changes, 1);
    assert.deepEqual(await names(connection), ["ash", "oak"]);
    assert.equal((await connection.get("SELECT name FROM t WHERE id = 2")).name, "oak");
    assert.equal(await connection.get("SELECT name FROM t WHERE id = 3"), undefined);
    assert.equal((await connection.run("DELETE FROM t")).changes, 2);
}));

own("describes what it prepares", using(async (connection) => {
    const statement = await connection.prepare("SELECT id, name, 1 AS one FROM t");
    assert.deepEqual(statement.columns().map((column) => [column.name, column.type || null]),
        [["id", "INTEGER"], ["name", "TEXT"], ["one", null]]);
}));

own("rows one by one, as arrays, as single values and with big integers", using(async (connection) => {
    await connection.exec("INSERT INTO t VALUES (1, 'a'), (9007199254740993, 'b')");
    const sql = "SELECT id, name FROM t ORDER BY id";
    const found = [];
    for await (const row of connection.iterate(sql)) {
        found.push(row.name);
    }
    assert.deepEqual(found, ["a", "b"]);
    assert.deepEqual(Array.from(await (await connection.prepare(sql)).raw().get()), [1, "a"]);
    assert.deepEqual(await (await connection.prepare("SELECT name FROM t ORDER BY id")).pluck().all(), ["a", "b"]);
    assert.equal((await (await connection.prepare(sql)).safeIntegers().all())[1].id, 9007199254740993n);
}));

own("arguments by name, and of each kind", using(async (connection) => {
    const row = await connection.get("SELECT :a AS a, $b AS b, @c AS c, typeof(:a) AS kind", { a: 1.5, b: null, c: "c" });
    assert.deepEqual({ ...row }, { a: 1.5, b: null, c: "c", kind: "real" });
    const { blob } = await connection.get("SELECT ? AS blob", new Uint8Array([0, 255, 7]));
    assert.deepEqual(new Uint8Array(blob), new Uint8Array([0, 255, 7]));
}));

own("an error has its message, and the connection goes on", using(async (connection) => {
    await connection.run("INSERT INTO t (name) VALUES ('a')");
    await assert.rejects(connection.run("INSERT INTO t (name) VALUES ('a')"), /UNIQUE constraint failed: t\.name/);
    await assert.rejects(connection.all("SELECT nothing_of_the_kind"), /no such column/);
    assert.equal(connection.inTransaction, false);
    assert.deepEqual(await names(connection), ["a"]);
}));

own("a batch without a transaction, and one as a transaction", using(async (connection) => {
    const insert = (name) => ({ sql: "INSERT INTO t (name) VALUES (?)", args: [name] });
    await connection.batch([insert("a"), insert("b")]);
    await assert.rejects(connection.batch([insert("c"), insert("a")], "immediate"));
    assert.deepEqual(await names(connection), ["a", "b"]);
    await connection.batch([insert("c"), insert("d")], "immediate");
    assert.deepEqual(await names(connection), ["a", "b", "c", "d"]);
    assert.equal(connection.inTransaction, false);
}));

own("a transaction commits", using(async (connection) => {
    const add = connection.transaction(async (...added) => {
        for (const name of added) {
            await connection.run("INSERT INTO t (name) VALUES (?)", name);
        }
        assert.equal(connection.inTransaction, true);
    });
    await add("a", "b");
    assert.equal(connection.inTransaction, false);
    await add.immediate("c");
    assert.deepEqual(await names(connection), ["a", "b", "c"]);
}));

own("a transaction that throws is rolled back", using(async (connection) => {
    const add = connection.transaction(async (name) => {
        await connection.run("INSERT INTO t (name) VALUES (?)", name);
        throw new Error("changed my mind");
    });
    await assert.rejects(add("a"), /changed my mind/);
    assert.deepEqual([connection.inTransaction, await names(connection)], [false, []]);
}));

own("BEGIN and COMMIT as statements", using(async (connection) => {
    await connection.exec("BEGIN");
    assert.equal(connection.inTransaction, true);
    await connection.run("INSERT INTO t (name) VALUES ('a')");
    const other = connect({ url });
    assert.deepEqual(await names(other), []);
    await other.close();
    await connection.exec("COMMIT");
    assert.deepEqual([connection.inTransaction, await names(connection)], [false, ["a"]]);
}));

own("OR ROLLBACK ends a transaction", using(async (connection) => {
    await connection.run("INSERT INTO t VALUES (1, 'a')");
    await connection.exec("BEGIN");
    await connection.run("INSERT INTO t VALUES (2, 'b')");
    await assert.rejects(connection.run("INSERT OR ROLLBACK INTO t VALUES (1, 'c')"), /UNIQUE/);
    assert.deepEqual([connection.inTransaction, await names(connection)], [false, ["a"]]);
}));

own("exec() runs several statements", using(async (connection) => {
    await connection.exec("INSERT INTO t (name) VALUES ('a'); INSERT INTO t (name) VALUES ('b;c') -- and no more");
    assert.deepEqual(await names(connection), ["a", "b;c"]);
}));

own("pragma()", using(async (connection) => {
    const columns = await connection.pragma("table_info(t)");
    assert.deepEqual((columns.rows ?? columns).map((column) => column.name), ["id", "name"]);
}));

own("an answer in many pieces", using(async (connection) => {
    const sql = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 20000) SELECT i, hex(zeroblob(50)) AS t FROM n";
    const rows = await connection.all(sql);
    assert.deepEqual([rows.length, rows[19999].i, rows[7].t.length], [20000, 20000, 100]);
}));

const compat = about("with the interface of libsql");

const client = (run) => async () => {
    const client = createClient({ url });
    await client.batch(fresh("t", "id INTEGER PRIMARY KEY, name TEXT UNIQUE"), "write");
    await run(client);
    client.close();
};

compat("execute() and batch()", client(async (client) => {
    const inserted = await client.execute({ sql: "INSERT INTO t (name) VALUES (?) RETURNING id", args: ["a"] });
    assert.deepEqual([inserted.columns, inserted.rows[0].id, inserted.rowsAffected], [["id"], 1, 1]);
    const results = await client.batch(["INSERT INTO t (name) VALUES ('b')", "SELECT count(*) AS n FROM t"], "write");
    assert.equal(results[1].rows[0].n, 2);
    await assert.rejects(client.batch(["INSERT INTO t (name) VALUES ('c')", "INSERT INTO t (name) VALUES ('a')"], "write"));
    assert.equal((await client.execute("SELECT count(*) AS n FROM t")).rows[0].n, 2);
}));

for (const [end, kept] of [["commit", 1], ["rollback", 0]]) {
    compat(`transaction(), ${end}()`, client(async (client) => {
        const open = await client.transaction("write");
        await open.execute("INSERT INTO t (name) VALUES ('a')");
        await open[end]();
        assert.equal((await client.execute("SELECT count(*) AS n FROM t")).rows[0].n, kept);
    }));
}

compat("executeMultiple()", client(async (client) => {
    await client.executeMultiple("INSERT INTO t (name) VALUES ('a'); INSERT INTO t (name) VALUES ('b')");
    assert.equal((await client.execute("SELECT count(*) AS n FROM t")).rows[0].n, 2);
}));
