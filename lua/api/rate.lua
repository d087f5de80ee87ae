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
  return setmetatable({ rate = rate, burst = burst, buckets = {}, former = {}, count = 0 }, Limiter)
end

local function bucket_of(self, user, now)
  local bucket = self.buckets[user]
  if bucket then
    return bucket
  end
  bucket = self.former[user] or { left = self.burst, at = now }
  if self.count >= MOST then
    self.former, self.buckets, self.count = self.buckets, {}, 0
  end
  self.buckets[user] = bucket
  self.count = self.count + 1
  return bucket
end

--- Takes one request out of a user's bucket.
-- @tparam string user
-- @tparam number now seconds
-- @treturn[1] nil when there was one
-- @treturn[2] integer seconds until there will be one again
function Limiter:take(user, now)
  local bucket = bucket_of(self, user, now)
  local left = bucket.left + (now - bucket.at) * self.rate
  if left > self.burst then
    left = self.burst
  end
  bucket.at = now
  if left < 1 then
    bucket.left = left
    return math.max(1, math.ceil((1 - left) / self.rate))
  end
  bucket.left = left - 1
end

return M
