--- Explains which files of a template a plan gets: each file with the rule that decides and why.
-- Knows the rules; neither the database nor files on disk.
-- @module template.explain

local json = require "atelier.json"
local plans = require "plans"

local M = {}

-- What an entry's tool comes from: its own key, or the name of its file.
local function source_of(entry)
  if entry.tool then return "its entry says so" end
  return plans.tool_of(entry) and "by its name" or nil
end

--- Explains.
-- @tparam table file_structure see `template.manifest`
-- @tparam table tools of the plan
-- @treturn table `{files, with_files, capabilities, unknown}`: `files` is a list of `{file, included, rule, reason,
--   tool?, source?, required}`; `capabilities` are tools without files, `unknown` those that nothing knows
function M.run(file_structure, tools)
  local files, sorted = json.array {}, plans.sort_tools(file_structure, tools)
  for i, decision in ipairs(plans.select(file_structure, tools)) do
    decision.source = source_of(file_structure[i])
    files[i] = decision
  end
  return { files = files, with_files = json.array(sorted.with_files), capabilities = json.array(sorted.capabilities),
    unknown = json.array(sorted.unknown) }
end

return M
