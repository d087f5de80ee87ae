--- Who asks for whom inside of a bundle: siblings that are not there, and circles of scripts that need each other.
-- Sees literal names alone; what is asked for by a computed name shows when the bundle runs.
-- @module template.siblings

local fault = require "template.fault"
local tokens = require "template.tokens"

local M = {}

-- What `require` gives without a file.
local LIBRARIES = { string = true, table = true, math = true, utf8 = true, coroutine = true, os = true, _G = true }

-- Names of files that a request may mean; the same rule as in the jail.
local function candidates(name)
  name = name:gsub("^%./", "")
  if name:find("%.lua$") then return { name, (name:gsub("%.lua$", ""):gsub("%.", "/")) .. ".lua" } end
  return { name .. ".lua", (name:gsub("%.", "/")) .. ".lua" }
end

local function resolve(request, known)
  -- An absolute path is the application's folder and the sibling's name below it.
  if request.how == "dofile" and request.name:sub(1, 1) == "/" then return false end
  if request.how == "require" and LIBRARIES[request.name] then return false end
  for _, candidate in ipairs(candidates(request.name)) do
    if known[candidate] then return candidate end
  end
  return nil
end

local function complain(file, text, request, message, hint)
  return fault.at({ file = file, message = message, hint = hint }, text, request.pos, #request.how)
end

-- Follows what each file needs while it loads; a file that is met again below itself closes a circle.
local function find_circles(edges, texts, faults)
  local state, path = {}, {}
  local function visit(file)
    state[file], path[#path + 1] = "open", file
    for _, edge in ipairs(edges[file] or {}) do
      if state[edge.to] == "open" then
        local from = 1
        while path[from] ~= edge.to do from = from + 1 end
        local circle = table.concat(path, " → ", from) .. " → " .. edge.to
        faults[#faults + 1] = complain(file, texts[file], edge.request, "scripts that need each other: " .. circle,
          "call require inside of the function that uses it, or move what both need into a third file")
      elseif not state[edge.to] then
        visit(edge.to)
      end
    end
    state[file], path[#path] = "done", nil
  end
  local files = {}
  for file in next, edges do files[#files + 1] = file end
  table.sort(files)
  for _, file in ipairs(files) do
    if not state[file] then visit(file) end
  end
end

--- Looks at the scripts of a bundle.
-- @tparam table texts rendered texts by name
-- @tparam table known set of all file names of the template, those of other plans too
-- @treturn table list of faults
function M.check(texts, known)
  local faults, edges = {}, {}
  for file, text in next, texts do
    if file:find("%.lua$") then
      edges[file] = {}
      for _, request in ipairs(tokens.requests(text)) do
        local target = resolve(request, known)
        if target == nil then
          faults[#faults + 1] = complain(file, text, request, ("%s %q: the template has no such script")
            :format(request.how, request.name), "add the file and list it in the manifest, or correct the name")
        elseif target and texts[target] and not request.late then
          table.insert(edges[file], { to = target, request = request })
        end
      end
    end
  end
  find_circles(edges, texts, faults)
  return faults
end

return M
