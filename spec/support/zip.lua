--- What the specs of atelier.zip share.
-- @module spec.support.zip
local zip = require "atelier.zip"

local M = {}

--- Asserts the failure triple and returns its message.
function M.refused(code, value, message, got)
  assert(value == nil and type(message) == "string" and got == code,
    ("%s was expected, not %s (%s)"):format(code, got or value, message))
  return message
end

--- An archive in memory of {name, data, options} rows.
function M.archive(rows)
  local w = assert(zip.writer())
  for _, row in ipairs(rows) do
    assert(w:add(row[1], row[2], row[3]))
  end
  return assert(w:close())
end

--- Opens an archive in memory.
function M.open(bytes, options)
  return assert(zip.open({data = bytes}, options))
end

--- Text that deflates like text does.
function M.prose(n, seed)
  local words, out, length = {"local", "function", "return", "end", "bundle", "worker", "queue", "seal"}, {}, 0
  local state = seed or 1
  while length < n do
    state = (state * 1103515245 + 12345) % 2147483648
    out[#out + 1] = words[state // 65536 % #words + 1] .. state % 1000 .. " "
    length = length + #out[#out]
  end
  return table.concat(out):sub(1, n)
end

return M
