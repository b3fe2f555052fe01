// A reader's library, one database a user, with Prisma.

import { PrismaLibSql } from "@prisma/adapter-libsql";

import { PrismaClient } from "./generated/client";

/** A user's library: `server` such as http://127.0.0.1:8080, and a key or session token if it asks for one. */
export function openLibrary(server: string, user: string, authToken?: string): PrismaClient {
    return new PrismaClient({ adapter: new PrismaLibSql({ url: `${server}/${user}/sql`, authToken }) });
}

/** Adds a book, and its author if there is none of the name. */
export function add(library: PrismaClient, name: string, title: string, published: Date) {
    return library.book.create({
        data: { title, published, author: { connectOrCreate: { where: { name }, create: { name } } } },
        include: { author: true },
    });
}

/** The best books by the average of their authors. */
export function bestAuthors(library: PrismaClient) {
    return library.book.groupBy({ by: ["authorId"], _avg: { rating: true }, _count: true, orderBy: { authorId: "asc" } });
}
