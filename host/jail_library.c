/*
 * jail_library.c: what a script finds in the jail.
 *
 * Owns: the allow list of Lua's libraries, safe forms of the functions that are not safe as they are, `require` and
 * `dofile` of sibling scripts, captured output, and what a prelude (trusted text that stands for an application) may
 * do. Must not know what any application offers.
 */
#include <stdlib.h>
#include <string.h>

#include <lauxlib.h>
#include <lualib.h>

#include "jail_state.h"

#define COROUTINE_FEE 1000 /* instructions: a new thread starts with a full count, so short ones would never be seen */
#define MAX_RESULTS 16
#define HANDLER_CALLS 200 /* of one error: as deep as a handler that fails may nest in Lua's own form */
#define MAX_UNWANTED 64
#define SEED 20230101

/*
 * What is not named here does not exist in the jail, whatever a later Lua adds. Left out, and why:
 * collectgarbage (sets the collector's pace, a long call), dofile and loadfile (files), warn (standard error),
 * string.dump (bytecode), all of io, debug and package, and of os what is not the clock.
 */
static const struct {
    const char *name;
    lua_CFunction open;
    const char *allowed;
} libraries[] = {
    {LUA_GNAME, luaopen_base,
     " assert error getmetatable ipairs load next pairs pcall print rawequal rawget rawlen rawset select setmetatable "
     "tonumber tostring type xpcall _G _VERSION "},
    {LUA_STRLIBNAME, luaopen_string,
     " byte char find format gmatch gsub len lower match pack packsize rep reverse sub unpack upper "},
    {LUA_TABLIBNAME, luaopen_table, " concat insert move pack remove sort unpack "},
    {LUA_MATHLIBNAME, luaopen_math,
     " abs acos asin atan ceil cos deg exp floor fmod huge maxinteger max mininteger min modf pi rad random randomseed "
     "sin sqrt tan tointeger type ult "},
    {LUA_UTF8LIBNAME, luaopen_utf8, " char charpattern codepoint codes len offset "},
    {LUA_COLIBNAME, luaopen_coroutine, " close create isyieldable resume running status wrap yield "},
    {LUA_OSLIBNAME, luaopen_os, " clock date difftime time "},
};

#define LIBRARIES (sizeof libraries / sizeof *libraries)

/* What Lua's libraries hold beyond the list; learnt once, taken out of each state. */
static struct {
    size_t library;
    char *name;
} unwanted[MAX_UNWANTED];
static size_t unwanted_count;

/* Lua's own forms of what is wrapped here. */
static lua_CFunction lua_load_function, lua_setmetatable_function, lua_create_function, lua_wrap_function, lua_rep_function;

/* Registry keys, by their addresses. */
static const char loaded_key, declared_key;

/* ==== safe forms =============================================================================== */

/* Text only, whatever the mode says: bytecode is not checked, and damages the interpreter. */
static int l_load(lua_State *L)
{
    if (lua_gettop(L) < 4)
        lua_settop(L, 3);
    lua_pushliteral(L, "t");
    lua_replace(L, 3);
    return lua_load_function(L);
}

/* Lua calls a result over 2 GB an error; here it is what it is, a limit. No bytes any number of times is no work. */
static int l_rep(lua_State *L)
{
    size_t size, between;
    lua_Integer n;

    luaL_checklstring(L, 1, &size);
    n = luaL_checkinteger(L, 2);
    luaL_optlstring(L, 3, "", &between);
    if (n <= 0 || size + between == 0) {
        lua_pushliteral(L, "");
        return 1;
    }
    if ((lua_Number)n * (lua_Number)(size + between) > (lua_Number)jail_run.limits.memory + (lua_Number)between
        && !(jail_run.limits.without & (JAIL_STICKY | JAIL_ALLOCATOR))) {
        jail_run.current = L;
        jail_abort(JAIL_MEMORY, "more memory than the limit allows");
    }
    return lua_rep_function(L);
}

/* Finalizers run without hooks: nothing there would be counted. One that is added later has no effect. */
static int l_setmetatable(lua_State *L)
{
    if (lua_type(L, 2) == LUA_TTABLE) {
        lua_pushliteral(L, "__gc");
        if (lua_rawget(L, 2) != LUA_TNIL)
            return luaL_error(L, "__gc is not available here");
        lua_pop(L, 1);
    }
    return lua_setmetatable_function(L);
}

/*
 * Lua calls message handlers without hooks, too. Here the handler is called once the error has been caught. As in Lua's own
 * form, what it raises itself is an error for it to handle.
 */
