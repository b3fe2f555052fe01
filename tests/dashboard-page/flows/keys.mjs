// API keys: a secret that is shown once, rights, and an end.
import assert from "node:assert/strict";

const row = (tab, name) => tab.page.locator("tbody tr", { hasText: name });

export const keys = {
  async "make a key that is shown once and works, and revoke it"(given) {
    const server = await given.fresh(["--auth", "keys"]);
    for (const id of ["ada", "grace"]) await server.operator("POST", "/tenants", { id });
    const tab = await given.operator(server);
    await tab.go("/admin");
    await tab.page.getByRole("link", { name: "Keys", exact: true }).click();
    await tab.page.getByText("There are no keys.").waitFor();
    await tab.page.getByText("Make a key…").click();
    await tab.page.getByLabel("What it is for").fill("nightly job");
    await tab.page.getByLabel("The only tenant it reaches").fill("ada");
    await tab.page.getByLabel("Days it is good for").fill("7");
    await tab.page.getByLabel("It may only read").check();
    await tab.page.getByRole("button", { name: "Make the key" }).click();
    await tab.told("This is the key.");
    const secret = await tab.page.locator("#secret").innerText();
    assert.match(secret, /^cubby_live_/);

    const ask = async (id, method = "GET") => {
      const headers = { authorization: `Bearer ${secret}`, "content-type": "application/json" };
      const body = method === "POST" ? '{"text":"x"}' : undefined;
      return (await fetch(`${server.url}/${id}`, { method, headers, body })).status;
    };
    assert.deepEqual([await ask("ada"), await ask("grace"), await ask("ada", "POST")], [200, 404, 403]);

    for (const path of ["/admin/keys", "/admin/audit", "/admin"]) {
      await tab.go(path);
      assert.ok(!(await tab.page.content()).includes(secret), `${path} has the key`);
    }
    await tab.go("/admin/keys");
    const of = row(tab, "nightly job");
    assert.equal(await of.locator(".tag").innerText(), "good");
    await of.getByText("Revoke…").click();
    await of.getByRole("button", { name: "Revoke, at once" }).click();
    await tab.told("nightly job does not work any more.");
    assert.equal(await row(tab, "nightly job").locator(".tag").innerText(), "revoked");
    assert.equal(await ask("ada"), 401);
  },

  async "copy a new key by its button"(given) {
    const server = await given.fresh();
    const tab = await given.operator(server, { permissions: ["clipboard-read", "clipboard-write"] });
    await tab.go("/admin/keys");
    await tab.page.getByText("Make a key…").click();
    await tab.page.getByLabel("What it is for").fill("copied");
    await tab.page.getByRole("button", { name: "Make the key" }).click();
    const secret = await tab.page.locator("#secret").innerText();
    await tab.page.getByRole("button", { name: "Copy" }).click();
    await tab.page.getByRole("button", { name: "Copied" }).waitFor();
    assert.equal(await tab.page.evaluate(() => navigator.clipboard.readText()), secret);
  },

  async "a key that cannot be is not made, and the page says why"(given) {
    const tab = await given.operator();
    await tab.go("/admin/keys");
    await tab.page.getByText("Make a key…").click();
    await tab.page.getByLabel("What it is for").fill("for nobody");
    await tab.page.getByLabel("The only tenant it reaches").fill("not an id");
    await tab.page.getByRole("button", { name: "Make the key" }).click();
    await tab.told("No key was made:");
    assert.equal(await row(tab, "for nobody").count(), 0);
  },
};
