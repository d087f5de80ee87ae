--- Large objects on S3: sent in parts, two at a time, each with its own hash and tries; nothing is visible before the
-- last step.
-- @module storage.s3.parts
local crypto = require "atelier.crypto"
local delivery = require "storage.delivery"
local form = require "storage.s3.request"
local growth = require "storage.growth"
local reactor = require "storage.reactor"
local tries = require "storage.tries"
local xml = require "storage.s3.xml"

local M = {}

local ABREAST = 2 -- parts: while the store finishes one, or this host hashes it, the other travels

local function begin_upload(self, key, options)
  local response, message, code, seconds = self:send(form.request(self, "POST", key, { query = { uploads = "" },
    headers = form.metadata(options) }))
  if not response then
    return nil, message, code, seconds
  end
  local root = xml.read(response.body or "")
  local id = root and xml.text(root, "UploadId")
  if not id then
    return nil, "the store gave no upload id", "unavailable"
  end
  return id
end

-- Sends one part; `file` is its sender's own. The hash is computed while other parts are on their way.
local function send_part(self, key, id, number, file, path, options)
  local from = (number - 1) * self.driver.part
  local length = math.min(self.driver.part, options.size - from)
  local there, problem, why = growth.await(options, path, from + length)
  if not there then
    return nil, problem, why
  end
  file:seek("set", from)
  local sha256 = form.hash_of(file, length, function()
    reactor.pause(0)
  end)
  local response, message, code = self:insist(function()
    file:seek("set", from)
    return form.request(self, "PUT", key, { query = { partNumber = number, uploadId = id }, file = file,
      length = length, sha256 = sha256, timeout = form.LONG })
  end)
  if not response then
    return nil, message, code
  end
  return ("<Part><PartNumber>%d</PartNumber><ETag>%s</ETag></Part>"):format(number,
    xml.escape(response.headers.etag or ""))
end

-- Several senders share the parts. All have ended when this returns: none may arrive after the upload was given up.
local function send_parts(self, key, id, path, options)
  local part = self.driver.part
  local tags, count, last, failed = {}, math.max(1, (options.size + part - 1) // part), 0, nil
  local function send()
    local file <close>, problem = io.open(path, "rb")
    failed = failed or not file and { problem, "io" } or nil
    while last < count and not failed do
      last = last + 1
      local number = last
      local tag, message, code = send_part(self, key, id, number, file, path, options)
      tags[number] = tag
      failed = failed or not tag and { message, code } or nil
    end
  end
  local senders = {}
  for i = 1, math.min(ABREAST, count) do
    senders[i] = send
  end
  reactor.together(senders)
  if failed then
    return nil, table.unpack(failed)
  end
  return tags
end

--- Gives an upload up, and what was sent of it.
-- @tparam table self store
-- @tparam string key
-- @tparam string id
function M.abort(self, key, id)
  return self:send(form.request(self, "DELETE", key, { query = { uploadId = id } }))
end

-- Asks for the object to be made of its parts. The answer may be lost after that was done, and a second try is then
-- told that there is no such upload: what counts is the object.
local function complete(self, key, id, tags, options)
  local body = "<CompleteMultipartUpload>" .. table.concat(tags) .. "</CompleteMultipartUpload>"
  local response, message, code = self:insist(function()
    return form.request(self, "POST", key, { query = { uploadId = id }, body = body,
      sha256 = crypto.hex(crypto.sha256(body)), timeout = form.LONG })
  end)
  if response then
    return true
  end
  local found = self:persist(function()
    return self.driver.lookup(self, key)
  end)
  if found and delivery.is_own(found, options, true) then
    return true
  end
  return nil, message, code
end

--- Uploads a file in parts; it is there when all are.
-- @tparam table self store
-- @tparam string key
-- @tparam string path
-- @tparam table options `size`, `sha256`, `id`
-- @return as a driver's `upload`, see storage.remote
function M.upload(self, key, path, options)
  local found, message, code, seconds = self.driver.lookup(self, key)
  if found then
    return nil, "the key is taken", "exists"
  elseif code ~= "not_found" then
    return nil, message, code, seconds
  end
  local id
  id, message, code, seconds = begin_upload(self, key, options)
  if not id then
    return nil, message, code, seconds
  end
  local ok, tags
  tags, message, code = send_parts(self, key, id, path, options)
  if tags then
    ok, message, code = growth.await(options, path)
  end
  if ok then
    ok, message, code = complete(self, key, id, tags, options)
  end
  if ok then
    return true
  end
  M.abort(self, key, id)
  return nil, message, code ~= "not_found" and code or "unavailable", tries.ENOUGH
end

return M
