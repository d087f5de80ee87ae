-- instructions: a loop in __close, while an error passes
pcall(function()
  local x <close> = setmetatable({}, { __close = function() while true do end end })
  error "x"
end)
