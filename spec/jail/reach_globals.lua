-- ok: nothing else is there
local known = {} for name in ("_G _VERSION assert coroutine dofile error getmetatable ipairs load math next os pairs pcall print rawequal rawget rawlen rawset require select setmetatable string table tonumber tostring type utf8 xpcall"):gmatch "%S+" do known[name] = true end for name in pairs(_G) do assert(known[name], name) end
