--- Oracle of the JSON renderer: the law, with jansson as the judge. A parser of its own reads the template with the
-- values in it; what jansson decodes from the rendered text must be the same value, and a text without marks must be
-- taken exactly when jansson takes it.
local fuzz = require "fuzz" -- of harness.c
local input = require "spec.fuzz.input"
local json = require "atelier.json"
local render = require "template.render"
local values = require "template.values"

local finding = input.finding

local DEPTH <const> = { max_depth = 1000 }

local function bad(reason) error({ reason = reason }, 0) end

local parser = {}
parser.__index = parser

function parser:skip() self.at = self.text:match("^[ \t\r\n]*()", self.at) end

function parser:place()
  local name, stop = self.text:match("^{{([%a_][%w_.]*)}}()", self.at)
  if not name or name:find("%.[%d.]") or name:sub(-1) == "." then return nil end
  self.at = stop
  return name
end

local SIMPLE <const> = { ['"'] = '"', ["\\"] = "\\", ["/"] = "/", b = "\b", f = "\f", n = "\n", r = "\r", t = "\t" }

function parser:escape()
  local char = self.text:sub(self.at + 1, self.at + 1)
  if SIMPLE[char] then
    self.at = self.at + 2
    return SIMPLE[char]
  end
  local high = tonumber(self.text:match("^\\u(%x%x%x%x)", self.at) or bad "escape", 16)
  self.at = self.at + 6
  if high < 0xd800 or high > 0xdfff then return utf8.char(high) end
  local low = tonumber(self.text:match("^\\u(%x%x%x%x)", self.at) or bad "surrogate", 16)
  if high > 0xdbff or low < 0xdc00 or low > 0xdfff then bad "surrogate" end
  self.at = self.at + 6
  return utf8.char(0x10000 + ((high - 0xd800) << 10 | (low - 0xdc00)))
end

function parser:string()
  local out = {}
  self.at = self.at + 1
  while true do
    local char = self.text:sub(self.at, self.at)
    local kept, stop = self.text:match("^{{!(!*[%a_][%w_.]*}})()", self.at)
    if kept and (kept:find("%.[%d.}]")) then kept = nil end
    local name = self:place()
    if name then
      out[#out + 1] = values.plain(self.look(name)) or "\0impossible\0"
    elseif kept then
      out[#out + 1], self.at = "{{" .. kept, stop
    elseif char == "\\" then
      out[#out + 1] = self:escape()
    elseif char == "" or char < " " then
      bad "unfinished string"
    else
      self.at = self.at + 1
      if char == '"' then break end
      out[#out + 1] = char
    end
  end
  return table.concat(out)
end

function parser:members(close, item)
  self.at = self.at + 1
  self:skip()
  if self.text:sub(self.at, self.at) == close then
    self.at = self.at + 1
    return
  end
  while true do
    item()
    self:skip()
    local sign = self.text:sub(self.at, self.at)
    self.at = self.at + 1
    if sign == close then return end
    if sign ~= "," then bad "comma" end
    self:skip()
  end
end

function parser:object()
  local object = {}
  self:members("}", function()
    if self.text:sub(self.at, self.at) ~= '"' then bad "key" end
    local key = self:string()
    if object[key] ~= nil then bad "duplicate" end
    self:skip()
    if self.text:sub(self.at, self.at) ~= ":" then bad "colon" end
    self.at = self.at + 1
    object[key] = self:item()
  end)
  return object
end

local WORDS <const> = { ["true"] = true, ["false"] = false, ["null"] = json.null }

function parser:scalar()
  local word = self.text:match("^[%w.+-]+", self.at) or bad "value"
  self.at = self.at + #word
  if WORDS[word] ~= nil then return WORDS[word] end
  local rest = word:match("^%-?0(.*)$") or word:match("^%-?[1-9]%d*(.*)$") or bad "number"
  rest = rest:gsub("^%.%d+", "", 1):gsub("^[eE][+-]?%d+$", "", 1)
  if rest ~= "" then bad "number" end
  local value = tonumber(word)
  if math.type(value) == "float" and (value - value ~= 0 or word:find("^%-?%d+$")) then bad "too large" end
  return value
end

function parser:item()
  self:skip()
  local name = self:place()
  if name then return self.look(name) end
  local sign = self.text:sub(self.at, self.at)
  if sign == '"' then return self:string() end
  if sign == "{" then return self:object() end
  if sign ~= "[" then return self:scalar() end
  local list = json.array {}
  self:members("]", function() list[#list + 1] = self:item() end)
  return list
end

local function expected(template, look)
  local self = setmetatable({ text = template, at = 1, look = look }, parser)
  local ok, value = pcall(function()
    local value = self:item()
    self:skip()
    if self.at <= #template then bad "more" end
    return value
  end)
  if ok then return true, value end
  if type(value) ~= "table" then error(value, 0) end
  return false, value.reason
end

local function check_law(template, text, given)
  local got, message = json.decode(text, DEPTH)
  if got == nil then finding("the rendered text is no JSON: " .. message, template, text) end
  local ok, want = expected(template, function(name) return input.lookup(given, name) end)
  if not ok then finding("rendered a template that is no JSON: " .. want, template, text) end
  local a, b = assert(json.encode(json.array { want })), assert(json.encode(json.array { got }))
  if a ~= b then finding("another value", template, text, a, b) end
end

-- Is the template JSON, with another value in each place?
local function is_json(template)
  local count = 0
  local ok, value = expected(template, function()
    count = count + 1
    return "\1" .. count
  end)
  return ok and json.decode((json.encode(json.array { value }) or "")) ~= nil
end

local function check_message(message, code)
  if code ~= "template" or not message:find("^f.json:%d+:%d+: ") then finding("a strange message", message) end
  input.message(message)
end

local function plain_json(template, compiled)
  local value, message = json.decode(template)
  if (value ~= nil) ~= (compiled ~= nil) then
    finding("jansson and the compiler differ over a text without marks: " .. tostring(message), template)
  end
  if compiled and compiled:render {} ~= template then finding("a text without marks was changed", template) end
end

return function(data)
  local template, sets = input.split(data, "json")
  local compiled, message, code = render.compile(template, { as = "json", file = "f.json" })
  template = template:gsub("^\xEF\xBB\xBF", "")
  if not template:find("{{", 1, true) then plain_json(template, compiled) end
  fuzz.watch(false)
  if is_json(template) ~= (compiled ~= nil) then finding("JSON and the compiler differ: " .. tostring(message), template) end
  fuzz.watch(true)
  if not compiled then return check_message(message, code) end
  for _, given in ipairs(sets) do
    local text, reason, kind = compiled:render(given)
    fuzz.watch(false)
    if text then check_law(template, text, given) else check_message(reason, kind) end
    fuzz.watch(true)
    if not compiled.personal then break end
  end
end
