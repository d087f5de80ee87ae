/***
 * Allocation failure at each step: runs a function with its 1st, 2nd, 3rd … Lua allocation failing, until it succeeds.
 * Whatever leaks or crashes on the way is for the sanitizers and `live_handles` to see.
 * @module oom
 */
#include <stdlib.h>

#include <lauxlib.h>
#include <lua.h>

#define MAX_STEPS 100000

int luaopen_oom(lua_State *L);

struct budget {
    lua_Alloc real;
    void *real_ud;
    long left;  /* allocations that still succeed */
    int failed; /* whether one was refused */
};

/* Refuses every growth once the budget is spent: Lua retries after an emergency collection. */
static void *stingy(void *ud, void *ptr, size_t osize, size_t nsize)
{
    struct budget *b = ud;
    int grows = nsize > 0 && (ptr == NULL || nsize > osize);

    if (grows && b->left-- <= 0) {
        b->failed = 1;
        return NULL;
    }
    return b->real(b->real_ud, ptr, osize, nsize);
}

/***
 * Runs `f` until it succeeds with enough memory.
 * @function run
 * @tparam function f called without arguments; must be safe to call again
 * @treturn integer how many allocations one run makes, plus one
 * @raise any error of `f` that is not the want of memory
 */
static int l_run(lua_State *L)
{
    struct budget b;

    luaL_checktype(L, 1, LUA_TFUNCTION);
    b.real = lua_getallocf(L, &b.real_ud);
    for (long step = 0; step < MAX_STEPS; step++) {
        int status;
        b.left = step;
        b.failed = 0;
        lua_settop(L, 1);
        lua_pushvalue(L, 1);
        lua_setallocf(L, stingy, &b);
        status = lua_pcall(L, 0, 0, 0);
        lua_setallocf(L, b.real, b.real_ud);
        lua_gc(L, LUA_GCCOLLECT);
        if (!b.failed) {
            if (status != LUA_OK)
                return lua_error(L);
            lua_pushinteger(L, step + 1);
            return 1;
        }
        if (status == LUA_ERRRUN)
            return lua_error(L);
    }
    return luaL_error(L, "oom.run: still short of memory after %d steps", MAX_STEPS);
}

static const luaL_Reg oom_funcs[] = {
    {"run", l_run},
    {NULL, NULL},
};

int luaopen_oom(lua_State *L)
{
    luaL_newlib(L, oom_funcs);
    return 1;
}
