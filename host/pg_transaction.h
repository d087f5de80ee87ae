/*
 * pg_transaction.h: conn:transaction of atelier.pg.
 *
 * Owns the order of BEGIN, the caller's function and COMMIT or ROLLBACK, each of which may yield, and what
 * becomes of the function's values. On the Lua stack: 1 the connection, 2 the function, 3 the packed call.
 */
#ifndef ATELIER_PG_TRANSACTION_H
#define ATELIER_PG_TRANSACTION_H

#include <lauxlib.h>
#include <lua.h>

#include "managed.h"
#include "pg_call.h"
#include "pg_core.h"
#include "pg_result.h"

/* The commit or rollback is over; the values of the function stand from index 4 on. */
static int finish_transaction(lua_State *L, struct pg_conn *c)
{
    int rolled_back = c->n_results > 0 && strcmp(PQcmdStatus(c->results[0]), "ROLLBACK") == 0;
    int wanted_commit = lua_toboolean(L, 3);

    pg_end(c);
    deliver_notices(L, c);
    pg_drop_results(c);
    if (lua_isboolean(L, 2)) { /* the function raised: its error is the last value */
        lua_settop(L, 4);
        return lua_error(L);
    }
    if (!wanted_commit)
        return lua_gettop(L) - 3;
    if (failed(c))
        return push_failure(L, c);
    if (rolled_back)
        return fail(L, "25P02", "transaction: a statement in it had failed, so it was rolled back");
    if (lua_gettop(L) == 3)
        lua_pushboolean(L, 1);
    return lua_gettop(L) - 3;
}

/* After the function: index 2 becomes true when it raised, 3 whether to commit, its values follow. */
static int end_transaction(lua_State *L, int raised, struct pg_conn *c, const struct pg_call *call)
{
    int top = lua_gettop(L);
    int commit = !raised && (top == 3 || lua_toboolean(L, 4));

    if (raised) {
        lua_pushboolean(L, 1);
        lua_replace(L, 2);
    }
    c->in_transaction = 0;
    lua_pushboolean(L, commit);
    lua_replace(L, 3);
    if (c->state == PG_OPEN && begin(L, c, "transaction", call) == 0)
        return sent(L, c, PQsendQuery(c->pg, commit ? "commit" : "rollback"), finish_transaction);
    lua_settop(L, top);
    if (raised)
        return lua_error(L);
    if (commit)
        return fail(L, "connection", "transaction: the connection was lost before its commit");
    return top - 3;
}

/* The context carries what COMMIT needs: the timeout, and in the lowest bit whether it yields. */
static lua_KContext pack_call(const struct pg_call *call)
{
    return (lua_KContext)(call->timeout_ms << 1 | call->yields);
}

static int transaction_called(lua_State *L, int status, lua_KContext packed)
{
    struct pg_call call = {.timeout_ms = (int64_t)packed >> 1, .yields = packed & 1};
    return end_transaction(L, status != LUA_OK && status != LUA_YIELD, lua_touserdata(L, 1), &call);
}

static int finish_begin(lua_State *L, struct pg_conn *c)
{
    lua_KContext packed = (lua_KContext)lua_tointeger(L, 3);

    pg_end(c);
    deliver_notices(L, c);
    pg_drop_results(c);
    if (failed(c))
        return push_failure(L, c);
    remember_coroutine(L, transaction_key(c));
    c->in_transaction = 1;
    lua_pushvalue(L, 2);
    lua_pushvalue(L, 1);
    return transaction_called(L, lua_pcallk(L, 1, LUA_MULTRET, 0, packed, transaction_called), packed);
}

#endif