static int handle_error(lua_State *L, int status, lua_KContext calls)
{
    while (status != LUA_OK && status != LUA_YIELD) { /* …, false, error */
        if (calls++ == HANDLER_CALLS) {
            lua_pop(L, 1);
            lua_pushliteral(L, "error in error handling");
            break;
        }
        lua_pushvalue(L, 1);
        lua_insert(L, -2);
        status = lua_pcallk(L, 1, 1, 0, calls, handle_error);
    }
    return 2;
}

static int finish_xpcall(lua_State *L, int status, lua_KContext unused)
{
    (void)unused;
    if (status == LUA_OK || status == LUA_YIELD)
        return lua_gettop(L) - 1; /* all but the handler */
    lua_pushboolean(L, 0);
    lua_insert(L, -2);
    return handle_error(L, status, 0);
}

static int l_xpcall(lua_State *L)
{
    int n = lua_gettop(L);
    int status;

    luaL_checktype(L, 2, LUA_TFUNCTION);
    lua_pushvalue(L, 1);
    lua_rotate(L, 1, -1);      /* handler, arguments, f, f */
    lua_pop(L, 1);
    lua_insert(L, 2);          /* handler, f, arguments */
    lua_pushboolean(L, 1);
    lua_insert(L, 2);          /* handler, true, f, arguments */
    status = lua_pcallk(L, n - 2, LUA_MULTRET, 0, 0, finish_xpcall);
    return finish_xpcall(L, status, 0);
}

/* What fits is kept: the limit is a verdict, and its reader wants to see what there was. */
static void capture(const char *p, size_t n)
{
    size_t left = (size_t)jail_run.limits.output - jail_run.output_size;
    size_t fits = n < left ? n : left;

    memcpy(jail_run.output + jail_run.output_size, p, fits);
    jail_run.output_size += fits;
    if (fits < n)
        jail_abort(JAIL_OUTPUT, "more output than the limit allows");
}

static int l_print(lua_State *L)
{
    int n = lua_gettop(L);

    jail_run.current = L;
    for (int i = 1; i <= n; i++) {
        size_t size;
        const char *text = luaL_tolstring(L, i, &size);
        if (i > 1)
            capture("\t", 1);
        capture(text, size);
        lua_pop(L, 1);
    }
    capture("\n", 1);
    return 0;
}

static int l_create(lua_State *L)
{
    jail_charge(L, COROUTINE_FEE);
    return lua_create_function(L);
}

static int l_wrap(lua_State *L)
{
    jail_charge(L, COROUTINE_FEE);
    return lua_wrap_function(L);
}

/* ==== siblings ================================================================================= */

/* "a\0b" is not "a", though C would take it for that. */
static const char *check_script_name(lua_State *L)
{
    size_t size;
    const char *name = luaL_checklstring(L, 1, &size);

    luaL_argcheck(L, strlen(name) == size, 1, "a script's name has no NUL in it");
    return name;
}

/* "a.b" and "a/b" are a/b.lua, and so is "a/b.lua"; "./" ahead means nothing. */
static struct jail_script *resolve(lua_State *L, const char *name)
{
    struct jail_script *s;

    if (strncmp(name, "./", 2) == 0)
        name += 2;
    s = jail_find_script(name, strlen(name));
    if (s == NULL) {
        const char *file = lua_pushfstring(L, "%s.lua", name);
        s = jail_find_script(file, strlen(file));
    }
    if (s == NULL) {
        const char *file = lua_pushfstring(L, "%s.lua", luaL_gsub(L, name, ".", "/"));
        s = jail_find_script(file, strlen(file));
    }
    return s;
}

static int compare_names(const struct jail_script *a, const struct jail_script *b)
{
    int order = memcmp(a->name, b->name, a->name_size < b->name_size ? a->name_size : b->name_size);

    return order != 0 ? order : (a->name_size > b->name_size) - (a->name_size < b->name_size);
}

/* Of these scripts and `best`, the one that comes first after `last`; each may be NULL. */
static const struct jail_script *name_after(const struct jail_scripts *scripts, const struct jail_script *last,
                                            const struct jail_script *best)
{
    for (size_t i = 0; i < scripts->n; i++) {
        const struct jail_script *s = &scripts->list[i];

        if ((last == NULL || compare_names(s, last) > 0) && (best == NULL || compare_names(s, best) < 0))
            best = s;
    }
    return best;
}

