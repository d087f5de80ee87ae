--- What a keeper does in a round, part by part, in this order. Each gives what it has counted, by name, and whether
-- there is more to do; or nil, message, code.
-- @module workflow.chores
local json = require "atelier.json"
local keyring = require "ate.keyring"
local purge = require "workflow.purge"
local sweep = require "workflow.sweep"

local M = {}

local FIRST_ID = "00000000-0000-0000-0000-000000000000"
local LATEST <const> = "infinity"
local RESCUE = "select rescue_ate_generations() as n"
local RENEW = "select last::text as last, queued from renew_ate_files($1::uuid, $2, $3)"
local GIVE = "select last::text as last, given from give_ate_downloads($1, $2::timestamptz)"

-- What is counted, the statement, and the key that says how old; each call does a batch and tells how many that were.
local TRIMS = {
  { "expired", "select expire_ate_files($1) as n" },
  { "moved", "select trim_ate_queue($1, $2::interval) as n", "queue_keep" },
  { "trimmed", "select trim_ate_history($1, $2::interval) as n", "history_keep" },
  { "downloads", "select trim_ate_downloads($1, $2::interval) as n", "download_keep" },
  { "workers", "select trim_ate_workers($1, $2::interval) as n", "queue_keep" },
}

local function trim(tools, name, sql, key)
  local count = 0
  local params = { tools.batch, key and ("%.3f seconds"):format(tools.config[key]) }
  for _ = 1, tools.batches do
    local rows, message, code = tools.ask(sql, params)
    if not rows then
      return nil, message, code
    end
    count = count + rows[1].n
    if rows[1].n < tools.batch then
      return { [name] = count }, false
    end
  end
  return { [name] = count }, true
end

-- What entitled devices lack, see renew_ate_files: the next of them. A key ring that cannot be read says nothing.
local function renew(tools, state)
  local ring = keyring.load(tools.config.keyring)
  local master = ring and select(2, ring:master()) or json.null
  local count = 0
  for _ = 1, tools.batches do
    local rows, message, code = tools.ask(RENEW, { state.renewed, tools.batch, master })
    if not rows then
      return nil, message, code
    end
    count = count + rows[1].queued
    if rows[1].last == json.null then
      state.renewed = FIRST_ID
      break
    end
    state.renewed = rows[1].last
  end
  return { renewed = count }
end

-- Downloads of before they had a user, to whose they are: all at once would be a transaction of minutes.
local function give(tools, state)
  local count = 0
  for _ = 1, tools.batches do
    local rows, message, code = tools.ask(GIVE, { tools.batch, state.given })
    if not rows then
      return nil, message, code
    end
    count = count + rows[1].given
    if rows[1].last == json.null then
      state.given = LATEST
      return { given = count }, false
    end
    state.given = rows[1].last
  end
  return { given = count }, true
end

--- The parts.
-- @tparam table tools ask(sql, params) → rows | nil, message, code; store, config; batch, batches (rows at once, and
--   how often in a round); optional: heads, settle (see workflow.sweep)
-- @treturn {table,...} {name, run}
-- @treturn table sweep
function M.new(tools)
  local purging, sweeping = purge.new(tools), sweep.new(tools)
  local state = { renewed = FIRST_ID, given = LATEST }
  local parts = {}
  local function add(name, run)
    parts[#parts + 1] = { name = name, run = run }
  end
  local function count(name, n, more, code)
    return n and { [name] = n }, more, code
  end
  add("rescued", function()
    local rows, message, code = tools.ask(RESCUE)
    return count("rescued", rows and rows[1].n, message, code)
  end)
  for _, line in ipairs(TRIMS) do
    add(line[1], function()
      return trim(tools, table.unpack(line))
    end)
  end
  add("given", function()
    return give(tools, state)
  end)
  add("purged", function()
    return count("purged", purging:versions())
  end)
  add("emptied", function()
    return count("emptied", purging:expired())
  end)
  add("orphans", function()
    local orphans, unfinished, code = sweeping:orphans()
    if not orphans then
      return nil, unfinished, code
    end
    return { orphans = orphans, unfinished = unfinished }, false
  end)
  add("missing", function()
    return count("missing", sweeping:missing())
  end)
  add("renewed", function()
    return renew(tools, state)
  end)
  return parts, sweeping
end

return M
