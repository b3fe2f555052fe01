// An identity provider with these users, as far as the reconcile asks for them.
import { createServer } from "node:http";

/** Starts it, and gives its address and how it is ended. */
export async function provider(users) {
  const objects = users.map(({ id, first, last, email }, at) => ({
    object: "user", id, first_name: first, last_name: last, created_at: at + 1, updated_at: at + 1,
    email_addresses: [{ id: "a", email_address: email }],
  }));
  const server = createServer((request, answer) => {
    const { pathname, searchParams } = new URL(request.url, "http://provider");
    const asked = searchParams.getAll("user_id");
    const from = Number(searchParams.get("offset") ?? 0);
    const chosen = objects.filter(({ id }) => asked.length === 0 || asked.includes(id));
    const page = chosen.slice(from, from + Number(searchParams.get("limit") ?? 10));
    const body = pathname.endsWith("/users/count") ? { object: "total_count", total_count: objects.length } : page;
    answer.setHeader("content-type", "application/json").end(JSON.stringify(body));
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  return { url: `http://127.0.0.1:${server.address().port}/v1`, end: () => server.close() };
}
