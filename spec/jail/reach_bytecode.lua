-- ok: load takes text only
assert(load("\27Lua\84\0\25\147\r\n\26\n") == nil) assert(load("\27Lua", "x", "b") == nil) assert(load(function() return "\27Lua" end, "x", "bt") == nil)
