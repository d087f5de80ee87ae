/*
 * pg_connect.h: opening a connection of atelier.pg.
 *
 * Owns the connection string, its defaults and the session's settings. Must not let a password into a
 * message: libpq quotes what it cannot read.
 */
#ifndef ATELIER_PG_CONNECT_H
#define ATELIER_PG_CONNECT_H

#include <lauxlib.h>
#include <lua.h>

#include "managed.h"
#include "pg_call.h"
#include "pg_core.h"
#include "pg_result.h"

static void free_options(void *p)
{
    PQconninfoFree(p);
}

/*
 * What is wrong with parsed options, or NULL. A password with an unquoted "@" or "/" ends up in the host
 * or the port, and libpq would print those.
 */
static const char *odd_option(const PQconninfoOption *o)
{
    for (; o->keyword != NULL; o++) {
        if (o->val == NULL)
            continue;
        if (strcmp(o->keyword, "host") == 0 && o->val[0] != '@' && o->val[0] != '/' && strchr(o->val, '@') != NULL)
            return "the host contains '@'";
        if (strcmp(o->keyword, "port") == 0 && o->val[strspn(o->val, "0123456789,")] != '\0')
            return "the port is not a number";
    }
    return NULL;
}

struct keywords {
    const char *names[64], *values[64];
    int n;
};

static void add_keyword(struct keywords *k, const char *name, const char *value)
{
    if (value == NULL || k->n == 63)
        return;
    k->names[k->n] = name;
    k->values[k->n++] = value;
}

/* Later ones win, so the defaults come first. */
static void collect_keywords(struct keywords *k, const PQconninfoOption *o, const char *application)
{
    memset(k, 0, sizeof *k);
    add_keyword(k, "fallback_application_name", "atelier");
    add_keyword(k, "keepalives_idle", "30");
    add_keyword(k, "keepalives_interval", "10");
    add_keyword(k, "keepalives_count", "3");
    for (; o->keyword != NULL; o++)
        add_keyword(k, o->keyword, o->val);
    add_keyword(k, "client_encoding", "UTF8");
    add_keyword(k, "application_name", application);
}

/* The forms that pg_types.h reads. Set by a statement, since poolers refuse them at the start. */
static const char session_setup[] = "set timezone to 'UTC'; set datestyle to 'ISO, YMD'; set bytea_output to 'hex'; "
                                    "set extra_float_digits to 1; set client_min_messages to 'notice'";

static int finish_connect(lua_State *L, struct pg_conn *c)
{
    pg_end(c);
    deliver_notices(L, c);
    if (failed(c)) {
        int n = push_failure(L, c);
        pg_close(c);
        return n;
    }
    lua_pushvalue(L, 1);
    return 1;
}

static int finish_handshake(lua_State *L, struct pg_conn *c)
{
    if (failed(c))
        return finish_connect(L, c);
    PQsetnonblocking(c->pg, 1);
    pg_stage(c, PG_BUSY, finish_connect);
    if (!PQsendQuery(c->pg, session_setup))
        pg_broken(c);
    return PG_AGAIN;
}

/* A closed connection, with its metatable, so that nothing acquired later can leak. */
static struct pg_conn *new_conn(lua_State *L)
{
    struct pg_conn *c = lua_newuserdatauv(L, sizeof *c, 1);

    memset(c, 0, sizeof *c);
    luaL_setmetatable(L, PG_CONN_MT);
    c->owner = getpid();
    return c;
}

static int start_connect(lua_State *L, struct pg_conn *c, const struct keywords *k)
{
    c->pg = PQconnectStartParams(k->names, k->values, 0);
    if (c->pg == NULL)
        return fail(L, "connection", "connect: out of memory");
    managed_live++;
    c->state = PG_OPEN;
    PQsetNoticeReceiver(c->pg, receive_notice, c);
    pg_stage(c, PG_CONNECT, finish_handshake);
    c->op.events = POLLOUT;
    if (PQstatus(c->pg) == CONNECTION_BAD)
        pg_lose(c, "connection", "", PQerrorMessage(c->pg));
    return await(L, c);
}

#endif
