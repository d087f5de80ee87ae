--- The dashboard: two pages and what they are made of, as routes of the API's server.
--
-- Owns what is sent, the policy that the pages run under, and the few settings that they may know. The files in assets/
-- are read once: a process serves one version of them. Knows nothing of jobs or files: the pages ask the API for those,
-- with the caller's own token, as they do for everything that is somebody's.
-- @module dashboard
local crypto = require "atelier.crypto"
local host = require "atelier.host"
local json = require "atelier.json"
local keyring = require "ate.keyring"
local posix = require "posix.dirent"

local M = {}

local TYPES = {
  html = "text/html; charset=utf-8", css = "text/css; charset=utf-8", js = "text/javascript; charset=utf-8",
  svg = "image/svg+xml",
}

local function slurp(path)
  local file <close> = assert(io.open(path, "rb"))
  return assert(file:read("a"))
end

--- Reads the assets of a folder.
-- @tparam string folder
-- @treturn table by name: `{type, body, etag}`
function M.read_assets(folder)
  local assets = {}
  for name in posix.files(folder) do
    local kind = TYPES[name:match("^[a-z0-9-]+%.(%a+)$") or ""]
    if kind then
      local body = slurp(folder .. "/" .. name)
      local tag = crypto.hex(crypto.sha256(body)):sub(1, 32)
      assets[name] = { type = kind, body = body, etag = ('"%s"'):format(tag) }
    end
  end
  return assets
end

-- The origin of a URL, as a policy names it; nil for what is none. A policy is a header: nothing else may get in.
local function origin_of(url)
  url = url or ""
  return url:match("^https?://[%w.-]+:%d+") or url:match("^https?://[%w.-]+")
end

--- The headers that every page comes with. Nothing inline runs, nothing foreign loads; the only other origin that a
-- page may talk to is the project that signs customers in, where one is configured.
-- @tparam table config
-- @treturn table headers
function M.policy(config)
  local project = origin_of(config.supabase_url)
  return {
    ["Content-Security-Policy"] = table.concat({
      "default-src 'none'", "script-src 'self'", "style-src 'self'", "img-src 'self'",
      "connect-src 'self'" .. (project and " " .. project or ""), "base-uri 'none'", "form-action 'none'",
      "frame-ancestors 'none'", "require-trusted-types-for 'script'", "trusted-types 'none'",
    }, "; "),
    ["Cross-Origin-Opener-Policy"] = "same-origin",
    ["Cross-Origin-Resource-Policy"] = "same-origin",
    ["Permissions-Policy"] = "camera=(), microphone=(), geolocation=(), payment=(), usb=(), clipboard-write=(self)",
    ["Referrer-Policy"] = "no-referrer",
    ["X-Content-Type-Options"] = "nosniff",
    ["X-Frame-Options"] = "DENY",
  }
end

--- What the pages may know of the configuration; nothing here is secret.
-- @tparam table config
-- @tparam ?table ring key ring whose signing keys are trusted; nil: no signer is known
-- @treturn table
function M.settings(config, ring)
  local signers, supabase = {}, json.null
  for _, key in ipairs(ring and ring:list() or {}) do
    if key.kind == "signing" then signers[#signers + 1] = { id = key.id, public = key.public } end
  end
  if config.supabase_url and config.supabase_anon_key then
    supabase = { url = config.supabase_url:gsub("/+$", ""), anon_key = config.supabase_anon_key }
  end
  return { supabase = supabase, default_template = config.default_template, signers = json.array(signers) }
end

-- Does If-None-Match name the tag? Weak comparison, as it is meant for GET.
local function matches(header, etag)
  if header == "*" then return true end
  for tag in (header or ""):gmatch('"[^"]*"') do
    if tag == etag then return true end
  end
  return false
end

local function send(call, asset)
  local headers = M.policy(call.config)
  headers["Cache-Control"], headers.ETag = "no-cache", asset.etag
  if matches(call.request.headers["if-none-match"], asset.etag) then
    return call:respond { status = 304, headers = headers, length = #asset.body }
  end
  headers["Content-Type"] = asset.type
  call:respond { status = 200, headers = headers, body = asset.body }
end

local function load_ring(config)
  return (keyring.load(config.keyring)) -- without one the page says that it knows no signer
end

local function send_settings(call)
  local headers = M.policy(call.config)
  headers["Cache-Control"], headers["Content-Type"] = "no-store", "application/json"
  call:respond { status = 200, headers = headers, body = json.encode(M.settings(call.config, load_ring(call.config))) }
end

-- The devices of who asks, as row level security shows them, each with the plan that it has. The page cannot know them
-- otherwise before they have a file or a job.
local DEVICES = [[select d.device_hash, d.device_model, d.status, i.plan_name as plan
  from public.devices d cross join lateral public.get_device_plan_info(d.device_hash) i
  where d.user_id = auth.uid() order by d.created_at, d.id limit 200]]

local function send_devices(call)
  local items = {}
  for i, row in ipairs(call:query("dashboard_devices", DEVICES)) do
    items[i] = { device_hash = row.device_hash, device_model = row.device_model, status = row.status, plan = row.plan }
  end
  return 200, { items = json.array(items), next = json.null }
end

local assets = M.read_assets(host.root .. "/lua/dashboard/assets")

local function page(path, name, summary)
  return { method = "GET", path = path, summary = summary, auth = "none", params = {}, responses = {},
    handler = function(call) send(call, assets[name]) end }
end

-- The module is the list of its routes, as every resource is. They are no operations of the API and stay out of its
-- description.
for i, route in ipairs {
  page("/dashboard", "customer.html", "The customer's page"),
  page("/dashboard/ops", "operator.html", "The operator's page"),
  { method = "GET", path = "/dashboard/devices.json", summary = "The caller's devices and their plans", auth = "user",
    params = {}, responses = {}, handler = send_devices },
  { method = "GET", path = "/dashboard/config.json", summary = "What the pages may know of the configuration",
    auth = "none", params = {}, responses = {}, handler = send_settings },
  { method = "GET", path = "/dashboard/assets/{name}", summary = "A part of the pages", auth = "none",
    params = { name = { type = "string", pattern = "^[a-z0-9-]+[.][a-z]+$", match = "^[%l%d-]+%.%l+$", max = 64,
      says = "the name of a part", required = true } }, responses = {},
    handler = function(call)
      local asset = assets[call.params.name]
      if not asset then call:refuse(404, "not_found", "no such part of the dashboard") end
      send(call, asset)
    end },
} do
  M[i] = route
end

return M
