-- ok: a lot of garbage within the limit
for i = 1, 20000 do local _ = ("x"):rep(10000) .. i end
