// The other side of http_spec.lua: real sockets on loopback. Started as `node http_server.mjs DIR [SECONDS]`; DIR holds
// key.pem and cert.pem. Prints one line with the ports: "http raw tls". Ends on GET /quit, or when SECONDS are over.
import { createHash, createHmac } from "node:crypto";
import { readFileSync } from "node:fs";
import http from "node:http";
import https from "node:https";
import net from "node:net";

const [dir, seconds = "3000"] = process.argv.slice(2);
const SECRETS = { AKIDEXAMPLE: "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", "test:tester": "testing" };

const sha256 = (data) => createHash("sha256").update(data).digest("hex");
const hmac = (key, data) => createHmac("sha256", key).update(data).digest();
const connections = new Map();

function connectionId(socket) {
  if (!connections.has(socket)) connections.set(socket, connections.size + 1);
  return connections.get(socket);
}

function json(res, status, value) {
  const text = JSON.stringify(value);
  res.writeHead(status, { "content-type": "application/json", "content-length": Buffer.byteLength(text) });
  res.end(text);
}

async function bodyOf(req) {
  const parts = [];
  for await (const part of req) parts.push(part);
  return Buffer.concat(parts);
}

// Signature Version 4 by its definition (S3 flavour: the path is encoded once), from the bytes that came in.
const encode = (text) =>
  encodeURIComponent(text).replace(/[!'()*]/g, (c) => "%" + c.charCodeAt(0).toString(16).toUpperCase());

function canonicalQuery(query) {
  const order = (a, b) => (a < b ? -1 : a > b ? 1 : 0);
  return query.split("&").filter((p) => p !== "").map((p) => {
    const at = p.indexOf("=");
    const [name, value] = at < 0 ? [p, ""] : [p.slice(0, at), p.slice(at + 1)];
    return [encode(decodeURIComponent(name)), encode(decodeURIComponent(value))];
  }).sort((a, b) => order(a[0], b[0]) || order(a[1], b[1])).map((p) => p.join("=")).join("&");
}

function verifySigV4(req, body) {
  const auth = /^AWS4-HMAC-SHA256 Credential=(.+)\/(\d{8})\/([^/]+)\/([^/]+)\/aws4_request, ?SignedHeaders=([^,]+), ?Signature=([0-9a-f]{64})$/
    .exec(req.headers.authorization ?? "");
  if (!auth) return { ok: false, reason: "no signature", authorization: req.headers.authorization ?? null };
  const [, key, day, region, service, names, signature] = auth;
  const [path, query = ""] = req.url.split("?");
  const signed = names.split(";");
  const values = {};
  const raw = req.rawHeaders;
  for (let i = 0; i < raw.length; i += 2) (values[raw[i].toLowerCase()] ??= []).push(raw[i + 1]);
  const stated = req.headers["x-amz-content-sha256"];
  if (stated === undefined) return { ok: false, reason: "x-amz-content-sha256 is missing" };
  if (stated !== "UNSIGNED-PAYLOAD" && stated !== sha256(body)) return { ok: false, reason: "XAmzContentSHA256Mismatch" };
  for (const name of Object.keys(values))
    if ((name === "host" || name.startsWith("x-amz-")) && !signed.includes(name)) return { ok: false, reason: `${name} is not signed` };
  if ([...signed].sort().join(";") !== names) return { ok: false, reason: "signed headers are not sorted" };
  const canonical = [
    req.method,
    path.split("/").map((s) => encode(decodeURIComponent(s))).join("/"),
    canonicalQuery(query),
    ...signed.map((n) => `${n}:${(values[n] ?? []).map((v) => v.trim().replace(/ +/g, " ")).join(",")}`),
    "",
    names,
    stated,
  ].join("\n");
  const date = req.headers["x-amz-date"];
  const scope = `${day}/${region}/${service}/aws4_request`;
  const signing = hmac(hmac(hmac(hmac("AWS4" + (SECRETS[key] ?? ""), day), region), service), "aws4_request");
  const expected = hmac(signing, ["AWS4-HMAC-SHA256", date, scope, sha256(canonical)].join("\n")).toString("hex");
  return { ok: expected === signature, reason: expected === signature ? null : "SignatureDoesNotMatch", canonical, region, service, signed, body: body.length, stated };
}

const together = new Map(); // requests that wait for each other, by key

async function answer(req, res) {
  const url = new URL(req.url, "http://x");
  const path = url.pathname;
  if (path === "/drop") return req.socket.destroy(); // while the body still comes
  const body = await bodyOf(req);
  if (path === "/quit") {
    res.end("bye", () => process.exit(0));
  } else if (path === "/echo") {
    json(res, 200, {
      method: req.method, url: req.url, headers: req.headers, raw: req.rawHeaders, length: body.length, sha256: sha256(body),
      connection: connectionId(req.socket),
    });
  } else if (path === "/bytes") {
    res.writeHead(Number(url.searchParams.get("status") ?? 200), { "content-length": url.searchParams.get("n") });
    res.end(req.method === "HEAD" ? undefined : Buffer.alloc(Number(url.searchParams.get("n")), "x"));
  } else if (path === "/chunks") {
    for (let i = 0; i < Number(url.searchParams.get("n")); i++) res.write("0123456789".repeat(100));
    res.end();
  } else if (path === "/together") {
    const { of, key, n } = Object.fromEntries(url.searchParams);
    const held = [...(together.get(key) ?? []), () => json(res, 200, { n })];
    together.set(key, held);
    if (held.length === Number(of)) held.forEach((answerIt) => answerIt());
  } else if (path === "/redirect") {
    res.writeHead(302, { location: url.searchParams.get("to"), "content-length": 4 });
    res.end("gone");
  } else if (path === "/loop") {
    res.writeHead(302, { location: "/loop", "content-length": 0 });
    res.end();
  } else if (path === "/twice") {
    res.writeHead(200, [["Set-Cookie", "a=1"], ["Set-Cookie", "b=2"], ["X-Empty", ""], ["X-CaSe", "  v  "]]);
    res.end("ok");
  } else if (path.startsWith("/s3/")) {
    const verdict = verifySigV4(req, body);
    json(res, verdict.ok ? 200 : 403, verdict);
  } else if (path === "/status") {
    res.writeHead(Number(url.searchParams.get("code")));
    res.end();
  } else {
    json(res, 404, { error: "no such path" });
  }
}

// What no proper server would send, byte by byte. Each takes the socket after one request's head.
const RAW = {
  "cut-before": (s) => s.destroy(),
  "cut-reset": (s) => s.resetAndDestroy(),
  "cut-status": (s) => s.end("HTTP/1.1 20"),
  "cut-head": (s) => s.end("HTTP/1.1 200 OK\r\nContent-Le"),
  "cut-body": (s) => s.end("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n0123456789"),
  "cut-chunk": (s) => s.end("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n64\r\n0123456789"),
  "cut-last-chunk": (s) => s.end("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\na\r\n0123456789\r\n"),
  "bad-chunk": (s) => s.end("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n0123456789\r\n0\r\n\r\n"),
  "more-than-said": (s) => s.end("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n0123456789"),
  "length-text": (s) => s.end("HTTP/1.1 200 OK\r\nContent-Length: abc\r\n\r\n0123456789"),
  "length-negative": (s) => s.end("HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n0123456789"),
  "length-huge": (s) => s.write("HTTP/1.1 200 OK\r\nContent-Length: 9000000000000000000\r\n\r\n0123456789"),
  "no-length": (s) => s.end("HTTP/1.1 200 OK\r\n\r\nuntil the end"),
  garbage: (s) => s.end("hello, this is no HTTP at all\r\n"),
  "long-line": (s) => s.end("HTTP/1.1 200 OK\r\nX-Long: " + "x".repeat(200000) + "\r\nContent-Length: 0\r\n\r\n"),
  "many-lines": (s) => s.end("HTTP/1.1 200 OK\r\n" + ("X-Many: " + "x".repeat(990) + "\r\n").repeat(400) + "Content-Length: 0\r\n\r\n"),
  interim: (s) => s.end("HTTP/1.1 100 Continue\r\nX-A: no\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\nHTTP/1.1 200 OK\r\nX-B: yes\r\nContent-Length: 2\r\n\r\nok"),
  trailers: (s) => s.end("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-Trailer: t\r\nHTTP/1.1: x\r\n\r\n"),
  204: (s) => s.write("HTTP/1.1 204 No Content\r\nX-A: b\r\n\r\n"),
  304: (s) => s.write('HTTP/1.1 304 Not Modified\r\nETag: "x"\r\nContent-Length: 100\r\n\r\n'),
  folded: (s) => s.end("HTTP/1.1 200 OK\r\nX-F: a\r\n b\r\nContent-Length: 2\r\n\r\nok"),
  "no-colon": (s) => s.end("HTTP/1.1 200 OK\r\nno colon here\r\nContent-Length: 2\r\n\r\nok"),
  lf: (s) => s.end("HTTP/1.1 200 OK\nX-A: b\nContent-Length: 2\n\nok"),
  silent: () => {},
  stall: (s) => s.write("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n0123456789"),
  endless: (s) => {
    s.write("HTTP/1.1 200 OK\r\n\r\n");
    const more = () => { while (!s.destroyed && s.write("x".repeat(65536))); };
    s.on("drain", more);
    more();
  },
  drip: (s) => {
    s.write("HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n");
    let n = 0;
    const timer = setInterval(() => { s.write("x"); if (++n === 20) { clearInterval(timer); s.end(); } }, 10);
    s.on("close", () => clearInterval(timer));
  },
  // Answers properly, then drops the kept connection at the next request on it.
  fickle: (s, count) => (count === 1 ? s.write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok") : s.destroy()),
  refuses: (s) => s.end("HTTP/1.1 413 Too Large\r\nConnection: close\r\nContent-Length: 3\r\n\r\nbig"),
};

const raw = net.createServer((socket) => {
  let count = 0;
  let seen = "";
  socket.on("error", () => {});
  socket.on("data", (data) => {
    seen += data.toString("latin1");
    const end = seen.indexOf("\r\n\r\n");
    if (end < 0) return;
    const act = RAW[/^\S+ \/([^? ]*)/.exec(seen)?.[1]];
    seen = "";
    if (act) act(socket, ++count);
    else if (count === 0) socket.destroy();
  });
});

// A client that goes away in the middle is one of the cases tested.
const handle = (req, res) => answer(req, res).catch((error) => {
  if (error.code !== "ECONNRESET") throw error;
});
const plain = http.createServer(handle);
const tls = https.createServer({ key: readFileSync(`${dir}/key.pem`), cert: readFileSync(`${dir}/cert.pem`) }, handle);
plain.keepAliveTimeout = tls.keepAliveTimeout = 0; // however slow the client is
for (const server of [plain, raw, tls]) await new Promise((done) => server.listen(0, "127.0.0.1", done));
console.log([plain, raw, tls].map((server) => server.address().port).join(" "));
setTimeout(() => process.exit(1), Number(seconds) * 1000);
