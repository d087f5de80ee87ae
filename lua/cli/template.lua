local dirent = require "posix.dirent"
local json = require "atelier.json"
local render = require "template.render"
local session = require "cli.session"
local template = require "template"
local term = require "cli.term"
local vars = require "template.vars"

local M = {
  example = "atelier template list\natelier template render main.lua --vars values.json\n"
    .. "atelier template publish smartgram",
}

function M.options(parser)
  parser:command_target "action"
  parser:require_command(true)
  local list = parser:command("list", "The templates on this host, and what is published.")
  local show = parser:command("render", "Render one file to standard output.")
  show:argument("file", "The file with placeholders.")
  show:option("--vars", "A JSON object with the values."):argname("VARS.json"):count "1"
  show:option("--as", "What the file is, where its name does not tell."):choices { "lua", "json", "text" }
  local publish = parser:command("publish", "Register a template's version; published once, it never changes.")
  publish:argument("template", "A folder NAME.at, or the name of one in the templates folder.")
  for _, sub in ipairs { list, publish } do
    sub:flag("--json", "Print one JSON object on standard output.")
  end
end

local function read(path)
  local file, message = io.open(path, "rb")
  local text = file and file:read("a")
  if file then
    file:close()
  end
  if not text then
    return nil, ("template: %s"):format(message or path .. ": is not a readable file"), "template"
  end
  return text
end

-- All or nothing: a refused rendering writes nothing on standard output.
local function run_render(args)
  local text, message, code = read(args.file)
  if not text then
    return nil, message, code
  end
  local given
  given, message, code = read(args.vars)
  if not given then
    return nil, message, code
  end
  local values
  values, message, code = vars.read(given)
  if not values then
    return nil, ("%s: %s"):format(args.vars, message), code
  end
  local kind = args.as or args.file:match("%.(lua)$") or args.file:match("%.(json)$") or "text"
  local compiled
  compiled, message, code = render.compile(text, { as = kind, file = args.file })
  if not compiled then
    return nil, message, code
  end
  local rendered
  rendered, message, code = compiled:render(values)
  if not rendered then
    return nil, message, code
  end
  io.stdout:write(rendered)
  return {}
end

local PUBLISHED = [[select name, version, is_active, content_sha256 from ate_templates order by name]]

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

local function run_list(s)
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
end

local PUBLISH = [[select publish_ate_template(name => $1, version => $2, template_path => $3, file_structure => $4,
  required_variables => $5, content_sha256 => $6, description => $7, runtime => $8, container => $9)::text as id]]

--- Registers a template of this host.
-- @tparam table s session
-- @tparam string name a folder, or the name of one in the templates folder
-- @treturn[1] table result: id, name, version, content_sha256
-- @return[2] nil
-- @treturn[2] string message
-- @treturn[2] string code
function M.publish(s, name)
  local folder = name:find("/", 1, true) and name or s.config.templates_dir .. "/" .. name:gsub("%.at$", "") .. ".at"
  local t, message, code = template.load(folder)
  if not t then
    return nil, message, code
  end
  local rows
  rows, message, code = s.database:query(PUBLISH, {
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

function M.run(args)
  if args.action == "render" then
    return run_render(args)
  end
  return session.with(function(s)
    if args.action == "publish" then
      return M.publish(s, args.template)
    end
    return run_list(s)
  end)
end

function M.show(result, args)
  if args.action == "publish" then
    print(result.message)
  elseif args.action == "list" then
    local rows = {}
    for _, t in ipairs(result.templates) do
      rows[#rows + 1] = { t.name, t.version or "-", t.published or "-", t.problem and term.red(term.safe(t.problem:match "^[^\n]*")) or "" }
    end
    term.columns({ "template", "on this host", "published", "" }, rows)
  end
end

return M
