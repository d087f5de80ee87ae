--- Makes the published test vectors: `lua5.4 spec/ate/make_vectors.lua FOLDER`, with the paths of the modules set.
-- Every input is fixed here, salts and nonces too (never do that elsewhere), so the same files come out each time.
local container = require "ate.container"
local crypto = require "atelier.crypto"
local header = require "ate.header"
local json = require "atelier.json"
local licence = require "ate.licence"
local zip = require "atelier.zip"

local FOLDER = assert(arg[1], "usage: make_vectors.lua FOLDER")
local DEVICE = "DEMO-PRO-001"
local DEVICE_ID = "0f8fad5b-d9cb-469f-a165-70867728950e"
local OTHER_ID = "00000000-0000-4000-8000-000000000001"
local MASTER = crypto.sha256("atelier vectors: master key")
local SIGNER = crypto.signing_key(crypto.sha256("atelier vectors: signing key"))

local function write(name, text)
  local file = assert(io.open(FOLDER .. "/" .. name, "wb"))
  assert(file:write(text))
  assert(file:close())
end

-- Stored, not deflated: another version of zlib may deflate to other bytes.
local function archive()
  local w = zip.writer()
  assert(w:add("main.lua", 'print("opened")\n', { method = "store" }))
  assert(w:add("config.json", '{"plan":"pro"}\n', { method = "store" }))
  return assert(w:close())
end

local function metadata(changes)
  local value = {
    artifact_id = "5f0c7f0e-6b1e-4b8a-9f55-0c3a8e1d2b47", template = "smartgram", version = "1.0.0", plan = "pro",
    tools = { "timeline", "follow" }, generation = 3, issued_at = "2025-01-01T00:00:00Z", expires_at = json.null,
  }
  for key, item in pairs(changes) do value[key] = item end
  return value
end

local CASES = {
  { file = "signed.ate", what = "signed, no expiry", signer = SIGNER, metadata = {} },
  { file = "unsigned.ate", what = "not signed", metadata = {} },
  {
    file = "expired.ate", signer = SIGNER,
    what = "signed, expired, names beyond ASCII, no tools, a key that nobody knows",
    metadata = { plan = "⚡ スターター", tools = {}, expires_at = "2025-01-04T00:00:00Z", later = { 1 } },
  },
}

local ARCHIVE = archive()
local KEY = licence.key(MASTER, DEVICE_ID)

local function build(case)
  local salt = crypto.sha256("atelier vectors: salt of " .. case.file)
  local nonce = crypto.sha256("atelier vectors: nonce of " .. case.file):sub(1, 12)
  local sealed = assert(container.seal {
    archive = ARCHIVE, licence = KEY, device_hash = DEVICE, metadata = metadata(case.metadata), signer = case.signer,
    salt = salt, nonce = nonce,
  })
  write(case.file, table.concat(sealed.parts))
  local text = sealed.parts[1]:sub(header.FIXED + 1)
  return {
    file = case.file, what = case.what, device_hash = DEVICE, licence = KEY, salt = crypto.hex(salt),
    nonce = crypto.hex(nonce), size = sealed.size, checksum = sealed.checksum, signed = case.signer ~= nil,
    aes_key = crypto.hex(header.derive(licence.normalise(KEY), DEVICE, salt):reveal()),
    encryption_key_hash = sealed.encryption_key_hash, metadata = json.decode(text),
    expired = case.file == "expired.ate",
  }
end

-- Changes of signed.ate: `keep` so many bytes, `append` those, or `set` those at `offset`.
local function refused()
  local function case(code, what, change)
    change.code, change.what, change.file = code, what, "signed.ate"
    change.device_hash, change.licence = change.device_hash or DEVICE, change.licence or KEY
    return change
  end
  return {
    case("not_ate", "nothing", { keep = 0 }),
    case("not_ate", "three bytes", { keep = 3 }),
    case("not_ate", "another magic", { offset = 3, set = "32" }),
    case("truncated", "99 bytes", { keep = 99 }),
    case("truncated", "one byte missing", { keep = -1 }),
    case("trailing_data", "one byte more", { append = "00" }),
    case("unsupported", "suite 2", { offset = 4, set = "02" }),
    case("unsupported", "flag bit 1", { offset = 5, set = "03" }),
    case("bad_header", "header length 99", { offset = 6, set = "0063" }),
    case("bad_header", "archive length 21", { offset = 92, set = "0000000000000015" }),
    case("bad_header", "archive length beyond GCM", { offset = 92, set = "0000000fffffffe1" }),
    case("truncated", "archive length that GCM allows and the file lacks", { offset = 92, set = "0000000fffffffe0" }),
    case("bad_header", "signed without a signer id", { offset = 8, set = "0000000000000000" }),
    case("bad_header", "metadata that is no JSON", { offset = 100, set = "5b" }),
    case("wrong_key", "another device", { device_hash = "DEMO-PRO-002" }),
    case("wrong_key", "another licence", { licence = licence.key(MASTER, OTHER_ID) }),
    case("wrong_key", "another salt", { offset = 16, set = "ffffffff" }),
    case("tampered", "another nonce", { offset = 48, set = "ffffffff" }),
    case("tampered", "another signer id", { offset = 8, set = "ffffffffffffffff" }),
    case("tampered", "another tag", { offset = -80, set = "ffffffff" }),
    case("bad_signature", "another signature", { offset = -64, set = "ffffffff" }),
  }
end

local files = {}
for i, case in ipairs(CASES) do files[i] = build(case) end

write("vectors.json", json.encode({
  format = "ATE1",
  archive = crypto.base64_encode(ARCHIVE),
  archive_sha256 = crypto.hex(crypto.sha256(ARCHIVE)),
  signer = {
    seed = crypto.hex(crypto.sha256("atelier vectors: signing key")),
    public = crypto.base64_encode(SIGNER:public()), id = crypto.hex(header.signer_id(SIGNER:public())),
  },
  licences = {
    { master = crypto.hex(MASTER), device_id = DEVICE_ID, licence = KEY },
    { master = crypto.hex(MASTER), device_id = OTHER_ID, licence = licence.key(MASTER, OTHER_ID) },
  },
  files = files,
  refused = refused(),
}, { indent = 2 }) .. "\n")
