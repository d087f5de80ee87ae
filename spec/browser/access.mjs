// For everybody: no serious fault that axe knows of in any state, theme and language; the whole journey by keyboard alone.
import { readFileSync, writeFileSync } from "node:fs";
import { accessible, assert, DESK, equal, PHONE, run, step, until, visit, world } from "./lib.mjs";

const JOB = { queue_id: "00000000-0000-4000-8000-000000000001", state: "queued", stage: null, position: 3, attempt: 0, error: null,
  queued_at: "2026-01-01T00:00:00Z", updated_at: "2026-01-01T00:00:00Z" };
const NOTHING = { is_ready: false, reason: "no_file", ate_file_id: null, filename: null, file_size: null, checksum: null,
  download_url: null, download_count: null, expires_at: null, job: null };

// States that pass in a moment are held by changing the service's answer on its way to the page.
const hold = (change) => async (page) => {
  await page.route("**/api/ate/events", (route) => route.fulfill({ status: 503, json: {} }));
  await page.route("**/api/ate/status*", async (route) => {
    const answer = await route.fetch();
    await route.fulfill({ response: answer, json: { ...await answer.json(), ...change } });
  });
};

const opened = (file, kind) => async (page) => {
  await page.state("ready");
  await page.setInputFiles("#ate-file", file);
  await page.locator(`.report.${kind}`).waitFor();
};

const MINE = `${world.work}/mine.ate`;
const STATES = {
  welcome: { wait: ".door" },
  expired: { who: "expired", wait: ".door" },
  refused: { who: "anon", wait: ".door" },
  "signed-in": { who: "pro", wait: '#ticket[data-state="ready"]', async after(page) {
    await page.click("#reveal");
    await page.click(".upgrade summary");
    await page.click(".other summary");
  } },
  queued: { who: "pro", before: hold({ ...NOTHING, job: JOB }), wait: '#ticket[data-state="queued"]' },
  processing: { who: "pro", before: hold({ ...NOTHING, job: { ...JOB, state: "processing", stage: "checking" } }), wait: '#ticket[data-state="processing"]' },
  newer: { who: "pro", before: hold({ job: { ...JOB, state: "processing", stage: "sealing" } }), wait: '#ticket[data-state="newer"]' },
  failed: { who: "pro", before: hold({ ...NOTHING, job: { ...JOB, state: "failed", error: { code: "jail_error", message: "main.lua:1: no" } } }),
    wait: '#ticket[data-state="failed"]', after: (page) => page.click(".reason summary") },
  none: { who: "pro", before: hold(NOTHING), wait: '#ticket[data-state="none"]' },
  stale: { who: "pro", before: hold({ is_ready: false, reason: "beyond_plan", download_url: null, job: null }), wait: '#ticket[data-state="stale"]' },
  "not-entitled": { who: "gone", wait: '#ticket[data-state="refused"]' },
  "no-devices": { who: "nobody", wait: '#ticket[data-state="no_devices"]' },
  loading: { who: "pro", before: (page) => page.route("**/api/**", () => {}), wait: '#ticket[data-state="loading"]' },
  opened: { who: "pro", wait: "#ticket", after: opened(MINE, "ok") },
  "wrong-file": { who: "pro", wait: "#ticket", after: opened(`${world.work}/wrong.ate`, "bad") },
  away: { who: "pro", before: (page) => page.route("**/api/ate/plans*", (route) => route.abort()), wait: ".notice.bad" },
  operator: { path: "/dashboard/ops", who: "operator", wait: "#ops-workers table", after: (page) => page.click("#ops-throughput summary") },
  "operator-welcome": { path: "/dashboard/ops", wait: ".door" },
  "operator-away": { path: "/dashboard/ops", who: "operator", before: (page) => page.route("**/api/ops/queue", (route) => route.abort()), wait: ".notice.bad" },
};

const LOOKS = [{ scheme: "light", locale: "en-GB", size: DESK }, { scheme: "dark", locale: "ja-JP", size: PHONE }];
// With SHOTS also the others, of which no rule depends.
if (world.shots) LOOKS.push({ scheme: "dark", locale: "en-GB", size: PHONE }, { scheme: "light", locale: "ja-JP", size: PHONE },
  { scheme: "dark", locale: "ja-JP", size: DESK });

step("a file is at hand", async () => {
  const page = await visit("/dashboard", { token: world.tokens.pro });
  await page.state("ready");
  const [download] = await Promise.all([page.waitForEvent("download"), page.click("#download")]);
  await download.saveAs(MINE);
  const bytes = readFileSync(MINE);
  bytes[bytes.length - 200] ^= 1;
  writeFileSync(`${world.work}/wrong.ate`, bytes);
  await page.leave();
});

