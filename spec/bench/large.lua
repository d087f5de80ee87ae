--- A template with an asset of 2 GB through all of it: built, sealed, stored, downloaded over HTTP, opened, on every kind
-- of store. The most memory that each process needed, and the rate beside what the processor and the store can do.
-- @module spec.bench.large
local clock = require "clock"
local crypto = require "atelier.crypto"
local far_store = require "spec.bench.far_store"
local host = require "atelier.host"
local http = require "atelier.http"
local lab = require "spec.bench.lab"
local make_template = require "spec.bench.make_template"
local service = require "spec.bench.service"
local swift = require "spec.support.swift"

local M = {}

local ASSET = tonumber(os.getenv "ASSET") or 2 * 1000 * 1000 * 1000
local ROUNDS = tonumber(os.getenv "ROUNDS") or 3
local STORES = os.getenv "STORES" or "local s3 supabase"
local BAR_MIB, BAR_SHARE = 64, 70
local MB = 1000 * 1000

-- ==== yardsticks ====

-- What every byte must go through: AES-256-GCM and SHA-256, in memory.
local function crypto_rate()
  local piece, bytes = crypto.random(1 << 20), 0
  local key, nonce, hash = crypto.random(32), crypto.random(12), crypto.hash()
  local began = clock.now()
  while bytes < math.min(ASSET, 1000 * MB) do
    hash:update((crypto.gcm_seal(key, nonce, "", piece)))
    bytes = bytes + #piece
  end
  return bytes / (clock.now() - began) / MB
end

local function timed(command)
  local began = clock.now()
  lab.shell(command)
  return ASSET / (clock.now() - began) / MB
end

local function disk_rate(world)
  local best = 0
  for _, way in ipairs { "", " oflag=direct" } do
    best = math.max(best, timed(("dd if='%s' of='%s/raw' bs=4M conv=fsync%s 2>/dev/null"):format(world.asset,
      world.folder, way)))
    os.remove(world.folder .. "/raw")
  end
  return best
end

-- One request with the whole file.
local function http_rate(world, request)
  local file <close> = assert(io.open(world.asset, "rb"))
  request.body_file, request.timeout = file, 3600
  local began = clock.now()
  local response = assert(http.request(request))
  assert(response.status < 300, response.body)
  return ASSET / (clock.now() - began) / MB
end

local puts = 0

local function fresh(name)
  puts = puts + 1
  return ("%s-%d"):format(name, puts)
end

-- ==== stores ====

local KINDS = {}

KINDS["local"] = function(world)
  return { config = { storage = "local" }, raw = function()
    return disk_rate(world)
  end, stop = function() end }
end

function KINDS.s3(world)
  lab.shell(("mkdir -p '%s/swift'"):format(world.folder))
  local server = swift.start(world.folder .. "/swift")
  return {
    config = { storage = "s3", s3_endpoint = server.endpoint, s3_bucket = "ate-files", s3_access_key = "test:tester",
      s3_secret_key = "testing" },
    raw = function()
      return http_rate(world, { method = "PUT", url = ("%s/ate-files/%s"):format(server.endpoint, fresh "raw"),
        sigv4 = { access_key = "test:tester", secret_key = "testing", region = "us-east-1" } })
    end,
    stop = function()
      server:stop()
    end,
  }
end

function KINDS.supabase(world)
  lab.shell(("mkdir -p '%s/far'"):format(world.folder))
  local server = far_store.start(1, world.folder .. "/far")
  return {
    config = { storage = "supabase", supabase_url = server.url, supabase_service_role_key = far_store.KEY },
    raw = function()
      return http_rate(world, { method = "POST",
        url = ("%s/storage/v1/object/ate-files/%s"):format(server.url, fresh "raw") })
    end,
    stop = function()
      server:stop()
    end,
  }
end

-- ==== one pass ====

local function peak_of(pid)
  local file = assert(io.open(("/proc/%d/status"):format(pid)))
  local text = file:read "a"
  file:close()
  return tonumber(text:match "VmHWM:%s*(%d+)") / 1024
end

local function peaks(s)
  local found = { master = peak_of(s.pid) }
  for _, process in ipairs(s:state().processes) do
    found[process.name] = peak_of(math.tointeger(process.pid))
  end
  return found
end

local ROW = [[select f.id, f.file_path, f.file_size_bytes as size, f.checksum from ate_files f
  join devices d on d.id = f.device_id where d.device_hash = 'BENCH-1' and f.generation = $1]]

