--- Which folder a word on the command line means: a path, or the name of a template in the templates folder.
-- @module cli.template.folder
local config = require "config"
local stat = require "posix.sys.stat"
local template = require "template"

local M = {}

--- Finds a template's folder.
-- @tparam string word a path, `NAME` or `NAME.at`
-- @treturn[1] string path; it need not be there
-- @treturn[1] table configuration
-- @return[2] nil
-- @treturn[2] string message
-- @treturn[2] string code
function M.find(word)
  local values, message, code = config.load()
  if not values then
    return nil, message, code
  end
  local info = stat.stat(word)
  if word:find("/", 1, true) or (info and stat.S_ISDIR(info.st_mode) ~= 0) or word == "." then
    return word, values
  end
  return values.templates_dir .. "/" .. word:gsub("%.at$", "") .. ".at", values
end

--- Loads a template; that it is not there is a refusal too.
-- @tparam string dir
-- @treturn[1] table see `template.load`
-- @return[2] nil
-- @treturn[2] string message
-- @treturn[2] string "template"
function M.load(dir)
  local loaded, message = template.load(dir)
  return loaded, message, not loaded and "template" or nil
end

--- Reads a file that a person named: a pipe is welcome, an endless one is not.
-- @tparam string path
-- @tparam integer most bytes
-- @treturn[1] string
-- @return[2] nil
-- @treturn[2] string message
-- @treturn[2] string "template"
function M.read(path, most)
  local file, message = io.open(path, "rb")
  if not file then
    return nil, "template: " .. message, "template"
  end
  local held <close> = file
  local text, problem = file:read(most + 1)
  if not text and problem then
    return nil, ("template: %s: %s"):format(path, problem), "template"
  elseif text and #text > most then
    return nil, ("template: %s: larger than %d bytes"):format(path, most), "template"
  end
  return text or ""
end

return M
