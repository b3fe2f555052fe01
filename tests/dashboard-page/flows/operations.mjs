// The reconcile, migrations of all, rows of a tenant, many tenants at once, and the first run.
import assert from "node:assert/strict";
import { copyFileSync, mkdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { isExport } from "../exported.mjs";
import { provider } from "../provider.mjs";
import { person, signedUp } from "../server.mjs";

const MIGRATIONS = fileURLToPath(new URL("../../../migrations/tenant", import.meta.url));
const FILES = ["V1__notes.sql", "V2__idempotency_keys.sql"];

const states = async (server) => (await server.operator("GET", "/tenants?limit=1")).counts;

/** Waits until this is so. */
async function until(what, holds) {
  for (let at = 0; at < 300; at++) {
    if (await holds()) return;
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  assert.fail(`it did not come about: ${what}`);
}

/** Their pages, for what is looked at on each. */
export const operationPages = {
  sync: (tab) => tab.go("/admin/sync"),
  migrations: (tab) => tab.go("/admin/migrations"),
  bulk: (tab) => tab.go("/admin/bulk"),
  "first-run": (tab) => tab.go("/admin/first-run"),
  data: (tab) => tab.go(`/admin/tenants/${person(1).id}/data`),
  rows: async (tab) => {
    await tab.go(`/admin/tenants/${person(1).id}/data`);
    await tab.leads(() => tab.page.getByRole("link", { name: "notes", exact: true }).click());
  },
};

export const operations = {
  async "reconcile: look at the dry run, then apply it"(given) {
    // Two whom the provider has are missing here, and one who is here is not with the provider.
    const users = [1, 2, 3, 4, 5, 6].map(person);
    const { url, end } = await provider(users);
    given.later(end);
    const server = await given.fresh(["--clerk-secret-key", "sk_test_0", "--clerk-api-url", url]);
    for (const user of users.slice(0, 4)) assert.equal(await server.deliver(signedUp(user)), 200);
    assert.equal(await server.deliver(signedUp(person(9))), 200);
    const before = await states(server);
    const tab = await given.operator(server);
    await tab.go("/admin/sync");
    await tab.page.getByRole("button", { name: /dry run|compare|look/i }).click();
    for (const { id } of [person(5), person(6), person(9)]) await tab.page.getByText(id).first().waitFor();
    assert.deepEqual(await states(server), before, "a dry run changes nothing");
    // One is deleted by it, so that is typed.
    const confirm = tab.page.getByLabel(/^Type .* to confirm$/);
    await confirm.fill(await confirm.getAttribute("data-confirm"));
    await tab.page.getByRole("button", { name: /apply/i }).click();
    await until("two are created", async () => (await states(server)).active >= 6);
    await tab.go(`/admin/tenants/${person(6).id}`);
    await tab.heading(person(6).id);
    await tab.page.getByText(person(6).email).first().waitFor();
  },

  async "start a migration of all tenants, and watch it to its end"(given) {
    const folder = join(given.many.folder, "..", "migrations");
    mkdirSync(folder, { recursive: true });
    copyFileSync(join(MIGRATIONS, FILES[0]), join(folder, FILES[0]));
    const server = await given.fresh(["--migrations", folder]);
    for (let at = 0; at < 30; at++) assert.equal(await server.deliver(signedUp(person(at))), 200);
    await server.stop();
    copyFileSync(join(MIGRATIONS, FILES[1]), join(folder, FILES[1]));
    await server.again();
    const tab = await given.operator(server);
    await tab.go("/admin/migrations");
    await tab.page.getByText("30 are behind schema 2").waitFor();
    await tab.page.getByLabel(/canary/i).fill("3");
    await tab.page.getByRole("button", { name: "Start" }).click();
    // The page follows by itself.
    await tab.page.locator("#run .tag").filter({ hasText: /done|finished|completed/ }).waitFor();
    await tab.page.getByText("0 are behind schema 2").waitFor();
    assert.equal((await server.operator("GET", `/tenants/${person(7).id}`)).schema_version, 2);
  },

  async "browse the rows of a tenant's tables, and ask with a SELECT"(given) {
    const { id } = person(601);
    for (const text of ["buy milk", "<b>pay rent</b>"]) assert.equal((await given.many.note(id, text)).status, 201);
    const tab = await given.operator();
    await tab.go(`/admin/tenants/${id}/data`);
    await tab.page.getByRole("link", { name: "notes", exact: true }).click();
    await tab.page.getByRole("cell", { name: "<b>pay rent</b>" }).waitFor();
    await tab.isWhole();
    await tab.page.getByLabel("One SELECT").fill("SELECT count(*) + 40 AS n FROM notes");
    await tab.page.getByRole("button", { name: "Run" }).click();
    await tab.page.getByRole("cell", { name: "42", exact: true }).waitFor();
    await tab.page.getByLabel("One SELECT").fill("DELETE FROM notes");
    tab.expect(422);
    await tab.page.getByRole("button", { name: "Run" }).click();
    await tab.page.getByRole("alert").waitFor();
    const notes = await (await fetch(`${given.many.url}/${id}`)).json();
    assert.equal(notes.notes.length, 2, "nothing is written");
    // Each look is in the trail.
    await tab.go(`/admin/audit?target=${id}`);
    await tab.page.getByRole("cell", { name: /tenants (browse|data|sql)/ }).first().waitFor();
  },

  async "export a tenant from its page: the file opens, and is what the header says"(given) {
    const { id } = person(602);
    assert.equal((await given.many.note(id, "to be exported")).status, 201);
    const tab = await given.operator();
    await tab.go(`/admin/tenants/${id}`);
    await tab.page.locator("summary", { hasText: "Export…" }).click();
    const [answer, download] = await Promise.all([
      tab.page.waitForEvent("response", (found) => new URL(found.url()).pathname.endsWith("/export")),
      tab.page.waitForEvent("download"),
      tab.page.getByRole("button", { name: "Download" }).click(),
    ]);
    isExport(readFileSync(await download.path()), await answer.headerValue("repr-digest"), ["to be exported"]);
    assert.equal(download.suggestedFilename(), `${id}.db`);
  },

  async "suspend many tenants at once by a typed confirmation, and resume them"(given) {
    const server = await given.fresh();
    for (let at = 0; at < 60; at++) assert.equal(await server.deliver(signedUp(person(at))), 200);
    const tab = await given.operator(server);
    for (const [action, button, state] of [["suspend", "Suspend 60", "suspended"], ["resume", "Resume 60", "active"]]) {
      await tab.go("/admin/tenants");
      await tab.page.getByLabel("Do", { exact: true }).selectOption(action);
      await tab.page.getByLabel("to all that match, on every page").check();
      await tab.leads(() => tab.page.getByRole("button", { name: "Go on…" }).click());
      if (action === "suspend") await tab.page.getByLabel("Reason").fill("maintenance");
      const confirm = tab.page.getByLabel(/^Type .* to confirm$/);
      assert.ok(await tab.page.getByRole("button", { name: button }).isDisabled(), "what is to be typed is typed first");
      await confirm.fill(await confirm.getAttribute("data-confirm"));
      await tab.page.getByRole("button", { name: button }).click();
      await tab.page.getByRole("progressbar", { name: "Tenants handled" }).waitFor();
      await until(`all are ${state}`, async () => (await states(server))[state] === 60);
    }
  },

  async "the first run leads through connecting the provider, with a test delivery and a sample tenant"(given) {
    const server = await given.fresh();
    const tab = await given.operator(server);
    await tab.go("/admin/first-run");
    await tab.isWhole();
    await tab.page.getByRole("button", { name: "Send a test delivery" }).click();
    await tab.page.locator(".notice[role=status]").waitFor();
    const { deliveries } = await server.operator("GET", "/deliveries?limit=10");
    assert.ok(deliveries.length > 0, "the delivery came through the endpoint");
    await tab.go("/admin/first-run");
    await tab.page.getByRole("button", { name: "Make a sample tenant" }).click();
    await until("there is a tenant", async () => (await states(server)).active > 0);
  },
};
