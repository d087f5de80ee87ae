--- Addresses: who a client is behind proxies that are trusted, and whether an address is in a network.
-- X-Forwarded-For is a list that each proxy appends to, so it is read from its end, for as long as who wrote an entry
-- is trusted. Anybody else's is text that the client made up.
-- @module addresses
local M = {}

local function read_v4(text)
  local a, b, c, d = text:match "^(%d%d?%d?)%.(%d%d?%d?)%.(%d%d?%d?)%.(%d%d?%d?)$"
  local bytes = { tonumber(a), tonumber(b), tonumber(c), tonumber(d) }
  for i = 1, 4 do
    if not bytes[i] or bytes[i] > 255 then
      return nil
    end
  end
  return string.char(table.unpack(bytes))
end

-- The groups of one side of "::", as bytes. Only the last of all may be an IPv4 address.
local function read_groups(text, is_end)
  local out = {}
  if text == "" then
    return ""
  end
  for group, at in (text .. ":"):gmatch "([^:]*):()" do
    local v4 = is_end and at == #text + 2 and group:find(".", 1, true) and read_v4(group)
    if v4 then
      out[#out + 1] = v4
    elseif group:find "^%x%x?%x?%x?$" then
      out[#out + 1] = string.pack(">I2", tonumber(group, 16))
    else
      return nil
    end
  end
  return table.concat(out)
end

local function read_v6(text)
  local left, right = text:match "^(.-)::(.*)$"
  if not left then
    local whole = read_groups(text, true)
    return whole and #whole == 16 and whole or nil
  end
  left, right = read_groups(left), not right:find("::", 1, true) and read_groups(right, true) or nil
  if not left or not right or #left + #right > 14 then
    return nil
  end
  return left .. ("\0"):rep(16 - #left - #right) .. right
end

local MAPPED = ("\0"):rep(10) .. "\xff\xff"

--- Reads an address.
-- @tparam string text
-- @treturn[1] string 4 or 16 bytes; an IPv4 address written as IPv6 has 4
-- @treturn[2] nil
function M.parse(text)
  if text:find(":", 1, true) then
    local bytes = read_v6((text:gsub("%%.*$", "")))
    if bytes and bytes:sub(1, 12) == MAPPED then
      return bytes:sub(13)
    end
    return bytes
  end
  return read_v4(text)
end

-- ==== networks =================================================================================

local Networks = {}
Networks.__index = Networks

local function read_network(text)
  local address, bits = text:match "^([^/]+)/(%d+)$"
  local bytes = M.parse(address or text)
  bits = bits and tonumber(bits) or bytes and #bytes * 8
  if not bytes or bits > #bytes * 8 then
    return nil
  end
  return { bytes = bytes, whole = bits // 8, rest = bits % 8 }
end

local function is_in(network, bytes)
  if #bytes ~= #network.bytes or bytes:sub(1, network.whole) ~= network.bytes:sub(1, network.whole) then
    return false
  elseif network.rest == 0 then
    return true
  end
  local at, shift = network.whole + 1, 8 - network.rest
  return bytes:byte(at) >> shift == network.bytes:byte(at) >> shift
end

--- Whether an address is in one of them.
-- @tparam string text
-- @treturn boolean
function Networks:has(text)
  local bytes = M.parse(text)
  for _, network in ipairs(bytes and self or {}) do
    if is_in(network, bytes) then
      return true
    end
  end
  return false
end

--- Reads a list of addresses and networks, as in "10.0.0.0/8".
-- @tparam {string,...} list
-- @treturn[1] table networks
-- @return[2] nil
-- @treturn[2] string message
-- @treturn[2] string "config"
function M.networks(list)
  local self = setmetatable({}, Networks)
  for i, text in ipairs(list) do
    self[i] = read_network(text)
    if not self[i] then
      return nil, ("%q: is neither an address nor a network"):format(text), "config"
    end
  end
  return self
end

-- A name for the bytes that the database can read back as an address.
local function name_of(bytes)
  if #bytes == 4 then
    return ("%d.%d.%d.%d"):format(bytes:byte(1, 4))
  end
  return ("%x:%x:%x:%x:%x:%x:%x:%x"):format(string.unpack(">I2I2I2I2I2I2I2I2", bytes))
end

-- In two steps: one pattern for both ends takes a second for an entry of 16 KB of blanks, and the loop with it.
local function trim(text)
  local from = text:find "%S"
  return from and text:match("^.*%S", from) or ""
end

-- What an entry of X-Forwarded-For names: some proxies put the port behind it, and then an IPv6 address in brackets.
local function read_entry(text)
  if #text > 64 then
    return nil
  end
  return M.parse(text:match "^%[(.*)%]$" or text:match "^%[(.*)%]:%d+$" or text:match "^([%d.]+):%d+$" or text)
end

--- Who the client is.
-- @tparam string peer the address of the connection
-- @tparam ?string forwarded the header X-Forwarded-For
-- @tparam table trusted networks of proxies
-- @treturn string address
function M.client(peer, forwarded, trusted)
  local address = M.parse(peer) and name_of(M.parse(peer)) or peer
  if not forwarded or not trusted[1] then
    return address
  end
  local entries = {}
  for entry in forwarded:gmatch "[^,]+" do
    entries[#entries + 1] = trim(entry)
  end
  for i = #entries, 1, -1 do
    local bytes = trusted:has(address) and read_entry(entries[i])
    if not bytes then
      break
    end
    address = name_of(bytes)
  end
  return address
end

return M
