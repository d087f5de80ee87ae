// The customer's journey: from the link in the shop to an opened file.
import { readFileSync, writeFileSync } from "node:fs";
import { assert, connect, equal, run, step, until, visit, world } from "./lib.mjs";

const sql = connect();
const DEVICE = world.devices.pro;
let page;
let path;

step("a link with a token signs in, and leaves no token in the address", async () => {
  page = await visit("/dashboard", { token: world.tokens.pro });
  await page.locator("#ticket").waitFor();
  equal(`${world.url}/dashboard`, page.url(), "address");
  const kept = await page.evaluate(() => [JSON.stringify(sessionStorage), JSON.stringify(localStorage), document.cookie, history.length]);
  assert(kept[0].includes(world.tokens.pro), "the token is kept for this tab");
  assert(!kept[1].includes(world.tokens.pro) && kept[2] === "", "and nowhere else");
  await page.reload();
  await page.locator("#ticket").waitFor();
});

step("the purchase is ready, live", async () => {
  await page.state("ready");
  await until("live", () => page.has(".pulse.live"));
  assert((await page.text(".filename")).endsWith(".ate"), "the file's name is shown");
});

step("the plan is shown: tools in, tools not in and what an upgrade adds", async () => {
  const names = async (selector) => (await page.locator(`#plan ${selector} .tool-name`).allInnerTexts()).sort().join(", ");
  equal("Advanced analysis, Follow, Target, Timeline, Unfollow, Video training", await names(".has"), "in");
  equal("24-hour support, Basic analysis, Consultant, Security, Unlimited use", await names(".lacks"), "not in");
  await page.click(".upgrade summary");
  equal("24-hour support, Basic analysis, Consultant, Security, Unlimited use", await names(".adds"), "added");
  assert((await page.text(".plan-name")).includes("6,980"), "the price");
});

step("the licence key is hidden until asked for, and can be copied", async () => {
  assert(!/[0-9A-Z]{5}-[0-9A-Z]{5}/.test(await page.text("#licence")), "hidden at first");
  await page.click("#reveal");
  const key = await page.text("#licence-key");
  assert(/^([0-9A-HJKMNP-TV-Z]{5}-){4}[0-9A-HJKMNP-TV-Z]{5}$/.test(key), `a key: ${key}`);
  await page.click("#copy-key");
  await until("it is said", async () => (await page.locator("#announce").textContent()).includes("copied"));
  equal(key, await page.evaluate(() => navigator.clipboard.readText()), "clipboard");
  await page.click("#reveal");
  equal(0, await page.locator("#licence-key").count(), "keys shown");
});

step("progress is live: every stage of a job appears by itself", async () => {
  // This spec is the worker: request and claim are one transaction, so that no other takes the job.
  await sql("begin");
  const [{ id }] = await sql("select queue_ate_generation($1)::text as id", [DEVICE]);
  const [{ attempt }] = await sql("select attempt from claim_ate_generations('browser spec', 1, '1 hour', $1::uuid)", [id]);
  await sql("commit");
  await page.state("newer");
  for (const [stage, text] of [["rendering", "Writing your scripts"], ["checking", "Testing every script"],
    ["sealing", "Encrypting and signing"], ["storing", "Storing"]]) {
    await sql("select report_ate_generations($1::jsonb)", [JSON.stringify([{ queue_id: id, attempt, stage }])]);
    await until(stage, async () => (await page.text("#ticket h2")) === text);
    equal(1, await page.locator(".track [aria-current=step]").count(), "current step");
  }
  await page.shot("customer-progress");
  await sql("select release_ate_generations('browser spec')");
  await page.state("ready");
});

step("regenerating gives another file, live", async () => {
  const before = await page.text(".checksum code");
  await page.click("#generate");
  await until("another file", async () => (await page.locator(".checksum code").count()) && (await page.text(".checksum code")) !== before);
  await page.state("ready");
});

step("the file is downloaded, counted and in the history", async () => {
  const [download] = await Promise.all([page.waitForEvent("download"), page.click("#download")]);
  path = `${world.work}/mine.ate`;
  await download.saveAs(path);
  equal("ATE1", readFileSync(path).subarray(0, 4).toString(), "magic");
  assert(download.suggestedFilename().endsWith(".ate"), "name");
  await until("counted", async () => (await page.text("#download-count")) === "1 time");
  await until("in the history", async () => (await page.locator("#history tbody tr").count()) === 1);
  assert((await page.text("#history tbody tr")).includes("Complete"), "complete");
});

