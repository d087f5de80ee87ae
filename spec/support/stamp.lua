--- Renews the last line of each file of sql/ that records it: `atelier run spec/support/stamp.lua`, after each change.
local files = require "migrate.files"

for _, file in ipairs(assert(files.read "sql")) do
  if not file.name:find "^00_" then
    local sum, body = files.checksum(file.text)
    local to <close> = assert(io.open("sql/" .. file.name, "wb"))
    to:write(body, files.stamp(file.name, sum))
  end
end
