// Reads a ZIP archive in memory: its central directory, and every entry's bytes, which must fit size and CRC. Refuses
// what an unpacker would have to refuse: unsafe, duplicate and colliding names, anything but regular files, too much.

const LIMITS = { entries: 10000, bytes: 2 ** 30, ratio: 1000 };

const CRC = Uint32Array.from({ length: 256 }, (_, n) => {
  for (let k = 0; k < 8; k++) n = n & 1 ? 0xedb88320 ^ (n >>> 1) : n >>> 1;
  return n >>> 0;
});

export function crc32(bytes) {
  let crc = ~0;
  for (let i = 0; i < bytes.length; i++) crc = CRC[(crc ^ bytes[i]) & 255] ^ (crc >>> 8);
  return ~crc >>> 0;
}

const viewOf = (bytes) => new DataView(bytes.buffer, bytes.byteOffset, bytes.length);

function findEnd(view) {
  for (let at = view.byteLength - 22; at >= 0 && at >= view.byteLength - 65557; at--) {
    if (view.getUint32(at, true) === 0x06054b50 && at + 22 + view.getUint16(at + 20, true) === view.byteLength) return at;
  }
  return -1;
}

const isUnsafe = (name) => name === "" || name.length > 1024 || /[\0-\x1f\x7f\\]/.test(name) || /^\/|^[A-Za-z]:/.test(name) ||
  name.split("/").some((part) => part === ".." || part === "." || part === "");

// The central directory: a list of {name, size, packed, method, flags, crc, at, extra}.
export function directory(bytes, fail) {
  const view = viewOf(bytes);
  const end = findEnd(view);
  if (end < 0) fail("no directory");
  const count = view.getUint16(end + 10, true);
  const start = view.getUint32(end + 16, true);
  if (count === 0xffff || start === 0xffffffff) fail("zip64");
  if (count > LIMITS.entries) fail("entries");
  const names = new TextDecoder("utf-8", { fatal: true });
  const entries = [];
  let at = start;
  for (let i = 0; i < count; i++) {
    if (at + 46 > end || view.getUint32(at, true) !== 0x02014b50) fail("directory");
    const length = view.getUint16(at + 28, true);
    const extra = view.getUint16(at + 30, true);
    const next = at + 46 + length + extra + view.getUint16(at + 32, true);
    if (next > end) fail("directory");
    let name;
    try { name = names.decode(bytes.subarray(at + 46, at + 46 + length)); } catch { fail("name"); }
    const mode = view.getUint16(at + 4, true) >> 8 === 3 ? view.getUint16(at + 40, true) & 0xf000 : 0;
    if (isUnsafe(name) || (mode !== 0 && mode !== 0x8000)) fail(name.slice(0, 80));
    entries.push({
      name, at: view.getUint32(at + 42, true), flags: view.getUint16(at + 8, true), method: view.getUint16(at + 10, true),
      crc: view.getUint32(at + 16, true), packed: view.getUint32(at + 20, true), size: view.getUint32(at + 24, true),
      extra: bytes.subarray(at + 46 + length, at + 46 + length + extra),
    });
    at = next;
  }
  return checkSums(entries, fail);
}

function checkSums(entries, fail) {
  const seen = new Set();
  let size = 0;
  let packed = 0;
  for (const entry of entries) {
    const name = entry.name.normalize("NFC").toLowerCase();
    if (seen.has(name)) fail(entry.name.slice(0, 80));
    seen.add(name);
    size += entry.size;
    packed += entry.packed;
  }
  // A file where another entry needs a folder.
  for (const name of seen) {
    for (let cut = name.indexOf("/"); cut > 0; cut = name.indexOf("/", cut + 1)) {
      if (seen.has(name.slice(0, cut))) fail(name.slice(0, 80));
    }
  }
  if (size > LIMITS.bytes || size > packed * LIMITS.ratio + 4096) fail("too large");
  return entries;
}

// The stored bytes of an entry.
export function packedBytes(bytes, entry, fail) {
  const view = viewOf(bytes);
  if (entry.at + 30 > bytes.length || view.getUint32(entry.at, true) !== 0x04034b50) fail(entry.name);
  const from = entry.at + 30 + view.getUint16(entry.at + 26, true) + view.getUint16(entry.at + 28, true);
  if (from + entry.packed > bytes.length) fail(entry.name);
  return bytes.subarray(from, from + entry.packed);
}

async function inflate(packed, size, fail) {
  const reader = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate-raw")).getReader();
  const whole = new Uint8Array(size);
  let at = 0;
  for (;;) {
    const { value, done } = await reader.read();
    if (done) break;
    if (at + value.length > size) { await reader.cancel(); fail("size"); }
    whole.set(value, at);
    at += value.length;
  }
  return at === size ? whole : fail("size");
}

export async function entryBytes(archive, entry, fail) {
  const packed = packedBytes(archive, entry, fail);
  let bytes = packed;
  if (entry.method === 8) {
    try { bytes = await inflate(packed, entry.size, fail); } catch { fail(entry.name); }
  } else if (entry.method !== 0) {
    fail(entry.name);
  }
  if (bytes.length !== entry.size || crc32(bytes) !== entry.crc) fail(entry.name);
  return bytes;
}

// Every entry, read and checked: {name, size, packed, bytes}.
export async function readArchive(archive, { fail }) {
  const found = [];
  for (const entry of directory(archive, fail)) {
    if (entry.flags & 1) fail(entry.name);
    found.push({ name: entry.name, size: entry.size, packed: entry.packed,
      bytes: await entryBytes(archive, entry, fail) });
  }
  return found;
}