/* The same scripts give the same message, whatever order they came in: it is compared with others. */
static int no_such_script(lua_State *L, const char *what, const char *name)
{
    enum { TOLD = 20 };
    const struct jail_script *s = NULL;
    luaL_Buffer b;

    luaL_buffinit(L, &b);
    for (int i = 0; i <= TOLD; i++) {
        s = name_after(&jail_run.shared, s, name_after(&jail_run.personal, s, NULL));
        if (s == NULL)
            break;
        luaL_addstring(&b, i > 0 ? ", " : "");
        luaL_addlstring(&b, i < TOLD ? s->name : "...", i < TOLD ? s->name_size : 3);
    }
    luaL_addstring(&b, jail_run.personal.n + jail_run.shared.n == 0 ? "none" : "");
    luaL_pushresult(&b);
    return luaL_error(L, "%s: no script '%s' here; there are: %s", what, name, lua_tostring(L, -1));
}

/*
 * A script that is being loaded and is asked for again: is it still on the stack? (If not, it failed before.) Pushes the
 * way round, as in "a.lua -> b.lua -> a.lua".
 */
static int push_cycle(lua_State *L, const char *name)
{
    lua_Debug ar;
    int depth = 0;

    lua_pushstring(L, name);
    for (int level = 1; lua_getstack(L, level, &ar) && depth < 50; level++) {
        lua_getinfo(L, "S", &ar);
        if (strcmp(ar.what, "main") != 0 || ar.source[0] != '=')
            continue;
        lua_pushfstring(L, "%s -> %s", ar.source + 1, lua_tostring(L, -1));
        lua_remove(L, -2);
        depth++;
        if (strcmp(ar.source + 1, name) == 0)
            return 1;
    }
    lua_pop(L, 1);
    return 0;
}

static void load_sibling(lua_State *L, struct jail_script *s)
{
    int status;

    jail_run.current = L;
    status = jail_load_script(L, s);
    if (status != LUA_OK)
        lua_error(L);
}

static int l_require(lua_State *L)
{
    const char *name = check_script_name(L);
    struct jail_script *s;

    lua_settop(L, 1);
    lua_rawgetp(L, LUA_REGISTRYINDEX, &loaded_key);
    lua_pushvalue(L, 1);
    /* A library, or a script by its whole name; one that is still being loaded has only its mark here. */
    if (lua_rawget(L, 2) != LUA_TNIL && !lua_islightuserdata(L, -1))
        return 1;
    s = resolve(L, name);
    if (s == NULL)
        return no_such_script(L, "require", name);
    lua_settop(L, 2);
    lua_pushlstring(L, s->name, s->name_size);
    lua_pushvalue(L, 3);
    if (lua_rawget(L, 2) == LUA_TLIGHTUSERDATA) {
        if (push_cycle(L, lua_tostring(L, 3)))
            return luaL_error(L, "require: scripts require each other: %s", lua_tostring(L, -1));
        lua_pushnil(L);
    }
    if (!lua_isnil(L, -1))
        return 1;
    lua_pushvalue(L, 3);
    lua_pushlightuserdata(L, s);
    lua_rawset(L, 2); /* being loaded */
    load_sibling(L, s);
    lua_pushvalue(L, 1);
    lua_pushvalue(L, 3);
    lua_call(L, 2, 1);
    if (lua_isnil(L, -1))
        lua_pushboolean(L, 1);
    lua_pushvalue(L, 3);
    lua_pushvalue(L, -2);
    lua_rawset(L, 2);
    lua_pushvalue(L, 3);
    return 2;
}

/* Upvalue: a folder of the application's that scripts name by its whole path; the folder below it is theirs. */
static int l_dofile(lua_State *L)
{
    const char *name = check_script_name(L);
    size_t size;
    const char *folder = lua_tolstring(L, lua_upvalueindex(1), &size);
    struct jail_script *s;

    if (folder != NULL && strncmp(name, folder, size) == 0 && name[size] == '/' && strchr(name + size + 1, '/') != NULL)
        name = strchr(name + size + 1, '/') + 1;
    s = resolve(L, name);
    if (s == NULL)
        return no_such_script(L, "dofile", name);
    lua_settop(L, 0);
    load_sibling(L, s);
    lua_call(L, 0, LUA_MULTRET);
    return lua_gettop(L);
}

/* ==== for preludes ============================================================================= */

static int l_constant(lua_State *L)
{
    int n = (int)lua_tointeger(L, lua_upvalueindex(2));

    jail_run.calls[lua_tointeger(L, lua_upvalueindex(1))]++;
    lua_settop(L, 0);
    for (int i = 0; i < n; i++)
        lua_pushvalue(L, lua_upvalueindex(3 + i));
    return n;
}

