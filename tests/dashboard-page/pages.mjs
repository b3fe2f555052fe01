// Every kind of page, for what is looked at on each: a name, the way there, and its first heading.
import { person } from "./server.mjs";
import { operationPages } from "./flows/operations.mjs";

const path = (to) => (tab) => tab.go(to);

/** Pages for those who are not signed in. */
export const outside = {
  "sign-in": async (tab) => {
    tab.expect(401);
    await tab.signIn("wrong");
    await tab.page.getByRole("alert").waitFor();
  },
};

/** Pages for operators, on the server with many tenants. Those with long lists have few rows here. */
export const inside = {
  overview: path("/admin"),
  tenants: path("/admin/tenants?state=suspended"),
  search: path("/admin/tenants?q=lovelace&state=active"),
  "nobody-found": path("/admin/tenants?q=nobody+at+all"),
  tenant: path(`/admin/tenants/${person(1).id}`),
  "tenant-suspended": path(`/admin/tenants/${person(7).id}`),
  "tenant-deleted": path(`/admin/tenants/${person(31).id}`),
  "tenant-quarantined": path(`/admin/tenants/${person(43).id}`),
  deliveries: path(`/admin/deliveries?user=${person(1).id}`),
  delivery: async (tab) => {
    await tab.go("/admin/deliveries?outcome=created");
    await tab.page.locator("tbody").getByRole("link").first().click();
    await tab.page.getByRole("heading", { name: "Payload" }).waitFor();
  },
  "delivery-rejected": async (tab) => {
    await tab.go("/admin/deliveries?outcome=rejected");
    await tab.page.locator("tbody").getByRole("link").first().click();
    await tab.page.getByRole("heading", { name: "Payload" }).waitFor();
  },
  keys: path("/admin/keys"),
  "key-made": async (tab) => {
    await tab.go("/admin/keys");
    await tab.page.getByText("Make a key…").click();
    await tab.page.getByLabel("What it is for").fill("backup job");
    await tab.page.getByRole("button", { name: "Make the key" }).click();
    await tab.told("This is the key.");
  },
  audit: path(`/admin/audit?target=${person(7).id}`),
  ...operationPages,
  replica: path("/admin/replica"),
  "moments-off": path(`/admin/tenants/${person(1).id}/moments`),
  settings: path("/admin/settings"),
  about: path("/admin/about"),
  "not-found": async (tab) => {
    tab.expect(404);
    await tab.go("/admin/nothing/here");
  },
};

const { search: _, "nobody-found": __, "moments-off": ___, ...others } = inside;
/** Those of which there are pictures, with long lists. */
export const pictured = {
  ...others, tenants: path("/admin/tenants"), deliveries: path("/admin/deliveries"), audit: path("/admin/audit"),
};
