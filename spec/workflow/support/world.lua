--- A small world for the specs of the workflow: a database of its own, a template, a store, a key ring, customers, and
-- workers in this process or as real ones.
-- @module spec.workflow.support.world
local clock = require "clock"
local config = require "config"
local fs = require "atelier.fs"
local host = require "atelier.host"
local json = require "atelier.json"
local keyring = require "ate.keyring"
local licence = require "ate.licence"
local log = require "log"
local migrate = require "migrate"
local open = require "ate.open"
local pg = require "atelier.pg"
local postgres = require "spec.support.postgres"
local program = require "spec.support.program"
local signal = require "posix.signal"
local stdlib = require "posix.stdlib"
local storage = require "storage"
local template = require "template"
local unistd = require "posix.unistd"
local wait = require "posix.sys.wait"
local worker = require "workflow.worker"

local M = {}
local World = {}
World.__index = World

local MANIFEST = {
  name = "tools", version = "1.0.0", runtime = "autotouch", container = "ate1",
  file_structure = json.array { { file = "main.lua", type = "lua", required = true },
    { file = "follow.lua", type = "lua" } },
  required_variables = json.array { "device_hash", "license_key" },
}
local MAIN = [[
local device = "{{device_hash}}"
local key = "{{license_key}}"
local expires_at = "{{expires_at}}"
local tools = {{plan_tools}}
return { device, key, expires_at, tools }
]]

local function write(path, text)
  local file = assert(io.open(path, "wb"))
  assert(file:write(text))
  assert(file:close())
end
M.write = write

local function migrated()
  return postgres.template("workflow", function(conninfo)
    local conn <close> = assert(pg.connect(conninfo))
    assert(migrate.run { conn = conn, dir = host.root .. "/sql" })
  end)
end

--- A world. Every piece of it goes with `close`.
-- @tparam[opt] table options config: keys that differ from the defaults; template: see `template`, false for none
function M.new(options)
  options = options or {}
  local dir = program.folder()
  local self = setmetatable({ dir = dir, url = postgres.database("workflow", migrated()), children = {} }, World)
  self.conn = assert(pg.connect(self.url))
  self.env = { DATABASE_URL = self.url, ATELIER_STATE = dir, ATELIER_TEMPLATES = dir .. "/templates",
    ATELIER_LOG = "error", ATELIER_CONFIG = dir .. "/atelier.conf.lua" }
  self:configure(options.config or {})
  self.ring = assert(keyring.create(dir .. "/keyring.json"))
  assert(os.execute("mkdir -p " .. dir .. "/templates " .. dir .. "/files"))
  self.store = assert(storage.open(self.config))
  self.conns = {}
  if options.template ~= false then
    self:template(options.template or {})
  end
  -- What a spec provokes is no news.
  log.configure { level = "error", out = assert(io.open(dir .. "/log", "a")) }
  return self
end

