-- The house (what lies where, who may know whom) and its habits, read off the files themselves.
local listed -- what git lists, asked for once

local function output(command)
  local pipe <close> = assert(io.popen(command, "r"))
  return pipe:read("a")
end

-- The repository's files; outside git (an unpacked archive) those that are there.
local function files(pattern)
  if not listed then
    local names = output("git -c safe.directory='*' ls-files -z 2>/dev/null")
    if names == "" then
      names = output("find . -path ./build -prune -o -path ./var -prune -o -type f -print0"):gsub("%./", "")
    end
    listed = names
  end
  local found = {}
  for name in listed:gmatch("%Z+") do
    if name:match(pattern) then found[#found + 1] = name end
  end
  return found
end

local cache = {}
local function read(name)
  if not cache[name] then
    local file = io.open(name, "rb") -- nil: deleted here, not yet committed
    cache[name] = file and file:read("a") or ""
    if file then file:close() end
  end
  return cache[name]
end

local function lines(name)
  local all = {}
  for line in (read(name):gsub("\n$", "") .. "\n"):gmatch("(.-)\n") do
    all[#all + 1] = line
  end
  return all
end

-- One readable failure for all that is wrong, instead of the first alone.
local function assert_none(faults)
  assert(#faults == 0, table.concat(faults, "\n"))
end

local function set(words)
  local members = {}
  for word in words:gmatch("%S+") do
    members[word] = true
  end
  return members
end

-- Lua text without comments, so that what they mention is not taken for code.
local function code_of(name)
  return (read(name):gsub("%-%-%[(=*)%[.-%]%1%]", ""):gsub("%-%-[^\n]*", ""))
end

local function requires(name)
  local found = {}
  for module in code_of(name):gmatch("require%s*%(?%s*[\"']([%w_.]+)[\"']") do
    found[#found + 1] = module
  end
  return found
end

describe("the top level", function()
  it("has nothing but what the house is made of", function()
    local allowed = set "Makefile README.md LICENSE host lua templates sql spec rocks"
    local faults, seen = {}, {}
    for _, name in ipairs(files "") do
      local top = name:match("^[^/]+")
      if not allowed[top] and top:sub(1, 1) ~= "." and not seen[top] then
        seen[top] = true
        faults[#faults + 1] = top .. ": does not belong at the top level"
      end
    end
    assert_none(faults)
  end)

  it("is all there", function()
    local faults = {}
    for _, name in ipairs { "Makefile", "README.md", "LICENSE", ".editorconfig", ".clang-format", ".luacheckrc", ".ci/run" } do
      if read(name) == "" then faults[#faults + 1] = name .. ": missing" end
    end
    assert_none(faults)
  end)

  it("holds nothing that was made, and no text that is not text", function()
    local faults = {}
    for _, name in ipairs(files "") do
      if name:match("^build/") or name:match("^var/") or name:match("%.o$") or name:match("%.so$") then
        faults[#faults + 1] = name .. ": is made, not written"
      end
      local ending = name:match("%.([^./]+)$") or ""
      if set("c h lua sql md sh json js mjs html ld rockspec")[ending] then
        local text = read(name)
        if not utf8.len(text) then faults[#faults + 1] = name .. ": not UTF-8" end
        if text:find("\r") then faults[#faults + 1] = name .. ": has carriage returns" end
        if text ~= "" and text:sub(-1) ~= "\n" then faults[#faults + 1] = name .. ": no newline at the end" end
      end
    end
    assert_none(faults)
  end)
end)

describe("the arrows", function()
  -- Words that only the product has: "template" is mkstemp's too, "license" a rockspec's.
  local product = {
    "smartgram", "supabase", "autotouch", "subscription", "device_hash", "license_key", "licence", "plan_tools", "%f[%w_]ate_%w+",
    "%f[%w]ATE1%f[%W]", "%f[%w]plans?%f[%W]",
  }

  it("host/ names nothing of the product", function()
    local faults = {}
    for _, name in ipairs(files "^host/") do
      for number, line in ipairs(lines(name)) do
        for _, pattern in ipairs(product) do
          local word = line:match(pattern) or line:lower():match(pattern)
          if word then faults[#faults + 1] = ("%s:%d: names %q"):format(name, number, word) end
        end
      end
    end
    assert_none(faults)
  end)

  it("lua/cli and lua/daemon are all of lua/ that host/ enters, and main.c alone does", function()
    local faults = {}
    for _, name in ipairs(files "^host/.*%.[ch]$") do
      local code = read(name):gsub("/%*.-%*/", "")
      for module in code:gmatch("\"([%w_./]+)\"") do
        local path = "lua/" .. module:gsub("%.", "/")
        local is_ours = read(path .. ".lua") ~= "" or read(path .. "/init.lua") ~= ""
        if is_ours and not (name == "host/main.c" and (module:match("^cli") or module == "daemon")) then
          faults[#faults + 1] = ("%s: enters lua/%s"):format(name, module)
        end
      end
    end
    assert_none(faults)
  end)

  local lower, upper = set "ate template storage plans", set "api cli workflow dashboard"

  it("ate, template, storage and plans know nothing of api, cli and workflow", function()
    local faults = {}
    for _, name in ipairs(files "^lua/.*%.lua$") do
      local part = name:match("^lua/([%w_]+)")
      for _, module in ipairs(requires(name)) do
        local whole = module:match("^[%w_]+")
        if lower[part] and upper[whole] then
          faults[#faults + 1] = ("%s: requires %s"):format(name, module)
        end
        if part ~= "cli" and whole == "cli" then
          faults[#faults + 1] = ("%s: requires %s, which only the program enters"):format(name, module)
        end
      end
    end
    assert_none(faults)
  end)

  it("what is at the top of lua/, and config, knows nothing of api, cli, daemon, dashboard and workflow", function()
    local above = set "api cli daemon dashboard workflow"
    local faults = {}
    for _, name in ipairs(files "^lua/.*%.lua$") do
      if name:match("^lua/[%w_]+%.lua$") or name:match("^lua/config/") then
        for _, module in ipairs(requires(name)) do
          if above[module:match("^[%w_]+")] then faults[#faults + 1] = ("%s: requires %s"):format(name, module) end
        end
      end
    end
    assert_none(faults)
  end)

  it("lua/ requires itself, the native modules, luaposix, argparse, LPeg and Expat, and no socket", function()
    local known = set "argparse lpeg lxp"
    known["atelier.host"] = true -- the program itself
    for _, name in ipairs(files "^host/lua_[%w_]+%.c$") do
      known["atelier." .. name:match("lua_([%w_]+)%.c$")] = true
    end
    local faults = {}
    for _, name in ipairs(files "^lua/.*%.lua$") do
      for _, module in ipairs(requires(name)) do
        local path = "lua/" .. module:gsub("%.", "/")
        local is_ours = read(path .. ".lua") ~= "" or read(path .. "/init.lua") ~= ""
        local is_posix = module:match("^posix%.") and not module:match("socket")
        -- A name that ends in a dot is the head of one made at run time, of cli/ or atelier.
        if not (known[module] or is_ours or is_posix or module:match("%.$")) then
          faults[#faults + 1] = ("%s: requires %s"):format(name, module)
        end
      end
    end
    assert_none(faults)
  end)

  it("no Lua module requires itself through others", function()
    local state, faults = {}, {}
    local function visit(module, path)
      local name = "lua/" .. module:gsub("%.", "/")
      name = read(name .. ".lua") ~= "" and name .. ".lua" or name .. "/init.lua"
      if state[module] == "open" then
        faults[#faults + 1] = path .. " → " .. module
      elseif not state[module] and read(name) ~= "" then
        state[module] = "open"
        -- Only what is required at load time, at the left margin, can be a circle.
        for line in code_of(name):gmatch("[^\n]+") do
          local needed = line:match("^local [%w_, ]+ = require%s*%(?%s*[\"']([%w_.]+)[\"']")
          if needed then visit(needed, path .. " → " .. module) end
        end
        state[module] = "done"
      end
    end
    for _, name in ipairs(files "^lua/.*%.lua$") do
      visit(name:match("^lua/(.*)%.lua$"):gsub("/init$", ""):gsub("/", "."), "")
    end
    assert_none(faults)
  end)
end)

describe("the habits", function()
  -- The aim is 800 in C and 250 in Lua; past these a file holds two things.
  it("keep files at a size that one can read", function()
    local faults = {}
    local function limit(pattern, most)
      for _, name in ipairs(files(pattern)) do
        local count = #lines(name)
        if count > most then faults[#faults + 1] = ("%s: %d lines, at most %d"):format(name, count, most) end
      end
    end
    limit("^host/.*%.[ch]$", 900)
    limit("^lua/.*%.lua$", 300)
    assert_none(faults)
  end)

  it("keep lines within 120 columns", function()
    local faults = {}
    for _, name in ipairs(files "^sql/.*%.sql$") do
      for number, line in ipairs(lines(name)) do
        local columns = utf8.len(line)
        -- A stamp is one line, as long as its name and its sum.
        if columns > 120 and not line:match("^select public%.record_ate_migration") then
          faults[#faults + 1] = ("%s:%d: %d columns"):format(name, number, columns)
        end
      end
    end
    assert_none(faults)
  end)

  it("keep functions within 80 lines", function()
    local faults = {}
    local function check(name, first, last, what)
      if last - first + 1 > 80 then
        faults[#faults + 1] = ("%s:%d: %d lines: %s"):format(name, first, last - first + 1, what)
      end
    end
    for _, name in ipairs(files "^host/.*%.[ch]$") do
      local start
      local all = lines(name)
      for number, line in ipairs(all) do
        if line == "{" then start = number end
        if line == "}" and start then
          check(name, start, number, all[start - 1])
          start = nil
        end
      end
    end
    for _, name in ipairs(files "^lua/.*%.lua$") do
      local open = {}
      for number, line in ipairs(lines(name)) do
        local indent = line:match("^( *)%S") or ""
        local rest = line:match("%f[%w]function%f[%W](.*)$")
        if rest and not rest:match("%f[%w]end%f[%W]") and not line:match("^ *%-%-") then
          open[indent] = { number = number, line = line }
        elseif line:match("^ *end%f[%W]") and open[indent] then
          check(name, open[indent].number, number, open[indent].line)
          open[indent] = nil
        end
      end
    end
    assert_none(faults)
  end)

  it("start every file by saying what it owns", function()
    local faults = {}
    for _, name in ipairs(files "^host/.*%.[ch]$") do
      if not read(name):match("^/%*") then faults[#faults + 1] = name .. ": no head comment" end
    end
    for _, name in ipairs(files "^lua/.*%.lua$") do
      -- A subcommand is described by its parser.
      if not name:match("^lua/cli/") and not read(name):match("^%-%-") then faults[#faults + 1] = name .. ": no head comment" end
    end
    assert_none(faults)
  end)

  -- Who follows a job or a file through the logs of all processes looks for one name.
  it("log one thing under one name", function()
    local names = { job = "queue_id", file = "ate_file_id", artifact = "ate_file_id", ms = "milliseconds",
      duration = "milliseconds", error = "reason", message = "reason", request_id = "request", user_id = "user",
      device_hash = "device" }
    local faults = {}
    for _, name in ipairs(files "^lua/.*%.lua$") do
      local code = code_of(name)
      for _, call in ipairs { "log%.%l+", "log%[.-%]", "call:note" } do
        for arguments in code:gmatch("%f[%w]" .. call .. "(%b())") do
          for field in arguments:gmatch "[{,]%s*([%l_]+) = " do
            faults[#faults + 1] = names[field] and ("%s: logs %s: it is %s elsewhere"):format(name, field, names[field])
          end
        end
      end
    end
    assert_none(faults)
  end)

  it("name no host of a package registry", function()
    local faults = {}
    for _, name in ipairs(files "") do
      for _, host in ipairs { "debian%.org", "ubuntu%.com", "luarocks%.org", "npmjs%.", "nodesource%." } do
        if read(name):find(host) then faults[#faults + 1] = name .. ": names " .. host:gsub("%%", "") end
      end
    end
    assert_none(faults)
  end)
end)

describe("the reference", function()
  -- Each module's text: host/lua_NAME.c and the headers that are its own, host/NAME_*.h.
  local function modules()
    local found = {}
    for _, name in ipairs(files "^host/lua_[%w_]+%.c$") do
      local module = name:match("lua_([%w_]+)%.c$")
      local text = read(name)
      for _, header in ipairs(files("^host/" .. module .. "_[%w_]+%.h$")) do
        text = text .. read(header)
      end
      found[#found + 1] = { name = module, text = text }
    end
    return found
  end

  -- Names bound in luaL_Reg tables: "name" in …_funcs, "class:name" in CLASS_methods.
  local function bound(text)
    local names = {}
    for class, kind, body in text:gmatch("luaL_Reg%s+([%w_]+)_(%a+)%[%]%s*=%s*(%b{})") do
      for name in body:gmatch("{%s*\"([%w_]+)\"%s*,%s*[%w_]+%s*}") do
        if kind == "funcs" then names[name] = true end
        if kind == "methods" then names[class .. ":" .. name] = true end
      end
    end
    return names
  end

  local function documented(text)
    local names = {}
    for name in text:gmatch("@function%s+([%w_:]+)") do
      names[name] = true
    end
    return names
  end

  it("has every function that is bound, and no other", function()
    local faults, count = {}, 0
    for _, module in ipairs(modules()) do
      local has, says = bound(module.text), documented(module.text)
      for name in pairs(has) do
        count = count + 1
        if not says[name] then faults[#faults + 1] = ("atelier.%s: %s is not documented"):format(module.name, name) end
      end
      for name in pairs(says) do
        if not has[name] then faults[#faults + 1] = ("atelier.%s: %s does not exist"):format(module.name, name) end
      end
    end
    table.sort(faults)
    assert_none(faults)
    assert(count > 0)
  end)

  it("has a page for every module", function()
    local faults = {}
    for _, module in ipairs(modules()) do
      if not module.text:match("^/%*%*%*.-@module%s+atelier%." .. module.name .. "%f[^%w_]") then
        faults[#faults + 1] = ("atelier.%s: does not begin with /*** and a @module"):format(module.name)
      end
    end
    -- Every file that holds a piece of the reference is in ldoc's list.
    local listed_for_ldoc = read "rocks/config.ld"
    for _, name in ipairs(files "^host/.*%.[ch]$") do
      if read(name):find("/***", 1, true) and not listed_for_ldoc:find('"../' .. name .. '"', 1, true) then
        faults[#faults + 1] = name .. ": not in rocks/config.ld"
      end
    end
    assert_none(faults)
  end)

  it("has the public functions of lua/", function()
    local faults = {}
    for _, name in ipairs(files "^lua/.*%.lua$") do
      local all = lines(name)
      for number, line in ipairs(all) do
        if line:match("^function M[.:][%w_]+") and not name:match("^lua/cli/") then
          local above, is_documented = number - 1, false
          while above > 0 and all[above]:match("^%-%-") do
            is_documented = is_documented or all[above]:match("^%-%-%-") ~= nil
            above = above - 1
          end
          if not is_documented then
            faults[#faults + 1] = ("%s:%d: no LDoc: %s"):format(name, number, line)
          end
        end
      end
    end
    assert_none(faults)
  end)
end)