static int l_computed(lua_State *L)
{
    jail_run.calls[lua_tointeger(L, lua_upvalueindex(1))]++;
    lua_pushvalue(L, lua_upvalueindex(2));
    lua_insert(L, 1);
    lua_call(L, lua_gettop(L) - 1, LUA_MULTRET);
    return lua_gettop(L);
}

/* Names outlive the state: they are told with each run's counts. A prelude defines the same ones in the same order each time. */
static size_t index_of(lua_State *L, const char *name)
{
    for (size_t i = 0; i < jail_run.ncalls; i++)
        if (strcmp(jail_run.call_names[i], name) == 0)
            return i;
    if (jail_run.ncalls == JAIL_MAX_CALLS)
        luaL_error(L, "more than %d functions are defined", JAIL_MAX_CALLS);
    jail_run.call_names[jail_run.ncalls] = strdup(name);
    if (jail_run.call_names[jail_run.ncalls] == NULL)
        luaL_error(L, "not enough memory");
    return jail_run.ncalls++;
}

/* define(name, f) or define(name, result…): a global function whose calls are counted. Upvalue: the next index. */
static int l_define(lua_State *L)
{
    const char *name = luaL_checkstring(L, 1);
    lua_Integer next = lua_tointeger(L, lua_upvalueindex(1));
    int n = lua_gettop(L) - 1;
    size_t index;

    luaL_argcheck(L, strlen(name) <= JAIL_MAX_NAME, 1, "too long");
    luaL_argcheck(L, n <= MAX_RESULTS, 2, "too many results");
    if ((size_t)next < jail_run.ncalls && strcmp(jail_run.call_names[next], name) == 0)
        index = (size_t)next;
    else
        index = index_of(L, name);
    lua_pushinteger(L, (lua_Integer)index + 1);
    lua_replace(L, lua_upvalueindex(1));
    lua_pushinteger(L, (lua_Integer)index);
    lua_insert(L, 2);
    if (n == 1 && lua_isfunction(L, 3)) {
        lua_pushcclosure(L, l_computed, 2);
    } else {
        lua_pushinteger(L, n);
        lua_insert(L, 3);
        lua_pushcclosure(L, l_constant, n + 2);
    }
    lua_setglobal(L, name);
    return 0;
}

static int l_unknown_global(lua_State *L)
{
    lua_rawgetp(L, LUA_REGISTRYINDEX, &declared_key);
    lua_pushvalue(L, 2);
    if (lua_rawget(L, -2) != LUA_TNIL) {
        lua_pushnil(L);
        return 1;
    }
    if (lua_type(L, 2) == LUA_TSTRING)
        return luaL_error(L, "unknown global '%s'", lua_tostring(L, 2));
    return luaL_error(L, "unknown global (its name is a %s value)", luaL_typename(L, 2));
}

static int l_new_global(lua_State *L)
{
    lua_rawgetp(L, LUA_REGISTRYINDEX, &declared_key);
    lua_pushvalue(L, 2);
    lua_pushboolean(L, 1);
    lua_rawset(L, -3);
    lua_settop(L, 3);
    lua_rawset(L, 1);
    return 0;
}

/* strict(): from now on, reading a global that was never assigned is an error. */
static int l_strict(lua_State *L)
{
    lua_newtable(L);
    lua_rawsetp(L, LUA_REGISTRYINDEX, &declared_key);
    lua_pushglobaltable(L);
    lua_createtable(L, 0, 2);
    lua_pushcfunction(L, l_unknown_global);
    lua_setfield(L, -2, "__index");
    lua_pushcfunction(L, l_new_global);
    lua_setfield(L, -2, "__newindex");
    lua_setmetatable(L, -2);
    return 0;
}

/* folder(path): where the application keeps scripts; `dofile` finds siblings below it. */
static int l_folder(lua_State *L)
{
    luaL_checkstring(L, 1);
    lua_settop(L, 1);
    lua_pushcclosure(L, l_dofile, 1);
    lua_setglobal(L, "dofile");
    return 0;
}

static void push_prelude_functions(lua_State *L)
{
    lua_createtable(L, 0, 3);
    lua_pushinteger(L, 0);
    lua_pushcclosure(L, l_define, 1);
    lua_setfield(L, -2, "define");
    lua_pushcfunction(L, l_strict);
    lua_setfield(L, -2, "strict");
    lua_pushcfunction(L, l_folder);
    lua_setfield(L, -2, "folder");
}

/* ==== a state ================================================================================== */

