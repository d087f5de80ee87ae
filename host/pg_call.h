/*
 * pg_call.h: what every call of atelier.pg has in common.
 *
 * Owns the checks of arguments and options, the error triple, and waiting: in poll(2), or by yielding the
 * coroutine and going on when it is resumed. Must not know results.
 */
#ifndef ATELIER_PG_CALL_H
#define ATELIER_PG_CALL_H

#include <lauxlib.h>
#include <lua.h>

#include "managed.h"
#include "pg_core.h"

#define PG_CONN_MT "atelier.pg.conn"

#define PG_TIMEOUT_CALL 30.0
#define PG_TIMEOUT_CONNECT 10.0
#define PG_TIMEOUT_CANCEL 5.0
#define PG_TIMEOUT_MAX (24 * 86400.0) /* in milliseconds an int still holds it */

enum { PG_AGAIN = -1 }; /* a finish function began a further stage */

static const char pg_waiting_key = 0; /* registry: address in a connection → coroutine, weakly */

/* ==== arguments ================================================================================= */

struct pg_call {
    int64_t timeout_ms;
    int share;
    int bare;
    int yields;
};

static struct pg_conn *check_conn(lua_State *L)
{
    struct pg_conn *c = luaL_checkudata(L, 1, PG_CONN_MT);

    if (c->state == PG_CLOSED)
        luaL_argerror(L, 1, "connection is closed");
    return c;
}

/* A string for a C library: NUL bytes would cut it short. */
static const char *check_text(lua_State *L, int arg)
{
    size_t len;
    const char *s;

    luaL_checktype(L, arg, LUA_TSTRING);
    s = lua_tolstring(L, arg, &len);
    luaL_argcheck(L, strlen(s) == len, arg, "string contains a NUL byte");
    return s;
}

static int64_t check_seconds(lua_State *L, int arg, lua_Number seconds, lua_Number least)
{
    luaL_argcheck(L, seconds >= least && seconds <= PG_TIMEOUT_MAX, arg,
                  "timeout must be a positive number of seconds");
    return (int64_t)(seconds * 1000 + 0.5);
}

static int64_t option_timeout(lua_State *L, int arg, const char *name, lua_Number fallback)
{
    return check_seconds(L, arg, option_number(L, arg, name, fallback), 0.001);
}

static struct pg_call check_call(lua_State *L, const struct pg_conn *c, int arg)
{
    static const char *const names[] = {"timeout", "share", "bare", "yield", NULL};
    struct pg_call call;

    check_options(L, arg, names);
    call.timeout_ms = option_timeout(L, arg, "timeout", PG_TIMEOUT_CALL);
    call.share = option_boolean(L, arg, "share", 0);
    call.bare = option_boolean(L, arg, "bare", 0);
    call.yields = option_boolean(L, arg, "yield", c->yields);
    return call;
}

/* ==== failures ================================================================================== */

/* Pushes the triple of the operation that ended. The server's text may be long, so fail() cuts it. */
static int push_failure(lua_State *L, const struct pg_conn *c)
{
    const char *state = PQresultErrorField(c->error, PG_DIAG_SQLSTATE);
    const char *text = PQresultErrorField(c->error, PG_DIAG_MESSAGE_PRIMARY);
    char code[16]; /* a copy: pushing the message may run a finaliser that uses the connection */

    if (c->fail_code != NULL)
        return fail(L, c->fail_code, "%s: %s", c->op.name, c->fail_text);
    if (text == NULL)
        text = PQresultErrorMessage(c->error);
    snprintf(code, sizeof code, "%s", state != NULL ? state : "connection");
    return fail(L, code, "%s: %.*s", c->op.name, (int)strcspn(text, "\n"), text);
}

/* A statement that its own cancel request ended has timed out; any other outcome stands as it is. */
static void name_timeout(struct pg_conn *c)
{
    const char *state = PQresultErrorField(c->error, PG_DIAG_SQLSTATE);

    if (c->op.expired && c->fail_code == NULL && state != NULL && strcmp(state, "57014") == 0)
        pg_set_failure(c, "timeout", "", "not done in time, cancelled");
}

static int failed(struct pg_conn *c)
{
    name_timeout(c);
    return c->fail_code != NULL || c->error != NULL;
}

static int refuse_copy(lua_State *L, const struct pg_conn *c)
{
    return luaL_error(L, "%s: a COPY statement needs copy_in or copy_out", c->op.name);
}

/* ==== waiting =================================================================================== */

/*
 * Two facts are kept per connection, by two addresses inside it: which coroutine waits for its operation,
 * and which one is inside conn:transaction. Weakly: if that one dies, nobody is.
 */
