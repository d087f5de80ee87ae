--- Opening: the checks of an `.ate` file, in the order that the format prescribes, and its contents once all of them
-- hold. Works on any machine: knows no database, no storage, no key ring. Reads `winzip-aes256` containers too.
--
-- No plaintext leaves this module before tag and signature are verified. Small files are decrypted in memory, larger
-- ones into scratch space without a name, in constant memory.
local args = require "ate.args"
local crypto = require "atelier.crypto"
local files = require "ate.files"
local header = require "ate.header"
local json = require "atelier.json"
local licence = require "ate.licence"
local metadata = require "ate.metadata"
local trust = require "ate.trust"
local unpack_into = require "ate.unpack"
local winzip = require "ate.winzip"
local zip = require "atelier.zip"

local M = {}

local IN_MEMORY = 8 << 20
local CHUNK = 1 << 20
local LIMIT = 1 << 30 -- bytes of all files inside, or twice those of a file that is larger itself
local FORM = "ate1"

-- ==== the head: what can be read without a key ====

local function read_head(file, size)
  local fixed = file:read(header.FIXED) or ""
  local head, reason, code = header.decode(fixed, size)
  if not head then return nil, reason, code end
  local text = file:read(head.length - header.FIXED) or ""
  if header.FIXED + #text < head.length then return nil, "ends within the metadata", "truncated" end
  head.metadata, reason = metadata.decode(text)
  if not head.metadata then return nil, reason, "bad_header" end
  head.bytes = fixed .. text
  return head
end

-- Opens the file and tells its form. `subject` is what the checks pass along.
local function start(path)
  local file, info, code = files.open_read(path)
  if not file then return nil, info, code == "irregular" and "not_ate" or code end
  local magic = file:read(4) or ""
  file:seek("set", 0)
  local subject = { file = file, path = path, size = info.st_size, form = FORM }
  if magic:find("^PK[\3\5]") then
    subject.form = winzip.NAME
    return subject
  end
  local head, reason
  head, reason, code = read_head(file, info.st_size)
  if head then
    subject.head = head
    return subject
  end
  file:close()
  return nil, reason, code
end

-- ==== what follows the ciphertext ====

local function check_expiry(head, now, result)
  local expires_at = head.metadata.expires_at
  if type(expires_at) == "string" and expires_at <= metadata.time(now) then
    trust.warn(result, "expired", "expired at " .. expires_at)
  end
end

-- The tag has been hashed already; the signature ends the file.
local function finish(subject, hash, trusted, now, result)
  local digest = hash:copy():digest()
  local signature = subject.head.signed and subject.file:read(header.SIGNATURE) or ""
  hash:update(signature)
  result.checksum = crypto.hex(hash:digest())
  local ok, reason, code = trust.check(trusted, subject.head, digest, signature, result)
  if not ok then return nil, reason, code end
  check_expiry(subject.head, now, result)
  return true
end

-- ==== contents ====

local function derive(head, options)
  local bare = licence.normalise(options.licence)
  local key = bare and #options.device_hash <= 65535 and header.derive(bare, options.device_hash, head.salt)
  if key and crypto.equal(crypto.sha256(key), head.commitment) then return key end
  return nil, "the licence key or the device differs", "wrong_key"
end

local CHANGED = "its bytes are not those that were sealed"

local function decrypt_in_memory(subject, key, hash)
  local head = subject.head
  local ciphertext = subject.file:read(head.archive_size) or ""
  local tag = subject.file:read(header.TAG) or ""
  if #ciphertext < head.archive_size or #tag < header.TAG then return nil, "became shorter meanwhile", "truncated" end
  hash:update(ciphertext, tag)
  local data, reason, code = crypto.gcm_open(key, head.nonce, head.bytes, ciphertext, tag)
  if not data then return nil, code == "tampered" and CHANGED or reason, code end
  return { data = data }
end