-- Asks for a bundle; gives its row and the seconds until it was recorded.
local function build(s, generation)
  local began, row = clock.now(), nil
  assert(s.conn:query "select queue_ate_generation('BENCH-1', 'large', 1)")
  lab.await(function()
    row = assert(s.conn:query(ROW, { generation }))[1]
    local failed = assert(s.conn:query "select error_message from file_generation_queue where status = 'failed'")[1]
    return row or failed and error(failed.error_message)
  end, 1800, "the bundle")
  return row, clock.now() - began
end

local function download(s, row, path)
  local began = clock.now()
  lab.shell(("env -u LD_PRELOAD curl -sS --fail -o '%s' -H 'Authorization: Bearer %s' http://127.0.0.1:%d/api/ate/download/%s")
    :format(path, s:token(1), s.port, row.id))
  return row.size / (clock.now() - began) / MB
end

-- `atelier open -x` in a process of its own, which tells how large it was (proc(5), VmHWM).
local function open(s, path)
  local code = ([[cd '%s' && env -u ATELIER_CONFIG DATABASE_URL='%s' ATELIER_STATE='%s' '%s' license --device BENCH-1 --template large]])
    :format(s.folder, s.url, s.folder, host.exe)
  local key = lab.shell(code):gsub("%s", "")
  local probe = s.folder .. "/probe.lua"
  local file = assert(io.open(probe, "w"))
  file:write(([[
    local code = require("cli").main { [0] = "atelier", "open", %q, "--device", "BENCH-1", "--license", %q, "-x", %q }
    print("VmHWM", io.open("/proc/self/status"):read("a"):match "VmHWM:%%s*(%%d+)")
    return code]]):format(path, key, s.folder .. "/opened"))
  file:close()
  local began = clock.now()
  local text = lab.shell(("cd '%s' && ATELIER_STATE='%s' '%s' run '%s'"):format(s.folder, s.folder, host.exe, probe))
  local rate = ASSET / (clock.now() - began) / MB
  lab.shell(("cmp '%s/opened/asset.bin' '%s' && rm -rf '%s/opened'"):format(s.folder, s.asset, s.folder))
  return tonumber(text:match "VmHWM%s+(%d+)") / 1024, rate
end

local function show(name, mib)
  print(("    %-12s %6.1f MiB at most%s"):format(name, mib, mib > BAR_MIB and "   ABOVE THE BAR" or ""))
end

local function run_kind(kind, world)
  local store = KINDS[kind](world)
  store.config.templates_dir = world.folder .. "/templates"
  local s <close> = service.start("large_" .. kind, { customers = 1, config = store.config,
    template = world.folder .. "/templates/large.at" })
  s.asset = world.asset
  print(("  %s"):format(kind))
  local row, first = build(s, 1) -- with all that a worker does once for a template
  local raw, limit, rates = {}, {}, {}
  for i = 1, ROUNDS do
    raw[i], limit[i] = store.raw(), crypto_rate()
    local seconds
    row, seconds = build(s, i + 1)
    rates[i] = row.size / seconds / MB
  end
  local mine, most = lab.median(rates), math.min(lab.median(raw), lab.median(limit))
  print(("    built and stored at %.0f MB/s (the first in %.1f s); AES-GCM and SHA-256 %.0f, the store alone %.0f MB/s")
    :format(mine, first, lab.median(limit), lab.median(raw)))
  print(("    share of the slower one: %.0f %%   (bar %d)"):format(100 * mine / most, BAR_SHARE))
  local path = s.folder .. "/large.ate"
  local down = download(s, row, path)
  assert(lab.shell(("sha256sum '%s'"):format(path)):match "%x+" == row.checksum, "the download differs")
  local opener, opened = open(s, path)
  print(("    downloaded at %.0f MB/s, opened and unpacked at %.0f MB/s"):format(down, opened))
  for name, mib in pairs(peaks(s)) do
    show(name, mib)
  end
  show("open -x", opener)
  store.stop()
  lab.shell(("rm -rf '%s' '%s/swift' '%s/far'"):format(s.folder, world.folder, world.folder))
end

--- Runs it and prints the figures.
function M.run()
  print(("== large: a bundle with an asset of %d MB; at most %d MiB in any process"):format(ASSET // MB, BAR_MIB))
  local world = { folder = lab.folder .. "/large" }
  lab.shell(("rm -rf '%s' && mkdir -p '%s/templates'"):format(world.folder, world.folder))
  make_template.write(world.folder .. "/templates/large.at", { asset = ASSET })
  world.asset = world.folder .. "/templates/large.at/asset.bin"
  for kind in STORES:gmatch "%S+" do
    run_kind(kind, world)
  end
  lab.shell(("rm -rf '%s'"):format(world.folder))
end

return M
