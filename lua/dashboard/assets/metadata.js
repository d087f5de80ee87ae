// The metadata of a container: strict JSON (no key twice, well-formed UTF-8) with the members that version 1 asks for.

const TIME = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$/;

function isTime(value) {
  return typeof value === "string" && TIME.test(value) && !Number.isNaN(Date.parse(value)) &&
    new Date(value).toISOString().slice(0, 19) === value.slice(0, 19);
}

// JSON.parse takes the last of two members of the same name. Here the text is known to be JSON already: this walks it
// and looks at the names alone.
export function hasDuplicates(text) {
  const open = [];
  const token = /"(?:[^"\\]|\\.)*"|[{}[\],:]/gy;
  let expectsName = false;
  for (let at = 0; at < text.length;) {
    token.lastIndex = at;
    const found = token.exec(text);
    if (!found) { at += 1; continue; }
    at = token.lastIndex;
    const piece = found[0];
    if (piece === "{") { open.push(new Set()); expectsName = true; }
    else if (piece === "[") { open.push(null); expectsName = false; }
    else if (piece === "}" || piece === "]") { open.pop(); expectsName = false; }
    else if (piece === ",") expectsName = Boolean(open.at(-1));
    else if (piece === ":") expectsName = false;
    else if (expectsName) {
      const name = JSON.parse(piece);
      if (open.at(-1).has(name)) return true;
      open.at(-1).add(name);
      expectsName = false;
    }
  }
  return false;
}

export function parseMetadata(bytes, refuse) {
  let value;
  try {
    const text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
    value = JSON.parse(text);
    if (hasDuplicates(text)) return refuse();
  } catch {
    return refuse();
  }
  if (value === null || typeof value !== "object" || Array.isArray(value)) return refuse();
  const strings = ["artifact_id", "template", "version", "plan"];
  const good = strings.every((name) => typeof value[name] === "string") &&
    Array.isArray(value.tools) && value.tools.every((tool) => typeof tool === "string") &&
    Number.isInteger(value.generation) && value.generation >= 1 &&
    isTime(value.issued_at) && (value.expires_at === null || isTime(value.expires_at));
  return good ? value : refuse();
}
