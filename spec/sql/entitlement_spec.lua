local database = require "spec.sql.database"
local pg = require "atelier.pg"

-- The rule stands three times, each fit for how it is asked: ate_ranked is the whole of it.
describe("the three forms of the rule about entitlement", function()
  local s

  setup(function()
    s = database.begin(database.fresh())
  end)

  teardown(function()
    database.finish(s)
  end)

  -- The same numbers everywhere and always.
  local state = 20240229
  local function random(most)
    state = (state * 1103515245 + 12345) & 0x7fffffff
    return (state >> 8) % most + 1
  end

  local function one_of(...)
    return (select(random(select("#", ...)), ...))
  end

  local function plans()
    s:query [[insert into plans (name, display_name, price_jpy, tools, max_devices) values
      ('none', 'None', 1, '["timeline"]', 0), ('two', 'Two', 1, '["follow"]', 2), ('many', 'Many', 1, '[]', 100)]]
    s:query "insert into plan_aliases (alias, plan_name) values ('former', 'two')"
    s:query "update plan_aliases set plan_name = 'pro' where alias = 'premium'"
  end

  -- Former plan ids are translated when they are written, so that they stand for rows of before.
  local function devices(count)
    s:query "alter table subscriptions disable trigger user"
    s:query "alter table subscriptions drop constraint subscriptions_plan_id_plans_name_fkey"
    local users, plan_ids = {}, { "starter", "pro", "max", "none", "two", "many", "former", "premium", "unknown" }
    for i = 1, 70 do
      users[i] = ("00000000-0000-0000-0001-%012d"):format(i)
      s:query("insert into auth.users (id) values ($1)", { users[i] })
    end
    for i = 1, count do
      local hash = random(12) == 1 and one_of(".hidden", "a/b", "übel", ("x"):rep(129)) .. i or "R" .. i
      local id = s:one([[insert into devices (user_id, device_hash, status, trial_ends_at, created_at)
        values ($1, $2, $3, now() + $4::interval, timestamptz '2026-01-01' + $5 * interval '1 hour') returning id]],
        { random(15) == 1 and pg.null or users[random(#users)], hash,
          one_of("active", "active", "active", "trial", "suspended"),
          one_of("1 day", "-1 day", pg.null), random(20) }).id
      if random(8) > 1 then
        s:query("insert into subscriptions (device_id, status, plan_id) values ($1, $2, $3)",
          { id, one_of("active", "active", "active", "active", "cancelled"),
            random(10) == 1 and pg.null or plan_ids[random(#plan_ids)] })
      end
      if random(8) > 1 then
        s:query("insert into licenses (device_id, is_valid, expires_at) values ($1, $2, now() + $3::interval)",
          { id, random(8) > 1, one_of("1 day", "1 day", "30 days", pg.null, "-1 day") })
      end
    end
  end

  it("say the same of any device", function()
    plans()
    devices(400)
    s:query [[create temp table verdicts on commit drop as
      select d.id, d.device_hash::text as hash, r.reason, r.entitled, r.plan_tools, to_jsonb(r) as ranked,
        to_jsonb(q) - 'certain' as quick, q.certain, to_jsonb(e) as decided, st.reason as standing,
        st.plan_tools as standing_tools
      from devices d
        cross join lateral ate_ranked(array[d.id]) r
        cross join lateral ate_quick(d.id, clock_timestamp()) q
        cross join lateral ate_entitlement(array[d.id]) e
        cross join lateral ate_standing(d.id, d.user_id, d.device_hash::text, d.status::text, d.trial_ends_at,
          clock_timestamp()) st]]
    assert.equal(400, s:value "count(*) from verdicts")
    local function none(condition)
      local row = s:one("select to_jsonb(v)::text as v from verdicts v where " .. condition .. " limit 1")
      assert(not row, row and condition .. ": " .. row.v)
    end
    none "entitled is distinct from (reason is null)"
    none "decided is distinct from ranked"
    none "certain and quick is distinct from ranked - 'entitled'"
    none "standing is distinct from reason"
    none "reason is null and standing_tools is distinct from plan_tools"
    -- All at once, as for a long list.
    assert.equal(0, s:value [[count(*) from verdicts v full join
      ate_entitlement(array(select id from verdicts)) e on e.device_id = v.id where to_jsonb(e) is distinct from v.ranked]])
    -- And each way of the rule was met, both where the short form was sure and where it was not.
    for _, reason in ipairs { "bad_device_hash", "trial_ended", "device_not_active", "no_subscription",
      "subscription_not_active", "no_licence", "licence_invalid", "licence_expired", "too_many_devices" } do
      assert.is_true(s:value("count(*) from verdicts where reason = $1", { reason }) > 0, reason)
    end
    assert.is_true(s:value "count(*) from verdicts where entitled and certain" > 10)
    assert.is_true(s:value "count(*) from verdicts where entitled and not coalesce(certain, false)" > 10)
  end)
end)
