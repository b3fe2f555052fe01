// Webhook deliveries: the list, one with its payload, the replay.
import assert from "node:assert/strict";
import { person } from "../server.mjs";

const fact = (tab, name) => tab.page.locator("dl div", { hasText: name }).locator("dd").first().innerText();

/** Asks for a replay, and confirms it. */
const replay = async (tab) => {
  await tab.page.locator("summary", { hasText: "Replay…" }).click();
  await tab.page.getByLabel("Yes, apply it again").check();
  await tab.page.getByRole("button", { name: "Replay" }).click();
};

export const deliveries = {
  async "replay a delivery from the tenant that it is about"(given) {
    const who = person(301);
    const tab = await given.operator();
    await tab.go(`/admin/tenants/${who.id}`);
    const table = tab.page.getByRole("region", { name: "Deliveries" });
    await table.locator("tbody tr", { hasText: "user.created" }).getByRole("link").first().click();
    await tab.heading("user.created");
    assert.ok((await tab.page.locator("pre").innerText()).includes(who.email));
    const before = Number(await fact(tab, "Attempts"));
    await replay(tab);
    await tab.told("It was applied again");
    assert.equal(Number(await fact(tab, "Attempts")), before + 1);
  },

  async "find the deliveries that were rejected; a replay tells why again"(given) {
    const tab = await given.operator();
    await tab.go("/admin/deliveries");
    await tab.page.getByLabel("Outcome").selectOption("rejected");
    await tab.page.getByRole("button", { name: "Show" }).click();
    await tab.page.waitForURL(/outcome=rejected/);
    const outcomes = await tab.column("Outcome");
    assert.ok(outcomes.length === 1 && outcomes[0] === "rejected", outcomes.join());
    await tab.page.locator("tbody").getByRole("link").first().click();
    await tab.page.getByText("data.id: a user id consists of").first().waitFor();
    await replay(tab);
    await tab.told("data.id: a user id consists of");
  },

  async "find the deliveries about a tenant"(given) {
    const who = person(302);
    const tab = await given.operator();
    await tab.go("/admin/deliveries");
    assert.equal((await tab.column("Event")).length, 50);
    await tab.page.getByLabel("Tenant", { exact: true }).fill(who.id);
    await tab.page.keyboard.press("Enter");
    await tab.page.waitForURL(/user=/);
    assert.deepEqual(await tab.column("Tenant"), [who.id]);
  },
};
