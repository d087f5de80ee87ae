local dirent = require "posix.dirent"
local json = require "atelier.json"
local session = require "cli.session"
local template = require "template"
local term = require "cli.term"

local M = {
  example = "atelier template list --json",
}

local PUBLISHED = [[select name, version, is_active, content_sha256 from ate_templates order by name]]

function M.options() end

-- The template folders of this host, and what is wrong with those that do not load.
local function on_this_host(dir)
  local found = {}
  local ok, names = pcall(dirent.dir, dir)
  for _, name in ipairs(ok and names or {}) do
    local base = name:match "^([%w_-]+)%.at$"
    if base then
      local loaded, problem = template.load(dir .. "/" .. name)
      found[base] = loaded and { name = base, version = loaded.version } or { name = base, problem = problem }
    end
  end
  return found
end

function M.run()
  return session.with(function(s)
    local found = on_this_host(s.config.templates_dir)
    local rows, message, code = s.database:query(PUBLISHED)
    if not rows then
      return nil, message, code
    end
    for _, row in ipairs(rows) do
      found[row.name] = found[row.name] or { name = row.name }
      found[row.name].published = row.version
      found[row.name].active = row.is_active
    end
    local templates = json.array {}
    for _, entry in pairs(found) do
      templates[#templates + 1] = entry
    end
    table.sort(templates, function(a, b)
      return a.name < b.name
    end)
    return { templates = templates }
  end)
end

function M.show(result)
  local rows = {}
  for _, t in ipairs(result.templates) do
    local problem = t.problem and term.red(term.safe(t.problem:match "^[^\n]*")) or ""
    rows[#rows + 1] = { t.name, t.version or "-", t.published or "-", problem }
  end
  term.columns({ "template", "on this host", "published", "" }, rows)
end

return M
