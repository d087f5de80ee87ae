-- The private cluster, with real servers: every way it is started, found, broken and stopped.
local fcntl = require "posix.fcntl"
local postgres = require "postgres"
local pwd = require "posix.pwd"
local signal = require "posix.signal"
local stat = require "posix.sys.stat"
local stdlib = require "posix.stdlib"
local unistd = require "posix.unistd"
local wait = require "posix.sys.wait"

local is_root = unistd.geteuid() == 0

local function read(path)
  local file <close> = assert(io.open(path, "r"))
  return file:read("a")
end

local function write(path, text)
  local file <close> = assert(io.open(path, "w"))
  file:write(text)
end

local function output(command)
  local pipe <close> = assert(io.popen(command .. " 2>&1", "r"))
  return (pipe:read("a"):gsub("%s+$", ""))
end

local function ask(cluster, sql)
  return output(("psql -XAt '%s' -c \"%s\""):format(cluster.url, sql))
end

-- A folder that every user may walk into, removed with its clusters at the end.
local roots, clusters = {}, {}

local function new_root()
  local root = assert(stdlib.mkdtemp("/tmp/postgres_spec.XXXXXX"))
  stat.chmod(root, tonumber("755", 8))
  roots[#roots + 1] = root
  return root
end

local function new_dir()
  local dir = new_root() .. "/var/postgres"
  clusters[#clusters + 1] = dir
  return dir
end

local function clean_up()
  for i = #clusters, 1, -1 do
    postgres.stop { dir = table.remove(clusters, i) }
  end
  for i = #roots, 1, -1 do
    os.execute("rm -rf '" .. table.remove(roots, i) .. "'")
  end
end

-- Runs this Lua text in another process of the same interpreter, and gives its output.
local function elsewhere(text, before)
  local path = os.tmpname()
  write(path, ("package.path = %q\npackage.cpath = %q\n"):format(package.path, package.cpath) .. text)
  return output((before or "") .. " lua5.4 " .. path), os.remove(path)
end

-- Kills a server that this process started, and returns when it is dead.
local function kill(cluster)
  signal.kill(cluster.pid, signal.SIGKILL)
  wait.wait(cluster.pid)
end

describe("the private cluster", function()
  teardown(clean_up)

  local dir, cluster

  lazy_setup(function()
    dir = new_dir()
    cluster = assert(postgres.ensure { dir = dir, settings = { max_connections = "17", search_path = "it's" } })
  end)

  it("is made and started by the first call, and found by the next", function()
    assert.is_true(cluster.started)
    assert.equal(dir, cluster.home)
    local again = assert(postgres.ensure { dir = dir })
    assert.is_false(again.started)
    assert.equal(cluster.url, again.url)
    assert.equal(cluster.pid, again.pid)
  end)

  it("answers at its URL, as postgres, in UTF-8 and UTC", function()
    assert.equal("postgres|UTF8|C.UTF-8|UTC", ask(cluster, [[
      select current_user, current_setting('server_encoding'), current_setting('lc_collate'),
             current_setting('timezone')]]))
  end)

  it("keeps what makes a commit durable", function()
    assert.equal("on|on|on", ask(cluster, [[
      select current_setting('fsync'), current_setting('synchronous_commit'), current_setting('full_page_writes')]]))
  end)

  it("has no port: only a socket in a folder that is private", function()
    assert.equal("", ask(cluster, "show listen_addresses"))
    assert.equal("0700", ask(cluster, "show unix_socket_permissions"))
    assert.equal(tonumber("700", 8), stat.stat(cluster.socket).st_mode & tonumber("777", 8))
    assert.equal(tonumber("700", 8), stat.stat(dir).st_mode & tonumber("777", 8))
  end)

  it("takes settings for a new cluster, quoted", function()
    assert.equal("17", ask(cluster, "show max_connections"))
    assert.matches("search_path = 'it''s'\n", read(dir .. "/data/postgresql.conf"), 1, true)
  end)

  it("runs as an ordinary user", function()
    local uid = stat.stat(dir .. "/data").st_uid
    assert.not_equal(0, uid)
    assert.equal(is_root and pwd.getpwnam("postgres").pw_uid or unistd.geteuid(), uid)
  end)

  it("starts no process and takes no lock when it is up", function()
    os.remove(dir .. ".lock")
    local fork = unistd.fork
    unistd.fork = function() error("a process was started") end -- luacheck: ignore 122
    local ok, found = pcall(postgres.ensure, { dir = dir })
    unistd.fork = fork -- luacheck: ignore 122
    assert.is_true(ok, found)
    assert.is_nil(stat.stat(dir .. ".lock"))
  end)

  it("is cut off from what started it", function()
    local as_owner = is_root and "setpriv --reuid=postgres --regid=postgres --clear-groups " or ""
    local open = output(("%sls -l /proc/%d/fd"):format(as_owner, cluster.pid))
    assert.matches(" 0 %-> /dev/null\n", open)
    assert.matches(" 1 -> " .. dir .. "/log\n", open, 1, true)
    assert.matches(" 2 -> " .. dir .. "/log\n", open, 1, true)
    assert.not_matches("_spec", open:gsub(dir, ""), 1, true)
    local session = read("/proc/" .. cluster.pid .. "/stat"):match("%) %a %d+ %d+ (%d+)")
    assert.equal(cluster.pid, tonumber(session))
  end)

  it("lets a pipeline end while the server lives on", function()
    local other = new_dir()
    -- The pipe would stay open, and this call would never return, if the server had inherited it.
    local said = elsewhere(("print(require('postgres').ensure { dir = %q }.started)"):format(other))
    assert.equal("true", said)
    assert.is_true(postgres.status { dir = other }.running)
  end)

  it("tells its state", function()
    local found = assert(postgres.status { dir = dir })
    assert.is_true(found.running)
    assert.equal(cluster.url, found.url)
    local none = new_dir()
    assert.same({ running = false }, postgres.status { dir = none })
    assert.is_nil(stat.stat(none))
  end)

  it("understands a relative path and one through a link", function()
    local root = new_root()
    assert(unistd.link(dir, root .. "/link", true))
    assert.equal(cluster.pid, postgres.ensure { dir = root .. "/link" }.pid)
    local back = unistd.getcwd()
    unistd.chdir(dir:match("^(.*)/"))
    local found = postgres.ensure { dir = "postgres" }
    unistd.chdir(back)
    assert.equal(cluster.pid, found.pid)
  end)

  it("refuses options that it does not know", function()
    assert.error_matches(function() postgres.ensure { dir = dir, port = 5432 } end, "unknown option 'port'")
    assert.error_matches(function() postgres.stop { dir = dir, settings = {} } end, "unknown option 'settings'")
    assert.error_matches(function() postgres.status {} end, "'dir' must be a path")
    assert.error_matches(function() postgres.ensure { dir = "" } end, "'dir' must be a path")
  end)

  it("refuses a path that would break the server's own files", function()
    local ok, message, code = postgres.ensure { dir = new_root() .. "/a\nb" }
    assert.is_nil(ok)
    assert.equal("access", code)
    assert.matches("control characters", message)
  end)
end)

describe("stopping and starting", function()
  teardown(clean_up)

  local dir, cluster

  lazy_setup(function()
    dir = new_dir()
    cluster = assert(postgres.ensure { dir = dir })
    ask(cluster, "create table kept as select 42 as n")
  end)

  before_each(function()
    cluster = assert(postgres.ensure { dir = dir })
  end)

  it("stops, says so once, and starts with the same data", function()
    assert.is_true(postgres.stop { dir = dir })
    assert.is_nil(stat.stat(dir .. "/data/postmaster.pid"))
    assert.is_false(postgres.stop { dir = dir })
    assert.is_false(postgres.status { dir = dir }.running)
    cluster = assert(postgres.ensure { dir = dir })
    assert.is_true(cluster.started)
    assert.equal("42", ask(cluster, "select n from kept"))
  end)

  it("has nothing to stop where there is no cluster", function()
    assert.is_false(postgres.stop { dir = new_root() .. "/none" })
  end)

  it("recovers from a killed server, with its children still dying", function()
    kill(cluster)
    local next_one = assert(postgres.ensure { dir = dir })
    assert.not_equal(cluster.pid, next_one.pid)
    assert.equal("42", ask(next_one, "select n from kept"))
  end)

  it("does not take another program for a server that died", function()
    local data = dir .. "/data/postmaster.pid"
    local notes = read(data)
    kill(cluster)
    -- This very process has got the number, as after a reboot.
    local stale = notes:gsub("^%d+", tostring(unistd.getpid()), 1)
    local file = io.open(data, "w")
    file:write(stale)
    file:close()
    local socket_lock = cluster.socket .. "/.s.PGSQL.5432.lock"
    local owned = io.open(socket_lock, "w")
    owned:write(stale)
    owned:close()
    assert.equal("42", ask(assert(postgres.ensure { dir = dir }), "select n from kept"))
  end)

  it("survives an empty pid file, as a full disk leaves it", function()
    assert(postgres.stop { dir = dir })
    write(dir .. "/data/postmaster.pid", "")
    assert.is_true(assert(postgres.ensure { dir = dir }).started)
  end)

  it("gives the end of the log when the server does not start", function()
    assert(postgres.stop { dir = dir })
    local path = dir .. "/data/postgresql.conf"
    local conf = read(path)
    write(path, conf .. "\nno_such_setting = 1\n")
    local ok, message, code = postgres.ensure { dir = dir }
    write(path, conf)
    assert.is_nil(ok)
    assert.equal("server", code)
    assert.matches("unrecognized configuration parameter \"no_such_setting\"", message, 1, true)
  end)

  it("names the version that a cluster needs", function()
    assert(postgres.stop { dir = dir })
    local path = dir .. "/data/PG_VERSION"
    local version = read(path)
    write(path, "12\n")
    local ok, message, code = postgres.ensure { dir = dir }
    write(path, version)
    assert.is_nil(ok)
    assert.equal("version", code)
    assert.matches("made by PostgreSQL 12: version 12 is needed, and installed is %d+", message)
  end)

  it("does not use a folder that is no cluster", function()
    local other = new_root() .. "/db"
    os.execute(("mkdir -p '%s/data'"):format(other))
    if is_root then unistd.chown(other .. "/data", pwd.getpwnam("postgres").pw_uid, -1) end
    local ok, message, code = postgres.ensure { dir = other }
    assert.is_nil(ok)
    assert.equal("server", code)
    assert.matches("not a cluster", message)
    assert.same({}, output(("ls -A '%s/data'"):format(other)) == "" and {} or { "touched" })
  end)

  it("starts a log anew that has grown too long", function()
    assert(postgres.stop { dir = dir })
    os.execute(("truncate -s 9M '%s/log'"):format(dir))
    assert(postgres.ensure { dir = dir })
    assert.is_true(stat.stat(dir .. "/log").st_size < 1e6)
    assert.equal(9 * 1024 * 1024, stat.stat(dir .. "/log.old").st_size)
  end)
end)

describe("many at once", function()
  teardown(clean_up)

  it("make one cluster and start one server", function()
    local dir = new_dir()
    local text = ("local c, m = require('postgres').ensure { dir = %q }\nprint(c and c.pid or m, c and c.started)\n")
      :format(dir)
    local path = os.tmpname()
    write(path, ("package.path = %q\npackage.cpath = %q\n%s"):format(package.path, package.cpath, text))
    local said = output(("for i in 1 2 3 4 5; do lua5.4 %s & done; wait"):format(path))
    os.remove(path)
    local pids, starters = {}, 0
    for pid, started in said:gmatch("(%S+)\t(%S+)") do
      pids[pid] = true
      if started == "true" then starters = starters + 1 end
    end
    assert.equal(1, starters, said)
    assert.is_not_nil(next(pids))
    assert.is_nil(next(pids, (next(pids))), said)
    assert(postgres.stop { dir = dir })
  end)

  it("wait no longer than they were told", function()
    local root = new_root()
    local told, tell = unistd.pipe()
    local released, release = unistd.pipe()
    local pid = unistd.fork()
    if pid == 0 then
      unistd.close(release)
      local fd = fcntl.open(root .. "/db.lock", fcntl.O_RDWR | fcntl.O_CREAT, tonumber("600", 8))
      fcntl.fcntl(fd, fcntl.F_SETLK, { l_type = fcntl.F_WRLCK, l_whence = unistd.SEEK_SET, l_start = 0, l_len = 0 })
      unistd.write(tell, "held")
      unistd.read(released, 1) -- until the other end closes
      unistd._exit(0)
    end
    unistd.read(told, 4)
    local ok, message, code = postgres.ensure { dir = root .. "/db", timeout = 0.05 }
    for _, fd in ipairs { told, tell, released, release } do
      unistd.close(fd)
    end
    wait.wait(pid)
    assert.is_nil(ok)
    assert.equal("busy", code)
    assert.matches("another process", message)
    assert.is_nil(stat.stat(root .. "/db"))
  end)
end)

describe("making a cluster", function()
  teardown(clean_up)

  it("clears away what a killed attempt left", function()
    local dir = new_dir()
    os.execute(("mkdir -p '%s/data.new/base'"):format(dir))
    write(dir .. "/data.new/PG_VERSION", "1\n")
    if is_root then os.execute(("chown -R postgres '%s'"):format(dir)) end
    assert.is_true(assert(postgres.ensure { dir = dir }).started)
    assert.is_nil(stat.stat(dir .. "/data.new"))
    assert(postgres.stop { dir = dir })
  end)

  it("uses a short folder for the socket when the path is too long or odd", function()
    local root = new_root()
    local dir = root .. "/" .. ("long"):rep(25) .. "/it's, \"$(odd)\" é/postgres"
    clusters[#clusters + 1] = dir
    local cluster = assert(postgres.ensure { dir = dir })
    assert.equal(dir, cluster.home)
    assert.is_true(#cluster.socket < 60)
    local s = stat.lstat(cluster.socket)
    assert.equal(tonumber("700", 8), s.st_mode & tonumber("777", 8))
    assert.equal("1", ask(cluster, "select 1"))
    assert(postgres.stop { dir = dir })
    os.execute(("rm -rf '%s'"):format(cluster.socket))
  end)

  it("leaves nothing but its log when initdb fails, and says why", function()
    local dir = new_dir()
    local ok, message, code = postgres.ensure { dir = dir, settings = { shared_buffers = "nonsense" } }
    assert.is_nil(ok)
    assert.equal("server", code)
    assert.matches("shared_buffers", message, 1, true)
  end)

  it("refuses the name of a setting that is none", function()
    local dir = new_dir()
    assert.error_matches(function() postgres.ensure { dir = dir, settings = { ["a = 1\nb"] = 1 } } end, "not the name")
  end)
end)

if is_root then
  local postgres_uid = pwd.getpwnam("postgres").pw_uid

  describe("for root", function()
    teardown(clean_up)

    it("moves to where user postgres can go, and is found there", function()
      local root = new_root()
      stat.chmod(root, tonumber("700", 8))
      local dir, said = root .. "/var/postgres", {}
      clusters[#clusters + 1] = dir
      local cluster = assert(postgres.ensure { dir = dir, say = function(text) said[#said + 1] = text end })
      assert.matches("^/var/lib/atelier/%x+$", cluster.home)
      assert.equal(1, #said)
      assert.matches(dir, said[1], 1, true)
      assert.matches(cluster.home, said[1], 1, true)
      assert.is_nil(stat.stat(dir))
      assert.equal(cluster.pid, postgres.ensure { dir = dir }.pid)
      assert.equal(cluster.home, postgres.status { dir = dir }.home)
      assert.is_true(postgres.stop { dir = dir })
      os.execute("rm -rf '" .. cluster.home .. "'")
    end)

    it("keeps to the rights of whoever made the cluster", function()
      local root = new_root()
      os.execute(("cp -r lua/postgres lua/postgres.lua '%s'"):format(root))
      os.execute(("mkdir '%s/var' && chown nobody '%s/var'"):format(root, root))
      local dir = root .. "/var/postgres"
      clusters[#clusters + 1] = dir
      local function as_nobody(call)
        return output(([[cd / && setpriv --reuid=nobody --clear-groups lua5.4 -e '
          package.path = "%s/?.lua;" .. package.path
          local postgres = require "postgres"
          %s']]):format(root, call:format(dir)))
      end
      assert.equal("true nil nil", as_nobody([[local c, m, k = postgres.ensure { dir = "%s" }
        io.write(tostring(c and c.started), " ", tostring(m), " ", tostring(k))]]))
      local cluster = assert(postgres.ensure { dir = dir })
      assert.is_false(cluster.started)
      assert.equal("1", ask(cluster, "select 1"))
      assert.is_true(postgres.stop { dir = dir })
      assert.is_true(assert(postgres.ensure { dir = dir }).started)
      assert.equal(pwd.getpwnam("nobody").pw_uid, stat.stat("/proc/" .. postgres.status { dir = dir }.pid).st_uid)
      assert.is_true(postgres.stop { dir = dir })
    end)

    it("is not open to other users", function()
      local dir = new_dir()
      local cluster = assert(postgres.ensure { dir = dir })
      os.execute(("cp -r lua/postgres lua/postgres.lua '%s'"):format(dir:match("^(.*)/var")))
      local said = output(([[cd / && setpriv --reuid=nobody --clear-groups lua5.4 -e '
        package.path = "%s/?.lua;" .. package.path
        print(select(3, require("postgres").ensure { dir = "%s" }))']]):format(dir:match("^(.*)/var"), dir))
      assert.equal("access", said)
      assert.matches("Permission denied", output(("setpriv --reuid=nobody --clear-groups psql -XAt '%s' -c 'select 1'")
        :format(cluster.url)))
      assert(postgres.stop { dir = dir })
    end)

    it("does not follow a link that stands where the socket's folder goes", function()
      local root = new_root()
      local dir = root .. "/" .. ("x"):rep(120)
      clusters[#clusters + 1] = dir
      local cluster = assert(postgres.ensure { dir = dir })
      assert(postgres.stop { dir = dir })
      os.execute(("rm -rf '%s' && mkdir '%s/aim' && ln -s '%s/aim' '%s'")
        :format(cluster.socket, root, root, cluster.socket))
      local ok, message, code = postgres.ensure { dir = dir }
      os.remove(cluster.socket)
      assert.is_nil(ok)
      assert.equal("access", code)
      assert.matches("not a folder", message)
      assert.equal(0, stat.stat(root .. "/aim").st_uid)
    end)

    it("says that the disk is full, and leaves no half cluster", function()
      local root = new_root()
      local said = elsewhere(([[
        local postgres = require "postgres"
        local ok, message, code = postgres.ensure { dir = "%s/db" }
        print(ok, code, message:find("No space left on device", 1, true) ~= nil)
        local stat = require "posix.sys.stat"
        print(stat.stat("%s/db/data") == nil, stat.stat("%s/db/data.new") == nil)]]):format(root, root, root),
        ("unshare --mount sh -c 'mount -t tmpfs -o size=12m,mode=755 full \"$0\" && exec \"$@\"' '%s'"):format(root))
      assert.equal("nil\tdisk_full\ttrue\ntrue\ttrue", said)
    end)

    it("has its files owned by user postgres", function()
      local dir = new_dir()
      assert(postgres.ensure { dir = dir })
      for _, name in ipairs { "", "/data", "/run", "/log" } do
        assert.equal(postgres_uid, stat.stat(dir .. name).st_uid, name)
      end
      assert(postgres.stop { dir = dir })
    end)
  end)
end
