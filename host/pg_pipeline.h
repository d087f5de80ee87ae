/*
 * pg_pipeline.h: the statements of a pipeline, as they are read from Lua and sent.
 *
 * Owns their list: one block for all of them, and one for all their parameters. Must not know results.
 */
#ifndef ATELIER_PG_PIPELINE_H
#define ATELIER_PG_PIPELINE_H

#include <string.h>

#include <lauxlib.h>
#include <lua.h>
#include <libpq-fe.h>

#include "pg_core.h"
#include "pg_params.h"

#define PG_PIPELINE_LIST 2 /* where the list is on the stack */

struct pg_piped {
    const char *text; /* SQL, or the name of a prepared statement */
    int prepared;
    struct pg_params params;
};

/*
 * Reads item i of the list and leaves its parameters, or nil, on the top. Raw access: no metamethod runs. Finalisers may
 * with what is allocated, so nothing is anchored for good before pg_bind_item.
 */
static void pg_read_item(lua_State *L, int i, struct pg_piped *item)
{
    int at = lua_gettop(L) + 1;

    if (lua_rawgeti(L, PG_PIPELINE_LIST, i + 1) != LUA_TTABLE)
        luaL_error(L, "pipeline: statement %d is a %s, not a table", i + 1, luaL_typename(L, at));
    lua_pushliteral(L, "prepared");
    item->prepared = lua_rawget(L, at) != LUA_TNIL;
    if (!item->prepared)
        lua_rawgeti(L, at, 1);
    if (lua_type(L, -1) != LUA_TSTRING)
        luaL_error(L, "pipeline: statement %d needs SQL as its first value, or 'prepared'", i + 1);
    item->text = lua_tostring(L, -1);
    if (strlen(item->text) != lua_rawlen(L, -1))
        luaL_error(L, "pipeline: statement %d contains a NUL byte", i + 1);
    lua_rawgeti(L, at, item->prepared ? 1 : 2);
    if (!lua_isnil(L, -1) && !lua_istable(L, -1))
        luaL_error(L, "pipeline: the parameters of statement %d are a %s, not a table", i + 1, luaL_typename(L, -1));
    lua_replace(L, at);
    lua_settop(L, at);
}

/*
 * Binds item i and its parameters for good. Allocates nothing, so no Lua code runs from the first item on until all are
 * sent; what was counted before may have been changed, though, by a finaliser. `key` is where "prepared" is on the stack.
 */
static void pg_bind_item(lua_State *L, int i, int key, struct pg_piped *item)
{
    int at = lua_gettop(L) + 1, same;

    same = lua_rawgeti(L, PG_PIPELINE_LIST, i + 1) == LUA_TTABLE;
    if (same && item->prepared) {
        lua_pushvalue(L, key);
        lua_rawget(L, at);
    } else if (same) {
        lua_rawgeti(L, at, 1);
    }
    same = same && lua_type(L, -1) == LUA_TSTRING && lua_tostring(L, -1) == item->text;
    if (same && item->params.n > 0)
        same = lua_rawgeti(L, at, item->prepared ? 1 : 2) == LUA_TTABLE;
    if (!same)
        luaL_error(L, "pipeline: statement %d was changed while it was read", i + 1);
    if (item->params.n > 0)
        pg_bind_params(L, &item->params, lua_gettop(L));
    lua_settop(L, at - 1);
}

/* Pushes two blocks that keep the statements: their list, and their parameters. */
static struct pg_piped *pg_read_pipeline(lua_State *L, int n)
{
    struct pg_piped *items = lua_newuserdatauv(L, (size_t)n * sizeof *items, 0);
    size_t params = 0;
    char *block;
    int key;

    for (int i = 0; i < n; i++) {
        pg_read_item(L, i, &items[i]);
        items[i].params.n = lua_isnil(L, -1) ? 0 : pg_count_params(L, lua_gettop(L));
        params += (size_t)items[i].params.n;
        lua_pop(L, 1);
    }
    lua_pushliteral(L, "prepared");
    key = lua_gettop(L);
    block = lua_newuserdatauv(L, params * PG_PARAM_SIZE, 0);
    for (int i = 0; i < n; i++) {
        pg_place_params(&items[i].params, items[i].params.n, block);
        block += (size_t)items[i].params.n * PG_PARAM_SIZE;
        pg_bind_item(L, i, key, &items[i]);
    }
    return items;
}

static int pg_send_prepared(PGconn *pg, const char *name, const struct pg_params *p)
{
    return PQsendQueryPrepared(pg, name, p->n, p->values, p->lengths, p->formats, 0);
}

/* Queues all statements and the one Sync that makes them one transaction. No Lua in here: all or nothing. */
static int pg_send_pipeline(struct pg_conn *c, const struct pg_piped *items, int n)
{
    if (!PQenterPipelineMode(c->pg))
        return 0;
    c->op.pipeline = 1;
    for (int i = 0; i < n; i++) {
        const struct pg_params *p = &items[i].params;
        int ok = items[i].prepared ? pg_send_prepared(c->pg, items[i].text, p)
                                   : PQsendQueryParams(c->pg, items[i].text, p->n, p->types, p->values, p->lengths,
                                                       p->formats, 0);
        if (!ok)
            return 0;
    }
    return PQpipelineSync(c->pg);
}

#endif
