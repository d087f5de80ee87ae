rockspec_format = "3.0"
package = "atelier-http"
version = "scm-1"
source = {
  url = "git+https://example.invalid/atelier.git",
}
description = {
  summary = "HTTP client for Lua 5.4 with limits, timeouts, many requests at once and SigV4",
  detailed = "Over libcurl: bodies from and to strings and files, connection reuse, an event-loop interface.",
  license = "MIT",
}
dependencies = {
  "lua ~> 5.4",
}
external_dependencies = {
  CURL = { library = "curl" }, -- no header here: Debian keeps it where only the compiler looks
}
build = {
  type = "builtin",
  modules = {
    ["atelier.http"] = {
      sources = { "host/lua_http.c" },
      defines = { "_GNU_SOURCE", "_FILE_OFFSET_BITS=64" },
      libraries = { "curl" },
      incdirs = { "host" },
      libdirs = { "$(CURL_LIBDIR)" },
    },
  },
}
