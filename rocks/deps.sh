#!/bin/sh
# deps.sh [run|test|bench]: installs what this machine lacks to build and run Atelier (run), to test it
# as well (test, the default), or to measure it (bench).
#
# It looks for abilities first (a command, a library, a Lua module) and is done in a moment when all are
# there, wherever they came from. What is missing comes from the machine's own Debian or Ubuntu
# sources; a Lua module that those lack comes from LuaRocks. It changes no setting of the machine, and
# leaves the cluster alone that Debian makes with its postgresql package.

set -eu

say() { printf 'deps: %s\n' "$*"; }
die() { printf 'deps: %s\n' "$*" >&2; exit 1; }

level=${1:-test}
case $level in
run | test | bench) ;;
*) die "usage: deps.sh [run|test|bench]" ;;
esac

# ---- what is needed ------------------------------------------------------------------------------

# Lines of: level, Debian package, how to see that it is there, name at LuaRocks ("-": none).
needs() {
  cat <<'LIST'
run   gcc                   command gcc               -
run   libc6-dev             header stdio.h            -
run   make                  command make              -
run   pkg-config            command pkg-config        -
run   liblua5.4-dev         library lua5.4            -
run   lua5.4                command lua5.4            -
run   libssl-dev            library libcrypto 3.0     -
run   libzip-dev            library libzip 1.7        -
run   zlib1g-dev            library zlib              -
run   libpq-dev             library libpq 14          -
run   libcurl4-openssl-dev  library libcurl 7.75      -
run   libjansson-dev        library jansson           -
run   libedit-dev           library libedit           -
run   libmicrohttpd-dev     library libmicrohttpd 0.9.75  -
run   libseccomp-dev        library libseccomp 2.5    -
run   postgresql            postgres 14               -
run   util-linux            command setpriv           -
run   lua-argparse          module argparse           argparse
run   lua-expat             module lxp                luaexpat
run   lua-lpeg              module lpeg               lpeg
run   lua-posix             module posix              luaposix
test  git                   command git               -
test  clang                 command clang             -
test  nodejs                node 18                   -
test  groff-base            command groff             -
test  openssl               command openssl           -
test  p7zip-full            command 7z                -
test  swift-account         command swift-account-server    -
test  swift-container       command swift-container-server  -
test  swift-object          command swift-object-server     -
test  swift-proxy           command swift-proxy-server      -
test  python3               command python3           -
test  unzip                 command unzip             -
test  luarocks              command luarocks          -
test  lua-busted            command busted            busted
test  lua-check             command luacheck          luacheck
test  lua-ldoc              command ldoc              ldoc
test  npm                   command npm               -
test  chromium              command chromium          -
test  fonts-noto-cjk        font ja                   -
test  fonts-noto-color-emoji  font und-zsye           -
bench wrk                   command wrk               -
LIST
}

has_command() { command -v "$1" >/dev/null 2>&1; }

has_library() {
  if [ $# -gt 1 ]; then
    has_command pkg-config && pkg-config --atleast-version="$2" "$1"
  else
    has_command pkg-config && pkg-config --exists "$1"
  fi
}

has_header() { has_command gcc && printf '#include <%s>\n' "$1" | gcc -E -x c - >/dev/null 2>&1; }

# A font for a language; und-zsye are emoji.
has_font() { has_command fc-list && fc-list ":lang=$1" | grep -q .; }

has_module() { has_command lua5.4 && lua5.4 -e "require '$1'" >/dev/null 2>&1; }

has_node() {
  has_command node && node -e 'process.exit(parseInt(process.versions.node) >= process.argv[1] ? 0 : 1)' "$1"
}

# A server of at least this major version, in the places where lua/postgres.lua looks for one.
has_postgres() {
  for bin in /usr/lib/postgresql/*/bin /usr/pgsql-*/bin "$(dirname "$(command -v initdb || echo /none/)")"; do
    [ -x "$bin/initdb" ] && [ -x "$bin/postgres" ] || continue
    major=$("$bin/postgres" --version | sed 's/^[^0-9]*\([0-9]*\).*/\1/')
    if [ "${major:-0}" -ge "$1" ]; then return 0; fi
  done
  return 1
}

# Prints the lines of needs() that this level asks for and this machine lacks.
missing() {
  needs | while read -r at package kind first rest; do
    case $level:$at in run:test | run:bench | test:bench) continue ;; esac
    rock=${rest##* }
    version=${rest% *}
    if [ "$version" = "$rest" ]; then version=; fi
    # shellcheck disable=SC2086 # an absent version is no argument
    "has_$kind" "$first" $version || echo "$package $rock"
  done
}

# The column of that list: 1 Debian packages, 2 rocks.
column() { awk -v n="$1" '$n != "-" && $n != "" { print $n }'; }

# ---- how it is installed ---------------------------------------------------------------------------

as_root() {
  if [ "$(id -u)" -eq 0 ]; then
    "$@"
  elif has_command sudo; then
    sudo "$@"
  else
    die "missing: $(missing | column 1 | tr '\n' ' ')- installing needs root, and there is no sudo:" \
      "run 'rocks/deps.sh $level' as root once"
  fi
}

scratch=
cleanup() { if [ -n "$scratch" ]; then as_root rm -rf "$scratch"; fi; }
trap cleanup EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

# Runs a command quietly; shows the end of what it said when it fails.
quietly() {
  if "$@" >"$scratch/log" 2>&1 </dev/null; then return 0; fi
  sed 's/^/  | /' "$scratch/log" | tail -n 6 >&2
  return 1
}

apt() {
  as_root env DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1 apt-get -y -q \
    -o DPkg::Lock::Timeout=300 -o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold "$@"
}

# Does the package that this machine's own sources offer work with Lua 5.4? (Debian 12's lua-posix does not.)
serves_lua54() { apt-cache show "$1" 2>/dev/null | grep -q '^Lua-Versions:.* 5\.4'; }

# The Signed-By of entry FILE:N, as apt names the Nth entry of a .sources file or the Nth line of a .list.
signed_by() {
  file=${1%:*}
  n=${1##*:}
  case $file in
  *.sources) awk -v n="$n" 'BEGIN { RS = "" } NR == n' "$file" | sed -n 's/^Signed-By:[[:space:]]*\([^[:space:]]*\).*/\1/p' ;;
  *) sed -n "${n}s/^deb *\[.*signed-by=\([^] ]*\).*/\1/p" "$file" ;;
  esac
}

