local config = require "config"
local json = require "atelier.json"
local session = require "cli.session"
local term = require "cli.term"

local M = {
  example = "atelier config\nATELIER_CONFIG=/etc/atelier.conf.lua atelier config --json",
}

function M.options() end

-- A secret is only said to be set.
local function shown(key, value)
  if value == nil then
    return nil
  end
  return key.secret and "(set)" or key[2] == "list" and json.array(value) or value
end

function M.run()
  return session.with(function(s)
    local values = {}
    for _, key in ipairs(config.keys) do
      values[key[1]] = shown(key, s.config[key[1]])
    end
    return { values = values, path = s.config.path }
  end)
end

local function as_text(value)
  return type(value) == "table" and table.concat(value, " ") or tostring(value)
end

function M.show(result)
  print(result.path and "From " .. result.path or "No atelier.conf.lua: defaults, and what the environment sets.")
  local rows = {}
  for _, key in ipairs(config.keys) do
    local value = result.values[key[1]]
    rows[#rows + 1] = { key[1], value == nil and "-" or as_text(value), key[4] or "", key[5] }
  end
  term.columns({ "key", "value", "environment", "meaning" }, rows)
end

return M
