local diff = require "template.diff"
local folder = require "cli.template.folder"
local session = require "cli.session"
local template = require "template"
local term = require "cli.term"

local M = {
  example = "atelier template diff templates/smartgram.at ../new/smartgram.at\n"
    .. "atelier template diff smartgram@1.0.0 templates/smartgram.at",
}

function M.options(parser)
  local what = "A folder NAME.at, the name of one in the templates folder, or NAME@VERSION as it was published."
  parser:argument("old", what)
  parser:argument("new", what)
end

local VERSION = [[select v.version, v.file_structure, v.required_variables, v.description, v.runtime, v.container,
    v.content_sha256 as hash
  from ate_template_versions v join ate_templates t on t.id = v.template_id
  where t.name = $1 and v.version = case when $2 = 'published' then t.version else $2 end]]

-- A published version: its manifest, and its files too where this host's folder still holds the same content.
local function published(name, version)
  return session.with(function(s)
    local rows, message, code = s.database:query(VERSION, { name, version })
    if not rows then
      return nil, message, code
    elseif not rows[1] then
      return nil, ("template diff: %s@%s: no such version was published"):format(name, version), "unknown_template"
    end
    local row = rows[1]
    row.name = name
    local here = template.load(("%s/%s.at"):format(s.config.templates_dir, name))
    return here and here.hash == row.hash and here or row
  end)
end

local function side(word)
  local name, version = word:match "^([a-z0-9_-]+)@([%w.+-]+)$"
  if name then
    return published(name, version)
  end
  local dir, message, code = folder.find(word)
  if not dir then
    return nil, message, code
  end
  return folder.load(dir)
end

function M.run(args)
  local old, message, code = side(args.old)
  if not old then
    return nil, message, code
  end
  local new
  new, message, code = side(args.new)
  if not new then
    return nil, message, code
  end
  local result = diff.run(old, new)
  result.old = { name = old.name, version = old.version, content_sha256 = old.hash }
  result.new = { name = new.name, version = new.version, content_sha256 = new.hash }
  result.warnings = {}
  if not result.whole then
    table.insert(result.warnings, { code = "manifest_only", message = "a published version's files are not on this "
      .. "host: file lists are compared, contents are not" })
  end
  if not result.same and old.name == new.name and old.version == new.version then
    table.insert(result.warnings, { code = "same_version", message = ("both are %s %s, with different content: "
      .. "publishing the second after the first is refused; give it a new version"):format(new.name, new.version) })
  end
  result.message = result.same and "no difference" or "they differ"
  return result
end

local function value(v)
  return v == nil and "(none)" or term.safe(v)
end

local function change_text(change)
  local parts = {}
  if change.lines_added then
    parts[#parts + 1] = ("+%d -%d lines"):format(change.lines_added, change.lines_removed)
  end
  if change.old_size and change.old_size ~= change.new_size then
    parts[#parts + 1] = ("%s → %s"):format(term.size(change.old_size), term.size(change.new_size))
  end
  if change.old_type then
    parts[#parts + 1] = ("type %s → %s"):format(change.old_type, change.new_type)
  end
  return table.concat(parts, ", ")
end

local function show_plan(plan)
  print(term.bold(term.safe(plan.plan)) .. (plan.same and term.dim "  no change" or ""))
  for _, file in ipairs(plan.added) do
    print("  " .. term.green("+ " .. term.safe(file)))
  end
  for _, file in ipairs(plan.removed) do
    print("  " .. term.red("- " .. term.safe(file)))
  end
  for _, change in ipairs(plan.changed) do
    print(("  %s  %s"):format(term.yellow("~ " .. term.safe(change.file)), term.dim(change_text(change))))
  end
  for _, name in ipairs(plan.variables_added) do
    print("  " .. term.green("+ {{" .. name .. "}}"))
  end
  for _, name in ipairs(plan.variables_removed) do
    print("  " .. term.red("- {{" .. name .. "}}"))
  end
end

function M.show(result)
  print(("%s %s → %s %s"):format(result.old.name, result.old.version, result.new.name, result.new.version))
  for _, change in ipairs(result.manifest) do
    term.field(change.field, ("%s → %s"):format(value(change.old), value(change.new)))
  end
  for _, name in ipairs(result.required_added) do
    term.field("required", term.green("+ " .. name))
  end
  for _, name in ipairs(result.required_removed) do
    term.field("required", term.red("- " .. name))
  end
  if result.same then
    print "no difference"
    return
  end
  for _, plan in ipairs(result.plans) do
    print()
    show_plan(plan)
  end
end

return M
