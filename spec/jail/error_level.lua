-- error 4: the place that the author names
local function check() error("bad argument", 2) end

check()
