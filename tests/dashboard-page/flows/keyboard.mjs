// Everything by the keyboard: what can be used is reached by Tab, one sees where one is, and Enter works.
import assert from "node:assert/strict";
import { inside, outside } from "../pages.mjs";
import { person } from "../server.mjs";

/** What has the focus: its place among all that can be used, and whether one sees that it has. */
function focused() {
  const all = [...document.querySelectorAll("a[href], button, input, select, textarea, summary, [tabindex='0']")];
  // Of choices that exclude each other Tab leads to the one that is chosen, and arrows to the others.
  const isReached = (e) => e.type !== "radio" || e.checked || !document.querySelector(`input[name="${e.name}"]:checked`);
  const isThere = (e) => e.type !== "hidden" && !e.disabled && e.checkVisibility({ visibilityProperty: true });
  const usable = all.filter((e) => isThere(e) && isReached(e));
  const at = document.activeElement;
  const name = (e) => `${e.tagName.toLowerCase()} ${e.getAttribute("aria-label") ?? e.innerText ?? e.name}`.slice(0, 60);
  if (at === document.body || at === null) return { none: true, names: usable.map(name) };
  const { outlineStyle, outlineWidth } = getComputedStyle(at);
  const box = at.getBoundingClientRect();
  return {
    place: usable.indexOf(at), name: name(at),
    seen: outlineStyle !== "none" && parseFloat(outlineWidth) >= 2,
    inside: box.bottom > 0 && box.top < innerHeight && box.right > 0 && box.left < innerWidth,
  };
}

/** Goes through a page by Tab, and unfolds what is folded. */
export async function through(tab, where) {
  const reached = new Set();
  await tab.page.evaluate(() => {
    document.activeElement?.blur();
    getSelection().removeAllRanges();
    scrollTo(0, 0);
  });
  for (const folded of await tab.page.locator("details:not([open]) > summary").elementHandles()) {
    await folded.focus();
    await tab.page.keyboard.press("Enter");
    assert.ok(await folded.evaluate((summary) => summary.parentElement.open), `${where}: Enter does not unfold`);
  }
  // From the top again.
  await tab.page.locator("body").evaluate((body) => {
    body.tabIndex = -1;
    body.focus();
    body.removeAttribute("tabindex");
  });
  const { names } = await tab.page.evaluate(focused);
  for (let at = 0; at <= names.length; at++) {
    await tab.page.keyboard.press("Tab");
    const now = await tab.page.evaluate(focused);
    if (now.none) break;
    assert.ok(now.seen, `${where}: one does not see that ${now.name} has the focus`);
    assert.ok(now.inside, `${where}: ${now.name} has the focus and is out of sight`);
    reached.add(now.place);
  }
  const missed = names.filter((_, at) => !reached.has(at));
  assert.deepEqual(missed, [], `${where}: not reached by Tab`);
}

/** Presses Tab until this has the focus. */
async function tabTo(tab, target) {
  for (let at = 0; at < 200; at++) {
    if (await target.evaluate((element) => element === document.activeElement)) return;
    await tab.page.keyboard.press("Tab");
  }
  assert.fail(`Tab does not lead to ${target}`);
}

export const keyboard = {
  async "Tab reaches all that can be used, on every page, and one sees where one is"(given) {
    const visitor = await given.visitor();
    for (const [name, open] of Object.entries(outside)) {
      await open(visitor);
      await through(visitor, name);
    }
    const tab = await given.operator();
    for (const [name, open] of Object.entries(inside)) {
      await open(tab);
      await through(tab, name);
    }
  },

  async "the first Tab leads to a link that skips to the content"(given) {
    const tab = await given.operator();
    await tab.go("/admin/tenants");
    await tab.page.keyboard.press("Tab");
    const link = tab.page.getByRole("link", { name: "Skip to the content" });
    assert.ok(await link.evaluate((element) => element === document.activeElement && element.getBoundingClientRect().top >= 0));
    await tab.page.keyboard.press("Enter");
    assert.equal(await tab.page.evaluate(() => document.activeElement.id), "main");
    await tab.page.keyboard.press("Tab");
    assert.ok(await tab.page.evaluate(() => document.activeElement.closest("main") !== null));
  },

  async "without a mouse: sign in, find a tenant, suspend it and resume it"(given) {
    const { id } = person(501);
    const tab = await given.visitor();
    const { page } = tab;
    await tab.go("/admin");
    await tabTo(tab, page.getByLabel("The operator's key"));
    await page.keyboard.type(given.many.key);
    await tab.leads(() => page.keyboard.press("Enter"));
    await tab.heading("Overview");
    await page.keyboard.press("/");
    await page.keyboard.type(id);
    await tab.leads(() => page.keyboard.press("Enter"));
    await tabTo(tab, page.getByRole("link", { name: id }));
    await page.keyboard.press("Enter");
    await tab.heading(id);
    await tabTo(tab, page.locator("summary", { hasText: "Suspend…" }));
    await page.keyboard.press("Enter");
    await page.keyboard.press("Tab");
    await page.keyboard.type("by the keyboard");
    await page.keyboard.press("Enter");
    await tab.told("The tenant is suspended now.");
    const folded = page.locator("summary", { hasText: "Resume…" });
    if (await folded.count()) {
      await tabTo(tab, folded);
      await page.keyboard.press("Enter");
    }
    await tabTo(tab, page.getByRole("button", { name: "Resume" }));
    await page.keyboard.press("Enter");
    await tab.told("The tenant is active now.");
  },
};
