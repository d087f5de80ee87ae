--- Names of files that unpack to the same files everywhere: on Linux, and where case, a final dot or how an
-- accent is written make no difference (iOS, macOS, Windows).
-- @module template.names
local zip = require "atelier.zip"

local M = {}

-- What Windows takes for a device in every folder, whatever ending stands behind it.
local DEVICES = { con = true, prn = true, aux = true, nul = true }
for n = 0, 9 do
  DEVICES["com" .. n], DEVICES["lpt" .. n] = true, true
end

-- Letters that only change the one before. Nothing here can compose them, so that names that differ in this alone could
-- not be told; the composed form has none of them.
local COMBINING = { { 0x300, 0x36f }, { 0x1100, 0x11ff }, { 0x3099, 0x309a } }

local function is_composed(name)
  for _, c in utf8.codes(name) do
    for _, range in ipairs(COMBINING) do
      if c >= range[1] and c <= range[2] then
        return false
      end
    end
  end
  return true
end

local function fault_of_part(part)
  if part == "" then
    return "an empty part in the path"
  elseif part == "." or part == ".." then
    return ("%q in the path"):format(part)
  elseif part:find "[. ]$" then
    return ("%q ends with a dot or a blank, which Windows leaves out"):format(part)
  elseif DEVICES[part:lower():match "^[^.]*"] then
    return ("%q is a device on Windows"):format(part)
  end
end

--- Is this a name that a bundle may hold?
-- @tparam string name
-- @treturn[1] boolean true
-- @return[2] nil
-- @treturn[2] string reason
function M.check(name)
  if name == "" then
    return nil, "an empty name"
  elseif #name > 255 then
    return nil, "longer than 255 bytes"
  elseif name:find "[%z\1-\31\127\\:*?\"<>|]" then
    return nil, "a character that not every system allows in names"
  elseif name:sub(1, 1) == "/" then
    return nil, "an absolute path"
  end
  for part in (name .. "/"):gmatch "([^/]*)/" do
    local fault = fault_of_part(part)
    if fault then
      return nil, fault
    end
  end
  if not utf8.len(name) then
    return nil, "not UTF-8"
  elseif not is_composed(name) then
    return nil, "a letter and its accent written as two characters (NFD); write them as one (NFC)"
  end
  return true
end

-- The folders of a name, each with the way in which it is written.
local function add_folders(folders, name, complain)
  local folded = name:lower()
  for at in folded:gmatch "()/" do
    local key, written = folded:sub(1, at - 1), name:sub(1, at - 1)
    local before = folders[key]
    if before and before.written ~= written then
      complain(("the folders %s and %s differ in case only"):format(written, before.written))
    end
    folders[key] = before or { written = written, file = name }
  end
end

-- The archive that these names are for knows the case of all letters, not of A to Z alone.
local function try_archive(list, complain)
  local writer <close> = assert(zip.writer())
  for i = 1, list.n do
    if list[i] and M.check(list[i]) then
      local ok, message = writer:add(list[i], "", { method = "store" })
      if not ok then
        return complain(message, i)
      end
    end
  end
end

--- Finds names that are equal, or equal but for case, also in their folders, or a file here and a folder there.
-- @tparam {string,...} list may have holes: `n` is its length
-- @tparam function complain(reason, index) called for each; without an index for two of them
function M.collisions(list, complain)
  local files, folders, is_fine = {}, {}, true
  local function tell(reason, i)
    is_fine = false
    complain(reason, i)
  end
  for i = 1, list.n do
    local name = list[i]
    local folded = name and name:lower()
    if name and files[folded] then
      tell(files[folded] == name and ("%s is listed twice"):format(name)
        or ("%s and %s differ in case only"):format(name, files[folded]), i)
    elseif name then
      files[folded] = name
      add_folders(folders, name, function(reason) tell(reason, i) end)
    end
  end
  for folder, first in next, folders do
    if files[folder] then
      tell(("%s is a file and the folder of %s"):format(files[folder], first.file))
    end
  end
  if is_fine then
    try_archive(list, complain)
  end
end

return M
