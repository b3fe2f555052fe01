// axe-core on every page, light and dark, at two widths, with everything unfolded.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { inside, outside } from "../pages.mjs";

const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");

/** What axe finds that is serious or critical. */
async function findings(page) {
  if (!(await page.evaluate(() => "axe" in globalThis))) await page.evaluate(axe);
  return page.evaluate(async () => {
    const { violations, passes } = await axe.run(document, { resultTypes: ["violations"] });
    if (passes.length === 0) throw new Error("axe looked at nothing");
    const bad = violations.filter(({ impact }) => ["serious", "critical"].includes(impact));
    return bad.flatMap(({ id, nodes }) => nodes.map((node) => `${id}: ${node.target} ${node.any[0]?.message ?? ""}`));
  });
}

/** Looks at these pages, and gives their paths. */
export async function check(tab, all) {
  const [found, seen] = [[], []];
  for (const [name, open] of Object.entries(all)) {
    await open(tab);
    seen.push(new URL(tab.page.url()).pathname);
    await tab.unfold();
    for (const width of [1280, 390]) {
      await tab.page.setViewportSize({ width, height: 844 });
      for (const colorScheme of ["light", "dark"]) {
        await tab.page.emulateMedia({ colorScheme });
        const wrong = await findings(tab.page).catch((error) => {
          throw new Error(`${name}: ${error.message}`, { cause: error });
        });
        found.push(...wrong.map((finding) => `${name}, ${width} px, ${colorScheme}: ${finding}`));
        await tab.isWhole();
      }
    }
  }
  assert.deepEqual(found, []);
  return seen;
}

export const accessibility = {
  async "axe-core finds nothing serious on any page, light and dark, wide and narrow"(given) {
    await check(await given.visitor(), outside);
    const tab = await given.operator();
    const seen = await check(tab, inside);
    await tab.go("/admin");
    const sections = await tab.page.locator("nav.sections a").evaluateAll((links) => links.map((link) => link.pathname));
    assert.deepEqual(sections.filter((section) => !seen.includes(section)), [], "sections that are not in pages.mjs");
  },
};
