// Names that mean harm, on every page that a link or a form of the dashboard leads to, at the width of a telephone.
import assert from "node:assert/strict";
import { NAMES, cut } from "../harmful.mjs";

const PHONE = { viewport: { width: 390, height: 844 } };

/** Where a page's links lead, and its forms of questions with each choice and each name. */
function onward(names) {
  const found = [...document.querySelectorAll("a[href]")].map((link) => new URL(link.href));
  for (const form of document.querySelectorAll("form[method=get]")) {
    const at = new URL(form.getAttribute("action"), location);
    for (const field of form.querySelectorAll("input[name]:not([type=hidden]), select[name]")) {
      const values = field.tagName === "SELECT" ? [...field.options].map((option) => option.value) : names;
      for (const value of values) found.push(new URL(`${at.pathname}?${new URLSearchParams({ [field.name]: value })}`, at));
    }
  }
  const ours = found.filter((url) => url.origin === location.origin && /^\/admin(\/|$)/.test(url.pathname));
  return ours.map((url) => url.pathname + url.search);
}

export const hostile = {
  async "no name is more than text on any page, and none is too wide for a telephone"(given) {
    const server = given.harmful;
    const tab = await given.operator(server, PHONE);
    const names = Object.values(NAMES).map((name) => cut(name, 200));
    const seen = new Set(["/admin"]);
    for (const path of seen) {
      // What is asked for may be refused, and the refusal is a page as well. Links lead to what is there.
      if (path.includes("?")) tab.expect(400, 404, 422);
      // A file is no page.
      await tab.go(path).catch((error) => assert.match(error.message, /Download is starting|ERR_ABORTED/));
      tab.expected = [];
      await tab.unfold();
      await tab.isWhole();
      for (const next of await tab.page.evaluate(onward, names)) seen.add(next);
      assert.ok(seen.size < 1000, "there is no end of pages");
    }
    const below = (folder) => [...seen].filter((path) => path.startsWith(`/admin/${folder}/`) && !path.includes("?")).length;
    assert.ok(below("tenants") >= names.length && below("deliveries") >= 3 * names.length, `not all are linked to: ${[...seen]}`);
    for (const section of ["tenants", "deliveries", "keys", "audit", "settings", "about"]) {
      assert.ok(seen.has(`/admin/${section}`), section);
    }
    console.log(`       ${seen.size} pages`);
  },

  async "names that mean harm are there to be read"(given) {
    const tab = await given.operator(given.harmful);
    await tab.go("/admin/tenants");
    const who = (await tab.column("Name")).join("\n");
    for (const text of [NAMES.script, NAMES.image, NAMES.closing, "abc\\u{202e}txt.exe"]) {
      assert.ok(who.includes(text.slice(0, 40)), `${text} is not in ${who}`);
    }
    assert.ok(who.length < 10_000, "long names are cut");
  },

  async "a search for a name that means harm keeps it as text"(given) {
    const tab = await given.operator(given.harmful);
    await tab.go("/admin");
    for (const name of [NAMES.script, NAMES.image, NAMES.attribute]) {
      await tab.page.getByRole("searchbox").fill(name);
      await tab.leads(() => tab.page.keyboard.press("Enter"));
      assert.equal(await tab.page.getByRole("searchbox").inputValue(), name);
      await tab.isWhole();
    }
  },

  async "what is asked for before the sign-in leads nowhere else"(given) {
    const tab = await given.visitor(given.harmful, PHONE);
    for (const next of ["https://evil.example", "//evil.example", `/admin/${NAMES.image}`, NAMES.link]) {
      await tab.go(`/admin/sign-in?next=${encodeURIComponent(next)}`);
      await tab.isWhole();
      await tab.signIn();
      await tab.heading("Overview");
      await tab.page.getByRole("button", { name: "Sign out" }).click();
      await tab.heading("Cubby");
    }
  },
};
