-- instructions: a tree of short coroutines
local function tree(n)
  if n == 0 then return end
  coroutine.wrap(tree)(n - 1)
  coroutine.wrap(tree)(n - 1)
end
tree(40)
