-- ok: the strings' own metatable is taken away
local mt = getmetatable "" mt.__index = nil mt.__len = nil assert(not pcall(function() return ("x"):len() end)) print "ok"
