--- Oracle of atelier.json: what is decoded encodes to a text that decodes to the same; what encode gives is stable.
local input = require "spec.fuzz.input"
local json = require "atelier.json"

local finding = input.finding

return function(text)
  local value, message, code = json.decode(text)
  if value == nil then
    if code ~= "json" or not message:find("^decode: %d+:%d+: ") then finding("a strange message", message) end
    return input.message(message)
  end
  local encoded, reason = json.encode(value, { indent = #text % 3 })
  if not encoded then finding("decoded, yet it does not encode: " .. reason, text) end
  local again, why = json.decode(encoded)
  if again == nil then finding("encoded, yet it does not decode: " .. why, text, encoded) end
  if json.encode(again) ~= json.encode(value) then finding("another value", text, encoded) end
end