static void open_libraries(lua_State *L)
{
    lua_createtable(L, 0, LIBRARIES + 8); /* what `require` has */
    for (size_t i = 0; i < LIBRARIES; i++) {
        lua_pushcfunction(L, libraries[i].open);
        lua_pushstring(L, libraries[i].name);
        lua_call(L, 1, 1);
        lua_pushvalue(L, -1);
        lua_setglobal(L, libraries[i].name);
        lua_setfield(L, -2, libraries[i].name);
    }
    lua_rawsetp(L, LUA_REGISTRYINDEX, &loaded_key);
}

static int is_allowed(const char *list, const char *name)
{
    size_t n = strlen(name);

    for (const char *at = list; (at = strstr(at, name)) != NULL; at += n)
        if (at[-1] == ' ' && at[n] == ' ')
            return 1;
    return 0;
}

static int is_library(const char *name)
{
    for (size_t i = 0; i < LIBRARIES; i++)
        if (strcmp(libraries[i].name, name) == 0)
            return 1;
    return 0;
}

static lua_CFunction function_of(lua_State *L, const char *library, const char *name)
{
    lua_CFunction f;

    lua_getglobal(L, library);
    lua_getfield(L, -1, name);
    f = lua_tocfunction(L, -1);
    lua_pop(L, 2);
    if (f == NULL)
        luaL_error(L, "this Lua has no %s.%s", library, name);
    return f;
}

int jail_library_learn(lua_State *L)
{
    open_libraries(L);
    for (size_t i = 0; i < LIBRARIES; i++) {
        lua_getglobal(L, libraries[i].name);
        for (lua_pushnil(L); lua_next(L, -2); lua_pop(L, 1)) {
            const char *name = lua_tostring(L, -2);
            if (is_allowed(libraries[i].allowed, name) || (i == 0 && is_library(name)))
                continue;
            if (unwanted_count == MAX_UNWANTED || (unwanted[unwanted_count].name = strdup(name)) == NULL)
                return luaL_error(L, "this Lua has too many functions that are not known");
            unwanted[unwanted_count++].library = i;
        }
        lua_pop(L, 1);
    }
    lua_load_function = function_of(L, LUA_GNAME, "load");
    lua_setmetatable_function = function_of(L, LUA_GNAME, "setmetatable");
    lua_create_function = function_of(L, LUA_COLIBNAME, "create");
    lua_wrap_function = function_of(L, LUA_COLIBNAME, "wrap");
    lua_rep_function = function_of(L, LUA_STRLIBNAME, "rep");
    return 0;
}

static void remove_unwanted(lua_State *L)
{
    for (size_t i = 0; i < unwanted_count; i++) {
        lua_getglobal(L, libraries[unwanted[i].library].name);
        lua_pushnil(L);
        lua_setfield(L, -2, unwanted[i].name);
        lua_pop(L, 1);
    }
}

static void set_safe_forms(lua_State *L)
{
    static const luaL_Reg base[] = {
        {"dofile", l_dofile}, {"load", l_load}, {"print", l_print}, {"require", l_require}, {NULL, NULL},
    };
    static const luaL_Reg threads[] = {{"create", l_create}, {"wrap", l_wrap}, {NULL, NULL}};

    lua_pushglobaltable(L);
    luaL_setfuncs(L, base, 0);
    if (!(jail_run.limits.without & JAIL_FINALIZERS)) {
        lua_pushcfunction(L, l_setmetatable);
        lua_setfield(L, -2, "setmetatable");
    }
    if (!(jail_run.limits.without & JAIL_HANDLERS)) {
        lua_pushcfunction(L, l_xpcall);
        lua_setfield(L, -2, "xpcall");
    }
    lua_pop(L, 1);
    lua_getglobal(L, LUA_STRLIBNAME);
    lua_pushcfunction(L, l_rep);
    lua_setfield(L, -2, "rep");
    lua_pop(L, 1);
    lua_getglobal(L, LUA_COLIBNAME);
    luaL_setfuncs(L, threads, 0);
    lua_pop(L, 1);
}

/* Runs differ in their scripts alone: Lua would take the seed from the clock. */
static void seed(lua_State *L)
{
    lua_getglobal(L, LUA_MATHLIBNAME);
    lua_getfield(L, -1, "randomseed");
    lua_pushinteger(L, SEED);
    lua_call(L, 1, 0);
    lua_pop(L, 1);
}

void jail_library_open(lua_State *L)
{
    open_libraries(L);
    seed(L);
    remove_unwanted(L);
    set_safe_forms(L);
    push_prelude_functions(L);
}
