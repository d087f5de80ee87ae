local breaker = require "workflow.breaker"
local failure = require "workflow.failure"
local s3 = require "storage.s3"
local supabase = require "storage.supabase"
local verdict = require "storage.verdict"

local PAGE <const> = "<html><body>Bad Gateway</body></html>"

local function error_json(status, code, message)
  return ('{"statusCode":"%s","error":"x","message":"%s"%s}'):format(status, message or "m",
    code and (',"code":"%s"'):format(code) or "")
end

local function error_xml(code)
  return ('<?xml version="1.0"?><Error><Code>%s</Code><Message>m</Message></Error>'):format(code)
end

-- What any HTTP server may answer, to a driver of either kind.
local COMMON = {
  { "a page with 302", 302, PAGE, "unavailable" }, { "nothing with 307", 307, "", "unavailable" },
  { "a page with 400", 400, PAGE, "unavailable" }, { "nothing with 400", 400, "", "unavailable" },
  { "a page with 401", 401, PAGE, "denied" }, { "a page with 402", 402, PAGE, "denied" },
  { "a page with 403", 403, PAGE, "denied" }, { "nothing with 403", 403, "", "denied" },
  { "a page with 404", 404, PAGE, "unavailable" }, { "nothing with 404", 404, "", "unavailable" },
  { "a page with 405", 405, PAGE, "unavailable" }, { "a page with 407", 407, PAGE, "denied" },
  { "a page with 408", 408, PAGE, "unavailable" }, { "a page with 409", 409, PAGE, "unavailable" },
  { "a page with 411", 411, PAGE, "unavailable" }, { "a page with 413", 413, PAGE, "too_large" },
  { "nothing with 413", 413, "", "too_large" }, { "a page with 414", 414, PAGE, "bad_key" },
  { "nothing with 416", 416, "", "corrupt" }, { "a page with 418", 418, PAGE, "unavailable" },
  { "a page with 423", 423, PAGE, "unavailable" }, { "nothing with 429", 429, "", "unavailable" },
  { "a page with 451", 451, PAGE, "unavailable" }, { "a page with 499", 499, PAGE, "unavailable" },
  { "nothing with 500", 500, "", "unavailable" }, { "a page with 502", 502, PAGE, "unavailable" },
  { "a page with 503", 503, PAGE, "unavailable" }, { "nothing with 504", 504, "", "unavailable" },
  { "nothing with 507", 507, "", "unavailable" }, { "a page with 520", 520, PAGE, "unavailable" },
  { "JSON of others with 404", 404, '{"message":"no Route matched with those values"}', "unavailable" },
  { "a list with 400", 400, "[]", "unavailable" }, { "half an answer", 400, '{"statusCode":"40', "unavailable" },
}

local SUPABASE = {
  { "a missing object", 400, error_json(404, "NoSuchKey"), "not_found" },
  { "a missing object, of a former server", 400, error_json(404), "not_found" },
  { "a missing bucket", 400, error_json(404, "NoSuchBucket"), "no_bucket" },
  { "a missing bucket, of a former server", 400, error_json(404, nil, "Bucket not found"), "no_bucket" },
  { "a taken key", 400, error_json(409, "KeyAlreadyExists"), "exists" },
  { "a taken key, of a former server", 400, error_json(409), "exists" },
  { "a key that it refuses", 400, error_json(400, "InvalidKey"), "bad_key" },
  { "an object too large", 400, error_json(413, "EntityTooLarge"), "too_large" },
  { "an object too large, of a former server", 400, error_json(413), "too_large" },
  { "a type that the bucket refuses", 400, error_json(415, "InvalidMimeType"), "denied" },
  { "a bad signature", 400, error_json(403, "AccessDenied"), "denied" },
  { "an expired token", 400, error_json(400, "InvalidJWT"), "denied" },
  { "no key where one is wanted", 400, error_json(400, "InvalidRequest",
    "headers must have required property 'authorization'"), "denied" },
  { "a request that it finds wrong", 400, error_json(400, "InvalidRequest", "body must be object"), "unavailable" },
  { "a gateway that refuses the key", 401, '{"message":"Invalid API key","hint":"Double check"}', "denied" },
  { "a lock", 400, error_json(423, "ResourceLocked"), "unavailable" },
  { "too many requests", 400, error_json(429, "TooManyRequests"), "unavailable" },
  { "a slow database", 400, error_json(544, "DatabaseTimeout"), "unavailable" },
  { "an inner failure", 500, error_json(500, "InternalError"), "unavailable" },
  { "a code nobody knows", 400, error_json(422, "NewIdea"), "unavailable" },
  { "a status that is none", 400, error_json("404.5"), "unavailable" },
  { "a paused project", 540, "", "unavailable" },
  { "a range outside", 416, error_json(416, "InvalidRange"), "corrupt" },
}

