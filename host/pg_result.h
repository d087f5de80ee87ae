/*
 * pg_result.h: how an operation of atelier.pg ends.
 *
 * Owns the tables that results become, the notices, and the finish functions that most calls share. All of it
 * may raise a memory error, so the operation is marked as ended first; results belong to the connection, which is
 * kept from others while they are read.
 */
#ifndef ATELIER_PG_RESULT_H
#define ATELIER_PG_RESULT_H

#include <lauxlib.h>
#include <lua.h>

#include "managed.h"
#include "pg_call.h"
#include "pg_core.h"
#include "pg_pipeline.h"
#include "pg_types.h"

/* ==== results =================================================================================== */

static lua_Integer affected_rows(const PGresult *r)
{
    return strtoll(PQcmdTuples((PGresult *)r), NULL, 10); /* "" for a statement that counts nothing */
}

/* With share=true: the value of the row before, if its text was the same. The tables are one then. */
static int push_shared(lua_State *L, const PGresult *r, int row, int col, int result, int name)
{
    int len = PQgetlength(r, row, col);

    if (row == 0 || PQgetisnull(r, row - 1, col) || PQgetlength(r, row - 1, col) != len ||
        memcmp(PQgetvalue(r, row - 1, col), PQgetvalue(r, row, col), (size_t)len) != 0)
        return 0;
    lua_rawgeti(L, result, row);
    lua_pushvalue(L, name);
    lua_rawget(L, -2);
    lua_remove(L, -2);
    return 1;
}

static void push_cell(lua_State *L, const PGresult *r, int row, int col, int result, int name, int share)
{
    unsigned oid = PQftype(r, col);
    struct pg_cell cell = {result, row + 1, NULL};

    if (PQgetisnull(r, row, col)) {
        lua_pushlightuserdata(L, NULL);
        return;
    }
    if (share && (oid == PG_JSON || oid == PG_JSONB) && push_shared(L, r, row, col, result, name))
        return;
    cell.field = PQfname(r, col);
    pg_push_value(L, oid, PQgetvalue(r, row, col), (size_t)PQgetlength(r, row, col), &cell);
}

/* What is to become of a result. */
struct pg_shape {
    int share, bare;
};

/* The column names stand on the stack from `names` on: each is made a Lua string once, not once per row. */
static void push_row(lua_State *L, const PGresult *r, int row, int result, int names, const struct pg_shape *shape)
{
    int n = PQnfields(r);

    lua_createtable(L, 0, n);
    for (int col = 0; col < n; col++) {
        lua_pushvalue(L, names + col);
        push_cell(L, r, row, col, result, names + col, shape->share);
        lua_rawset(L, -3);
    }
    lua_rawseti(L, result, row + 1);
}

static void push_names(lua_State *L, const PGresult *r, int n)
{
    luaL_checkstack(L, n + 20, "columns");
    for (int col = 0; col < n; col++)
        lua_pushstring(L, PQfname(r, col));
}

static void set_about(lua_State *L, const PGresult *r, int result)
{
    int n = PQnfields(r);

    lua_createtable(L, n, 0);
    for (int col = 0; col < n; col++) {
        lua_pushstring(L, PQfname(r, col));
        lua_rawseti(L, -2, col + 1);
    }
    lua_setfield(L, result, "fields");
    lua_pushinteger(L, affected_rows(r));
    lua_setfield(L, result, "affected");
    lua_pushstring(L, PQcmdStatus((PGresult *)r));
    lua_setfield(L, result, "command");
}

static void push_result(lua_State *L, const PGresult *r, const struct pg_shape *shape)
{
    int rows = PQntuples(r), result;

    if (shape->bare && PQnfields(r) == 0) {
        lua_pushboolean(L, 1);
        return;
    }
    lua_createtable(L, rows, shape->bare ? 0 : 3);
    result = lua_gettop(L);
    if (!shape->bare)
        set_about(L, r, result);
    push_names(L, r, PQnfields(r));
    for (int row = 0; row < rows; row++)
        push_row(L, r, row, result, result + 1, shape);
    lua_settop(L, result);
}

/* ==== notices =================================================================================== */

static const struct {
    int field;
    const char *name;
} pg_diagnostics[] = {
    {PG_DIAG_SQLSTATE, "sqlstate"},           {PG_DIAG_SEVERITY_NONLOCALIZED, "severity"},
    {PG_DIAG_MESSAGE_PRIMARY, "message"},     {PG_DIAG_MESSAGE_DETAIL, "detail"},
    {PG_DIAG_MESSAGE_HINT, "hint"},           {PG_DIAG_CONTEXT, "context"},
    {PG_DIAG_STATEMENT_POSITION, "position"}, {PG_DIAG_SCHEMA_NAME, "schema"},
    {PG_DIAG_TABLE_NAME, "table"},            {PG_DIAG_COLUMN_NAME, "column"},
    {PG_DIAG_CONSTRAINT_NAME, "constraint"},
};

enum { PG_DIAGNOSTICS = sizeof pg_diagnostics / sizeof *pg_diagnostics };

