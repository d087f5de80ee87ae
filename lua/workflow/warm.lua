--- Prepares what the next jobs will need, while there are none: the kits of the active templates and plans, and a child
-- of the jail for each. Else the first customer of each plan would wait for that.
-- @module workflow.warm
local clock = require "clock"
local log = require "log"

local M = {}
local Warm = {}
Warm.__index = Warm

local LOOK_SECONDS = 60 -- between two looks for what was published since
local PAIRS = [[select t.name as template_name, t.version as template_version, t.template_path, t.content_sha256,
    p.tools as plan_tools
  from ate_templates t cross join plans p
  where t.is_active and p.is_active order by t.updated_at desc, t.name, p.price_jpy limit $1]]

--- A new one.
-- @tparam table options builder (see workflow.generate), config
-- @treturn table warm
function M.new(options)
  local config = options.config
  return setmetatable({
    builder = options.builder,
    most = math.max(1, math.min(config.worker_kits, config.jail_children) // 2),
    pairs = {},
    look_at = -math.huge,
  }, Warm)
end

--- Prepares one thing.
-- @param conn the database
-- @treturn boolean whether there was something
function Warm:step(conn)
  if #self.pairs == 0 and clock.now() >= self.look_at then
    self.look_at = clock.now() + LOOK_SECONDS
    self.pairs = conn:query(PAIRS, { self.most }) or {} -- a failure shows in what is asked next
  end
  local pair = table.remove(self.pairs, 1)
  if not pair then
    return false
  end
  -- What is wrong with a template is its jobs' to say.
  local called, ok, message = pcall(self.builder.warm, self.builder, pair)
  if not called or not ok then
    log.debug("kit not prepared", { template = pair.template_name, reason = called and message or ok })
  end
  return true
end

return M
