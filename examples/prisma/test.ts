// Tries the library against CUBBY_URL, a server with the migrations of this folder and the user ada.

import assert from "node:assert/strict";
import { after, test } from "node:test";

import { add, bestAuthors, openLibrary } from "./library";

const library = openLibrary(process.env.CUBBY_URL ?? "http://127.0.0.1:8080", "ada");
after(() => library.$disconnect());

test("creates, reads, updates and deletes", async () => {
    const book = await add(library, "Kästner", "Emil", new Date("1929-10-01T00:00:00Z"));
    await add(library, "Kästner", "Pünktchen", new Date("1931-10-01T00:00:00Z"));
    assert.equal(await library.author.count(), 1);
    const rated = await library.book.update({ where: { id: book.id }, data: { rating: 4.5 } });
    assert.deepEqual([rated.rating, rated.published], [4.5, new Date("1929-10-01T00:00:00Z")]);
    const found = await library.book.findMany({
        where: { published: { gt: new Date("1930-01-01T00:00:00Z") }, author: { name: { startsWith: "Käs" } } },
        include: { author: { include: { books: { select: { title: true }, orderBy: { id: "asc" } } } } },
    });
    assert.deepEqual(found.map((each) => [each.title, each.author.books.map((one) => one.title)]),
        [["Pünktchen", ["Emil", "Pünktchen"]]]);
    assert.deepEqual(await bestAuthors(library), [{ authorId: book.authorId, _avg: { rating: 4.5 }, _count: 2 }]);
    await library.author.delete({ where: { id: book.authorId } });
    assert.equal(await library.book.count(), 0);
});

test("many at once, and an upsert", async () => {
    const { count } = await library.author.createMany({ data: ["a", "b", "c"].map((name) => ({ name })) });
    assert.equal(count, 3);
    const changed = await library.author.upsert({ where: { name: "a" }, create: { name: "a" }, update: { name: "A" } });
    assert.equal(changed.name, "A");
    assert.equal((await library.author.deleteMany()).count, 3);
});

test("a batch is all or nothing", async () => {
    await library.$transaction([library.author.create({ data: { name: "a" } }), library.author.create({ data: { name: "b" } })]);
    await assert.rejects(library.$transaction([
        library.author.create({ data: { name: "c" } }),
        library.author.create({ data: { name: "a" } }),
    ]));
    assert.equal(await library.author.count(), 2);
    await library.author.deleteMany();
});

test("an interactive transaction commits, or rolls back when it throws", async () => {
    await library.$transaction(async (tx) => {
        const author = await tx.author.create({ data: { name: "a" } });
        await tx.book.create({ data: { title: "t", published: new Date(), authorId: author.id } });
    });
    await assert.rejects(library.$transaction(async (tx) => {
        await tx.book.deleteMany();
        assert.equal(await tx.book.count(), 0);
        throw new Error("changed my mind");
    }), /changed my mind/);
    assert.deepEqual([await library.author.count(), await library.book.count()], [1, 1]);
    await library.author.deleteMany();
});

test("a conflict is an error, and SQL of one's own works", async () => {
    await library.author.create({ data: { name: "a" } });
    await assert.rejects(library.author.create({ data: { name: "a" } }), (error: { code?: string }) => {
        // P2002 with a local file; from a server the adapter gets no extended code, and says P2039.
        assert.equal(error.code, "P2039");
        return true;
    });
    const rows = await library.$queryRaw<{ n: bigint }[]>`SELECT count(*) AS n FROM "Author" WHERE name = ${"a"}`;
    assert.equal(Number(rows[0].n), 1);
    assert.equal(await library.$executeRaw`DELETE FROM "Author"`, 1);
    await assert.rejects(library.$executeRaw`CREATE TABLE mine (x)`, /CUBBY_MIGRATIONS/);
});

test("the migrations are in the history as Prisma writes it", async () => {
    const done = await library.$queryRaw<{ migration_name: string }[]>`
        SELECT migration_name FROM _prisma_migrations WHERE finished_at IS NOT NULL ORDER BY migration_name`;
    assert.deepEqual(done.map((row) => row.migration_name), ["20260301090000_init", "20260302090000_rating"]);
});
