-- atelier jail: lines, exit codes, quantities, files that are none.
local clock = require "clock"
local host = require "atelier.host"
local json = require "atelier.json"
local program = require "spec.support.program"
local signal = require "posix.signal"
local unistd = require "posix.unistd"
local wait = require "posix.sys.wait"

local folder

local function write(name, text)
  local path = folder .. "/" .. name
  local file <close> = assert(io.open(path, "wb"))
  file:write(text)
  return path
end

-- What came of each file; there is one object in one line.
local function lines(out)
  local object = assert(json.decode(out), out)
  assert.equal(1, select(2, out:gsub("\n", "")))
  assert.equal(object.exit, nil)
  return object.files, object
end

local function jail(...)
  local code, out, err = program.run { "jail", ... }
  return code, out, err
end

setup(function()
  folder = program.folder()
end)

teardown(function()
  program.remove(folder)
end)

describe("atelier jail --json", function()
  it("prints one object with all files, in order, and exits with 3 unless all are ok", function()
    local good, bad, worse = write("good.lua", "print 'hi'"), write("bad.lua", "\nerror 'no'"), write("worse.lua", "x = =")
    local code, out, err = jail(bad, good, worse, good, "--json")
    assert.equal(3, code)
    assert.equal("", err)
    local all, object = lines(out)
    local verdicts = {}
    assert.same({ false, "script", bad .. ": error: no", json.array {} },
      { object.ok, object.code, object.message, object.warnings })
    for i, line in ipairs(all) do
      verdicts[i] = line.verdict
    end
    assert.same({ "error", "ok", "syntax", "ok" }, verdicts)
    assert.same({ bad, 2, "no", "bad.lua" }, { all[1].file, all[1].line, all[1].message, all[1].script })
    assert.same({ "hi\n", json.null }, { all[2].output, all[2].line })
    for _, name in ipairs { "instructions", "memory", "time_ms", "output_bytes" } do
      assert.equal("number", type(all[2].usage[name]))
    end
    code, out = jail(good, good, "--json")
    all, object = lines(out)
    assert.same({ 0, 2, true, "ok" }, { code, #all, object.ok, object.code })
  end)

  it("gives each file a state that knows nothing of the others", function()
    local trap = write("trap.lua", "x = 1 string.format = nil print = nil")
    local look = write("look.lua", "print(x, string.format ~= nil)")
    local code, out = jail(trap, look, trap, look, "--json")
    assert.equal(0, code)
    assert.equal("nil\ttrue\n", lines(out)[4].output)
  end)

  it("is valid UTF-8 on one line, whatever a script says", function()
    local path = write("bytes\xff.lua", "print '\\255\\n\\27[2J' error('a\\nb\\0\\128')")
    local code, out = jail(path, "--json")
    assert.equal(3, code)
    assert(utf8.len(out))
    assert.equal(1, select(2, out:gsub("\n", "")))
    local line = lines(out)[1]
    assert.equal("\\xff\n\\x1b[2J\n", line.output)
    assert(line.message:find("a\nb\\x00\\x80", 1, true), line.message)
    assert(line.file:find("bytes\\xff.lua", 1, true))
  end)

  it("tells of files that are none, or no longer", function()
    assert(os.execute("mkfifo " .. folder .. "/fifo"))
    local code, out = jail(folder, folder .. "/fifo", "/dev/zero", folder .. "/missing.lua", write("last.lua", ""), "--json")
    assert.equal(3, code)
    local all = lines(out)
    assert.equal(5, #all)
    for i = 1, 4 do
      assert.equal("error", all[i].verdict)
      assert(all[i].message:find "cannot be read", all[i].message)
    end
    assert.equal("ok", all[5].verdict)
  end)

  it("is not well when its lines cannot be written", function()
    local path = write("unseen.lua", "")
    for _, out in ipairs { ">/dev/full", ">&-" } do
      local code, _, err = program.shell(("%s jail --time 60s --json %s %s %s"):format(host.exe, path, path, out))
      assert.equal(1, code)
      assert(err:find("standard output: ", 1, true), err)
    end
  end)

  it("does not take for a crash of the next file that its child was ended before", function()
    local loop, good = write("endless.lua", "while true do end"), write("after.lua", "print 'hi'")
    local out = folder .. "/killed"
    local pid = assert(unistd.fork())
    if pid == 0 then
      unistd.exec("/bin/sh", { "-c", ('exec "$0" jail "$@" --json --time 600s --instructions 1000G >%s'):format(out),
        host.exe, loop, good })
      unistd._exit(127)
    end
    local function proc(path, ...)
      local file <close> = io.open(("/proc/" .. path):format(...))
      return file and file:read "a" or ""
    end
    -- The first file's child, which runs, and the one that is started ahead, in this order.
    local children
    local deadline = clock.now() + 60
    repeat
      children = {}
      for child in proc("%d/task/%d/children", pid, pid):gmatch "%d+" do
        children[#children + 1] = tonumber(child)
      end
      local used = #children == 2 and proc("%d/stat", children[1]):match("%) %a" .. (" %-?%d+"):rep(10) .. " (%d+)")
    until tonumber(used or 0) >= 10 or clock.now() > deadline
    signal.kill(children[2], signal.SIGKILL)
    repeat until proc("%d/stat", children[2]):find("%) Z") or clock.now() > deadline -- it has ended, not only been told
    signal.kill(children[1], signal.SIGKILL)
    assert.same({ "exited", 3 }, { select(2, wait.wait(pid)) })
    local file <close> = assert(io.open(out))
    local all = lines(file:read "a")
    assert.same({ "crash", "ok", "hi\n" }, { all[1].verdict, all[2].verdict, all[2].output })
  end)

  it("refuses a script that is larger than its memory without reading it all", function()
    local path = write("large.lua", ("-"):rep(3000000))
    local code, out = jail(path, "--memory", "1M", "--json")
    assert.equal(3, code)
    assert.equal("memory", lines(out)[1].verdict)
  end)
end)

describe("atelier jail --modules", function()
  it("lets scripts find those of a folder, and of folders in it", function()
    os.execute("mkdir -p " .. folder .. "/mods/deep")
    write("mods/a.lua", "return 'A'")
    write("mods/deep/b.lua", "return 'B'")
    write("mods/broken.lua", "x = (")
    local path = write("uses.lua", "print(require 'a', require 'deep.b', dofile 'deep/b.lua')")
    local code, out = jail(path, "--modules", folder .. "/mods", "--json")
    assert.equal(0, code)
    assert.equal("A\tB\tB\n", lines(out)[1].output:gsub("deep/b.lua\t", ""))
    path = write("breaks.lua", "require 'broken'")
    code, out = jail(path, "--modules", folder .. "/mods", "--json")
    assert.equal(3, code)
    assert.same({ "syntax", "broken.lua", 1 }, { lines(out)[1].verdict, lines(out)[1].script, lines(out)[1].line })
  end)

  it("are told in order where another one is asked for", function()
    os.execute("mkdir -p " .. folder .. "/many")
    local names = {}
    for i = 1, 25 do
      names[i] = ("m%02d.lua"):format(i)
      write("many/" .. names[i], "")
    end
    for _, case in ipairs { { "require 'x'", "require: no script 'x' here; there are: %s, ..." },
      { "dofile 'x'", "dofile: no script 'x' here; there are: %s, ..." } } do
      local code, out = jail(write("asks.lua", case[1]), "--modules", folder .. "/many", "--json")
      assert.equal(3, code)
      assert.equal(case[2]:format(table.concat(names, ", ", 1, 20)), lines(out)[1].message)
    end
  end)

  it("must be a folder", function()
    local code, out = jail(write("x.lua", ""), "--modules", folder .. "/none", "--json")
    assert.equal(3, code)
    local _, object = lines(out)
    assert.same({ false, "modules", json.array {} }, { object.ok, object.code, object.warnings })
  end)

  it("is the only way to them", function()
    write("beside.lua", "return 1")
    local code, out = jail(write("alone.lua", "require 'beside'"), "--json")
    assert.equal(3, code)
    assert(lines(out)[1].message:find "no script 'beside' here")
  end)
end)

describe("atelier jail --runtime", function()
  it("stands for an application, and knows its globals", function()
    local path = write("app.lua", [[
      local w, h = getScreenResolution()
      for i = 1, 3 do tap(w // i, h // i) usleep(1000000000) end
      print(w, h, dialog { { type = CONTROLLER_TYPE.LABEL }, { type = CONTROLLER_TYPE.BUTTON, flag = 7 } })
      print(rgbToInt(1, 2, 3), intToRgb(0x010203))
      local found = findImage("x.png", 1, 0.9)
      print(#getColors { { 1, 1 }, { 2, 2 } }, found[1][1] > 0, appState "x", rawget(_G, "unheard"))
      return unheard_of
    ]])
    local code, out = jail(path, "--runtime", "autotouch", "--json")
    local line = lines(out)[1]
    assert.equal(3, code)
    assert.same({ "error", 7, "unknown global 'unheard_of'" }, { line.verdict, line.line, line.message })
    assert.equal("750\t1334\t7\n66051\t1\t2\t3\n2\ttrue\tACTIVATED\tnil\n", line.output)
    assert.same({ 3, 3, 1 }, { line.calls.tap, line.calls.usleep, line.calls.dialog })
  end)

  it("must be known", function()
    for _, name in ipairs { "nothing", "../autotouch", "init", "" } do
      local code, _, err = jail(write("x.lua", ""), "--runtime", name)
      assert.equal(3, code)
      assert(err:find("there is no runtime", 1, true), err)
    end
  end)

  it("may be an operator's own, from a folder", function()
    os.execute("mkdir -p " .. folder .. "/own")
    write("own/toy.lua", "return { functions = { greet = { 'hello' } } }")
    write("own/broken.lua", "return {\n functions = { f = 'function( end' }, colours = {} }")
    write("own/torn.lua", "return {\n = }")
    local conf = write("atelier.conf.lua", ("return { runtimes_dir = %q, jail_time = 60 }"):format(folder .. "/own"))
    local path = write("greets.lua", "print(greet())")
    local code, out = program.run({ "jail", path, "--runtime", "toy", "--json" }, { ATELIER_CONFIG = conf })
    assert.equal(0, code)
    assert.equal("hello\n", lines(out)[1].output)
    local _, _, err = program.run({ "jail", path, "--runtime", "broken" }, { ATELIER_CONFIG = conf })
    assert(err:find("unknown key 'colours'", 1, true), err)
    code, _, err = program.run({ "jail", path, "--runtime", "torn" }, { ATELIER_CONFIG = conf })
    assert.equal(3, code)
    assert(err:find("torn.lua:2:", 1, true), err)
  end)
end)

describe("atelier jail's limits", function()
  it("are quantities with units", function()
    local loop = write("loop.lua", "while true do end")
    local function verdict(path, ...)
      local code, out = jail(path, "--json", ...)
      assert.equal(3, code)
      return lines(out)[1]
    end
    local line = verdict(loop, "--instructions", "1.5k")
    assert.equal("instructions", line.verdict)
    assert(line.usage.instructions <= 1700)
    line = verdict(loop, "--time", "100ms", "--instructions", "1000G")
    assert.equal("time", line.verdict)
    assert.equal("memory", verdict(write("m.lua", "return ('x'):rep(600000)"), "--memory", "512KiB").verdict)
    assert.equal("output", verdict(write("o.lua", "print(('x'):rep(2000))"), "--output", "1K").verdict)
  end)

  it("that are none are told, with exit code 2", function()
    local path = write("x.lua", "")
    for _, words in ipairs { { "--memory", "3X" }, { "--memory", "-1" }, { "--memory", "" }, { "--memory", "0" }, { "--time", "4M4" },
      { "--time", "4 s" }, { "--instructions", "ten" }, { "--output", "9999G" }, { "--time", "0" }, { "--time", "1e3" }, { "--memory", "0x10" } } do
      local code, out, err = jail(path, table.concat(words, "="))
      assert.equal(2, code, table.concat(words, " "))
      assert.equal("", out)
      assert(err:find(words[1], 1, true), err)
    end
    assert.equal(2, (jail()))
    assert.equal(2, (jail(path, "--speed", "1")))
  end)
end)

describe("atelier jail with a configuration that is broken", function()
  it("warns, and does without what is wrong in it", function()
    local conf = write("broken.conf.lua", "return { jail_time = 60, fronts = 'many' }")
    local good = write("good.lua", "print 'hi'")
    local code, out = program.run({ "jail", good, "--json" }, { ATELIER_CONFIG = conf })
    local files, object = lines(out)
    assert.same({ 0, "ok", { "config" } }, { code, files[1].verdict, { table.unpack(object.warnings) } })
    local _, _, err = program.run({ "jail", good }, { ATELIER_CONFIG = conf })
    assert.matches("warning: config: .*fronts must be an integer.*done without", err)
  end)
end)

describe("atelier jail for a person", function()
  it("prints what a script printed, and a table", function()
    local code, out = jail(write("p.lua", "print 'hi'\nerror 'no\\27'"))
    assert.equal(3, code)
    assert(out:find("^hi\n\nfile +verdict +place"), out)
    assert(out:find("p.lua +error +p.lua:2 ") and out:find("no\\x1b", 1, true), out)
  end)
end)

describe("the command's own surroundings", function()
  it("are out of a script's reach", function()
    local path = write("reach.lua", "assert(not io and not debug and not package) print(pcall(require, 'secret'), pcall(dofile, 'secret.lua'))")
    write("secret.lua", "return 'found'")
    local code, out = program.shell(("cd %s && echo secret | SECRET=1 %s jail %s --time 60s --json 5</etc/passwd"):format(
      folder, require("atelier.host").exe, path))
    assert.equal(0, code, out)
    assert(not out:find "found")
  end)
end)