for (const [name, state] of Object.entries(STATES)) {
  step(`axe finds nothing serious: ${name}`, async () => {
    for (const look of LOOKS) {
      const page = await visit(state.path ?? "/dashboard", { ...look, token: world.tokens[state.who], before: state.before,
        forgiven: [/40[13]|503|ERR_/] });
      await page.locator(state.wait).first().waitFor();
      await state.after?.(page);
      const where = `${name}-${look.locale.slice(0, 2)}-${look.scheme}-${look.size === PHONE ? "phone" : "desk"}`;
      await accessible(page, where);
      equal(look.locale.slice(0, 2), await page.getAttribute("html", "lang"), "lang");
      equal(0, await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth), `${where}: too wide by`);
      await page.shot(`state-${where}`);
      await page.leave();
    }
  });
}

// Presses Tab until something that fits has the focus; every stop on the way must be seen.
async function tabTo(page, selector) {
  for (let i = 0; i < 80; i++) {
    await page.keyboard.press("Tab");
    const stop = await page.evaluate((wanted) => {
      const it = document.activeElement;
      const held = it.closest("label") ?? it;
      const shown = [it, held, it.nextElementSibling].filter(Boolean).some((one) => {
        const style = getComputedStyle(one);
        return style.outlineStyle !== "none" && Number.parseFloat(style.outlineWidth) >= 2;
      });
      return { fits: it.matches(wanted), shown: shown || it === document.body, what: it.outerHTML.slice(0, 120) };
    }, selector);
    assert(stop.shown, `the focus is seen on ${stop.what}`);
    if (stop.fits) return;
  }
  throw new Error(`Tab never came to ${selector}`);
}

step("the whole journey by keyboard alone", async () => {
  const page = await visit("/dashboard", { token: world.tokens.pro });
  let chooser; // from the start: a listener that comes with the key may come too late
  page.on("filechooser", (one) => { chooser = one; });
  await page.state("ready");
  await page.keyboard.press("Tab");
  equal("skip", await page.evaluate(() => document.activeElement.className), "the first stop skips to the content");
  await page.keyboard.press("Enter");
  equal("main", await page.evaluate(() => document.activeElement.id), "focus");
  await tabTo(page, '.devices input');
  await page.keyboard.press("ArrowRight");
  await until("the next device", async () => (await page.text(".ticket-meta")).includes(world.devices.pro2));
  await page.state("ready");
  await page.keyboard.press("ArrowLeft");
  await until("and back", async () => (await page.text(".ticket-meta")).includes(`${world.devices.pro}\n`) || !(await page.text(".ticket-meta")).includes(world.devices.pro2));
  await page.state("ready");
  await tabTo(page, "#download");
  const [download] = await Promise.all([page.waitForEvent("download"), page.keyboard.press("Enter")]);
  assert(await download.path(), "downloaded");
  await tabTo(page, "#generate");
  const before = await page.text(".checksum code");
  await page.keyboard.press("Space");
  await until("made anew", async () => (await page.locator(".checksum code").count()) && (await page.text(".checksum code")) !== before);
  await page.state("ready");
  assert(await page.evaluate(() => document.activeElement !== document.body), "the focus is not lost when the page changes");
  await tabTo(page, "#reveal");
  await page.keyboard.press("Enter");
  await page.locator("#licence-key").waitFor();
  equal("reveal", await page.evaluate(() => document.activeElement.id), "the focus stays on the button");
  await tabTo(page, ".upgrade summary");
  await page.keyboard.press("Enter");
  await page.locator(".upgrade[open]").waitFor();
  await tabTo(page, "#ate-file");
  await page.keyboard.press("Enter");
  await (await until("a dialog to choose a file", () => chooser)).setFiles(MINE);
  await page.locator(".report").waitFor();
  await tabTo(page, ".entry summary");
  await page.keyboard.press("Enter");
  await page.locator(".entry[open] pre").waitFor();
  await page.leave();
});

step("landmarks and headings tell the page to who does not see it", async () => {
  const page = await visit("/dashboard", { token: world.tokens.pro });
  await page.state("ready");
  for (const role of ["banner", "main", "contentinfo", "status"]) assert(await page.getByRole(role).count() >= 1, role);
  equal(1, await page.getByRole("heading", { level: 1 }).count(), "first headings");
  for (const name of ["Your file", "Licence key", "Plan and tools", "Open and check a file here", "Download history"]) {
    equal(1, await page.getByRole("region", { name, exact: true }).and(page.locator("section")).count(), `region ${name}`);
  }
  await page.leave();
});

await run();
