local host = require "atelier.host"
local line = require "atelier.line"

local M = {
  for_people_only = true,
  example = "atelier repl\n> crypto.hex(crypto.sha256 'abc')",
}

function M.options() end

local MODULES = { "crypto", "json", "zip", "pg", "http", "fs" }

local function environment()
  local env = setmetatable({}, { __index = _G })
  for _, name in ipairs(MODULES) do
    env[name] = require("atelier." .. name)
  end
  return env
end

-- An expression is tried first, then a statement; a statement that wants more reads on.
local function compile(text, env)
  local chunk = load("return " .. text, "=repl", "t", env)
  if chunk then
    return chunk
  end
  local problem
  chunk, problem = load(text, "=repl", "t", env)
  return chunk, problem, problem ~= nil and problem:find("<eof>", 1, true) ~= nil
end

local function show(ok, ...)
  if not ok then
    print("error: " .. tostring((...)))
  elseif select("#", ...) > 0 then
    print(...)
  end
end

local function read_chunk(env)
  local text = line.read("> ")
  while text do
    local chunk, problem, incomplete = compile(text, env)
    if not incomplete then
      line.remember((text:gsub("\n", " ")))
      return chunk, problem
    end
    local more = line.read(">> ")
    if not more then
      return nil, problem
    end
    text = text .. "\n" .. more
  end
  return nil
end

function M.run()
  local home = os.getenv "HOME"
  local history = home and home .. "/.atelier_history"
  if history then
    line.load(history) -- none yet is fine
  end
  print(("atelier %s, %s. Modules: %s. Control-D ends."):format(host.version, host.lua, table.concat(MODULES, ", ")))
  local env = environment()
  while true do
    local chunk, problem = read_chunk(env)
    if chunk then
      show(xpcall(chunk, debug.traceback))
    elseif problem then
      print(problem)
    else
      break
    end
  end
  if history then
    line.save(history, 1000)
  end
  return {}
end

return M
