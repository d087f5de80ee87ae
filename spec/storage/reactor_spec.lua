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

  describe("together", function()
    local function run(f)
      local own <close> = setmetatable({ reactor.new(4) }, { __close = function(self)
        self[1]:close()
      end })
      local task = own[1]:spawn(f)
      local ok, message = pcall(own[1].wait, own[1], task, 60)
      return ok, ok and task.result or message
    end

    it("runs several at once, and gives the results of each when all are done", function()
      local order = {}
      -- Pauses until so many entries are there.
      local function step(name, entries)
        return function()
          order[#order + 1] = name
          if entries then
            repeat reactor.pause(0) until #order >= entries
          end
          order[#order + 1] = name
          return name, nil
        end
      end
      local ok, result = run(function()
        return reactor.together { step("a", 5), step "b", step("c", 4) }
      end)
      assert.is_true(ok, result)
      assert.same({ "a", "b", "b", "c", "c", "a" }, order)
      assert.same({ { "a", n = 2 }, { "b", n = 2 }, { "c", n = 2 } }, result[1])
    end)

    it("goes on at once where there is nothing to wait for", function()
      local ok, result = run(function()
        return #reactor.together {}, #reactor.together { function() end }
      end)
      assert.is_true(ok, result)
      assert.same({ 0, 1, n = 2 }, result)
    end)

    it("raises what one of them raised, when the others are done", function()
      local others = 0
      local ok, message = run(function()
        reactor.together { function()
          reactor.pause(0.02)
          others = others + 1
        end, function()
          error "of one"
        end }
      end)
      assert.is_false(ok)
      assert.matches("of one", message, 1, true)
      assert.equal(1, others)
    end)

    it("is given up with what it has begun", function()
      local own = reactor.new(4)
      local task = own:spawn(function()
        reactor.together { function()
          return reactor.ask { url = server.url .. "/storage/v1/bucket", timeout = 600 }
        end, function()
          reactor.pause(3600)
        end }
      end)
      assert.is_false(own:wait(task, 0.01))
      own:drop(task)
      assert.same({ 0 }, { own.multi:count(), next(own.asking), next(own.paused) })
      own:close()
    end)

    it("lets a task that pauses again and again hold up no request", function()
      server:control "/calm"
      local ok, result = run(function()
        local answered
        reactor.together { function()
          answered = reactor.ask { url = server.url .. "/storage/v1/bucket/none", timeout = 60 }
        end, function()
          while not answered do
            reactor.pause(0)
          end
        end }
        return answered.status
      end)
      assert.is_true(ok, result)
      assert.is_true(result[1] >= 200)
    end)
  end)
end)
