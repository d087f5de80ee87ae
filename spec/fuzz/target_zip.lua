--- Oracle of zip.open: an archive that is opened has only safe and distinct names, and each entry reads as many bytes as
-- its record says or is a fault; limits hold; no handle stays.
local input = require "spec.fuzz.input"
local zip = require "atelier.zip"

local finding = input.finding

local LIMITS <const> = { entries = 50, bytes = 1 << 20, ratio = 100, password = "p" }
local READ_CODES <const> = { bad_archive = true, wrong_password = true, no_password = true }

local function check_entry(reader, entry, seen)
  local name = entry.name
  if name:find("^/") or name:find("\\", 1, true) or name:find("%z") or name == "" or ("/" .. name .. "/"):find("/%.%.?/")
    or name:find("//", 1, true) or seen[name:lower()] then
    finding("a name that is not safe", name)
  end
  seen[name:lower()] = true
  local data, message, code = reader:read(name)
  if data and #data ~= entry.size then finding("another size", name, #data, entry.size) end
  if data and #data ~= 0 and entry.encryption == "none" and entry.crc32 ~= zip.deflate(data, { level = 1 }):crc32() then
    finding("another checksum", name)
  end
  if not data then
    if not READ_CODES[code] then finding("a strange code", message, code) end
    input.message(message:match("[^:]*$"))
  end
  return data and #data or 0
end

local function check(data)
  local reader <close>, message, code = zip.open({ data = data }, LIMITS)
  if not reader then
    if code ~= "bad_archive" then finding("a strange code", message, code) end
    return input.message(message:match("[^:]*$"))
  end
  local entries, seen, total = reader:entries(), {}, 0
  if #entries > LIMITS.entries then finding("too many entries", #entries) end
  for _, entry in ipairs(entries) do total = total + check_entry(reader, entry, seen) end
  if total > LIMITS.bytes then finding("too many bytes", total) end
  if reader:read("no such entry") then finding "read what is not there" end
end

return function(data)
  check(data)
  if zip.live_handles() > 0 then
    collectgarbage()
    if zip.live_handles() > 0 then finding "a handle stays" end
  end
end
