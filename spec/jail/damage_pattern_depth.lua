-- error/ok: a pattern that is nested too deep
return (("x"):rep(300000)):find(("x?"):rep(300000) .. "y")
