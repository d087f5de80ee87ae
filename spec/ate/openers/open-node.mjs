// Opens an .ate file (version 1) with nothing but Node:
//   node open-node.mjs FILE DEVICE_HASH LICENCE_KEY [PUBLIC_KEY_BASE64] > archive.zip
import { createDecipheriv, createHash, createPublicKey, hkdfSync, verify } from "node:crypto";
import { readFileSync, realpathSync } from "node:fs";
import { fileURLToPath } from "node:url";

const fail = (code) => { throw Object.assign(new Error(code), { code }); };
const attempt = (code, step) => { try { return step(); } catch { return fail(code); } };
const sha256 = (bytes) => createHash("sha256").update(bytes).digest();

export function openAte(file, device, licence, publicKey) {
  if (file.toString("latin1", 0, 4) !== "ATE1") fail("not_ate");
  if (file.length < 100) fail("truncated");
  if (file[4] !== 1 || file[5] > 1) fail("unsupported");
  const signed = file[5] === 1, H = file.readUInt16BE(6), N = Number(file.readBigUInt64BE(92));
  const signer = file.subarray(8, 16), possible = H >= 100 && N >= 22 && N <= 2 ** 36 - 32;
  if (!possible || signed === signer.equals(Buffer.alloc(8))) fail("bad_header");
  const end = H + N + 16, size = end + (signed ? 64 : 0);
  if (file.length !== size) fail(file.length < size ? "truncated" : "trailing_data");
  const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
  const metadata = attempt("bad_header", () => JSON.parse(utf8.decode(file.subarray(100, H))));

  const secret = licence.trim().toUpperCase().replace(/-/g, "").replace(/O/g, "0").replace(/[IL]/g, "1");
  const name = Buffer.from(device), length = Buffer.from([name.length >> 8, name.length & 255]);
  const info = Buffer.concat([Buffer.from("ATE1 key\0"), length, name]);
  const key = Buffer.from(hkdfSync("sha256", secret, file.subarray(16, 48), info, 32));
  if (!sha256(key).equals(file.subarray(60, 92))) fail("wrong_key");
  const decipher = createDecipheriv("aes-256-gcm", key, file.subarray(48, 60));
  decipher.setAAD(file.subarray(0, H)).setAuthTag(file.subarray(H + N, end));
  const start = decipher.update(file.subarray(H, H + N));
  const archive = attempt("tampered", () => Buffer.concat([start, decipher.final()]));

  if (publicKey) { // 32 raw bytes; without one the signature is not looked at
    if (!signed || !sha256(publicKey).subarray(0, 8).equals(signer)) fail("unknown_signer");
    const jwk = { kty: "OKP", crv: "Ed25519", x: publicKey.toString("base64url") };
    const message = Buffer.concat([Buffer.from("ATE1 signature\0"), sha256(file.subarray(0, end))]);
    const trusted = createPublicKey({ key: jwk, format: "jwk" });
    if (!verify(null, message, trusted, file.subarray(end))) fail("bad_signature");
  }
  const expired = metadata.expires_at !== null && Date.parse(metadata.expires_at) <= Date.now();
  return { metadata, archive, expired, verified: Boolean(publicKey) };
}

if (process.argv[1] && realpathSync(process.argv[1]) === fileURLToPath(import.meta.url)) {
  const [file, device, licence, publicKey] = process.argv.slice(2);
  const opened = openAte(readFileSync(file), device, licence, publicKey && Buffer.from(publicKey, "base64"));
  if (opened.expired) console.error(`expired at ${opened.metadata.expires_at}`);
  process.stdout.write(opened.archive);
}
