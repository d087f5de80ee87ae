--- Packs a bundle and seals it, in memory or in files. Knows no queue, no jail and no store.
-- @module workflow.seal
local container = require "ate.container"
local values = require "workflow.values"
local winzip = require "ate.winzip"

local M = {}

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

-- The large files are read while they are sealed, and never written in the clear.
local function ate_in_files(job, prepared, vars, signer, path, fleeting)
  local ok, message, code = prepared:unchanged()
  if not ok then
    return nil, message, code
  end
  local parts, size, why = prepared:layout(vars)
  if not parts then
    return nil, size, why
  end
  local sealed
  sealed, message, code = container.seal_parts { parts = parts, archive_size = size, path = path, fleeting = fleeting,
    licence = vars.license_key, device_hash = vars.device_hash, metadata = values.metadata(job, vars), signer = signer }
  -- Also where sealing failed: a file that became shorter was changed.
  local problem
  ok, problem, why = prepared:unchanged()
  if not ok then
    os.remove(path)
    return nil, problem, why
  end
  return sealed, message, code
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
