-- time 4: in a coroutine, and the line is known
local s = ("a"):rep(400)
coroutine.wrap(function()
  return s:find(("a-"):rep(12) .. "b")
end)()
