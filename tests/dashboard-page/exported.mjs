// What an exported file must be.
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

const READ = `import json, sqlite3, sys
opened = sqlite3.connect(sys.argv[1])
sound = opened.execute("pragma integrity_check").fetchone()[0]
print(json.dumps([sound, [text for text, in opened.execute("select text from notes")]]))`;

/** It has the digest of its header, opens as a database and has these notes. */
export function isExport(file, header, notes) {
  assert.equal(header, `sha-256=:${createHash("sha256").update(file).digest("base64")}:`);
  const folder = mkdtempSync(join(tmpdir(), "exported-"));
  try {
    const path = join(folder, "exported.db");
    writeFileSync(path, file);
    assert.deepEqual(JSON.parse(execFileSync("python3", ["-c", READ, path], { encoding: "utf8" })), ["ok", notes]);
  } finally {
    rmSync(folder, { recursive: true });
  }
}
