--- Writes ZIP archives without judging them: any name, any attribute, any size it is told to claim.
local zip = require "atelier.zip"

local M = {}

local REGULAR = 0x81a4 -- a file, rw-r--r--

local function crc32(data) return zip.deflate(data):crc32() end

-- Fields from the compression method on that both headers share.
local function common(e)
  return ("<I2I2I2I4I4I4I2I2"):pack(e.method, 0, 0x21, e.crc, e.packed, e.size, #e.name, 0)
end

--- Builds an archive.
-- @tparam table entries list of `{name=, data="", mode=unix mode, size=claimed, method=0|8, made_by=3}`
-- @treturn string bytes
function M.build(entries)
  local parts, directory, offset = {}, {}, 0
  for _, given in ipairs(entries) do
    local data = given.data or ""
    local e = {
      name = given.name, method = given.method or 0, crc = given.crc or crc32(data), packed = #data,
      size = given.size or #data,
    }
    local header = ("<I4I2I2"):pack(0x04034b50, 20, 0x800) .. common(e) .. e.name
    parts[#parts + 1] = header .. data
    directory[#directory + 1] = ("<I4BBI2I2"):pack(0x02014b50, 20, given.made_by or 3, 20, 0x800) .. common(e)
      .. ("<I2I2I2I4I4"):pack(0, 0, 0, (given.mode or REGULAR) << 16, offset) .. e.name
    offset = offset + #header + #data
  end
  local listing = table.concat(directory)
  local count = #entries
  parts[#parts + 1] = listing
  parts[#parts + 1] = ("<I4I2I2I2I2I4I4I2"):pack(0x06054b50, 0, 0, count, count, #listing, offset, 0)
  return table.concat(parts)
end

return M
