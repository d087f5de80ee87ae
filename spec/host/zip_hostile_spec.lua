-- What the reader of atelier.zip refuses: archives forged byte by byte.
local support = require "spec.support.zip"
local zip = require "atelier.zip"

local archive, open, prose, refused = support.archive, support.open, support.prose, support.refused

local MODE_FILE, MODE_FOLDER, MODE_LINK = 0x81a4 << 16, 0x41ed << 16, 0xa1ff << 16

-- The raw deflate stream of data, cut out of an archive.
local function deflated(data)
  local bytes = archive({{"x", data}})
  return bytes:sub(32, 31 + ("<I4"):unpack(bytes, 19))
end

-- A hand-made archive. Each entry may lie about everything: fields of the local header begin with l.
local function forge(entries, trailer)
  local parts, central, at = {}, {}, 0
  for _, e in ipairs(entries) do
    local data = e.data or ""
    local packed = e.packed or data
    local crc = e.crc or zip.deflate(data):crc32()
    local size, csize = e.size or #data, e.csize or #packed
    local lname, extra = e.lname or e.name, e.extra or ""
    local head = ("<I4I2I2I2I2I2I4I4I4I2I2"):pack(0x04034b50, 20, e.lflags or e.flags or 0, e.lmethod or e.method or 0,
      0, 33, e.lcrc or crc, e.lcsize or csize, e.lsize or size, #lname, #extra) .. lname .. extra
    if not e.no_local then
      parts[#parts + 1] = head .. packed
    end
    central[#central + 1] = ("<I4I2I2I2I2I2I2I4I4I4I2I2I2I2I2I4I4"):pack(0x02014b50, e.made or 0x031e, 20, e.flags or 0,
      e.method or 0, 0, 33, crc, csize, size, #e.name, #extra, 0, 0, 0, e.attributes or MODE_FILE, e.offset or at)
      .. e.name .. extra
    at = at + (e.no_local and 0 or #parts[#parts])
  end
  local directory = table.concat(central)
  trailer = trailer or {}
  return table.concat(parts) .. directory .. (trailer.before or "")
    .. ("<I4I2I2I2I2I4I4I2"):pack(0x06054b50, 0, 0, trailer.count or #entries, trailer.count or #entries,
      trailer.length or #directory, trailer.at or at, #(trailer.comment or "")) .. (trailer.comment or "")
end

describe("hostile archives", function()
  after_each(function()
    collectgarbage()
    collectgarbage()
    assert.equal(0, zip.live_handles())
  end)

  local function bad(pattern, forged, options)
    local message = refused("bad_archive", zip.open({data = forged}, options))
    assert.is_truthy(message:find(pattern, 1, true), message)
    assert.is_nil(message:find("%c"))
  end

  local function bad_data(pattern, forged, options)
    local r = open(forged, options)
    local message = refused("bad_archive", r:read("a"))
    assert.is_truthy(message:find(pattern, 1, true), message)
    local f = assert(io.tmpfile())
    refused("bad_archive", r:extract("a", f))
    assert.is_true(f:seek("end") <= r:entries()[1].size)
    f:close()
    r:close()
  end

  it("are told from honest ones by the same forge", function()
    local r = open(forge({{name = "a", data = "text"}, {name = "b", data = "x", attributes = 0, made = 20}}))
    assert.equal("text", r:read("a"))
    assert.equal("x", r:read("b"))
    r:close()
    r = open(forge({{name = "a", data = "text"}}, {comment = "a comment"}))
    assert.equal("text", r:read("a"))
    r:close()
  end)

  it("have unsafe names", function()
    for _, name in ipairs({"../x", "/x", "a/../../x", "a\\..\\x", "C:\\x", "a//b", "./a", "a\0b", "a\n", "\255", "",
      ("x"):rep(256), ("x"):rep(2000)}) do
      bad("name", forge({{name = name, data = "x"}}))
    end
  end)

  it("have names that meet", function()
    bad("same name", forge({{name = "a"}, {name = "a"}}))
    bad("same name", forge({{name = "b/Ä"}, {name = "x"}, {name = "B/ä"}}))
    bad("also the name of a folder", forge({{name = "a/b/c"}, {name = "a-"}, {name = "a/b.c"}, {name = "A/B"}}))
    bad("also the name of a folder", forge({{name = "a"}, {name = "a/b"}}))
  end)

  it("have entries that are no regular files", function()
    bad("folder", forge({{name = "d/", attributes = MODE_FOLDER}}))
    bad("not a regular file", forge({{name = "d", attributes = MODE_FOLDER}}))
    bad("not a regular file", forge({{name = "l", data = "/etc/passwd", attributes = MODE_LINK}}))
    bad("not a regular file", forge({{name = "l", data = "/etc/passwd", attributes = MODE_LINK, made = 20}}))
    bad("not a regular file", forge({{name = "p", attributes = 0x1180 << 16}}))
    bad("not a regular file", forge({{name = "d", attributes = 0x10, made = 20}}))
    bad("not a regular file", forge({{name = "reparse", attributes = 0x400, made = 20}}))
  end)

  it("have too many entries", function()
    local entries = {}
    for i = 1, 10001 do
      entries[i] = {name = "n" .. i, crc = 0}
    end
    local forged = forge(entries)
    bad("10001 entries, the limit is 10000", forged)
    local r = open(forged, {entries = 10001})
    assert.equal(10001, #r:entries())
    r:close()
    entries[10001] = nil
    open(forge(entries)):close()
    bad("limit is 1", forge({{name = "a"}, {name = "b"}}), {entries = 1})
  end)

  it("have too many bytes", function()
    local forged = forge({{name = "a", data = ("x"):rep(600)}, {name = "b", data = ("y"):rep(401)}})
    bad("larger than 1000 bytes", forged, {bytes = 1000})
    open(forged, {bytes = 1001}):close()
    bad("ratio", forge({{name = "a", packed = "x", method = 8, size = 1001}}))
    bad("ratio", forge({{name = "a", packed = "", method = 8, size = 1}}))
    bad("larger than 1073741824", forge({
      {name = "a", packed = ("x"):rep(1 << 20), method = 8, size = 1 << 29, crc = 0},
      {name = "b", packed = ("x"):rep(1 << 20), method = 8, size = (1 << 29) + 1, crc = 0},
    }))
  end)

  it("have bombs", function()
    local zeros = ("\0"):rep(1 << 22)
    local packed = deflated(zeros .. prose(3000)) -- so much that the writer did deflate it
    local size = #zeros + 3000
    assert.is_true(size / #packed < 1000)
    bad("ratio", forge({{name = "a", packed = packed, method = 8, size = size, crc = 0}}), {ratio = 100})
    -- The directory says less: no more than that comes out.
    bad_data("more bytes than it declares", forge({{name = "a", packed = packed, method = 8, size = 100, crc = 0}}))
  end)

  it("have entries that share bytes", function()
    local inner = ("<I4I2I2I2I2I2I4I4I4I2I2"):pack(0x04034b50, 20, 0, 0, 0, 33, zip.deflate("x"):crc32(), 1, 1, 1, 0) .. "bx"
    bad("overlaps", forge({{name = "a", data = inner}, {name = "b", data = "x", no_local = true, offset = 31}}))
    bad("overlaps", forge({{name = "a", data = "x"}, {name = "b", data = "x", no_local = true, offset = 0}}))
    bad("overlaps", forge({{name = "a", data = "x", csize = 60, size = 60}, {name = "b", data = "y"}}))
  end)

  it("lie about sizes and checksums", function()
    local text = prose(500)
    local packed = deflated(text)
    local crc = zip.deflate(text):crc32()
    local function entry(fields)
      local e = {name = "a", packed = packed, method = 8, size = 500, crc = crc}
      for k, v in pairs(fields) do
        e[k] = v
      end
      return forge({e})
    end
    local r = open(entry({}))
    assert.equal(text, r:read("a"))
    r:close()
    bad_data("more bytes", entry({size = 499}))
    bad_data("fewer bytes", entry({size = 501}))
    bad_data("checksum", entry({crc = crc ~ 1}))
    bad_data("end too early", entry({packed = packed:sub(1, -2)}))
    bad_data("behind its end", entry({packed = packed .. "x"}))
    bad_data("damaged", entry({packed = "\7" .. packed:sub(2)}))
    bad_data("checksum", forge({{name = "a", data = "text", crc = 1}}))
    bad("two sizes differ", forge({{name = "a", data = "text", size = 5}}))
    bad("larger than the archive", entry({csize = 1 << 20}))
    bad("local header", entry({lsize = 499}))
    bad("local header", entry({lcsize = 3}))
    bad("local header", entry({lcrc = 3}))
    bad("local header", entry({lmethod = 0}))
    bad("local header", entry({lname = "b"}))
    bad("local header", entry({lname = "bb"}))
  end)

  it("use what is not supported", function()
    bad("compression method", forge({{name = "a", data = "x", method = 12}}))
    bad("encrypted, but not with AES", forge({{name = "a", data = "x", flags = 1}}))
    bad("feature", forge({{name = "a", data = "x", flags = 0x20}}))
    bad("feature", forge({{name = "a", data = "x", flags = 0x2000}}))
    bad("AES extra field", forge({{name = "a", data = "x", flags = 1, method = 99}}))
    bad("AES extra field", forge({{name = "a", data = "x", flags = 1, method = 99, extra = "\1\x99\7\0\3\0AE\3\0\0"}}))
    bad("larger than the archive", forge({{name = "a", data = "x", flags = 1, method = 99,
      extra = "\1\x99\7\0\2\0AE\3\0\0"}}))
    bad("extra fields are damaged", forge({{name = "a", data = "x", extra = "\1\0\xff\xff"}}))
    bad("64-bit size", forge({{name = "a", data = "x", size = 0xffffffff}}))
  end)

  it("have end records that lie", function()
    local one = {{name = "a", data = "x"}}
    for _, trailer in ipairs({{count = 0}, {count = 2}, {length = 1}, {length = 0xfffffff0}, {at = 1}, {at = 0xfffffff0},
      {before = "gap"}, {count = 0xffff, length = 0xffffffff, at = 0xffffffff}}) do
      local _, _, code = zip.open({data = forge(one, trailer)})
      assert.equal("bad_archive", code)
    end
    bad("no end", forge(one) .. "trailing")
    bad("central directory is not", "prefix" .. forge(one))
    local honest = forge(one)
    bad("two end records", forge(one, {comment = honest}))
  end)

  it("have 64-bit end records that lie", function()
    local function forge64(fields)
      local whole = forge({{name = "a", data = "text"}})
      local place = #whole - 22
      local count, length, at = ("<I2I4I4"):unpack(whole, place + 11)
      return whole:sub(1, place)
        .. ("<I4I8I2I2I4I4I8I8I8I8"):pack(0x06064b50, 44, 45, 45, 0, 0, fields.count or count, fields.count or count,
          fields.length or length, fields.at or at)
        .. ("<I4I4I8I4"):pack(0x07064b50, 0, fields.place or place, 1)
        .. ("<I4I2I2I2I2I4I4I2"):pack(0x06054b50, 0, 0, fields.short or 0xffff, fields.short or 0xffff, 0xffffffff,
          0xffffffff, 0)
    end
    local r = open(forge64({}))
    assert.equal("text", r:read("a"))
    r:close()
    bad("the limit is 10000", forge64({count = 1 << 40}))
    bad("is not where", forge64({length = 1 << 62}))
    bad("is not where", forge64({at = 0}))
    bad("is not where it should be", forge64({place = 0}))
    bad("end records differ", forge64({short = 2}))
    bad("does not fit its number", forge64({count = 2}))
  end)

  it("do not confuse the reader with an archive in the archive", function()
    local inner = forge({{name = "inner", data = "evil"}})
    local r = open(forge({{name = "a.zip", data = inner}, {name = "b", data = "x"}}))
    assert.equal(inner, r:read("a.zip"))
    assert.equal("x", r:read("b"))
    r:close()
  end)

  it("are truncated anywhere", function()
    local whole = archive({{"a", "hello"}, {"b", prose(300)}, {"c", "x", {password = "pw"}}})
    for n = 0, #whole - 1 do
      refused("bad_archive", zip.open({data = whole:sub(1, n)}))
    end
  end)

  it("are damaged anywhere", function()
    local whole = archive({{"a", "hello"}, {"b", prose(300)}, {"s", "stored", {method = "store"}},
      {"c", "x", {password = "pw"}}})
    for at = 1, #whole do
      for _, mask in ipairs({1, 0x80, 0xff}) do
        local changed = whole:sub(1, at - 1) .. string.char(whole:byte(at) ~ mask) .. whole:sub(at + 1)
        local r, message, code = zip.open({data = changed}, {password = "pw"})
        if r then
          for _, e in ipairs(r:entries()) do
            local data, why, reason = r:read(e.name)
            assert(data or (why and reason))
          end
          r:close()
        else
          assert.equal("bad_archive", code, message)
        end
      end
    end
  end)
end)
