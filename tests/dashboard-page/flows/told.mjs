// What pages tell: what is wrong, who did what, settings, and of secrets only that they are set.
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { person } from "../server.mjs";

export const told = {
  async "the overview tells what is wrong, and leads there"(given) {
    const tab = await given.operator();
    await tab.go("/admin");
    const trouble = tab.page.locator(".troubles li", { hasText: "quarantined" });
    await trouble.getByRole("link").click();
    await tab.heading("Tenants");
    assert.deepEqual(await tab.column("Id"), [person(43).id]);
    await tab.page.getByRole("link", { name: person(43).id }).click();
    await tab.page.getByText("the file is not a database").first().waitFor();
  },

  async "settings tell what is set and from where, and never a secret"(given) {
    const server = given.many;
    const tab = await given.operator();
    await tab.go("/admin/settings");
    const [names, values, from] = [await tab.column("Variable"), await tab.column("Value"), await tab.column("From")];
    const of = (name) => [values[names.indexOf(name)], from[names.indexOf(name)]];
    assert.deepEqual(of("CUBBY_DATA"), ["data", "flag"]);
    assert.deepEqual(of("ADMIN_API_KEY"), ["set", "environment"]);
    assert.deepEqual(of("CLERK_WEBHOOK_SECRET"), ["set", "environment"]);
    for (const path of ["/admin/settings", "/admin", "/admin/about", "/admin/audit", "/admin/keys"]) {
      await tab.go(path);
      const text = await tab.page.content();
      for (const secret of [server.key, server.secret.toString("base64")]) assert.ok(!text.includes(secret), path);
    }
  },

  async "the audit trail shows what was done, by whom and to whom"(given) {
    const { id } = person(401);
    const tab = await given.operator();
    await tab.go(`/admin/tenants/${id}`);
    await tab.page.getByText("Suspend…").click();
    await tab.page.getByLabel("Reason").fill("for the trail");
    await tab.page.getByRole("button", { name: "Suspend", exact: true }).click();
    await tab.told("The tenant is suspended now.");
    await tab.act("Resume");
    await tab.told("The tenant is active now.");
    await tab.page.getByRole("link", { name: "Audit", exact: true }).click();
    await tab.heading("Audit");
    await tab.page.getByLabel("About", { exact: true }).fill(id);
    await tab.page.keyboard.press("Enter");
    await tab.page.waitForURL(/target=/);
    assert.deepEqual((await tab.column("What")).slice(0, 2), ["tenants resume", "tenants suspend"]);
    assert.deepEqual((await tab.column("Who")).slice(0, 2), ["operator", "operator"]);
    assert.deepEqual((await tab.column("From")).slice(0, 2), ["127.0.0.1", "127.0.0.1"]);
    assert.deepEqual((await tab.column("Result")).slice(0, 2), ["done", "done"]);
    await tab.page.locator("tbody").getByRole("link", { name: id }).first().click();
    await tab.heading(id);
  },

  async "about tells the version and what the server uses"(given) {
    const tab = await given.operator();
    await tab.go("/admin");
    await tab.page.getByRole("link", { name: "About", exact: true }).click();
    await tab.heading("About");
    const version = execFileSync(given.cubby, ["--version"], { encoding: "utf8" }).trim().split(" ").at(-1);
    const facts = await tab.page.locator("dl div").allInnerTexts();
    assert.ok(facts.some((fact) => fact.includes(version)), facts.join("; "));
    for (const path of ["/docs", "/metrics"]) {
      const link = await tab.page.getByRole("main").locator(`a[href="${path}"]`).getAttribute("href");
      assert.equal((await fetch(`${given.many.url}${link}`)).status, 200);
    }
  },
};
