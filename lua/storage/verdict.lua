--- Whose fault it is when a store says no.
--
-- A job is failed for good only by what would be refused again, from whatever attempt: its key, or its size. All else,
-- also what nobody has ever seen, is the store's, or of what stands before it: an outage, in which jobs wait and pay
-- nothing. What a store says in its own words comes before the status; a status alone may be a proxy's.
--
--   code         means                                               whose it is
--   bad_key      the key is refused                                  the job's
--   too_large    larger than the store, or a proxy, takes            the job's
--   exists       the key is taken, by other bytes                    the job's; keys are never used twice
--   not_found    the store itself says that there is no such object  nobody's
--   corrupt      what comes back is another object                   nobody's; it is built anew
--   no_bucket    the bucket is gone                                  the store's
--   denied       this service may not: keys, clock, region, account  the store's
--   unavailable  everything else                                     the store's
-- @module storage.verdict
local M = {}

-- What a status tells even without the store's words. Not 404 and 409: those are only believed with them.
local STATUSES = { [401] = "denied", [402] = "denied", [403] = "denied", [407] = "denied", [413] = "too_large",
  [414] = "bad_key", [416] = "corrupt" }

local OF_STORE = { no_bucket = true, denied = true, unavailable = true }

-- What a put may fail with and the worker is to know; other codes are no news about this object.
local OF_PUT = { bad_key = true, too_large = true, exists = true, no_bucket = true, denied = true, io = true }

--- The code of a refusal.
-- @tparam integer status of HTTP, or what the store says instead
-- @tparam ?string known the code of the store's own word, where that is known
-- @treturn string
function M.code(status, known)
  return known or STATUSES[status] or "unavailable"
end

--- Whether a code tells of the store and not of an object.
-- @tparam ?string code
-- @treturn boolean
function M.is_stores(code)
  return OF_STORE[code] or false
end

--- The code of a failed put as the worker may have it.
-- @tparam ?string code
-- @treturn string
function M.of_put(code)
  return OF_PUT[code] and code or type(code) == "string" and code:find "^E%u" and code or "unavailable"
end

--- Whether this is a page for people, from something before the store: no answer of a store is.
-- @tparam table response
-- @treturn boolean
function M.is_page(response)
  return (response.body or "") ~= "" and (response.headers["content-type"] or ""):find "^text/html" ~= nil
end

local LONGEST = 500 -- bytes

--- What a store says, as a message can have it: one line, not too long.
-- @tparam string text
-- @treturn string
function M.said(text)
  text = text:gsub("%c+", " ")
  return #text > LONGEST and text:sub(1, utf8.offset(text, 0, LONGEST) - 1) .. "…" or text
end

--- What is added to a message where the answer was not the store's.
-- @tparam table response
-- @tparam boolean is_own the store's words were understood
-- @treturn string
function M.origin(response, is_own)
  if response.status >= 300 and response.status < 400 then
    return "; it leads elsewhere: check the store's address"
  elseif not is_own and (response.body or "") ~= "" then
    return "; that is not the store's answer: check its address, and what stands before it"
  end
  return ""
end

return M
