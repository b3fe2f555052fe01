// @libsql/hrana-client against a user's database, streams and batches: what its authors try servers with, in cases of our
// own.

import assert from "node:assert/strict";

import * as hrana from "@libsql/hrana-client";

import { quiet, table, using, value, version } from "./hrana.mjs";
import { about } from "./lib.mjs";

const streams = about("streams");

streams("see their own transaction only", using(async (first, client) => {
    await table(first, "n", "INSERT INTO t VALUES (5)");
    // BEGIN alone takes the writer here; a transaction that reads says so.
    await first.run("BEGIN TRANSACTION READONLY");
    assert.equal(await value(first, "SELECT sum(n) FROM t"), 5);
    const second = client.openStream();
    await second.run("BEGIN");
    await second.run("INSERT INTO t VALUES (50)");
    assert.equal(await value(first, "SELECT sum(n) FROM t"), 5);
    assert.equal(await value(second, "SELECT sum(n) FROM t"), 55);
    await second.run("COMMIT");
    assert.equal(await value(first, "SELECT sum(n) FROM t"), 5);
    await first.run("COMMIT");
    assert.equal(await value(first, "SELECT sum(n) FROM t"), 55);
}));

streams("keep the order of what is asked, beside others", using(async (stream, client) => {
    await table(stream, "stream, text");
    const one = async (id) => {
        const stream = client.openStream();
        await stream.run(["INSERT INTO t VALUES (?, '')", [id]]);
        const asked = Array.from({ length: 12 }, (_, i) =>
            value(stream, ["UPDATE t SET text = text || ? WHERE stream = ? RETURNING text", [`${i},`, id]]));
        let expected = "";
        for (const [i, text] of (await Promise.all(asked)).entries()) {
            expected += `${i},`;
            assert.equal(text, expected);
        }
        stream.close();
    };
    await Promise.all(Array.from({ length: 10 }, (_, id) => one(id)));
}));

for (const [name, wait] of [
    ["at once", undefined],
    ["in microtasks", () => Promise.resolve()],
    ["in turns of the event loop", () => new Promise((resolve) => setImmediate(resolve))],
]) {
    streams(`a hundred statements ${name}`, using(async (stream) => {
        const asked = [];
        for (let i = 0; i < 100; i += 1) {
            asked.push(value(stream, ["SELECT ?", [i]]));
            await wait?.();
        }
        assert.deepEqual(await Promise.all(asked), Array.from({ length: 100 }, (_, i) => i));
    }));
}

for (const close of ["close", "closeGracefully"]) {
    streams(`${close}() marks a stream as closed`, using(async (stream) => {
        await value(stream, "SELECT 1");
        assert.equal(stream.closed, false);
        stream[close]();
        assert.equal(stream.closed, true);
        stream[close]();
    }));
    streams(`${close}() refuses what comes after it`, using(async (stream) => {
        stream[close]();
        await assert.rejects(value(stream, "SELECT 1"), hrana.ClosedError);
    }));
    streams(`${close}() of a stream that was not used`, using(async (stream) => stream[close]()));
}

streams("closeGracefully() lets finish what was asked", using(async (stream) => {
    const asked = value(stream, "SELECT 'finished'");
    stream.closeGracefully();
    assert.equal(await asked, "finished");
}));

streams("close() rolls back", using(async (stream, client) => {
    await table(stream, "n");
    await stream.run("BEGIN");
    await stream.run("INSERT INTO t VALUES (1)");
    stream.close();
    assert.equal(await value(client.openStream(), "SELECT count(*) FROM t"), 0);
}));

