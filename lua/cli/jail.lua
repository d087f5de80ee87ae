local config = require "config"
local fcntl = require "posix.fcntl"
local jail = require "jail"
local json = require "atelier.json"
local native = require "atelier.jail"
local runtime = require "runtime"
local stat = require "posix.sys.stat"
local stdio = require "posix.stdio"
local dirent = require "posix.dirent"
local term = require "cli.term"
local unistd = require "posix.unistd"

local M = {
  for_people_only = true, -- --json prints a line for each file, and not one object
  example = "atelier jail script.lua\natelier jail *.lua --modules lib --runtime autotouch --time 500ms --json",
}

local SIZE = { [""] = 1, k = 1024, m = 1024 ^ 2, g = 1024 ^ 3 }
local COUNT = { [""] = 1, k = 1e3, m = 1e6, g = 1e9 }
local TIME = { [""] = 1, s = 1, ms = 0.001, m = 60, min = 60 }
local DEEPEST <const> = 8 -- folders below --modules

function M.options(parser)
  parser:argument("file", "Scripts, each run by itself in a jail."):args "+"
  parser:option("--modules", "A folder of scripts that `require` and `dofile` find."):argname "DIR"
  parser:option("--runtime", "The application whose functions are there, for instance autotouch."):argname "NAME"
  parser:option("--memory", "Most bytes of memory, as in 500K or 32M (default 32M)."):argname "SIZE"
  parser:option("--instructions", "Most instructions, as in 10M, for 10 million (default)."):argname "COUNT"
  parser:option("--time", "Most time, as in 500ms or 4s (default 2s)."):argname "TIME"
  parser:option("--output", "Most bytes that it may print (default 64K)."):argname "SIZE"
  parser:flag("--json", "Print one line of JSON for each file.")
end

