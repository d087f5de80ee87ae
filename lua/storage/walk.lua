--- The files below a folder in the order of their keys, a page at a time.
--
-- A folder of a million devices is not read anew for each page: so many of its next names are kept from one page of a
-- walk to the next. What is there from a walk's beginning to its end is met, once; what goes meanwhile is not met; what
-- comes meanwhile may be met, or not before the next walk. Knows nothing of what the files are.
-- @module storage.walk
local dirent = require "posix.dirent"
local stat = require "posix.sys.stat"

local M = {}
local Walker = {}
Walker.__index = Walker

local PAGE = 1000
local WINDOW = 50000 -- names that are kept of a folder: a few megabytes
local UNFINISHED = "^%.%d+%.%d+%.tmp$" -- what atelier.fs calls a file that it cannot write without a name

--- Whether a name is one of a file that a writer has not finished.
-- @tparam string name
-- @treturn boolean
function M.is_unfinished(name)
  return name:find(UNFINISHED) ~= nil
end

-- Whether a page after a key can have nothing of this name, nor of what is below it.
local function is_passed(key, after)
  return after ~= nil and key .. "/\255" < after
end

local function cut(names, length)
  table.sort(names)
  for i = #names, length + 1, -1 do
    names[i] = nil
  end
end

-- The next names of a folder that the walk can want, in order: those after `bound`.
local function read(page, folder, bound)
  local listed, each, state, first = pcall(dirent.files, page.root .. "/" .. folder)
  if not listed and folder == "" then
    error(each, 0)
  end
  local window, names, most = page.window, {}, nil
  local more = false
  for name in listed and each or next, state or {}, first do
    local key = folder .. name
    local relevant = key:sub(1, #page.prefix) == page.prefix or page.prefix:sub(1, #key + 1) == key .. "/"
    if relevant and M.is_unfinished(name) then
      page.unfinished[#page.unfinished + 1] = key
    elseif relevant and name:sub(1, 1) ~= "." and not (bound and name <= bound) and not is_passed(key, page.after) then
      if most and name > most then
        more = true
      else
        names[#names + 1] = name
      end
      if #names >= 2 * window then
        cut(names, window)
        most, more = names[window], true
      end
    end
  end
  more = more or #names > window
  cut(names, window)
  return { names = names, at = 1, more = more }
end

-- The folder's names from where the last page of this walk was.
local function window_of(page, folder)
  local window = page.windows[folder]
  if not window then
    window = read(page, folder)
    page.windows[folder] = window
  end
  while window.names[window.at] and is_passed(folder .. window.names[window.at], page.after) do
    window.at = window.at + 1
  end
  return window
end

-- The next window; folders that are not visited yet ("a/" comes after "a-b") are kept in front of it, for a later page.
local function next_window(page, folder, window, waiting)
  local names = {}
  for i, key in ipairs(waiting) do
    names[i] = key:sub(#folder + 1, -2)
  end
  table.sort(names)
  local behind = read(page, folder, window.names[#window.names])
  behind.names = table.move(behind.names, 1, #behind.names, #names + 1, names)
  page.windows[folder] = behind
  return behind, #waiting + 1
end

local visit

-- Visits the folders that come before a key, whatever their names' order.
local function visit_folders(folders, before, page)
  while folders[1] and not (before and folders[1] > before) and #page.found < PAGE do
    visit(table.remove(folders, 1), page)
  end
end

-- One name: a file of the page, or a folder that waits for its turn.
local function meet(page, key, folders)
  local info = stat.lstat(page.root .. "/" .. key)
  if info and stat.S_ISDIR(info.st_mode) ~= 0 then
    folders[#folders + 1] = key .. "/"
    table.sort(folders)
  elseif info and stat.S_ISREG(info.st_mode) ~= 0 and key:sub(1, #page.prefix) == page.prefix
    and not (page.after and key <= page.after) then
    page.found[#page.found + 1] = { key = key, size = info.st_size, age = page.now - info.st_mtime }
  end
end

-- Walks in key order and stops when the page is full.
function visit(folder, page)
  local folders, window = {}, window_of(page, folder)
  local at = window.at
  while window.names[at] or window.more do
    if not window.names[at] then
      window, at = next_window(page, folder, window, folders)
    else
      local key = folder .. window.names[at]
      at = at + 1
      if not is_passed(key, page.after) then
        visit_folders(folders, key, page)
        if #page.found >= PAGE then
          return
        end
        meet(page, key, folders)
      end
    end
  end
  visit_folders(folders, nil, page)
end

-- What the next page of this walk will want again: the large ones of the folders that its first key is below.
local function kept_of(page)
  local last = page.found[PAGE]
  local kept = {}
  for folder, window in pairs(last and page.windows or {}) do
    if last.key:sub(1, #folder) == folder and (window.more or #window.names > PAGE) then
      kept[folder] = window
    end
  end
  return last and { prefix = page.prefix, after = last.key, windows = kept }
end

--- A page.
-- @tparam string prefix
-- @tparam ?string after key of the last entry of the page before
-- @tparam number now by the clock of the disk
-- @treturn[1] {table,...} found: key, size, age
-- @treturn[1] {string,...} keys of what writers have not finished, as far as folders were read
-- @return[2] nil
-- @treturn[2] string message
function Walker:page(prefix, after, now)
  local kept = self.kept
  self.kept = nil
  local goes_on = kept and after and kept.after == after and kept.prefix == prefix
  local page = { root = self.root, prefix = prefix, after = after, now = now, found = {}, unfinished = {},
    windows = goes_on and kept.windows or {}, window = self.window }
  local ok, message = pcall(visit, "", page)
  if not ok then
    return nil, tostring(message)
  end
  self.kept = kept_of(page)
  return page.found, page.unfinished
end

--- A walker.
-- @tparam string root folder
-- @treturn table walker
function M.new(root)
  return setmetatable({ root = root, window = WINDOW }, Walker)
end

return M
