import { defineConfig } from "drizzle-kit";

// The dialect is sqlite, and not turso: that one writes ALTER COLUMN, which SQLite does not have. `drizzle-kit generate`
// asks no database. For what does, DATABASE_URL is one user's database; a token goes into the address, as
// http://127.0.0.1:8080/user_2ab/sql?authToken=….
export default defineConfig({
    dialect: "sqlite",
    schema: process.env.SCHEMA ?? "./schema.ts",
    out: process.env.OUT ?? "./migrations",
    dbCredentials: { url: process.env.DATABASE_URL ?? "" },
    // The server's own tables, which `drizzle-kit push` would drop.
    tablesFilter: ["!cubby_meta", "!refinery_schema_history"],
});
