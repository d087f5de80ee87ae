--- The SQL files of a folder, in the order of their names, with their checksums.
-- @module migrate.files
local crypto = require "atelier.crypto"
local dirent = require "posix.dirent"

local M = {}

local function problem(format, ...)
  return nil, "migrate: " .. format:format(...), "migration"
end

-- Where this program's own files are.
local function default_dir()
  return require("atelier.host").root .. "/sql"
end

--- The line that ends a file and records it, wherever it is run (sql/10 has the function): by its edition, which tells
-- an older form of the file from a newer one, and the checksum of all before the line.
-- @tparam string name
-- @tparam integer edition
-- @tparam string checksum
-- @treturn string
function M.stamp(name, edition, checksum)
  return ("select public.record_ate_migration('%s', '%d %s');\n"):format(name, edition, checksum)
end

--- The edition that a record or a stamp begins with.
-- @tparam string record
-- @treturn integer 0 where it has none
function M.edition(record)
  return math.tointeger(tonumber(record:match "^(%d+) ")) or 0
end

--- The checksum of a file: of all but its stamp.
-- @tparam string text
-- @treturn string SHA-256 in hex
-- @treturn string the text without the stamp
-- @treturn ?string the stamp
-- @treturn ?string what the stamp records
function M.checksum(text)
  local body, stamp = text:match "^(.*\n)(select public%.record_ate_migration%([^\n]*%);\n)$"
  return crypto.hex(crypto.sha256(body or text)), body or text, stamp, stamp and stamp:match "'([^']*)'%);\n$"
end

local function read_file(dir, name)
  local file, message = io.open(dir .. "/" .. name, "rb")
  local text
  if file then
    text, message = file:read("a")
    file:close()
  end
  if not text then
    return problem("%s", message)
  end
  if text:find("\0", 1, true) or not utf8.len(text) then
    return problem("%s: not a UTF-8 text", name)
  end
  local sum, _, _, record = M.checksum(text)
  local edition = M.edition(record or "")
  return { name = name, text = text, checksum = edition > 0 and ("%d %s"):format(edition, sum) or sum }
end

--- Reads them all.
-- @tparam[opt] string dir this program's own files by default
-- @treturn[1] table list of `{name, text, checksum}`, which also has each file by its name; the checksum as it is
--   recorded, with the edition
-- @return[2] nil
-- @treturn[2] string message
-- @treturn[2] string "migration"
function M.read(dir)
  dir = dir or default_dir()
  local listed, names = pcall(dirent.dir, dir)
  if not listed then
    return problem("%s: no such folder", dir)
  end
  local files = {}
  for _, name in ipairs(names) do
    if name:match "^[%w_-]+%.sql$" then
      local file, message, code = read_file(dir, name)
      if not file then
        return nil, message, code
      end
      files[#files + 1], files[name] = file, file
    end
  end
  if #files == 0 then
    return problem("%s: no SQL files", dir)
  end
  table.sort(files, function(a, b) return a.name < b.name end)
  return files
end

return M
