// What the tests of @libsql/client share.

import assert from "node:assert/strict";

import { createClient, LibsqlBatchError, LibsqlError } from "@libsql/client";

import { fresh, url } from "./lib.mjs";

export const using = (run, config = {}) => async () => {
    const client = createClient({ url, ...config });
    try {
        await run(client);
    } finally {
        client.close();
    }
};

/** With an empty table `t`. */
export const withTable = (columns, run, config) => using(async (client) => {
    await client.batch(fresh("t", columns), "write");
    await run(client);
}, config);

export const cells = (result) => result.rows.map((row) => Array.from(row));
export const first = async (target, stmt) => (await target.execute(stmt)).rows[0][0];
export const fails = (promise, code) => assert.rejects(promise, (error) => {
    assert.ok(error instanceof LibsqlError, String(error));
    if (code !== undefined) {
        assert.equal(error.code, code, error.message);
    }
    return true;
});
export const failsAt = (promise, index) => assert.rejects(promise, (error) => {
    assert.ok(error instanceof LibsqlBatchError, String(error));
    assert.equal(error.statementIndex, index);
    assert.equal(typeof error.code, "string");
    return true;
});
