-- memory: a constructor as wide as memory
return load("return {" .. ("1,"):rep(8000000) .. "}")()
