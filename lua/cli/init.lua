--- The command line: finds the command, parses its arguments, runs it, prints what came of it.
--
-- A command is a module `cli.NAME`:
--   example   lines for the end of its help
--   options(parser)         adds its arguments (argparse)
--   run(args) → result table | nil, message, code
--   for_people_only         true where --json makes no sense
--   show(result, args)      prints the result for a person; absent where run prints itself
-- The result may carry `warnings` ({code, message} each) and `exit` (a code other than 0).
-- @module cli
local argparse = require "argparse"
local errno = require "posix.errno"
local json = require "atelier.json"
local term = require "cli.term"

local M = {}

-- In the order in which a newcomer meets them. Only the module of the command that runs is loaded.
local COMMANDS = {
  { "demo", "Show it all at work: three purchases become three sealed files, opened and verified." },
  { "up", "Serve it all at once: database, schema, templates, keys, workers and HTTP." },
  { "serve", "Serve over the configured database: HTTP, workers and keeper, restarted and reloaded." },
  { "status", "Is the service running, and how is it? Processes, generation, last reload, queue." },
  { "token", "Make a bearer token: for a user of the demo, or for an operator." },
  { "migrate", "Bring the database's schema up to this program's version." },
  { "env", "Print DATABASE_URL of the database in use, for the shell." },
  { "generate", "Make one device's file now: queue it, work it, record it." },
  { "work", "Work the queue: build, seal and store what is waiting, until told to stop." },
  { "queue", "Look at the queue; run a failed job again, or call one off." },
  { "open", "Open a .ate file with its device and licence key; needs no database." },
  { "verify", "Check who signed a .ate file and that it is whole; needs no licence key." },
  { "license", "Print the licence key that opens a device's file." },
  { "keys", "Make, list or rotate the keys that seal and sign." },
  { "template", "Check, render, compare, test and publish templates." },
  { "jail", "Run scripts that nobody trusts, without any rights, and tell how each one ended." },
  { "gc", "Reconcile the store with the database now: stray objects, lost and damaged files." },
  { "storage", "Copy all files into another store." },
  { "doctor", "Look at database, store, tokens, keys and templates, and say what is wrong." },
  { "config", "Show the configuration: every key, its value and its meaning." },
  { "run", "Run a Lua script inside the engine, with every native module at hand." },
  { "repl", "Try Lua at a prompt, with every native module at hand." },
  { "man", "Print the manual page." },
  { "completion", "Print what makes a shell complete commands and options." },
  { "version", "Print the version." },
}

-- The input was refused: a file, a key, a value, a device or a template. Everything else that fails exits with 1.
local REFUSED = {
  not_ate = true, unsupported = true, truncated = true, trailing_data = true, bad_header = true, wrong_key = true,
  tampered = true, bad_signature = true, unknown_signer = true, bad_archive = true, bad_licence = true, bad_key = true,
  bad_public_key = true, bad_device = true, bad_template = true, template = true, vars = true, unknown_device = true,
  not_entitled = true, unknown_template = true, bad_priority = true, bad_id = true, unknown_job = true,
  bad_state = true, version_taken = true, no_file = true, unknown_plan = true, bad_text = true,
  modules = true, runtime = true, elsewhere = true, no_source = true,
}
-- What the database says of text that is not UTF-8, wherever it was given.
local RENAMED = { ["22021"] = "bad_text" }

local EXIT = { usage = 2 }

local function load_command(name)
  return require("cli." .. name)
end

-- The parser knows every command's name and summary, but the arguments of one only; of all, when `chosen` is true.
local function build_parser(chosen)
  local chosen_parser
  local parser = argparse("atelier", "Makes and serves .ate files: one sealed bundle for each licence and device.")
  parser:command_target "command"
  parser:require_command(false)
  parser:help_max_width(100)
  parser:usage_max_width(100)
  for _, entry in ipairs(COMMANDS) do
    local name, summary = table.unpack(entry)
    local sub = parser:command(name, summary)
    if name == chosen or chosen == true then
      local command = load_command(name)
      chosen_parser = sub
      sub:epilog("Example:\n" .. command.example:gsub("([^\n]+)", "   %1"))
      command.options(sub)
      if not command.for_people_only then
        sub:flag("--json", "Print one JSON object on standard output.")
      else
        sub:epilog(sub._epilog .. "\n\nThere is no --json here: what this prints is for people, or a script's own.")
      end
    end
  end
  parser:epilog("`atelier COMMAND --help` tells more, with an example.\n"
    .. "Exit codes: 0 done, 2 usage, 3 the input was refused, 1 everything else.")
  return parser, chosen_parser
end

--- The whole command line, with every command's arguments: for what describes it.
-- @treturn table parser of argparse
function M.parser()
  return (build_parser(true))
end

-- File names and arguments need not be UTF-8, JSON must be: other bytes become U+FFFD.
local function as_utf8(value)
  if type(value) == "table" then
    local copy = setmetatable({}, getmetatable(value))
    for k, v in pairs(value) do
      copy[as_utf8(k)] = as_utf8(v)
    end
    return copy
  elseif type(value) ~= "string" then
    return value
  end
  local from = 1
  while true do
    local length, bad = utf8.len(value, from)
    if length then
      return value
    end
    value = value:sub(1, bad - 1) .. "\u{FFFD}" .. value:sub(bad + 1)
    from = bad
  end
end

local lost -- {message, errno} of the first output that could not be written

