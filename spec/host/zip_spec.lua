local support = require "spec.support.zip"
local zip = require "atelier.zip"

local archive, open, prose, refused = support.archive, support.open, support.prose, support.refused

local function raises(pattern, f, ...)
  local ok, message = pcall(f, ...)
  assert.is_false(ok)
  assert.matches(pattern, message)
end

local function sh(command)
  local pipe = assert(io.popen(command .. " 2>&1; echo \" status=$?\""))
  local out = pipe:read("a")
  pipe:close()
  return tonumber(out:match("status=(%d+)%s*$")), out
end

-- Calls f with a fresh folder, which is removed afterwards.
local function with_folder(f)
  local _, out = sh("mktemp -d")
  local folder = out:match("^(%S+)")
  local ok, message = pcall(f, folder)
  os.execute("rm -rf '" .. folder .. "'")
  if not ok then
    error(message, 0)
  end
end

local function listing(folder)
  local _, out = sh("ls -A '" .. folder .. "'")
  return (out:gsub("%s*status=0%s*$", ""))
end

local function write_file(path, bytes)
  local f = assert(io.open(path, "wb"))
  assert(f:write(bytes))
  assert(f:close())
  return path
end

local function read_file(path)
  local f = assert(io.open(path, "rb"))
  local bytes = f:read("a")
  f:close()
  return bytes
end

