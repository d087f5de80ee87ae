local database = require "spec.sql.database"
local plans = require "plans"

local STRUCTURE = {
  { file = "main.lua", type = "lua", required = true },
  { file = "timeline.lua", type = "lua", required = false },
  { file = "images/follow.png", type = "binary", required = false },
  { file = "story.lua", type = "lua", required = false, tool = "story" },
  { file = "readme.txt", type = "text" },
}

describe("plan rules", function()
  it("decide for each file, with a rule and a reason", function()
    local decisions = plans.select(STRUCTURE, { "timeline", "unlimited" })
    local said = {}
    for i, d in ipairs(decisions) do said[i] = ("%s %s %s: %s"):format(d.file, d.included, d.rule, d.reason) end
    assert.same({
      "main.lua true ungated: belongs to every plan",
      "timeline.lua true has-tool: the plan has the tool timeline",
      "images/follow.png false lacks-tool: the plan lacks the tool follow",
      "story.lua false lacks-tool: the plan lacks the tool story",
      "readme.txt true ungated: belongs to every plan",
    }, said)
  end)

  it("sort a plan's tools", function()
    assert.same({ with_files = { "story", "timeline" }, capabilities = { "24h_support", "target", "unlimited" }, unknown = { "hats" } },
      plans.sort_tools(STRUCTURE, { "unlimited", "timeline", "hats", "24h_support", "story", "target", "timeline" }))
    assert.same({ with_files = {}, capabilities = {}, unknown = {} }, plans.sort_tools(STRUCTURE, {}))
  end)

  it("are data", function()
    local rules = { tools = { main = "m" }, capabilities = {} }
    assert.equal("main", plans.tool_of(STRUCTURE[1], rules))
    assert.is_nil(plans.tool_of(STRUCTURE[2], rules))
    assert.equal("story", plans.tool_of(STRUCTURE[4], rules))
    assert.is_false(plans.select(STRUCTURE, {}, rules)[1].included)
  end)

  it("find what does not fit before a customer does", function()
    assert.same({}, plans.problems(STRUCTURE, { starter = { "timeline" }, max = { "timeline", "follow", "story", "security" } }))
    local structure = {
      { file = "main.lua", required = true, tool = "timeline" },
      { file = "follow.lua", tool = "target" },
      { file = "x.lua", tool = "hats" },
    }
    assert.same({
      "follow.lua: claimed by two tools: target (its entry) and follow (its name)",
      "plan a: main.lua: required, but the plan lacks the tool timeline",
      "plan a: tool shoes: unknown to the template and to the rules",
      "x.lua: tool hats: no plan and no rule knows it",
    }, plans.problems(structure, { a = { "target", "shoes" }, b = { "timeline" } }))
  end)
end)

describe("the plans of the first day", function()
  it("are those that a new database has", function()
    local s = database.session(database.fresh())
    local seeded = {}
    for i, row in ipairs(s:query "select name, tools from plans order by price_jpy, name") do
      local tools = {}
      for k, tool in ipairs(row.tools) do tools[k] = tool end
      seeded[i] = { name = row.name, tools = tools }
    end
    s:close()
    assert.same(plans.defaults, seeded)
  end)
end)
