--- Statements that are prepared once on a connection and sent by name from then on.
--
-- Owns what is prepared on which connection, and what happens where a pooler keeps no prepared statements or gives each
-- transaction another server session: statements are sent whole. What a migration has outdated is prepared again. Must
-- not know what they say.
-- @module workflow.prepared
local M = {}

-- The statement is not there, or is another one.
local UNFIT = { ["26000"] = true, ["42P05"] = true }
-- It gives other columns since a migration.
local OUTDATED <const> = "0A000"

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

-- Forgets those of them that are prepared, here and there; nil when they are not there.
local function forget(conn, names, statements, options)
  local list = {}
  for _, statement in ipairs(statements) do
    local name = statement.name
    if name and names[name] then
      names[name] = nil
      list[#list + 1] = { ('deallocate "%s"'):format(name:gsub('"', '""')) }
    end
  end
  return #list > 0 and conn:pipeline(list, options)
end

-- By name where that is possible. Nothing has happened when a code comes back.
local function send(conn, statements, options)
  local names = known[conn]
  if names then
    local problem, state
    names, problem, state = prepare(conn, names, statements, options)
    if names == nil then
      return nil, problem, state
    end
  end
  return conn:pipeline(as_sent(names, statements), options)
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
  local results, message, code = send(conn, statements, options)
  if code == OUTDATED and known[conn] and forget(conn, known[conn], statements, options) then
    results, message, code = send(conn, statements, options)
  end
  if not results and known[conn] and (UNFIT[code] or code == OUTDATED) then
    known[conn] = false
    return conn:pipeline(statements, options)
  end
  return results, message, code
end

return M
