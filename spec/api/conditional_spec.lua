local conditional = require "api.conditional"

local TAG = '"c0ffee"'
local SIZE = 1000

local function decide(headers, method, size)
  return { conditional.decide(method or "GET", headers, TAG, size or SIZE) }
end

describe("api.conditional", function()
  local WHOLE, NOT_MODIFIED, OUTSIDE, FAILED = { 200, 0, SIZE }, { 304 }, { 416 }, { 412 }

  it("serves the whole without conditions", function()
    assert.same(WHOLE, decide {})
  end)

  it("knows what the client has already", function()
    for _, value in ipairs { TAG, "*", " * ", '"x", ' .. TAG, "W/" .. TAG, '"a","b",' .. TAG .. ',"d"', ", , " .. TAG } do
      assert.same(NOT_MODIFIED, decide { ["if-none-match"] = value })
      assert.same(NOT_MODIFIED, decide({ ["if-none-match"] = value }, "HEAD"))
      assert.same(NOT_MODIFIED, decide { ["if-none-match"] = value, range = "bytes=0-1" })
    end
    for _, value in ipairs { '"x"', "c0ffee", '"c0ffee', 'c0ffee"', 'w/"c0ffee"', '"C0FFEE"', "", "**", '"x" "c0ffee"', "'c0ffee'" } do
      assert.same(WHOLE, decide { ["if-none-match"] = value })
    end
  end)

  it("holds to If-Match, which takes strong tags alone", function()
    for _, value in ipairs { TAG, "*", '"x",' .. TAG } do
      assert.same(WHOLE, decide { ["if-match"] = value })
    end
    for _, value in ipairs { "W/" .. TAG, '"x"', "junk" } do
      assert.same(FAILED, decide { ["if-match"] = value })
    end
    assert.same(FAILED, decide { ["if-match"] = '"x"', ["if-none-match"] = TAG })
  end)

  it("serves one range", function()
    local cases = {
      ["bytes=0-0"] = { 0, 1 }, ["bytes=0-999"] = { 0, 1000 }, ["bytes=999-"] = { 999, 1 }, ["bytes=0-"] = { 0, 1000 },
      ["bytes=10-19"] = { 10, 10 }, ["bytes=990-5000"] = { 990, 10 }, ["bytes=-1"] = { 999, 1 }, ["bytes=-1000"] = { 0, 1000 },
      ["bytes=-99999"] = { 0, 1000 }, ["BYTES=1-2"] = { 1, 2 }, ["bytes= 1-2 "] = { 1, 2 }, ["bytes=,1-2,"] = { 1, 2 },
      ["bytes=5-99999999999999999999999999999999"] = { 5, 995 }, ["bytes=-99999999999999999999999999999"] = { 0, 1000 },
      ["bytes=00000000000000000000000000000007-8"] = { 7, 2 }, [" bytes=3-3"] = { 3, 1 },
    }
    for value, part in pairs(cases) do
      assert.same({ 206, part[1], part[2] }, decide { range = value }, value)
    end
  end)

  it("refuses what lies outside", function()
    for _, value in ipairs { "bytes=1000-", "bytes=1000-1001", "bytes=-0", "bytes=5000-6000, 7000-8000, -0",
      "bytes=99999999999999999999999999-", "bytes=99999999999999999999999998-99999999999999999999999999" } do
      assert.same(OUTSIDE, decide { range = value }, value)
    end
    assert.same(OUTSIDE, decide({ range = "bytes=0-" }, "GET", 0))
    assert.same(OUTSIDE, decide({ range = "bytes=-1" }, "GET", 0))
  end)

  it("passes over what is no range", function()
    for _, value in ipairs { "", "bytes", "bytes=", "bytes=,", "bytes=-", "bytes=a-b", "bytes=1", "bytes=2-1", "items=0-1", "bytes:0-1",
      "bytes=0x1-2", "bytes=1-2-3", "bytes=--1", "bytes=+1-2", "bytes=1 - 2", "bytes=1-2;", "bytes =1-2", "bytes=0-1, bytes=3-4",
      "bytes=1.5-2", "bytes=0-0,x", "=0-1", ("bytes=" .. ("1-"):rep(4000)) } do
      assert.same(WHOLE, decide { range = value }, value)
    end
  end)

  it("answers several ranges with the whole", function()
    assert.same(WHOLE, decide { range = "bytes=0-1,3-4" })
    assert.same(WHOLE, decide { range = "bytes=0-1,5000-" })
    assert.same(WHOLE, decide { range = "bytes=" .. ("0-,"):rep(2000) })
  end)

  it("is not held up by long headers", function()
    local blanks = (" "):rep(200000)
    assert.same(WHOLE, decide { range = "bytes=0-1" .. blanks .. "x" })
    assert.same({ 206, 0, 2 }, decide { range = "bytes=" .. blanks .. "0-1" .. blanks })
    assert.same({ 206, 0, 2 }, decide { range = "bytes=0-1," .. blanks })
    assert.same(WHOLE, decide { range = blanks })
    assert.same(WHOLE, decide { range = "bytes=0-1", ["if-range"] = blanks })
    assert.same(WHOLE, decide { range = "bytes=0-1", ["if-range"] = "x" .. blanks .. "x" })
    assert.same(WHOLE, decide { ["if-none-match"] = '"x"' .. blanks .. "x" .. blanks })
    assert.same(WHOLE, decide { ["if-none-match"] = ('"x",'):rep(50000) })
    assert.same(WHOLE, decide { ["if-none-match"] = ('"'):rep(200000) })
  end)

  it("knows no ranges for HEAD", function()
    assert.same(WHOLE, decide({ range = "bytes=0-1" }, "HEAD"))
    assert.same(WHOLE, decide({ range = "bytes=5000-" }, "HEAD"))
  end)

  it("serves a range under If-Range only of the very same file", function()
    assert.same({ 206, 0, 2 }, decide { range = "bytes=0-1", ["if-range"] = TAG })
    for _, value in ipairs { '"old"', "W/" .. TAG, "Wed, 21 Oct 2015 07:28:00 GMT", "", "*", TAG .. ',"x"' } do
      assert.same(WHOLE, decide { range = "bytes=0-1", ["if-range"] = value })
      assert.same(WHOLE, decide { range = "bytes=5000-", ["if-range"] = value })
    end
  end)
end)