static const void *waiting_key(const struct pg_conn *c)
{
    return &c->op;
}

static const void *transaction_key(const struct pg_conn *c)
{
    return &c->in_transaction;
}

static void remember_coroutine(lua_State *L, const void *key)
{
    lua_rawgetp(L, LUA_REGISTRYINDEX, &pg_waiting_key);
    lua_pushthread(L);
    lua_rawsetp(L, -2, key);
    lua_pop(L, 1);
}

/* Whether it can still go on: suspended, or running (itself or what it resumed). */
static int is_alive(lua_State *L, lua_State *co)
{
    lua_Debug ar;

    if (co == NULL || co == L)
        return co != NULL;
    return lua_status(co) == LUA_YIELD || (lua_status(co) == LUA_OK && lua_getstack(co, 0, &ar));
}

/* The coroutine that was remembered, or NULL when it is dead. */
static lua_State *recall_coroutine(lua_State *L, const void *key)
{
    lua_State *co;

    lua_rawgetp(L, LUA_REGISTRYINDEX, &pg_waiting_key);
    lua_rawgetp(L, -1, key);
    co = lua_tothread(L, -1);
    lua_pop(L, 2);
    return is_alive(L, co) ? co : NULL;
}

static int await(lua_State *L, struct pg_conn *c);

/* Whatever the loop passed to resume is dropped. A resume that comes too late finds another generation. */
static int resumed(lua_State *L, int status, lua_KContext generation)
{
    struct pg_conn *c = lua_touserdata(L, 1);

    (void)status;
    if (!c->op.active || (lua_KContext)c->op.generation != generation)
        return fail(L, "closed", "wait: the connection was closed, or its operation given up");
    lua_settop(L, c->op.top);
    return await(L, c);
}

/* Brings the operation to its end; the connection is at index 1. Returns the caller's results. */
static int await(lua_State *L, struct pg_conn *c)
{
    for (;;) {
        int n;
        while (!pg_step(c)) {
            if (!c->op.yields) {
                if (pg_poll(c, (int64_t)(PG_TIMEOUT_MAX * 1000)) < 0)
                    c->op.deadline = 0; /* a wait for notifications ends now, with what there is */
                continue;
            }
            c->op.top = lua_gettop(L);
            remember_coroutine(L, waiting_key(c));
            lua_pushvalue(L, 1);
            return lua_yieldk(L, 1, (lua_KContext)c->op.generation, resumed);
        }
        n = c->op.finish(L, c);
        if (n != PG_AGAIN)
            return n;
    }
}

/* Raises when another operation is under way; recovers from one whose coroutine died. */
static void make_free(lua_State *L, struct pg_conn *c)
{
    if (c->op.calling || (c->op.active && c->op.yields && recall_coroutine(L, waiting_key(c)) != NULL))
        luaL_error(L, "connection is busy with another operation");
    if (c->op.active) {
        pg_abandon(c);
        pg_roll_back(c);
    }
}

/* The same for transactions: others stay out of one, and an abandoned one is undone. */
static void leave_transaction(lua_State *L, struct pg_conn *c)
{
    lua_State *owner;

    if (!c->in_transaction)
        return;
    owner = recall_coroutine(L, transaction_key(c));
    if (owner == NULL)
        pg_roll_back(c);
    else if (owner != L && lua_status(owner) == LUA_YIELD)
        luaL_error(L, "connection is busy with another coroutine's transaction");
}

/* Begins an operation and returns 0, or pushes why it cannot be begun and returns 3. All arguments are checked. */
static int begin(lua_State *L, struct pg_conn *c, const char *name, const struct pg_call *call)
{
    if (c->owner == getpid()) {
        make_free(L, c);
        leave_transaction(L, c);
    }
    if (c->state == PG_OPEN && c->owner != getpid())
        return fail(L, "connection", "%s: the connection belongs to the parent process", name);
    if (c->state == PG_LOST)
        return fail(L, "connection", "%s: the connection was lost", name);
    pg_begin(c, name, call->timeout_ms);
    c->op.share = (unsigned char)call->share;
    c->op.bare = (unsigned char)call->bare;
    c->op.yields = (unsigned char)(call->yields && lua_isyieldable(L));
    return 0;
}

/* Goes on after a PQsend… function: `sent` is what it returned. A refusal leaves no state to build on. */
static int sent(lua_State *L, struct pg_conn *c, int ok, int (*finish)(lua_State *, struct pg_conn *))
{
    pg_stage(c, PG_BUSY, finish);
    if (!ok)
        pg_lose(c, "connection", "not sent", PQerrorMessage(c->pg));
    return await(L, c);
}

#endif
