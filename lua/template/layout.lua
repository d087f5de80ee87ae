--- An archive that is not made, but laid out: a small one in memory and large files beside it as the parts, in order,
-- of one ZIP file, so that who seals it reads each file once and nothing is written twice.
--
-- Large files stand behind the others, stored as they are, and their checksums are known; all times are those that
-- `atelier.zip` gives. Sizes of 4 GiB and more are written as Zip64 (APPNOTE 4.5.3, 4.3.14, 4.3.15). Knows no template.
-- @module template.layout
local M = {}

local LOCAL <const> = "<I4I2I2I2I2I2I4I4I4I2I2"
local CENTRAL <const> = "<I4I2I2I2I2I2I2I4I4I4I2I2I2I2I2I4I4"
local END <const> = "<I4I2I2I2I2I4I4I2"
local END64 <const> = "<I4I8I2I2I4I4I8I8I8I8"
local LOCATOR <const> = "<I4I4I8I4"
local FULL <const> = 0xffffffff -- the real one is in a field of 8 bytes
local END_SIZE <const> = 22

local UTF8 <const> = 0x0800
local MIDNIGHT <const>, NEW_YEAR_1980 <const> = 0, 33
local UNIX <const> = 3 << 8
local REGULAR_FILE <const> = tonumber("100644", 8) << 16
local PLAIN <const>, ZIP64 <const> = 20, 45 -- versions needed

-- Where the directory of an archive without a comment begins, what is in it, and of how many entries.
local function directory_of(archive)
  local signature, _, _, _, count, size, offset = END:unpack(archive, #archive - END_SIZE + 1)
  assert(signature == 0x06054b50 and offset + size + END_SIZE == #archive, "not an archive of atelier.zip")
  return archive:sub(offset + 1, offset + size), offset, count
end

local function local_header(file)
  local extra, size = "", file.size
  if size >= FULL then
    extra, size = ("<I2I2I8I8"):pack(1, 16, file.size, file.size), FULL
  end
  return LOCAL:pack(0x04034b50, extra == "" and PLAIN or ZIP64, UTF8, 0, MIDNIGHT, NEW_YEAR_1980, file.crc32, size,
    size, #file.name, #extra) .. file.name .. extra
end

local function central_header(file, offset)
  local fields, size, at = "", file.size, offset
  if size >= FULL then
    fields, size = ("<I8I8"):pack(file.size, file.size), FULL
  end
  if at >= FULL then
    fields, at = fields .. ("<I8"):pack(offset), FULL
  end
  local extra = fields == "" and "" or ("<I2I2"):pack(1, #fields) .. fields
  local needed = extra == "" and PLAIN or ZIP64
  return CENTRAL:pack(0x02014b50, UNIX | needed, needed, UTF8, 0, MIDNIGHT, NEW_YEAR_1980, file.crc32, size, size,
    #file.name, #extra, 0, 0, 0, REGULAR_FILE, at) .. file.name .. extra
end

local function ending(count, size, offset)
  local text = ""
  if offset >= FULL or count >= 0xffff then
    text = END64:pack(0x06064b50, 44, UNIX | ZIP64, ZIP64, 0, 0, count, count, size, offset)
      .. LOCATOR:pack(0x07064b50, 0, offset + size, 1)
  end
  local few = math.min(count, 0xffff)
  return text .. END:pack(0x06054b50, 0, 0, few, few, size, math.min(offset, FULL), 0)
end

--- Lays an archive out.
-- @tparam string archive what `atelier.zip` made of the small files
-- @tparam {table,...} files large ones: name, path, size, crc32
-- @treturn {string|table,...} parts in their order; a large file's is the table given
-- @treturn integer size of all together
function M.parts(archive, files)
  local directory, at, count = directory_of(archive)
  local parts, central, offset = { archive:sub(1, at) }, { directory }, at
  for _, file in ipairs(files) do
    local head = local_header(file)
    central[#central + 1] = central_header(file, offset)
    table.insert(parts, head)
    table.insert(parts, file)
    offset = offset + #head + file.size
  end
  local text = table.concat(central)
  parts[#parts + 1] = text .. ending(count + #files, #text, offset)
  return parts, offset + #parts[#parts]
end

return M
