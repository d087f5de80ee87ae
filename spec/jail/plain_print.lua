-- ok: print as it is known
print() print(1, nil, true, 2.5, "x") print(setmetatable({}, { __tostring = function() return "T" end, __name = "N" }))
