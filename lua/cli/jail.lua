local config = require "config"
local fcntl = require "posix.fcntl"
local jail = require "jail"
local json = require "atelier.json"
local native = require "atelier.jail"
local runtime = require "runtime"
local session = require "cli.session"
local stat = require "posix.sys.stat"
local stdio = require "posix.stdio"
local dirent = require "posix.dirent"
local term = require "cli.term"
local unistd = require "posix.unistd"

local M = {
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
  parser:description("Exit code 0: all ended well; 3: a script did not, or a file, folder or runtime was refused.")
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
  local settings, problems = config.look()
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
  return limits, settings, problems
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

local function refused(message, verdict)
  return { verdict = verdict or "error", message = message, usage = { time_ms = 0, output_bytes = 0 }, output = "",
    calls = {} }
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
  verdict, message, code = child:run { source = text, name = name:sub(1, 255), modules = setting.modules,
    check = false }
  if code == "killed" then
    return refused(message, "crash")
  end
  return verdict, message, code
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

local function entry_of(path, v)
  return {
    file = plain(path), verdict = v.verdict, message = plain(v.message),
    script = v.script and plain(v.script) or json.null, line = v.line or json.null,
    usage = v.usage, output = v.output, calls = next(v.calls) and v.calls or nil, faults = v.faults,
  }
end

local function row(v)
  local usage = v.usage
  local script = v.script ~= json.null and v.script or ""
  local place = v.line ~= json.null and ("%s:%d"):format(script, v.line) or script
  return { term.safe(v.file), v.verdict == "ok" and term.green "ok" or term.red(v.verdict), place,
    usage.instructions and tostring(usage.instructions) or "-", usage.memory and term.size(usage.memory) or "-",
    term.duration(usage.time_ms), (v.message:gsub("%s+", " ")) }
end

--- One file's output is shown; that of several would be a jumble.
function M.show(result)
  local files, rows = result.files, {}
  if #files == 1 and files[1].output ~= "" then
    io.stdout:write(files[1].output, files[1].output:sub(-1) == "\n" and "\n" or "\n\n")
  end
  for i, entry in ipairs(files) do
    rows[i] = row(entry)
  end
  term.columns({ "file", "verdict", "place", "instructions", "memory", "time", "message" }, rows)
end

-- What came of them all, in the words of --json.
local function result_of(files, problems)
  local result = { files = files, warnings = session.warnings(problems) }
  for _, entry in ipairs(files) do
    if entry.verdict ~= "ok" and not result.exit then
      result.ok, result.exit, result.code = false, 3, "script"
      result.message = ("%s: %s: %s"):format(entry.file, entry.verdict, entry.message)
    end
  end
  return result
end

function M.run(args)
  local limits, settings, problems = limits_of(args)
  if not limits then
    return nil, settings, problems
  end
  local setting, message, code = setting_of(args, limits, settings)
  if not setting then
    return nil, message, code
  end
  local files = json.array {}
  for i, path in ipairs(args.file) do
    local verdict
    verdict, message, code = run_file(path, setting, i < #args.file)
    if not verdict then
      return nil, message, code
    end
    files[i] = entry_of(path, verdict)
  end
  return result_of(files, problems)
end

return M