-- Which folder is missing or full is not seen on the command line.
local function no_scratch(reason, code)
  return nil, ("scratch space in %s (TMPDIR): %s"):format(files.scratch_folder(), reason), code
end

local function decrypt_to_scratch(subject, key, hash)
  local file, head = subject.file, subject.head
  file:seek("set", head.length + head.archive_size)
  local tag = file:read(header.TAG) or ""
  if #tag < header.TAG then return nil, "became shorter meanwhile", "truncated" end
  file:seek("set", head.length)
  local scratch, reason, code = files.scratch()
  if not scratch then return no_scratch(reason, code) end
  subject.scratch = scratch
  local count
  count, reason, code = crypto.gcm_open_file(key, head.nonce, head.bytes, file, scratch, tag,
    { length = head.archive_size, hash = hash })
  local target = not count and reason:match "^gcm_open_file: target: (.*)$"
  if target then return no_scratch(target, code) end
  if not count then return nil, code == "tampered" and CHANGED or reason, code end
  hash:update(tag)
  file:seek("set", head.length + head.archive_size + header.TAG)
  scratch:seek("set", 0)
  return { file = scratch }
end

local function decrypt(subject, options, trusted, result)
  local key <close>, reason, code = derive(subject.head, options)
  if not key then return nil, reason, code end
  local hash = crypto.hash()
  hash:update(subject.head.bytes)
  local step = subject.size <= IN_MEMORY and decrypt_in_memory or decrypt_to_scratch
  local source
  source, reason, code = step(subject, key, hash)
  if not source then return nil, reason, code end
  local ok
  ok, reason, code = finish(subject, hash, trusted, options.now, result)
  if not ok then return nil, reason, code end
  return source
end

-- What is in a large file is large: media, which no archive makes much smaller. A bomb would be out of proportion.
local function zip_options(subject, options, password)
  local limits = options.limits or {}
  return { entries = limits.entries, bytes = limits.bytes or math.max(LIMIT, 2 * subject.size), ratio = limits.ratio,
    password = password }
end

-- The archive behind a source, as its reader sees it. Messages of the reader begin with what it was doing.
local function open_archive(subject, source, options, password)
  local reader, message, code = zip.open(source, zip_options(subject, options, password))
  if not reader then return nil, message:gsub("^%l+: ", "", 1), code end
  return reader
end

local function contents(reader, options, result)
  result.entries = unpack_into.entries(reader)
  local ok, reason, code
  if options.extract then
    ok, reason, code = unpack_into.extract(reader, options.extract)
  else
    ok, reason, code = unpack_into.check(reader)
  end
  if not ok then return nil, reason:gsub("^extract: ", "", 1), code end
  return true
end

local function open_ate(subject, options, trusted, result)
  local source, reason, code = decrypt(subject, options, trusted, result)
  if not source then return nil, reason, code end
  local reader <close>, message, fault = open_archive(subject, source, options)
  if not reader then return nil, message, fault end
  local ok
  ok, message, fault = contents(reader, options, result)
  -- An entry with a password of its own: nobody has it, and the format does not know such entries.
  if fault == "no_password" then fault = "bad_archive" end
  return ok, message, fault
end

-- ==== the other form ====

local function open_winzip(subject, options, trusted, result)
  local bare = licence.normalise(options.licence)
  local password = licence.format(bare or "-")
  local reader <close>, reason, code = open_archive(subject, { file = subject.file }, options, password)
  if not reader then return nil, reason, code end
  local ok
  ok, reason, code = winzip.check(reader:entries())
  if not ok then return nil, reason, code end
  if not bare then return nil, "the licence key differs", "wrong_key" end
  ok, reason, code = unpack_into.check(reader)
  if not ok then return nil, winzip.fault(reason, code) end
  ok, reason, code = trust.unknown(trusted, "is not signed", result)
  if ok then ok, reason, code = contents(reader, options, result) end
  if not ok then return nil, reason, code end
  result.checksum = crypto.hex((crypto.sha256_file(subject.path)))
  return true
