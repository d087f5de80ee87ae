-- ok: rep as it is known
assert(("ab"):rep(3) == "ababab" and ("ab"):rep(3, ",") == "ab,ab,ab" and ("ab"):rep(0) == "" and ("ab"):rep(-1) == "" and ("ab"):rep(1, ("x"):rep(100)) == "ab" and ("x"):rep(2.0) == "xx") assert(not pcall(string.rep)) assert(not pcall(string.rep, "x", 1.5))
