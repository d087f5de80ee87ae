--- Oracle of an `.ate` file: whoever changes a byte of a published vector is told so. Only the vectors themselves open,
-- only signed ones verify, and every refusal has a code of the format. An input that begins with \1 or \2 is sealed as
-- an archive or as metadata instead: behind a good tag, nothing but the contents decides.
local crypto = require "atelier.crypto"
local forge = require "spec.ate.support.forge"
local input = require "spec.fuzz.input"
local json = require "atelier.json"
local metadata = require "ate.metadata"
local open = require "ate.open"
local rawzip = require "spec.ate.support.rawzip"

local finding = input.finding

local FOLDER <const> = "spec/ate/vectors/"
local PATH <const> = "build/fuzz/ate-input" -- where run.sh keeps what it makes
local CODES = {}
for code in ("not_ate unsupported truncated trailing_data bad_header wrong_key tampered bad_signature unknown_signer "
  .. "bad_archive"):gmatch "%S+" do
  CODES[code] = true
end

local function slurp(path)
  local file <close> = assert(io.open(path, "rb"))
  return file:read "a"
end

local published = assert(json.decode(slurp(FOLDER .. "vectors.json")))
local vectors, trusted = {}, {}
for _, vector in ipairs(published.files) do vectors[slurp(FOLDER .. vector.file)] = vector end
do
  local public = assert(crypto.base64_decode(published.signer.public))
  trusted[crypto.sha256(public):sub(1, 8)] = public
end
local FIRST <const> = published.files[1]
local ARCHIVE <const> = rawzip.build { { name = "main.lua", data = "return 1" } }

local function check_refusal(message, code)
  if not CODES[code] then finding("a strange code", message, code) end
  input.message((message:gsub(PATH, "", 1, true)))
end

local function write(data)
  local file = assert(io.open(PATH, "wb"))
  file:write(data)
  file:close()
end

local SEALED <const> = {
  ["\1"] = function(data) return { archive = #data < 22 and ARCHIVE or data, signer = false } end,
  ["\2"] = function(data) return { archive = ARCHIVE, text = data, signer = false } end,
}
local SEALED_CODES <const> = { ["\1"] = "bad_archive", ["\2"] = "bad_header" }

local function check_sealed(kind, data)
  local parts = SEALED[kind](data)
  write(forge.file(parts))
  local opened, message, code = open.open(PATH, { device_hash = forge.DEVICE, licence = forge.LICENCE, trusted = trusted, now = 0 })
  if not opened then
    if code ~= SEALED_CODES[kind] then finding("a strange code", message, code) end
    return input.message((message:match("[^:]*$")))
  end
  if kind == "\2" then
    local value = assert(json.decode(data))
    if not metadata.check(value) or json.encode(value) ~= json.encode(opened.metadata) then finding("other metadata", data) end
  end
  if opened.warnings[1].code ~= "unknown_signer" then finding "no warning of a file that nobody signed" end
end

return function(data)
  local kind = data:sub(1, 1)
  if SEALED[kind] then return check_sealed(kind, data:sub(2)) end
  write(data)
  local vector = vectors[data]
  local seen, message, code = open.inspect(PATH)
  if not seen then check_refusal(message, code) end
  local verified, why, fault = open.verify(PATH, { trusted = trusted, now = 0 })
  if verified and not (vector and vector.signed) then finding("verified what was never signed", data) end
  if not verified then check_refusal(why, fault) end
  local device = vector or FIRST
  local opened
  opened, message, code = open.open(PATH, { device_hash = device.device_hash, licence = device.licence, trusted = trusted, now = 0 })
  if opened and not vector then finding("opened what was never sealed", data) end
  if not opened then
    check_refusal(message, code)
    if vector then finding("refused a vector: " .. message, vector.file) end
  end
end
