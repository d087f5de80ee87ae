-- The dashboard in a real browser, over a real service with a real worker: what a customer and an operator do there.
--
-- The journeys are Node scripts (*.mjs), each a list of steps; a failing one shows which. Packages of package.json are
-- put into build/browser; SHOTS=FOLDER keeps pictures.
local cases = require "spec.browser.cases"
local host = require "atelier.host"
local json = require "atelier.json"
local pg = require "atelier.pg"
local program = require "spec.support.program"
local services = require "spec.daemon.support.service"
local token = require "api.token"

local SECRET = "a secret that only the specs know"
local MODULES = host.root .. "/build/browser"

local function write(path, text)
  local file <close> = assert(io.open(path, "wb"))
  assert(file:write(text))
end

local function read(path)
  local file <close> = assert(io.open(path, "rb"))
  return assert(file:read "a")
end

local function user_id(n)
  return ("b0000000-0000-4000-8000-%012x"):format(n)
end

local CUSTOMERS = {
  { name = "starter", user = 1, device = "STARTER-001", plan = "starter" },
  { name = "pro", user = 2, device = "PRO-001", plan = "pro" },
  { name = "pro2", user = 2, device = "PRO-002", plan = "pro" },
  { name = "max", user = 3, device = "MAX-001", plan = "max" },
  { name = "gone", user = 4, device = "GONE-001", plan = "pro", expires = "-1 day" },
  { name = "broken", user = 5, device = "BROKEN-001", plan = "pro" },
}

local BUY = {
  [[insert into auth.users (id, email) values ($1::uuid, $1 || '@spec.invalid') on conflict do nothing]],
  [[insert into devices (user_id, device_hash, device_model, status, created_at)
    values ($1::uuid, $2, 'a phone', 'active', clock_timestamp())]],
  [[insert into licenses (device_id, is_valid, expires_at)
    select id, true, date_trunc('second', now() + $1::interval) from devices where device_hash = $2]],
  [[insert into subscriptions (device_id, status, plan_id) select id, 'active', $1 from devices where device_hash = $2]],
}

local function buy(conn, customer)
  local user = user_id(customer.user)
  assert(conn:query(BUY[1], { user }))
  assert(conn:query(BUY[2], { user, customer.device }))
  assert(conn:query(BUY[3], { customer.expires or "29 days 12 hours", customer.device }))
  assert(conn:query(BUY[4], { customer.plan, customer.device }))
end

-- The shipped template; on one device its script fails.
local BROKEN = 'if "{{device_hash}}" == "BROKEN-001" then error("the spindle is bent") end\n'

local function publish(world, version, head)
  local folder = world.dir .. "/templates/smartgram.at"
  assert(os.execute(("rm -rf %s && mkdir -p %s/templates && cp -R templates/smartgram.at %s"):format(folder, world.dir, folder)))
  write(folder .. "/main.lua", head .. read(folder .. "/main.lua"))
  write(folder .. "/template.json", (read(folder .. "/template.json"):gsub('"version": "[^"]*"', '"version": "' .. version .. '"')))
  local code, out, err = program.run({ "template", "publish", "smartgram" }, world.env)
  assert(code == 0, out .. err)
end

local function tokens()
  local now, made = os.time(), {}
  local function sign(name, user, claims)
    local all = { sub = user, role = "authenticated", aud = "authenticated", iat = now, exp = now + 86400 }
    for key, value in pairs(claims or {}) do all[key] = value end
    made[name] = token.sign(SECRET, all)
  end
  for _, customer in ipairs(CUSTOMERS) do sign(customer.name, user_id(customer.user)) end
  sign("nobody", user_id(9))
  sign("expired", user_id(2), { exp = now - 3600 })
  sign("anon", nil, { role = "anon" })
  sign("operator", nil, { role = "service_role" })
  return made
end

describe("the dashboard", function()
  local service, file

  local function install()
    local code, out, err = program.shell(host.root .. "/spec/browser/install.sh")
    assert(code == 0, "npm could not install what spec/browser/package.json names: " .. out .. err)
  end

  setup(function()
    install()
    service = services.new { template = false, env = { SUPABASE_JWT_SECRET = SECRET }, config = { rate_burst = 100000 } }
    local world, devices = service.world, {}
    publish(world, "1.0.0", BROKEN)
    for _, customer in ipairs(CUSTOMERS) do
      buy(world.conn, customer)
      devices[customer.name] = customer.device
    end
    service:start()
    file = service.dir .. "/browser.json"
    assert(os.execute("mkdir -p " .. service.dir .. "/home"))
    write(file, json.encode { url = service:state().url, pid = service:state().pid, root = service.root, tokens = tokens(),
      devices = devices, modules = MODULES,
      work = service.dir .. "/home", cases = service.dir .. "/cases.json", shots = os.getenv "SHOTS", templates = service.dir .. "/templates", env = world.env,
      exe = host.exe, sql = { host.exe, "run", host.root .. "/spec/browser/database.lua", world.url } })
  end)

  teardown(function()
    if service then
      service:stop()
      service:close()
    end
    collectgarbage()
    collectgarbage()
    assert.equal(0, pg.live_handles())
  end)

  local function journey(name)
    local code, out, err = program.shell(("env -u LD_PRELOAD HOME=%s/home node spec/browser/%s.mjs %s"):format(service.dir, name, file))
    assert(code == 0, out .. err .. service:log():sub(-2000))
    assert.truthy(out:find("ok - ", 1, true))
  end

  it("takes a customer from the shop's link to an opened file", function() journey "customer" end)
  it("judges files as the program does", function()
    write(service.dir .. "/cases.json", assert(json.encode(cases.all())))
    journey "opener"
  end)
  it("tells everybody else why not", function() journey "doors" end)
  it("shows an operator what failed, why, and runs it again", function() journey "operator" end)
  it("serves everybody: screen readers, keyboards, phones, two languages, light and dark", function()
    journey "access"
  end)
end)