local S3 = {
  { "a missing object", 404, error_xml "NoSuchKey", "not_found" },
  { "a missing object, to HEAD", 404, "", "not_found", "HEAD" },
  { "a missing bucket", 404, error_xml "NoSuchBucket", "no_bucket" },
  { "a missing upload", 404, error_xml "NoSuchUpload", "unavailable" },
  { "a taken key", 412, error_xml "PreconditionFailed", "exists" },
  { "a taken key, without words", 412, "", "exists" },
  { "two writers at once", 409, error_xml "ConditionalRequestConflict", "unavailable" },
  { "a key too long", 400, error_xml "KeyTooLongError", "bad_key" },
  { "an object too large", 400, error_xml "EntityTooLarge", "too_large" },
  { "a wrong secret", 403, error_xml "SignatureDoesNotMatch", "denied" },
  { "a wrong key", 403, error_xml "InvalidAccessKeyId", "denied" },
  { "a clock that is off", 403, error_xml "RequestTimeTooSkewed", "denied" },
  { "a wrong region", 400, error_xml "AuthorizationHeaderMalformed", "denied" },
  { "another region", 301, error_xml "PermanentRedirect", "denied" },
  { "another region, to HEAD", 301, "", "denied", "HEAD" },
  { "an expired token", 400, error_xml "ExpiredToken", "denied" },
  { "an expired token, to HEAD", 400, "", "denied", "HEAD" },
  { "no right", 403, "", "denied", "HEAD" },
  { "bytes changed on the way", 400, error_xml "XAmzContentSHA256Mismatch", "unavailable" },
  { "a part that is gone", 400, error_xml "InvalidPart", "unavailable" },
  { "patience", 503, error_xml "SlowDown", "unavailable" },
  { "an inner failure, behind 200", 200, error_xml "InternalError", "unavailable" },
  { "a full store", 507, error_xml "QuotaExceeded", "unavailable" },
  { "a code nobody knows", 400, error_xml "NewIdea", "unavailable" },
  { "XML that is no error", 400, "<Oops/>", "unavailable" },
  { "XML without an end", 503, "<Error><Code>SlowDown", "unavailable" },
}

local JOBS <const> = { bad_key = true, too_large = true }
local STORES <const> = { unavailable = true, denied = true, no_bucket = true }

