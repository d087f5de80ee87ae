// A strict stand-in for the storage server of Supabase, in memory: what its real answers were recorded to be, and no
// more. Usage: node supabase_storage.mjs KEY; prints its port. Faults are ordered with POST /fault {times, …}, each for
// the next matching requests: {method, status, body, headers, cut (bytes read before the connection is reset), silent,
// held (it is answered after POST /calm), flip (this byte of the answer's body changes on the way)}. POST /rot {name, at}
// changes a byte of an object, and nothing else of it.
import http from "node:http";
import crypto from "node:crypto";

const key = process.argv[2];
const buckets = new Map();
const KEY_FORM = /^[A-Za-z0-9_/!.*'() &$=@;:+,?-]*$/;
let faults = [];
const held = [];
const seen = [];

function refuse(res, statusCode, error, message, code, status = 400) {
  const body = JSON.stringify({ statusCode: String(statusCode), error, message, code });
  res.writeHead(status, { "content-type": "application/json; charset=utf-8", "content-length": Buffer.byteLength(body) });
  res.end(body);
}

function answer(res, value, status = 200) {
  const body = JSON.stringify(value);
  res.writeHead(status, { "content-type": "application/json; charset=utf-8", "content-length": Buffer.byteLength(body) });
  res.end(body);
}

function authorised(req, res) {
  const header = req.headers.authorization;
  if (!header) {
    refuse(res, 400, "Error", "headers must have required property 'authorization'", "InvalidRequest");
  } else if (header !== `Bearer ${key}`) {
    refuse(res, 403, "Unauthorized", "signature verification failed", "AccessDenied");
  } else {
    return true;
  }
  return false;
}

function json(req, res, body) {
  try {
    return JSON.parse(body);
  } catch {
    refuse(res, 400, "Error", "Body is not valid JSON", "InvalidRequest");
    return null;
  }
}

const noKey = (res) => refuse(res, 404, "not_found", "Object not found", "NoSuchKey");
const noBucket = (res) => refuse(res, 404, "Bucket not found", "Bucket not found", "NoSuchBucket");

function upload(req, res, bucket, name, body) {
  if (!KEY_FORM.test(name)) return refuse(res, 400, "InvalidKey", `Invalid key: ${name}`, "InvalidKey");
  if (req.headers["content-length"] === undefined)
    return refuse(res, 400, "Error", "the stand-in wants a Content-Length", "InvalidRequest");
  if (body.length > bucket.limit)
    return refuse(res, 413, "Payload too large", "The object exceeded the maximum allowed size", "EntityTooLarge");
  if (bucket.objects.has(name) && req.headers["x-upsert"] !== "true")
    return refuse(res, 409, "Duplicate", "The resource already exists", "KeyAlreadyExists");
  const metadata = req.headers["x-metadata"] ? JSON.parse(Buffer.from(req.headers["x-metadata"], "base64")) : {};
  const etag = `"${crypto.createHash("md5").update(body).digest("hex")}"`;
  bucket.changed = true;
  bucket.objects.set(name, { body, metadata, etag, id: crypto.randomUUID(), created: new Date().toISOString() });
  answer(res, { Key: `${bucket.name}/${name}`, Id: bucket.objects.get(name).id });
}

function download(req, res, bucket, name) {
  const object = bucket.objects.get(name);
  if (!object) return noKey(res);
  const size = object.body.length;
  const range = /^bytes=(\d+)-(\d+)$/.exec(req.headers.range ?? "");
  const headers = { etag: object.etag, "accept-ranges": "bytes", "content-type": "application/octet-stream" };
  if (req.headers.range && (!range || Number(range[1]) >= size))
    return refuse(res, 416, "invalid_range", "invalid range provided", "InvalidRange", 416);
  const from = range ? Number(range[1]) : 0;
  const to = range ? Math.min(Number(range[2]), size - 1) : size - 1;
  const body = object.body.subarray(from, to + 1);
  if (range) headers["content-range"] = `bytes ${from}-${to}/${size}`;
  headers["content-length"] = body.length;
  res.writeHead(range ? 206 : 200, headers);
  res.end(body);
}

function info(res, bucket, name) {
  const object = bucket.objects.get(name);
  if (!object) return noKey(res);
  answer(res, { id: object.id, name, bucket_id: bucket.name, size: object.body.length, etag: object.etag,
    metadata: object.metadata, created_at: object.created, last_modified: object.created });
}

function list(res, bucket, query) {
  const after = query.cursor ? Buffer.from(query.cursor, "base64").toString().replace(/^l:/, "") : "";
  if (bucket.sorted?.size !== bucket.objects.size || bucket.changed) {
    bucket.sorted = { size: bucket.objects.size, names: [...bucket.objects.keys()].sort((a, b) => (a < b ? -1 : 1)) };
    bucket.changed = false;
  }
  const names = bucket.sorted.names;
  const from = names.findIndex((n) => n.startsWith(query.prefix) && n > after);
  const limit = Math.min(query.limit ?? 100, 1000);
  const some = from < 0 ? [] : names.slice(from, from + limit).filter((n) => n.startsWith(query.prefix));
  const hasNext = some.length === limit && (names[from + limit] ?? "").startsWith(query.prefix);
  answer(res, { hasNext, nextCursor: hasNext ? Buffer.from(`l:${some.at(-1)}`).toString("base64") : undefined, folders: [],
    objects: some.map((n) => ({ name: n, id: bucket.objects.get(n).id, created_at: bucket.objects.get(n).created,
      metadata: { size: bucket.objects.get(n).body.length, eTag: bucket.objects.get(n).etag } })) });
}

function remove(res, bucket, prefixes) {
  if (!Array.isArray(prefixes) || prefixes.length < 1 || prefixes.length > 1000)
    return refuse(res, 400, "Error", "body/prefixes must NOT have fewer than 1 items", "InvalidRequest");
  bucket.changed = true;
  const gone = prefixes.filter((n) => bucket.objects.delete(n));
  answer(res, gone.map((name) => ({ name, bucket_id: bucket.name })));
}

function makeBucket(res, wish) {
  if (buckets.has(wish.id)) return refuse(res, 409, "Duplicate", "The resource already exists", "BucketAlreadyExists");
  buckets.set(wish.id, { name: wish.id, public: wish.public === true, limit: wish.file_size_limit ?? 50e6,
    objects: new Map() });
  answer(res, { name: wish.name });
}

function route(req, res, body) {
  const path = decodeURIComponent(new URL(req.url, "http://x").pathname).replace(/^\/storage\/v1/, "");
  const [, first, second] = path.split("/");
  if (!authorised(req, res)) return;
  if (path === "/bucket" && req.method === "POST") return makeBucket(res, json(req, res, body) ?? {});
  if (first === "bucket" && req.method === "GET" && buckets.has(second)) {
    const { name, public: open, limit } = buckets.get(second);
    return answer(res, { id: name, name, owner: "", public: open, file_size_limit: limit, allowed_mime_types: null });
  }
  const listed = first === "object" && (second === "list-v2" || second === "info");
  const bucketName = path.split("/")[listed ? 3 : 2];
  const bucket = buckets.get(bucketName);
  if (!bucket) return noBucket(res);
  const name = path.split("/").slice(listed ? 4 : 3).join("/");
  if (second === "list-v2" && req.method === "POST") return list(res, bucket, json(req, res, body) ?? {});
  if (second === "info" && req.method === "GET") return info(res, bucket, name);
  if (req.method === "POST") return upload(req, res, bucket, name, body);
  if (req.method === "GET") return download(req, res, bucket, name);
  if (req.method === "DELETE" && name === "") return remove(res, bucket, (json(req, res, body) ?? {}).prefixes);
  refuse(res, 404, "Error", "Route not found", "InvalidRequest");
}

// Many objects of one byte at once: {bucket, prefix, count}.
function fill({ bucket, prefix, count }) {
  const created = new Date().toISOString();
  for (let i = 1; i <= count; i++) {
    buckets.get(bucket).objects.set(prefix + String(i).padStart(7, "0"), { body: Buffer.from("x"), metadata: {}, etag: '"x"',
      id: crypto.randomUUID(), created });
  }
}

// A byte changes where it lies: all that is known of the object stays.
function rot({ name, at }) {
  for (const bucket of buckets.values()) {
    const object = bucket.objects.get(name);
    if (object) object.body[at] ^= 1;
  }
}

function control(req, res, body) {
  if (req.url === "/fault") faults.push(JSON.parse(body));
  if (req.url === "/calm") {
    faults = [];
    held.splice(0).forEach((go) => go());
  }
  if (req.url === "/limit") buckets.forEach((b) => (b.limit = Number(body)));
  if (req.url === "/drop-buckets") buckets.clear();
  if (req.url === "/publish-buckets") buckets.forEach((b) => (b.public = true));
  if (req.url === "/fill") fill(JSON.parse(body));
  if (req.url === "/rot") rot(JSON.parse(body));
  if (req.url === "/end") process.exit(0);
  answer(res, { seen: seen.splice(0), buckets: [...buckets.values()].map((b) => ({ name: b.name, public: b.public,
    objects: b.objects.size })) });
}

function due(req) {
  const fault = faults.find((f) => f.times > 0 && (!f.method || f.method === req.method)
    && (!f.path || req.url.includes(f.path)) && !((f.after -= 1) >= 0));
  if (fault) fault.times -= 1;
  return fault;
}

function flipped(res, at) {
  const end = res.end.bind(res);
  res.end = (body) => {
    const copy = Buffer.from(body);
    copy[at] ^= 1;
    end(copy);
  };
  return res;
}

const CONTROL = ["/fault", "/fill", "/rot", "/calm", "/limit", "/drop-buckets", "/publish-buckets", "/seen", "/end"];
const server = http.createServer((req, res) => {
  const fault = CONTROL.includes(req.url) ? null : due(req);
  const parts = [];
  let size = 0;
  req.on("error", () => {});
  req.on("data", (part) => {
    parts.push(part);
    size += part.length;
    if (fault?.cut !== undefined && size >= fault.cut) req.socket.resetAndDestroy();
  });
  req.on("end", () => {
    const body = Buffer.concat(parts);
    if (CONTROL.includes(req.url)) return control(req, res, body);
    seen.push({ method: req.method, url: req.url, authorization: req.headers.authorization !== undefined,
      apikey: req.headers.apikey !== undefined, bytes: size });
    if (fault?.cut !== undefined) return req.socket.resetAndDestroy();
    if (fault?.silent) return undefined;
    if (fault?.held) return held.push(() => route(req, res, body));
    if (fault?.flip !== undefined) return route(req, flipped(res, fault.flip), body);
    if (fault?.lost) { // it happens, and the answer is lost
      const nowhere = { writeHead() {}, end: () => req.socket.resetAndDestroy() };
      return route(req, nowhere, body);
    }
    if (fault) {
      res.writeHead(fault.status, fault.headers ?? {});
      return res.end(fault.body ?? "");
    }
    return route(req, res, body);
  });
});
server.listen(0, "127.0.0.1", () => console.log(server.address().port));
