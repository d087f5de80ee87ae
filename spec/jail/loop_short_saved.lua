-- instructions: the same count is not started anew by yielding
local list = {}
while true do
  local co = coroutine.create(function() for i = 1, 20 do coroutine.yield(i) end end)
  while coroutine.resume(co) and coroutine.status(co) ~= "dead" do end
  list[1] = co
end
