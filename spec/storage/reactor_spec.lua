local http = require "atelier.http"
local httpd = require "atelier.httpd"
local reactor = require "storage.reactor"
local stand_in = require "spec.support.supabase"

describe("storage.reactor", function()
  local server

  setup(function()
    server = stand_in.start()
  end)

  teardown(function()
    server:stop()
  end)

  before_each(function()
    server:control("/fault", { times = 1000, silent = true })
  end)

  after_each(function()
    server:control "/calm"
    collectgarbage()
    collectgarbage()
    assert.equal(0, http.live_handles())
  end)

  -- Several tasks that nobody answers; each is waited for until a time that is over.
  local function give_up()
    local own, tasks = reactor.new(4), {}
    for i = 1, 3 do
      tasks[i] = own:spawn(function()
        if i == 3 then
          reactor.pause(3600)
        end
        return reactor.ask { url = server.url .. "/storage/v1/bucket", timeout = 600 }
      end)
    end
    local results = {}
    for i, seconds in ipairs { 0.05, 0, -1 } do
      results[i] = own:wait(tasks[i], seconds)
      own:drop(tasks[i])
    end
    results[4] = own.multi:count()
    results[5] = next(own.asking) or next(own.paused)
    own:close()
    return results
  end

  it("gives up tasks whose time is over, and what they ask for", function()
    assert.same({ false, false, false, 0 }, give_up())
  end)

  it("does so inside the event loop, too", function()
    local loop, results = assert(httpd.listen {}), nil
    assert(loop:run { handler = function() end, on_start = function()
      results = select(2, pcall(give_up))
      loop:stop()
    end })
    assert.same({ false, false, false, 0 }, results)
  end)
end)
