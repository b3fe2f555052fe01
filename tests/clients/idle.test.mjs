// A transaction that nobody goes on with, on a server with a short CUBBY_SQL_IDLE.

import assert from "node:assert/strict";

import { createClient } from "@libsql/client";

import { about, fresh, url } from "./lib.mjs";

about("idle")("a transaction ends by itself, for others' sake, and says so", async () => {
    const [mine, others] = [createClient({ url }), createClient({ url })];
    await mine.batch(fresh("t", "a"), "write");
    const open = await mine.transaction("write");
    await open.execute("INSERT INTO t VALUES ('mine')");
    // It waits until the transaction is rolled back.
    await others.execute("INSERT INTO t VALUES ('others')");
    await assert.rejects(open.execute("SELECT 1"), /rolled back/);
    await assert.rejects(open.commit());
    assert.deepEqual((await mine.execute("SELECT a FROM t")).rows.map((row) => row.a), ["others"]);
    // A stream without a transaction has nothing to lose.
    assert.equal((await mine.execute("SELECT 1 AS one")).rows[0].one, 1);
    mine.close();
    others.close();
});