describe("atelier.zip", function()
  after_each(function()
    collectgarbage()
    collectgarbage()
    assert.equal(0, zip.live_handles())
  end)

  describe("pieces", function()
    it("know their size and checksum", function()
      local p = zip.deflate("123456789")
      assert.equal(9, p:size())
      assert.equal(0xcbf43926, p:crc32()) -- the check value of CRC-32 (ISO 3309)
      assert.equal(11, p:compressed_size())
      assert.equal("zip piece: 9 bytes in 11", tostring(p))
      assert.matches("to be continued", tostring(zip.deflate("123", {last = false})))
    end)

    it("are joined without deflating again, for all sizes of head and tail", function()
      for _, head_size in ipairs({0, 1, 2, 63, 255, 4096, 65535, 65536, 200000}) do
        for _, tail_size in ipairs({0, 1, 3, 100, 32768, 70001}) do
          local head, tail = prose(head_size, 7), prose(tail_size, 9)
          local p = zip.splice(zip.deflate(head, {last = false, level = 6}), zip.deflate(tail))
          local w = zip.writer()
          assert(w:add_deflated("a", p))
          local r = open(assert(w:close()))
          assert.equal(head .. tail, r:read("a"))
          assert.equal(p:crc32(), r:entries()[1].crc32)
          r:close()
        end
      end
    end)

    it("are joined by more than two, and in turns", function()
      local open_piece = {last = false}
      local a, b, c = zip.deflate("a", open_piece), zip.deflate("b", open_piece), zip.deflate("c")
      local whole, turns = zip.splice(a, b, c), zip.splice(zip.splice(a, b), c)
      assert.equal(whole:crc32(), turns:crc32())
      local w = zip.writer()
      w:add_deflated("whole", whole)
      w:add_deflated("turns", turns)
      local r = open(w:close())
      assert.equal("abc", r:read("whole"))
      assert.equal("abc", r:read("turns"))
      r:close()
    end)

    it("must end where a stream ends", function()
      local head, tail = zip.deflate("a", {last = false}), zip.deflate("b")
      raises("ends its stream", zip.splice, tail, tail)
      local w <close> = zip.writer()
      raises("does not end its stream", w.add_deflated, w, "x", head)
      raises("does not end its stream", w.add_deflated, w, "x", zip.splice(head, head))
      raises("piece expected", zip.splice, head)
      raises("piece expected", zip.splice, head, "b")
    end)

    it("check their options", function()
      raises("unknown option 'lvl'", zip.deflate, "a", {lvl = 1})
      raises("has no metatable", zip.deflate, "a", setmetatable({}, {__index = {lvl = 1}}))
      raises("option 'level' must be from 1 to 9", zip.deflate, "a", {level = 0})
      raises("option 'last' must be a boolean", zip.deflate, "a", {last = 1})
      raises("string expected", zip.deflate)
    end)
  end)

  describe("writer", function()
    it("makes an archive that others read", function()
      with_folder(function(folder)
        local text = prose(100000)
        local bytes = archive({
          {"main.lua", text}, {"empty", ""}, {"data/raw.bin", ("\0\255"):rep(500), {method = "store"}},
          {"ünï/日本.txt", "utf-8"}, {"fast", text, {level = 1}}, {"small", text, {level = 9}},
        })
        write_file(folder .. "/a.zip", bytes)
        assert.equal(0, (sh("unzip -tqq " .. folder .. "/a.zip")))
        assert.equal(0, (sh("7z t " .. folder .. "/a.zip")))
        local status, out = sh("python3 -c \"import zipfile;z=zipfile.ZipFile('" .. folder .. "/a.zip');"
          .. "assert z.testzip() is None;"
          .. "print([(i.filename,i.date_time,oct(i.external_attr>>16)) for i in z.infolist()])\"")
        assert.equal(0, status)
        assert.matches("%('main.lua', %(1980, 1, 1, 0, 0, 0%), '0o100644'%)", out)
        assert.matches("ünï/日本.txt", out, 1, true)
        local r = open(bytes)
        assert.equal(text, r:read("main.lua"))
        assert.equal("", r:read("empty"))
        assert.is_true(r:entries()[6].compressed_size < r:entries()[5].compressed_size)
        r:close()
      end)
    end)

    it("gives the same bytes for the same entries, whatever the time zone", function()
      local script = [[
        local zip = require "atelier.zip"
        local w = zip.writer()
        w:add("a", ("text "):rep(100)); w:add_deflated("b", zip.deflate("b")); w:add("c", "c", {method = "store"})
        w:add_file("d", "/etc/hosts")
        io.write((w:close():gsub(".", function(c) return ("%02x"):format(c:byte()) end)))
      ]]
      with_folder(function(folder)
        write_file(folder .. "/s.lua", script)
        local first
        for _, zone in ipairs({"UTC", "Asia/Tokyo", "America/St_Johns", "Pacific/Kiritimati", ":/nowhere"}) do
          local status, out = sh("TZ=" .. zone .. " LUA_CPATH='" .. package.cpath .. "' lua5.4 " .. folder .. "/s.lua")
          assert.equal(0, status, out)
          first = first or out
          assert.equal(first, out, zone)
        end
      end)
    end)

    it("makes an empty archive of 22 bytes", function()
      local bytes = archive({})
      assert.equal(22, #bytes)
      local r = open(bytes)
      assert.same({}, r:entries())
      r:close()
      with_folder(function(folder)
        local w = assert(zip.writer(folder .. "/e.zip"))
        assert.is_true(w:close())
        assert.equal(bytes, read_file(folder .. "/e.zip"))
        assert.equal("e.zip", listing(folder))
      end)
    end)

    it("writes to a file through a temporary one", function()
      with_folder(function(folder)
        local path = write_file(folder .. "/a.zip", "the old file")
        local w = assert(zip.writer(path))
        assert(w:add("a", "text"))
        assert.equal("the old file", read_file(path))
        assert.equal("a.zip", listing(folder))
        assert.is_true(w:close())
        assert.equal(archive({{"a", "text"}}), read_file(path))
        assert.equal("a.zip", listing(folder))
        assert.is_true(w:close())
      end)
    end)

    it("never writes when it is collected, discarded or left", function()
      with_folder(function(folder)
        local path = write_file(folder .. "/a.zip", "the old file")
        do
          local w = zip.writer(path)
          w:add("a", "b")
        end
        do
          local w <close> = zip.writer(path)
          w:add("a", "b")
        end
        local w = zip.writer(path)
        w:discard()
        w:discard()
        refused("closed", w:close())
        collectgarbage()
        collectgarbage()
        assert.equal("the old file", read_file(path))
        assert.equal("a.zip", listing(folder))
      end)
    end)

    it("leaves nothing behind when writing fails", function()
      with_folder(function(folder)
        local script = write_file(folder .. "/s.lua", [[
          local zip = require "atelier.zip"
          local w = zip.writer(arg[1])
          w:add("big", ("\1"):rep(100000), {method = "store"})
          local value, message, code = w:close()
          assert(value == nil and code == "EFBIG", message)
          assert(message:match("^close: .*: File too large"), message)
          assert(zip.live_handles() == 0)
        ]])
        os.execute("mkdir " .. folder .. "/out")
        write_file(folder .. "/out/a.zip", "old")
        -- A limit on the size of files stands for a full disk: the same path, and no privilege is needed.
        local status, out = sh("trap '' XFSZ; ulimit -f 8; LUA_CPATH='" .. package.cpath .. "' lua5.4 " .. script .. " "
          .. folder .. "/out/a.zip")
        assert.equal(0, status, out)
        assert.equal("a.zip", listing(folder .. "/out"))
        assert.equal("old", read_file(folder .. "/out/a.zip"))
      end)
    end)

    it("reports a target that cannot be written", function()
      with_folder(function(folder)
        for _, path in ipairs({folder .. "/none/a.zip", folder}) do
          for _, filled in ipairs({true, false}) do
            local w = assert(zip.writer(path))
            if filled then
              assert(w:add("a", "b"))
            end
            local message = refused(path == folder and "EISDIR" or "ENOENT", w:close())
            assert.equal("close: " .. path, message:sub(1, 7 + #path))
            refused("closed", w:close())
          end
        end
        assert.equal("", listing(folder))
      end)
    end)

    it("refuses unsafe names and is closed by that", function()
      for name, reason in pairs({
        [""] = "is empty", ["/etc/passwd"] = "is absolute", ["../x"] = "part '.' or '..'", ["a/../b"] = "part '.' or '..'",
        ["a/.."] = "part '.' or '..'", ["./a"] = "part '.' or '..'", ["a//b"] = "empty part", ["a/"] = "empty part",
        ["a\\b"] = "backslash", ["a\0b"] = "control", ["a\nb"] = "control", ["\27[2J"] = "control", ["a\u{85}"] = "control",
        ["C:x"] = "drive letter", ["\255"] = "not UTF-8", ["\xc0\xaf"] = "not UTF-8", ["\xed\xa0\x80"] = "not UTF-8",
        ["\xf4\x90\x80\x80"] = "not UTF-8", ["\xe2\x82"] = "not UTF-8",
        [("x"):rep(256)] = "longer than 255", [("x/"):rep(600) .. "x"] = "longer than 1024",
        [("x/"):rep(64) .. "x"] = "more than 64",
      }) do
        local w = zip.writer()
        local message = refused("bad_name", w:add(name, "data"))
        assert.is_truthy(message:find(reason, 1, true), message)
        assert.is_nil(message:find("%c"))
        refused("closed", w:close())
        raises("zip writer is closed", w.add, w, "a", "b")
        raises("zip writer is closed", w.add_file, w, "a", "b")
        raises("zip writer is closed", w.add_deflated, w, "a", zip.deflate("b"))
        assert.equal("zip writer: closed", tostring(w))
      end
    end)

    it("refuses names that meet another", function()
      for _, pair in ipairs({
        {"a", "a"}, {"a/b", "A/B"}, {"Straße", "STRAßE"}, {"ÄÖ", "äö"}, {"σ", "ς"}, {"Ж", "ж"}, {"K", "\u{212a}"},
        {"a", "a/b"}, {"a/b", "a"}, {"a/b/c", "A/B"}, {"a", "A/b"},
      }) do
        local w = zip.writer()
        assert(w:add("a!b", ""))
        assert(w:add("zz", ""))
        assert(w:add(pair[1], ""))
        refused("bad_name", w:add(pair[2], ""))
      end
      local w = zip.writer()
      for _, name in ipairs({"a/b", "a-b", "a.b", "a0", "b", "a/c", "a/B2", "ab/c"}) do
        assert(w:add(name, ""))
      end
      assert.equal("zip writer: open, 8 entries", tostring(w))
      assert(w:close())
    end)

    it("stores what would look like a bomb", function()
      local r = open(archive({{"zeros", ("\0"):rep(1 << 21)}}))
      assert.equal("store", r:entries()[1].method)
      assert.equal(1 << 21, #r:read("zeros"))
      r:close()
    end)

    it("checks arguments and options", function()
      local w <close> = zip.writer()
      raises("string expected", w.add, w, "a")
      raises("string expected", w.add, w, {}, "a")
      raises("unknown option 'mehtod'", w.add, w, "a", "b", {mehtod = "store"})
      raises("'deflate' or 'store'", w.add, w, "a", "b", {method = "lzma"})
      raises("from 1 to 9", w.add, w, "a", "b", {level = 10})
      raises("option 'level' must be an integer", w.add, w, "a", "b", {level = "9"})
      raises("option 'password'", w.add, w, "a", "b", {password = ""})
      raises("option 'password'", w.add, w, "a", "b", {password = "a\0b"})
      raises("option 'password'", w.add, w, "a", "b", {password = ("x"):rep(1025)})
      raises("piece expected", w.add_deflated, w, "a", "b")
      raises("must not hold a NUL", zip.writer, "a\0b")
      raises("must not be empty", zip.writer, "")
      raises("writer expected", w.add, io.stdout, "a", "b")
    end)

    it("keeps what it refers to alive", function()
      for _, mode in ipairs({"generational", "incremental"}) do
        local before = collectgarbage(mode)
        local w = zip.writer()
        for i = 1, 50 do
          w:add_deflated("piece" .. i, zip.splice(zip.deflate("head" .. i, {last = false}), zip.deflate(prose(500, i))))
          w:add("store" .. i, prose(300, i) .. i, {method = "store"})
          collectgarbage("step")
        end
        collectgarbage()
        local junk = {} -- overwrites what was freed too early
        for i = 1, 1000 do
          junk[i] = ("junk"):rep(i % 200)
        end
        assert.equal(1000, #junk)
        local r = open(w:close())
        for i = 1, 50 do
          assert.equal("head" .. i .. prose(500, i), r:read("piece" .. i))
          assert.equal(prose(300, i) .. i, r:read("store" .. i))
        end
        r:close()
        collectgarbage(before)
      end
    end)
  end)

  describe("writer:add_file", function()
    it("takes paths, and open files from where they stand", function()
      with_folder(function(folder)
        local path = write_file(folder .. "/f", "0123456789")
        local f = assert(io.open(path, "rb"))
        f:read(4)
        local made = assert(io.tmpfile())
        made:write("written, not flushed")
        made:seek("set", 9)
        local w = zip.writer()
        assert(w:add_file("path", path))
        assert(w:add_file("stored", path, {method = "store"}))
        assert(w:add_file("rest", f))
        assert(w:add_file("made", made))
        assert(w:add_file("secret", path, {password = "pw"}))
        assert.equal("4", f:read(1))
        f:close()
        made:close()
        local r = open(w:close(), {password = "pw"})
        for name, text in pairs({path = "0123456789", stored = "0123456789", rest = "456789", made = "not flushed",
          secret = "0123456789"}) do
          assert.equal(text, r:read(name))
        end
        r:close()
      end)
    end)

    it("reports what cannot be read", function()
      with_folder(function(folder)
        os.execute("mkfifo " .. folder .. "/fifo")
        for path, code in pairs({[folder .. "/none"] = "ENOENT", [folder] = "EISDIR", [folder .. "/fifo"] = "EINVAL"}) do
          local w = zip.writer()
          local message = refused(code, w:add_file("a", path))
          assert.equal("add_file: " .. path .. ": ", message:sub(1, 12 + #path))
          refused("closed", w:close())
        end
        local w <close> = zip.writer()
        local closed = assert(io.tmpfile())
        closed:close()
        raises("file is closed", w.add_file, w, "a", closed)
        raises("expected", w.add_file, w, "a", 7)
        raises("NUL", w.add_file, w, "a", "x\0y")
      end)
    end)

    it("notices a file that changed before the close", function()
      with_folder(function(folder)
        for _, change in ipairs({"shorter", "much longer than before", false}) do
          local path = write_file(folder .. "/f", "0123456789")
          local w = zip.writer(folder .. "/a.zip")
          assert(w:add_file("a", path))
          if change then
            write_file(path, change)
          else
            os.remove(path)
          end
          refused(change and "changed" or "ENOENT", w:close())
          os.remove(path)
          assert.equal("", listing(folder))
        end
      end)
    end)

    it("streams in bounded memory, both ways", function()
      with_folder(function(folder)
        local script = write_file(folder .. "/s.lua", [[
          local zip = require "atelier.zip"
          local w = assert(zip.writer(arg[1] .. "/a.zip"))
          assert(w:add_file("stored", arg[1] .. "/big", {method = "store"}))
          assert(w:add_file("packed", arg[1] .. "/big", {level = 1}))
          assert(w:close())
          local r = assert(zip.open(arg[1] .. "/a.zip", {ratio = 2000}))
          local sink = assert(io.open("/dev/null", "wb"))
          assert(r:extract("stored", sink) == 100 << 20)
          assert(r:extract("packed", sink) == 100 << 20)
          local peak = io.open("/proc/self/status"):read("a"):match("VmHWM:%s*(%d+)")
          assert(tonumber(peak) < 64 * 1024, "peak of " .. peak .. " KiB")
        ]])
        os.execute("truncate -s 100M " .. folder .. "/big")
        local status, out = sh("LUA_CPATH='" .. package.cpath .. "' lua5.4 " .. script .. " " .. folder)
        assert.equal(0, status, out)
      end)
    end)
  end)

  describe("writer:copy", function()
    it("copies entries as they are", function()
      local text = prose(5000)
      local from = open(archive({{"a", text, {level = 1}}, {"b", "stored", {method = "store"}}, {"e", ""}}))
      local w = zip.writer()
      for _, name in ipairs({"b", "a", "e"}) do
        assert(w:copy(from, name))
      end
      local r = open(assert(w:close()))
      assert.equal(text, r:read("a"))
      assert.equal("stored", r:read("b"))
      assert.equal("", r:read("e"))
      assert.same(from:entries()[1], r:entries()[2])
      from:close()
      r:close()
    end)

    it("keeps the reader alive, but not open", function()
      local w = zip.writer()
      assert(w:copy(open(archive({{"a", "text"}})), "a"))
      collectgarbage()
      collectgarbage()
      local r = open(assert(w:close()))
      assert.equal("text", r:read("a"))
      r:close()
      local from = open(archive({{"a", "text"}}))
      w = zip.writer()
      assert(w:copy(from, "a"))
      from:close()
      refused("zip", w:close())
    end)

    it("reports what cannot be copied", function()
      local from = open(archive({{"a", "text"}, {"secret", "text", {password = "pw"}}}))
      for name, code in pairs({none = "no_entry", ["a\0"] = "no_entry", secret = "encrypted"}) do
        local w = zip.writer()
        refused(code, w:copy(from, name))
      end
      local w <close> = zip.writer()
      assert(w:add("a", "x"))
      refused("bad_name", w:copy(from, "a"))
      from:close()
      local other <close> = zip.writer()
      raises("zip reader is closed", other.copy, other, from, "a")
      raises("reader expected", other.copy, other, other, "a")
    end)
  end)

  describe("encryption", function()
    local rows = {
      {"short", "tiny", {password = "pässword"}}, {"long", prose(3000), {password = "pässword"}},
      {"stored", prose(3000), {password = "pässword", method = "store"}}, {"empty", "", {password = "pässword"}},
      {"plain", "in the clear"},
    }

    it("is WinZip AES-256 that 7-Zip opens", function()
      with_folder(function(folder)
        write_file(folder .. "/a.zip", archive(rows))
        assert.equal(0, (sh("7z t -ppässword " .. folder .. "/a.zip")))
        assert.not_equal(0, (sh("7z t -pwrong " .. folder .. "/a.zip")))
        local _, out = sh("7z l -slt " .. folder .. "/a.zip")
        assert.matches("AES%-256", out)
      end)
    end)

    it("is AE-2 without the checksum that would tell the plaintext", function()
      local bytes = archive(rows)
      assert.equal(0, ("<I4"):unpack(bytes, 15))
      assert.is_truthy(bytes:find("\1\x99\7\0\2\0AE\3\8\0", 1, true))
      local r = open(bytes, {password = "pässword"})
      for i, e in ipairs(r:entries()) do
        assert.equal(rows[i][2], r:read(e.name))
        assert.equal(e.name == "plain" and "none" or "aes-256", e.encryption)
        assert.equal(e.name == "plain", e.crc32 ~= 0)
      end
      r:close()
    end)

    it("wants the right password", function()
      local bytes = archive(rows)
      local r = open(bytes)
      refused("no_password", r:read("long"))
      assert.equal("in the clear", r:read("plain"))
      r:close()
      r = open(bytes, {password = "wrong"})
      for _, name in ipairs({"short", "long", "stored", "empty"}) do
        local _, _, code = r:read(name)
        -- One wrong password in 65,536 passes the quick check; the authentication code then fails.
        assert.is_true(code == "wrong_password" or code == "bad_archive")
      end
      r:close()
    end)

    it("notices every changed byte of the data", function()
      local bytes = archive({{"a", "secret text", {password = "pw"}}})
      local data = 31 + 1 + 11
      for at = data, data + ("<I4"):unpack(bytes, 19) - 1 do
        local changed = bytes:sub(1, at - 1) .. string.char(bytes:byte(at) ~ 1) .. bytes:sub(at + 1)
        local r = open(changed, {password = "pw"})
        assert.is_nil((r:read("a")))
        r:close()
      end
    end)

    it("reads what 7-Zip encrypts, by all three key lengths", function()
      with_folder(function(folder)
        write_file(folder .. "/packed", prose(5000))
        write_file(folder .. "/short", "x")
        for _, method in ipairs({"AES128", "AES192", "AES256"}) do
          local path = folder .. "/" .. method .. ".zip"
          assert.equal(0, (sh("cd " .. folder .. " && 7z a -tzip -ppw -mem=" .. method .. " " .. path .. " packed short")))
          local r = assert(zip.open(path, {password = "pw"}))
          assert.equal(prose(5000), r:read("packed"))
          assert.equal("x", r:read("short"))
          assert.equal("aes-" .. method:sub(4), r:entries()[1].encryption)
          r:close()
        end
        assert.equal(0, (sh("cd " .. folder .. " && 7z a -tzip -ppw -mem=ZipCrypto old.zip packed")))
        refused("bad_archive", zip.open(folder .. "/old.zip"))
      end)
    end)
  end)

  describe("reader", function()
    local bytes = archive({{"a.txt", "hello"}, {"dir/b.txt", prose(1000)}})

    it("opens a path, a string and an open file", function()
      with_folder(function(folder)
        local path = write_file(folder .. "/a.zip", bytes)
        local f = assert(io.open(path, "rb"))
        f:read(10)
        for _, source in ipairs({path, {data = bytes}, {file = f}}) do
          local r <close> = assert(zip.open(source))
          assert.equal("hello", r:read("a.txt"))
          assert.equal(prose(1000), r:read("dir/b.txt"))
          assert.equal("zip reader: open, 2 entries", tostring(r))
        end
        local r = assert(zip.open({file = f}))
        f:close()
        assert.equal("hello", r:read("a.txt"))
        r:close()
      end)
    end)

    it("tells of its entries", function()
      local r = open(bytes)
      assert.same({name = "a.txt", size = 5, compressed_size = 7, crc32 = 0x3610a686, method = "deflate",
        encryption = "none"}, r:entries()[1])
      assert.equal("dir/b.txt", r:entries()[2].name)
      r:close()
    end)

    it("extracts to a file at its position", function()
      local r, f = open(bytes), assert(io.tmpfile())
      f:write(">")
      assert.equal(5, r:extract("a.txt", f))
      assert.equal(1000, r:extract("dir/b.txt", f))
      f:seek("set")
      assert.equal(">hello" .. prose(1000), f:read("a"))
      f:close()
      raises("file is closed", r.extract, r, "a.txt", f)
      local full = assert(io.open("/dev/full", "wb"))
      refused("ENOSPC", r:extract("a.txt", full))
      full:close()
      r:close()
    end)

    it("keeps its bytes alive, and goes in any order", function()
      local r = open(archive({{"a", prose(3000)}}))
      collectgarbage()
      local junk = prose(100000)
      assert.equal(prose(3000), r:read("a"))
      assert.equal(100000, #junk)
      local w = zip.writer()
      assert(w:copy(r, "a"))
      r, w = nil, nil -- both are garbage now, and the writer refers to the reader
      collectgarbage()
      collectgarbage()
      assert.equal(0, zip.live_handles(), tostring(r or w))
    end)

    it("reports what it has not, and is closed for good", function()
      local r = open(bytes)
      assert.equal("read: none: the archive has no such entry", refused("no_entry", r:read("none")))
      refused("no_entry", r:read("a.txt\0"))
      refused("no_entry", r:read("A.txt"))
      refused("no_entry", r:read(""))
      r:close()
      r:close()
      assert.equal("zip reader: closed", tostring(r))
      for _, method in ipairs({"entries", "read", "extract"}) do
        raises("zip reader is closed", r[method], r, "a", io.stdout)
      end
    end)

    it("checks arguments and options", function()
      raises("string expected", zip.open)
      raises("unknown option 'dta'", zip.open, {dta = ""})
      raises("must have 'data'", zip.open, {})
      raises("either 'data' or 'file'", zip.open, {data = "", file = io.stdin})
      raises("option 'data' must be a string", zip.open, {data = 7})
      raises("unknown option 'entry'", zip.open, "x", {entry = 1})
      raises("'entries' must be from 1", zip.open, "x", {entries = 0})
      raises("'ratio' must be from 1", zip.open, "x", {ratio = -1})
      raises("option 'bytes' must be an integer", zip.open, "x", {bytes = 1.5})
      raises("option 'password'", zip.open, "x", {password = ""})
      raises("NUL", zip.open, "x\0y")
      local r <close> = open(bytes)
      raises("string expected", r.read, r)
      raises("FILE%*", r.extract, r, "a.txt", "path")
    end)

    it("reports files that are not there or no archives", function()
      refused("ENOENT", zip.open("/nowhere/a.zip"))
      refused("EISDIR", zip.open("/tmp"))
      refused("EINVAL", zip.open("/dev/null"))
      refused("bad_archive", zip.open({data = ""}))
      refused("bad_archive", zip.open({data = prose(100000)}))
    end)

    it("reads archives of other programs", function()
      with_folder(function(folder)
        write_file(folder .. "/a", prose(3000))
        os.execute("mkdir " .. folder .. "/d && cp " .. folder .. "/a " .. folder .. "/d/b")
        local cd = "cd " .. folder .. " && "
        assert.equal(0, (sh(cd .. "7z a -tzip 7z.zip a d/b")))
        assert.equal(0, (sh(cd .. "python3 -m zipfile -c py.zip a")))
        assert.equal(0, (sh(cd .. "python3 -c \"import zipfile,sys;z=zipfile.ZipFile(open('stream.zip','wb'),'w',8);"
          .. "z.writestr('a',open('a').read());z.close()\"")))
        assert.equal(0, (sh(cd .. "python3 -c \"import zipfile;z=zipfile.ZipFile('big.zip','w');"
          .. "f=z.open('a','w',force_zip64=True);f.write(open('a','rb').read());f.close();z.close()\"")))
        for _, name in ipairs({"7z.zip", "py.zip", "stream.zip", "big.zip"}) do
          local r = assert(zip.open(folder .. "/" .. name))
          assert.equal(prose(3000), r:read("a"), name)
          r:close()
        end
      end)
    end)
  end)

  it("keeps its balance when memory runs out", function()
    local oom = require "oom"
    local bytes = archive({{"a", "text"}, {"b", prose(2000)}})
    local options, pieces = {method = "store"}, zip.deflate("piece")
    assert.is_true(oom.run(function()
      local w = zip.writer()
      if w:add("a", "text") and w:add("b", "more", options) and w:add_deflated("c", pieces) then
        assert(w:close())
      end
    end) > 5)
    assert.is_true(oom.run(function()
      local r = zip.open({data = bytes})
      r:entries()
      r:read("b")
      r:close()
    end) > 5)
    assert.is_true(oom.run(function()
      zip.splice(zip.deflate("head", {last = false}), pieces)
    end) > 2)
  end)

  describe("while finalisers run", function()
    -- Calls `use` with a fresh handle and a finaliser that calls `touch` with it, at many states of the collector.
    local function torture(make, touch, use)
      for i = 1, 150 do
        local handle = make()
        setmetatable({}, {__gc = function() touch(handle) end})
        for _ = 1, i * 7 do
          local _ = {}
        end
        local ok, message = pcall(use, handle)
        assert(ok or message:find("is closed", 1, true), message)
        handle:close()
      end
    end

    it("deflates right, whatever a finaliser deflates", function()
      local text = prose(3000)
      torture(zip.writer, function() zip.deflate(("Z"):rep(5000)) end, function(w)
        w:add_deflated("a", zip.deflate(text))
        local r <close> = open(w:close())
        assert.equal(text, r:read("a"))
      end)
    end)

    it("bears one that closes the writer", function()
      local text = prose(200)
      torture(zip.writer, function(w) w:discard() end, function(w)
        for k = 1, 200 do
          w:add("a" .. k, text)
        end
      end)
    end)

    it("bears one that closes the reader", function()
      local names, entries = {}, {}
      for i = 1, 200 do
        names[i] = "f" .. i
        entries[i] = {names[i], prose(1200)}
      end
      local bytes = archive(entries)
      local function make() return open(bytes) end
      local function close(r) r:close() end
      torture(make, close, function(r)
        for i = 1, 10 do
          assert.equal(200, #r:entries(), i)
        end
      end)
      torture(make, close, function(r)
        for i = 1, 200 do
          assert.equal(1200, #r:read(names[i]))
        end
      end)
    end)
  end)
end)
