--- Renews the last line of each file of sql/ that records it: `atelier run spec/support/stamp.lua`, after each change.
-- What has changed is the next edition.
local files = require "migrate.files"

for _, file in ipairs(assert(files.read "sql")) do
  if not file.name:find "^00_" then
    local sum, body, _, record = files.checksum(file.text)
    local edition = files.edition(record or "")
    if record ~= ("%d %s"):format(edition, sum) then
      edition = edition + 1
    end
    local to <close> = assert(io.open("sql/" .. file.name, "wb"))
    to:write(body, files.stamp(file.name, edition, sum))
  end
end
