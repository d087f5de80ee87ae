-- What luacheck takes for granted; `make check` and .ci/run call it without options.
std = "lua54"
max_line_length = 120
codes = true
cache = false
exclude_files = { "build/", "var/", "node_modules/", "spec/jail/" } -- spec/jail: wrong on purpose

-- `local held <close> = …` is used by leaving its scope.
ignore = { "211/held", "211/guard" }

-- Test vectors and tables of cases stay on one line.
files["spec/"] = { std = "lua54+busted", max_line_length = 160 }
files["spec/run.lua"] = { globals = { "arg" } }

-- Scripts for the automation app: its documented functions, and the names that a placeholder such as
-- {{plan_tools}} leaves behind before it is rendered.
files["templates/"] = {
  std = "lua54",
  read_globals = {
    "alert", "appActivate", "appRun", "clipText", "copyText", "dialog", "findColors", "findImage", "getColor",
    "getScreenResolution", "getSN", "inputText", "log", "rootDir", "screenshot", "tap", "toast", "touchDown",
    "touchMove", "touchUp", "usleep",
    "artifact_id", "device_hash", "expires_at", "issued_at", "license_key", "params", "plan", "plan_tools",
    "template", "version",
  },
}

-- A template's own specs.
files["templates/*/spec/*"] = { std = "lua54+busted" }

-- Data, not programs: a rockspec assigns globals, and ldoc's settings are globals too.
files["**/*.rockspec"] = { std = "rockspec" }
files["rocks/config.ld"] = { std = "+ldoc" }
