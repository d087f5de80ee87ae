/*
 * main.c: argv, paths, one Lua state, and into lua/cli, or into lua/daemon for a process of the service.
 *
 * Owns: where the program's Lua files are (a checkout or an installed tree), the table `atelier.host` that tells Lua
 * about it, and the process's exit code. Must not know any command: those are lua/cli/NAME.lua. A process of the service
 * has its title for a command line and nothing else, so that a list of processes shows it.
 */
#include <limits.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>

#include "alloc.h"
#include "call.h"
#include "jail.h"
#include "modules.h"

#define VERSION "0.1.0"
#define TITLE "atelier: " /* what the title of a process of the service begins with */

#ifndef ATELIER_PREFIX
#define ATELIER_PREFIX "/usr/local"
#endif

static const luaL_Reg native_modules[] = {
    {"atelier.crypto", luaopen_atelier_crypto},
    {"atelier.fs", luaopen_atelier_fs},
    {"atelier.http", luaopen_atelier_http},
    {"atelier.httpd", luaopen_atelier_httpd},
    {"atelier.jail", luaopen_atelier_jail},
    {"atelier.json", luaopen_atelier_json},
    {"atelier.line", luaopen_atelier_line},
    {"atelier.master", luaopen_atelier_master},
    {"atelier.pg", luaopen_atelier_pg},
    {"atelier.zip", luaopen_atelier_zip},
    {NULL, NULL},
};

/* ==== where things are ========================================================================= */

static int has_cli(const char *root)
{
    char path[PATH_MAX + 32];

    snprintf(path, sizeof path, "%s/lua/cli/init.lua", root);
    return access(path, R_OK) == 0;
}

static void cut_last_part(char *path)
{
    char *slash = strrchr(path, '/');
    if (slash != NULL)
        *slash = '\0';
}

/*
 * The folder that holds lua/, templates/ and sql/: a checkout above the program (build/atelier), or share/atelier
 * beside its bin/, or the prefix that it was built for. Returns 0 when none has lua/cli.
 */
static int find_root(const char *exe, char root[PATH_MAX])
{
    char up[PATH_MAX];

    snprintf(up, sizeof up, "%s", exe);
    for (int level = 0; level < 3; level++) {
        cut_last_part(up);
        snprintf(root, PATH_MAX, "%s", up);
        if (has_cli(root))
            return 1;
        if (level == 1 && snprintf(root, PATH_MAX, "%s/share/atelier", up) < PATH_MAX && has_cli(root))
            return 1;
    }
    snprintf(root, PATH_MAX, "%s", ATELIER_PREFIX "/share/atelier");
    return has_cli(root);
}

static int find_exe(char exe[PATH_MAX])
{
    ssize_t n = readlink("/proc/self/exe", exe, PATH_MAX - 1);

    exe[n > 0 ? n : 0] = '\0';
    return n > 0;
}

/* ==== the Lua state ============================================================================ */

/*
 * Our own files first, then where the system keeps Lua packages. The working directory, which Lua's defaults end
 * with, is left out: whoever starts the program in a folder must not run that folder's code.
 */
static void set_paths(lua_State *L, const char *root)
{
    lua_getglobal(L, "package");
    lua_pushfstring(L, "%s/lua/?.lua;%s/lua/?/init.lua;", root, root);
    luaL_gsub(L, luaL_gsub(L, LUA_PATH_DEFAULT, ";./?.lua", ""), ";./?/init.lua", "");
    lua_remove(L, -2);
    lua_concat(L, 2);
    lua_setfield(L, -2, "path");
    luaL_gsub(L, LUA_CPATH_DEFAULT, ";./?.so", "");
    lua_setfield(L, -2, "cpath");
    lua_pop(L, 1);
}

static void preload_modules(lua_State *L)
{
    luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_PRELOAD_TABLE);
    luaL_setfuncs(L, native_modules, 0);
    lua_pop(L, 1);
}

/***
 * What the program knows about itself.
 * @module atelier.host
 * @field root folder that holds lua/, templates/ and sql/
 * @field exe path of the running program
 * @field version of Atelier
 * @field lua version of the Lua inside
 */
static void push_host(lua_State *L, const char *exe, const char *root)
{
    lua_createtable(L, 0, 4);
    lua_pushstring(L, root);
    lua_setfield(L, -2, "root");
    lua_pushstring(L, exe);
    lua_setfield(L, -2, "exe");
    lua_pushliteral(L, VERSION);
    lua_setfield(L, -2, "version");
    lua_pushliteral(L, LUA_RELEASE);
    lua_setfield(L, -2, "lua");
}

struct start {
    int argc;
    char **argv;
    const char *exe, *root, *entry;
};

/* Runs inside call_lua: everything here may raise. Leaves the exit code. */
static int enter(lua_State *L)
{
    const struct start *start = lua_touserdata(L, 1);

    /* LUA_PATH, LUA_CPATH and LUA_INIT of whoever calls must not choose our code. */
    lua_pushboolean(L, 1);
    lua_setfield(L, LUA_REGISTRYINDEX, "LUA_NOENV");
    luaL_checkversion(L);
    luaL_openlibs(L);
    set_paths(L, start->root);
    preload_modules(L);
    luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
    push_host(L, start->exe, start->root);
    lua_setfield(L, -2, "atelier.host");
    lua_getglobal(L, "require");
    lua_pushstring(L, start->entry);
    lua_call(L, 1, 1);
    lua_getfield(L, -1, "main");
    lua_createtable(L, start->argc, 0);
    for (int i = 0; i < start->argc; i++) {
        lua_pushstring(L, start->argv[i]);
        lua_rawseti(L, -2, i);
    }
    lua_call(L, 1, 1);
    return 1;
}

/* The address sanitizer sees more where each block is malloc's own. */
static lua_State *new_state(void)
{
#if defined(__SANITIZE_ADDRESS__)
    return luaL_newstate();
#else
    return lua_newstate(pooled_alloc, NULL);
#endif
}

static int run(const struct start *start)
{
    lua_State *L = new_state();
    int code = 1;

    if (L == NULL) {
        fputs("atelier: not enough memory to start Lua\n", stderr);
        return 1;
    }
    lua_pushcfunction(L, enter);
    lua_pushlightuserdata(L, (void *)(uintptr_t)start);
    if (call_lua(L, 1, 1) == LUA_OK)
        code = (int)lua_tointeger(L, -1);
    else
        fprintf(stderr, "atelier: internal error, please report: %s\n", lua_tostring(L, -1));
    lua_settop(L, 0);
    lua_close(L);
    if (fflush(stdout) != 0 && code == 0) {
        perror("atelier: standard output");
        code = 1;
    }
    return code;
}

int main(int argc, char **argv)
{
    char exe[PATH_MAX], root[PATH_MAX];
    int is_titled = argc == 1 && strncmp(argv[0], TITLE, strlen(TITLE)) == 0;

    if (argc == 1 && strcmp(argv[0], JAIL_TITLE) == 0)
        jail_child_main();
    if (is_titled)
        prctl(PR_SET_NAME, "atelier"); /* executed as /proc/self/exe, it would be called "exe" */
    signal(SIGPIPE, SIG_IGN); /* a closed pipe or socket is an error value, not the end */
    if (!find_exe(exe) || !find_root(exe, root)) {
        fprintf(stderr, "atelier: lua/cli/init.lua not found beside the program or in " ATELIER_PREFIX
                        "/share/atelier; reinstall, or run it from its checkout\n");
        return 1;
    }
    return run(&(const struct start){
        .argc = argc, .argv = argv, .exe = exe, .root = root, .entry = is_titled ? "daemon" : "cli"});
}
