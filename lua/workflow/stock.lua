--- The templates that a worker has read, as they were published: of this host's folder while that is still the same,
-- else fetched from the store.
-- @module workflow.stock
local depot = require "template.depot"
local json = require "atelier.json"
local storage = require "storage"
local template = require "template"

local M = {}
local Stock = {}
Stock.__index = Stock

--- A new stock.
-- @tparam table config see config.lua
-- @tparam[opt] function on_wait see `storage`
-- @treturn table stock
function M.new(config, on_wait)
  return setmetatable({ config = config, on_wait = on_wait, known = {} }, Stock)
end

--- What was read is no longer true.
function Stock:forget()
  self.known = {}
end

--- Names what a job was claimed for: another content has another name.
-- @tparam table job
-- @treturn string
function M.name(job)
  local published = job.content_sha256 ~= json.null and job.content_sha256 or ""
  return ("%s %s %s"):format(job.template_name, job.template_version, published)
end

local function load_folder(self, job, published)
  local folder = job.template_path:match("([^/]+)/*$") or ""
  local loaded, message, code = template.load(self.config.templates_dir .. "/" .. folder)
  if not loaded then
    return nil, message, code
  end
  if loaded.name ~= job.template_name or loaded.version ~= job.template_version then
    return nil, ("template %s: version %s is wanted, this host has %s %s"):format(job.template_name,
      job.template_version, loaded.name, loaded.version), "template_version"
  end
  if published and loaded.hash ~= published then
    return nil, ("template %s %s: its files differ from the published ones; give it a new version and publish that")
      :format(loaded.name, loaded.version), "template_version"
  end
  return loaded
end

local function fetch(self, job, published)
  if not self.templates then
    local store, message, code = storage.open_templates(self.config)
    if not store then
      return nil, message, code
    end
    self.templates, store.on_wait = store, self.on_wait
  end
  local wanted = { name = job.template_name, hash = published }
  return depot.fetch(self.templates, wanted, self.config.state_dir .. "/templates")
end

--- The template of a job, read once per published content.
-- @tparam table job template_name, template_version, template_path, content_sha256
-- @treturn[1] table see `template.load`
-- @return[2] nil
-- @treturn[2] string message
-- @treturn[2] string code
function Stock:get(job)
  local name = M.name(job)
  local loaded = self.known[name]
  if loaded then
    return loaded
  end
  local published = job.content_sha256 ~= json.null and job.content_sha256 or nil
  local message, code
  loaded, message, code = load_folder(self, job, published)
  if not loaded and published then
    local problem, why
    loaded, problem, why = fetch(self, job, published)
    if why ~= "not_found" then
      message, code = problem, why
    elseif problem then -- what is the matter with the folder says more
      message = ("%s; %s"):format(message, problem)
    end
  end
  if not loaded then
    return nil, message, code
  end
  self.known[name] = loaded
  return loaded
end

--- Lets go of the store.
function Stock:close()
  if self.templates then
    self.templates:close()
  end
end

return M
