/*
 * pg_copy.h: COPY of atelier.pg, both ways.
 *
 * Owns the sources and sinks: whose turn it is, and what happens when one raises. Memory stays constant: a
 * piece is fetched when the one before is on its way. On the Lua stack: 1 the connection, 2 the SQL, 3 the
 * source or sink, 4 a counter, 5 the piece, or the error that a source or sink raised.
 */
#ifndef ATELIER_PG_COPY_H
#define ATELIER_PG_COPY_H

#include <lauxlib.h>
#include <lua.h>

#include "managed.h"
#include "pg_call.h"
#include "pg_core.h"
#include "pg_result.h"

/* ==== in ======================================================================================== */

enum { COPY_SOURCE = 3, COPY_INDEX = 4, COPY_PIECE = 5, COPY_CHUNK = 65536 };

static void check_file(lua_State *L, const char *expected)
{
    const luaL_Stream *file = luaL_testudata(L, COPY_SOURCE, LUA_FILEHANDLE);

    luaL_argexpected(L, file != NULL, COPY_SOURCE, expected);
    luaL_argcheck(L, file->closef != NULL, COPY_SOURCE, "file is closed");
}

/* Index 3 is a string, a function, a list of strings or an open file. */
static void check_source(lua_State *L)
{
    int type = lua_type(L, COPY_SOURCE);

    if (type != LUA_TSTRING && type != LUA_TFUNCTION && type != LUA_TTABLE)
        check_file(L, "string, function, list of strings or file");
}

/* Reads a chunk of the file at 3 on the top of the stack; nil at its end. Raises when it cannot be read. */
static int read_chunk(lua_State *L)
{
    const luaL_Stream *file = luaL_checkudata(L, 1, LUA_FILEHANDLE);
    luaL_Buffer b;
    char *to = luaL_buffinitsize(L, &b, COPY_CHUNK);
    size_t n;

    if (file->closef == NULL) /* since the COPY began: by another coroutine, or a finaliser */
        return luaL_error(L, "the source cannot be read: closed");
    n = fread(to, 1, COPY_CHUNK, file->f);
    if (n == 0 && ferror(file->f))
        return luaL_error(L, "the source cannot be read: %s", strerror(errno));
    luaL_pushresultsize(&b, n);
    if (n == 0)
        lua_pushnil(L);
    return 1;
}

/* Pushes the function that gives the next piece, and its arguments; returns how many. */
static int push_source(lua_State *L)
{
    if (lua_isfunction(L, COPY_SOURCE)) {
        lua_pushvalue(L, COPY_SOURCE);
        return 0;
    }
    lua_pushcfunction(L, read_chunk);
    lua_pushvalue(L, COPY_SOURCE);
    return 1;
}

/*
 * Replaces index 5 by the next piece: a string, or nil at the end. Returns 0 with the error value there
 * when the source raised or gave something else.
 */
static int next_piece(lua_State *L, struct pg_conn *c)
{
    lua_Integer i = lua_tointeger(L, COPY_INDEX);
    int ok = LUA_OK;

    lua_pushinteger(L, i + 1);
    lua_replace(L, COPY_INDEX);
    if (lua_type(L, COPY_SOURCE) == LUA_TSTRING) {
        if (i == 0)
            lua_pushvalue(L, COPY_SOURCE);
        else
            lua_pushnil(L);
    } else if (lua_istable(L, COPY_SOURCE)) {
        lua_rawgeti(L, COPY_SOURCE, i + 1);
    } else {
        c->op.calling = 1;
        ok = lua_pcall(L, push_source(L), 1, 0);
        c->op.calling = 0;
    }
    lua_replace(L, COPY_PIECE);
    if (ok == LUA_OK && lua_type(L, COPY_PIECE) != LUA_TSTRING && !lua_isnil(L, COPY_PIECE)) {
        lua_pushfstring(L, "copy_in: the source gave a %s, not a string", luaL_typename(L, COPY_PIECE));
        lua_replace(L, COPY_PIECE);
        return 0;
    }
    return ok == LUA_OK;
}

