local M = {
  for_people_only = true,
  example = "atelier run script.lua one two",
}

function M.options(parser)
  parser:argument("script", "The Lua file; the words after it are its `...` and `arg`.")
end

function M.run(args)
  local chunk, message = loadfile(args.script, "t")
  if not chunk then
    return nil, "run: " .. message, "script"
  end
  arg = table.move(args.tail, 1, #args.tail, 1, { [0] = args.script }) -- luacheck: ignore 121
  local ok, result = xpcall(chunk, function(problem)
    return debug.traceback(tostring(problem), 2)
  end, table.unpack(args.tail))
  if not ok then
    return nil, "run: " .. result, "script"
  end
  return { exit = math.type(result) == "integer" and result or 0 }
end

return M
