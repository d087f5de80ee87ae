--- Packs a bundle and seals it, in memory or in files. Knows no queue, no jail and no store.
-- @module workflow.seal
local aside = require "workflow.aside"
local container = require "ate.container"
local files = require "ate.files"
local values = require "workflow.values"
local winzip = require "ate.winzip"

local M = {}

local WORTH_IT = 64 << 20 -- bytes; smaller ones are sealed before a process of their own would pay

--- The sealed file of a bundle as parts in memory.
-- @tparam table job
-- @tparam table prepared kit
-- @tparam table vars values by name
-- @param signer
-- @treturn[1] table sealed: parts, size, checksum, encryption_key_hash
-- @return[2] nil
-- @treturn[2] string message
-- @treturn[2] string code
function M.in_memory(job, prepared, vars, signer)
  local archive, message, code = prepared:build(vars)
  if not archive then
    return nil, message, code
  end
  if job.container == winzip.NAME then
    return winzip.seal { archive = archive, licence = vars.license_key }
  end
  return container.seal { archive = archive, licence = vars.license_key, device_hash = vars.device_hash,
    metadata = values.metadata(job, vars), signer = signer }
end

-- An archive of its own, for the form that is one.
local function winzip_in_files(prepared, vars, folder, path)
  local archive = folder .. "/bundle.zip"
  local ok, message, code = prepared:build_file(vars, archive)
  if not ok then
    return nil, message, code
  end
  local sealed
  sealed, message, code = winzip.seal_file { archive_path = archive, path = path, licence = vars.license_key }
  os.remove(archive)
  return sealed, message, code
end

-- What `container.seal_parts` is to be told.
local function settings(job, prepared, vars, signer, path)
  local ok, message, code = prepared:unchanged()
  if not ok then
    return nil, message, code
  end
  local parts, size, why = prepared:layout(vars)
  if not parts then
    return nil, size, why
  end
  return { parts = parts, archive_size = size, path = path, licence = vars.license_key, device_hash = vars.device_hash,
    metadata = values.metadata(job, vars), signer = signer }
end

-- The large files are read while they are sealed, and never written in the clear.
local function seal_settled(prepared, options)
  local sealed, message, code = container.seal_parts(options)
  if sealed and options.growing then
    return sealed -- that was asked before its end was written: a store may have the whole of it by now
  end
  -- Also where sealing failed: a file that became shorter was changed.
  local ok, problem, why = prepared:unchanged()
  if not ok then
    os.remove(options.path)
    return nil, problem, why
  end
  return sealed, message, code
end

local function ate_in_files(job, prepared, vars, signer, path, fleeting)
  local options, message, code = settings(job, prepared, vars, signer, path)
  if not options then
    return nil, message, code
  end
  options.fleeting = fleeting
  return seal_settled(prepared, options)
end

--- Whether a bundle is one that `growing` is for.
-- @tparam table job
-- @tparam table prepared kit
-- @treturn boolean
function M.can_grow(job, prepared)
  return job.container ~= winzip.NAME and M.large_bytes(prepared) >= WORTH_IT
end

--- Begins to seal in a process of its own, so that what is there can be sent while the rest is made. The file's end is
-- written when all is well with it.
-- @tparam table job
-- @tparam table prepared kit
-- @tparam table vars values by name
-- @param signer
-- @tparam string folder
-- @tparam function on_failure called with the code
-- @treturn[1] table sealed: path, size; `growing` (see storage.growth) with `stop`; and, when that is complete, what
--   `in_files` gives
-- @return[2] nil
-- @treturn[2] string message
-- @treturn[2] string code
function M.growing(job, prepared, vars, signer, folder, on_failure)
  local path = folder .. "/bundle.ate"
  local options, message, code = settings(job, prepared, vars, signer, path)
  if not options then
    return nil, message, code
  end
  options.growing = function()
    return prepared:unchanged()
  end
  local size, file, child
  size, message, code = container.size(options)
  if size then
    file, message, code = files.create(path .. ".size") -- for those who watch, see cli.progress
  end
  if file then
    file:write(size)
    file:close()
    file, message, code = files.create(path)
  end
  if file then
    file:close()
    child, message, code = aside.run(function()
      return seal_settled(prepared, options)
    end)
  end
  if not child then
    return nil, message, code
  end
  local sealed = { path = path, size = size }
  sealed.growing = { path = path, size = size, state = function()
    local said = child:poll()
    if not said then
      return nil
    elseif not said.value then
      on_failure(said.code)
      return false, said.message, said.code
    end
    sealed.checksum, sealed.encryption_key_hash = said.value.checksum, said.value.encryption_key_hash
    return true, sealed.checksum
  end, stop = function()
    child:stop()
  end }
  return sealed
end

--- The same for kits with large files: made in a folder on the store's own disk, and then a path instead of parts.
-- @tparam table job
-- @tparam table prepared kit
-- @tparam table vars values by name
-- @param signer
-- @tparam string folder
-- @tparam[opt] boolean fleeting whether the file is only on its way to another store
-- @treturn[1] table sealed
-- @return[2] nil
-- @treturn[2] string message
-- @treturn[2] string code
function M.in_files(job, prepared, vars, signer, folder, fleeting)
  local path = folder .. "/bundle.ate"
  local sealed, message, code
  if job.container == winzip.NAME then
    sealed, message, code = winzip_in_files(prepared, vars, folder, path)
  else
    sealed, message, code = ate_in_files(job, prepared, vars, signer, path, fleeting)
  end
  if sealed then
    sealed.path = path
  end
  return sealed, message, code
end

--- What of a kit is read from the disk for each bundle.
-- @tparam table prepared kit
-- @treturn integer bytes
function M.large_bytes(prepared)
  local bytes = 0
  for _, entry in ipairs(prepared.entries) do
    bytes = bytes + (entry.path and entry.file.size or 0)
  end
  return bytes
end

return M
