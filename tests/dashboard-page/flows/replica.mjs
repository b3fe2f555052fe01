// Copies elsewhere: how the bucket stands, a tenant put back to a moment, another begun with it, a backup.
import assert from "node:assert/strict";
import { mkdirSync } from "node:fs";
import { join, resolve } from "node:path";
import { check } from "./accessibility.mjs";
import { through } from "./keyboard.mjs";

/** A folder beside those of the servers. */
function place(given, name) {
  const folder = resolve(join(given.many.folder, "..", name));
  mkdirSync(folder, { recursive: true });
  return folder;
}

/** A server that copies to a folder of its own. */
const copied = (given, name) => given.fresh(["--replicate", `file://${place(given, name)}`]);

/** Waits until this is so. */
async function until(what, holds) {
  for (let at = 0; at < 300; at++) {
    const found = await holds();
    if (found) return found;
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  assert.fail(`it did not come about: ${what}`);
}

/** The newest moment of a tenant after another one, when the bucket has everything. */
const newest = (server, id, after) =>
  until("a moment is there", async () => {
    const { behind_ms, log_bytes } = await server.operator("GET", "/replica");
    if (behind_ms > 0 || log_bytes > 0) return false;
    const { moments } = await server.operator("GET", `/tenants/${id}/history?limit=1`);
    return moments.length > 0 && moments[0].at > after && moments[0].at;
  });

const notes = async (server, id) => (await (await fetch(`${server.url}/${id}`)).json()).notes.length;

/** Writes two notes, and gives the moment between them. */
async function twoNotes(server, id) {
  assert.equal((await server.note(id, "the first")).status, 201);
  const between = await newest(server, id, "");
  assert.equal((await server.note(id, "the second")).status, 201);
  await newest(server, id, between);
  return between;
}

export const replica = {
  async "where nothing is copied, the page says how to turn it on"(given) {
    const tab = await given.operator(await given.fresh());
    await tab.go("/admin");
    await tab.page.getByRole("link", { name: "Replication", exact: true }).click();
    await tab.heading("Replication");
    const settings = await tab.page.locator("pre").innerText();
    for (const name of ["CUBBY_REPLICATE=", "CUBBY_REPLICATE_MODE=", "CUBBY_REPLICATE_WINDOW=", "AWS_ACCESS_KEY_ID="]) {
      assert.ok(settings.includes(name), `${name} is not in ${settings}`);
    }
    await tab.page.getByText("No backup was made since the server began.").waitFor();
    await tab.isWhole();
  },

  async "put a tenant back to a moment: dry run, typed id, and another tenant begins with it"(given) {
    const server = await copied(given, "copied");
    const between = await twoNotes(server, "ada");
    const tab = await given.operator(server);
    await tab.go("/admin/tenants/ada");
    await tab.page.getByRole("link", { name: "Show the moments" }).click();
    await tab.heading("Moments");
    const shown = between.slice(0, 23).replace("T", " ");
    await tab.leads(() => tab.page.locator("tbody tr", { hasText: shown }).first().getByRole("link").click());
    assert.equal(await tab.page.locator("#at").inputValue(), between);
    await tab.page.getByRole("button", { name: "Dry run" }).click();
    await tab.heading(`Put back to ${shown}?`);
    const at = (await tab.column("Table")).indexOf("notes");
    assert.deepEqual([(await tab.column("Rows now"))[at], (await tab.column("Rows then"))[at]], ["2", "1"]);
    await tab.isWhole();
    assert.equal(await notes(server, "ada"), 2, "a dry run changes nothing");
    const button = tab.page.getByRole("button", { name: "Put back" });
    assert.ok(await button.isDisabled(), "the id is typed first");
    await tab.page.getByLabel("Type the id to confirm").fill("ada");
    await button.click();
    await tab.told("The tenant is put back to");
    assert.equal(await notes(server, "ada"), 1);

    await tab.go("/admin/tenants/ada/moments");
    await tab.page.getByText("Fork…").click();
    await tab.page.getByLabel("The new tenant's id").fill("bea");
    await tab.page.getByRole("button", { name: "Fork" }).click();
    await tab.told("It was begun with what ada had");
    await tab.heading("bea");
    assert.equal(await notes(server, "bea"), 1);
    await tab.page.getByRole("cell", { name: "tenants fork" }).first().waitFor();
  },

  async "compare what the bucket has, and see that it is whole"(given) {
    const server = await copied(given, "verified");
    assert.equal((await server.note("ada", "x")).status, 201);
    await newest(server, "ada", "");
    const tab = await given.operator(server);
    await tab.go("/admin/replica");
    assert.equal((await tab.column("State", tab.page.getByRole("region", { name: "Shards" }).locator("table"))).length, 16);
    await tab.page.getByText("Compare…").click();
    await tab.page.getByLabel("All of them").check();
    await tab.page.getByRole("button", { name: "Compare now" }).click();
    // The page follows by itself.
    await tab.page.getByText("1 of 1 compared: 1 the same").waitFor();
    await tab.page.locator(".tag.good", { hasText: "whole" }).waitFor();
  },

  async "back up now, and find the backup in the list"(given) {
    const server = await given.fresh();
    assert.equal((await server.note("ada", "x")).status, 201);
    const tab = await given.operator(server);
    await tab.go("/admin/replica");
    await tab.page.getByText("Back up to a place…").click();
    await tab.page.getByLabel("A folder of the server's machine").fill(place(given, "backups"));
    await tab.page.getByRole("button", { name: "Back up there" }).click();
    await tab.told("A backup is being made to");
    await tab.page.locator("tbody .tag.done").waitFor();
    await tab.page.getByText("Back up to a place…").click();
    await tab.page.getByLabel("A folder of the server's machine").fill("backups");
    await tab.page.getByRole("button", { name: "Back up there" }).click();
    await tab.told("No backup was begun:");
  },

  async "pages of copies have nothing serious that axe-core finds, and Tab reaches all of them"(given) {
    const server = await copied(given, "looked-at");
    const between = await twoNotes(server, "ada");
    const tab = await given.operator(server);
    const pages = {
      copies: () => tab.go("/admin/replica"),
      "its tenant": () => tab.go("/admin/tenants/ada"),
      moments: () => tab.go("/admin/tenants/ada/moments"),
      "a look at one": async () => {
        await tab.go(`/admin/tenants/ada/moments?at=${encodeURIComponent(between)}`);
        await tab.leads(() => tab.page.getByRole("button", { name: "Dry run" }).click());
      },
    };
    await check(tab, pages);
    await tab.page.setViewportSize({ width: 1280, height: 800 });
    for (const [name, open] of Object.entries(pages)) {
      await open();
      await through(tab, name);
    }
  },
};
