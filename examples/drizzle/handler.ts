// A route handler as Next.js has them (`export const GET = handler`, and so on): each user's to-do lists, in the user's
// own database. It holds no key and verifies nothing. The session token that the browser sent goes on to the server,
// which checks it and lets nobody into another one's database.

import { createClient, LibsqlError } from "@libsql/client";
import { asc, eq } from "drizzle-orm";
import { drizzle } from "drizzle-orm/libsql";

import * as schema from "./schema";

const { lists, todos } = schema;

export async function handler(request: Request): Promise<Response> {
    // With @clerk/nextjs: const { userId, getToken } = await auth(); const token = await getToken();
    const token = request.headers.get("authorization")?.replace(/^Bearer /, "");
    const user = token && userOf(token);
    if (!user) {
        return Response.json({ error: "no session" }, { status: 401 });
    }
    const client = createClient({ url: `${process.env.CUBBY_URL}/${user}/sql`, authToken: token });
    try {
        return await answer(request, drizzle(client, { schema }));
    } catch (error) {
        return refused(error);
    } finally {
        client.close();
    }
}

async function answer(request: Request, db: ReturnType<typeof drizzle<typeof schema>>): Promise<Response> {
    const id = Number(new URL(request.url).searchParams.get("id"));
    switch (request.method) {
        case "GET":
            return Response.json(await db.query.lists.findMany({ with: { todos: true }, orderBy: asc(lists.name) }));
        case "POST": {
            const { name, what } = await request.json() as { name: string; what: string[] };
            // A list with its to-dos, or none of it.
            const list = await db.transaction(async (tx) => {
                const [list] = await tx.insert(lists).values({ name }).returning();
                await tx.insert(todos).values(what.map((what) => ({ list: list.id, what })));
                return list;
            });
            return Response.json(list, { status: 201 });
        }
        case "PATCH": {
            const [todo] = await db.update(todos).set({ done: true }).where(eq(todos.id, id)).returning();
            return Response.json(todo ?? null, { status: todo ? 200 : 404 });
        }
        case "DELETE":
            await db.batch([db.delete(todos).where(eq(todos.list, id)), db.delete(lists).where(eq(lists.id, id))]);
            return new Response(null, { status: 204 });
        default:
            return new Response(null, { status: 405 });
    }
}

/** Whom a token is of, as it says itself: that is for the server to believe or not. */
function userOf(token: string): string | undefined {
    try {
        return JSON.parse(Buffer.from(token.split(".")[1], "base64url").toString()).sub;
    } catch {
        return undefined;
    }
}

/** What to answer where the database refused: the codes are those of the server's docs/API.md, and SQLite's. */
const statuses: Record<string, [number, string]> = {
    invalid_token: [401, "the session is over, or none of ours"],
    unknown_user: [403, "no such user"],
    suspended: [403, "this account is suspended"],
    busy: [503, "try again soon"],
    SQLITE_CONSTRAINT: [409, "there is one of this name"],
};

function refused(error: unknown): Response {
    // Drizzle tells what it asked; what was answered is its cause.
    for (let cause = error; cause instanceof Error; cause = cause.cause) {
        const [status, why] = (cause instanceof LibsqlError && statuses[cause.code]) || [];
        if (status) {
            return Response.json({ error: why }, { status });
        }
    }
    throw error;
}
