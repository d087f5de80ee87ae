local config = require "config"
local json = require "atelier.json"
local keyring = require "ate.keyring"
local open = require "ate.open"
local pubkey = require "ate.pubkey"
local session = require "cli.session"
local term = require "cli.term"

local M = {
  example = "atelier open pro.ate --device DEMO-PRO-001 --license XXXXX-XXXXX-XXXXX-XXXXX-XXXXX -x tools/",
}

local MOST_LINE <const> = 4096

local function positive(text)
  local n = math.tointeger(text)
  return n and n > 0 and n or nil
end

function M.options(parser)
  parser:argument("file", "The .ate file.")
  parser:option("--device", "The device's hash."):argname("H"):count "1"
  parser:mutex(
    parser:option("--license", "The licence key; others may see it here: a file or ATELIER_LICENSE hides it.")
      :argname "K",
    parser:option("--license-file", "A file whose first line is the licence key."):argname "F"
  )
  parser:option("--signer", "Who must have signed: base64 of a public key, or a PEM file."):argname "PUBKEY"
  parser:option("--max-entries", "Most files inside (default 10000)."):argname("N"):convert(positive)
  parser:option("--max-bytes", "Most bytes of all files inside (default 1 GiB, or twice the file's size).")
    :argname("N"):convert(positive)
  parser:option("--max-ratio", "How far a file may have been compressed (default 1000)."):argname("N")
    :convert(positive)
  parser:option("-x --extract", "Unpack into this folder, which must be new or empty."):argname "DIR"
end

-- Not all of the line: what has none (/dev/zero) would take all memory. Windows' editor begins a text with a mark.
local function read_first_line(path)
  local file <close>, message = io.open(path, "rb")
  if not file then
    return nil, "open: licence file: " .. message, "bad_licence"
  end
  local text, problem = file:read(MOST_LINE)
  local line = text and text:match("^[^\n]*"):gsub("^\u{FEFF}", "")
  if not line or line:match "^%s*$" then
    return nil, ("open: licence file: %s: %s"):format(path, problem or "has no first line"), "bad_licence"
  elseif #text == MOST_LINE and #line == MOST_LINE then
    return nil, ("open: licence file: %s: its first line is too long for a licence key"):format(path), "bad_licence"
  end
  return line
end

local function read_licence(args)
  if args.license then
    return args.license
  end
  if args.license_file then
    return read_first_line(args.license_file)
  end
  local key = os.getenv "ATELIER_LICENSE"
  if not key or key == "" then
    return nil, "open: no licence key: give --license, --license-file or ATELIER_LICENSE", "usage"
  end
  return key
end

--- The signers to trust: the one that is asked for, else those of the key ring where there is one.
-- @tparam[opt] string signer
-- @treturn[1] table for ate.open: signer or trusted
-- @treturn[1] {table,...} warnings: of a configuration that is wrong
-- @return[2] nil
-- @treturn[2] string message
-- @treturn[2] string code
function M.trust(signer)
  if signer then
    local public, message, code = pubkey.read(signer)
    if not public then
      return nil, message, code
    end
    return { signer = public }, {}
  end
  local values, problems = config.look()
  local ring, message, code = keyring.load(values.keyring)
  if not ring and code ~= "ENOENT" then
    return nil, message, code
  end
  return { trusted = ring and ring:trusted() or {} }, session.warnings(problems)
end

--- A result's own warnings, after others.
-- @tparam {table,...} warnings
-- @tparam table result
-- @treturn table result
function M.with_warnings(warnings, result)
  result.warnings = table.move(result.warnings or {}, 1, #(result.warnings or {}), #warnings + 1, warnings)
  return result
end

function M.run(args)
  if args.extract == "" then
    return nil, "open: -x: the folder's name is empty", "usage"
  end
  local key, message, code = read_licence(args)
  if not key then
    return nil, message, code
  end
  local trust, warnings, why = M.trust(args.signer)
  if not trust then
    return nil, warnings, why
  end
  local opened
  opened, message, code = open.open(args.file, {
    device_hash = args.device,
    licence = key,
    signer = trust.signer,
    trusted = trust.trusted,
    extract = args.extract,
    limits = { entries = args.max_entries, bytes = args.max_bytes, ratio = args.max_ratio },
  })
  if not opened then
    return nil, message, code
  end
  opened.metadata = opened.metadata or json.null
  opened.entries = json.array(opened.entries)
  opened.extracted_to = args.extract
  return M.with_warnings(warnings, opened)
end

function M.show(result)
  local meta = result.metadata
  local signer = result.signed_by and ", signed by " .. result.signed_by or ""
  print(term.green("opened ") .. term.line(result.container) .. signer)
  if meta ~= json.null then
    term.field("template", term.line(meta.template .. " " .. meta.version))
    term.field("plan", term.line(meta.plan))
    term.field("tools", term.line(table.concat(meta.tools, ", ")))
    term.field("generation", meta.generation)
    term.field("issued", meta.issued_at)
    term.field("expires", meta.expires_at == json.null and "never" or meta.expires_at)
  end
  local rows = {}
  for _, entry in ipairs(result.entries) do
    rows[#rows + 1] = { term.line(entry.name), term.size(entry.size) }
  end
  term.columns({ "file", "size" }, rows)
  if result.extracted_to then
    print("unpacked into " .. term.line(result.extracted_to))
  end
end

return M
