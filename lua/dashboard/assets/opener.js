// Opens an .ate file (container version 1, or the ZIP with WinZip AES-256 entries) in this browser, with WebCrypto alone.
// Nothing of the file, the licence key or the contents leaves the page.
//
//   const result = await openAte(bytes, { device, licence, signers, onStep });
//
// Throws an Error with one of the codes not_ate, unsupported, truncated, trailing_data, bad_header, wrong_key, tampered,
// bad_signature, bad_archive, or no_webcrypto. `result.signature` is "good", "unknown_signer" or "unsupported".
import { parseMetadata } from "/dashboard/assets/metadata.js";
import { readArchive } from "/dashboard/assets/zip.js";
import { checkWinzip } from "/dashboard/assets/winzip.js";

export function fail(code, detail) {
  throw Object.assign(new Error(detail ? `${code}: ${detail}` : code), { code, detail });
}

const utf8 = new TextEncoder();
const sha256 = async (bytes) => new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
const same = (a, b) => a.length === b.length && a.every((byte, i) => byte === b[i]);
const hex = (bytes) => Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");

function join(...parts) {
  const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) { whole.set(part, at); at += part.length; }
  return whole;
}

// Case and dashes of a licence key do not matter, and O, I and L read as 0, 1 and 1.
export const plainKey = (licence) =>
  licence.trim().toUpperCase().replace(/[-\s]/g, "").replace(/O/g, "0").replace(/[IL]/g, "1");

// Offsets and lengths, refused in the order that the format prescribes.
export function readHeader(file) {
  if (!same(file.subarray(0, 4), utf8.encode("ATE1"))) fail("not_ate");
  if (file.length < 100) fail("truncated");
  if (file[4] !== 1 || file[5] > 1) fail("unsupported");
  const view = new DataView(file.buffer, file.byteOffset, file.length);
  const signed = file[5] === 1;
  const H = view.getUint16(6);
  const N = view.getBigUint64(92);
  const signer = file.subarray(8, 16);
  if (H < 100 || N < 22n || N > 2n ** 36n - 32n) fail("bad_header");
  if (signed === same(signer, new Uint8Array(8))) fail("bad_header");
  const end = H + Number(N) + 16;
  const size = end + (signed ? 64 : 0);
  if (file.length !== size) fail(file.length < size ? "truncated" : "trailing_data");
  return { signed, H, end, signer, metadata: parseMetadata(file.subarray(100, H), () => fail("bad_header")) };
}

async function deriveKey(file, device, licence) {
  const name = utf8.encode(device);
  const info = join(utf8.encode("ATE1 key\0"), Uint8Array.of(name.length >> 8, name.length & 255), name);
  const secret = await crypto.subtle.importKey("raw", utf8.encode(plainKey(licence)), "HKDF", false, ["deriveBits"]);
  const hkdf = { name: "HKDF", hash: "SHA-256", salt: file.subarray(16, 48), info };
  const bits = await crypto.subtle.deriveBits(hkdf, secret, 256);
  if (!same(await sha256(bits), file.subarray(60, 92))) fail("wrong_key");
  return crypto.subtle.importKey("raw", bits, "AES-GCM", false, ["decrypt"]);
}

async function decrypt(file, key, { H, end }) {
  const gcm = { name: "AES-GCM", iv: file.subarray(48, 60), additionalData: file.subarray(0, H), tagLength: 128 };
  try {
    return new Uint8Array(await crypto.subtle.decrypt(gcm, key, file.subarray(H, end)));
  } catch {
    return fail("tampered");
  }
}

async function checkSignature(file, { signed, signer, end }, signers) {
  if (!signed) return "unknown_signer";
  const id = hex(signer);
  const known = signers.find((one) => one.id === id);
  if (!known) return "unknown_signer";
  const raw = Uint8Array.from(atob(known.public), (c) => c.charCodeAt(0));
  if (!same((await sha256(raw)).subarray(0, 8), signer)) return "unknown_signer";
  let key;
  try {
    key = await crypto.subtle.importKey("raw", raw, "Ed25519", false, ["verify"]);
  } catch {
    return "unsupported"; // browsers have Ed25519 since 2025
  }
  const message = join(utf8.encode("ATE1 signature\0"), await sha256(file.subarray(0, end)));
  if (!await crypto.subtle.verify("Ed25519", key, file.subarray(end), message)) fail("bad_signature");
  return "good";
}

const isZip = (file) => file[0] === 0x50 && file[1] === 0x4b && file[2] === 3 && file[3] === 4;

export async function openAte(file, { device, licence, signers = [], onStep = () => {} }) {
  if (!globalThis.crypto?.subtle) fail("no_webcrypto");
  if (isZip(file)) {
    onStep("form");
    return { container: "winzip-aes256", signature: "unknown_signer", metadata: null, expired: false,
      ...await checkWinzip(file, licence, { onStep, fail }) };
  }
  const header = readHeader(file);
  onStep("form");
  const key = await deriveKey(file, device, licence);
  onStep("key");
  const archive = await decrypt(file, key, header);
  onStep("intact");
  const signature = await checkSignature(file, header, signers);
  onStep("signer");
  const entries = await readArchive(archive, { fail: (detail) => fail("bad_archive", detail) });
  onStep("contents");
  const { metadata } = header;
  const expired = metadata.expires_at !== null && Date.parse(metadata.expires_at) <= Date.now();
  return { container: "ate1", metadata, signature, signer: header.signed ? hex(header.signer) : null, entries, expired,
    checksum: hex(await sha256(file)) };
}
