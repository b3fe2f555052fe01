// Session tokens as Clerk makes them, of a test key: TEST_KEY is a file with an RSA key, CUBBY_ISSUER the issuer.
// `tsx token.ts user_ada` prints one.

import { createPrivateKey, sign } from "node:crypto";
import { readFileSync } from "node:fs";

const key = createPrivateKey(readFileSync(process.env.TEST_KEY ?? "key.pem"));

export function token(user: string, seconds = 600): string {
    const part = (value: object) => Buffer.from(JSON.stringify(value)).toString("base64url");
    const now = Math.floor(Date.now() / 1000);
    const claims = { iss: process.env.CUBBY_ISSUER, sub: user, sid: "sess_1", iat: now - 120, nbf: now - 130, exp: now + seconds };
    const text = `${part({ alg: "RS256", typ: "JWT", kid: "test" })}.${part(claims)}`;
    return `${text}.${sign("sha256", Buffer.from(text), key).toString("base64url")}`;
}

if (process.argv[2] !== undefined && process.argv[1].endsWith("token.ts")) {
    console.log(token(process.argv[2]));
}
