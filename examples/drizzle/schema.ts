import { relations, sql } from "drizzle-orm";
import { index, integer, sqliteTable, text } from "drizzle-orm/sqlite-core";

export const lists = sqliteTable("lists", {
    id: integer("id").primaryKey({ autoIncrement: true }),
    name: text("name").notNull().unique(),
});

export const todos = sqliteTable("todos", {
    id: integer("id").primaryKey({ autoIncrement: true }),
    list: integer("list").notNull().references(() => lists.id, { onDelete: "cascade" }),
    what: text("what").notNull(),
    done: integer("done", { mode: "boolean" }).notNull().default(false),
    created: integer("created", { mode: "timestamp" }).notNull().default(sql`(unixepoch())`),
    due: integer("due", { mode: "timestamp" }),
}, (table) => [index("todos_by_list").on(table.list)]);

export const listsRelations = relations(lists, ({ many }) => ({ todos: many(todos) }));
export const todosRelations = relations(todos, ({ one }) => ({ in: one(lists, { fields: [todos.list], references: [lists.id] }) }));
