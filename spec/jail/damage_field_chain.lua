-- error/time/crash/memory/syntax: a very long chain of fields in a message
local chain = ("a"):rep(10) .. (".b"):rep(200000)
local f = load("return " .. chain)
if f then f() end
