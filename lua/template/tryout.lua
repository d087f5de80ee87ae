--- Runs the scripts of a rendered bundle in a jail: as a device would, and once for each button of its first dialog, so
-- that what hides behind a button runs too.
-- Owns the child and its replacement after a bad end. Knows neither plans nor how the texts were rendered.
-- @module template.tryout

local jail = require "jail"
local native = require "atelier.jail"
local runtime = require "runtime"

local M = {}

--- The runtime of a template that names none; the same as in the database.
M.RUNTIME = "autotouch"
--- The script that a device starts.
M.MAIN = "main.lua"

--- Buttons of one dialog that are tried.
M.PRESSES = 24
local REPORT <const> = "tryout report" -- the last line printed; tabs between its fields

-- Presses the button of that number in the first dialog; tells the buttons' titles and which siblings were asked for.
-- Its `require` is a chunk of no known name: places in messages stay those of the script that asked.
local DRIVER <const> = [[
local wanted = %d
local dialog_, kinds = rawget(_G, "dialog"), rawget(_G, "CONTROLLER_TYPE") or {}
local asked, titles = {}, {}
require = load("local f, asked = ... return function(x) asked[#asked + 1] = tostring(x) return f(x) end", "=?")(require,
  asked)
if dialog_ then
  function dialog(controls)
    local answer = dialog_(controls)
    for i = 1, wanted and type(controls) == "table" and #controls or 0 do
      local control = controls[i]
      if type(control) == "table" and control.type ~= nil and control.type == kinds.BUTTON then
        titles[#titles + 1] = tostring(control.title):gsub("%%c", " ")
        if #titles == wanted then answer = control.flag or wanted end
      end
    end
    wanted = nil
    return answer
  end
end
dofile "main.lua"
print("\ntryout report\t" .. #titles .. "\t" .. table.concat(titles, "\t") .. "\t" .. table.concat(asked, "\t"))
]]

local Tryout = {}
Tryout.__index = Tryout

--- A new tryout. Close it.
-- @tparam table options `runtime` (name), `config` (limits and walls: keys `jail_*` and `runtimes_dir`), `results`
--   (what functions of the runtime answer, by name, each a list)
-- @treturn[1] table tryout, with `limits` as they are in force
-- @return[2] nil
-- @treturn[2] string message
-- @treturn[2] string code "runtime", or why the jail cannot be had: "no_wall", "start", an errno's symbol
function M.new(options)
  local config = options.config or {}
  local prelude, message, code = runtime.load(options.runtime or M.RUNTIME,
    { folder = config.runtimes_dir, results = options.results })
  if not prelude then return nil, message, code end
  local self = setmetatable({ prelude = prelude, asked = jail.limits(config), modules = {} }, Tryout)
  self.limits = { memory = self.asked.memory or 32 << 20, instructions = self.asked.instructions or 10000000,
    time = self.asked.time or 2, output = self.asked.output or 65536 }
  return self
end

--- Gives up the child.
-- @function tryout:close
function Tryout:close()
  if self.child then self.child:close() end
  self.child = nil
end

Tryout.__close = Tryout.close

--- Takes the scripts of a bundle; the runs that follow are among them.
-- @tparam table texts by name; those that are not Lua are passed over
-- @function tryout:load
function Tryout:load(texts)
  self:close()
  self.modules = {}
  for name, text in next, texts do
    if name:find("%.lua$") then self.modules[name] = text end
  end
end

-- A child with the bundle loaded; or nil and a verdict about it, or nil, nil, message, code.
local function ready(self)
  if self.child then return self.child end
  local child, message, code = native.new(self.asked)
  if not child then return nil, nil, message, code end
  local verdict
  local prelude = self.prelude
  verdict, message, code = child:load { modules = self.modules, name = prelude.name, prelude = prelude.prelude }
  if verdict and verdict.verdict == "ok" then
    self.child = child
    return child
  end
  child:close()
  if verdict and verdict.verdict == "error" then
    return nil, nil, ("runtime: %s: line %s: %s"):format(prelude.name, verdict.line or "?", verdict.message), "runtime"
  end
  return nil, verdict, message, code
end

--- Runs one script.
-- @tparam table job `source`, `name`, `modules`: see `atelier.jail`
-- @treturn[1] table verdict
-- @return[2] nil
-- @treturn[2] string message: the jail or the runtime failed
-- @treturn[2] string code
-- @function tryout:run
function Tryout:run(job)
  local child, verdict, message, code = ready(self)
  if not child then return verdict, message, code end
  verdict, message, code = child:run(job)
  if not verdict or verdict.verdict ~= "ok" then self:close() end
  return verdict, message, code
end

--- Runs main.lua as a device does.
-- @tparam[opt] table changes texts that count instead of the loaded ones
-- @treturn[1] table verdict
-- @return[2] nil
-- @treturn[2] string message
-- @treturn[2] string code
-- @function tryout:main
function Tryout:main(changes)
  local source = changes and changes[M.MAIN] or self.modules[M.MAIN]
  return self:run { name = M.MAIN, source = source, modules = changes }
end

-- Takes the driver's report off the end of the output.
local function read_report(verdict)
  local output = verdict.output or ""
  local body, count, fields = output:match("^(.*)\n" .. REPORT .. "\t(%d+)\t([^\n]*)\n$")
  verdict.asked, verdict.titles = {}, {}
  if not body then return end
  local usage = verdict.usage
  usage.output_bytes = math.max(0, usage.output_bytes - #output + #body)
  verdict.output, verdict.buttons = body, tonumber(count)
  for field in (fields .. "\t"):gmatch("([^\t]*)\t") do
    if #verdict.titles < verdict.buttons then
      table.insert(verdict.titles, field)
    elseif field ~= "" then
      table.insert(verdict.asked, field)
    end
  end
end

--- Runs main.lua and presses a button of its first dialog.
-- @tparam integer number from 1; with 0 the runtime answers by itself
-- @treturn[1] table verdict, with `press` (the number), and when it is "ok" `title`, `titles` and `buttons` (how many
--   there are) and `asked` (siblings, as they were asked for) besides
-- @return[2] nil
-- @treturn[2] string message
-- @treturn[2] string code
-- @function tryout:press
function Tryout:press(number)
  local verdict, message, code = self:run { name = "(button " .. number .. ")", source = DRIVER:format(number) }
  if not verdict then return nil, message, code end
  read_report(verdict)
  if verdict.message then verdict.message = verdict.message:gsub("^%?:%d+: ", "") end
  verdict.press, verdict.title = number, verdict.titles[number]
  return verdict
end

--- Runs main.lua once for each button of its first dialog.
-- @treturn[1] table list of verdicts of `press`, beginning with that of 0
-- @return[2] nil
-- @treturn[2] string message
-- @treturn[2] string code
-- @function tryout:presses
function Tryout:presses()
  local verdicts, number, buttons = {}, 0, 0
  repeat
    local verdict, message, code = self:press(number)
    if not verdict then return nil, message, code end
    buttons = verdict.buttons or buttons
    if verdicts[1] then verdict.title = verdicts[1].titles[number] end
    number = number + 1
    verdicts[number] = verdict
  until number > buttons or number > M.PRESSES
  return verdicts
end

--- Loads one sibling alone.
-- @tparam string name its file name
-- @treturn[1] table verdict
-- @return[2] nil
-- @treturn[2] string message
-- @treturn[2] string code
-- @function tryout:alone
function Tryout:alone(name)
  return self:run { name = "(alone)", source = ("dofile %q"):format(name) }
end

return M
