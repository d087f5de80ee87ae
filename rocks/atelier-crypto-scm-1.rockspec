rockspec_format = "3.0"
package = "atelier-crypto"
version = "scm-1"
source = {
  url = "git+https://example.invalid/atelier.git",
}
description = {
  summary = "Hashes, AES-256-GCM, Ed25519 and token signatures for Lua 5.4 over OpenSSL 3",
  detailed = "SHA-256, HMAC, HKDF, AES-256-GCM in memory and file to file, Ed25519, ES256 and RS256, and secrets that are wiped.",
  license = "MIT",
}
dependencies = {
  "lua ~> 5.4",
}
external_dependencies = {
  CRYPTO = { header = "openssl/evp.h", library = "crypto" },
}
build = {
  type = "builtin",
  modules = {
    ["atelier.crypto"] = {
      sources = { "host/lua_crypto.c" },
      defines = { "_GNU_SOURCE", "_FILE_OFFSET_BITS=64" },
      libraries = { "crypto" },
      incdirs = { "$(CRYPTO_INCDIR)", "host" },
      libdirs = { "$(CRYPTO_LIBDIR)" },
    },
  },
}
