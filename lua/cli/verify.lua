local json = require "atelier.json"
local open = require "ate.open"
local opening = require "cli.open"
local term = require "cli.term"

local M = {
  example = "atelier verify pro.ate --signer signer.pem --json",
}

function M.options(parser)
  parser:argument("file", "The .ate file.")
  parser:option("--signer", "Who must have signed: base64 of a public key, or a PEM file."):argname "PUBKEY"
end

function M.run(args)
  local trusted, warnings, why = opening.trust(args.signer)
  if not trusted then
    return nil, warnings, why
  end
  local verified, message, code = open.verify(args.file, trusted)
  return verified and opening.with_warnings(warnings, verified), message, code
end

function M.show(result)
  local meta = result.metadata
  print(term.green("verified ") .. "signed by " .. result.signed_by)
  term.field("template", term.line(meta.template .. " " .. meta.version))
  term.field("plan", term.line(meta.plan))
  term.field("expires", meta.expires_at == json.null and "never" or meta.expires_at)
  term.field("SHA-256", result.checksum)
end

return M
