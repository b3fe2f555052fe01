// Finding a tenant among a thousand, and what an operator does to one.
import assert from "node:assert/strict";
import { isExport } from "../exported.mjs";
import { MANY, person } from "../server.mjs";

const ids = (tab) => tab.column("Id");
const tag = (tab) => tab.page.locator(".lead .tag").innerText();
const next = (tab) => tab.page.getByRole("link", { name: "Next page" });

/** Searches as one does without a mouse: "/" goes to the field. */
async function search(tab, text) {
  await tab.go("/admin");
  await tab.page.keyboard.press("/");
  await tab.page.keyboard.type(text);
  await tab.page.keyboard.press("Enter");
  await tab.heading("Tenants");
}

/** Chooses of a filter, which applies at once. */
async function choose(tab, label, option) {
  await tab.leads(() => tab.page.getByLabel(label, { exact: true }).selectOption(option));
}

async function finds(tab, text, { id, email }) {
  await search(tab, text);
  assert.deepEqual(await ids(tab), [id], text);
  await tab.page.getByRole("link", { name: id }).click();
  await tab.heading(id);
  await tab.page.getByText(email).first().waitFor();
}

const falls = (values) => values.every((value, at) => at === 0 || value <= values[at - 1]);
const bytes = (text) => {
  const [number, unit] = text.split(" ");
  return text === "" ? 0 : Number(number) * 1024 ** ["B", "KiB", "MiB", "GiB"].indexOf(unit);
};

/** What an operator does to a tenant: opens what is folded, says why, and sends it. */
async function suspend(tab, reason) {
  await tab.page.getByText("Suspend…").click();
  await tab.page.getByLabel("Reason").fill(reason);
  await tab.page.getByRole("button", { name: "Suspend", exact: true }).click();
}