-- The same configuration for this process and for those that it starts. A slow machine must not change a verdict.
function World:configure(values)
  values.jail_time = values.jail_time or 60
  local lines = {}
  for name, value in pairs(values) do
    lines[#lines + 1] = ("%s = %s,"):format(name, type(value) == "string" and ("%q"):format(value) or tostring(value))
  end
  write(self.dir .. "/atelier.conf.lua", "return {" .. table.concat(lines, " ") .. "}")
  self.config = assert(config.load(self.dir .. "/atelier.conf.lua"))
  self.config.state_dir, self.config.database_url = self.dir, self.url
  self.config.keyring, self.config.templates_dir = self.dir .. "/keyring.json", self.dir .. "/templates"
  self.config.storage_dir = self.dir .. "/files"
end

function World:query(sql, params)
  return assert(self.conn:query(sql, params))
end

function World:value(sql, params)
  return self:query("select (" .. sql .. ") as value", params)[1].value
end

-- Registers what is in the folder, be it sound or not.
function World:publish(folder)
  local t = assert(template.load(folder))
  self:query("select publish_ate_template($1, $2, $3, $4, $5, $6, '', 'autotouch', $7)", { t.name, t.version,
    "templates/" .. t.name .. ".at/", pg.json(json.array(t.file_structure)), pg.json(json.array(t.required_variables)),
    t.hash, t.container })
end

--- Writes a template's folder and publishes it.
-- @tparam table options manifest: fields that differ; files: name → text; publish: false to leave that out
function World:template(options)
  local manifest = setmetatable({}, { __index = MANIFEST })
  for name, value in pairs(MANIFEST) do
    manifest[name] = value
  end
  for name, value in pairs(options.manifest or {}) do
    manifest[name] = value
  end
  setmetatable(manifest, nil)
  local folder = ("%s/templates/%s.at"):format(self.dir, manifest.name)
  assert(os.execute("mkdir -p " .. folder))
  local files = { ["main.lua"] = MAIN, ["follow.lua"] = "return 'follow'\n" }
  for name, text in pairs(options.files or {}) do
    files[name] = text
  end
  for name, text in pairs(files) do
    write(folder .. "/" .. name, text)
  end
  write(folder .. "/template.json", assert(json.encode(manifest)))
  if options.prepare then
    options.prepare(folder)
  end
  if options.publish ~= false then
    self:publish(folder)
  end
  return folder
end

--- A customer who has bought: the rows, in one transaction, as a payment would write them.
-- @tparam string hash
-- @tparam[opt] table options plan ("pro"), expires (SQL, "now() + interval '30 days'"), trial
function World:customer(hash, options)
  options = options or {}
  assert(self.conn:transaction(function(conn)
    local user = assert(conn:query("insert into auth.users (id) values (gen_random_uuid()) returning id::text as id"))[1].id
    local device = assert(conn:query([[insert into devices (user_id, device_hash, device_model, status, trial_ends_at)
      values ($1::uuid, $2, 'phone', $3, now() + interval '3 days') returning id::text as id]],
      { user, hash, options.trial and "trial" or "active" }))[1].id
    if not options.trial then
      assert(conn:query(("insert into licenses (device_id, is_valid, expires_at) values ($1::uuid, true, %s)")
        :format(options.expires or "now() + interval '30 days'"), { device }))
      assert(conn:query("insert into subscriptions (device_id, status, plan_id) values ($1::uuid, 'active', $2)",
        { device, options.plan or "pro" }))
    end
    return true
  end))
  return hash
end

--- Many customers in one transaction: devices D0001, D0002, …, whose jobs have this order.
function World:customers(count)
  assert(self.conn:exec(([[
    begin;
    insert into auth.users (id) select md5('u' || i)::uuid from generate_series(1, %d) i;
    insert into devices (user_id, device_hash, device_model, status)
      select md5('u' || i)::uuid, 'D' || lpad(i::text, 4, '0'), 'phone', 'active' from generate_series(1, %d) i;
    insert into licenses (device_id, is_valid, expires_at) select id, true, now() + interval '1 day' from devices;
    insert into subscriptions (device_id, status, plan_id) select id, 'active', 'pro' from devices;
    update file_generation_queue q set run_after = now() - interval '1 hour' + substr(d.device_hash, 2)::int * interval '1 ms'
      from devices d where d.id = q.device_id;
    commit]]):format(count, count)))
end

--- A worker in this process, on a connection of its own.
function World:worker(options)
  options = options or {}
  local conn = options.conn or assert(pg.connect(self.url))
  self.conns[#self.conns + 1] = conn
  return worker.new { conn = conn, store = options.store or self.store, ring = self.ring,
    config = options.config or self.config, on_event = options.on_event, connect = options.connect,
    on_turn = options.on_turn }, conn
end

function World:jobs(where)
  return self:query(([[select q.id::text as id, d.device_hash, q.status, q.attempt, q.retry_count, q.max_retries, q.worker_id,
      q.error_code, q.error_message, q.run_after > now() as waits
    from file_generation_queue q join devices d on d.id = q.device_id where %s order by d.device_hash, q.created_at]])
    :format(where or "true"))
end

--- The jobs' states and what they have paid, as in "queued 0, failed 3".
function World:states()
  local found = {}
  for _, job in ipairs(self:jobs()) do
    found[#found + 1] = ("%s %d"):format(job.status, job.retry_count)
  end
  return table.concat(found, ", ")
end

function World:file(hash)
  return self:query([[select f.*, f.id::text as id from ate_files f join devices d on d.id = f.device_id
    where d.device_hash = $1]], { hash })[1]
end

--- Opens a device's file with its key and gives the values that its main.lua sees, and the opened file.
function World:open(hash)
  local file = self:file(hash)
  local device = self:value("select id::text from devices where device_hash = $1", { hash })
  local folder = program.folder()
  local opened = assert(open.open(self.store.root .. "/" .. file.file_path, { device_hash = hash,
    licence = licence.key((assert(self.ring:master(file.master_key_id))), device), trusted = self.ring:trusted(),
    extract = folder .. "/x", limits = { ratio = 1000000 } }))
  local values = dofile(folder .. "/x/main.lua")
  program.remove(folder)
  return values, opened, file
end

-- All keys of the store, whatever their number.
function World:keys()
  local keys, after = {}, nil
  repeat
    local page = assert(self.store:list("", after))
    for _, entry in ipairs(page) do
      keys[#keys + 1], after = entry.key, entry.key
    end
  until #page == 0
  return keys
end

--- Objects without a row, and rows without an object; both empty when all is well.
function World:differences()
  local named, orphans, missing = {}, {}, {}
  for _, row in ipairs(self:query "select file_path from ate_files union all select file_path from ate_file_versions") do
    named[row.file_path] = true
  end
  for _, key in ipairs(self:keys()) do
    if not named[key] then
      orphans[#orphans + 1] = key
    end
    named[key] = nil
  end
  for key in pairs(named) do
    missing[#missing + 1] = key
  end
  return orphans, missing
end

--- Every object's bytes are those that its row tells of, and what has no row is whole.
function World:check_objects()
  for _, key in ipairs(self:keys()) do
    assert(open.verify(self.store.root .. "/" .. key, { trusted = self.ring:trusted() }))
  end
end

--- Everything below the store that is no object: what was not cleaned up.
function World:leftovers()
  local _, text = program.shell(("find %s -name '.*.tmp' -o -path '*/.staging/*'"):format(self.store.root))
  return text
end

-- ==== processes ====

--- Starts the program in the background.
-- @treturn table process: pid; kill(signal); wait() → exit code or nil, signal; output(), errors()
function World:start(...)
  local words, base = { ... }, ("%s/process%d"):format(self.dir, #self.children + 1)
  local pid = assert(unistd.fork())
  if pid == 0 then
    for name, value in pairs(self.env) do
      stdlib.setenv(name, value)
    end
    unistd.exec("/bin/sh", { [0] = "sh", "-c", ('exec "$0" "$@" >%s.out 2>%s.err </dev/null'):format(base, base),
      host.exe, table.unpack(words) })
    unistd._exit(127)
  end
  local process = { pid = pid }
  self.children[#self.children + 1] = process
  local function slurp(suffix)
    local file = io.open(base .. suffix, "rb")
    local text = file and file:read "a" or ""
    if file then
      file:close()
    end
    return text
  end
  function process.kill(number)
    return signal.kill(pid, number)
  end
  function process.wait()
    if not process.ended then
      local _, how, status = wait.wait(pid)
      process.ended = { how, status }
    end
    local how, status = table.unpack(process.ended)
    return how == "exited" and status or nil, how ~= "exited" and status or nil
  end
  function process.output()
    return slurp ".out"
  end
  function process.errors()
    return slurp ".err"
  end
  return process
end

--- Waits for a fact, which the queue's own announcements are the occasion to look for.
-- @tparam function|string fact a function, or SQL that gives one truth value
function World:await(fact, limit)
  local deadline = clock.now() + (limit or 120)
  if not self.listener or self.listener:status() == "lost" then
    self.listener = assert(pg.connect(self.url))
    assert(self.listener:listen "ate_jobs")
  end
  local holds = type(fact) == "function" and fact or function()
    return self:value(fact)
  end
  while not holds() do
    assert(clock.now() < deadline, "did not come to be: " .. tostring(fact))
    assert(self.listener:notifications(0.02))
  end
end

--- Holds back every completion until the returned function is called; claims go on.
function World:hold_completions()
  local conn = assert(pg.connect(self.url))
  assert(conn:exec "begin; lock table ate_files in share mode")
  return function()
    assert(conn:exec "commit")
    conn:close()
  end
end

--- A worker stands before `hold_completions`; the keeper may, too, which says nothing.
M.HELD = [[exists (select from pg_locks l join pg_stat_activity a using (pid) where not l.granted
  and l.relation = 'ate_files'::regclass and a.query like '%complete_ate%')]]

function World:close()
  for _, process in ipairs(self.children) do
    if not process.ended then
      process.kill(signal.SIGCONT)
      process.kill(signal.SIGKILL)
      process.wait()
    end
  end
  log.configure { level = "info" }
  self.store:close()
  for _, conn in ipairs(self.conns) do
    conn:close()
  end
  self.conn:close()
  if self.listener then
    self.listener:close()
  end
  program.remove(self.dir)
  collectgarbage()
  collectgarbage()
  assert(pg.live_handles() == 0, "connections are left open")
  assert(fs.live_handles() == 0, "a store is left open")
end

return M
