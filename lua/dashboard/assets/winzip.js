// Checks a ZIP with WinZip AES-256 entries (AE-2): the password by its two check bytes, then every entry by its
// HMAC-SHA1. Names and sizes stand in the open there; the entries are not decrypted, which WebCrypto cannot do (its
// counter mode counts the other way round).
import { directory, packedBytes } from "/dashboard/assets/zip.js";

const ITERATIONS = 1000;

// The AES extra field: vendor version, strength, real method.
function aesField(extra) {
  const view = new DataView(extra.buffer, extra.byteOffset, extra.length);
  for (let at = 0; at + 4 <= extra.length;) {
    const id = view.getUint16(at, true);
    const size = view.getUint16(at + 2, true);
    if (id === 0x9901 && size >= 7 && at + 4 + size <= extra.length) {
      return { version: view.getUint16(at + 4, true), strength: extra[at + 8] };
    }
    at += 4 + size;
  }
  return null;
}

async function checkEntry(packed, password, tell) {
  const material = await crypto.subtle.importKey("raw", password, "PBKDF2", false, ["deriveBits"]);
  const how = { name: "PBKDF2", hash: "SHA-1", salt: packed.subarray(0, 16), iterations: ITERATIONS };
  const bits = new Uint8Array(await crypto.subtle.deriveBits(how, material, 66 * 8));
  if (bits[64] !== packed[16] || bits[65] !== packed[17]) tell("wrong_key");
  const key = await crypto.subtle.importKey("raw", bits.subarray(32, 64), { name: "HMAC", hash: "SHA-1" }, false, ["sign"]);
  const data = packed.subarray(18, packed.length - 10);
  const mac = new Uint8Array(await crypto.subtle.sign("HMAC", key, data)).subarray(0, 10);
  if (!mac.every((byte, i) => byte === packed[packed.length - 10 + i])) tell("tampered");
}

// The password is the licence key as it is shown, dashes included.
function passwordOf(licence) {
  const plain = licence.trim().toUpperCase().replace(/[-\s]/g, "").replace(/O/g, "0").replace(/[IL]/g, "1");
  return new TextEncoder().encode(plain.match(/.{1,5}/g)?.join("-") ?? "");
}

export async function checkWinzip(file, licence, { onStep, fail }) {
  const password = passwordOf(licence);
  const refuse = (detail) => fail("bad_archive", detail);
  const entries = directory(file, refuse);
  if (!entries.length || !entries.every((entry) => entry.method === 99 && entry.flags & 1)) fail("not_ate");
  for (const entry of entries) {
    const aes = aesField(entry.extra);
    if (aes?.version !== 2 || aes.strength !== 3 || entry.packed < 28) fail("unsupported");
  }
  for (const entry of entries) {
    await checkEntry(packedBytes(file, entry, refuse), password, fail);
    if (entry === entries[0]) onStep("key");
  }
  onStep("intact");
  return { entries: entries.map(({ name, size, packed }) => ({ name, size, packed })) };
}