export const tenants = {
  async "find a tenant among 1,000 by id"(given) {
    const who = person(321);
    await finds(await given.operator(), who.id, who);
  },

  async "find a tenant among 1,000 by the beginning of the address"(given) {
    const who = person(322);
    await finds(await given.operator(), who.email.split("@")[0].toUpperCase(), who);
  },

  async "find a tenant among 1,000 by a part of the address"(given) {
    const who = person(654);
    await finds(await given.operator(), who.email.slice(3, -4), who);
  },

  async "a search by name finds all who have it, and one for nobody says so"(given) {
    const tab = await given.operator();
    await search(tab, "Dijkstra");
    const who = await tab.column("Name");
    assert.ok(who.length === 50 && who.every((name) => name.includes("Dijkstra")), who.join());
    await search(tab, "nobody at all");
    await tab.page.getByText("Nobody is found.").waitFor();
    assert.deepEqual(await ids(tab), []);
  },

  async "filter tenants by state"(given) {
    const tab = await given.operator();
    await tab.go("/admin/tenants");
    for (const [state, least] of [["suspended", 2], ["deleted", 1], ["quarantined", 1]]) {
      await choose(tab, "State", state);
      const states = await tab.column("State");
      assert.ok(states.length >= least && states.every((text) => text.startsWith(state)), states.join());
      const label = await tab.page.locator("#state option:checked").innerText();
      assert.equal(label, `${state} (${states.length})`);
    }
  },

  async "sort tenants by id, creation, last use and size"(given) {
    const tab = await given.operator();
    await tab.go("/admin/tenants");
    const found = await ids(tab);
    assert.deepEqual(found, found.toSorted());
    for (const [order, column, value] of [
      ["newest first", "Created", (text) => text], ["last used first", "Last used", (text) => text.replace("never", "")], ["largest first", "Size", bytes],
    ]) {
      await choose(tab, "Order", { label: order });
      const values = (await tab.column(column)).map(value);
      assert.ok(values.length === 50 && falls(values), `${order}: ${values}`);
      assert.notDeepEqual(await ids(tab), found, order);
    }
    assert.ok(bytes((await tab.column("Size"))[0]) > 20_000, "the largest is first");
  },

  async "page through all 1,000 tenants, forward and back"(given) {
    const tab = await given.operator();
    await tab.go("/admin/tenants");
    const pages = [await ids(tab)];
    while (await next(tab).count()) {
      await tab.leads(() => next(tab).click());
      pages.push(await ids(tab));
    }
    assert.equal(new Set(pages.flat()).size, MANY);
    assert.deepEqual(pages.flat(), pages.flat().toSorted());
    await tab.page.goBack();
    await tab.page.goBack();
    assert.deepEqual(await ids(tab), pages.at(-3));
    await tab.leads(() => tab.page.getByRole("link", { name: "First page" }).click());
    assert.deepEqual(await ids(tab), pages[0]);
  },

  async "suspend a tenant with a reason, and resume it"(given) {
    const { id } = person(201);
    const tab = await given.operator();
    await tab.go(`/admin/tenants/${id}`);
    await suspend(tab, "");
    assert.equal(await tag(tab), "active", "a reason is asked for");
    await tab.page.getByLabel("Reason").fill("unpaid & overdue");
    await tab.page.getByRole("button", { name: "Suspend", exact: true }).click();
    await tab.told("The tenant is suspended now.");
    assert.equal(await tag(tab), "suspended");
    await tab.page.getByText("unpaid & overdue").first().waitFor();
    assert.equal((await given.many.note(id, "x")).status, 403);
    await tab.act("Resume");
    await tab.told("The tenant is active now.");
    assert.equal((await given.many.note(id, "x")).status, 201);
    await tab.page.reload();
    assert.equal(await tab.page.locator(".notice").count(), 0, "it is told once");
  },

  async "delete a tenant by typing the id, and restore it"(given) {
    const { id } = person(202);
    const tab = await given.operator();
    await tab.go(`/admin/tenants/${id}`);
    await tab.page.getByText("Delete…").click();
    const button = tab.page.getByRole("button", { name: "Delete", exact: true });
    const field = tab.page.locator("form[action$='/delete']").getByLabel("Type the id to confirm");
    assert.ok(await button.isDisabled());
    await field.fill(id.slice(0, -1));
    assert.ok(await button.isDisabled());
    await field.fill(id);
    await button.click();
    await tab.told("The tenant is deleted now.");
    await tab.act("Restore");
    await tab.told("The tenant is active now.");
  },

  async "two operators at one tenant: the second is told what has become of it"(given) {
    const { id } = person(203);
    const [one, two] = [await given.operator(), await given.operator()];
    for (const tab of [one, two]) await tab.go(`/admin/tenants/${id}`);
    await suspend(one, "the first");
    await one.told("The tenant is suspended now.");
    await given.many.operator("DELETE", `/tenants/${id}`);
    await suspend(two, "the second");
    await two.told("Nothing was changed:");
    assert.equal(await tag(two), "deleted");
    await two.act("Restore");
    await two.told("The tenant is suspended now.");
    await one.act("Resume");
    await one.told("The tenant is active now.");
  },

  async "without JavaScript: filter, suspend, resume"(given) {
    const { id } = person(204);
    const tab = await given.operator(given.many, { javaScriptEnabled: false });
    await tab.go("/admin/tenants");
    await tab.page.getByLabel("State", { exact: true }).selectOption("suspended");
    await tab.page.getByRole("button", { name: "Show" }).click();
    await tab.page.waitForURL(/state=suspended/);
    await tab.go(`/admin/tenants/${id}`);
    await suspend(tab, "no script");
    await tab.told("The tenant is suspended now.");
    await tab.act("Resume");
    await tab.told("The tenant is active now.");
  },

  async "export a tenant's file: it opens, and is what the header says"(given) {
    const { id } = person(205);
    const server = given.many;
    assert.equal((await server.note(id, "to be exported")).status, 201);
    const headers = { authorization: `Bearer ${server.key}` };
    const answer = await fetch(`${server.url}/api/admin/tenants/${id}/export`, { headers });
    assert.equal(answer.status, 200);
    isExport(Buffer.from(await answer.arrayBuffer()), answer.headers.get("repr-digest"), ["to be exported"]);
    const tab = await given.operator();
    await tab.go(`/admin/tenants/${id}`);
    await tab.page.getByRole("cell", { name: "tenants export" }).waitFor();
  },
};
