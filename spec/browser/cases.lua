--- Files for the opener in the browser, each with what the program itself says of it: the published vectors and their
-- refusals, metadata that nobody would write, archives that nobody would pack, the WinZip form.
-- @module spec.browser.cases
local crypto = require "atelier.crypto"
local forge = require "spec.ate.support.forge"
local json = require "atelier.json"
local open = require "ate.open"
local rawzip = require "spec.ate.support.rawzip"
local tmp = require "spec.ate.support.tmp"
local winzip = require "ate.winzip"
local zip = require "atelier.zip"

local M = {}

local VECTORS = "spec/ate/vectors"
local SYMLINK, FIFO = 0xa1ff, 0x11a4

local function warned(result, code)
  for _, warning in ipairs(result.warnings) do
    if warning.code == code then return true end
  end
  return false
end

-- Asks the program; the browser has to come to the same.
local function case(self, what, bytes, device, licence, signer)
  local path = tmp.write(self.folder .. "/case.ate", bytes)
  local trusted = { [crypto.sha256(signer):sub(1, 8)] = signer }
  local result, _, code = open.open(path, { device_hash = device, licence = licence, trusted = trusted })
  local wanted = { code = code or "ok" }
  if result then
    wanted.expired = warned(result, "expired")
    wanted.signature = warned(result, "unknown_signer") and "unknown_signer" or "good"
    wanted.entries = #result.entries
  end
  what = what:gsub("[^\32-\126]", "?")
  self.list[#self.list + 1] = { what = what, file = crypto.base64_encode(bytes), device = device, licence = licence,
    wanted = wanted, signers = json.array {
      { id = crypto.hex(crypto.sha256(signer):sub(1, 8)), public = crypto.base64_encode(signer) } } }
end

