// The operator's journey: a failed job, its reason, a redrive; and what else the page tells.
import { execFileSync } from "node:child_process";
import { cpSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { assert, connect, DESK, equal, run, step, until, visit, world } from "./lib.mjs";

const sql = connect();
const BROKEN = world.devices.broken;
let page;

const failure = () => page.locator("#ops-failures li", { hasText: BROKEN });

step("a customer's token is refused", async () => {
  const wrong = await visit("/dashboard/ops", { token: world.tokens.pro, forgiven: [/403/] });
  await wrong.locator('.door[data-state="refused"]').waitFor();
  await wrong.leave();
});

step("an operator signs in by the fragment", async () => {
  page = await visit("/dashboard/ops", { token: world.tokens.operator, forgiven: [/409/] });
  await page.locator(".board").waitFor();
  equal(`${world.url}/dashboard/ops`, page.url(), "address");
  await until("figures", async () => /Updated/.test(await page.text(".bench-head .pulse")));
});

step("a failed job is told with its reason", async () => {
  await failure().waitFor();
  const text = await failure().innerText();
  assert(text.includes("the spindle is bent") && text.includes("jail_error"), text);
  assert(await page.has('.board .bad[data-state="failed"]'), "it stands out on the board");
});

step("workers, generation and templates are told", async () => {
  assert((await page.text("#ops-workers")).includes("alive"), "a worker lives");
  assert((await page.text("#ops-generation")).includes("front 1"), "processes");
  assert((await page.text("#ops-templates")).includes("smartgram"), "templates");
});

step("throughput and latency are drawn, and told as tables", async () => {
  await page.locator("#ops-throughput svg .bar.completed").first().waitFor();
  await page.locator("#ops-latency svg .line.p50").waitFor({ state: "attached" });
  for (const name of ["throughput", "latency"]) {
    await page.click(`#ops-${name} summary`);
    await page.locator(`#ops-${name} tbody tr`).first().waitFor();
  }
  await page.shot("operator");
});

step("a redrive while the cause is there fails again, with its reason", async () => {
  const before = await sql("select q.attempt from file_generation_queue q join devices d on d.id = q.device_id where d.device_hash = $1", [BROKEN]);
  await failure().locator("[data-redrive]").click();
  await until("it was tried again", async () => {
    const now = await sql("select q.attempt, q.status from file_generation_queue q join devices d on d.id = q.device_id where d.device_hash = $1", [BROKEN]);
    return now[0].attempt > before[0].attempt && now[0].status === "failed";
  });
  await until("told", async () => (await failure().innerText()).includes(`Attempt ${before[0].attempt + 1}`));
});

step("after the cause is gone one click makes the file", async () => {
  const folder = `${world.templates}/smartgram.at`;
  const main = readFileSync(`${folder}/main.lua`, "utf8");
  cpSync(folder, `${world.work}/smartgram.at`, { recursive: true });
  writeFileSync(`${folder}/main.lua`, main.split("\n").slice(1).join("\n"));
  writeFileSync(`${folder}/template.json`, readFileSync(`${folder}/template.json`, "utf8").replace(/"version": "[^"]*"/, '"version": "1.0.1"'));
  execFileSync(world.exe, ["template", "publish", "smartgram"], { env: { ...process.env, ...world.env } });
  await failure().locator("[data-redrive]").click();
  await until("queued again is said", async () => /Queued again/.test(await page.locator("#announce").textContent()));
  await failure().waitFor({ state: "detached" });
  const shop = await visit("/dashboard", { token: world.tokens.broken });
  await shop.state("ready");
  await shop.leave();
  await until("the template's new version", async () => (await page.text("#ops-templates")).includes("1.0.1"));
  rmSync(`${world.work}/smartgram.at`, { recursive: true });
});

step("a waiting job is cancelled, in two clicks, and can be run again", async () => {
  // It waits for an hour, so that no worker is faster than the click.
  const [{ id }] = await sql(`insert into file_generation_queue (device_id, template_id, run_after)
    select d.id, t.id, now() + interval '1 hour' from devices d, ate_templates t where d.device_hash = $1 returning id::text`, [world.devices.starter]);
  await page.click('input[name="job-state"][value="queued"]');
  const cancel = page.locator(`[data-cancel="${id}"]`);
  await cancel.waitFor();
  assert(await page.has("#ops-waiting"), "what waits is told by priority");
  await cancel.click();
  equal(1, await cancel.count(), "it asks back");
  await cancel.click();
  await cancel.waitFor({ state: "detached" });
  await page.click('input[name="job-state"][value="cancelled"]');
  await page.locator(`#ops-jobs [data-redrive="${id}"]`).click();
  await until("it ran", async () => (await sql("select status from file_generation_queue where id = $1::uuid", [id]))[0].status === "completed");
});

step("what becomes impossible meanwhile is told, not hidden", async () => {
  const [{ id }] = await sql(`insert into file_generation_queue (device_id, template_id, run_after)
    select d.id, t.id, now() + interval '1 hour' from devices d, ate_templates t where d.device_hash = $1 returning id::text`, [world.devices.starter]);
  await page.click('input[name="job-state"][value="queued"]');
  await page.locator(`[data-cancel="${id}"]`).waitFor();
  await page.click("#pause");
  await sql("select cancel_ate_generation($1::uuid, 'by another')", [id]);
  await page.locator(`[data-cancel="${id}"]`).click();
  await page.locator(`[data-cancel="${id}"]`).click();
  await until("said", async () => (await page.locator("#announce").textContent()).length > 0);
  await page.click("#pause");
});

step("a reload that is refused is told with file, line and reason", async () => {
  const script = `${world.root}/lua/plans.lua`;
  const before = readFileSync(script, "utf8");
  assert((await page.text("#ops-generation")).includes("Not reloaded"), "none so far");
  writeFileSync(script, `${before}\nthis is no Lua\n`);
  process.kill(world.pid, "SIGHUP");
  await until("the reason", async () => /plans\.lua:\d+/.test(await page.text("#reload-error")));
  await page.shot("operator-reload");
  writeFileSync(script, before);
  process.kill(world.pid, "SIGHUP");
  await until("a reload that goes well", async () => (await page.text("#ops-generation")).includes("went well"));
  assert((await page.text("#ops-generation")).startsWith("Generation\n\n2"), "the second generation");
});

step("Japanese, on a phone: nothing is wider than the page", async () => {
  await page.click('input[name="language"][value="ja"]');
  await until("Japanese", async () => (await page.text("#ops-failures h2")).startsWith("失敗"));
  for (const size of [{ width: 360, height: 700 }, { width: 768, height: 900 }, DESK]) {
    await page.setViewportSize(size);
    const wide = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
    equal(0, wide, `too wide at ${size.width}`);
  }
  await page.shot("operator-ja");
  await page.leave();
});

await run();
