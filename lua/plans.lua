--- Plan rules: which files of a template a plan's bundle holds, and why.
-- Data first: an operator who adds a tool adds a line to `tools`, and a reload is all it takes. Which tools a plan has
-- is written in the database; nothing here reads it. Knows neither files on disk nor how a bundle is made.
-- @module plans

local M = {}

--- The rules. `tools` come as files of a template; `capabilities` reach a bundle as names only.
M.rules = {
  tools = {
    timeline = "タイムライン",
    basic_analysis = "基本分析",
    follow = "フォロー",
    unfollow = "フォロー解除",
    target = "ターゲット",
    video_training = "動画トレーニング",
    advanced_analysis = "高度な分析",
  },
  capabilities = {
    unlimited = "無制限",
    consultant = "コンサルタント",
    ["24h_support"] = "24時間サポート",
    security = "セキュリティ",
  },
}

--- The plans as they are sold from the first day, for checks that have no database at hand. In work the database's
-- table counts, which the operator may have changed since.
M.defaults = {
  { name = "starter", tools = { "timeline", "basic_analysis" } },
  { name = "pro", tools = { "timeline", "follow", "unfollow", "target", "video_training", "advanced_analysis" } },
  {
    name = "max",
    tools = {
      "timeline", "basic_analysis", "follow", "unfollow", "target", "video_training", "advanced_analysis",
      "unlimited", "consultant", "24h_support", "security",
    },
  },
}

--- What the rules are called in an explanation, and their reasons. `%s` is the tool.
M.reasons = {
  ungated = "belongs to every plan",
  ["has-tool"] = "the plan has the tool %s",
  ["lacks-tool"] = "the plan lacks the tool %s",
}

local function base_name(file)
  return (file:match("[^/]+$"):gsub("%.[^.]*$", ""))
end

local function set_of(list)
  local set = {}
  for _, item in ipairs(list) do set[item] = true end
  return set
end

--- The tool that a file belongs to: its entry's own, else the file's base name when that is a known tool.
-- @tparam table entry of `file_structure`
-- @tparam[opt] table rules as `plans.rules`
-- @treturn ?string tool, or nil when the file belongs to every plan
function M.tool_of(entry, rules)
  if entry.tool then return entry.tool end
  local name = base_name(entry.file)
  return (rules or M.rules).tools[name] and name or nil
end

--- Decides for each file of a template.
-- @tparam table file_structure list of `{file, type, required, tool?}`
-- @tparam table plan_tools list of names
-- @tparam[opt] table rules as `plans.rules`
-- @treturn table list of `{file, included, rule, reason, tool, required}`, in the same order
function M.select(file_structure, plan_tools, rules)
  local has, decisions = set_of(plan_tools), {}
  for i, entry in ipairs(file_structure) do
    local tool = M.tool_of(entry, rules)
    local rule = not tool and "ungated" or has[tool] and "has-tool" or "lacks-tool"
    decisions[i] = {
      file = entry.file, tool = tool, required = entry.required == true, rule = rule,
      included = rule ~= "lacks-tool", reason = M.reasons[rule]:format(tool),
    }
  end
  return decisions
end

--- Sorts a plan's tools by what becomes of them.
-- @tparam table file_structure
-- @tparam table plan_tools
-- @tparam[opt] table rules as `plans.rules`
-- @treturn table `{with_files, capabilities, unknown}`: sorted lists of names. `unknown` are names that neither the
--   template nor the rules know; they are no error when a bundle is built, only when a template is checked.
function M.sort_tools(file_structure, plan_tools, rules)
  rules = rules or M.rules
  local with_files, sorted = {}, { with_files = {}, capabilities = {}, unknown = {} }
  for _, entry in ipairs(file_structure) do
    local tool = M.tool_of(entry, rules)
    if tool then with_files[tool] = true end
  end
  for tool in next, set_of(plan_tools) do
    local known = rules.capabilities[tool] or rules.tools[tool]
    local kind = with_files[tool] and "with_files" or known and "capabilities" or "unknown"
    table.insert(sorted[kind], tool)
  end
  for _, list in next, sorted do table.sort(list) end
  return sorted
end

--- What is wrong between a template and the plans: for a check before publishing.
-- @tparam table file_structure
-- @tparam table plans by name: lists of tools
-- @tparam[opt] table rules as `plans.rules`
-- @treturn table sorted list of messages; empty when all is well
function M.problems(file_structure, plans, rules)
  rules = rules or M.rules
  local found = {}
  for plan, tools in next, plans do
    for _, decision in ipairs(M.select(file_structure, tools, rules)) do
      if decision.required and not decision.included then
        found[#found + 1] = ("plan %s: %s: required, but %s"):format(plan, decision.file, decision.reason)
      end
    end
    for _, tool in ipairs(M.sort_tools(file_structure, tools, rules).unknown) do
      found[#found + 1] = ("plan %s: tool %s: unknown to the template and to the rules"):format(plan, tool)
    end
  end
  for _, entry in ipairs(file_structure) do
    local named, own = entry.tool, base_name(entry.file)
    if named and named ~= own and rules.tools[own] then
      found[#found + 1] = ("%s: claimed by two tools: %s (its entry) and %s (its name)"):format(entry.file, named, own)
    end
    if named and not rules.tools[named] and not rules.capabilities[named] then
      local known = false
      for _, tools in next, plans do known = known or set_of(tools)[named] end
      if not known then found[#found + 1] = ("%s: tool %s: no plan and no rule knows it"):format(entry.file, named) end
    end
  end
  table.sort(found)
  return found
end

return M
