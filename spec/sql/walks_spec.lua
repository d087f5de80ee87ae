local database = require "spec.sql.database"
local json = require "atelier.json"
local pg = require "atelier.pg"

-- What a call looks at must not grow with what is there, whatever the planner believes of a table that was empty when it
-- was last looked at.
describe("the database's calls look at few rows", function()
  local conninfo, s, template

  setup(function()
    conninfo = database.fresh()
    s = database.session(conninfo)
    template = s:value "id from ate_templates"
    s:query "vacuum analyze"
    s:close()
  end)

  -- A connection that has made its plans while the tables were empty; then they are not.
  before_each(function()
    s = database.begin(conninfo)
    s:query "select * from ate_status('W1')"
    s:query "select * from complete_ate_generations('[]')"
    s:query "select ate_log_downloads('[]')"
    s:query [[insert into devices (device_hash, status, trial_ends_at)
      select 'W' || n, 'trial', now() + interval '1 day' from generate_series(1, 400) n]]
    s:query([[insert into ate_files (device_id, template_id, filename, file_path, file_size_bytes, checksum,
        encryption_key_hash)
      select id, $1, 'f', 'generated/' || device_hash || '/old', 1000, repeat('a', 64), repeat('a', 64)
      from devices]], { template })
  end)

  after_each(function()
    database.finish(s)
  end)

  -- Rows of a table that a call has read, by any way.
  local function read(relation, call)
    local sql = "sum(seq_tup_read + coalesce(idx_tup_fetch, 0)) from pg_stat_xact_user_tables where relname = $1"
    local before = s:value(sql, { relation })
    call()
    return s:value(sql, { relation }) - before
  end

  local function member(job)
    return { queue_id = job.queue_id, attempt = job.attempt, file_path = "generated/new/" .. job.queue_id,
      file_size = 1, checksum = database.SHA, encryption_key_hash = database.SHA }
  end

  it("to complete jobs, however many are processing", function()
    local jobs = s:query "select * from claim_ate_generations('w', 300)"
    local list = json.array { member(jobs[300]), member(jobs[7]), member(jobs[150]) }
    local rows
    local function complete()
      rows = s:query("select error from complete_ate_generations($1)", { json.encode(list) })
    end
    assert.is_true(read("file_generation_queue", complete) < 30)
    assert.equal(3, #rows)
    for _, row in ipairs(rows) do
      assert.equal(pg.null, row.error)
    end
    assert.equal(3, s:value "count(*) from ate_files where file_path like 'generated/new/%'")
    assert.equal(3, s:value "count(*) from ate_file_versions where file_path like '%/old'")
  end)

  it("to write down downloads, however many files there are", function()
    local files = s:query "select id from ate_files order by id limit 3"
    local list = json.array {}
    for i, file in ipairs(files) do
      list[i] = { id = s:value "gen_random_uuid()", file = file.id, ip = "127.0.0.1", agent = "x", bytes = 5,
        status = "completed", reached_end = i ~= 3, age = 0.5 }
    end
    list[4] = { id = s:value "gen_random_uuid()", file = s:value "gen_random_uuid()", bytes = 1, status = "failed",
      reached_end = false, age = 0 }
    local text, added = json.encode(list), nil
    local function write()
      added = s:value("ate_log_downloads($1)", { text })
    end
    assert.is_true(read("ate_files", write) < 30)
    assert.equal(3, added)
    assert.equal(0, s:value("ate_log_downloads($1)", { text })) -- sent again: it is all there
    assert.equal(2, s:value "sum(download_count) from ate_files")
    assert.equal(3, s:value "count(*) from ate_files where last_downloaded_at < clock_timestamp()")
    assert.equal(3, s:value [[count(*) from download_history h join ate_files f on f.id = h.ate_file_id
      where h.device_id = f.device_id and h.bytes_downloaded = 5]])
  end)

  it("to tell where a file stands", function()
    s:query "update file_generation_queue set status = 'completed', finished_at = now()" -- nobody's place is counted
    for _, relation in ipairs { "devices", "ate_files", "file_generation_queue", "file_generation_history" } do
      assert.is_true(read(relation, function()
        s:query "select * from ate_status('W200')"
      end) < 10, relation)
    end
  end)
end)
