/*
 * managed.h: what every native module shares.
 *
 * Owns: short-lived C objects that a Lua error cannot leak, the error triple `nil, message, code`,
 * strict option tables, classes, and the count of live handles. Header-only, so that a module also builds
 * alone as a rock. Must not know any module.
 */
#ifndef ATELIER_MANAGED_H
#define ATELIER_MANAGED_H

#include <errno.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <lauxlib.h>
#include <lua.h>

#if defined(__GNUC__)
#define MANAGED_UNUSED __attribute__((unused))
#define MANAGED_PRINTF(f, a) __attribute__((format(printf, f, a)))
#else
#define MANAGED_UNUSED
#define MANAGED_PRINTF(f, a)
#endif

/* ==== short-lived C objects ==================================================================== */

#define MANAGED_MT "atelier.managed"

/* A C pointer that Lua's collector frees when an error unwinds past its owner. */
struct managed {
    void *p;               /* NULL until acquired, and again once released */
    void (*destroy)(void *);
};

/* Frees now; harmless when nothing is held. */
MANAGED_UNUSED static void managed_free(struct managed *m)
{
    void *p = m->p;
    m->p = NULL;
    if (p != NULL)
        m->destroy(p);
}

/* Gives the pointer up to the caller, who then owns it. */
MANAGED_UNUSED static void *managed_release(struct managed *m)
{
    void *p = m->p;
    m->p = NULL;
    return p;
}

MANAGED_UNUSED static int managed_gc(lua_State *L)
{
    managed_free((struct managed *)luaL_checkudata(L, 1, MANAGED_MT));
    return 0;
}

/*
 * Pushes an empty holder. Acquire only after this call, straight into `->p`: nothing between the two
 * may raise. `destroy` is never called with NULL.
 */
MANAGED_UNUSED static struct managed *managed_new(lua_State *L, void (*destroy)(void *))
{
    struct managed *m = (struct managed *)lua_newuserdatauv(L, sizeof *m, 0);
    m->p = NULL;
    m->destroy = destroy;
    /* Ask for the field that is set last: want of memory may have left a half-made metatable behind. */
    luaL_newmetatable(L, MANAGED_MT);
    if (lua_getfield(L, -1, "__close") == LUA_TNIL) {
        lua_pushcfunction(L, managed_gc);
        lua_setfield(L, -3, "__gc");
        lua_pushcfunction(L, managed_gc);
        lua_setfield(L, -3, "__close");
    }
    lua_pop(L, 1);
    lua_setmetatable(L, -2);
    return m;
}

/* ==== the world's failures: nil, message, code ================================================= */

/* Returns the error triple; `code` is a short stable word. Form of the text: "operation: object: reason". */
MANAGED_UNUSED MANAGED_PRINTF(3, 4) static int fail(lua_State *L, const char *code, const char *fmt, ...)
{
    char text[1024]; /* long library texts are cut: a message is for a person */
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    luaL_pushfail(L);
    lua_pushstring(L, text);
    lua_pushstring(L, code);
    return 3;
}

/* The triple for an errno; its code is the symbol, as in "ENOENT". `err` is saved by the caller at once. */
MANAGED_UNUSED static int fail_errno(lua_State *L, int err, const char *operation, const char *object)
{
    const char *name = strerrorname_np(err);
    return fail(L, name != NULL ? name : "EUNKNOWN", "%s: %s: %s", operation, object, strerror(err));
}

/* ==== option tables ============================================================================ */

/*
 * Raises when the table at `arg` has a key that `names` (NULL-terminated) lacks, naming the key, or has a
 * metatable: an __index could hide keys from this check, and answer each time with another string, which
 * nothing keeps alive. None and nil pass as an empty table. Returns whether there is a table.
 */
MANAGED_UNUSED static int check_options(lua_State *L, int arg, const char *const names[])
{
    if (lua_isnoneornil(L, arg))
        return 0;
    luaL_checktype(L, arg, LUA_TTABLE);
    if (lua_getmetatable(L, arg))
        return luaL_argerror(L, arg, "a table of options has no metatable");
    for (lua_pushnil(L); lua_next(L, arg); lua_pop(L, 1)) {
        size_t i = 0;
        if (lua_type(L, -2) != LUA_TSTRING)
            return luaL_argerror(L, arg, "option names must be strings");
        while (names[i] != NULL && strcmp(names[i], lua_tostring(L, -2)) != 0)
            i++;
        if (names[i] == NULL)
            return luaL_argerror(L, arg, lua_pushfstring(L, "unknown option '%s'", lua_tostring(L, -2)));
    }
    return 1;
}

