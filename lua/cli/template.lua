local M = {
  example = "atelier template check smartgram\natelier template render main.lua --vars values.json\n"
    .. "atelier template diff templates/smartgram.at ../new/smartgram.at\natelier template publish smartgram",
}

-- In the order of an operator's work; each is a module of cli/template/.
local ACTIONS = {
  { "list", "The templates on this host, and what is published." },
  { "check", "Does every plan's bundle render, load, run and stay inside its limits?" },
  { "explain", "Which files a plan or a device gets, and by which rule." },
  { "render", "Render one file to standard output." },
  { "test", "Run the template's own specs, NAME.at/spec/*_spec.lua." },
  { "diff", "What changes for each plan from one template to another." },
  { "publish", "Check a template and register its version; published once, it never changes." },
}

local function load_action(name)
  return require("cli.template." .. name)
end

function M.options(parser)
  parser:command_target "action"
  parser:require_command(true)
  for _, entry in ipairs(ACTIONS) do
    local name, summary = table.unpack(entry)
    local action = load_action(name)
    local sub = parser:command(name, summary)
    action.options(sub)
    sub:flag("--json", "Print one JSON object on standard output.")
    if action.example then
      sub:epilog("Example:\n" .. action.example:gsub("([^\n]+)", "   %1"))
    end
  end
end

--- Registers a template of this host, unchecked.
M.publish = require("cli.template.publish").register

function M.run(args)
  return load_action(args.action).run(args)
end

function M.show(result, args)
  local show = load_action(args.action).show
  if show then
    show(result, args)
  end
end

return M
