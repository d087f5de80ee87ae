--- Oracle of the manifest: any text gives a manifest whose parts have their types, or complaints; nothing is raised.
local input = require "spec.fuzz.input"
local json = require "atelier.json"
local manifest = require "template.manifest"

local finding = input.finding

local function check(object, text)
  local seen = {}
  for _, entry in ipairs(object.file_structure) do
    if not manifest.check_name(entry.file) or seen[entry.file:lower()] then finding("a name that is not safe", text) end
    seen[entry.file:lower()] = true
    local ending = entry.file:lower():match("%.(%w+)$")
    if (ending == "lua" or ending == "json") and entry.type ~= ending then finding("a script that is none", text) end
  end
  if #object.file_structure == 0 or not json.is_array(object.required_variables) then finding("lists are missing", text) end
  for _, key in ipairs { "name", "version", "container" } do
    if type(object[key]) ~= "string" then finding("a manifest without " .. key, text) end
  end
end

return function(text)
  local object, message, code = manifest.read(text)
  if object then return check(object, text) end
  if code ~= "template" or not message:find("^template.json: ") then finding("a strange message", message) end
  for line in message:gmatch("[^\n]+") do input.message((line:match("[^:]*$"):gsub('".-"', "S"):gsub("%S*[^%a ]%S*", "N"))) end
end
