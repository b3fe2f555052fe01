// What the tests of the clients share. CUBBY_URL is a server whose users are their own to spoil: its SQL may change
// schemas (CUBBY_SQL_DDL=allow).

import { basename } from "node:path";
import { test } from "node:test";

const server = process.env.CUBBY_URL ?? "http://127.0.0.1:8080";

/** The address of the database that the tests of this file have, as a client is given it: the user is named as the file. */
export const url = `${server}/${basename(process.argv[1]).split(".")[0]}/sql`;

/** A test that is named for its subject, so that a count by subject can be read off. */
export function about(subject) {
    return (name, run) => test(`${subject}: ${name}`, run);
}

/** Makes a table anew. */
export function fresh(table, columns) {
    return [`DROP TABLE IF EXISTS ${table}`, `CREATE TABLE ${table} (${columns})`];
}
