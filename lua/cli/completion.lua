local outline = require "cli.outline"

local M = {
  for_people_only = true,
  example = "eval \"$(atelier completion bash)\"\n"
    .. "atelier completion bash >/usr/local/share/bash-completion/completions/atelier",
}

function M.options(parser)
  parser:description "Prints a script that completes commands, options and values in a shell."
  parser:argument("shell", "For which shell."):choices { "bash" }
end

-- Values that are files or folders, by what their options and arguments are called.
local PATHS = { FILE = true, DIR = true, F = true, PUBKEY = true, OUT = true, PATH = true, VALUES = true, file = true,
  script = true, path = true, folder = true }

local function kind_of(element, name)
  if element.choices then
    return table.concat(element.choices, " ")
  end
  return PATHS[name] and "@path" or "@none"
end

local CASE = [[
    '%s')
      options='%s'
      commands='%s'
      arguments='%s'
      case $previous in
%s      esac ;;]]

-- One case for each place: the words that may stand there, what the options take, what the arguments are.
local function describe(cases, command, path)
  local words, values = {}, {}
  for _, sub in ipairs(command.commands) do
    words[#words + 1] = sub.name
  end
  local options = {}
  for _, option in ipairs(command.options) do
    for _, name in ipairs(option.names) do
      options[#options + 1] = name
      if option.takes then
        values[#values + 1] = ("      %s) values='%s' ;;\n"):format(name, kind_of(option, option.argname))
      end
    end
  end
  local argument = command.arguments[#command.arguments]
  cases[#cases + 1] = CASE:format(path, table.concat(options, " "), table.concat(words, " "),
    argument and kind_of(argument, argument.name) or "@none", table.concat(values))
  for _, sub in ipairs(command.commands) do
    describe(cases, sub, path == "" and sub.name or path .. " " .. sub.name)
  end
end

-- The place is found by the words that are commands; the word after an option that takes a value is no command.
local SCRIPT = [==[
# Completion of atelier for bash; made by `atelier completion bash`.
_atelier_place() {
  local options commands arguments
  values=
  case $place in
%s
  esac
  place_options=$options place_commands=$commands place_arguments=$arguments
}

_atelier() {
  local current=${COMP_WORDS[COMP_CWORD]} place= previous= values= word i
  local place_options place_commands place_arguments
  _atelier_place
  for ((i = 1; i < COMP_CWORD; i++)); do
    word=${COMP_WORDS[i]}
    if [[ -n $values ]]; then
      values= previous=
    elif [[ $word == -* ]]; then
      previous=$word
      _atelier_place
    elif [[ " $place_commands " == *" $word "* ]]; then
      place=${place:+$place }$word previous=
      _atelier_place
    fi
  done
  local wanted=$place_arguments
  if [[ -n $values ]]; then
    wanted=$values
  elif [[ $current == -* ]]; then
    wanted=$place_options
  elif [[ -n $place_commands ]]; then
    wanted=$place_commands
  fi
  COMPREPLY=()
  case $wanted in
  @none) ;;
  @path)
    compopt -o filenames 2>/dev/null
    mapfile -t COMPREPLY < <(compgen -f -- "$current") ;;
  *) mapfile -t COMPREPLY < <(compgen -W "$wanted" -- "$current") ;;
  esac
}
complete -F _atelier atelier]==]

function M.run()
  local cases = {}
  describe(cases, outline.of(require("cli").parser()), "")
  print((SCRIPT:gsub("%%s", function()
    return table.concat(cases, "\n")
  end)))
  return {}
end

return M