local function changed(one)
  local bytes = tmp.read(VECTORS .. "/" .. one.file)
  if one.keep then bytes = bytes:sub(1, one.keep < 0 and one.keep - 1 or one.keep) end
  if one.set then
    local at, set = one.offset < 0 and #bytes + one.offset or one.offset, crypto.unhex(one.set)
    bytes = bytes:sub(1, at) .. set .. bytes:sub(at + #set + 1)
  end
  return bytes .. crypto.unhex(one.append or "")
end

local function add_vectors(self)
  local vectors = assert(json.decode(tmp.read(VECTORS .. "/vectors.json")))
  local signer, stranger = crypto.base64_decode(vectors.signer.public), crypto.signing_key():public()
  for _, one in ipairs(vectors.files) do
    local bytes = tmp.read(VECTORS .. "/" .. one.file)
    case(self, one.what, bytes, one.device_hash, one.licence, signer)
    case(self, one.what .. ", a careless key", bytes, one.device_hash, one.licence:lower():gsub("-", ""), signer)
    case(self, one.what .. ", signed by a stranger", bytes, one.device_hash, one.licence, stranger)
  end
  for _, one in ipairs(vectors.refused) do
    -- A signer whom nobody knows is no refusal when a file is only opened.
    case(self, one.what, changed(one), one.device_hash, one.licence, signer)
  end
end

local METADATA = {
  generation = { "0", "1.5", '"1"', "null" }, tools = { '"timeline"', "[1]", "null", "{}" }, plan = { "1", "null" },
  expires_at = { '"2025-01-01"', '"2025-02-30T00:00:00Z"', '"2025-01-01T00:00:00+00:00"', "5" },
  issued_at = { "null", '"2025-01-01T24:00:00Z"', '"2024-02-29T23:59:59Z"', '"2023-02-29T00:00:00Z"' },
}

local function add_metadata(self, archive)
  local function add(what, text)
    case(self, what, forge.file { archive = archive, text = text }, forge.DEVICE, forge.LICENCE, forge.signer:public())
  end
  for key, values in pairs(METADATA) do
    add("without " .. key, forge.metadata(key))
    for _, value in ipairs(values) do add(key .. " " .. value, forge.metadata(key, value)) end
  end
  add("a key twice", (forge.METADATA:gsub("}$", ',"plan":"max"}')))
  add("a key twice, once escaped", (forge.METADATA:gsub("}$", ',"pl\\u0061n":"max"}')))
  add("a key twice, further inside", (forge.METADATA:gsub("}$", ',"x":[{"a":1,"a":2}]}')))
  add("a value like a key", (forge.METADATA:gsub("}$", ',"x":["plan","plan",{"plan":"plan"}]}')))
  add("further keys", (forge.METADATA:gsub("}$", ',"x":{"y":[1,{"z":null}]}}')))
  for _, text in ipairs { "", "null", "[]", "{", forge.METADATA .. "x", "\239\187\191" .. forge.METADATA,
    (forge.METADATA:gsub("pro", "\255")), (forge.METADATA:gsub("pro", "\n")) } do
    add("metadata " .. json.encode(text:gsub("[\128-\255]", "?"):sub(1, 20)), text)
  end
end

local function archives()
  local list = {}
  local function add(what, entries)
    list[#list + 1] = { "archive: " .. what, type(entries) == "string" and entries or rawzip.build(entries) }
  end
  for _, name in ipairs { "../x", "a/../../x", "/x", "a//x", "./x", "..", ".", "", "a/..", "x\0y", "a\\b", "C:\\x", "\255",
    "a\nb" } do
    add(("name %q"):format(name), { { name = "main.lua", data = "x" }, { name = name, data = "x" } })
  end
  for _, pair in ipairs { { "a", "a" }, { "a", "A" }, { "a", "a/b" }, { "a/b", "a" }, { "ä", "Ä" } } do
    add(table.concat(pair, " and "), { { name = pair[1], data = "x" }, { name = pair[2], data = "y" } })
  end
  add("a symbolic link", { { name = "main.lua", data = "/etc/passwd", mode = SYMLINK } })
  add("a pipe", { { name = "main.lua", data = "", mode = FIFO } })
  add("another CRC", { { name = "main.lua", data = "print(1)\n", crc = 5 } })
  add("another size", { { name = "main.lua", data = "print(1)\n", size = 8 } })
  add("not deflated", { { name = "main.lua", data = "not deflated", method = 8, size = 100 } })
  add("no archive", ("x"):rep(1000))
  local good = rawzip.build { { name = "main.lua", data = "print(1)\n" } }
  add("something behind", good .. "x")
  add("something before", "x" .. good)
  add("cut", good:sub(1, -2))
  add("nothing", "PK\5\6" .. ("\0"):rep(18))
  local w = zip.writer()
  assert(w:add_deflated("bomb", zip.deflate(("\0"):rep(8 << 20))))
  add("a bomb", (assert(w:close())))
  local many = {}
  for i = 1, 10001 do many[i] = { name = "f" .. i } end
  add("too many", many)
  return list
end

local function add_winzip(self, archive)
  local sealed = table.concat(assert(winzip.seal { archive = archive, licence = forge.LICENCE }).parts)
  local function add(what, bytes, licence)
    case(self, "WinZip: " .. what, bytes, forge.DEVICE, licence or forge.LICENCE, forge.signer:public())
  end
  add("good", sealed)
  add("another key", sealed, "ZZZZZ-56789-ABCDE-FGHJK-MNPQR")
  local at = sealed:find("PK\1\2", 1, true) - 12 -- in the last entry's authentication code
  add("changed", sealed:sub(1, at - 1) .. string.char(sealed:byte(at) ~ 1) .. sealed:sub(at + 1))
  add("an ordinary ZIP", archive)
end

--- All of them: `{what, file, device, licence, signers, wanted = {code, expired, signature, entries}}`.
function M.all()
  local self = { folder = tmp.folder(), list = json.array {} }
  local w = zip.writer()
  assert(w:add("main.lua", "print(1)\n"))
  assert(w:add("images/a.png", ("\137PNG"):rep(1000)))
  local archive = assert(w:close())
  add_vectors(self)
  add_metadata(self, archive)
  for _, one in ipairs(archives()) do
    case(self, one[1], forge.file { archive = one[2] }, forge.DEVICE, forge.LICENCE, forge.signer:public())
  end
  add_winzip(self, archive)
  tmp.clean()
  return self.list
end

return M
