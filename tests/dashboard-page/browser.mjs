// Tabs of a browser that are watched: what a page must never do is kept, and fails the flow at its end.
import assert from "node:assert/strict";

/** A tab in a browser of its own: cookies are not shared with other tabs. */
export class Tab {
  /** What went wrong that no flow expects. */
  complaints = [];
  /** Statuses of errors that the flow provokes, in their order. */
  expected = [];
  /** Other sites that the flow goes to. */
  others = [];

  static async open(browser, server, options = {}) {
    const tab = new Tab();
    tab.server = server;
    tab.context = await browser.newContext({
      baseURL: server.url, viewport: { width: 1280, height: 800 }, reducedMotion: "reduce", ...options,
    });
    tab.context.setDefaultTimeout(15_000);
    tab.page = await tab.context.newPage();
    tab.#watch();
    return tab;
  }

  static async signedIn(browser, server, options) {
    const tab = await Tab.open(browser, server, options);
    await tab.context.addCookies([await server.session()]);
    return tab;
  }

  #watch() {
    const { page, complaints } = this;
    page.on("pageerror", (error) => complaints.push(`a script failed: ${error}`));
    page.on("dialog", (dialog) => {
      complaints.push(`a script ran: ${dialog.message()}`);
      dialog.dismiss().catch(() => {});
    });
    page.on("console", (message) => {
      // A status of 400 or more is here as well; it is looked at below.
      const heard = ["error", "warning"].includes(message.type()) && !message.text().startsWith("Failed to load resource");
      if (heard) complaints.push(`the console has: ${message.text()}`);
    });
    page.on("requestfailed", (request) => {
      // What a page that is left still waits for is given up.
      const why = request.failure()?.errorText;
      if (why !== "net::ERR_ABORTED") complaints.push(`${request.method()} ${request.url()}: ${why}`);
    });
    page.on("response", (answer) => {
      if (answer.status() < 400) return;
      const at = this.expected.indexOf(answer.status());
      if (at >= 0) this.expected.splice(at, 1);
      else complaints.push(`${answer.request().method()} ${answer.url()}: ${answer.status()}`);
    });
    page.on("request", (request) => {
      const known = [this.server.url, ...this.others].some((site) => request.url().startsWith(`${site}/`));
      if (!known) complaints.push(`a request to elsewhere: ${request.url()}`);
    });
  }

  /** Says that the next error with this status is meant to be. */
  expect(...statuses) {
    this.expected.push(...statuses);
  }

  /** Signs in by the form. */
  async signIn(key = this.server.key) {
    if (!this.page.url().includes("/admin/sign-in")) await this.go("/admin");
    await this.page.getByLabel("The operator's key").fill(key);
    await this.page.getByRole("button", { name: "Sign in" }).click();
  }

  /** Does what leads to another page, and waits for it. */
  async leads(act) {
    await Promise.all([this.page.waitForNavigation(), act()]);
  }

  /** An action on a page of a tenant: its button, which may be folded. */
  async act(name) {
    const folded = this.page.locator("summary", { hasText: `${name}…` });
    if (await folded.count()) await folded.click();
    await this.page.getByRole("button", { name, exact: true }).click();
  }

  async go(path) {
    return this.page.goto(path);
  }

  /** Waits for the page with this heading. */
  async heading(name) {
    await this.page.getByRole("heading", { level: 1, name, exact: true }).waitFor();
  }

  /** Waits for what a page tells of a change. */
  async told(text) {
    await this.page.locator(".notice[role=status]").filter({ hasText: text }).waitFor();
  }

  /** The texts of a column of the page's table. */
  async column(name, table = this.page.locator("table").first()) {
    const names = await table.locator("thead th").allInnerTexts();
    const at = names.findIndex((found) => found.startsWith(name));
    assert.ok(at >= 0, `no column ${name} in ${names}`);
    return (await table.locator(`tbody tr td:nth-child(${at + 1})`).allInnerTexts()).map((text) => text.trim());
  }

  /** Unfolds all that is folded. */
  async unfold() {
    await this.page.evaluate(() => document.querySelectorAll("details").forEach((details) => (details.open = true)));
  }

  /** The page is not wider than its window, and nothing of a name is a tag. */
  async isWhole() {
    const found = await this.page.evaluate(() => ({
      wide: document.scrollingElement.scrollWidth - document.documentElement.clientWidth,
      ran: document.documentElement.dataset.ran,
      foreign: [...document.querySelectorAll("img, iframe, object, embed, style, base, script:not([src^='/admin/assets/'])")]
        .map((element) => element.outerHTML.slice(0, 100)),
      handlers: [...document.querySelectorAll("*")]
        .filter((element) => element.getAttributeNames().some((name) => name.startsWith("on") || name === "style"))
        .map((element) => element.outerHTML.slice(0, 100)),
    }));
    const where = this.page.url();
    assert.ok(found.wide <= 0, `${where} is ${found.wide} px wider than its window: ${await this.#widest().catch((error) => error.message)}`);
    assert.equal(found.ran, undefined, `a script ran at ${where}`);
    assert.deepEqual([...found.foreign, ...found.handlers], [], `${where} has what is not ours`);
  }

  async #widest() {
    return this.page.evaluate(() => {
      const width = document.documentElement.clientWidth;
      const out = (element) => element.getBoundingClientRect().right > width && !element.closest(".scroll, .sections");
      return [...document.querySelectorAll("body *")].filter(out).slice(0, 5).map((e) => e.outerHTML.slice(0, 120)).join("\n");
    });
  }

  /** Ends the tab; what it complains of fails the flow. */
  async close() {
    await this.context.close();
    assert.deepEqual(this.complaints.map((complaint) => complaint.slice(0, 300)), []);
    assert.deepEqual(this.expected, [], "these errors were meant to be, and did not come");
  }
}
