/*
 * harness.c: libFuzzer around a Lua state. FUZZ_TARGET names the oracle, spec/fuzz/target_NAME.lua, a
 * function of the input's bytes; whatever it raises is a finding. The native modules under test are linked
 * in, with sanitizers.
 *
 * Branches of Lua code are invisible to the compiler's coverage, so a line hook maps each pair of lines that
 * follow one another in lua/ into libFuzzer's extra counters, and the module fuzz's feature(text) lets an
 * oracle add what LPeg or Lua's parser decided. Knows nothing of what is tested.
 */
#include <lauxlib.h>
#include <lualib.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "modules.h"

#define COUNTERS 65536u
#define MEMORY ((size_t)512 << 20)
#define UNCOVERED __attribute__((no_sanitize("coverage"))) /* runs for every line of Lua */

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint8_t counters[COUNTERS] __attribute__((section("__libfuzzer_extra_counters")));
static lua_State *state;
static uint32_t previous_line;

UNCOVERED static uint32_t mix(uint32_t hash, const char *text, size_t length)
{
    for (size_t i = 0; i < length; i++)
        hash = (hash ^ (uint8_t)text[i]) * 16777619u;
    return hash;
}

UNCOVERED static void count(uint32_t hash)
{
    uint8_t *counter = &counters[(hash ^ hash >> 16) % COUNTERS];
    if (*counter < UINT8_MAX)
        (*counter)++;
}

/* Only files of lua/ count: neither the oracle nor the chunks that it loads. */
UNCOVERED static void on_line(lua_State *L, lua_Debug *ar)
{
    static const char *source; /* of the last line; those of lua/ are never freed */
    static uint32_t hash;
    lua_getinfo(L, "S", ar);
    if (ar->source != source) {
        source = ar->source;
        hash = strncmp(source, "@lua/", 5) == 0 ? mix(2166136261u, source, ar->srclen) : 0;
    }
    if (hash == 0)
        return;
    uint32_t line = hash ^ (uint32_t)ar->currentline * 2654435761u;
    count(line ^ previous_line);
    previous_line = line >> 1;
}

static int l_feature(lua_State *L)
{
    size_t length;
    const char *text = luaL_checklstring(L, 1, &length);
    count(mix(0x9747b28cu, text, length));
    return 0;
}

/* An oracle stops the hook while it judges: its own lines are many and count nothing. */
static int l_watch(lua_State *L)
{
    bool on = lua_toboolean(L, 1);
    lua_sethook(L, on ? on_line : NULL, on ? LUA_MASKLINE : 0, 0);
    return 0;
}

/* An allocator with a ceiling: a runaway oracle or module ends as an error in Lua, not as the machine's. */
UNCOVERED static void *limited(void *opaque, void *block, size_t old, size_t size)
{
    size_t *used = opaque;
    if (!block)
        old = 0;
    if (size == 0) {
        free(block);
        *used -= old;
        return NULL;
    }
    if (*used - old + size > MEMORY)
        return NULL;
    void *fresh = realloc(block, size);
    if (fresh)
        *used += size - old;
    return fresh;
}

static int traceback(lua_State *L)
{
    luaL_traceback(L, L, luaL_tolstring(L, 1, NULL), 1);
    return 1;
}

static void die(lua_State *L, const char *what)
{
    fprintf(stderr, "FINDING (%s): %s\n", what, lua_tostring(L, -1));
    abort();
}

static void preload(lua_State *L, const char *name, lua_CFunction open)
{
    luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_PRELOAD_TABLE);
    lua_pushcfunction(L, open);
    lua_setfield(L, -2, name);
    lua_pop(L, 1);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    static size_t used;
    const char *target = getenv("FUZZ_TARGET");
    (void)argc;
    (void)argv;
    state = lua_newstate(limited, &used);
    luaL_openlibs(state);
    preload(state, "atelier.crypto", luaopen_atelier_crypto);
    preload(state, "atelier.json", luaopen_atelier_json);
    preload(state, "atelier.zip", luaopen_atelier_zip);
    lua_newtable(state);
    lua_pushcfunction(state, l_feature);
    lua_setfield(state, -2, "feature");
    lua_pushcfunction(state, l_watch);
    lua_setfield(state, -2, "watch");
    luaL_getsubtable(state, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
    lua_insert(state, -2);
    lua_setfield(state, -2, "fuzz");
    lua_settop(state, 0);
    if (luaL_dostring(state, "package.path = 'lua/?.lua;lua/?/init.lua;./?.lua;' .. package.path"))
        die(state, "start");
    lua_pushcfunction(state, traceback);
    lua_pushfstring(state, "spec/fuzz/target_%s.lua", target ? target : "lua");
    if (luaL_loadfile(state, lua_tostring(state, -1)) || lua_pcall(state, 0, 1, 1))
        die(state, "start");
    lua_remove(state, 2);
    lua_sethook(state, on_line, LUA_MASKLINE, 0);
    return 0;
}

/* The stack holds the message handler and the oracle. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    previous_line = 0;
    lua_pushvalue(state, 2);
    lua_pushlstring(state, (const char *)data, size);
    if (lua_pcall(state, 1, 0, 1))
        die(state, "oracle");
    return 0;
}
