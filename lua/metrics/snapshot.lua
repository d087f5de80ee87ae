--- The metrics of all processes of this host as one text: each leaves a snapshot in a folder, any of them merges.
--
-- A snapshot is a file PROCESS.PID.prom: a first line that names its process, a registry's text, a last line that says
-- that it is whole. It appears by rename. A snapshot that is broken, or whose process is gone, is left out (and the
-- latter removed): what one process does wrong must not take the others' figures away.
-- @module metrics.snapshot
local dirent = require "posix.dirent"
local format = require "metrics.format"
local unistd = require "posix.unistd"

local M = {}

local FIRST = "# process %d %s %s"
local LAST = "# whole"
local LONGEST = 4 << 20 -- bytes of a snapshot

local function slurp(path)
  local file = io.open(path, "rb")
  local text = file and file:read(LONGEST)
  if file then
    file:close()
  end
  return text
end

--- When a process began, in the kernel's ticks since the machine's start: with its pid, no other has the same.
-- @tparam integer pid
-- @treturn[1] string
-- @treturn[2] nil when there is none
function M.started(pid)
  local fields = (slurp(("/proc/%d/stat"):format(pid)) or ""):match "%) (.*)"
  return fields and fields:match(("%S+ "):rep(19) .. "(%d+)")
end

-- ==== saving ====

--- Leaves a snapshot of this process.
-- @tparam string folder
-- @tparam string process its name, like "front 1"
-- @tparam string text of the registry
-- @treturn[1] boolean true
-- @return[2] nil
-- @treturn[2] string message
function M.save(folder, process, text)
  local pid = unistd.getpid()
  local path = ("%s/%s.%d.prom"):format(folder, process:gsub("[^%w]", "_"), pid)
  local file, message = io.open(path .. ".new", "wb")
  if not file then
    return nil, message
  end
  local ok
  ok, message = file:write(FIRST:format(pid, M.started(pid) or "0", (process:gsub("%c", " "))), "\n", text, LAST, "\n")
  local closed, problem = file:close()
  if ok and closed then
    ok, message = os.rename(path .. ".new", path)
  end
  if not (ok and closed) then
    os.remove(path .. ".new")
    return nil, message or problem
  end
  return true
end

-- ==== reading ====

-- The family whose sample this is: a histogram's are named after it.
local function family_of(families, name)
  local base = name:match "^(.*)_bucket$" or name:match "^(.*)_sum$" or name:match "^(.*)_count$"
  local family = base and families[base]
  return family and family.kind == "histogram" and family or families[name]
end

-- One line of a snapshot goes into `families`, by name and in `families` order. False: it is none.
local function take(families, line)
  local name, help = line:match "^# HELP ([%w_:]+) (.*)$"
  if name then
    if families[name] then
      return false
    end
    families[#families + 1] = { name = name, help = help, samples = {} }
    families[name] = families[#families]
    return true
  end
  local kind
  name, kind = line:match "^# TYPE ([%w_:]+) (%a+)$"
  if name then
    local family = families[#families]
    if not family or family.name ~= name or family.kind then
      return false
    end
    family.kind = kind
    return true
  end
  local labels, value
  name, labels, value = format.parse(line)
  local family = name and family_of(families, name)
  if family ~= families[#families] or not (family and family.kind) then
    return false
  end
  family.samples[#family.samples + 1] = { name, labels, value }
  return true
end

local function parse(text)
  local families = {}
  for line in text:gmatch "([^\n]*)\n" do
    if not take(families, line) then
      return nil
    end
  end
  return families
end

local function read(path)
  local text = slurp(path) or ""
  local pid, started, process, body = text:match(("^# process (%%d+) (%%d+) ([^\n]*)\n(.*)%s\n$"):format(LAST))
  if not pid then
    return nil
  elseif M.started(tonumber(pid)) ~= started then
    os.remove(path)
    return nil
  end
  local families = parse(body)
  return families and { pid = tonumber(pid), started = tonumber(started), process = process, families = families }
end

-- The other processes' snapshots, the youngest process first.
local function read_all(folder)
  local found = {}
  local ok, names = pcall(dirent.dir, folder)
  for _, name in ipairs(ok and names or {}) do
    local pid = tonumber(name:match "%.(%d+)%.prom$")
    local snapshot = pid and pid ~= unistd.getpid() and read(folder .. "/" .. name)
    if snapshot then
      found[#found + 1] = snapshot
    end
  end
  table.sort(found, function(a, b)
    if a.started ~= b.started then
      return a.started > b.started
    end
    return a.pid > b.pid
  end)
  return found
end

-- ==== merging ====

-- Adds one process's samples. Where processes disagree on what a name is, the first is right.
local function merge(into, families, process)
  local label = process and format.labels({ "process" }, { process })
  for _, family in ipairs(families) do
    local known = into[family.name]
    if not known then
      known = { name = family.name, help = family.help, kind = family.kind, lines = {} }
      into[family.name] = known
      into[#into + 1] = known
    end
    for _, sample in ipairs(known.kind == family.kind and family.samples or {}) do
      local labels = sample[2]
      if label then
        labels = labels == "" and label or label .. "," .. labels
      end
      known.lines[#known.lines + 1] = labels == "" and sample[1] .. " " .. sample[3]
        or ("%s{%s} %s"):format(sample[1], labels, sample[3])
    end
  end
end

--- All processes' metrics. After a reload two processes bear one name for a while: the older one's pid is added.
-- @tparam ?string folder
-- @tparam string process this one's name
-- @tparam string text of this process's registry
-- @tparam[opt] string extra text in the same form, of nobody in particular: it gets no label `process`
-- @treturn string
function M.collect(folder, process, text, extra)
  local merged, taken = {}, { [process] = true }
  merge(merged, assert(parse(text)), process)
  for _, snapshot in ipairs(folder and read_all(folder) or {}) do
    local name = snapshot.process
    if taken[name] then
      name = ("%s (%d)"):format(name, snapshot.pid)
    end
    taken[name] = true
    merge(merged, snapshot.families, name)
  end
  merge(merged, extra and assert(parse(extra)) or {})
  local lines = {}
  for _, family in ipairs(merged) do
    lines[#lines + 1] = ("# HELP %s %s"):format(family.name, family.help)
    lines[#lines + 1] = ("# TYPE %s %s"):format(family.name, family.kind)
    table.move(family.lines, 1, #family.lines, #lines + 1, lines)
  end
  return table.concat(lines, "\n") .. "\n"
end

return M