# apt as if the next Debian release's main section were the only source, and lua-posix the only package in
# it. Nothing of this stays: source, pin and lists are in the scratch folder.
next_release_apt() {
  apt -o Dir::Etc::SourceList="$scratch/next.sources" -o Dir::Etc::SourceParts=/dev/null \
    -o Dir::Etc::Preferences="$scratch/next.pref" -o Dir::Etc::PreferencesParts=/dev/null \
    -o Dir::State::Lists="$scratch/lists" -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache= \
    -o APT::Update::Error-Mode=any --no-install-recommends "$@"
}

# Debian 12: lua-posix of the next release (its libraries need no newer libc), from the mirror and with the
# keys that this machine already trusts.
lua_posix_of_next_release() {
  found=$(apt-get indextargets 'Created-By: Packages' 'Codename: bookworm' 'Component: main' 'Origin: Debian' \
    --format '$(REPO_URI) $(SOURCESENTRY)' | head -n 1)
  if [ -z "$found" ]; then return 1; fi
  mirror=${found%% *}
  mkdir -p "$scratch/lists/partial"
  printf 'Package: *\nPin: release *\nPin-Priority: -1\n\nPackage: lua-posix\nPin: release n=trixie\nPin-Priority: 990\n' \
    >"$scratch/next.pref"
  # The machine's own key for its source comes first; it may cover one release only.
  for key in "$(signed_by "${found#* }")" /usr/share/keyrings/debian-archive-keyring.gpg; do
    {
      printf 'Types: deb\nURIs: %s\nSuites: trixie\nComponents: main\n' "$mirror"
      printf 'Architectures: %s\nLanguages: none\nTargets: Packages\n' "$(dpkg --print-architecture)"
      if [ -n "$key" ]; then printf 'Signed-By: %s\n' "$key"; fi
    } >"$scratch/next.sources"
    if next_release_apt update >"$scratch/log" 2>&1 </dev/null; then
      quietly apt --no-install-recommends install lua-bit32 && quietly next_release_apt install lua-posix
      return
    fi
  done
  sed 's/^/  | /' "$scratch/log" | tail -n 6 >&2
  return 1
}

install_with_apt() {
  say "asking the package registry"
  quietly apt update || say "the package lists could not be read anew; trying with those at hand"
  wanted=
  posix=
  for package in $(missing | column 1); do
    if [ "$package" = lua-posix ] && ! serves_lua54 lua-posix; then
      posix=next
    else
      wanted="$wanted $package"
    fi
  done
  if [ -n "$wanted" ]; then
    say "installing:$wanted"
    # shellcheck disable=SC2086 # a list of names
    quietly apt --no-install-recommends install $wanted || return 1
  fi
  if [ -n "$posix" ] && ! has_module posix; then
    say "installing: lua-posix, of the next Debian release (this one's has no Lua 5.4 build)"
    lua_posix_of_next_release || say "that did not work"
  fi
}

# What the system's packages could not give and LuaRocks may: Lua modules only.
install_with_luarocks() {
  rocks=$(missing | column 2)
  if [ -z "$rocks" ]; then return 0; fi
  if ! has_command luarocks && has_command apt-get; then
    quietly apt --no-install-recommends install luarocks || return 0
  fi
  if ! has_command luarocks; then return 0; fi
  for rock in $rocks; do
    say "installing: $rock, with LuaRocks"
    quietly as_root luarocks --lua-version=5.4 install "$rock" || say "$rock: LuaRocks could not install it"
  done
}

# What the dashboard's specs drive the browser with; `missing` knows nothing of it.
install_browser_packages() {
  case $level in run) return 0 ;; esac
  "$(dirname "$0")/../spec/browser/install.sh" || die "npm could not install what spec/browser/package.json names"
}

# ---- in order ----------------------------------------------------------------------------------------

if [ -z "$(missing)" ]; then
  install_browser_packages
  say "everything is here"
  exit 0
fi

started=$(date +%s)
as_root true
scratch=$(mktemp -d)
chmod 755 "$scratch" # apt drops to its own user to download
if ! has_command apt-get || install_with_apt; then
  install_with_luarocks
fi

left=$(missing | column 1 | tr '\n' ' ')
if [ -n "$left" ]; then
  if has_command apt-get; then
    die "still missing: ${left% } (is there a network, and do this machine's apt sources have these packages?)"
  fi
  die "this system has no apt-get; install by its own means what Debian calls: ${left% }"
fi
install_browser_packages
say "everything is here, after $(($(date +%s) - started)) s"
