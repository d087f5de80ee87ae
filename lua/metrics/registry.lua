--- Counters, gauges and histograms of this process, with labels.
--
-- An observation is a few table look-ups: no text is made before somebody asks for it. Labels must come from short
-- lists (a route's template, never its path): a family holds at most SERIES label sets, what comes after goes to one
-- whose labels are all "other", so that no caller can fill the memory by inventing values.
--
-- Owns values in memory. Must not know files, processes or what the product counts.
-- @module metrics.registry
local format = require "metrics.format"

local M = {}
local Registry, Family = {}, {}
Registry.__index = Registry

local SERIES = 500  -- label sets of a family
local KNOWN = 2000  -- spellings of label sets (200 and "200") that are remembered

-- Seconds: from a cached answer to a large build.
M.BUCKETS = { 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30 }

-- ==== series ====

-- The slow way, once for each spelling of a label set.
local function find(family, values)
  local texts = {}
  for i = 1, family.count do
    local value = values and values[i]
    texts[i] = value == nil and "" or tostring(value)
  end
  local key = format.labels(family.names, texts)
  local series = family.series[key]
  if not series then
    if family.size >= SERIES then
      for i = 1, family.count do
        texts[i] = "other"
      end
      key = format.labels(family.names, texts)
      series = family.series[key]
    end
    if not series then
      series = family.start(family)
      family.series[key] = series
      family.size = family.size + 1
    end
  end
  return series
end

-- Remembers where this spelling leads: a tree with a level for each label.
local function remember(family, values, series)
  if family.known >= KNOWN then
    return
  end
  local node = family.tree
  for i = 1, family.count do
    local value = values and values[i]
    if value == nil or value ~= value then
      return
    end
    if i == family.count then
      node[value] = series
    else
      node[value] = node[value] or {}
      node = node[value]
    end
  end
  family.known = family.known + 1
end

local function series_of(family, values)
  if family.count == 0 then
    return family.tree
  end
  local node = family.tree
  for i = 1, family.count do
    node = values and values[i] ~= nil and node[values[i]]
    if not node then
      local series = find(family, values)
      remember(family, values, series)
      return series
    end
  end
  return node
end

-- ==== kinds ====

local function single()
  return { value = 0 }
end

local function buckets_of(family)
  local series = { sum = 0, count = 0 }
  for i = 1, #family.buckets do
    series[i] = 0
  end
  return series
end

local Counter = setmetatable({}, { __index = Family })
Counter.__index = Counter

--- Counts. Not a number, or below 0, counts nothing: a counter never falls.
-- @function counter:add
-- @tparam[opt=1] number n
-- @tparam[opt] table values of the labels, in their order
function Counter:add(n, values)
  local series = series_of(self, values)
  n = n or 1
  if n > 0 then
    series.value = series.value + n
  end
end

--- Raises a count that is kept elsewhere to its present value.
-- @function counter:reach
-- @tparam number value
-- @tparam[opt] table values of the labels, in their order
function Counter:reach(value, values)
  local series = series_of(self, values)
  if value > series.value then
    series.value = value
  end
end

local Gauge = setmetatable({}, { __index = Family })
Gauge.__index = Gauge

--- Sets the present value.
-- @function gauge:set
-- @tparam number value
-- @tparam[opt] table values of the labels, in their order
function Gauge:set(value, values)
  series_of(self, values).value = value
end

local Histogram = setmetatable({}, { __index = Family })
Histogram.__index = Histogram

--- Notes one value. What is not a number is left out.
-- @function histogram:observe
-- @tparam number value
-- @tparam[opt] table values of the labels, in their order
function Histogram:observe(value, values)
  if value ~= value then
    return
  end
  local series, buckets = series_of(self, values), self.buckets
  series.sum = series.sum + value
  series.count = series.count + 1
  for i = 1, #buckets do
    if value <= buckets[i] then
      series[i] = series[i] + 1
      return
    end
  end
end

-- ==== text of a family ====

local function line(lines, ...)
  lines[#lines + 1] = format.sample(...)
end

local function histogram_lines(lines, family, labels, series)
  local prefix, total = labels == "" and "" or labels .. ",", 0
  for i, bound in ipairs(family.buckets) do
    total = total + series[i]
    line(lines, family.name .. "_bucket", ('%sle="%s"'):format(prefix, format.number(bound)), total)
  end
  line(lines, family.name .. "_bucket", prefix .. 'le="+Inf"', series.count)
  line(lines, family.name .. "_sum", labels, series.sum)
  line(lines, family.name .. "_count", labels, series.count)
end

function Family:lines(lines)
  local keys = {}
  for key in pairs(self.series) do
    keys[#keys + 1] = key
  end
  table.sort(keys)
  for _, key in ipairs(keys) do
    if self.kind == "histogram" then
      histogram_lines(lines, self, key, self.series[key])
    else
      line(lines, self.name, key, self.series[key].value)
    end
  end
end

-- ==== registry ====

local function register(self, class, kind, options)
  assert(options.name:match "^[%a_:][%w_:]*$", "metric name")
  assert(not self.by_name[options.name], "metric is defined twice: " .. options.name)
  local family = setmetatable({ name = options.name, help = options.help, kind = kind, names = options.names or {},
    buckets = options.buckets, start = kind == "histogram" and buckets_of or single, series = {}, size = 0, tree = {},
    known = 0 }, class)
  family.count = #family.names
  for _, name in ipairs(family.names) do
    assert(name:match "^[%a_][%w_]*$" and name ~= "le" and name ~= "process", "label name")
  end
  if family.count == 0 then -- there is but one: shown from the start
    family.tree = family.start(family)
    family.series[""] = family.tree
  end
  self.by_name[options.name] = family
  self.families[#self.families + 1] = family
  return family
end

--- A new family of counters.
-- @tparam string name
-- @tparam string help
-- @tparam[opt] {string,...} names of its labels
-- @treturn counter
function Registry:counter(name, help, names)
  return register(self, Counter, "counter", { name = name, help = help, names = names })
end

--- A new family of gauges.
-- @tparam string name
-- @tparam string help
-- @tparam[opt] {string,...} names of its labels
-- @treturn gauge
function Registry:gauge(name, help, names)
  return register(self, Gauge, "gauge", { name = name, help = help, names = names })
end

--- A new family of histograms.
-- @tparam string name
-- @tparam string help
-- @tparam[opt] {string,...} names of its labels
-- @tparam[opt] {number,...} buckets upper bounds, rising
-- @treturn histogram
function Registry:histogram(name, help, names, buckets)
  return register(self, Histogram, "histogram", { name = name, help = help, names = names,
    buckets = buckets or M.BUCKETS })
end

--- All families as text, without the label `process`.
-- @treturn string
function Registry:text()
  local lines = {}
  for _, family in ipairs(self.families) do
    lines[#lines + 1] = format.head(family.name, family.help, family.kind)
    family:lines(lines)
  end
  return table.concat(lines, "\n") .. "\n"
end

--- A new registry.
-- @treturn registry
function M.new()
  return setmetatable({ families = {}, by_name = {} }, Registry)
end

return M
