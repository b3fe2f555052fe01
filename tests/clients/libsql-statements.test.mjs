// @libsql/client against a user's database, statements and values: what its authors try servers with, in cases of our
// own. Those that ask no server (addresses, files, databases in memory) are left out.

import assert from "node:assert/strict";

import { createClient } from "@libsql/client";

import { about, url } from "./lib.mjs";
import { cells, fails, first, using, withTable } from "./libsql.mjs";

const execute = about("execute");

execute("one value", using(async (client) => {
    const result = await client.execute("SELECT 12");
    assert.deepEqual([result.columns.length, result.columnTypes.length], [1, 1]);
    assert.deepEqual(cells(result), [[12]]);
}));

execute("one row, by index and by name", using(async (client) => {
    const { columns, columnTypes, rows } = await client.execute("SELECT 5 AS i, 'elm' AS t, 0.75 AS f");
    assert.deepEqual(columns, ["i", "t", "f"]);
    assert.deepEqual(columnTypes, ["", "", ""]);
    assert.equal(rows[0].length, 3);
    assert.deepEqual(Array.from(rows[0]), [5, "elm", 0.75]);
    assert.deepEqual(Object.entries(rows[0]), [["i", 5], ["t", "elm"], ["f", 0.75]]);
}));

execute("rows", using(async (client) => {
    assert.deepEqual(cells(await client.execute("VALUES (1, 'a'), (2, 'b'), (3, 'c')")), [[1, "a"], [2, "b"], [3, "c"]]);
}));

execute("an error", using((client) => fails(client.execute("SELECT nothing_of_the_kind"), "SQLITE_ERROR")));
execute("no SQL", using((client) => fails(client.execute("THIS IS NO SQL"), "SQLITE_ERROR")));

execute("rows that INSERT made", withTable("a", async (client) => {
    assert.equal((await client.execute("INSERT INTO t VALUES (1), (2), (3)")).rowsAffected, 3);
}));

execute("rows that UPDATE and DELETE found", withTable("a", async (client) => {
    await client.execute("INSERT INTO t VALUES (1), (2), (3), (4)");
    assert.equal((await client.execute("UPDATE t SET a = a * 2 WHERE a > 1")).rowsAffected, 3);
    assert.equal((await client.execute("DELETE FROM t WHERE a > 4")).rowsAffected, 2);
    assert.equal((await client.execute("DELETE FROM t WHERE a > 4")).rowsAffected, 0);
}));

execute("rows that WITH … INSERT made", withTable("a", async (client) => {
    await client.execute("INSERT INTO t VALUES (1), (2)");
    const result = await client.execute("WITH x (a) AS (SELECT a + 10 FROM t) INSERT INTO t SELECT a FROM x");
    assert.equal(result.rowsAffected, 2);
}));

execute("the last rowid finds the row", withTable("a", async (client) => {
    await client.execute("INSERT INTO t VALUES ('x'), ('y')");
    const { lastInsertRowid } = await client.execute("INSERT INTO t VALUES ('z')");
    assert.equal(typeof lastInsertRowid, "bigint");
    assert.equal(await first(client, { sql: "SELECT a FROM t WHERE rowid = ?", args: [lastInsertRowid] }), "z");
}));

execute("RETURNING", withTable("a", async (client) => {
    const result = await client.execute("INSERT INTO t VALUES (3) RETURNING a + 1 AS next, 'w' AS w");
    assert.deepEqual([result.columns, result.columnTypes], [["next", "w"], ["", ""]]);
    assert.deepEqual(cells(result), [[4, "w"]]);
    assert.equal(result.rowsAffected, 1);
}));

execute("through a fetch that it was given", async () => {
    let asked = 0;
    const client = createClient({ url, fetch: (request) => (asked += 1, fetch(request)) });
    assert.equal(await first(client, "SELECT 12"), 12);
    assert.ok(asked > 0);
    client.close();
});

execute("closed, and connected again", using(async (client) => {
    client.close();
    assert.equal(client.closed, true);
    await assert.rejects(client.execute("SELECT 1"));
    await client.reconnect();
    assert.equal(await first(client, "SELECT 1"), 1);
}));

const values = about("values");

const bytes = Uint8Array.from({ length: 256 }, (_, i) => i ^ 0x5a);
const roundtrips = [
    ["text", "larch"],
    ["text with control characters", "a\n\r\t\u0001 b"],
    ["text with NUL", "a\0b"],
    ["text of other scripts", "příliš žluťoučký 木 🌲"],
    ["an empty text", ""],
    ["null", null],
    ["a Uint8Array", bytes, bytes.buffer],
    ["an ArrayBuffer", bytes.buffer],
    ["an empty blob", new Uint8Array(0), new ArrayBuffer(0)],
    ["true", true, 1],
    ["false", false, 0],
    ["a Date", new Date("2024-03-01T00:00:00Z"), 1709251200000],
];
for (const intMode of ["number", "bigint", "string"]) {
    for (const number of [0, -7, 2.5, 1e18, -1e18, Number.MAX_VALUE, -Number.MAX_VALUE, Number.MIN_VALUE, 0.1 + 0.2]) {
        roundtrips.push([`the number ${number}, integers as ${intMode}`, number, number, intMode]);
    }
}
for (const [integer, modes] of [
    [0n, ["number", "bigint", "string"]],
    [-12n, ["number", "bigint", "string"]],
    [9007199254740991n, ["number", "bigint", "string"]],
    [-9007199254740991n, ["number", "bigint", "string"]],
    [9007199254740993n, ["bigint", "string"]],
    [9223372036854775807n, ["bigint", "string"]],
    [-9223372036854775808n, ["bigint", "string"]],
]) {
    for (const mode of modes) {
        const back = { number: Number, bigint: BigInt, string: String }[mode](integer);
        roundtrips.push([`the integer ${integer} as ${mode}`, integer, back, mode]);
    }
}
for (const [mode, on, off] of [["bigint", 1n, 0n], ["string", "1", "0"]]) {
    roundtrips.push([`true as ${mode}`, true, on, mode], [`false as ${mode}`, false, off, mode]);
}
for (const [name, given, back = given, intMode = "number"] of roundtrips) {
    values(name, using(async (client) => {
        assert.deepStrictEqual(await first(client, { sql: "SELECT ?", args: [given] }), back);
    }, { intMode }));
}

