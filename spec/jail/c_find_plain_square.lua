-- time/ok: a plain search that is quadratic
local s = ("a"):rep(4000000)
local p = ("a"):rep(2000000) .. "b"
for _ = 1, 1000 do s:find(p, 1, true) end
