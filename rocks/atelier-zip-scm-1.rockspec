rockspec_format = "3.0"
package = "atelier-zip"
version = "scm-1"
source = {
  url = "git+https://example.invalid/atelier.git",
}
description = {
  summary = "Deterministic ZIP archives, and strict reading of hostile ones",
  detailed = [[
Writes archives in memory or to a file with fixed times and attributes, takes entries that are already deflated,
encrypts with WinZip AES-256, and reads archives within limits on entries, sizes, ratio and names. Over libzip and
zlib.
]],
  license = "MIT",
}
dependencies = {
  "lua ~> 5.4",
}
external_dependencies = {
  ZIP = { header = "zip.h" },
  Z = { header = "zlib.h" },
}
build = {
  type = "builtin",
  modules = {
    ["atelier.zip"] = {
      sources = { "host/lua_zip.c" },
      incdirs = { "host", "$(ZIP_INCDIR)", "$(Z_INCDIR)" },
      libdirs = { "$(ZIP_LIBDIR)", "$(Z_LIBDIR)" },
      libraries = { "zip", "z" },
      defines = { "_GNU_SOURCE", "_FILE_OFFSET_BITS=64" },
    },
  },
}
