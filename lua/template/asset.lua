--- The large files of a kit: read from the disk for each bundle, and still those that the template was read with.
-- @module template.asset
local stat = require "posix.sys.stat"
local zip = require "atelier.zip"

local M = {}

--- Told of a file that is not what it was.
M.CHANGED = ": changed on the disk since the template was read"

--- Whether the file of an entry is still what was read and hashed.
-- @tparam table entry of a kit
-- @treturn[1] boolean true
-- @return[2] nil
-- @treturn[2] string diagnosis
-- @treturn[2] string "template_version": what is read anew may be as it was published
function M.unchanged(entry)
  local info = stat.lstat(entry.path)
  local file = entry.file
  if info and info.st_size == file.size and info.st_mtime == file.mtime
    and (not file.inode or info.st_ino == file.inode and info.st_ctime == file.ctime) then return true end
  return nil, entry.name .. M.CHANGED, "template_version"
end

--- The same for all entries that have one.
-- @tparam {table,...} entries
-- @return as of `unchanged`
function M.all_unchanged(entries)
  for _, entry in ipairs(entries) do
    if entry.path then
      local ok, message, code = M.unchanged(entry)
      if not ok then return nil, message, code end
    end
  end
  return true
end

--- The files as an archive needs to know them. Their checksums are worked out once, not for each bundle.
-- @tparam {table,...} entries
-- @treturn[1] {table,...} name, path, size, crc32
-- @return[2] nil
-- @treturn[2] string diagnosis
-- @treturn[2] string "template_version", or an errno symbol
function M.list(entries)
  local list = {}
  for _, entry in ipairs(entries) do
    if entry.path then
      local file, message, code = entry.file, nil, nil
      if not file.crc32 then
        file.crc32, message, code = zip.crc32_file(entry.path)
      end
      -- A disk or a process out of order is not the template's fault: another attempt may do better.
      if not file.crc32 then return nil, message, code == "ENOENT" and "template_version" or code end
      list[#list + 1] = { name = entry.name, path = entry.path, size = file.size, crc32 = file.crc32 }
    end
  end
  return list
end

return M
