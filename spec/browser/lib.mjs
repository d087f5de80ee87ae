// What the browser's specs share: the browser, watched pages, waiting for facts, SQL, and how results are told.
//
// Called as `node NAME.mjs WORLD`, WORLD being a JSON file: url, tokens, devices, modules (where the packages are), work (a
// folder), exe, sql (a command). Waits are for facts, with a deadline that a slow machine never meets.
import { spawn } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { createInterface } from "node:readline";

export const world = JSON.parse(readFileSync(process.argv[2], "utf8"));
const packages = createRequire(`${world.modules}/package.json`);
const { chromium } = packages("playwright-core");
const axeSource = readFileSync(packages.resolve("axe-core/axe.min.js"), "utf8");

const PATIENCE = 180000;

export const PHONE = { width: 390, height: 844 };
export const DESK = { width: 1280, height: 900 };

export function assert(fact, message) {
  if (!fact) throw new Error(message);
}

export function equal(wanted, found, what = "value") {
  assert(wanted === found, `${what}: expected ${JSON.stringify(wanted)}, found ${JSON.stringify(found)}`);
}

// Asks until the answer is true; gives it.
export async function until(what, fact) {
  const deadline = Date.now() + PATIENCE;
  let last;
  for (;;) {
    try {
      const found = await fact();
      if (found) return found;
      last = undefined;
    } catch (error) {
      last = error;
    }
    if (Date.now() > deadline) throw new Error(`never: ${what}${last ? ` (${last.message})` : ""}`);
    await new Promise((resolve) => { setTimeout(resolve, 50); });
  }
}

// ==== SQL ======================================================================================

const connections = [];

// A connection of its own; `sql(text, params)` gives rows.
export function connect() {
  const [command, ...args] = world.sql;
  const child = spawn(command, args, { stdio: ["pipe", "pipe", "inherit"] });
  const waiting = [];
  createInterface({ input: child.stdout }).on("line", (line) => waiting.shift()(JSON.parse(line)));
  connections.push(child);
  return async (text, params = []) => {
    const answer = await new Promise((resolve) => {
      waiting.push(resolve);
      child.stdin.write(`${JSON.stringify({ sql: text, params })}\n`);
    });
    if (answer.error) throw new Error(`${answer.error}\n${text}`);
    return answer.rows;
  };
}

// ==== the browser ==============================================================================

const PLACES = ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome", "/snap/bin/chromium"];
let browser;

export async function open() {
  browser ??= await chromium.launch({
    executablePath: process.env.CHROMIUM ?? PLACES.find(existsSync), timeout: PATIENCE,
    args: ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"],
  });
  return browser;
}

// A page that is watched: what its console complains of, and where it connects to. `forgiven` are complaints that the
// spec provokes, as patterns.
export async function visit(path, { token, size = DESK, scheme = "light", locale = "en-GB", forgiven = [], before, motion = "reduce" } = {}) {
  const context = await (await open()).newContext({ viewport: size, colorScheme: scheme, locale, timezoneId: "Asia/Tokyo",
    acceptDownloads: true, reducedMotion: motion, hasTouch: size === PHONE, permissions: ["clipboard-read", "clipboard-write"] });
  const page = await context.newPage();
  page.setDefaultTimeout(PATIENCE);
  const complaints = [];
  const foreign = [];
  page.on("console", (message) => {
    if (["error", "warning"].includes(message.type()) && !forgiven.some((one) => one.test(message.text()))) complaints.push(message.text());
  });
  page.on("pageerror", (error) => complaints.push(error.stack));
  page.on("request", (request) => {
    if (!request.url().startsWith(`${world.url}/`) && !/^(data|blob):/.test(request.url())) foreign.push(request.url());
  });
  await before?.(page);
  await page.goto(`${world.url}${path}${token ? `#token=${token}` : ""}`);
  return Object.assign(page, {
    async leave() {
      equal("", complaints.join("\n"), "the console's complaints");
      equal("", foreign.join("\n"), "requests to others");
      await context.close();
    },
    shot: (name) => world.shots && page.screenshot({ path: `${world.shots}/${name}.png`, fullPage: true }),
    text: (selector) => page.locator(selector).first().innerText(),
    has: (selector) => page.locator(selector).first().isVisible(),
    state: (name) => page.locator(`#ticket[data-state="${name}"]`).waitFor(),
  });
}

// What axe finds that is serious or critical.
export async function accessible(page, where) {
  // Fading colours would be judged half way.
  await page.evaluate(() => Promise.all(document.getAnimations().filter((a) => a.effect.getComputedTiming().iterations !== Infinity)
    .map((a) => a.finished.catch(() => {}))));
  await page.evaluate(axeSource);
  const faults = await page.evaluate(async () => {
    const { violations } = await globalThis.axe.run(document, { resultTypes: ["violations"] });
    return violations.filter((one) => ["serious", "critical"].includes(one.impact))
      .map((one) => `${one.id}: ${one.nodes.map((node) => `${node.target} ${node.failureSummary.split("\n")[1] ?? ""}`).join("; ")}`);
  });
  equal("", faults.join("\n"), `axe: ${where}`);
}

// ==== results ==================================================================================

const steps = [];
export const step = (name, action) => steps.push([name, action]);

// Runs the steps in order; one that fails ends it, since the next ones stand on it.
export async function run() {
  let code = 0;
  for (const [name, action] of steps) {
    try {
      await action();
      console.log(`ok - ${name}`);
    } catch (error) {
      console.log(`not ok - ${name}\n${error.stack}`);
      code = 1;
      if (world.shots) {
        let n = 0;
        for (const context of browser?.contexts() ?? []) for (const page of context.pages()) await page.screenshot({ path: `${world.shots}/failed-${n++}.png`, fullPage: true }).catch(() => {});
      }
      break;
    }
  }
  await browser?.close();
  for (const child of connections) child.stdin.end();
  process.exitCode = code;
}