/* A source or sink raised: the COPY is over, and so is the call, with that error (at index 5). */
static int finish_raised(lua_State *L, struct pg_conn *c)
{
    pg_end(c);
    pg_drop_results(c);
    lua_settop(L, COPY_PIECE);
    return lua_error(L);
}

/* Stops a COPY from this side: the server is told, the rest is read and dropped. */
static int give_up_copy(struct pg_conn *c, int (*finish)(lua_State *, struct pg_conn *))
{
    pg_give_up(c);
    pg_stage(c, PG_BUSY, finish);
    return PG_AGAIN;
}

static int pump_copy(lua_State *L, struct pg_conn *c);

/* Queues one piece; the next one is fetched only when this one is on its way. */
static int put_piece(lua_State *L, struct pg_conn *c)
{
    size_t len;
    const char *s = lua_tolstring(L, COPY_PIECE, &len);

    pg_stage(c, PG_FLUSH, pump_copy);
    while (len > 0) {
        int n = len < (1 << 24) ? (int)len : 1 << 24;
        if (PQputCopyData(c->pg, s, n) != 1) {
            pg_broken(c);
            break;
        }
        s += n;
        len -= (size_t)n;
    }
    return PG_AGAIN;
}

/* One turn of a COPY in: the statement was accepted, or the last piece has left. */
static int pump_copy(lua_State *L, struct pg_conn *c)
{
    int ok;

    if (pg_now() >= c->op.deadline && !c->op.expired && c->pg != NULL && c->op.copy == 'i')
        return give_up_copy(c, finish_result);
    if (c->op.expired || c->error != NULL || c->pg == NULL || c->op.copy != 'i' || c->n_results > 0)
        return finish_result(L, c);
    ok = next_piece(L, c);
    if (ok && !lua_isnil(L, COPY_PIECE))
        return put_piece(L, c);
    c->op.copy = 0;
    pg_stage(c, PG_BUSY, ok ? finish_result : finish_raised);
    if (PQputCopyEnd(c->pg, ok ? NULL : "the source failed") != 1)
        pg_broken(c);
    return PG_AGAIN;
}

/* ==== out ======================================================================================= */

/*
 * Gives the piece that libpq holds to the sink. Protected, for all of it may raise: the arguments are the
 * connection and the sink.
 */
static int sink_piece(lua_State *L)
{
    const struct pg_conn *c = lua_touserdata(L, 1);
    size_t len = (size_t)c->piece_size;
    const luaL_Stream *file;

    if (lua_isfunction(L, 2)) {
        lua_pushlstring(L, c->piece, len);
        lua_call(L, 1, 0);
        return 0;
    }
    file = luaL_checkudata(L, 2, LUA_FILEHANDLE);
    if (file->closef == NULL || fwrite(c->piece, 1, len, file->f) != len)
        return luaL_error(L, "the sink cannot be written: %s", file->closef == NULL ? "closed" : strerror(errno));
    return 0;
}

/* One turn of a COPY out: the statement was accepted, or a piece has come. */
static int drain_copy(lua_State *L, struct pg_conn *c)
{
    int ok = 1;

    if (c->op.expired || c->error != NULL || c->pg == NULL || c->op.copy != 'o' || c->n_results > 0)
        return finish_result(L, c);
    if (c->piece != NULL) {
        lua_pushcfunction(L, sink_piece);
        lua_pushvalue(L, 1);
        lua_pushvalue(L, COPY_SOURCE);
        c->op.calling = 1;
        ok = lua_pcall(L, 2, 0, 0) == LUA_OK;
        c->op.calling = 0;
        PQfreemem(c->piece);
        c->piece = NULL;
    }
    if (!ok) {
        lua_replace(L, COPY_PIECE);
        return give_up_copy(c, finish_raised);
    }
    if (pg_now() >= c->op.deadline)
        return give_up_copy(c, finish_result);
    pg_stage(c, PG_COPY_OUT, drain_copy);
    return PG_AGAIN;
}

#endif
