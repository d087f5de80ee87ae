// Opens an .ate file (version 1) in a browser, with WebCrypto alone (the page must come over https or from localhost):
//   const { metadata, archive } = await openAte(await file.arrayBuffer(), deviceHash, licenceKey, publicKey);
const fail = (code) => { throw Object.assign(new Error(code), { code }); };
const attempt = async (code, step) => { try { return await step(); } catch { return fail(code); } };
const sha256 = async (bytes) => new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
const same = (a, b) => a.length === b.length && a.every((byte, i) => byte === b[i]);
const text = (string) => new TextEncoder().encode(string);
const join = (...parts) => new Uint8Array(parts.flatMap((part) => [...part]));

export async function openAte(buffer, device, licence, publicKey) {
  const file = new Uint8Array(buffer);
  if (!same(file.subarray(0, 4), text("ATE1"))) fail("not_ate");
  if (file.length < 100) fail("truncated");
  if (file[4] !== 1 || file[5] > 1) fail("unsupported");
  const view = new DataView(file.buffer, file.byteOffset);
  const signed = file[5] === 1, H = view.getUint16(6), N = Number(view.getBigUint64(92));
  const signer = file.subarray(8, 16), possible = H >= 100 && N >= 22 && N <= 2 ** 36 - 32;
  if (!possible || signed === same(signer, new Uint8Array(8))) fail("bad_header");
  const end = H + N + 16, size = end + (signed ? 64 : 0);
  if (file.length !== size) fail(file.length < size ? "truncated" : "trailing_data");
  const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
  const metadata = await attempt("bad_header", () => JSON.parse(utf8.decode(file.subarray(100, H))));

  const secret = licence.trim().toUpperCase().replace(/-/g, "").replace(/O/g, "0").replace(/[IL]/g, "1");
  const name = text(device), info = join(text("ATE1 key\0"), [name.length >> 8, name.length & 255], name);
  const base = await crypto.subtle.importKey("raw", text(secret), "HKDF", false, ["deriveBits"]);
  const hkdf = { name: "HKDF", hash: "SHA-256", salt: file.subarray(16, 48), info };
  const bits = await crypto.subtle.deriveBits(hkdf, base, 256);
  if (!same(await sha256(bits), file.subarray(60, 92))) fail("wrong_key");
  const key = await crypto.subtle.importKey("raw", bits, "AES-GCM", false, ["decrypt"]);
  const gcm = { name: "AES-GCM", iv: file.subarray(48, 60), additionalData: file.subarray(0, H), tagLength: 128 };
  const opened = await attempt("tampered", () => crypto.subtle.decrypt(gcm, key, file.subarray(H, end)));

  if (publicKey) { // 32 raw bytes; without one the signature is not looked at
    if (!signed || !same((await sha256(publicKey)).subarray(0, 8), signer)) fail("unknown_signer");
    const trusted = await attempt("no_ed25519", // browsers have it since 2025; older ones throw here
      () => crypto.subtle.importKey("raw", publicKey, "Ed25519", false, ["verify"]));
    const message = join(text("ATE1 signature\0"), await sha256(file.subarray(0, end)));
    if (!await crypto.subtle.verify("Ed25519", trusted, file.subarray(end), message)) fail("bad_signature");
  }
  const expired = metadata.expires_at !== null && Date.parse(metadata.expires_at) <= Date.now();
  return { metadata, archive: new Uint8Array(opened), expired, verified: Boolean(publicKey) };
}
