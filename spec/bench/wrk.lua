-- For wrk: … -s wrk.lua URL -- REQUESTS [DELAY]: the requests of the file (lines of "path token") in turn; with a
-- delay, each after a pause by chance around so many milliseconds. Prints one line of JSON at the end.
-- luacheck: globals wrk init request delay done
local requests, n, mean = {}, 0, 0

function init(arguments)
  for line in io.lines(arguments[1]) do
    local path, token = line:match "^(%S+) (%S+)$"
    local headers = token ~= "-" and { Authorization = "Bearer " .. token } or nil
    requests[#requests + 1] = wrk.format("GET", path, headers)
  end
  mean = tonumber(arguments[2]) or 0
  math.randomseed(1)
  if mean > 0 then
    function delay()
      return -math.log(1 - math.random()) * mean
    end
  end
end

function request()
  n = n % #requests + 1
  return requests[n]
end

function done(summary, latency)
  local errors = summary.errors
  local seconds = summary.duration / 1e6
  local failed = errors.connect + errors.read + errors.write + errors.status + errors.timeout
  io.write(('\n{"rate": %.3f, "p50": %.4f, "p99": %.4f, "errors": %d, "bytes": %.1f, "requests": %d, '):format(
    summary.requests / seconds, latency:percentile(50) / 1000, latency:percentile(99) / 1000, failed,
    summary.bytes / seconds, summary.requests))
  io.write(('"kinds": "connect %d, read %d, write %d, status %d, timeout %d"}\n'):format(errors.connect, errors.read,
    errors.write, errors.status, errors.timeout))
end
