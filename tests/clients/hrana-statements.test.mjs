// @libsql/hrana-client against a user's database, statements: what its authors try servers with, in cases of our own.

import assert from "node:assert/strict";

import * as hrana from "@libsql/hrana-client";

import { open, table, using, value, version } from "./hrana.mjs";
import { about, url } from "./lib.mjs";

const client = about("client");

client(`speaks version ${version}`, using(async (_, client) => {
    assert.equal(await client.getVersion(), version);
}));

if (version === 2) {
    client("asks for protocol buffers, and goes on without", async () => {
        const client = hrana.openHttp(url, undefined, undefined, undefined, 3);
        assert.equal(await client.getVersion(), 2);
        assert.equal(await value(client.openStream(), "SELECT 1"), 1);
        client.close();
    });
}

client("takes requests through a fetch that it was given", async () => {
    const asked = [];
    const client = open((request) => (asked.push(request.url), fetch(request)));
    assert.equal(await value(client.openStream(), "SELECT 'through'"), "through");
    assert.ok(asked.length > 0 && asked.every((address) => address.startsWith(url.replace(/\/sql$/, ""))), asked.join());
    client.close();
});

client("says what a fetch throws", async () => {
    const client = open(() => {
        throw new Error("no network today");
    });
    await assert.rejects(value(client.openStream(), "SELECT 1"), /no network today/);
    client.close();
});

client("says what a fetch rejects with", async () => {
    const client = open(() => Promise.reject(new Error("no network today, either")));
    await assert.rejects(value(client.openStream(), "SELECT 1"), /no network today, either/);
    client.close();
});

const query = about("query");

query("a value, with its column", using(async (stream) => {
    const result = await stream.queryValue("SELECT 7 AS seven");
    assert.equal(result.value, 7);
    assert.deepEqual(result.columnNames, ["seven"]);
    assert.equal(result.affectedRowCount, 0);
}));

query("no value where there is no row, and the column all the same", using(async (stream) => {
    const result = await stream.queryValue("SELECT 7 AS seven WHERE false");
    assert.equal(result.value, undefined);
    assert.deepEqual(result.columnNames, ["seven"]);
    assert.equal(result.affectedRowCount, 0);
}));

query("a row, by index and by name", using(async (stream) => {
    const { row, columnNames, affectedRowCount } = await stream.queryRow("SELECT 3 AS i, 0.25 AS f, 'oak' AS t, NULL AS n");
    assert.deepEqual(columnNames, ["i", "f", "t", "n"]);
    assert.equal(affectedRowCount, 0);
    assert.deepEqual([row[0], row[1], row[2], row[3]], [3, 0.25, "oak", null]);
    assert.deepEqual([row.i, row.f, row.t, row.n], [3, 0.25, "oak", null]);
}));

query("no row", using(async (stream) => {
    const result = await stream.queryRow("SELECT 3 AS i WHERE 1 > 2");
    assert.equal(result.row, undefined);
    assert.deepEqual(result.columnNames, ["i"]);
}));

query("rows, of a table made in the same transaction", using(async (stream) => {
    await stream.run("BEGIN");
    await table(stream, "name, weight, note", "INSERT INTO t VALUES ('ash', 1.5, NULL), ('yew', 0.0, '7')");
    const { rows, affectedRowCount } = await stream.query("SELECT * FROM t ORDER BY name");
    assert.equal(affectedRowCount, 0);
    assert.deepEqual(rows.map((row) => [row.name, row[1], row.note]), [["ash", 1.5, null], ["yew", 0, "7"]]);
}));

query("what a statement changed", using(async (stream) => {
    const changed = async (sql) => (await stream.run(sql)).affectedRowCount;
    assert.equal(await changed("BEGIN"), 0);
    assert.equal(await changed("DROP TABLE IF EXISTS t"), 0);
    assert.equal(await changed("CREATE TABLE t (n)"), 0);
    const inserted = await stream.run("INSERT INTO t VALUES (1), (2), (3), (4)");
    assert.equal(inserted.affectedRowCount, 4);
    assert.equal(inserted.lastInsertRowid, 4n);
    const selected = await stream.query("SELECT n FROM t");
    assert.deepEqual([selected.affectedRowCount, selected.rows.length], [0, 4]);
    assert.equal(await changed("UPDATE t SET n = n + 1 WHERE n > 1"), 3);
    assert.equal(await changed("DELETE FROM t WHERE n > 3"), 2);
    assert.equal(await changed("DROP TABLE t"), 0);
    assert.equal(await changed("COMMIT"), 0);
}));

query("the rowid of what was inserted, at both ends of 64 bits", using(async (stream) => {
    await stream.run("BEGIN");
    await table(stream, "id INTEGER PRIMARY KEY");
    for (const id of [77n, 9223372036854775807n, -9223372036854775808n]) {
        assert.equal((await stream.run(`INSERT INTO t VALUES (${id})`)).lastInsertRowid, id);
    }
}));

