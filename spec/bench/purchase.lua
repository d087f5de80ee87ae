--- From the commit of a purchase to the last byte of its file over HTTP: idle, and for a purchase of priority 1 while
-- 100,000 jobs wait. The client asks for the status again and again on one connection, then downloads.
-- @module spec.bench.purchase
local clock = require "clock"
local json = require "atelier.json"
local lab = require "spec.bench.lab"
local service = require "spec.bench.service"
local tcp = require "spec.support.tcp"

local M = {}

local SAMPLES = tonumber(os.getenv "SAMPLES") or 200
local LOADED_SAMPLES = tonumber(os.getenv "LOADED_SAMPLES") or 20
local BACKLOG = tonumber(os.getenv "BACKLOG") or 100000

-- One exchange on a connection that is kept for as long as the server keeps it; gives status and body.
local function get(s, path, token)
  local client = s.client or tcp.connect(s.port)
  client:send(("GET %s HTTP/1.1\r\nHost: bench\r\n%s\r\n"):format(path,
    token and "Authorization: Bearer " .. token .. "\r\n" or ""))
  local head, rest
  repeat
    head, rest = client.buffer:match "^(.-\r\n\r\n)(.*)$"
  until head or not assert(client:fill(), "no answer")
  local length = tonumber(head:lower():match "content%-length: (%d+)")
  client.buffer = rest
  while #client.buffer < length do
    assert(client:fill(), "no body")
  end
  local body = client:take(length)
  s.client = client
  if head:lower():find("connection: close", 1, true) then
    client:close()
    s.client = nil
  end
  return tonumber(head:match "^HTTP/1.1 (%d+)"), body
end

-- Milliseconds until the file of customer n, who buys now, is here.
local function sample(s, n, priority)
  local token = s:token(n)
  local began = s:purchase(n, priority)
  local status, body, answer
  repeat
    -- Often enough to see it at once, and not so often that the asking is the load.
    lab.pause(math.max(0.001, math.min(0.02, (clock.now() - began) / 20)))
    status, body = get(s, "/api/ate/status?device_hash=BENCH-" .. n, token)
    assert(status == 200, body)
    answer = json.decode(body)
    assert(answer.job == json.null or answer.job.state ~= "failed", body)
    assert(clock.now() - began < 60, "not within a minute")
  until answer.is_ready
  status, body = get(s, answer.download_url)
  assert(status == 200 and #body == answer.file_size, status)
  return (clock.now() - began) * 1000
end

local function series(s, first, count, priority)
  local values = {}
  for i = 1, count do
    values[i] = sample(s, first + i, priority)
    lab.pause(0.02)
  end
  table.sort(values)
  return values
end

local function report(label, values, bar)
  print(("  %-44s p50 %6.1f ms  p99 %6.1f ms  worst %6.1f ms   (%s)"):format(label, lab.median(values),
    values[math.ceil(#values * 0.99)], values[#values], bar))
end

local FILL = [[insert into file_generation_queue (device_id, template_id)
  select bench_id('d', i), t.id from generate_series(1, $1::int) i, ate_templates t where t.is_active]]
local WAITING = "select count(*)::int as n from file_generation_queue where status = 'queued'"

--- Runs it and prints the figures.
function M.run()
  print "== purchase: row committed to file downloaded, every bundle run in the jail"
  local s <close> = service.start("purchase", { customers = BACKLOG, config = { rate_limit = 1000000,
    rate_burst = 1000000 } })
  series(s, BACKLOG, 10)
  report(("idle, %d purchases"):format(SAMPLES), series(s, BACKLOG + 10, SAMPLES), "floor: p50 30, p99 100; goal: p50 10")
  assert(s.conn:query(FILL, { BACKLOG }, { timeout = 300 }))
  local values = series(s, BACKLOG + 10 + SAMPLES, LOADED_SAMPLES, 1)
  local left = s.conn:query(WAITING)[1].n
  report(("%d of priority 1; %d jobs still wait"):format(LOADED_SAMPLES, left), values, "floor: 1,000 ms")
end

return M