describe("storage.verdict", function()
  local config = { state_dir = "/tmp", supabase_url = "https://x.example", supabase_service_role_key = "k",
    supabase_bucket = "b", s3_bucket = "bb", s3_access_key = "a", s3_secret_key = "s", s3_region = "r" }

  local function check(store, cases)
    for _, case in ipairs(cases) do
      local name, status, body, wanted, method = table.unpack(case)
      local message, code = store.driver.judge({ status = status, body = body, headers = {} }, method or "PUT")
      assert.equal(wanted, code, ("%s: %s: %s"):format(store.kind, name, message))
      assert.matches("^status %d+", message, name)
      local final = not breaker.is_outage(verdict.of_put(code)) and not failure.is_transient(verdict.of_put(code))
      if JOBS[code] then
        assert.is_true(final, name .. " is the job's")
      elseif STORES[code] then
        assert.is_true(breaker.is_outage(verdict.of_put(code)), name .. " is the store's")
      end
    end
  end

  for kind, driver in pairs { supabase = { supabase, SUPABASE }, s3 = { s3, S3 } } do
    it("tells the job's fault from the store's: " .. kind, function()
      local store <close> = assert(driver[1].open(config))
      check(store, COMMON)
      check(store, driver[2])
    end)
  end

  it("takes of a store's words a line, and no more than a reader can bear", function()
    assert.equal("a b c", verdict.said "a\r\n\0b\27c")
    local text = verdict.said(("é"):rep(100000))
    assert.is_true(#text < 600 and utf8.len(text) ~= nil)
    assert.is_true(#verdict.said(("\128"):rep(100000)) < 600)
    for _, case in ipairs { { supabase, error_json(500, "InternalError", ("x"):rep(1 << 20)) },
      { s3, error_xml(("x"):rep(1 << 20)) } } do
      local store <close> = assert(case[1].open(config))
      assert.is_true(#store.driver.judge({ status = 500, body = case[2], headers = {} }, "PUT") < 1500)
    end
  end)

  it("says where an answer comes from that is not the store's", function()
    local store <close> = assert(supabase.open(config))
    local function message(status, body)
      return (store.driver.judge { status = status, body = body, headers = {} })
    end
    assert.matches("not the store's answer", message(502, PAGE), 1, true)
    assert.matches("leads elsewhere", message(302, PAGE), 1, true)
    assert.is_nil(message(400, error_json(403, "AccessDenied")):find("not the store's", 1, true))
  end)

  it("names the key where what stands before the project refuses it", function()
    local store <close> = assert(supabase.open(config))
    for _, body in ipairs { '{"message":"Invalid API key","hint":"Double check"}', '{"message":"Invalid JWT"}',
      '{"message":"No apikey header"}', '{"message":"Invalid authentication credentials"}' } do
      for _, status in ipairs { 401, 403 } do
        local message, code = store.driver.judge { status = status, body = body, headers = {} }
        assert.equal("denied", code)
        assert.matches("the key was refused; check SUPABASE_SERVICE_ROLE_KEY", message, 1, true)
        assert.is_nil(message:find("not the store's", 1, true))
      end
    end
    for _, body in ipairs { '{"message":"monkey business"}', '{"message":{"key":1}}', "Invalid API key" } do
      assert.matches("not the store's answer", (store.driver.judge { status = 403, body = body, headers = {} }), 1, true)
    end
  end)

  it("says what to check where S3 refuses without words", function()
    local store <close> = assert(s3.open(config))
    for _, case in ipairs { { 403, "HEAD" }, { 400, "HEAD" }, { 401, "GET" }, { 403, "PUT" } } do
      local message = store.driver.judge({ status = case[1], body = "", headers = {} }, case[2])
      for _, word in ipairs { "access key", "secret key", "s3_region", "clock" } do
        assert.matches(word, message, 1, true)
      end
    end
    for _, case in ipairs { { 404, "HEAD", "" }, { 301, "HEAD", "" }, { 403, "GET", error_xml "AccessDenied" } } do
      assert.is_nil(store.driver.judge({ status = case[1], body = case[3], headers = {} }, case[2]):find "clock")
    end
  end)

  it("reads the patience that is asked for, in seconds or as a date", function()
    local store <close> = assert(s3.open(config))
    local function patience(headers)
      return select(3, store.driver.judge({ status = 429, body = "", headers = headers }, "PUT"))
    end
    assert.equal(7, patience { ["retry-after"] = "7" })
    assert.equal(90, patience { date = "Sun, 06 Nov 1994 08:49:37 GMT", ["retry-after"] = "Sun, 06 Nov 1994 08:51:07 GMT" })
    assert.equal(0, patience { date = "Sun, 06 Nov 1994 08:49:37 GMT", ["retry-after"] = "Sun, 06 Nov 1994 08:00:00 GMT" })
    for _, word in ipairs { "", "-5", "soon", "1e999", "0x10" } do
      assert.is_nil(patience { ["retry-after"] = word })
    end
    assert.is_nil(patience {})
  end)

  it("lets a put fail for good for its key or its size alone", function()
    for _, code in ipairs { "not_found", "corrupt", "not_implemented", "protocol", "tls", "what" } do
      assert.equal("unavailable", verdict.of_put(code))
    end
    for _, code in ipairs { "bad_key", "too_large", "exists", "denied", "no_bucket", "io", "EMFILE" } do
      assert.equal(code, verdict.of_put(code))
    end
    assert.equal("unavailable", verdict.of_put(nil))
  end)
end)