/* Called by libpq in the midst of reading: keeps a copy in one block, for no Lua may run there. */
static void receive_notice(void *arg, const PGresult *r)
{
    struct pg_conn *c = arg;
    size_t size = PG_DIAGNOSTICS * sizeof(char *);
    const char *s;
    char **copy, *to;

    if (!c->want_notices || c->n_notices == PG_NOTICES_MAX)
        return;
    for (int i = 0; i < PG_DIAGNOSTICS; i++)
        size += (s = PQresultErrorField(r, pg_diagnostics[i].field)) != NULL ? strlen(s) + 1 : 0;
    if ((copy = malloc(size)) == NULL)
        return;
    to = (char *)(copy + PG_DIAGNOSTICS);
    for (int i = 0; i < PG_DIAGNOSTICS; i++) {
        s = PQresultErrorField(r, pg_diagnostics[i].field);
        copy[i] = s != NULL ? strcpy(to, s) : NULL;
        to += s != NULL ? strlen(s) + 1 : 0;
    }
    c->notices[c->n_notices++] = copy;
}

static void set_diagnostic(lua_State *L, int i, const char *text)
{
    if (text != NULL) {
        lua_pushstring(L, text);
        lua_setfield(L, -2, pg_diagnostics[i].name);
    }
}

static void push_notice(lua_State *L, char **notice)
{
    lua_newtable(L);
    for (int i = 0; i < PG_DIAGNOSTICS; i++)
        set_diagnostic(L, i, notice[i]);
}

static void push_diagnostics(lua_State *L, const PGresult *r)
{
    lua_newtable(L);
    for (int i = 0; i < PG_DIAGNOSTICS; i++)
        set_diagnostic(L, i, PQresultErrorField(r, pg_diagnostics[i].field));
}

static int call_handler(lua_State *L)
{
    const struct pg_conn *c = lua_touserdata(L, 1);

    if (lua_getiuservalue(L, 1, 1) == LUA_TFUNCTION)
        for (int i = 0; i < c->n_notices; i++) {
            lua_pushvalue(L, -1);
            push_notice(L, c->notices[i]);
            lua_call(L, 1, 0);
        }
    return 0;
}

/*
 * Calls `f` with the connection; its one value, or nil, is left on the stack. Making a Lua value may run a finaliser,
 * and a handler is anybody's code: neither may use or close the connection while `f` reads what belongs to it. Returns
 * a Lua status.
 */
static int call_guarded(lua_State *L, struct pg_conn *c, lua_CFunction f)
{
    const unsigned char before = c->op.calling;
    int status;

    lua_pushcfunction(L, f);
    lua_pushvalue(L, 1);
    c->op.calling = 1;
    status = lua_pcall(L, 1, 1, 0);
    c->op.calling = before;
    return status;
}

/* The same for what makes a value and only lacks memory. */
static int push_guarded(lua_State *L, struct pg_conn *c, lua_CFunction f)
{
    return call_guarded(L, c, f) == LUA_OK ? 1 : lua_error(L);
}

/* Hands the notices over. When the handler raises, the rest is dropped; its error goes to the caller. */
static void deliver_notices(lua_State *L, struct pg_conn *c)
{
    int status;

    if (c->n_notices == 0)
        return;
    status = call_guarded(L, c, call_handler);
    pg_drop_notices(c);
    if (status != LUA_OK)
        lua_error(L);
    lua_pop(L, 1);
}

/* ==== endings =================================================================================== */

static int make_result(lua_State *L)
{
    const struct pg_conn *c = lua_touserdata(L, 1);
    const struct pg_shape shape = {c->op.share, c->op.bare};

    push_result(L, c->results[c->n_results - 1], &shape);
    return 1;
}

/* Ends an operation of one result: the result, or the triple. */
static int finish_result(lua_State *L, struct pg_conn *c)
{
    pg_end(c);
    deliver_notices(L, c);
    if (c->op.refused)
        return refuse_copy(L, c);
    if (failed(c))
        return push_failure(L, c);
    if (c->n_results == 0)
        return fail(L, "connection", "%s: the server sent no result", c->op.name);
    push_guarded(L, c, make_result);
    pg_drop_results(c);
    return 1;
}

/* Ends an operation that only works or fails. */
static int finish_true(lua_State *L, struct pg_conn *c)
{
    pg_end(c);
    deliver_notices(L, c);
    pg_drop_results(c);
    if (failed(c))
        return push_failure(L, c);
    lua_pushboolean(L, 1);
    return 1;
}

static int make_results(lua_State *L)
{
    const struct pg_conn *c = lua_touserdata(L, 1);
    const struct pg_shape shape = {c->op.share, c->op.bare};

    lua_createtable(L, c->n_results, 0);
    for (int i = 0; i < c->n_results; i++) {
        push_result(L, c->results[i], &shape);
        lua_rawseti(L, -2, i + 1);
    }
    return 1;
}

static int finish_pipeline(lua_State *L, struct pg_conn *c)
{
    int failed_at = c->op.failed;

    pg_end(c);
    deliver_notices(L, c);
    if (failed(c)) {
        push_failure(L, c);
        if (failed_at < 0)
            return 3;
        lua_pushinteger(L, failed_at + 1);
        return 4;
    }
    push_guarded(L, c, make_results);
    pg_drop_results(c);
    return 1;
}

#endif
