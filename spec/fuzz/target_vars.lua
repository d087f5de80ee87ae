--- Oracle of VARS.json: what jansson takes is read the same, and what is read is either taken by jansson or one of the
-- few things that VARS.json may hold besides (bytes that are no UTF-8, NaN, infinities, a byte order mark, a NUL).
local input = require "spec.fuzz.input"
local json = require "atelier.json"
local vars = require "template.vars"

local finding = input.finding

local function is_more_than_json(text)
  return not utf8.len(text) or text:find("NaN", 1, true) or text:find("Infinity", 1, true) or text:find("\\u0000", 1, true)
    or text:find("%z") or text:find("[\1-\31]") or text:sub(1, 3) == "\xEF\xBB\xBF"
end

return function(text)
  local object, message, code = vars.read(text, "V")
  local value, reason = json.decode(text, { max_depth = 1000 })
  if object == nil then
    if code ~= "vars" or not message:find("^V:%d+:%d+: ") then finding("a strange message", message) end
    input.message(message)
    if type(value) == "table" and value ~= json.null and not json.is_array(value) then
      finding("refused what jansson takes: " .. message, text)
    end
  elseif value == nil then
    input.message(reason)
    if not is_more_than_json(text) then finding("took what jansson refuses: " .. reason, text) end
  elseif json.encode(object) ~= json.encode(value) then
    finding("read another value", text, json.encode(object), json.encode(value))
  end
end
