local folder = require "cli.template.folder"
local render = require "template.render"
local template = require "template"
local vars = require "template.vars"

local M = {
  example = "echo '{\"device_hash\": \"A-1\", \"plan_tools\": [\"timeline\"], \"license_key\": \"K\",\n"
    .. "  \"expires_at\": \"2030-01-01T00:00:00Z\"}' >values.json\n"
    .. "atelier template render templates/smartgram.at/main.lua --vars values.json",
}

local MOST_VARS = 256 * 1024 * 1024
local KINDS = { lua = "lua", json = "json" }

function M.options(parser)
  parser:argument("file", "The file with placeholders.")
  parser:option("--vars", "A JSON object with the values."):argname("VARS.json"):count "1"
  parser:option("--as", "What the file is, where its name does not tell."):choices { "lua", "json", "text" }
end

-- The rendered text, or nil, message, code.
local function rendered(args)
  local text, message, code = folder.read(args.file, template.MAX_TEXT)
  if not text then
    return nil, message, code
  end
  local given
  given, message, code = folder.read(args.vars, MOST_VARS)
  if not given then
    return nil, message, code
  end
  local values
  values, message, code = vars.read(given, args.vars)
  if not values then
    return nil, message, code
  end
  local kind = args.as or KINDS[(args.file:lower():match "%.(%w+)$")] or "text"
  local compiled
  compiled, message, code = render.compile(text, { as = kind, file = args.file })
  if not compiled then
    return nil, message, code
  end
  return compiled:render(values)
end

-- All or nothing: a refused rendering writes nothing on standard output.
function M.run(args)
  local text, message, code = rendered(args)
  if not text then
    return nil, message, code
  end
  if args.json then
    if not utf8.len(text) then
      return nil, "template: the rendered text is not UTF-8, which JSON cannot carry: leave out --json", "template"
    end
    return { text = text }
  end
  local ok, problem = io.stdout:write(text)
  if ok then
    ok, problem = io.stdout:flush()
  end
  if not ok then
    return nil, "template: standard output: " .. problem, "io"
  end
  return {}
end

return M
