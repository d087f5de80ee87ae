--- Sealing: an archive becomes an `.ate` file that one device opens with its licence key.
-- Small archives are sealed in memory in one pass, large ones from file to file in constant memory.
-- Must not know how archives are made or where sealed files are kept.
local args = require "ate.args"
local crypto = require "atelier.crypto"
local files = require "ate.files"
local header = require "ate.header"
local licence = require "ate.licence"
local metadata = require "ate.metadata"

local M = {}

local DEVICE = "^[A-Za-z0-9_-][A-Za-z0-9._-]*$"

local function wrap(operation, object, reason, code)
  return nil, ("%s: %s: %s"):format(operation, object, reason), code
end

-- Everything that is settled before the first byte of the archive is encrypted.
local function prepare(options, archive_size)
  local bare, reason, code = licence.normalise(options.licence)
  if not bare then return nil, reason, code end
  if #options.device_hash > 128 or not options.device_hash:find(DEVICE) then
    return nil, "not a device hash", "bad_device"
  end
  if archive_size < header.MIN_ARCHIVE or archive_size > header.MAX_ARCHIVE then
    return nil, ("%d bytes are no archive"):format(archive_size), "bad_archive"
  end
  local text
  text, reason = metadata.encode(options.metadata)
  if not text then return nil, reason, "bad_header" end
  local length = header.FIXED + #text
  if length > header.MAX_LENGTH then return nil, ("metadata has %d bytes"):format(#text), "bad_header" end

  local salt, nonce = options.salt or crypto.random(32), options.nonce or crypto.random(12)
  local key = header.derive(bare, options.device_hash, salt)
  local commitment = crypto.sha256(key)
  local signer_id = options.signer and header.signer_id(options.signer:public()) or header.UNSIGNED
  local fixed = header.encode {
    signed = options.signer ~= nil, length = length, signer_id = signer_id, salt = salt, nonce = nonce,
    commitment = commitment, archive_size = archive_size,
  }
  return { key = key, nonce = nonce, head = fixed .. text, commitment = crypto.hex(commitment) }
end

-- One pass of SHA-256 serves both the signature (up to the tag) and the checksum (to the end).
local function finish(hash, tag, signer)
  hash:update(tag)
  if not signer then return "", crypto.hex(hash:digest()) end
  local signature = signer:sign(header.signed_message(hash:copy():digest()))
  hash:update(signature)
  return signature, crypto.hex(hash:digest())
end

local COMMON = {
  licence = "string", device_hash = "string", metadata = "table", signer = "userdata nil", salt = "string nil",
  nonce = "string nil",
}

local function check(options, spec)
  args.check(options, spec, "seal", 1)
  if #(options.salt or ("s"):rep(32)) ~= 32 then error("seal: option 'salt' must have 32 bytes", 3) end
  if #(options.nonce or ("n"):rep(12)) ~= 12 then error("seal: option 'nonce' must have 12 bytes", 3) end
end

local function with(extra)
  local spec = {}
  for key, types in pairs(COMMON) do spec[key] = types end
  for key, types in pairs(extra) do spec[key] = types end
  return spec
end

local IN_MEMORY = with { archive = "string" }
local FROM_FILE = with { archive_path = "string", path = "string" }
local FROM_PARTS = with { parts = "table", archive_size = "number", path = "string", fleeting = "boolean nil",
  growing = "function nil" }

--- Seals an archive in memory.
-- @tparam table options `archive` (bytes), `licence`, `device_hash`, `metadata`, `signer` (a signing key, optional);
-- `salt` and `nonce` are for published vectors only: a repeated pair breaks the encryption
-- @treturn[1] table `{parts, size, checksum, encryption_key_hash}`: the file is the concatenation of the parts
-- @return[2] nil
-- @treturn[2] string message
-- @treturn[2] string "bad_licence", "bad_device", "bad_archive" or "bad_header"
function M.seal(options)
  check(options, IN_MEMORY)
  local p, reason, code = prepare(options, #options.archive)
  if not p then return wrap("seal", options.device_hash, reason, code) end
  local ciphertext, tag
  ciphertext, tag, code = crypto.gcm_seal(p.key, p.nonce, p.head, options.archive)
  p.key:close()
  if not ciphertext then return wrap("seal", options.device_hash, tag, code) end
  local hash = crypto.hash()
  hash:update(p.head, ciphertext)
  local signature, checksum = finish(hash, tag, options.signer)
  return {
    parts = { p.head, ciphertext, tag .. signature }, checksum = checksum, encryption_key_hash = p.commitment,
    size = #p.head + #ciphertext + #tag + #signature,
  }
end

local function stream(p, source, archive_size, signer, target, extra, settle)
  local hash = crypto.hash()
  hash:update(p.head)
  local ok, message, number = target:write(p.head)
  if not ok then return files.failure(ok, message, number) end
  extra.hash = hash
  local tag, count, code = crypto.gcm_seal_file(p.key, p.nonce, p.head, source, target, extra)
  p.key:close()
  if not tag then return nil, count, code == "truncated" and "bad_archive" or code end -- it shrank meanwhile
  if settle then
    ok, message, code = settle()
    if not ok then return nil, message, code end
  end
  local signature
  signature, p.checksum = finish(hash, tag, signer)
  p.size = #p.head + archive_size + #tag + #signature
  ok, message, number = target:write(tag, signature)
  if not ok then return files.failure(ok, message, number) end
  return true
end

--- Seals an archive file into a file, durably, whole or not at all, in constant memory.
-- @tparam table options as for `seal`, with `archive_path` for `archive`, and `path`, the file to write or replace
-- @treturn[1] table `{size, checksum, encryption_key_hash}`
-- @return[2] nil
-- @treturn[2] string message
-- @treturn[2] string as for `seal`, or an errno symbol
function M.seal_file(options)
  check(options, FROM_FILE)
  local source <close>, info, missing = files.open_read(options.archive_path)
  if not source then
    return wrap("seal", options.archive_path, info, missing == "irregular" and "bad_archive" or missing)
  end
  local p, reason, code = prepare(options, info.st_size)
  if not p then return wrap("seal", options.archive_path, reason, code) end
  local ok
  ok, reason, code = files.write(options.path, function(target)
    return stream(p, source, info.st_size, options.signer, target, { length = info.st_size })
  end)
  if not ok then return wrap("seal", options.path, reason, code) end
  return { size = p.size, checksum = p.checksum, encryption_key_hash = p.commitment }
end

-- The parts as `gcm_seal_file` takes them, and the files that were opened for that.
local function open_parts(parts)
  local sources, opened = {}, {}
  for i, part in ipairs(parts) do
    sources[i] = part
    if type(part) == "table" then
      local file, reason, code = files.open_read(part.path)
      if not file then return nil, part.path .. ": " .. reason, code, opened end
      sources[i] = { file, part.size }
      opened[#opened + 1] = file
    end
  end
  return sources, nil, nil, opened
end

--- The size that a sealed file will have.
-- @tparam table options as of `seal_parts`
-- @treturn[1] integer bytes
-- @return[2] nil
-- @treturn[2] string message
-- @treturn[2] string code "bad_header"
function M.size(options)
  local text, reason = metadata.encode(options.metadata)
  if not text then return wrap("seal", options.path, reason, "bad_header") end
  return header.FIXED + #text + options.archive_size + header.TAG + (options.signer and header.SIGNATURE or 0)
end

--- Seals an archive that was laid out into a file, whole or not at all, in constant memory: each byte is read once.
-- @tparam table options as for `seal_file`, with `parts`, in their order strings and tables of `path` and `size`, and
-- `archive_size`, that of all together, for `archive_path`; `fleeting`: the file need not survive a crash; `growing`:
-- it is there, empty, and read by others: a function → true | nil, reason, code, asked before the file's end is written
-- @treturn[1] table as of `seal_file`
-- @return[2] nil
-- @treturn[2] string message
-- @treturn[2] string as for `seal_file`
function M.seal_parts(options)
  check(options, FROM_PARTS)
  local p, reason, code = prepare(options, options.archive_size)
  if not p then return wrap("seal", options.path, reason, code) end
  local sources, opened, ok
  sources, reason, code, opened = open_parts(options.parts)
  if sources then
    ok, reason, code = (options.growing and files.grow or files.write)(options.path, function(target)
      return stream(p, sources, options.archive_size, options.signer, target,
        { write_back = not (options.fleeting or options.growing) }, options.growing)
    end, { fleeting = options.fleeting })
  end
  for _, file in ipairs(opened) do file:close() end
  if not sources and options.growing then os.remove(options.path) end
  if not ok then return wrap("seal", options.path, reason, code) end
  return { size = p.size, checksum = p.checksum, encryption_key_hash = p.commitment }
end

return M
