// Pictures of every page, at two widths, light and dark.
import { mkdirSync, readdirSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { outside, pictured } from "./pages.mjs";
import { person } from "./server.mjs";

const FOLDER = fileURLToPath(new URL("../../docs/img/dashboard", import.meta.url));
const WIDTHS = { wide: { width: 1280, height: 800 }, narrow: { width: 390, height: 844 } };
const MOST = 2_000_000;

async function take(tab, all) {
  const devtools = await tab.context.newCDPSession(tab.page);
  for (const [name, open] of Object.entries(all)) {
    await open(tab);
    for (const [width, size] of Object.entries(WIDTHS)) {
      await tab.page.setViewportSize(size);
      for (const colorScheme of ["light", "dark"]) {
        await tab.page.emulateMedia({ colorScheme });
        // WebP, which Playwright itself does not write.
        const { data } = await devtools.send("Page.captureScreenshot", { format: "webp", quality: 40 });
        writeFileSync(join(FOLDER, `${name}-${width}-${colorScheme}.webp`), Buffer.from(data, "base64"));
      }
    }
  }
}

/** Something for each page to show. */
async function use(server) {
  for (const text of ["buy milk", "call Grace about the compiler", "the talk is on Thursday", "return the books"]) {
    await (await server.note(person(1).id, text)).text();
  }
  await server.operator("POST", "/migrations?canary=2");
  await server.operator("POST", "/bulk", { action: "migrate", ids: [1, 2, 3, 4, 5].map((at) => person(at).id) });
}

export async function screenshots(given) {
  await use(given.many);
  rmSync(FOLDER, { recursive: true, force: true });
  mkdirSync(FOLDER, { recursive: true });
  await take(await given.visitor(), outside);
  await take(await given.operator(), pictured);
  const files = readdirSync(FOLDER);
  const bytes = files.reduce((sum, file) => sum + statSync(join(FOLDER, file)).size, 0);
  console.log(`       ${files.length} pictures, ${bytes} bytes, in ${FOLDER}`);
  if (bytes > MOST) throw new Error(`the pictures have more than ${MOST} bytes`);
}