step("the file opens here, and nothing is uploaded", async () => {
  const sent = [];
  page.on("request", (request) => { if (request.method() !== "GET" || request.postData()) sent.push(request.url()); });
  await page.setInputFiles("#ate-file", path);
  await page.locator(".report.ok").waitFor();
  equal("", sent.join("\n"), "requests that carry something");
  const report = await page.text(".report");
  for (const text of ["genuine", "Signed by this workshop", "Valid until", "main.lua", "follow.lua", "config.json", "smartgram"]) {
    assert(report.includes(text), `the report says ${text}`);
  }
  assert(!report.includes("basic_analysis.lua"), "what the plan lacks is not inside");
  await page.locator(".entry summary", { hasText: "config.json" }).click();
  assert((await page.text(".entry[open] pre")).includes(DEVICE), "its contents can be read");
  await page.shot("customer-opened");
});

step("dropping works as choosing does", async () => {
  const bytes = readFileSync(path).toString("base64");
  const data = await page.evaluateHandle((text) => {
    const transfer = new DataTransfer();
    transfer.items.add(new File([Uint8Array.from(atob(text), (c) => c.charCodeAt(0))], "dropped.ate"));
    return transfer;
  }, bytes);
  await page.dispatchEvent(".drop", "drop", { dataTransfer: data });
  await until("opened", async () => (await page.text(".report")).includes("dropped.ate") && page.has(".report.ok"));
});

// Each is refused with its own code and a plain reason.
const WRONG = {
  not_ate: (bytes) => Buffer.from("GIF89a and so on".repeat(20)),
  truncated: (bytes) => bytes.subarray(0, bytes.length - 100),
  trailing_data: (bytes) => Buffer.concat([bytes, Buffer.from("more")]),
  unsupported: (bytes) => { bytes[4] = 9; return bytes; },
  bad_header: (bytes) => { bytes[100] = 0x5b; return bytes; },
  wrong_key: (bytes) => { bytes[70] ^= 1; return bytes; },
  tampered: (bytes) => { bytes[bytes.length - 200] ^= 1; return bytes; },
  bad_signature: (bytes) => { bytes[bytes.length - 9] ^= 1; return bytes; },
};

for (const [code, change] of Object.entries(WRONG)) {
  step(`a wrong file is refused: ${code}`, async () => {
    const wrong = `${world.work}/${code}.ate`;
    writeFileSync(wrong, change(Buffer.from(readFileSync(path))));
    await page.setInputFiles("#ate-file", wrong);
    await page.locator(`.report.bad[data-code="${code}"]`).waitFor();
    const text = await page.text(".report.bad");
    assert(text.includes("This file was refused") && !text.includes(`file_${code}`), "in plain words");
    await until("said aloud", async () => (await page.locator("#announce").textContent()).includes("refused"));
  });
}

step("another device's file is refused, and opens for its own", async () => {
  await page.click(`.devices input[value="${world.devices.pro2}"]`);
  await until("the other device", async () => (await page.text(".ticket-meta")).includes(world.devices.pro2));
  await page.state("ready");
  await page.setInputFiles("#ate-file", path);
  await page.locator('.report.bad[data-code="wrong_key"]').waitFor();
  await page.click(`.devices input[value="${DEVICE}"]`);
  await page.state("ready");
  await page.setInputFiles("#ate-file", path);
  await page.locator(".report.ok").waitFor();
});

step("Japanese and dark are a click away, and stay", async () => {
  await page.click('input[name="language"][value="ja"]');
  equal("ja", await page.getAttribute("html", "lang"), "lang");
  equal("準備ができました", (await page.text("#ticket h2")).replace(/\s/g, ""), "state");
  equal("あなたのファイル · Atelier", await page.title(), "title");
  await page.click('input[name="theme"][value="dark"]');
  const dark = await page.evaluate(() => getComputedStyle(document.documentElement).backgroundColor);
  await page.reload();
  await page.state("ready");
  equal("ja", await page.getAttribute("html", "lang"), "lang after a reload");
  equal(dark, await page.evaluate(() => getComputedStyle(document.documentElement).backgroundColor), "colour after a reload");
  await page.shot("customer-ja-dark");
});

step("signing out forgets everything", async () => {
  await page.click('[data-key="sign-out"]');
  await page.locator('.door[data-state="welcome"]').waitFor();
  assert(!(await page.evaluate(() => JSON.stringify(sessionStorage))).includes("eyJ"), "no token is left");
  await page.leave();
});

await run();
