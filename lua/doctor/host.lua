--- This machine: descriptors, room on the disk, the walls of the jail.
-- @module doctor.host
local jail = require "jail"
local resource = require "posix.sys.resource"
local statvfs = require "posix.sys.statvfs"

local M = {}

local FILES = 5000 -- descriptors that a front with 2,048 connections and its files may need
local ROOM = 1 << 30

local function descriptors(tell)
  local limit = resource.getrlimit(resource.RLIMIT_NOFILE)
  if limit and limit.rlim_cur >= 0 and limit.rlim_cur < FILES then
    tell("warn", "descriptors", ("at most %d open files"):format(limit.rlim_cur),
      ("Set LimitNOFILE=%d in the service's unit, or ulimit -n %d."):format(FILES, FILES))
  else
    tell("ok", "descriptors", "enough open files allowed")
  end
end

local function room(patient, tell)
  local folder = patient.config.state_dir
  local info = statvfs.statvfs(folder)
  if not info then
    return tell("warn", "disk", folder .. " is not there yet", "It is made by the first command that needs it.")
  end
  local free = info.f_bavail * info.f_frsize
  if free < ROOM then
    tell("warn", "disk", ("%.0f MB free in %s"):format(free / 1e6, folder), "Make room, or set state_dir elsewhere.")
  else
    tell("ok", "disk", ("%.1f GB free in %s"):format(free / 1e9, folder))
  end
end

local function walls(patient, tell)
  local config = patient.config
  if not config.check_bundles then
    return tell("warn", "jail", "bundles are not run before they are shipped", "Set check_bundles = true.")
  end
  local pool <close> = jail.pool(config)
  local verdict, message = pool:check("doctor", {}, { source = "return 1 + 1" })
  if not verdict then
    tell("fail", "jail", message, "The kernel lacks a wall; jail_without names walls to do without, which is weaker.")
  elseif verdict.verdict ~= "ok" then
    tell("fail", "jail", "a script that does nothing ends with " .. verdict.verdict, "Raise the jail_* limits.")
  elseif config.jail_without ~= "" then
    tell("warn", "jail", "runs without " .. config.jail_without, "Remove jail_without where the kernel allows it.")
  else
    tell("ok", "jail", "all walls stand")
  end
end

--- Examines; see `doctor`.
-- @tparam table patient
-- @tparam function tell
function M.run(patient, tell)
  descriptors(tell)
  room(patient, tell)
  walls(patient, tell)
end

return M
