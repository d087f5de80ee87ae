rockspec_format = "3.0"
package = "atelier-json"
version = "scm-1"
source = {
  url = "git+https://example.invalid/atelier.git",
}
description = {
  summary = "Strict JSON for Lua 5.4 with exact integers and deterministic output",
  detailed = "Decodes by jansson, refuses duplicate keys, NaN and invalid UTF-8; encodes with sorted keys.",
  license = "MIT",
}
dependencies = {
  "lua ~> 5.4",
}
external_dependencies = {
  JANSSON = { header = "jansson.h", library = "jansson" },
}
build = {
  type = "builtin",
  modules = {
    ["atelier.json"] = {
      sources = { "host/lua_json.c" },
      defines = { "_GNU_SOURCE", "_FILE_OFFSET_BITS=64" },
      libraries = { "jansson" },
      incdirs = { "$(JANSSON_INCDIR)", "host" },
      libdirs = { "$(JANSSON_LIBDIR)" },
    },
  },
}
