/*
 * httpd_lua.h: what the Lua face of the server shares: the loop that runs, callbacks, seconds and sizes from Lua.
 *
 * Must not know requests. Included by lua_httpd.c alone.
 */
#ifndef ATELIER_HTTPD_LUA_H
#define ATELIER_HTTPD_LUA_H

#include <lauxlib.h>
#include <lua.h>

#include "call.h"
#include "front.h"
#include "front_budget.h"
#include "httpd_server.h"
#include "managed.h"

#define HTTPD_SECONDS_MAX 1e9

/* Places in the table of callbacks, which the registry keeps by the server's address while it runs. */
enum callback { CALL_HANDLER = 1, CALL_ACCEPT, CALL_COMPLETE, CALL_TICK, CALL_SIGNAL, CALL_LOG, CALL_START };

/* The loop of this process, while one runs; `number` tells a handle of an earlier one. */
static struct {
    struct front *front;
    struct server *server;
    unsigned number;
} loop;

static int64_t check_ms(lua_State *L, int arg, lua_Number seconds)
{
    luaL_argcheck(L, seconds >= 0 && seconds <= HTTPD_SECONDS_MAX, arg, "not a time in seconds");
    return (int64_t)(seconds * 1000 + 0.5);
}

/* The deadline of an optional timeout at `arg`. */
static int64_t check_deadline(lua_State *L, int arg)
{
    if (lua_isnoneornil(L, arg))
        return FRONT_NEVER;
    return front_now() + check_ms(L, arg, luaL_checknumber(L, arg));
}

/* The running task of the coroutine that calls. */
static struct task *check_task(lua_State *L, const char *name)
{
    struct task *t = task_current(loop.front, L);

    if (t == NULL || !lua_isyieldable(L))
        luaL_error(L, "%s: waits, so it must be called in a coroutine of the loop (not in one of its own, nor inside a C function such as table.sort)", name);
    return t;
}

/* Pushes a callback, or nil. The stack needs two slots. */
static int push_callback(lua_State *L, const struct server *s, enum callback which)
{
    int type;

    lua_rawgetp(L, LUA_REGISTRYINDEX, s);
    type = lua_istable(L, -1) ? lua_rawgeti(L, -1, which) : (lua_pushnil(L), LUA_TNIL);
    lua_remove(L, -2);
    return type;
}

static int has_callback(const struct server *s, enum callback which)
{
    lua_State *L = front_state(s->front);
    int there;

    if (!lua_checkstack(L, 4))
        return 0;
    there = push_callback(L, s, which) == LUA_TFUNCTION;
    lua_pop(L, 1);
    return there;
}

struct log_line {
    const struct server *server;
    const char *level, *text;
};

/* Runs inside call_lua. */
static int call_log(lua_State *L)
{
    const struct log_line *line = lua_touserdata(L, 1);

    push_callback(L, line->server, CALL_LOG);
    lua_pushstring(L, line->level);
    lua_pushstring(L, line->text);
    lua_call(L, 2, 0);
    return 0;
}

/* To the callback; without one, or when it fails, errors go to standard error. */
static void write_log(struct server *s, const char *level, const char *text)
{
    struct log_line line = {s, level, text};
    lua_State *L = front_state(s->front);
    int top = lua_gettop(L), failed = 1;

    if (has_callback(s, CALL_LOG)) {
        lua_pushcfunction(L, call_log);
        lua_pushlightuserdata(L, &line);
        budget_begin(L);
        failed = call_lua(L, 1, 0) != LUA_OK;
        budget_end(L);
        if (failed)
            fprintf(stderr, "httpd: log: %s\n", lua_tostring(L, -1));
    }
    if (failed && strcmp(level, "error") == 0)
        fprintf(stderr, "httpd: error: %s\n", text);
    lua_settop(L, top);
}

/* Starts a C function as a background task. `body` gets `arg` as a light userdata. */
static struct task *start_background(struct server *s, lua_CFunction body, void *arg)
{
    struct task *t = task_new(s->front);

    if (t == NULL) {
        write_log(s, "error", "not enough memory for a coroutine");
        return NULL;
    }
    lua_pushcfunction(t->co, body);
    lua_pushlightuserdata(t->co, arg);
    task_queue(t, 1);
    return t;
}

#endif