local function note(written, message, number)
  if not written then
    lost = lost or { message, number }
  end
end

local function write_json(object)
  note(io.stdout:write(json.encode(object) or assert(json.encode(as_utf8(object))), "\n"))
end

local function failure(args, message, code)
  code = RENAMED[code] or code
  if args.json then
    write_json { ok = false, code = code, message = message, warnings = json.array {} }
  else
    io.stderr:write(term.red("atelier: "), term.safe(message), "\n")
  end
  return EXIT[code] or (REFUSED[code] and 3) or 1
end

--- Prints the one object of --json; of the warnings it has the codes, which scripts compare.
-- @tparam table result of a command
function M.print_json(result)
  local object = { ok = true, code = "ok", message = "done" }
  for name, value in pairs(result) do
    if name ~= "exit" then
      object[name] = value
    end
  end
  object.warnings = json.array {}
  for i, warning in ipairs(result.warnings or {}) do
    object.warnings[i] = warning.code
  end
  write_json(object)
end

local function success(command, result, args)
  if args.json then
    M.print_json(result)
    return result.exit or 0
  end
  for _, warning in ipairs(result.warnings or {}) do
    io.stderr:write(term.yellow "atelier: warning: ", term.safe(warning.message), "\n")
  end
  if command.show then
    command.show(result, args)
  end
  return result.exit or 0
end

-- The exit code, once all that was printed is written. A reader that has seen enough (`| head`) knows that itself.
local function finish(code)
  note(io.stdout:flush())
  if lost and lost[2] ~= errno.EPIPE then
    io.stderr:write(term.red("atelier: "), "standard output: ", lost[1], "\n")
  end
  return lost and code == 0 and 1 or code
end

-- argparse ends the process itself when it has printed a help.
local function parse(parser, argv)
  local exit = os.exit
  rawset(os, "exit", function(code) exit(finish(code)) end)
  local ok, args = parser:pparse(argv)
  rawset(os, "exit", exit)
  return ok, args
end

-- The first word that is no option, so that only that command's arguments need building.
local function chosen_command(argv)
  for _, word in ipairs(argv) do
    if word:sub(1, 1) ~= "-" then
      return word
    end
  end
end

local function asks_json(argv)
  for _, word in ipairs(argv) do
    if word == "--json" then
      return true
    end
  end
  return false
end

-- argparse tells a value that an option cannot take, but not which option.
local function name_option(message, argv)
  local value = message:match "^malformed argument '(.*)'$"
  for i = 1, value and #argv or 0 do
    local before, option, rest = argv[i - 1] or "", argv[i]:match "^(%-%-[^=]+)=(.*)$"
    if rest == value or (argv[i] == value and before:find "^%-") then
      return ("option '%s': %s"):format(rest == value and option or before, message)
    end
  end
  return message
end

local function usage_error(parser, message, argv)
  message = name_option(message, argv)
  if asks_json(argv) then
    return failure({ json = true }, message, "usage")
  end
  io.stderr:write(parser:get_usage(), "\n\n", term.red("atelier: "), term.safe(message), "\n")
  return EXIT.usage
end

-- With --json a defect, too, is told in one object; standard error gets the rest, as it does without.
local function attempt(command, args)
  if not args.json then
    return command.run(args)
  end
  local sound, result, message, code = xpcall(command.run, debug.traceback, args)
  if sound then
    return result, message, code
  end
  local problem = tostring(result)
  io.stderr:write("atelier: internal error, please report: ", term.safe(problem), "\n")
  return nil, "internal error, please report: " .. problem:match "^[^\n]*", "internal"
end

local function run(argv)
  local chosen = chosen_command(argv)
  local parser, chosen_parser = build_parser(chosen)
  if #argv == 0 then
    io.stdout:write(parser:get_help(), "\n")
    return 0
  end
  if argv[1] == "--version" then
    argv = { "version" }
  end
  -- `run` hands everything after the script to the script, options too.
  local tail
  if chosen == "run" and argv[1] == "run" and argv[2] and argv[2]:sub(1, 1) ~= "-" then
    tail = table.pack(table.unpack(argv, 3))
    argv = { "run", argv[2] }
  end
  local ok, args = parse(parser, argv)
  if not ok then
    if args:find("'--json'", 1, true) and chosen_parser and load_command(chosen).for_people_only then
      args = ("`atelier %s` has no --json: what it prints is for people, or a script's own"):format(chosen)
    end
    return usage_error(chosen_parser or parser, args, argv)
  end
  args.tail = tail or {}
  if not args.command then
    return usage_error(parser, "a command is missing", argv)
  end
  local command = load_command(args.command)
  local result, message, code = attempt(command, args)
  if not result then
    return failure(args, message, code)
  end
  return success(command, result, args)
end

-- As Lua's own, which flushes, too, and tells nobody when that fails.
local function print_checked(...)
  local words = table.pack(...)
  for i = 1, words.n do
    words[i] = tostring(words[i])
  end
  note(io.stdout:write(table.concat(words, "\t"), "\n"))
  note(io.stdout:flush())
end

--- Runs one command. Nobody may take what could not be written for done: the exit code is 1 then.
-- @tparam table argv the words after the program's name; argv[0] is the program
-- @treturn integer exit code: 0 done, 2 usage, 3 the input was refused, 1 everything else
function M.main(argv)
  rawset(_G, "print", print_checked)
  return finish(run(argv))
end

return M
