// The opener in the browser says of every file what the program says of it.
import { readFileSync } from "node:fs";
import { assert, equal, run, step, visit, world } from "./lib.mjs";

const CASES = JSON.parse(readFileSync(world.cases, "utf8"));

step(`it judges ${CASES.length} files as the program does`, async () => {
  const page = await visit("/dashboard");
  await page.locator(".door").waitFor();
  const found = [];
  for (const one of CASES) {
    found.push(await page.evaluate(async ({ file, ...keys }) => {
      const { openAte } = await import("/dashboard/assets/opener.js");
      const bytes = Uint8Array.from(atob(file), (c) => c.charCodeAt(0));
      try {
        const { expired, signature, entries } = await openAte(bytes, keys);
        return { code: "ok", expired, signature, entries: entries.length };
      } catch (error) {
        return { code: error.code ?? error.stack };
      }
    }, one));
  }
  const text = (it) => JSON.stringify(it, Object.keys(it).sort());
  const wrong = CASES.map((one, i) => [one, found[i]]).filter(([one, it]) => text(one.wanted) !== text(it))
    .map(([one, it]) => `${one.what}: wanted ${text(one.wanted)}, found ${text(it)}`);
  equal("", wrong.join("\n"), "differences");
  for (const code of ["ok", "not_ate", "unsupported", "truncated", "trailing_data", "bad_header", "wrong_key", "tampered",
    "bad_signature", "bad_archive"]) {
    assert(CASES.some((one) => one.wanted.code === code), `no case for ${code}`);
  }
  await page.leave();
});

await run();