MANAGED_UNUSED static int option_error(lua_State *L, int arg, const char *name, const char *expected)
{
    return luaL_argerror(L, arg, lua_pushfstring(L, "option '%s' must be %s, not %s", name, expected,
                                                 luaL_typename(L, -1)));
}

/* The value of an integer option, or `fallback` when it is absent. `arg` may be none. */
MANAGED_UNUSED static lua_Integer option_integer(lua_State *L, int arg, const char *name, lua_Integer fallback)
{
    lua_Integer n = fallback;
    int exact = 1;

    if (lua_isnoneornil(L, arg))
        return fallback;
    if (lua_getfield(L, arg, name) != LUA_TNIL) {
        if (lua_type(L, -1) == LUA_TNUMBER)
            n = lua_tointegerx(L, -1, &exact);
        if (lua_type(L, -1) != LUA_TNUMBER || !exact)
            option_error(L, arg, name, "an integer");
    }
    lua_pop(L, 1);
    return n;
}

MANAGED_UNUSED static lua_Number option_number(lua_State *L, int arg, const char *name, lua_Number fallback)
{
    lua_Number n = fallback;

    if (lua_isnoneornil(L, arg))
        return fallback;
    if (lua_getfield(L, arg, name) != LUA_TNIL) {
        if (lua_type(L, -1) != LUA_TNUMBER)
            option_error(L, arg, name, "a number");
        n = lua_tonumber(L, -1);
    }
    lua_pop(L, 1);
    return n;
}

MANAGED_UNUSED static int option_boolean(lua_State *L, int arg, const char *name, int fallback)
{
    int b = fallback;

    if (lua_isnoneornil(L, arg))
        return fallback;
    if (lua_getfield(L, arg, name) != LUA_TNIL) {
        if (lua_type(L, -1) != LUA_TBOOLEAN)
            option_error(L, arg, name, "a boolean");
        b = lua_toboolean(L, -1);
    }
    lua_pop(L, 1);
    return b;
}

/*
 * A string option of a checked table, or NULL. The pointer lives as long as the option table keeps the value, so keep the
 * table on the stack. Never converts: a number is an error, lest the pointer dangle.
 */
MANAGED_UNUSED static const char *option_string(lua_State *L, int arg, const char *name, size_t *len)
{
    const char *s = NULL;

    if (len != NULL)
        *len = 0;
    if (lua_isnoneornil(L, arg))
        return NULL;
    if (lua_getfield(L, arg, name) != LUA_TNIL) {
        if (lua_type(L, -1) != LUA_TSTRING)
            option_error(L, arg, name, "a string");
        s = lua_tolstring(L, -1, len);
    }
    lua_pop(L, 1);
    return s;
}

/* ==== classes ================================================================================== */

/* A metatable under a name, which scripts do not get to see. Without `methods` its objects have none. */
MANAGED_UNUSED static void managed_class(lua_State *L, const char *name, const luaL_Reg *meta, const luaL_Reg *methods)
{
    luaL_newmetatable(L, name);
    luaL_setfuncs(L, meta, 0);
    if (methods != NULL) {
        lua_newtable(L);
        luaL_setfuncs(L, methods, 0);
        lua_setfield(L, -2, "__index");
    }
    lua_pushboolean(L, 0);
    lua_setfield(L, -2, "__metatable");
    lua_pop(L, 1);
}

/* ==== live handles ============================================================================= */

/*
 * Each module counts the native handles that it holds open; `live_handles()` of the module reports it,
 * and the specs assert that it is back to zero.
 */
static lua_Integer managed_live MANAGED_UNUSED;

MANAGED_UNUSED static int l_live_handles(lua_State *L)
{
    lua_pushinteger(L, managed_live);
    return 1;
}

#endif
