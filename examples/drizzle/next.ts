// The schema as it may become: tried with `drizzle-kit push` on a user who may be spoiled, before `drizzle-kit generate`
// makes a migration of it.
import { integer, primaryKey, sqliteTable, text } from "drizzle-orm/sqlite-core";

import { todos } from "./schema";

export * from "./schema";

export const tags = sqliteTable("tags", {
    todo: integer("todo").notNull().references(() => todos.id, { onDelete: "cascade" }),
    tag: text("tag").notNull(),
}, (table) => [primaryKey({ columns: [table.todo, table.tag] })]);
