// The operators' dashboard in a browser: each flow by its name, and how many passed.
//
// node run.mjs CHROMIUM CUBBY FOLDER [--screenshots] [PART OF A FLOW'S NAME…]
import { mkdtempSync } from "node:fs";
import { join } from "node:path";
import { chromium } from "playwright-core";
import { flags } from "../chromium.mjs";
import { Tab } from "./browser.mjs";
import { accessibility } from "./flows/accessibility.mjs";
import { deliveries } from "./flows/deliveries.mjs";
import { hostile } from "./flows/hostile.mjs";
import { keyboard } from "./flows/keyboard.mjs";
import { keys } from "./flows/keys.mjs";
import { operations } from "./flows/operations.mjs";
import { replica } from "./flows/replica.mjs";
import { signIn } from "./flows/sign-in.mjs";
import { tenants } from "./flows/tenants.mjs";
import { told } from "./flows/told.mjs";
import { harmful } from "./harmful.mjs";
import { screenshots } from "./screenshots.mjs";
import { many, Server } from "./server.mjs";

const [executablePath, cubby, work, ...words] = process.argv.slice(2);
const wanted = words.filter((word) => word !== "--screenshots");
// The longest come first, since some run at once. Pictures come last, when there is something to see.
const pictures = words.includes("--screenshots") ? { screenshots } : {};
const all = { ...accessibility, ...keyboard, ...hostile, ...operations, ...replica, ...signIn, ...tenants, ...deliveries, ...keys, ...told, ...pictures };
const chosen = Object.entries(all).filter(([name]) => wanted.length === 0 || wanted.some((part) => name.includes(part)));

/** What a flow is given. What it opens and starts ends with it. */
class Given {
  #ends = [];

  constructor(browser, servers) {
    Object.assign(this, servers);
    this.browser = browser;
  }

  /** A tab of somebody who is not signed in. */
  async visitor(server = this.many, options) {
    return this.#ending(await Tab.open(this.browser, server, options), "close");
  }

  /** A tab of an operator. */
  async operator(server = this.many, options) {
    return this.#ending(await Tab.signedIn(this.browser, server, options), "close");
  }

  /** A server of the flow's own. */
  async fresh(settings) {
    return this.#ending(await Server.start(cubby, mkdtempSync(join(work, "own-")), settings), "stop");
  }

  #ending(what, how) {
    this.#ends.unshift(() => what[how]());
    return what;
  }

  /** Calls this when the flow ends. */
  later(end) {
    this.#ends.unshift(end);
  }

  async end() {
    const ends = await Promise.allSettled(this.#ends.map((end) => end()));
    const failed = ends.find((end) => end.status === "rejected");
    if (failed) throw failed.reason;
  }
}

const LANES = 3;
const began = Date.now();
const browser = await chromium.launch({ executablePath, args: flags });
const made = await Promise.allSettled([many(cubby, work), harmful(cubby, work)]);
const servers = { many: made[0].value, harmful: made[1].value, cubby };
const failed = [];
let passed = 0;
try {
  const unmade = made.find((server) => server.status === "rejected");
  if (unmade) throw unmade.reason;
  console.log(`two servers, one with 1,000 tenants: ${Date.now() - began} ms`);
  const rest = chosen.values();
  const lane = async () => {
    for (const [name, flow] of rest) await run(name, flow);
  };
  const run = async (name, flow) => {
    const since = Date.now();
    const given = new Given(browser, servers);
    let error;
    await flow(given).catch((thrown) => (error = thrown));
    // What a tab complains of often is why the flow went wrong.
    await given.end().catch((thrown) => {
      error = error ? new Error(`${thrown.message}\n${error.message}`, { cause: error }) : thrown;
    });
    console.log(`${error ? "FAILED" : "ok    "} ${name}, ${Date.now() - since} ms`);
    if (error) {
      failed.push(name);
      console.log(error.stack ?? error);
    } else passed++;
  };
  // Flows change tenants of their own, so some run at once.
  await Promise.all(Array.from({ length: LANES }, lane));
} finally {
  await browser.close();
  await Promise.all(Object.values(servers).map((server) => server?.stop?.()));
}
console.log(`${passed} of ${chosen.length} flows passed, ${Math.round((Date.now() - began) / 1000)} s`);
for (const name of failed) console.log(`FAILED: ${name}`);
if (failed.length || passed === 0) process.exitCode = 1;
