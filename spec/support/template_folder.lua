--- Template folders made for one spec, and removed after it.
local json = require "atelier.json"
local stdlib = require "posix.stdlib"

local M = {}

local made = {}

--- Writes a file below a folder, making the folders on its way.
function M.write(folder, name, text)
  local parent = name:match("^(.*)/[^/]*$")
  if parent then os.execute(("mkdir -p '%s/%s'"):format(folder, parent)) end
  local file = assert(io.open(folder .. "/" .. name, "wb"))
  assert(file:write(text))
  assert(file:close())
end

--- A new template folder.
-- @tparam table files texts by name; a manifest that lists them all is made unless one is among them
-- @tparam[opt] table changes fields of the made manifest
-- @treturn string folder
function M.make(files, changes)
  local folder = assert(stdlib.mkdtemp((os.getenv("TMPDIR") or "/tmp") .. "/template-spec-XXXXXX"))
  made[#made + 1] = folder
  local manifest = { name = "sample", version = "1.0.0", file_structure = json.array {} }
  local names = {}
  for name in pairs(files) do names[#names + 1] = name end
  table.sort(names)
  local types = { lua = "lua", json = "json", txt = "text" }
  for _, name in ipairs(names) do
    M.write(folder, name, files[name])
    table.insert(manifest.file_structure, { file = name, type = types[name:match("%.(%w+)$")] or "binary", required = false })
  end
  for key, value in pairs(changes or {}) do manifest[key] = value end
  if not files["template.json"] then M.write(folder, "template.json", json.encode(manifest, { indent = 2 })) end
  return folder
end

--- Removes all folders.
function M.clean()
  for _, folder in ipairs(made) do os.execute(("rm -rf '%s'"):format(folder)) end
  made = {}
end

return M
