local json = require "atelier.json"
local metadata = require "ate.metadata"

local function sample(changes)
  local value = {
    artifact_id = "a-1", template = "smartgram", version = "1.0.0", plan = "pro", tools = json.array { "timeline" },
    generation = 1, issued_at = "2025-01-01T00:00:00Z", expires_at = "2026-01-01T00:00:00Z",
  }
  for key, item in pairs(changes or {}) do value[key] = item end
  return value
end

describe("metadata", function()
  it("reads back what it wrote, sorted, the same bytes each time", function()
    local text = assert(metadata.encode(sample()))
    assert.equal(text, metadata.encode(sample()))
    assert.same(sample(), metadata.decode(text))
    assert.equal('{"artifact_id":"a-1","expires_at":"2026-01-01T00:00:00Z","generation":1,'
      .. '"issued_at":"2025-01-01T00:00:00Z","plan":"pro","template":"smartgram","tools":["timeline"],'
      .. '"version":"1.0.0"}', text)
  end)

  it("takes nil for no expiry, a plain empty list for no tools, and keeps further keys", function()
    local value = sample { tools = {}, extra = 1.5 }
    value.expires_at = nil
    local text = assert(metadata.encode(value))
    assert.truthy(text:find('"expires_at":null', 1, true))
    assert.truthy(text:find('"tools":[]', 1, true))
    assert.equal(1.5, metadata.decode(text).extra)
    assert.equal(json.null, metadata.decode(text).expires_at)
  end)

  it("refuses each missing key and each wrong type, both ways", function()
    local wrong = {
      artifact_id = { 1, true, json.null, {} }, template = { 1 }, version = { 1.5 }, plan = { json.null },
      tools = { "timeline", { a = "b" }, { 1 }, { "a", 2 }, { json.null }, json.null, { { "a" } } },
      generation = { 0, -1, 1.0, 1.5, "1", json.null, math.mininteger },
      issued_at = { json.null, 5, "2025-01-01" }, expires_at = { 5, "never", "", {} },
    }
    for key, values in pairs(wrong) do
      local value = sample()
      value[key] = nil
      if key ~= "expires_at" then assert.is_nil((metadata.encode(value))) end
      local text = json.encode(value)
      local found, reason = metadata.decode(text)
      assert.is_nil(found)
      assert.truthy(reason:find("'" .. key .. "'", 1, true))
      for _, item in ipairs(values) do
        assert.is_nil((metadata.encode(sample { [key] = item })), key)
        assert.is_nil((metadata.decode(json.encode(sample { [key] = item }))), key)
      end
    end
  end)

  it("refuses what is not one strict object", function()
    local good = metadata.encode(sample())
    for _, text in ipairs {
      "", " ", "null", "true", "[]", "[1]", '"x"', "5", "{}", good .. "x", good .. "\0", good:sub(1, -2), good .. good,
      "\239\187\191" .. good, (good:gsub('"pro"', '"\255"')), (good:gsub('"pro"', '"\237\160\128"')),
      (good:gsub('"plan"', '"plan":"x","plan"')), (good:gsub("}$", ',"a":1,"a":1}')),
      (good:gsub('"generation":1', '"generation":1e0')),
      (good:gsub('"generation":1', '"generation":9223372036854775808')), (good:gsub("}$", ',"x":NaN}')),
      (good:gsub('"pro"', "'pro'")), (good:gsub("}$", ",}")), (good:gsub("}$", ',"x":' .. ("["):rep(5000) .. "}")),
    } do
      local value, reason = metadata.decode(text)
      assert.is_nil(value, text:sub(1, 60))
      assert.equal("string", type(reason))
    end
    assert.truthy(metadata.decode(" " .. good .. "\n"))
    assert.truthy(metadata.decode((good:gsub("}$", ',"x":{"a":[1,null]}}'))))
  end)

  it("knows which times exist", function()
    for _, text in ipairs { "2024-02-29T23:59:59Z", "2000-02-29T00:00:00Z",
      "2025-12-31T12:00:00Z", "9999-12-31T23:59:59Z" } do
      assert.is_true(metadata.is_time(text), text)
    end
    for _, text in ipairs {
      "2025-02-29T00:00:00Z", "1900-02-29T00:00:00Z", "2025-00-01T00:00:00Z", "2025-13-01T00:00:00Z",
      "2025-04-31T00:00:00Z",
      "2025-01-00T00:00:00Z", "2025-01-01T24:00:00Z", "2025-01-01T00:60:00Z", "2025-01-01T00:00:60Z",
      "2025-01-01t00:00:00Z",
      "2025-01-01T00:00:00z", "2025-01-01 00:00:00Z", "2025-01-01T00:00:00", "2025-01-01T00:00:00.5Z",
      "2025-01-01T00:00:00+00:00", "+2025-01-01T00:00:00Z", "2025-1-1T00:00:00Z", "2025-01-01T00:00:00Z\n",
      "infinity", "",
    } do
      assert.is_false(metadata.is_time(text), text)
    end
    assert.is_false(metadata.is_time(20250101))
    assert.equal("1970-01-01T00:00:00Z", metadata.time(0))
    assert.equal("1970-01-01T00:00:01Z", metadata.time(1.9))
    assert.is_true(metadata.is_time(metadata.time()))
  end)
end)
