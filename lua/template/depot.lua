--- Published templates in a store: a file an object, below the hash of all, so that what is there never changes,
-- whatever becomes of the folder that it was published from. What is fetched is kept on this host's disk, and is used
-- only when its hash is the published one. Knows no database.
-- @module template.depot
local crypto = require "atelier.crypto"
local dirent = require "posix.dirent"
local errno = require "posix.errno"
local hashes = require "storage.hash"
local manifest = require "template.manifest"
local pour = require "storage.pour"
local stat = require "posix.sys.stat"
local storage = require "storage"
local template = require "template"
local unistd = require "posix.unistd"
local verdict = require "storage.verdict"

local M = {}

local WAIT = 3600
local PRIVATE = 448 -- 0700
local DISK = { full = true, read_only = true, io = true } -- nothing is wrong with who wants the template

-- A file whose name is none for a store is found by that name's hash.
local function key_of(name, hash, file)
  local key = ("templates/%s.at/%s/%s"):format(name, hash, file)
  return storage.is_safe(key) and key
    or ("templates/%s.at/%s/named-%s"):format(name, hash, crypto.hex(crypto.sha256(file)))
end

local function make_folders(path)
  for at in path:gmatch "()/" do
    local ok, message, number = stat.mkdir(path:sub(1, at - 1), PRIVATE)
    if not ok and number ~= errno.EEXIST and at > 1 then
      return nil, message
    end
  end
  return true
end

local function remove_all(path)
  local there, names = pcall(dirent.dir, path)
  for _, name in ipairs(there and names or {}) do
    if name ~= "." and name ~= ".." then
      local inner = path .. "/" .. name
      if stat.S_ISDIR((stat.lstat(inner) or { st_mode = 0 }).st_mode) ~= 0 then
        remove_all(inner)
      else
        unistd.unlink(inner)
      end
    end
  end
  unistd.rmdir(path)
end

-- ==== publishing ===============================================================================

-- A store takes files over; these are the operator's.
local function source_of(store, path, number)
  local staged = storage.draft(store:staging(), "template-" .. number)
  local from <close>, message = io.open(path, "rb")
  if not from then
    return nil, message, "io"
  end
  local ok, why, code = pour.into_file(from, staged)
  return ok and staged, why, code
end

-- One file. What is there already is left, unless it is damaged: a template's hash leads to these bytes only.
local function push_file(store, key, path, number, is_repair)
  local hash, problem = crypto.sha256_file(path)
  if not hash then
    return nil, problem, "io"
  end
  hash = crypto.hex(hash)
  local source, message, code = source_of(store, path, number)
  local ticket, ok = source, nil
  if source then
    ticket, message, code = store:put(key, source, { sha256 = hash })
  end
  if ticket then
    ok, message, code = store:wait(ticket, WAIT)
  end
  os.remove(source or "")
  if ok or is_repair or code ~= "exists" then
    return ok, message, code
  end
  local there, why, reason = hashes.of(store, key)
  if there and there ~= hash then -- perhaps it changed on the way, and others fetch what is deleted
    there, why, reason = hashes.of(store, key)
  end
  if there == hash or not there and reason ~= "corrupt" and reason ~= "unreadable" then
    return there and "exists", why, reason
  end
  ok, message, code = store:delete { key }
  if not ok then
    return nil, message, code
  end
  return push_file(store, key, path, number, true)
end

--- Uploads a template.
-- @tparam table store see storage
-- @tparam table loaded from `template.load`
-- @treturn[1] integer how many files were uploaded
-- @return[2] nil
-- @treturn[2] string message
-- @treturn[2] string code
function M.push(store, loaded)
  local files = { { file = "template.json", path = loaded.dir .. "/template.json" }, table.unpack(loaded.files) }
  local count = 0
  for number, file in ipairs(files) do
    local ok, message, code = push_file(store, key_of(loaded.name, loaded.hash, file.file), file.path, number)
    if not ok then
      return nil, message, code
    end
    count = count + (ok ~= "exists" and 1 or 0)
  end
  return count
end

-- ==== fetching =================================================================================

