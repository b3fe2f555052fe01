// What the tests of @libsql/hrana-client share. HRANA is the version of the protocol, 2 or 3.
//
// The published client asks for version 3 in protocol buffers and else speaks version 2. So that it speaks version 3 in
// JSON, its list of what it asks for gets that, as its authors' own tests do.

import * as hrana from "@libsql/hrana-client";

import { checkEndpoints } from "./node_modules/@libsql/hrana-client/lib-esm/http/client.js";
import { fresh, url } from "./lib.mjs";

export const version = Number(process.env.HRANA ?? 2);

if (version === 3) {
    checkEndpoints.push({
        versionPath: "v3",
        pipelinePath: "v3/pipeline",
        cursorPath: "v3/cursor",
        version: 3,
        encoding: "json",
    });
}

export const open = (fetch) => hrana.openHttp(url, undefined, fetch, undefined, version);

/** Runs with a client and a stream of its own. */
export const using = (run) => async () => {
    const client = open();
    try {
        await client.getVersion();
        await run(client.openStream(), client);
    } finally {
        client.close();
    }
};

export const value = async (stream, stmt) => (await stream.queryValue(stmt)).value;

/** A promise that may be rejected before anybody looks. */
export const quiet = (promise) => (promise.catch(() => {}), promise);

/** Makes the table `t` anew, and runs more. */
export async function table(stream, columns, ...statements) {
    for (const sql of [...fresh("t", columns), ...statements]) {
        await stream.run(sql);
    }
}
