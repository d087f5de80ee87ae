-- For the browser's specs, which have no Postgres client: `atelier run spec/browser/database.lua CONNINFO`. Each line in
-- is a JSON object {sql, params}; each line out is {rows} or {error}. The connection ends with the input.
local json = require "atelier.json"
local pg = require "atelier.pg"

local conn <close> = assert(pg.connect((...) or arg[1]))
io.stdout:setvbuf "line"
for line in io.lines() do
  local ask = assert(json.decode(line))
  local result, message = conn:query(ask.sql, ask.params)
  local rows = {}
  for i, row in ipairs(result or {}) do rows[i] = row end
  print((assert(json.encode(result and { rows = json.array(rows) } or { error = message }))))
end
