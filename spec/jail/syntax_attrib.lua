-- syntax 2: an unknown attribute
local x <nothing> = 1
