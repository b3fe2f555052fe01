// A server whose tenants, keys, deliveries and trail have names that mean harm.
import assert from "node:assert/strict";
import { join } from "node:path";
import { Server, signedUp } from "./server.mjs";

const RAN = "document.documentElement.dataset.ran=1;alert(1)";

/** Each would do something if it were not shown as text. */
export const NAMES = {
  script: `<script>${RAN}</script>`,
  image: `"><img src=x onerror="${RAN}">`,
  closing: `</textarea></pre></title></script><svg onload=${RAN}>`,
  attribute: `" autofocus onfocus="${RAN}" x="`,
  link: `javascript:${RAN}`,
  bidi: "abc\u202etxt.exe\u2066\u2067 \u200f\u05d0\u05d1",
  arabic: "\u0645\u0631\u062d\u0628\u0627 ".repeat(40),
  long: "x".repeat(10_000),
  wide: "\u{1f4a9}\ufdfd".repeat(2_500),
  template: "{{7*7}}{%raw%}${7*7}&lt;script&gt;",
};

/** The longest id there can be, and one of all kinds of characters. */
const IDS = ["x".repeat(128), "a|b+c@d:e_f.g-h"];

/** The first characters of a text, none of them halved. */
export const cut = (text, length) => [...text].slice(0, length).join("");

export async function harmful(cubby, work) {
  const server = await Server.start(cubby, join(work, "harmful"));
  const names = Object.entries(NAMES);
  for (const [at, [id, name]] of names.entries()) {
    const user = {
      id: IDS[at] ?? `user_${id}`, first: name, last: name, email: name, username: name, image_url: name,
      public_metadata: { role: name, [cut(name, 200)]: name },
    };
    assert.equal(await server.deliver(signedUp(user)), 200);
    const tenant = `/tenants/${encodeURIComponent(user.id)}`;
    const reason = cut(name, 500).replace(/\p{C}/gu, "");
    await server.operator("POST", `${tenant}/suspend`, { reason });
    if (at % 4 === 1) await server.operator("POST", `${tenant}/resume`);
    if (at % 4 === 2) await server.operator("DELETE", tenant);
    if (at % 4 === 3) await server.operator("POST", `${tenant}/purge`, { yes: true });
    const key = cut(name, 100).replace(/\p{Cc}/gu, "");
    await server.operator("POST", "/keys", { name: key, user_id: at % 2 ? user.id : undefined, sql: true });
    // A type, an id of a message and an error are the sender's words as well.
    await server.deliver({ type: cut(name, 100), data: { id: name, name } }, `msg_${at}/..?"><b>&amp;`);
    await server.deliver({ type: "user.created", data: { id: name } });
    await server.deliver(`not JSON ${name}`);
    // Refused, and in the trail with the name as whom it was to be done to.
    await server.operator("POST", "/tenants", { id: name }).catch(() => {});
  }
  await server.spoil("a|b+c@d:e_f.g-h");
  return server;
}
