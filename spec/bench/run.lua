--- `make bench`: every figure beside its yardstick, from the same run. BENCH=name runs one part.
local host = require "atelier.host"

package.path = package.path .. (";%s/?.lua"):format(host.root)
local lab = require "spec.bench.lab"

local PARTS = { "bundles", "remote", "large", "recovery", "queue", "latency", "memory", "rendering", "jail", "status",
  "download", "purchase", "fair", "kill", "soak" }

lab.shell(("mkdir -p '%s'"):format(lab.folder))
print("machine: " .. lab.machine())
for _, part in ipairs(arg[1] and { arg[1] } or PARTS) do
  print()
  require("spec.bench." .. part).run()
end
