// Who gets in, who does not, and forms that are not the operator's.
import assert from "node:assert/strict";
import { createServer } from "node:http";
import { person } from "../server.mjs";

/** Another site's page that sends a form as soon as it is looked at. */
async function trap(given, action, fields) {
  const inputs = Object.entries(fields).map(([name, value]) => `<input name="${name}" value="${value}">`);
  const page = `<!doctype html><form method="post" action="${action}">${inputs.join("")}</form><script>document.forms[0].submit()</script>`;
  const site = createServer((_, answer) => answer.setHeader("content-type", "text/html").end(page));
  await new Promise((resolve) => site.listen(0, resolve));
  given.later(() => site.close());
  return site.address().port;
}

const stateOf = async (server, id) => (await server.operator("GET", `/tenants/${id}`)).state;
const session = async (tab) => (await tab.context.cookies(`${tab.server.url}/admin`)).find(({ name }) => name === "cubby_operator");

export const signIn = {
  async "sign in with the operator's key, and go on to the page that was asked for"(given) {
    const tab = await given.visitor();
    await tab.go("/admin/tenants?state=suspended");
    await tab.heading("Cubby");
    await tab.signIn();
    await tab.heading("Tenants");
    assert.equal(new URL(tab.page.url()).search, "?state=suspended");
    const { httpOnly, sameSite, path } = await session(tab);
    assert.deepEqual({ httpOnly, sameSite, path }, { httpOnly: true, sameSite: "Strict", path: "/admin" });
    assert.equal(await tab.page.evaluate(() => document.cookie), "");
  },

  async "a wrong key is refused"(given) {
    const tab = await given.visitor();
    tab.expect(401);
    await tab.signIn("a key that is not the operator's");
    await tab.page.getByRole("alert").getByText("That is not the operator's key.").waitFor();
    await tab.go("/admin/tenants");
    await tab.heading("Cubby");
  },

  async "many wrong keys are refused for a while, the right one is not"(given) {
    const tab = await given.visitor(await given.fresh(["--key-failures", "5/h:5"]));
    const answers = [];
    tab.page.on("response", (answer) => answers.push(answer.status()));
    tab.expect(401, 401, 401, 401, 401, 429);
    for (let at = 0; at < 6; at++) {
      await tab.go("/admin/sign-in");
      await tab.signIn(`wrong ${at}`);
      await tab.page.getByText(at < 5 ? "That is not the operator's key." : "429").waitFor();
    }
    await tab.heading("Too Many Requests");
    await tab.go("/admin/sign-in");
    await tab.signIn();
    await tab.heading("Overview");
  },

  async "sign out, and going back shows nothing"(given) {
    const tab = await given.operator();
    await tab.go("/admin");
    await tab.page.getByRole("link", { name: "Audit", exact: true }).click();
    await tab.heading("Audit");
    await tab.page.getByRole("button", { name: "Sign out" }).click();
    await tab.heading("Cubby");
    assert.equal(await session(tab), undefined);
    await tab.page.goBack();
    await tab.heading("Cubby");
    await tab.page.getByLabel("The operator's key").waitFor();
  },

  async "a cookie that was stolen is of no use after the sign-out"(given) {
    const tab = await given.operator();
    await tab.go("/admin");
    const cookies = await tab.context.cookies(`${tab.server.url}/admin`);
    const thief = await given.visitor();
    await thief.context.addCookies(cookies);
    await thief.go("/admin/keys");
    await thief.heading("API keys");
    await tab.page.getByRole("button", { name: "Sign out" }).click();
    await tab.heading("Cubby");
    await thief.go("/admin/keys");
    await thief.heading("Cubby");
    await thief.page.getByText("Your session has ended.").waitFor();
  },

  async "a session that has ended changes nothing and leads back"(given) {
    const server = await given.fresh();
    await server.operator("POST", "/tenants", { id: "ada" });
    const tab = await given.operator(server);
    await tab.go("/admin/tenants/ada");
    await tab.page.getByText("Suspend…").click();
    await tab.page.getByLabel("Reason").fill("too late");
    await server.stop();
    await server.again();
    await tab.page.getByRole("button", { name: "Suspend", exact: true }).click();
    await tab.page.getByText("Your session has ended.").waitFor();
    assert.equal(await stateOf(server, "ada"), "active");
    await tab.signIn();
    await tab.heading("ada");
  },

  async "a form without its token, or with another session's, is refused"(given) {
    const { id } = person(101);
    const [tab, other] = [await given.operator(), await given.operator()];
    await other.go("/admin");
    const foreign = await other.page.locator("input[name=csrf]").first().inputValue();
    for (const token of ["", foreign, null]) {
      await tab.go(`/admin/tenants/${id}`);
      await tab.page.getByText("Suspend…").click();
      await tab.page.getByLabel("Reason").fill("forged");
      await tab.page.locator("form[action$='/suspend'] input[name=csrf]").evaluate((input, token) => {
        if (token === null) input.remove();
        else input.value = token;
      }, token);
      tab.expect(403);
      await tab.page.getByRole("button", { name: "Suspend", exact: true }).click();
      await tab.heading("Forbidden");
      await tab.page.getByText("forged_form").waitFor();
      assert.equal(await stateOf(given.many, id), "active");
    }
  },

  async "a form that another site sends in the operator's browser is refused"(given) {
    const { id } = person(102);
    const tab = await given.operator();
    await tab.go("/admin");
    const port = await trap(given, `${given.many.url}/admin/tenants/${id}/suspend`, { csrf: "guessed", reason: "forged" });
    tab.others = [`http://localhost:${port}`, `http://127.0.0.1:${port}`];
    // From another site, and from another port of the same one, from where the cookie comes along.
    for (const host of ["localhost", "127.0.0.1"]) {
      tab.expect(403);
      await tab.go(`http://${host}:${port}/`);
      await tab.page.getByText("foreign_origin").waitFor();
    }
    assert.equal(await stateOf(given.many, id), "active");
  },

  async "no page can be put into another's frame"(given) {
    const tab = await given.operator();
    for (const path of ["/admin", "/admin/sign-in", "/admin/tenants"]) {
      const headers = (await tab.go(path)).headers();
      assert.match(headers["content-security-policy"], /frame-ancestors 'none'/);
      assert.equal(headers["x-frame-options"], "DENY");
    }
  },
};
