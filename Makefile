# Atelier. `make help` lists what a person needs; everything that is made lands in build/ (or in var/, at run time).

PREFIX  ?= /usr/local
DESTDIR ?=
CC      ?= gcc
BUILD   ?= build
V       ?= 0
# SANITIZE=address,undefined builds into a folder of its own.
SANITIZE ?=

ifneq ($(SANITIZE),)
BUILD := build/sanitize
SANFLAGS := -fsanitize=$(SANITIZE) -fno-omit-frame-pointer -fno-sanitize-recover=all
endif
# Leaks of what lives until exit are no fault: Lua's state is closed, but libraries keep caches.
# Specs tagged #size compare resident memory, of which a sanitizer keeps what was freed.
SANENV := $(if $(SANITIZE),SPEC_EXCLUDE=size ASAN_OPTIONS=detect_leaks=0:abort_on_error=1 UBSAN_OPTIONS=print_stacktrace=1)
SERVE ?= 1
Q := $(if $(filter 1,$(V)),,@)

PKGS     := lua5.4 libcrypto libzip zlib libpq libcurl jansson libedit libmicrohttpd libseccomp
WARN     := -Wall -Wextra -Werror -Wshadow -Wundef -Wmissing-prototypes -Wstrict-prototypes -Wvla -Wwrite-strings -Wpointer-arith
CFLAGS   ?= -O2 -g
ALL_CFLAGS = -std=c11 -D_GNU_SOURCE -D_FILE_OFFSET_BITS=64 -fPIC -pthread $(WARN) $(CFLAGS) $(SANFLAGS) \
             $(shell pkg-config --cflags $(PKGS)) -DATELIER_PREFIX='"$(PREFIX)"'
LIBS      = $(shell pkg-config --libs $(PKGS)) -lm -ldl

# A native module is host/lua_NAME.c; it is linked into the program and also made as build/lib/atelier/NAME.so.
MODULES  := $(patsubst host/lua_%.c,%,$(wildcard host/lua_*.c))
OBJECTS  := $(patsubst host/%.c,$(BUILD)/obj/%.o,$(wildcard host/*.c))
SHARED   := $(patsubst %,$(BUILD)/lib/atelier/%.so,$(MODULES))
ATELIER  := $(BUILD)/atelier

.PHONY: help deps build modules demo test check bench fuzz docs install clean
help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' Makefile

deps: ## install what is missing, from the system's own package registry
	$(Q)rocks/deps.sh

build: $(ATELIER) modules ## compile the program and the native modules

modules: $(SHARED) $(BUILD)/lib/oom.so

$(BUILD)/lib/oom.so: spec/support/oom.c
	$(Q)mkdir -p $(@D)
	$(Q)$(CC) $(ALL_CFLAGS) -shared -o $@ $<

$(ATELIER): $(OBJECTS)
	$(Q)$(CC) $(SANFLAGS) -pthread -rdynamic -o $@ $^ $(LIBS)

$(BUILD)/obj/%.o: host/%.c
	$(Q)mkdir -p $(@D)
	$(Q)$(CC) $(ALL_CFLAGS) -MMD -MP -c -o $@ $<

# Each module links only what it uses: the same line as in its rockspec.
$(BUILD)/lib/atelier/%.so: $(BUILD)/obj/lua_%.o
	$(Q)mkdir -p $(@D)
	$(Q)$(CC) -shared $(SANFLAGS) -pthread -Wl,--as-needed -o $@ $< $(LIBS)

demo: ## install, build, make and open a real file for each plan (SERVE=0: and end there)
	$(Q)rocks/deps.sh run
	$(Q)$(MAKE) --no-print-directory build
	$(Q)SERVE=$(SERVE) $(ATELIER) demo

# The dependencies of the specs are many; SKIP_DEPS=1 leaves the look at them out.
test: ## install what is missing, build, run every spec
	$(Q)$(if $(SKIP_DEPS),,rocks/deps.sh test)
	$(Q)$(MAKE) --no-print-directory build
	$(Q)$(if $(SANITIZE),$(MAKE) --no-print-directory SANITIZE= modules)
	$(Q)$(SANENV) $(ATELIER) run spec/run.lua $(SPEC)

check: build ## static checks: luacheck over every Lua file
	$(Q)luacheck --quiet lua spec templates

bench: ## measure: bundles/s beside the peer and the disk, latency, memory, rendering, the jail
	$(Q)rocks/deps.sh bench
	$(Q)$(MAKE) --no-print-directory build
	$(Q)$(ATELIER) run spec/bench/run.lua $(BENCH)

fuzz: build ## fuzz the renderer and the readers, FUZZ seconds each (clang's libFuzzer)
	$(Q)spec/fuzz/run.sh $(or $(FUZZ),60)

docs: ## the API reference, into build/docs
	$(Q)mkdir -p $(BUILD)/docs
	$(Q)ldoc --config rocks/config.ld --dir $(CURDIR)/$(BUILD)/docs .

SHARE := $(DESTDIR)$(PREFIX)/share/atelier
install: $(ATELIER) ## into DESTDIR/PREFIX
	$(Q)install -d $(DESTDIR)$(PREFIX)/bin $(SHARE)
	$(Q)install -m 755 $(ATELIER) $(DESTDIR)$(PREFIX)/bin/atelier
	$(Q)rm -rf $(SHARE)/lua $(SHARE)/sql # of an older version; templates may be the operator's own
	$(Q)cp -R lua sql templates $(SHARE)/
	$(Q)install -d $(DESTDIR)$(PREFIX)/share/man/man1 $(DESTDIR)$(PREFIX)/share/bash-completion/completions \
	  $(DESTDIR)$(PREFIX)/lib/systemd/system
	$(Q)$(ATELIER) man >$(DESTDIR)$(PREFIX)/share/man/man1/atelier.1
	$(Q)$(ATELIER) completion bash >$(DESTDIR)$(PREFIX)/share/bash-completion/completions/atelier
	$(Q)sed 's|@PREFIX@|$(PREFIX)|' rocks/atelier.service >$(DESTDIR)$(PREFIX)/lib/systemd/system/atelier.service

clean: ## remove what was built (not var/, which holds data)
	rm -rf build

-include $(OBJECTS:.o=.d)
