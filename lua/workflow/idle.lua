--- What a worker does between two jobs: prepares what the next ones need, and waits for them with an eye on the others.
-- @module workflow.idle
local warm = require "workflow.warm"

local M = {}
local Idle = {}
Idle.__index = Idle

local POLL_SECONDS = 1
local WATCH_SECONDS = 0.25 -- while others have jobs in hand: nobody tells of the death of one
-- A session whose host was cut off ends by itself, and its jobs run elsewhere before their lease is over. Says nothing
-- to a unix socket.
local KEEPALIVE = [[select set_config('tcp_keepalives_idle', '10', false),
  set_config('tcp_keepalives_interval', '5', false), set_config('tcp_keepalives_count', '3', false),
  set_config('tcp_user_timeout', '25000', false)]]
local AT_WORK = "select exists (select from file_generation_queue where lease_until is not null) as others"

--- A new one.
-- @tparam table options builder (see workflow.generate), config
-- @treturn table idle
function M.new(options)
  return setmetatable({ warm = warm.new(options) }, Idle)
end

--- Makes a session ready for waiting.
-- @param conn
-- @treturn[1] boolean true
-- @return[2] nil
-- @treturn[2] string message
-- @treturn[2] string code
function Idle:begin(conn)
  self.was_called = false
  local ok, message, code = conn:query(KEEPALIVE)
  if not ok then
    return nil, message, code
  end
  return conn:listen "ate_queue"
end

--- Until a job is announced, a signal comes, or it is time to look anyway; or does what later jobs need.
-- @param conn
-- @treturn[1] boolean true
-- @return[2] nil
-- @treturn[2] string message
-- @treturn[2] string code
function Idle:wait(conn)
  if self.warm:step(conn) then
    return true
  end
  local rows, message, code = conn:query(AT_WORK)
  if not rows then
    return nil, message, code
  end
  -- A job that was announced and is not here was claimed by another, perhaps not yet for all to see.
  local calls
  local watch = self.was_called or rows[1].others
  calls, message, code = conn:notifications(watch and WATCH_SECONDS or POLL_SECONDS)
  self.was_called = calls and #calls > 0
  return calls and true, message, code
end

return M
