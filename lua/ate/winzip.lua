--- The other container, `winzip-aes256`: a plain ZIP whose entries are WinZip AES-256, as AutoTouch imports it.
-- The password is the licence key as shown, with dashes. Weaker than `.ate`: names and sizes are visible, nothing binds
-- the device or the order of entries, the key comes from SHA-1 PBKDF2, and nobody signs it.
local args = require "ate.args"
local crypto = require "atelier.crypto"
local files = require "ate.files"
local licence = require "ate.licence"
local zip = require "atelier.zip"

local M = {}

M.NAME = "winzip-aes256"

local ENCRYPTION = "aes-256"

--- Whether entries are those of this form: all of them encrypted the one way.
-- @tparam table entries what the reader lists
-- @treturn[1] boolean true
-- @return[2] nil
-- @treturn[2] string reason
-- @treturn[2] string "not_ate" when none is encrypted so, "tampered" when only some are
function M.check(entries)
  local count = 0
  for _, entry in ipairs(entries) do
    if entry.encryption == ENCRYPTION then count = count + 1 end
  end
  if count == 0 then return nil, "a ZIP without WinZip AES-256 entries", "not_ate" end
  if count < #entries then return nil, "has entries that are not encrypted", "tampered" end
  return true
end

--- Names the fault of an entry in the words of the format: what a wrong key does not explain, a changed byte does.
-- @tparam string reason
-- @tparam string code
-- @treturn string reason
-- @treturn string code
function M.fault(reason, code)
  if code == "wrong_password" then return "the licence key differs", "wrong_key" end
  reason = reason:gsub("^extract: ", "", 1)
  return reason, code == "bad_archive" and "tampered" or code
end

local function wrap(object, reason, code)
  return nil, ("seal: %s: %s"):format(object, reason), code
end

-- The writer reads its entries when it is closed. So many bytes of them wait in memory; the rest wait in scratch space
-- that nobody else can open.
local IN_MEMORY = 16 << 20

local function add(writer, reader, entry, options, room)
  if entry.size <= room then
    local data, reason, code = reader:read(entry.name)
    if not data then return nil, reason, code end
    return writer:add(entry.name, data, options)
  end
  local scratch <close>, reason, code = files.scratch()
  if not scratch then return nil, reason, code end
  local count
  count, reason, code = reader:extract(entry.name, scratch)
  if not count then return nil, reason, code end
  scratch:seek("set", 0)
  return writer:add_file(entry.name, scratch, options)
end

-- Adds every entry of `source` to a new archive, in memory or at `path`.
local function encrypt(source, path, bare)
  local reader <close>, reason, code = zip.open(source)
  if not reader then return nil, reason, code end
  local writer <close> = zip.writer(path)
  local room = IN_MEMORY
  for _, entry in ipairs(reader:entries()) do
    local options = { password = licence.format(bare), method = entry.method }
    local ok, why, symbol = add(writer, reader, entry, options, room)
    if not ok then return nil, why, symbol end
    if entry.size <= room then room = room - entry.size end
  end
  return writer:close()
end

--- Encrypts every entry of an archive.
-- @tparam table options `archive` (bytes), `licence`
-- @treturn[1] table `{parts, size, checksum, encryption_key_hash}`, as of `container.seal`
-- @return[2] nil
-- @treturn[2] string message
-- @treturn[2] string "bad_licence" or "bad_archive"
function M.seal(options)
  args.check(options, { archive = "string", licence = "string" }, "seal")
  local bare, message, code = licence.normalise(options.licence)
  if not bare then return nil, message, code end
  local bytes, reason, fault = encrypt({ data = options.archive }, nil, bare)
  if not bytes then return wrap(M.NAME, reason, fault) end
  return {
    parts = { bytes }, size = #bytes, checksum = crypto.hex(crypto.sha256(bytes)),
    encryption_key_hash = crypto.hex(crypto.sha256(bare)),
  }
end

--- Encrypts every entry of an archive file into a file, durably, whole or not at all, in constant memory. The file has
-- mode 0600.
-- @tparam table options `archive_path`, `path` (to write or replace), `licence`
-- @treturn[1] table `{size, checksum, encryption_key_hash}`
-- @return[2] nil
-- @treturn[2] string message
-- @treturn[2] string "bad_licence", "bad_archive" or an errno symbol
function M.seal_file(options)
  args.check(options, { archive_path = "string", path = "string", licence = "string" }, "seal")
  local bare, message, code = licence.normalise(options.licence)
  if not bare then return nil, message, code end
  local temporary = files.fresh_name(files.parent(options.path), "atelier")
  local ok, reason, fault = encrypt(options.archive_path, temporary, bare)
  if not ok then return wrap(options.archive_path, reason, fault) end
  local checksum, size = crypto.sha256_file(temporary)
  ok, reason, fault = files.publish(temporary, options.path)
  if not ok then return wrap(options.path, reason, fault) end
  return { size = size, checksum = crypto.hex(checksum), encryption_key_hash = crypto.hex(crypto.sha256(bare)) }
end

return M
