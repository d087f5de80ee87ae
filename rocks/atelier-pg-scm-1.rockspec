rockspec_format = "3.0"
package = "atelier-pg"
version = "scm-1"
source = {
  url = "git+https://example.invalid/atelier.git",
}
description = {
  summary = "PostgreSQL for Lua 5.4 over libpq: typed results, pipelines, COPY, LISTEN, timeouts, coroutines",
  detailed = "Calls wait in poll(2) or yield in a coroutine. JSON columns are decoded by atelier.json.",
  license = "MIT",
}
dependencies = {
  "lua ~> 5.4",
  "atelier-json",
}
external_dependencies = {
  PQ = { library = "pq" },
}
build = {
  type = "builtin",
  modules = {
    ["atelier.pg"] = {
      sources = { "host/lua_pg.c" },
      defines = { "_GNU_SOURCE", "_FILE_OFFSET_BITS=64" },
      libraries = { "pq", "pthread", "dl" },
      incdirs = { "$(PQ_INCDIR)", "$(PQ_INCDIR)/postgresql", "host" },
      libdirs = { "$(PQ_LIBDIR)" },
    },
  },
}