-- One file. Where the store tells a hash, the one that is damaged is named; that of all is compared in any case.
local function fetch_file(store, key, path)
  local handle, message, code = store:get(key)
  if not handle then
    return nil, message, code
  end
  local from <close> = handle
  local made, problem = make_folders(path)
  if not made then
    return nil, problem, "io"
  end
  local hash = crypto.hash()
  local ok, why, reason = pour.into_file(from, path, function(data)
    hash:update(data)
  end)
  if ok and handle.sha256 and crypto.hex(hash:digest()) ~= handle.sha256 then
    return nil, key .. ": its bytes are not those that were published", "template_version"
  end
  return ok, why, reason
end

local function names_of(text)
  local head, problem = manifest.read(text)
  if not head then
    return nil, problem
  end
  local names = {}
  for i, entry in ipairs(head.file_structure) do
    names[i] = entry.file
  end
  return names
end

local function fetch_all(store, wanted, folder)
  local first = folder .. "/template.json"
  local ok, message, code = fetch_file(store, key_of(wanted.name, wanted.hash, "template.json"), first)
  if not ok then
    return nil, message, code
  end
  local file <close> = io.open(first, "rb")
  local names, problem = names_of(file and file:read "a" or "")
  if not names then
    return nil, problem, "template_version"
  end
  for _, name in ipairs(names) do
    ok, message, code = fetch_file(store, key_of(wanted.name, wanted.hash, name), folder .. "/" .. name)
    if not ok then
      return nil, message, code
    end
  end
  return true
end

--- Whether a published template is in the store, without fetching it: every file that its manifest names.
-- @tparam table store
-- @tparam table wanted as of `fetch`
-- @treturn[1] integer number of files
-- @return[2] nil
-- @treturn[2] string message
-- @treturn[2] string code
function M.look(store, wanted)
  local handle, message, code = store:get(key_of(wanted.name, wanted.hash, "template.json"))
  if not handle then
    return nil, message, code
  end
  local from <close>, parts = handle, {}
  local ok
  ok, message, code = pour.pour(from, function(data)
    parts[#parts + 1] = data
    return true
  end)
  if not ok then
    return nil, message, code
  end
  local names, problem = names_of(table.concat(parts))
  if not names then
    return nil, problem, "template_version"
  end
  for _, name in ipairs(names) do
    ok, message, code = store:head(key_of(wanted.name, wanted.hash, name))
    if not ok then
      return nil, message, code
    end
  end
  return #names + 1
end

-- The template of a folder, when it is the one that was published.
local function load(folder, wanted)
  local loaded, message = template.load(folder)
  if loaded and loaded.hash == wanted.hash then
    return loaded
  end
  return nil, message or "its files are not the published ones"
end

local count = 0

-- Makes the draft of a template's folder. One that is not what was published may have changed on the way.
local function fetch_draft(store, wanted, folder, is_last)
  local loaded
  local ok, message, code = fetch_all(store, wanted, folder)
  if ok then
    loaded, message = load(folder, wanted)
    code = "template_version"
  end
  if not loaded and code == "template_version" and not is_last then
    return fetch_draft(store, wanted, folder, true)
  end
  return loaded, message, code
end

--- Fetches a published template, unless this host has it.
-- @tparam table store
-- @tparam table wanted `name`, `hash` as published
-- @tparam string cache folder for what is fetched
-- @treturn[1] table template, see `template.load`
-- @return[2] nil
-- @treturn[2] string message
-- @treturn[2] string code: "unavailable" when the store, or the disk of the cache, is out of order; "not_found";
--   "template_version" when what is there is not what was published
function M.fetch(store, wanted, cache)
  local home = ("%s/%s-%s"):format(cache, wanted.name, wanted.hash)
  local folder = home .. "/" .. wanted.name .. ".at"
  local loaded = load(folder, wanted)
  if loaded then
    return loaded
  end
  count = count + 1
  local draft = ("%s/.draft.%d.%d"):format(cache, unistd.getpid(), count)
  local message, code
  loaded, message, code = fetch_draft(store, wanted, ("%s/%s.at"):format(draft, wanted.name))
  if not loaded then
    remove_all(draft)
    local is_elsewhere = verdict.is_stores(code) or DISK[code]
    return nil, ("template %s: from the store: %s"):format(wanted.name, message), is_elsewhere and "unavailable" or code
  end
  -- Where another process was first, its files are already built from: they stay, unless they are damaged.
  if not os.rename(draft, home) and not load(folder, wanted) then
    remove_all(home)
    os.rename(draft, home)
  end
  remove_all(draft)
  return load(folder, wanted)
end

return M
