-- error 2: its __name must not be trusted
error(setmetatable({}, { __name = ("x"):rep(1000) }))
