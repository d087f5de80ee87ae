--- What changes for each plan from one template to another: files that come, go or change, variables, sizes.
-- A side whose files are not at hand (a published version, known by its manifest alone) is compared by its manifest.
-- Knows the rules and loaded templates; neither the database nor the jail.
-- @module template.diff

local json = require "atelier.json"
local plans = require "plans"

local M = {}

local FIELDS <const> = { "name", "version", "description", "runtime", "container" }

-- The files of a side that a plan gets, by name, and the variables in them.
local function bundle(side, tools)
  local files, names = {}, {}
  for i, decision in ipairs(plans.select(side.file_structure, tools)) do
    if decision.included then
      local entry = side.file_structure[i]
      local file = side.files and side.files[i] or {}
      files[entry.file] = { type = entry.type, sha256 = file.sha256, size = file.size, text = file.text }
      local compiled = file.text and side:compile(file)
      for _, name in ipairs(compiled and compiled.names or {}) do names[name] = true end
    end
  end
  return files, names
end

local function sorted(set)
  local list = json.array {}
  for name in next, set do list[#list + 1] = name end
  table.sort(list)
  return list
end

local function only_in(a, b)
  local found = {}
  for name in next, a do
    if b[name] == nil then found[name] = true end
  end
  return sorted(found)
end

local function lines_of(text)
  local lines = {}
  for line in (text .. "\n"):gmatch("(.-)\r?\n") do lines[#lines + 1] = line end
  return lines
end

-- Lines that one text has more of than the other: moved lines count as unchanged, which serves for a summary.
local function count_lines(old, new)
  local counts, added, removed = {}, 0, 0
  for _, line in ipairs(lines_of(old)) do counts[line] = (counts[line] or 0) + 1 end
  for _, line in ipairs(lines_of(new)) do counts[line] = (counts[line] or 0) - 1 end
  for _, count in next, counts do
    if count > 0 then removed = removed + count else added = added - count end
  end
  return added, removed
end

local function changed_files(old, new)
  local list = json.array {}
  for name, file in next, new do
    local before = old[name]
    if before and (before.type ~= file.type or (before.sha256 and file.sha256 and before.sha256 ~= file.sha256)) then
      local change = { file = name, old_size = before.size, new_size = file.size }
      if before.text and file.text then
        change.lines_added, change.lines_removed = count_lines(before.text, file.text)
      end
      if before.type ~= file.type then change.old_type, change.new_type = before.type, file.type end
      list[#list + 1] = change
    end
  end
  table.sort(list, function(a, b) return a.file < b.file end)
  return list
end

local function compare_plan(a, b, plan)
  local old, old_names = bundle(a, plan.tools)
  local new, new_names = bundle(b, plan.tools)
  local result = { plan = plan.name, added = only_in(new, old), removed = only_in(old, new),
    changed = changed_files(old, new), variables_added = json.array {}, variables_removed = json.array {} }
  if a.files and b.files then
    result.variables_added, result.variables_removed = only_in(new_names, old_names), only_in(old_names, new_names)
  end
  result.same = #result.added + #result.removed + #result.changed == 0
  return result
end

-- Values of the manifest that differ; lists are compared as sets.
local function compare_manifests(a, b)
  local changes = json.array {}
  for _, field in ipairs(FIELDS) do
    local old, new = a[field], b[field]
    if old == json.null then old = nil end
    if new == json.null then new = nil end
    if old ~= new then changes[#changes + 1] = { field = field, old = old, new = new } end
  end
  local old, new = {}, {}
  for _, name in ipairs(a.required_variables) do old[name] = true end
  for _, name in ipairs(b.required_variables) do new[name] = true end
  return changes, only_in(new, old), only_in(old, new)
end

--- Compares.
-- @tparam table a template as `template.load` gives it, or a manifest's fields with `hash`
-- @tparam table b likewise
-- @tparam[opt] table list of plans, each `{name, tools}`; default `plans.defaults`
-- @treturn table `{same, whole, manifest, required_added, required_removed, plans}`: `whole` tells that contents were
--   compared and not manifests alone; `plans` is a list of `{plan, same, added, removed, changed, variables_added,
--   variables_removed}`
function M.run(a, b, list)
  local result = { whole = a.files ~= nil and b.files ~= nil or a.hash == b.hash, same = a.hash == b.hash,
    plans = json.array {} }
  result.manifest, result.required_added, result.required_removed = compare_manifests(a, b)
  for i, plan in ipairs(list or plans.defaults) do result.plans[i] = compare_plan(a, b, plan) end
  return result
end

return M