for (const cursor of version === 3 ? [false, true] : [false]) {
    const batches = about(cursor ? "batches by cursor" : "batches");
    const { ok, error, not, and, or, isAutocommit } = hrana.BatchCond;
    const inBatch = (run) => using(async (stream) => run(stream.batch(cursor), stream));

    batches("without a step", inBatch(async (batch) => batch.execute()));

    batches("several steps", inBatch(async (batch) => {
        const first = batch.step().queryValue("SELECT 'a'");
        const second = batch.step().queryRow("SELECT 'b', 'c'");
        const third = batch.step().query("VALUES (1), (2)");
        const fourth = batch.step().run("SELECT 1");
        await batch.execute();
        assert.equal((await first).value, "a");
        assert.deepEqual(Array.from((await second).row), ["b", "c"]);
        assert.equal((await third).rows.length, 2);
        assert.equal((await fourth).affectedRowCount, 0);
    }));

    batches("go on after a step that failed", inBatch(async (batch) => {
        const before = batch.step().queryValue("SELECT 1");
        const failing = quiet(batch.step().queryValue("SELECT nothing_of_the_kind"));
        const behind = batch.step().queryValue("SELECT 2");
        await batch.execute();
        assert.equal((await before).value, 1);
        await assert.rejects(failing, hrana.ResponseError);
        assert.equal((await behind).value, 2);
    }));

    batches("a step that is no SQL", inBatch(async (batch) => {
        const step = quiet(batch.step().queryValue("wood"));
        await assert.rejects(batch.execute().then(() => step), hrana.ResponseError);
    }));

    for (const [name, condition, ifOk, ifFailed] of [
        ["ok", ok, true, false],
        ["error", error, false, true],
        ["not ok", (step) => not(ok(step)), false, true],
        ["not error", (step) => not(error(step)), true, false],
    ]) {
        batches(`on ${name}`, inBatch(async (batch) => {
            const fine = batch.step();
            fine.queryValue("SELECT 1");
            const failing = batch.step();
            quiet(failing.queryValue("SELECT nothing_of_the_kind"));
            const afterFine = batch.step().condition(condition(fine)).queryValue("SELECT 1");
            const afterFailing = batch.step().condition(condition(failing)).queryValue("SELECT 1");
            await batch.execute();
            assert.equal((await afterFine) !== undefined, ifOk);
            assert.equal((await afterFailing) !== undefined, ifFailed);
        }));
    }

    for (const [name, condition, expected] of [["and", and, [true, true, false, false]], ["or", or, [false, true, false, true]]]) {
        batches(`on ${name}, of none, of one and of two`, using(async (stream) => {
            const cases = [[], ["SELECT 1"], ["SELECT no_such"], ["SELECT 1", "SELECT no_such"]];
            for (const [i, statements] of cases.entries()) {
                const batch = stream.batch(cursor);
                const steps = statements.map((sql) => {
                    const step = batch.step();
                    quiet(step.queryValue(sql));
                    return step;
                });
                const tested = batch.step().condition(condition(batch, steps.map(ok))).queryValue("SELECT 1");
                await batch.execute();
                assert.equal((await tested) !== undefined, expected[i], statements.join());
            }
        }));
    }

    batches("a step that was skipped is neither ok nor an error", inBatch(async (batch) => {
        const failing = batch.step();
        quiet(failing.queryValue("SELECT no_such"));
        const skipped = batch.step().condition(ok(failing));
        const result = skipped.queryValue("SELECT 1");
        const onOk = batch.step().condition(ok(skipped)).queryValue("SELECT 1");
        const onError = batch.step().condition(error(skipped)).queryValue("SELECT 1");
        await batch.execute();
        assert.deepEqual([await result, await onOk, await onError], [undefined, undefined, undefined]);
    }));

    if (version === 3) {
        batches("on autocommit, outside of a transaction", inBatch(async (batch) => {
            const step = batch.step().condition(isAutocommit(batch)).queryValue("SELECT 6");
            await batch.execute();
            assert.equal((await step).value, 6);
        }));

        batches("on autocommit, in a transaction", inBatch(async (batch) => {
            batch.step().run("BEGIN");
            const step = batch.step().condition(isAutocommit(batch)).queryValue("SELECT 6");
            await batch.execute();
            assert.equal(await step, undefined);
        }));

        batches("on autocommit, after a conflict rolled back", inBatch(async (_, stream) => {
            await table(stream, "n UNIQUE", "INSERT INTO t VALUES (1)");
            const batch = stream.batch(cursor);
            const begun = batch.step().run("BEGIN");
            const failing = quiet(batch.step().run("INSERT OR ROLLBACK INTO t VALUES (1)"));
            const step = batch.step().condition(not(isAutocommit(batch))).queryValue("SELECT 6");
            await batch.execute();
            await begun;
            await assert.rejects(failing, hrana.ResponseError);
            assert.equal(await step, undefined);
        }));

        batches("a conflict with OR ROLLBACK without a transaction", inBatch(async (_, stream) => {
            await table(stream, "n UNIQUE", "INSERT INTO t VALUES (1)");
            const batch = stream.batch(cursor);
            const failing = quiet(batch.step().run("INSERT OR ROLLBACK INTO t VALUES (1)"));
            const step = batch.step().condition(not(isAutocommit(batch))).queryValue("SELECT 6");
            await batch.execute();
            await assert.rejects(failing, hrana.ResponseError);
            assert.equal(await step, undefined);
        }));
    }

    batches("a thousand steps", inBatch(async (batch) => {
        const steps = Array.from({ length: 1000 }, (_, i) => batch.step().queryValue(["SELECT 3 * ?", [i]]));
        await batch.execute();
        for (const [i, step] of steps.entries()) {
            assert.equal((await step).value, 3 * i);
        }
    }));

    batches("steps with many rows", inBatch(async (batch) => {
        const sql = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n LIMIT ?";
        const steps = Array.from({ length: 100 }, (_, i) => batch.step().query([sql, [8n * BigInt(i)]]));
        await batch.execute();
        for (const [i, step] of steps.entries()) {
            assert.equal((await step).rows.length, 8 * i);
        }
    }));

    batches("are not stopped by closeGracefully()", inBatch(async (batch, stream) => {
        const steps = Array.from({ length: 100 }, (_, i) => batch.step().queryValue(["SELECT ?", [i]]));
        const executed = batch.execute();
        stream.closeGracefully();
        assert.equal((await steps[99]).value, 99);
        await executed;
    }));

    batches("of one stream run one after the other", inBatch(async (_, stream) => {
        await table(stream, "n", "INSERT INTO t VALUES (0)");
        const steps = [];
        const executed = [];
        for (let i = 0; i < 60; i += 1) {
            const batch = stream.batch(cursor);
            for (let j = 0; j < 20; j += 1) {
                steps.push(batch.step().queryValue("UPDATE t SET n = n + 1 RETURNING n"));
            }
            executed.push(batch.execute());
        }
        await Promise.all(executed);
        for (const [i, step] of steps.entries()) {
            assert.equal((await step).value, i + 1);
        }
    }));
}