query("columns' names of run() too", using(async (stream) => {
    const sql = "SELECT 1 AS one, 2 AS two";
    assert.deepEqual((await stream.query(sql)).columnNames, ["one", "two"]);
    assert.deepEqual((await stream.run(sql)).columnNames, ["one", "two"]);
}));

query("columns' types as they were declared", using(async (stream) => {
    await stream.run("BEGIN");
    await table(stream, "a TEXT, b int NOT NULL, c WOODEN BOX");
    const { columnDecltypes } = await stream.query("SELECT a, b, c, a || b AS both FROM t");
    // The client of version 2 and 3 gives what the server sends; SQLite keeps the case that was written, except of its
    // own types' names, which it writes in capitals.
    assert.deepEqual(columnDecltypes, ["TEXT", "INT", "WOODEN BOX", undefined]);
}));

query("an error is a ResponseError with SQLite's code", using(async (stream) => {
    const error = await stream.queryValue("SELECT").catch((error) => error);
    assert.ok(error instanceof hrana.ResponseError, String(error));
    assert.equal(error.code, "SQLITE_ERROR");
}));

const args = about("arguments");

args("by position, in any order", using(async (stream) => {
    const { row } = await stream.queryRow(["SELECT ?, ?3, ?2", ["a", null, 9]]);
    assert.deepEqual([row[0], row[1], row[2]], ["a", 9, null]);
}));

args("by name, with its sign and without", using(async (stream) => {
    const { row } = await stream.queryRow(["SELECT :a, @b, $c", { ":a": 1, b: 2, $c: 3 }]);
    assert.deepEqual([row[0], row[1], row[2]], [1, 2, 3]);
}));

args("none", using(async (stream) => assert.equal(await value(stream, new hrana.Stmt("SELECT 5")), 5)));

args("bindIndexes()", using(async (stream) => {
    assert.equal(await value(stream, new hrana.Stmt("SELECT ? || ?").bindIndexes(["x", "y"])), "xy");
}));

args("bindIndex(), what is left out is null", using(async (stream) => {
    const { row } = await stream.queryRow(new hrana.Stmt("SELECT ?, ?, ?").bindIndex(3, "z"));
    assert.deepEqual([row[0], row[1], row[2]], [null, null, "z"]);
}));

args("bindName()", using(async (stream) => {
    assert.equal(await value(stream, new hrana.Stmt("SELECT $n").bindName("n", "named")), "named");
}));

const bytes = Uint8Array.from({ length: 256 }, (_, i) => 255 - i);
for (const [name, given, sql, expected] of [
    ["an ArrayBuffer", new ArrayBuffer(19), "SELECT length(?)", 19],
    ["a Uint8Array", new Uint8Array(23), "SELECT length(?)", 23],
    ["a part of an array", new Uint8Array(bytes.buffer, 3, 5), "SELECT hex(?)", "FCFBFAF9F8"],
    ["every byte, there and back", bytes, "SELECT ?", bytes.buffer],
    ["an empty blob, there and back", new Uint8Array(0), "SELECT ?", new ArrayBuffer(0)],
    ["a bigint", -45n, "SELECT ?", -45],
    ["a boolean", true, "SELECT typeof(?1) || ?1", "integer1"],
    ["a Date as milliseconds", new Date("2024-02-29T12:00:00Z"), "SELECT ?", 1709208000000],
    ["anything else as its text", /wood+/, "SELECT ?", "/wood+/"],
    ["a text with NUL in it", "a\0b", "SELECT ?", "a\0b"],
    ["a text beyond the basic plane", "žluť 🌲", "SELECT ?", "žluť 🌲"],
    ["a whole number stays a float", 3, "SELECT typeof(?)", "real"],
]) {
    args(name, using(async (stream) => assert.deepEqual(await value(stream, [sql, [given]]), expected)));
}

args("a blob made by SQLite", using(async (stream) => {
    const blob = await value(stream, "SELECT zeroblob(31)");
    assert.ok(blob instanceof ArrayBuffer);
    assert.equal(blob.byteLength, 31);
}));

const integers = about("integers");
const beyond = "9007199254740992";
for (const [mode, small, large] of [
    ["number", 12, RangeError],
    ["bigint", 12n, 9007199254740992n],
    ["string", "12", beyond],
]) {
    integers(`${mode} as the client's mode`, using(async (_, client) => {
        client.intMode = mode;
        assert.strictEqual(await value(client.openStream(), "SELECT 12"), small);
    }));
    integers(`${mode} as the stream's mode, beyond 53 bits`, using(async (stream) => {
        stream.intMode = mode;
        const asked = stream.queryValue(`SELECT ${beyond}`);
        if (large === RangeError) {
            await assert.rejects(asked, RangeError);
        } else {
            assert.strictEqual((await asked).value, large);
        }
    }));
}

const describes = about("describe");

describes("a statement without arguments", using(async (stream) => {
    const described = await stream.describe("SELECT 1 AS one");
    assert.deepEqual(described.paramNames, []);
    assert.deepEqual(described.columns, [{ name: "one", decltype: undefined }]);
}));

