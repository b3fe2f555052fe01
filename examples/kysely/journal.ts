// A journal, one database a user. Kysely makes the SQL, and the types say what it may be.

import { createClient } from "@libsql/client";
import { LibsqlDialect } from "@libsql/kysely-libsql";
import { type Generated, Kysely } from "kysely";

export interface Tables {
    days: { day: string };
    entries: { id: Generated<number>; day: string; text: string; mood: number | null };
}

/** A user's journal: `server` such as http://127.0.0.1:8080, and a key or session token if it asks for one. */
export function openJournal(server: string, user: string, token?: string): Kysely<Tables> {
    const client = createClient({ url: `${server}/${user}/sql`, authToken: token });
    // The dialect comes with an older client of its own; this is the newest.
    return new Kysely<Tables>({ dialect: new LibsqlDialect({ client: client as never }) });
}

/** Writes an entry, and its day if it is the first. */
export function write(journal: Kysely<Tables>, day: string, text: string, mood: number | null = null) {
    return journal.transaction().execute(async (tx) => {
        await tx.insertInto("days").values({ day }).onConflict((conflict) => conflict.doNothing()).execute();
        return tx.insertInto("entries").values({ day, text, mood }).returningAll().executeTakeFirstOrThrow();
    });
}

/** How many entries each day has, and how they felt. */
export function byDay(journal: Kysely<Tables>) {
    return journal.selectFrom("entries")
        .select(({ fn }) => ["day", fn.countAll<number>().as("entries"), fn.avg<number | null>("mood").as("mood")])
        .groupBy("day")
        .orderBy("day")
        .execute();
}
