/*
 * call.c: the only place of the program where Lua is entered.
 *
 * Owns the traceback handler and the rule that an error, of whatever type, becomes one string for a person.
 * Must not know who calls.
 */
#include "call.h"

#include <assert.h>

#include <lauxlib.h>

/*
 * Turns any error object into text and appends the traceback. An object without __tostring is named by its type;
 * one whose __tostring fails ends as LUA_ERRERR, which call_lua reports as such.
 */
static int with_traceback(lua_State *L)
{
    const char *text = lua_tostring(L, 1);

    if (text == NULL && luaL_callmeta(L, 1, "__tostring") && lua_type(L, -1) == LUA_TSTRING)
        text = lua_tostring(L, -1);
    if (text == NULL)
        text = lua_pushfstring(L, "(error object is a %s value)", luaL_typename(L, 1));
    luaL_traceback(L, L, text, 1);
    return 1;
}

int call_lua(lua_State *L, int nargs, int nresults)
{
    int base = lua_gettop(L) - nargs;
    int status;

    assert(base > 0 && "call_lua: no function below the arguments");
    lua_pushcfunction(L, with_traceback);
    lua_insert(L, base);
    status = lua_pcall(L, nargs, nresults, base);
    lua_remove(L, base);
    if (status != LUA_OK) {
        assert(lua_gettop(L) == base && "call_lua: an error leaves one value");
        if (lua_type(L, -1) != LUA_TSTRING) {
            lua_pop(L, 1);
            lua_pushliteral(L, "(an error happened while an error was handled)");
        }
    } else {
        assert((nresults == LUA_MULTRET || lua_gettop(L) == base + nresults - 1) && "call_lua: stack out of balance");
    }
    return status;
}