for (const [name, given, kind] of [
    ["an integer beyond 53 bits, as number", 9007199254740992n, RangeError],
    ["an integer far beyond 53 bits, as number", -1152921504606846976n, RangeError],
    ["undefined", undefined, TypeError],
    ["NaN", NaN, RangeError],
    ["infinity", -Infinity, RangeError],
    ["an integer beyond 64 bits", 1n << 80n, RangeError],
]) {
    values(`${name} is refused`, using((client) => assert.rejects(client.execute({ sql: "SELECT ?", args: [given] }), kind)));
}

for (const end of ["9223372036854775807", "-9223372036854775808"]) {
    values(`${end} arrives whole`, using(async (client) => {
        assert.equal(await first(client, { sql: "SELECT ? || ''", args: [BigInt(end)] }), end);
    }));
}

const json = about("toJSON");

json("of a query", using(async (client) => {
    const written = JSON.parse(JSON.stringify(await client.execute("SELECT 1 AS a")));
    delete written.lastInsertRowid;
    assert.deepEqual(written, { columns: ["a"], columnTypes: [""], rows: [[1]], rowsAffected: 0 });
}));

json("of an insertion", withTable("id INTEGER PRIMARY KEY", async (client) => {
    const written = (await client.execute("INSERT INTO t VALUES (4711)")).toJSON();
    assert.deepEqual(written, { columns: [], columnTypes: [], rows: [], rowsAffected: 1, lastInsertRowid: "4711" });
}));

json("of each kind of value, computed", using(async (client) => {
    const written = (await client.execute("SELECT 7 AS i, 1.5 AS f, NULL AS n, 'fir' AS t, X'666972' AS b")).toJSON();
    assert.deepEqual(written.columnTypes, ["", "", "", "", ""]);
    assert.deepEqual(written.rows, [[7, 1.5, null, "fir", "Zmly"]]);
}));

json("of each kind of value, stored", withTable("i INTEGER, f FLOAT, t TEXT, b BLOB", async (client) => {
    await client.execute("INSERT INTO t VALUES (7, 1.5, 'fir', X'666972')");
    const written = (await client.execute("SELECT i, f, t, b FROM t")).toJSON();
    assert.deepEqual(written.columns, ["i", "f", "t", "b"]);
    assert.deepEqual(written.columnTypes, ["INTEGER", "FLOAT", "TEXT", "BLOB"]);
    assert.deepEqual(written.rows, [[7, 1.5, "fir", "Zmly"]]);
}));

json("of bigints", using(async (client) => {
    assert.deepEqual((await client.execute("SELECT 7")).toJSON().rows, [["7"]]);
}, { intMode: "bigint" }));

const args = about("arguments");

for (const [name, sql, given, expected] of [
    ["?", "SELECT ?, ?", ["a", "b"], ["a", "b"]],
    ["?N", "SELECT ?3, ?1, ?2", ["a", "b", "c"], ["c", "a", "b"]],
    ["?N with holes", "SELECT ?3, ?1", ["a", "b", "c"], ["c", "a"]],
    ["?N and ?", "SELECT ?2, ?, ?3", ["a", "b", "c"], ["b", "c", "c"]],
    ...[":", "@", "$"].flatMap((sign) => [
        [`${sign}name`, `SELECT ${sign}y, ${sign}x`, { x: 1, [`${sign}y`]: 2 }, [2, 1]],
        [`${sign}name more than once`, `SELECT ${sign}x || ${sign}y || ${sign}x`, { x: "a", y: "b" }, ["aba"]],
        [`${sign}name and ?1`, `SELECT ${sign}y, ${sign}x, ?1`, { x: "a", [`${sign}y`]: "b" }, ["b", "a", "b"]],
    ]),
]) {
    args(name, using(async (client) => assert.deepEqual(cells(await client.execute({ sql, args: given })), [expected])));
}

args("beside the SQL", using(async (client) => {
    assert.deepEqual(cells(await client.execute("SELECT ? + ?", [2, 3])), [[5]]);
}));

const constraint = about("constraints");

for (const [name, columns, row] of [
    ["primary key", "id INTEGER PRIMARY KEY, name", "1, 'a'"],
    ["unique", "id, name UNIQUE", "1, 'a'"],
    ["not null", "id, name NOT NULL", "1, NULL"],
    ["check", "id CHECK (id < 1), name", "1, 'a'"],
]) {
    constraint(name, withTable(columns, async (client) => {
        const insert = `INSERT INTO t VALUES (${row})`;
        const asked = client.execute(insert);
        await (["primary key", "unique"].includes(name) ? asked.then(() => fails(client.execute(insert), "SQLITE_CONSTRAINT"))
            : fails(asked, "SQLITE_CONSTRAINT"));
    }));
}