describes("arguments' names, those between too", using(async (stream) => {
    const { paramNames } = await stream.describe("SELECT ?, ?4, :a, $b, @c");
    assert.deepEqual(paramNames, [undefined, undefined, undefined, "?4", ":a", "$b", "@c"]);
}));

describes("columns, with the types they were declared with", using(async (stream) => {
    await stream.run("BEGIN");
    await table(stream, "a TEXT, b int NOT NULL, c WOODEN BOX");
    const { columns } = await stream.describe("SELECT c, b, a, a || b AS both FROM t");
    assert.deepEqual(columns, [
        { name: "c", decltype: "WOODEN BOX" },
        { name: "b", decltype: "INT" },
        { name: "a", decltype: "TEXT" },
        { name: "both", decltype: undefined },
    ]);
}));

describes("whether it explains", using(async (stream) => {
    for (const [sql, explains] of [["SELECT 1", false], ["EXPLAIN SELECT 1", true], ["EXPLAIN QUERY PLAN SELECT 1", true]]) {
        assert.equal((await stream.describe(sql)).isExplain, explains, sql);
    }
}));

describes("whether it only reads", using(async (stream) => {
    await stream.run("BEGIN");
    await table(stream, "a");
    for (const [sql, reads] of [["SELECT 1", true], ["DELETE FROM t", false], ["DROP TABLE t", false], ["COMMIT", true]]) {
        assert.equal((await stream.describe(sql)).isReadonly, reads, sql);
    }
}));

describes("what cannot be prepared is an error", using(async (stream) => {
    await assert.rejects(stream.describe("SELECT nothing_of_the_kind"), hrana.ResponseError);
}));

const sequences = about("sequence");

sequences("nothing but space and comments", using((stream) => stream.sequence(" \n -- nothing here\n /* nor here */ ")));

sequences("one statement", using(async (stream) => {
    await stream.run("BEGIN");
    await stream.run("DROP TABLE IF EXISTS t");
    await stream.sequence("CREATE TABLE t (a);");
    assert.equal(await value(stream, "SELECT count(*) FROM t"), 0);
}));

sequences("several, and the transaction they begin stays open", using(async (stream) => {
    await stream.sequence("BEGIN; DROP TABLE IF EXISTS t; CREATE TABLE t (a); INSERT INTO t VALUES (1), (2);");
    assert.equal(await value(stream, "SELECT count(*) FROM t"), 2);
    await stream.run("ROLLBACK");
}));

sequences("ends at the first error", using(async (stream) => {
    await table(stream, "a");
    await assert.rejects(stream.sequence("INSERT INTO t VALUES (1); SELECT no_such; INSERT INTO t VALUES (2)"), hrana.ResponseError);
    assert.equal(await value(stream, "SELECT group_concat(a) FROM t"), "1");
}));

const texts = about("stored SQL");

texts("in a query", using(async (stream) => assert.equal(await value(stream, stream.storeSql("SELECT 8")), 8)));

texts("with arguments, more than once", using(async (stream) => {
    const sql = stream.storeSql("SELECT ? || '!'");
    for (const word of ["oak", "elm"]) {
        assert.equal(await value(stream, [sql, [word]]), `${word}!`);
    }
}));

for (const cursor of version === 3 ? [false, true] : [false]) {
    texts(cursor ? "in a batch by cursor" : "in a batch", using(async (stream) => {
        const [one, two] = [stream.storeSql("SELECT 81"), stream.storeSql("SELECT 'x', 'y'")];
        const batch = stream.batch(cursor);
        const [first, second] = [batch.step().queryValue(one), batch.step().queryRow(two)];
        await batch.execute();
        assert.equal((await first).value, 81);
        assert.deepEqual(Array.from((await second).row), ["x", "y"]);
    }));
}

texts("described", using(async (stream) => {
    assert.deepEqual((await stream.describe(stream.storeSql("SELECT :a, $b"))).paramNames, [":a", "$b"]);
}));

texts("in a sequence", using(async (stream) => stream.sequence(stream.storeSql("SELECT 1; SELECT 2"))));

texts("closed", using(async (stream) => {
    const sql = stream.storeSql("SELECT 1");
    assert.equal(sql.closed, false);
    sql.close();
    assert.equal(sql.closed, true);
    assert.equal(await value(stream, "SELECT 'and the stream goes on'"), "and the stream goes on");
}));

texts("of one stream is not another's", using(async (stream, client) => {
    const other = client.openStream();
    assert.throws(() => other.queryValue(stream.storeSql("SELECT 1")), /SQL text/);
}));

if (version === 3) {
    about("autocommit")("is what SQLite says", using(async (stream) => {
        assert.equal(await stream.getAutocommit(), true);
        await table(stream, "n UNIQUE");
        assert.equal(await stream.getAutocommit(), true);
        await stream.run("BEGIN");
        assert.equal(await stream.getAutocommit(), false);
        await stream.run("INSERT INTO t VALUES (1)");
        assert.equal(await stream.getAutocommit(), false);
        await assert.rejects(stream.run("INSERT OR ROLLBACK INTO t VALUES (1)"), hrana.ResponseError);
        assert.equal(await stream.getAutocommit(), true);
    }));
}
