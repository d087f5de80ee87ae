local check = require "cli.template.check"
local depot = require "template.depot"
local folder = require "cli.template.folder"
local json = require "atelier.json"
local session = require "cli.session"
local template = require "template"
local term = require "cli.term"

local M = {
  example = "atelier template publish smartgram",
}

function M.options(parser)
  parser:argument("template", "A folder NAME.at, or the name of one in the templates folder.")
  parser:option("--vars", "A JSON object with values for the check, instead of the samples."):argname "VARS.json"
  parser:flag("--force", "Publish a template that the check refuses, as long as it can be read.")
end

local PUBLISH = [[select publish_ate_template(name => $1, version => $2, template_path => $3, file_structure => $4,
  required_variables => $5, content_sha256 => $6, description => $7, runtime => $8, container => $9)::text as id]]

local function register(s, t)
  -- First, so that the database never names what is not there: workers may have no folder of this host's, and this one
  -- may go on being edited.
  local uploaded, reason, why = depot.push(s.template_store, t)
  if not uploaded then
    return nil, ("template publish: %s %s: %s"):format(t.name, t.version, reason), why
  end
  local rows, message, code = s.database:query(PUBLISH, {
    t.name, t.version, "templates/" .. t.name .. ".at/", json.encode(json.array(t.file_structure)),
    json.encode(json.array(t.required_variables)), t.hash, t.description or "", t.runtime or json.null,
    t.container or "ate1",
  })
  if not rows then
    return nil, ("template publish: %s %s: %s"):format(t.name, t.version, message),
      code == "AT009" and "version_taken" or code
  end
  return { id = rows[1].id, name = t.name, version = t.version, content_sha256 = t.hash,
    message = ("published %s %s"):format(t.name, t.version) }
end

--- Registers a template of this host, unchecked.
-- @tparam table s session
-- @tparam string name a folder, or the name of one in the templates folder
-- @treturn[1] table result: id, name, version, content_sha256
-- @return[2] nil
-- @treturn[2] string message
-- @treturn[2] string code
function M.register(s, name)
  local dir = name:find("/", 1, true) and name or s.config.templates_dir .. "/" .. name:gsub("%.at$", "") .. ".at"
  local t, message, code = template.load(dir)
  if not t then
    return nil, message, code
  end
  return register(s, t)
end

-- The plans as they are sold now.
local function plans_of(s)
  local rows, message, code = s.database:query "select name, tools from plans where is_active order by price_jpy, name"
  return rows, message, code
end

-- What is published is what was checked, byte for byte: the files are read once.
function M.run(args)
  local dir, config, why = folder.find(args.template)
  if not dir then
    return nil, config, why
  end
  local given, fault, kind = check.given(args.vars)
  if fault then
    return nil, fault, kind
  end
  return session.with(function(s)
    local plans, message, code = plans_of(s)
    if not plans then
      return nil, message, code
    end
    local checked = check.check(dir, { config = s.config, plans = plans[1] and plans or nil, vars = given })
    local report = checked.report
    if not checked.ok and not (args.force and report.loaded) then
      if not args.json then
        check.show_faults(report)
      end
      local hint = report.loaded and "; --force publishes it all the same" or ""
      return nil, ("template publish: %s%s"):format(checked.message, hint), checked.code
    end
    local result
    result, message, code = register(s, report.loaded)
    if result then
      result.checked, result.warnings = checked.ok, checked.warnings
    end
    if result and not checked.ok then
      local problem = "published although the check refuses it: " .. checked.message
      table.insert(result.warnings, 1, { code = "forced", message = problem })
    end
    return result, message, code
  end)
end

function M.show(result)
  print(term.safe(result.message))
end

return M
