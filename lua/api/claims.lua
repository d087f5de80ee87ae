--- What a token must say: its times, issuer and audience, and whose it is. Knows no signature.
-- @module api.claims
local json = require "atelier.json"
local problem = require "api.problem"

local M = {}

--- Seconds that clocks may differ.
M.LEEWAY = 30

local UUID = ("^h8-h4-h4-h4-h12$"):gsub("%-", "%%-"):gsub("h(%d+)", function(n)
  return ("%x"):rep(tonumber(n))
end)

--- A refusal that another token helps against.
-- @tparam string code
-- @tparam string message
-- @tparam[opt] string hint
-- @treturn table problem
function M.unauthorized(code, message, hint)
  return problem.new(401, code, message, { hint = hint, headers = {
    ["WWW-Authenticate"] = code == "no_token" and 'Bearer realm="atelier"'
      or ('Bearer realm="atelier", error="invalid_token", error_description="%s"'):format(message) } })
end

--- A token that is none.
-- @tparam string message
-- @treturn table problem
function M.bad(message)
  return M.unauthorized("bad_token", message)
end

local bad, unauthorized = M.bad, M.unauthorized

local function is_time(value)
  return type(value) == "number" and value == value and value > -1e15 and value < 1e15
end

--- What is wrong with the times of a token.
-- @tparam table claims
-- @tparam integer now seconds since 1970
-- @treturn ?table problem
function M.time_fault(claims, now)
  if not is_time(claims.exp) then
    return bad "the token has no expiry"
  elseif claims.nbf ~= nil and not is_time(claims.nbf) or claims.iat ~= nil and not is_time(claims.iat) then
    return bad "the token's times are malformed"
  elseif now >= claims.exp + M.LEEWAY then
    return unauthorized("token_expired", "the token has expired", "Sign in again.")
  elseif claims.nbf and now < claims.nbf - M.LEEWAY then
    return unauthorized("token_early", "the token is not valid yet", "Is the clock of its issuer right?")
  end
end

local function names(audience, wanted)
  if type(audience) == "string" then
    return audience == wanted
  elseif not json.is_array(audience) then
    return false
  end
  for _, one in ipairs(audience) do
    if one == wanted then
      return true
    end
  end
  return false
end

--- What is wrong with its issuer. A project's legacy keys name "supabase", and have neither subject nor audience.
-- @tparam table claims
-- @tparam ?string issuer that it must name; any when nil
-- @treturn ?table problem
function M.issuer_fault(claims, issuer)
  if issuer and claims.iss ~= issuer
    and not (claims.role == "service_role" and claims.sub == nil and claims.iss == "supabase") then
    return bad "the token's issuer is not accepted"
  end
end

local NOBODY = unauthorized("not_signed_in", "the token belongs to nobody",
  "Sign in; the public key is no user's token.")
local NO_USER = problem.new(403, "wrong_role", "this is for users, and the token is not a user's")
local NO_OPERATOR = problem.new(403, "wrong_role", "this is for operators, and the token is not an operator's")

--- Why it cannot be used as a user's token.
-- @tparam table claims
-- @tparam string audience that it must name
-- @treturn ?table problem
function M.user_fault(claims, audience)
  if claims.role == "anon" then
    return NOBODY
  elseif claims.role ~= "authenticated" then
    return NO_USER
  elseif not names(claims.aud, audience) then
    return bad "the token is meant for another audience"
  elseif type(claims.sub) ~= "string" or not claims.sub:find(UUID) then
    return bad "the token's subject is not a user's id"
  end
end

--- Why it cannot be used as an operator's token.
-- @tparam table claims
-- @treturn ?table problem
function M.operator_fault(claims)
  if claims.role == "anon" then
    return NOBODY
  end
  return claims.role ~= "service_role" and NO_OPERATOR or nil
end

return M