end

-- ==== what others call ====

local function describe(subject)
  local head = subject.head
  local result = { container = subject.form, size = subject.size, warnings = json.array {}, signed = false }
  if not head then return result end
  result.metadata, result.signed, result.archive_size = head.metadata, head.signed, head.archive_size
  result.signer_id = head.signed and crypto.hex(head.signer_id) or nil
  result.encryption_key_hash = crypto.hex(head.commitment)
  return result
end

-- Runs one operation on an opened file, closes what it opened, and gives its failures their form.
local function run(operation, path, step)
  local result
  local subject, reason, code = start(path)
  if subject then
    local held <close> = subject.file
    result = describe(subject)
    local ok
    ok, reason, code = step(subject, result)
    if subject.scratch then subject.scratch:close() end
    if ok then return result end
  end
  return nil, ("%s: %s: %s"):format(operation, path, reason), code
end

--- Reads the header only, without a key: what the file says of itself, nothing of it verified.
-- @tparam string path
-- @treturn[1] table `{container, size, signed, signer_id, archive_size, encryption_key_hash, metadata}`
-- @return[2] nil
-- @treturn[2] string message
-- @treturn[2] string code of the format, or an errno symbol
function M.inspect(path)
  return run("inspect", path, function() return true end)
end

local VERIFY = { signer = "string nil", trusted = "table nil", now = "number nil" }

--- Verifies structure and signature without a licence key. An unsigned file counts as one of an unknown signer.
-- @tparam string path
-- @tparam table options `signer` (a public key as `pubkey.parse` takes it) or `trusted` (8-byte signer id → its key);
-- `now` in seconds since 1970
-- @treturn[1] table as of `inspect`, with `signed_by`, `checksum` and `warnings`, a list of `{code, message}`
-- @return[2] nil
-- @treturn[2] string message
-- @treturn[2] string code of the format, "bad_key", or an errno symbol
function M.verify(path, options)
  options = args.check(options, VERIFY, "verify")
  local trusted, message, fault = trust.new(options, true)
  if not trusted then return nil, message, fault end
  return run("verify", path, function(subject, result)
    if not subject.head then return nil, "is not signed", "unknown_signer" end
    local hash = crypto.hash()
    hash:update(subject.head.bytes)
    local left = subject.head.archive_size + header.TAG
    while left > 0 do
      local piece = subject.file:read(math.min(left, CHUNK))
      if not piece then return nil, "became shorter meanwhile", "truncated" end
      hash:update(piece)
      left = left - #piece
    end
    return finish(subject, hash, trusted, options.now, result)
  end)
end

local OPEN = {
  device_hash = "string", licence = "string", signer = "string nil", trusted = "table nil", extract = "string nil",
  limits = "table nil", now = "number nil",
}

local LIMITS = { entries = "number nil", bytes = "number nil", ratio = "number nil" }

--- Opens a file for the device that it was sealed for, and unpacks it when asked to.
-- @tparam string path
-- @tparam table options `device_hash`, `licence`; `signer` and `trusted` as of `verify`: with `signer` a file of anyone
-- else is refused, else it is a warning; `extract`, a new or empty folder to fill; `limits`, `{entries, bytes, ratio}`
-- of the archive; `now`
-- @treturn[1] table as of `verify`, with `entries`, a list of `{name, size}`; no `metadata` in a `winzip-aes256`
-- @return[2] nil
-- @treturn[2] string message
-- @treturn[2] string code of the format, "bad_archive", "bad_key", or an errno symbol
function M.open(path, options)
  options = args.check(options, OPEN, "open")
  args.check(options.limits, LIMITS, "open")
  local trusted, message, fault = trust.new(options, false)
  if not trusted then return nil, message, fault end
  return run("open", path, function(subject, result)
    local step = subject.head and open_ate or open_winzip
    return step(subject, options, trusted, result)
  end)
end

return M
