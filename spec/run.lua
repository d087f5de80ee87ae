--- Runs the specs inside the program: `atelier run spec/run.lua [busted arguments]`.
-- With no file named, all of spec/ runs. The last line printed is `N passed, N failed`.
local host = require "atelier.host"

local build = host.exe:match("^(.*)/[^/]*$")
package.cpath = build .. "/lib/?.so;" .. package.cpath
package.path = package.path .. ";./?.lua"

local named
for _, word in ipairs(arg) do
  named = named or word:sub(1, 1) ~= "-"
end
if not named then
  arg[#arg + 1] = "spec"
end
table.insert(arg, 1, "--pattern=_spec%.lua$")
table.insert(arg, 1, "--output=spec/support/summary.lua")

require "busted.runner" { standalone = false }