-- "32M" with the factors of its unit; a sign, a space or another unit is none.
local function quantity(option, text, units, least, most, integer)
  if not text then
    return nil
  end
  local number, unit = text:match "^(%d+%.?%d*)(%a*)$"
  local name = number and unit:lower():gsub("^([kmg])i?b$", "%1")
  local factor = name and units[name]
  local value = factor and tonumber(number) * factor
  if not value or value < least or value > most then
    local names = {}
    for known in pairs(units) do
      names[#names + 1] = known ~= "" and known or nil
    end
    table.sort(names)
    return nil, ("jail: --%s: %q is no quantity here; wanted is a number, alone or with one of %s")
      :format(option, text, table.concat(names, ", ")), "usage"
  end
  return integer and math.floor(value) or value
end

local function limits_of(args)
  local settings, problem, code = config.load()
  if not settings then
    return nil, problem, code
  end
  local limits = jail.limits(settings)
  jail.warn(settings)
  for option, rule in pairs {
    memory = { SIZE, 1, 16 * 1024 ^ 3, true }, instructions = { COUNT, 1, 1e15, true },
    time = { TIME, 0.001, 86400, false }, output = { SIZE, 1, 256 * 1024 ^ 2, true },
  } do
    local value, message, wrong = quantity(option, args[option], table.unpack(rule))
    if wrong then
      return nil, message, wrong
    end
    limits[option] = value or limits[option]
  end
  return limits, settings
end

-- A regular file's text; one byte more than `most` is enough to tell that it is too large. Never waits for a fifo.
local function read(path, most)
  local fd, message = fcntl.open(path, fcntl.O_RDONLY | fcntl.O_NONBLOCK | fcntl.O_CLOEXEC)
  if not fd then
    return nil, message
  end
  local info = stat.fstat(fd)
  if not info or stat.S_ISREG(info.st_mode) == 0 then
    unistd.close(fd)
    return nil, path .. ": is not a regular file"
  end
  local file = stdio.fdopen(fd, "r")
  local text, problem = file:read(most + 1)
  file:close()
  return text or (not problem and "") or nil, problem
end

-- The scripts below a folder, by their paths in it. Links are followed to files, not to folders: no circles.
local function gather(modules, folder, prefix, depth, most)
  local readable, names = pcall(dirent.dir, folder) -- it raises
  if not readable then
    return nil, folder .. ": is not a folder that can be read"
  end
  for _, name in ipairs(names) do
    local path, key = folder .. "/" .. name, prefix .. name
    local info = stat.lstat(path)
    if info and stat.S_ISDIR(info.st_mode) ~= 0 and name:sub(1, 1) ~= "." and depth < DEEPEST then
      gather(modules, path, key .. "/", depth + 1, most)
    elseif name:find "%.lua$" and #key <= 255 then
      local text = read(path, most)
      if text and #text <= most then
        modules[key] = text
      end
    end
  end
  return modules
end

local function setting_of(args, limits, settings)
  local setting = { limits = limits }
  if args.modules then
    local modules, message = gather({}, args.modules, "", 1, limits.memory)
    if not modules then
      return nil, "jail: --modules: " .. message, "modules"
    end
    setting.modules = modules
  end
  if args.runtime then
    local found, message, code = runtime.load(args.runtime, { folder = settings.runtimes_dir })
    if not found then
      return nil, message, code
    end
    setting.kit = { name = found.name, prelude = found.prelude }
  end
  return setting
end

local function refused(message)
  return { verdict = "error", message = message, usage = { time_ms = 0, output_bytes = 0 }, output = "", calls = {} }
end

-- Each file has a child of its own; nothing of one is in another. The next one's is started ahead.
local function run_file(path, setting, more)
  local text, message = read(path, setting.limits.memory)
  if not text then
    return refused("cannot be read: " .. message)
  end
  local child, code = setting.spare, nil
  if not child or not child:alive() then -- what others ended is no verdict about this file
    child, message, code = native.new(setting.limits)
  end
  if not child then
    return nil, message, code
  end
  local held <close> = child
  setting.spare = more and native.new(setting.limits) or nil
  local verdict
  if setting.kit then
    verdict, message, code = child:load(setting.kit)
    if not verdict or verdict.verdict ~= "ok" then
      return nil, message or ("runtime: %s: %s"):format(setting.kit.name, verdict.message), code or "runtime"
    end
  end
  local name = path:match "[^/]+$" or "script"
  return child:run { source = text, name = name:sub(1, 255), modules = setting.modules, check = false }
end

-- A file's name may be any bytes; a line of JSON may not.
local function plain(text)
  if not utf8.len(text) then
    text = text:gsub("[\128-\255]", function(c)
      return ("\\x%02x"):format(c:byte())
    end)
  end
  return text
end

-- Flushed at once: whoever reads waits for it. Nobody may take what was not written for a verdict "ok".
local function print_line(path, v)
  local line = assert(json.encode {
    file = plain(path), verdict = v.verdict, message = plain(v.message),
    script = v.script and plain(v.script) or json.null, line = v.line or json.null,
    usage = v.usage, output = v.output, calls = next(v.calls) and v.calls or nil, faults = v.faults,
  })
  local ok, problem = io.stdout:write(line, "\n")
  if ok then
    ok, problem = io.stdout:flush()
  end
  return ok and true, problem
end

local function row(path, v)
  local usage = v.usage
  local place = v.line and ("%s:%d"):format(v.script, v.line) or v.script or ""
  return { term.safe(path), v.verdict == "ok" and term.green "ok" or term.red(v.verdict), place,
    usage.instructions and tostring(usage.instructions) or "-", usage.memory and term.size(usage.memory) or "-",
    term.duration(usage.time_ms), (v.message:gsub("%s+", " ")) }
end

-- One file's output is shown; that of several would be a jumble.
local function show(rows, verdicts)
  if #verdicts == 1 and verdicts[1].output ~= "" then
    io.stdout:write(verdicts[1].output, verdicts[1].output:sub(-1) == "\n" and "\n" or "\n\n")
  end
  term.columns({ "file", "verdict", "place", "instructions", "memory", "time", "message" }, rows)
end

function M.run(args)
  local limits, settings, code = limits_of(args)
  if not limits then
    return nil, settings, code
  end
  local setting, message
  setting, message, code = setting_of(args, limits, settings)
  if not setting then
    return nil, message, code
  end
  local rows, verdicts, all_ok = {}, {}, true
  for i, path in ipairs(args.file) do
    local verdict
    verdict, message, code = run_file(path, setting, i < #args.file)
    if not verdict then
      return nil, message, code
    end
    all_ok = all_ok and verdict.verdict == "ok"
    if args.json then
      local written, problem = print_line(path, verdict)
      if not written then
        args.json = nil
        return nil, "jail: standard output: " .. problem, "io"
      end
    else
      rows[#rows + 1], verdicts[#verdicts + 1] = row(path, verdict), verdict
    end
  end
  if not args.json then
    show(rows, verdicts)
  end
  args.json = nil -- all is printed
  return { exit = all_ok and 0 or 1 }
end

return M
