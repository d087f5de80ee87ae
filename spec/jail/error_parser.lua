-- error 3: what a failed load said is not the reason
local _ = load("return " .. ("- "):rep(1000) .. "1")
error "mine"
