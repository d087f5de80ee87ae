--- The whole path on real input: a private Postgres, three purchases, three sealed files, opened and verified.
local clock = require "clock"
local json = require "atelier.json"
local launch = require "daemon.launch"
local licence = require "ate.licence"
local migrate = require "migrate"
local open = require "ate.open"
local host = require "atelier.host"
local plans = require "plans"
local postgres = require "postgres"
local secret = require "api.secret"
local session = require "cli.session"
local stdlib = require "posix.stdlib"
local term = require "cli.term"
local token = require "api.token"
local work = require "cli.work"

local M = {
  example = "SERVE=0 atelier demo\nSERVE=0 atelier demo --json | jq .files",
}

function M.options(parser)
  parser:description("Ends in serving what it made, until Control-C; with SERVE=0 it ends at once.\n"
    .. "With --json the object comes before it serves: the files, and the service's url where it does.")
end

local DEMO = {
  { device = "DEMO-STARTER-001", plan = "starter", user = "d0000000-0000-4000-8000-000000000001" },
  { device = "DEMO-PRO-001", plan = "pro", user = "d0000000-0000-4000-8000-000000000002" },
  { device = "DEMO-MAX-001", plan = "max", user = "d0000000-0000-4000-8000-000000000003" },
}

local function done(label, text, began)
  print(("  %s %-10s %s %s"):format(term.green "✔", label, text, term.dim(term.duration((clock.now() - began) * 1000))))
end

local function raise(message, code)
  error({ message = message, code = code }, 0)
end

local function must(value, message, code)
  if not value then
    raise(message, code)
  end
  return value
end

