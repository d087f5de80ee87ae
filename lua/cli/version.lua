local host = require "atelier.host"

local M = { example = "atelier version --json" }

function M.options() end

function M.run()
  return { message = "atelier " .. host.version, version = host.version, lua = host.lua }
end

function M.show(result)
  print(("%s (%s)"):format(result.message, result.lua))
end

return M
