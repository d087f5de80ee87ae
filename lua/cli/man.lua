local config = require "config"
local host = require "atelier.host"
local outline = require "cli.outline"

local M = {
  for_people_only = true,
  example = "atelier man | man -l -\natelier man >/usr/local/share/man/man1/atelier.1",
}

function M.options(parser)
  parser:description "Prints the manual page, made from the commands and keys of this very program."
end

-- ==== troff ====

-- Text: nothing in it is a request or an escape; a hyphen is the one that is typed.
local function text(s)
  s = s:gsub("\\", "\\e"):gsub("%-", "\\-"):gsub("`([^`\n]*)`", "\\fB%1\\fR"):gsub("~", "\\(ti"):gsub("%^", "\\(ha")
  return (s:gsub("^([.'])", "\\&%1"):gsub("\n([.'])", "\n\\&%1"))
end

local function literal(s)
  s = s:gsub("\\", "\\e"):gsub("%-", "\\-"):gsub("'", "\\(aq"):gsub("`", "\\(ga"):gsub("~", "\\(ti"):gsub("%^", "\\(ha")
  return (s:gsub("^%.", "\\&."):gsub("\n%.", "\n\\&."))
end

local Page = {}
Page.__index = Page

function Page:add(line, ...)
  self[#self + 1] = select("#", ...) > 0 and line:format(...) or line
end

function Page:section(title)
  self:add(".SH %s", title)
end

function Page:paragraph(s)
  self:add ".PP"
  self:add(text(s))
end

function Page:term(label, s)
  self:add ".TP"
  self:add(label)
  self:add(text(s ~= "" and s or "Nothing more to say."))
end

function Page:code(s)
  self:add ".PP\n.RS 4\n.nf"
  self:add(literal(s))
  self:add ".fi\n.RE"
end

-- ==== a command ====

local function label_of(option)
  local names = {}
  for i, name in ipairs(option.names) do
    names[i] = "\\fB" .. literal(name) .. "\\fR"
  end
  local value = option.choices and table.concat(option.choices, "|") or option.argname
  return table.concat(names, ", ") .. (option.takes and " \\fI" .. literal(value) .. "\\fR" or "")
end

local function description_of(element)
  local parts = { element.description }
  if element.choices and not element.takes then
    parts[#parts + 1] = "One of " .. table.concat(element.choices, ", ") .. "."
  end
  if element.required then
    parts[#parts + 1] = "Required."
  end
  return table.concat(parts, " ")
end

-- The line of usage in one piece, without the word before it and without what every command has.
local function usage_of(command)
  return (command.usage:gsub("^Usage: ", ""):gsub("%s+", " "):gsub(" %[%-h%]", ""))
end

local function example_of(command)
  return command.epilog:match "Example:\n(.*)$"
end

local function describe(page, command, name)
  page:add(".SS %s", literal(name))
  page:add(text(command.description))
  page:code(usage_of(command))
  for _, argument in ipairs(command.arguments) do
    page:term("\\fI" .. literal(argument.name) .. "\\fR", description_of(argument))
  end
  for _, option in ipairs(command.options) do
    if option.names[1] ~= "-h" then
      page:term(label_of(option), description_of(option))
    end
  end
  local example = example_of(command)
  if example and #command.commands == 0 then
    page:paragraph(example:find("\n", 1, true) and "Examples:" or "Example:")
    page:code((example:gsub("^   ", ""):gsub("\n   ", "\n")))
  end
  for _, sub in ipairs(command.commands) do
    describe(page, sub, name .. " " .. sub.name)
  end
end

-- ==== the other sections ====

local function default_of(key)
  if key.secret or key[3] == nil then
    return nil
  elseif type(key[3]) == "table" then
    return "none"
  end
  return type(key[3]) == "string" and ("%q"):format(key[3]) or tostring(key[3])
end

local function keys(page)
  page:section "CONFIGURATION"
  page:paragraph("A Lua file that returns a table, evaluated as data: `$ATELIER_CONFIG`, else `atelier.conf.lua` in "
    .. "the working folder. The environment wins over the file, the file over the defaults. An unknown key is refused. "
    .. "`atelier config` shows what is in force. A key of kind secret may also be given as `KEY_file`, the path of a "
    .. "file that holds it; secrets are never printed.")
  page:code 'return {\n  listen_port = 8787,\n  workers = 2,\n  metrics_allow = { "10.0.0.0/8" },\n}'
  for _, key in ipairs(config.keys) do
    local facts = { key.secret and "secret" or key[2] }
    local default = default_of(key)
    facts[#facts + 1] = default and "default " .. default or nil
    facts[#facts + 1] = key[4] and "environment " .. key[4] or nil
    local meaning = key[5]:gsub("%.$", "")
    page:term("\\fB" .. literal(key[1]) .. "\\fR", ("%s. (%s)"):format(meaning, table.concat(facts, "; ")))
  end
end

local ENVIRONMENT = {
  { "ATELIER_CONFIG", "The configuration file." },
  { "ATELIER_LICENSE", "The licence key for `atelier open`, which a command line would show to others." },
  { "NO_COLOR", "Anything: no colours." },
}

local function environment(page)
  page:section "ENVIRONMENT"
  for _, entry in ipairs(ENVIRONMENT) do
    page:term("\\fB" .. entry[1] .. "\\fR", entry[2])
  end
  for _, key in ipairs(config.keys) do
    if key[4] then
      page:term("\\fB" .. key[4] .. "\\fR", "The key `" .. key[1] .. "`.")
    end
  end
end

local FILES = {
  { "atelier.conf.lua", "The configuration, in the working folder." },
  { "STATE/keyring.json", "Master and signing keys, mode 0600. Back it up: without its master key no licence key can "
    .. "be told again. STATE is `state_dir`: `var` in a checkout, else `~/.local/state/atelier`, for root "
    .. "`/var/lib/atelier`." },
  { "STATE/files", "The generated files, unless `storage_dir` names another folder." },
  { "STATE/postgres", "The private Postgres, used where no `database_url` is set." },
  { "STATE/run", "What the running service tells: its state, and the counters of its processes." },
}

local SIGNALS = {
  { "SIGTERM, SIGINT", "To the master of `atelier up` and `atelier serve`: no new work is taken, what is under way is "
    .. "finished within `drain_time`, then it ends. A second one does not wait." },
  { "SIGHUP", "To the master: reload. Scripts, templates and configuration are checked aside, and a new generation "
    .. "takes over; where anything is wrong the old one goes on and the reason is logged." },
}

local STATUS = {
  { "0", "Done. An expired file opens, with a warning." },
  { "2", "Usage: the command line is wrong." },
  { "3", "The input was refused: a file, a key, a value, a device or a template." },
  { "1", "Everything else." },
}

local function list(page, title, entries)
  page:section(title)
  for _, entry in ipairs(entries) do
    page:term("\\fB" .. literal(entry[1]) .. "\\fR", entry[2])
  end
end

local function compose()
  local all = outline.of(require("cli").parser())
  local page = setmetatable({}, Page)
  page:add '.\\" Made by `atelier man`; do not edit.'
  page:add('.TH ATELIER 1 "" "Atelier %s" "User Commands"', host.version)
  page:section "NAME"
  page:add "atelier \\- make and serve .ate files, one sealed bundle for each licence and device"
  page:section "SYNOPSIS"
  page:add "\\fBatelier\\fR \\fICOMMAND\\fR [\\fIOPTION\\fR...] [\\fIARGUMENT\\fR...]"
  page:add ".br\n\\fBatelier\\fR \\fICOMMAND\\fR \\fB\\-\\-help\\fR"
  page:section "DESCRIPTION"
  page:add(text("Turns purchases into files: a purchase that is recorded in Postgres queues a job; a worker renders "
    .. "the customer's bundle, runs it without any rights, seals it for one licence on one device, signs it and "
    .. "stores it; a front serves it over HTTP to whom it belongs."))
  page:paragraph("With `--json` a command prints one object on standard output, {ok, code, message, warnings, ...}, "
    .. "also when it fails.")
  page:section "COMMANDS"
  for _, command in ipairs(all.commands) do
    describe(page, command, command.name)
  end
  keys(page)
  environment(page)
  list(page, "FILES", FILES)
  list(page, "SIGNALS", SIGNALS)
  list(page, "EXIT STATUS", STATUS)
  page:section "SEE ALSO"
  page:add(text "The HTTP interface describes itself at `/api/ate/openapi.json`; README.md tells how it all fits.")
  return table.concat(page, "\n")
end

function M.run()
  print(compose())
  return {}
end

return M
