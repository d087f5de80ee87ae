// For the specs: opens each case of a JSON file with both openers and prints what each of them said.
import { createHash, webcrypto } from "node:crypto";
import { readFileSync } from "node:fs";
import { openAte as inNode } from "./open-node.mjs";
import { openAte as inBrowser } from "./open-browser.mjs";

globalThis.crypto ??= webcrypto;

async function attempt(open, { file, device, licence, publicKey }) {
  const bytes = (base64) => base64 && Buffer.from(base64, "base64");
  try {
    const { metadata, archive, expired, verified } = await open(bytes(file), device, licence, bytes(publicKey));
    const archiveHash = createHash("sha256").update(archive).digest("hex");
    return { metadata, archive_sha256: archiveHash, expired, verified };
  } catch (error) {
    return { code: error.code ?? `unforeseen: ${error.stack}` };
  }
}

const results = [];
for (const one of JSON.parse(readFileSync(process.argv[2], "utf8"))) {
  results.push({ node: await attempt(inNode, one), browser: await attempt(inBrowser, one) });
}
console.log(JSON.stringify(results));