local function prepare(s)
  local began = clock.now()
  local conn = s.conn
  done("Postgres", "private cluster below " .. s.config.state_dir .. ", unix socket only", began)
  began = clock.now()
  local applied = must(migrate.run { conn = conn, dir = host.root .. "/sql" })
  done("Schema", ("%d migrations in place"):format(#applied), began)
  began = clock.now()
  local published = must(require("cli.template").publish(s, "smartgram"))
  done("Template", published.name .. " " .. published.version .. " published", began)
end

-- A customer buys: device, licence and, last, the subscription; its row queues the job by trigger. Run again, the
-- purchase stands already, and the customer asks for a fresh file.
local BUY = {
  [[insert into auth.users (id, email) values ($1::uuid, $2 || '@demo.invalid') on conflict do nothing]],
  [[insert into devices (user_id, device_hash, device_model, status) values ($1::uuid, $2, 'demo phone', 'active')
      on conflict (device_hash) do nothing]],
  [[insert into licenses (device_id, is_valid, expires_at)
      select id, true, date_trunc('second', now() + interval '30 days') from devices where device_hash = $2
        and $1::text is not null on conflict (device_id) do nothing]],
  [[insert into subscriptions (device_id, status, plan_id) select id, 'active', $1 from devices where device_hash = $2
      on conflict (device_id) do nothing]],
}

local QUEUE = "select queue_ate_generation($1)::text as id"

local function buy(conn, customer)
  for i, sql in ipairs(BUY) do
    must(conn:query(sql, { i == #BUY and customer.plan or customer.user, customer.device }))
  end
  customer.queue_id = must(conn:query(QUEUE, { customer.device }))[1].id
end

local function purchase(s)
  local began = clock.now()
  must(s.database:transaction(function(conn)
    for _, customer in ipairs(DEMO) do
      buy(conn, customer)
    end
    return true
  end))
  done("Purchases", "3 customers on 3 plans; their rows queued 3 jobs", began)
end

local JOB = [[select status, coalesce(error_code, '') as error_code, coalesce(error_message, '') as error_message
  from file_generation_queue where id = $1::uuid]]
local PATIENCE = 300 -- seconds that another worker may take

-- Whether a customer's job is done. One that made way for a newer job, another demo's, is queued anew.
local function is_done(conn, customer)
  local job = must(conn:query(JOB, { customer.queue_id }))[1]
  if job and job.status == "cancelled" and job.error_code == "superseded" then
    customer.queue_id = must(conn:query(QUEUE, { customer.device }))[1].id
    return false
  elseif job and (job.status == "failed" or job.status == "cancelled") then
    raise(("demo: the job for %s %s: %s"):format(customer.device, job.status, job.error_message), "failed")
  end
  return not job or job.status == "completed" -- the keeper took it to the history
end

-- Works here, and waits for what the worker of another demo or of a service took first: its end is announced.
local function work_until_done(s, w)
  must(s.database:listen "ate_jobs")
  local deadline = clock.now() + PATIENCE
  while true do
    must(w:drain())
    local waiting
    for _, customer in ipairs(DEMO) do
      waiting = not is_done(s.database, customer) and customer or waiting
    end
    if not waiting then
      return
    elseif clock.now() > deadline then
      raise("demo: another worker holds the job for " .. waiting.device, "timeout")
    end
    must(s.database:notifications(1))
  end
end

local function make_files(s)
  local began, timing = clock.now(), {}
  local w = work.worker(s, function(event, job, artifact)
    if event == "completed" then
      timing[job.device_hash] = artifact.timing
    elseif event == "failed" then
      print(term.red(("  device %s: %s"):format(job.device_hash, term.safe(artifact))))
    end
  end)
  work_until_done(s, w)
  local mine = 0
  for _, customer in ipairs(DEMO) do
    mine = mine + (timing[customer.device] and 1 or 0)
  end
  done("Worker", ("%d built, run in the jail, sealed, stored and recorded%s"):format(mine,
    mine < #DEMO and ("; another worker did %d"):format(#DEMO - mine) or ""), began)
  must(w:release())
  return timing
end

local FILE = [[select f.id::text, d.id::text as device_id, f.file_path, f.file_size_bytes, f.checksum, f.master_key_id,
    f.generation, p.display_name, p.tools, t.file_structure
  from ate_files f join devices d on d.id = f.device_id join plans p on p.id = f.plan_id
    join ate_templates t on t.id = f.template_id
  where d.device_hash = $1 and t.name = 'smartgram']]

local function names(list)
  return #list > 0 and table.concat(list, ", ") or "none"
end

-- Tools that are in, and those that are left out: not in this plan, but in which?
local function tools_of(file, all_plans)
  local left_out, missing = {}, {}
  for _, decision in ipairs(plans.select(file.file_structure, file.tools)) do
    if not decision.included then
      missing[decision.tool or decision.file] = true
    end
  end
  for _, plan in ipairs(all_plans) do
    local here = {}
    for _, tool in ipairs(plan.tools) do
      if missing[tool] then
        missing[tool] = nil
        here[#here + 1] = tool
      end
    end
    if #here > 0 then
      left_out[#left_out + 1] = ("%s %s"):format(names(here),
        term.dim(("(not in this plan; %s has %s)"):format(plan.display_name, #here > 1 and "them" or "it")))
    end
  end
  return names(file.tools), names(left_out)
end

-- Opens the file as the customer's device would, and as a thief's would.
local function check(s, path, customer, key)
  local opened = must(open.open(path, { device_hash = customer.device, licence = key, trusted = s.ring:trusted() }))
  local _, _, code = open.open(path, { device_hash = "DEMO-THIEF", licence = key, trusted = s.ring:trusted() })
  if code ~= "wrong_key" then
    raise("demo: another device opened the file: " .. tostring(code), "demo")
  end
  return opened
end

-- Gives back what --json tells of it.
local function show_customer(s, customer, timing, all_plans)
  local file = must(s.database:query(FILE, { customer.device }))[1]
  must(file, "demo: no file is recorded for " .. customer.device)
  local key = licence.key(must(s.ring:master(file.master_key_id)), file.device_id)
  local path = s.store.root .. "/" .. file.file_path
  local opened = check(s, path, customer, key)
  local inside, left_out = tools_of(file, all_plans)
  print()
  print(term.bold(file.display_name) .. "  " .. customer.device)
  term.field("tools in", inside)
  term.field("left out", left_out)
  term.field("size", ("%s, %d files inside, generation %d"):format(term.size(file.file_size_bytes), #opened.entries,
    file.generation))
  term.field("SHA-256", file.checksum)
  term.field("licence key", term.cyan(key))
  term.field("file", path)
  term.field("checked", ("opened with its key, signed by %s; another device is refused"):format(opened.signed_by))
  if timing then
    term.field("stages", ("render, run, zip and seal %s · store durably %s"):format(term.duration(timing.build),
      term.duration(timing.store)))
  end
  return { device_hash = customer.device, plan = customer.plan, license_key = key, path = path,
    checksum = file.checksum, file_size = file.file_size_bytes, generation = file.generation }
end

local NEXT = [[

Try next:
  %s open %s \
    --device %s --license %s -x /tmp/tools
  %s generate --device DEMO-MAX-001 --out max.ate
  %s queue list
  eval "$(%s env)" && psql "$DATABASE_URL"
]]

local LINKS_SECONDS = 12 * 3600

-- A dashboard for each customer, and the operator's.
local function show_links(s, url)
  local key = must(secret.ensure(s.config))
  print(term.bold "Dashboards" .. term.dim "  (links with a token, good for 12 hours)")
  for _, customer in ipairs(DEMO) do
    term.field(customer.plan, ("%s/dashboard#token=%s"):format(url, token.user(key, s.config, customer.user,
      LINKS_SECONDS)))
  end
  term.field("operator", ("%s/dashboard/ops#token=%s"):format(url, token.operator(key, s.config, LINKS_SECONDS)))
  print()
end

-- The service, ready to go; nothing when one runs over this folder already, which serves these customers as well.
local function prepare_service(s, was_running)
  local started, message, code = launch.begin(s.config)
  if not started and code == "running" then
    local state = launch.state(s.config)
    print((message:gsub("^serve: ", "")))
    return state and show_links(s, state.url)
  end
  must(started, message, code)
  must(started:listen(true))
  show_links(s, started:url())
  if not was_running then
    started:own_postgres()
  end
  print "Serving until Control-C: a purchase that you record now is a file a moment later."
  return started
end

function M.run(args)
  if args.json then
    rawset(_G, "print", function() end) -- nothing but the object
  end
  -- Never puts demo customers into somebody's own database, nor their files into a store. The service's processes read
  -- the environment, too.
  stdlib.setenv("ATELIER_STORE", "local")
  io.stdout:setvbuf "line" -- a log file should show the last line, too, while we stay
  local started
  local result, message, code = session.with(function(s)
    s.config.database_url = nil
    local cluster = postgres.status { dir = s.config.state_dir .. "/postgres" }
    print(term.bold "Atelier" .. ": from a purchase to a sealed .ate\n")
    prepare(s)
    purchase(s)
    local timing = make_files(s)
    local all_plans = must(s.database:query "select display_name, tools from plans order by price_jpy")
    local files = json.array {}
    for i, customer in ipairs(DEMO) do
      files[i] = show_customer(s, customer, timing[customer.device], all_plans)
    end
    local exe, last = host.exe, files[#files]
    print(NEXT:format(exe, last.path, last.device_hash, last.license_key, exe, exe, exe))
    if os.getenv "SERVE" ~= "0" then
      started = prepare_service(s, cluster and cluster.running)
    end
    return { files = files, url = started and started:url() }
  end)
  if not result or not started then
    return result, message, code
  end
  if args.json then -- now: this process becomes the service, which prints nothing more
    require("cli").print_json(result)
    args.json = nil
  end
  return started:go { private = "only" }
end

return M
