-- error 3: the innermost place
local co = coroutine.wrap(function()
  error "inside"
end)
co()
