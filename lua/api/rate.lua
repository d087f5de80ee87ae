--- How often one user may ask: a bucket of `burst` requests that fills again at `rate` a second.
-- One process counts for itself. Knows no clock but the one it is given.
-- @module api.rate
local M = {}

local Limiter = {}
Limiter.__index = Limiter

local MOST = 100000 -- users; beyond that the least recent are forgotten, which forgives them

--- A limiter.
-- @tparam number rate requests a second
-- @tparam number burst
-- @treturn table limiter
function M.new(rate, burst)
  return setmetatable({ rate = rate, burst = burst, left = {}, at = {}, former_left = {}, former_at = {}, count = 0 },
    Limiter)
end

-- Numbers in two tables, not a table for each user: the collector need not look at those.
local function admit(self, user, now)
  if self.count >= MOST then
    self.former_left, self.former_at, self.left, self.at, self.count = self.left, self.at, {}, {}, 0
  end
  self.count = self.count + 1
  self.at[user] = self.former_at[user] or now
  return self.former_left[user] or self.burst
end

--- Takes one request out of a user's bucket.
-- @tparam string user
-- @tparam number now seconds
-- @treturn[1] nil when there was one
-- @treturn[2] integer seconds until there will be one again
function Limiter:take(user, now)
  local left = self.left[user] or admit(self, user, now)
  local passed = now - self.at[user]
  if passed > 0 then
    left = left + passed * self.rate
  end
  if left > self.burst then
    left = self.burst
  end
  self.at[user] = now
  if left < 1 then
    self.left[user] = left
    return math.max(1, math.ceil((1 - left) / self.rate))
  end
  self.left[user] = left - 1
end

return M
