--- Reads Prometheus' text format 0.0.4 strictly, by its description: what it does not allow is an error with its line.
--
-- Stricter than a scraper: HELP and TYPE once and before the samples, the samples of a family together, no series twice,
-- buckets cumulative and complete, `_count` equal to the last bucket, counters not below 0.
-- @module spec.support.prometheus
local M = {}

local KINDS = { counter = true, gauge = true, histogram = true, summary = true, untyped = true }

local function number(text)
  local special = { NaN = 0 / 0, ["+Inf"] = math.huge, ["-Inf"] = -math.huge }
  return special[text] or assert(text:match "^[-+%d.eE]+$" and tonumber(text), "not a number: " .. text)
end

-- {name = value} of the text after "{", and what follows "}".
local function labels(text)
  local found, at = {}, 1
  while text:sub(at, at) ~= "}" do
    local name, from = text:match('^([%a_][%w_]*)="()', at)
    assert(name, "a label is expected at: " .. text:sub(at))
    assert(not found[name], "label twice: " .. name)
    local value = {}
    at = from
    while text:sub(at, at) ~= '"' do
      local c = text:sub(at, at)
      assert(c ~= "", "a label's value does not end")
      if c == "\\" then
        at = at + 1
        c = assert(({ ["\\"] = "\\", ['"'] = '"', n = "\n" })[text:sub(at, at)], "unknown escape")
      end
      value[#value + 1] = c
      at = at + 1
    end
    found[name] = table.concat(value)
    at = at + 1
    if text:sub(at, at) == "," then
      at = at + 1
    else
      assert(text:sub(at, at) == "}", "comma or brace is expected")
    end
  end
  return found, text:sub(at + 1)
end

local function key_of(set, without)
  local names = {}
  for name in pairs(set) do
    if name ~= without then
      names[#names + 1] = name
    end
  end
  table.sort(names)
  for i, name in ipairs(names) do
    names[i] = ("%s=%q"):format(name, set[name])
  end
  return table.concat(names, ",")
end

local function sample(state, line)
  local name, rest = line:match "^([%a_:][%w_:]*)(.*)$"
  assert(name, "no name")
  local set = {}
  if rest:sub(1, 1) == "{" then
    set, rest = labels(rest:sub(2))
  end
  local value = number(assert(rest:match "^ (%S+)$", "a value is expected"))
  local family = assert(state.open, "a sample before its TYPE")
  local suffix = name == family.name and "" or name:sub(#family.name + 1)
  assert(name == family.name .. suffix, "a sample of another family: " .. name)
  local allowed = family.kind == "histogram" and { _bucket = true, _sum = true, _count = true } or { [""] = true }
  assert(allowed[suffix], "not a sample of a " .. family.kind .. ": " .. name)
  local key = name .. "{" .. key_of(set) .. "}"
  assert(not state.seen[key], "series twice: " .. key)
  assert(family.kind ~= "counter" or value >= 0, "a counter below 0")
  state.seen[key] = true
  family.samples[#family.samples + 1] = { name = name, suffix = suffix, labels = set, value = value }
end

local function comment(state, line)
  local word, name, rest = line:match "^# (%u+) ([%a_:][%w_:]*) (.*)$"
  if word == "HELP" then
    assert(not state.families[name], "HELP twice: " .. name)
    assert(not rest:gsub("\\[\\n]", ""):find("\\", 1, true), "unknown escape in HELP")
    state.open = nil
    state.families[name] = { name = name, help = rest, samples = {} }
  elseif word == "TYPE" then
    local family = state.families[name] or { name = name, samples = {} }
    assert(not family.kind, "TYPE twice: " .. name)
    assert(KINDS[rest], "unknown TYPE: " .. rest)
    family.kind = rest
    state.families[name], state.open = family, family
  end
end

-- The buckets of each series of a histogram.
local function check_histogram(family)
  local series = {}
  for _, s in ipairs(family.samples) do
    local key = key_of(s.labels, "le")
    series[key] = series[key] or { last = -math.huge, count = 0 }
    local one = series[key]
    if s.suffix == "_bucket" then
      local bound = number(assert(s.labels.le, "bucket without le"))
      assert(bound > one.last and s.value >= one.count, "buckets do not rise: " .. family.name)
      one.last, one.count = bound, s.value
    elseif s.suffix == "_count" then
      assert(one.last == math.huge and s.value == one.count, "_count is not the last bucket: " .. family.name)
      one.has_count = true
    else
      one.has_sum = true
    end
  end
  for key, one in pairs(series) do
    assert(one.has_count and one.has_sum, "histogram is not whole: " .. family.name .. key)
  end
end

--- Reads an exposition; raises what is wrong with it.
-- @tparam string text
-- @treturn table families by name: kind, help, samples {name, labels, value}; `value(name, labels)` finds one
function M.parse(text)
  assert(text:sub(-1) == "\n", "the last line does not end")
  assert(utf8.len(text), "not UTF-8")
  local state, n = { families = {}, seen = {} }, 0
  for line in text:gmatch "([^\n]*)\n" do
    n = n + 1
    local ok, problem = pcall(line:sub(1, 1) == "#" and comment or line ~= "" and sample or function() end, state, line)
    if not ok then
      error(("line %d: %s: %s"):format(n, problem, line), 2)
    end
  end
  for _, family in pairs(state.families) do
    assert(family.kind, "HELP without TYPE: " .. family.name)
    if family.kind == "histogram" then
      check_histogram(family)
    end
  end
  return state.families
end

--- The value of one sample, or nil.
-- @tparam table families as of `parse`
-- @tparam string name of the sample
-- @tparam[opt] table set labels that it must have, among others
function M.value(families, name, set)
  local family = families[name] or families[name:gsub("_%l+$", "")]
  for _, s in ipairs(family and family.samples or {}) do
    local fits = s.name == name
    for label, value in pairs(set or {}) do
      fits = fits and s.labels[label] == value
    end
    if fits then
      return s.value
    end
  end
end

return M
