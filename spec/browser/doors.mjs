// Who comes without a token that serves; and what every response says about the policy.
import { assert, equal, run, step, until, visit, world } from "./lib.mjs";

const POLICY = /^default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; /;

step("every page and part comes with its policy and a strong ETag", async () => {
  const page = await (await fetch(`${world.url}/dashboard`)).text();
  const parts = [...page.matchAll(/"(\/dashboard\/assets\/[^"]+)"/g)].map((found) => found[1]);
  assert(parts.length >= 5, "the page has parts");
  for (const path of ["/dashboard", "/dashboard/ops", ...parts]) {
    const answer = await fetch(world.url + path);
    equal(200, answer.status, path);
    assert(POLICY.test(answer.headers.get("content-security-policy")), `${path}: policy`);
    assert(!/unsafe/.test(answer.headers.get("content-security-policy")), `${path}: nothing unsafe`);
    equal("nosniff", answer.headers.get("x-content-type-options"), path);
    equal("no-referrer", answer.headers.get("referrer-policy"), path);
    const tag = answer.headers.get("etag");
    assert(/^"[0-9a-f]{32}"$/.test(tag), `${path}: ETag`);
    const again = await fetch(world.url + path, { headers: { "If-None-Match": tag } });
    equal(304, again.status, `${path} again`);
  }
  assert(!/<script(?![^>]*\bsrc=)|\bstyle=|\bon\w+=/i.test(page), "nothing inline");
});

step("what does not exist is not found, wherever it points to", async () => {
  for (const name of ["nothing.js", "init.lua", "..%2finit.lua", "%2e%2e", "a.b.c"]) {
    const answer = await fetch(`${world.url}/dashboard/assets/${name}`);
    assert([400, 404].includes(answer.status), `${name}: ${answer.status}`);
  }
});

step("the settings hold no secret", async () => {
  const text = await (await fetch(`${world.url}/dashboard/config.json`)).text();
  const settings = JSON.parse(text);
  equal("default_template,signers,supabase", Object.keys(settings).sort().join(), "keys");
  equal("id,public", Object.keys(settings.signers[0]).sort().join(), "keys of a signer");
  assert(!text.includes("secret"), "no secret");
});

step("without a token there is a helpful page", async () => {
  const page = await visit("/dashboard");
  await page.locator('.door[data-state="welcome"]').waitFor();
  equal(3, await page.locator(".steps li").count(), "steps");
  await page.leave();
});

step("a token that is over says so, with one of the past or at the server", async () => {
  const page = await visit("/dashboard", { token: world.tokens.expired });
  await page.locator('.door[data-state="expired"]').waitFor();
  assert((await page.text("h1")).includes("timed out"), "in words");
  await page.leave();
});

step("a token that runs out while the page is open says so", async () => {
  const page = await visit("/dashboard", { token: world.tokens.pro, forgiven: [/401/] });
  await page.state("ready");
  // To the server it is somebody's whose secret is not known any more.
  await page.evaluate(() => {
    const name = Object.keys(sessionStorage).find((key) => key.endsWith(".token"));
    sessionStorage.setItem(name, `${sessionStorage.getItem(name)}x`);
  });
  await page.reload();
  await page.locator('.door[data-state="refused"]').waitFor();
  await page.leave();
});

step("a damaged token and the public key are refused", async () => {
  for (const token of ["abc", world.tokens.anon]) {
    const page = await visit("/dashboard", { token, forgiven: [/401/] });
    await page.locator('.door[data-state="refused"]').waitFor();
    await page.leave();
  }
});

step("an operator's token is not a customer's", async () => {
  const page = await visit("/dashboard", { token: world.tokens.operator, forgiven: [/403/] });
  await page.locator('.door[data-state="refused"]').waitFor();
  await page.leave();
});

step("the form signs in where a project is configured, and tells a wrong password", async () => {
  const page = await visit("/dashboard", { forgiven: [/400/], before: async (fresh) => {
    await fresh.route("**/dashboard/config.json", async (route) => {
      const answer = await route.fetch();
      await route.fulfill({ response: answer, json: { ...await answer.json(), supabase: { url: world.url, anon_key: "public" } } });
    });
    await fresh.route("**/auth/v1/token?grant_type=password", (route) => {
      const { email, password } = route.request().postDataJSON();
      equal("public", route.request().headers().apikey, "apikey");
      if (email === "pro@spec.invalid" && password === "right") route.fulfill({ json: { access_token: world.tokens.pro, refresh_token: "again" } });
      else route.fulfill({ status: 400, json: { msg: "Invalid login credentials" } });
    });
  } });
  await page.fill("#email", "pro@spec.invalid");
  await page.fill("#password", "wrong");
  await page.keyboard.press("Enter");
  await until("told", async () => (await page.text(".sign-in [role=alert]")).includes("do not fit"));
  await page.fill("#password", "right");
  await page.click(".sign-in button");
  await page.state("ready");
  await page.leave();
});

step("no device, no file and no right to one are said in plain words", async () => {
  let page = await visit("/dashboard", { token: world.tokens.nobody });
  await page.state("no_devices");
  await page.leave();
  page = await visit("/dashboard", { token: world.tokens.gone, forgiven: [/403/] });
  await page.state("refused");
  assert((await page.text("#ticket")).includes("licence has run out"), "the reason");
  await page.leave();
});

step("a service that is away is said, and found again by itself", async () => {
  const page = await visit("/dashboard", { token: world.tokens.max, forgiven: [/ERR_|503/] });
  await page.state("ready");
  await page.route("**/api/**", (route) => route.abort());
  await page.click("#generate");
  await page.locator(".notice.bad").waitFor();
  await page.unroute("**/api/**");
  await until("found again", async () => (await page.locator(".notice.bad").count()) === 0);
  await page.leave();
});

step("without live events the page asks by itself", async () => {
  const page = await visit("/dashboard", { token: world.tokens.max, forgiven: [/ERR_|503/],
    before: (fresh) => fresh.route("**/api/ate/events", (route) => route.fulfill({ status: 503, json: {} })) });
  await page.state("ready");
  await until("polling", () => page.has(".pulse.polling"));
  const before = await page.text(".checksum code");
  await page.click("#generate");
  await until("another file", async () => (await page.locator(".checksum code").count()) && (await page.text(".checksum code")) !== before);
  await page.leave();
});

await run();
