--- Statements that are prepared once on a connection and sent by name from then on.
--
-- Owns what is prepared on which connection, and what happens where a pooler keeps no prepared statements or gives each
-- transaction another server session: statements are sent whole. Must not know what they say.
-- @module workflow.prepared
local M = {}

-- The statement is not there, is another one, or gives other columns since a migration.
local UNFIT = { ["26000"] = true, ["42P05"] = true, ["0A000"] = true }

local known = setmetatable({}, { __mode = "k" }) -- connection → name → statement; false where nothing is prepared

local function as_sent(names, statements)
  local list = {}
  for i, statement in ipairs(statements) do
    local name = names and statement.name
    list[i] = name and { prepared = name, statement[2] } or statement
  end
  return list
end

-- What is not prepared yet is. Gives nil, message and code when the connection could not be asked at all.
local function prepare(conn, names, statements, options)
  for _, statement in ipairs(statements) do
    local name, sql = statement.name, statement[1]
    if name and names[name] ~= sql then
      local ok, message, code = conn:prepare(name, sql, { timeout = options and options.timeout })
      if not ok and not UNFIT[code] then
        return nil, message, code
      elseif not ok then
        known[conn] = false
        return false
      end
      names[name] = sql
    end
  end
  return names
end

--- Runs statements as one transaction, as `conn:pipeline` does.
-- @param conn of atelier.pg
-- @tparam table statements list of `{sql, params}`; with a `name` it is prepared under that, always the same for an SQL
-- @tparam[opt] table options as of `conn:pipeline`
-- @treturn[1] table results
-- @return[2] nil
-- @treturn[2] string message
-- @treturn[2] string code
function M.pipeline(conn, statements, options)
  if known[conn] == nil then
    known[conn] = {}
  end
  local names = known[conn]
  if names then
    local problem, state
    names, problem, state = prepare(conn, names, statements, options)
    if names == nil then
      return nil, problem, state
    end
  end
  local results, message, code = conn:pipeline(as_sent(names, statements), options)
  if not results and names and UNFIT[code] then
    known[conn] = false
    return conn:pipeline(statements, options)
  end
  return results, message, code
end

return M
