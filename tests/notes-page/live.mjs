// The page of examples/notes in two tabs of a browser: what one writes, the other shows.
//
// node live.mjs CHROMIUM PAGE SERVER
import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { chromium } from "playwright-core";
import { flags } from "../chromium.mjs";

const [executablePath, page, server] = process.argv.slice(2);
const profile = mkdtempSync(join(tmpdir(), "notes-page-"));
const context = await chromium.launchPersistentContext(profile, { executablePath, headless: true, args: flags });
context.setDefaultTimeout(60_000);

async function open() {
  const tab = await context.newPage();
  tab.on("pageerror", (error) => {
    console.error(error);
    process.exitCode = 1;
  });
  await tab.goto(`${page}?user=ada&server=${server}`);
  return tab;
}

const add = async (tab, text) => {
  await tab.fill("#text", text);
  await tab.click("#add button");
};
const texts = (tab) => tab.$$eval("#notes input", (inputs) => inputs.map((input) => input.value));
/** Waits until a tab shows these notes. */
const shows = async (tab, expected) => {
  const is = (expected) =>
    JSON.stringify([...document.querySelectorAll("#notes input")].map((input) => input.value)) === expected;
  await tab.waitForFunction(is, JSON.stringify(expected)).catch(async (error) => {
    assert.deepEqual(await texts(tab), expected, error.message);
  });
};

try {
  const [one, two] = [await open(), await open()];
  await one.getByText("this user has no notes yet").waitFor();
  await add(one, "buy milk");
  await shows(one, ["buy milk"]);
  await shows(two, ["buy milk"]);
  await two.getByText("live", { exact: true }).waitFor();

  await add(two, "<b>pay rent</b>");
  await shows(one, ["<b>pay rent</b>", "buy milk"]);
  const milk = one.locator("#notes input").nth(1);
  await milk.fill("buy oat milk");
  await milk.press("Enter");
  await shows(two, ["<b>pay rent</b>", "buy oat milk"]);
  await two.locator("#notes button").first().click();
  await shows(one, ["buy oat milk"]);

  // Cut off, and back: nothing is missed.
  await context.setOffline(true);
  await one.close();
  await fetch(`${server}/ada`, {
    method: "POST", headers: { "content-type": "application/json" }, body: '{"text":"meanwhile"}',
  });
  await context.setOffline(false);
  await shows(two, ["meanwhile", "buy oat milk"]);
  console.log("two tabs show the same");
} finally {
  await context.close();
  rmSync(profile, { recursive: true, force: true });
}
