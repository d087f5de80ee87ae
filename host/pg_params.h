/*
 * pg_params.h: Lua values to Postgres parameters.
 *
 * Owns the binding of a parameter list and the values that say their type: pg.bytea, pg.json, pg.array.
 * Parameters carry no type of their own (bytea apart), so the server infers it from the statement, as it
 * does for a literal. Must not know connections.
 */
#ifndef ATELIER_PG_PARAMS_H
#define ATELIER_PG_PARAMS_H

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <lauxlib.h>
#include <lua.h>

#include "pg_types.h"

#define PG_VALUE_MT "atelier.pg.value"
#define PG_PARAMS_MAX 65535 /* the protocol counts them in 16 bits */
#define PG_ARRAY_DEPTH 6    /* the server's MAXDIM */
#define PG_NUMBER_SIZE 32

/* A parameter that is ready to be sent; its bytes follow it, with a NUL behind them. */
struct pg_value {
    size_t len;
    int binary;
    const char *kind;
    char bytes[];
};

struct pg_params {
    int n;
    int bad;              /* a text parameter with a NUL byte, from 1, or 0: no server takes that */
    const char **values;
    int *lengths;
    int *formats;
    unsigned *types;
    char (*numbers)[PG_NUMBER_SIZE];
};

/* ==== values ==================================================================================== */

static struct pg_value *pg_new_value(lua_State *L, const char *kind, const char *s, size_t len)
{
    struct pg_value *v = lua_newuserdatauv(L, sizeof *v + len + 1, 0);

    v->len = len;
    v->binary = 0;
    v->kind = kind;
    memcpy(v->bytes, s, len);
    v->bytes[len] = '\0';
    luaL_setmetatable(L, PG_VALUE_MT);
    return v;
}

/* Writes an integer or a float as Postgres reads it, with as few digits as give the same float back. */
static size_t pg_format_number(lua_State *L, int idx, char to[PG_NUMBER_SIZE])
{
    double d;

    if (lua_isinteger(L, idx))
        return (size_t)snprintf(to, PG_NUMBER_SIZE, LUA_INTEGER_FMT, (LUAI_UACINT)lua_tointeger(L, idx));
    d = lua_tonumber(L, idx);
    if (isnan(d))
        return (size_t)snprintf(to, PG_NUMBER_SIZE, "NaN");
    if (isinf(d))
        return (size_t)snprintf(to, PG_NUMBER_SIZE, d > 0 ? "Infinity" : "-Infinity");
    for (int digits = 15; digits < 17; digits++) {
        int len = snprintf(to, PG_NUMBER_SIZE, "%.*g", digits, d);
        if (strtod(to, NULL) == d)
            return (size_t)len;
    }
    return (size_t)snprintf(to, PG_NUMBER_SIZE, "%.17g", d);
}

static int pg_is_null(lua_State *L, int idx)
{
    return lua_type(L, idx) == LUA_TLIGHTUSERDATA && lua_touserdata(L, idx) == NULL;
}

/* ==== array literals ============================================================================ */

static void pg_add_quoted(luaL_Buffer *b, const char *s, size_t len)
{
    luaL_addchar(b, '"');
    for (size_t i = 0; i < len; i++) {
        if (s[i] == '"' || s[i] == '\\')
            luaL_addchar(b, '\\');
        luaL_addchar(b, s[i]);
    }
    luaL_addchar(b, '"');
}

static void pg_add_bytea(luaL_Buffer *b, const char *s, size_t len)
{
    static const char digits[] = "0123456789abcdef";

    luaL_addstring(b, "\"\\\\x");
    for (size_t i = 0; i < len; i++) {
        luaL_addchar(b, digits[(unsigned char)s[i] >> 4]);
        luaL_addchar(b, digits[(unsigned char)s[i] & 15]);
    }
    luaL_addchar(b, '"');
}

static lua_Integer pg_count(lua_State *L, int idx)
{
    lua_Integer n = (lua_Integer)lua_rawlen(L, idx);
    int exact = 1;

    lua_pushliteral(L, "n");
    if (lua_rawget(L, idx) != LUA_TNIL) {
        n = lua_tointegerx(L, -1, &exact);
        if (!exact || n < 0)
            luaL_error(L, "field 'n' must be a count, not %s", luaL_tolstring(L, -1, NULL));
    }
    lua_pop(L, 1);
    return n;
}

static void pg_add_array(lua_State *L, luaL_Buffer *b, int values, int slot, int depth);

/*
 * Adds the element at `slot`. A luaL_Buffer may keep its box on the top of the stack, so the elements
 * are read into slots below it.
 */
static void pg_add_element(lua_State *L, luaL_Buffer *b, int slot, int depth)
{
    char number[PG_NUMBER_SIZE];
    const struct pg_value *v;
    const char *s;
    size_t len;

    switch (lua_type(L, slot)) {
    case LUA_TSTRING:
        s = lua_tolstring(L, slot, &len);
        pg_add_quoted(b, s, len);
        return;
    case LUA_TNUMBER:
        len = pg_format_number(L, slot, number);
        luaL_addlstring(b, number, len);
        return;
    case LUA_TBOOLEAN:
        luaL_addchar(b, lua_toboolean(L, slot) ? 't' : 'f');
        return;
    case LUA_TTABLE:
        pg_add_array(L, b, slot, slot + 1, depth + 1);
        return;
    default:
        if (pg_is_null(L, slot)) {
            luaL_addstring(b, "NULL");
            return;
        }
        v = luaL_testudata(L, slot, PG_VALUE_MT);
        if (v == NULL)
            luaL_error(L, "an array holds no %s", luaL_typename(L, slot));
        else if (v->binary)
            pg_add_bytea(b, v->bytes, v->len);
        else
            pg_add_quoted(b, v->bytes, v->len);
    }
}

static void pg_add_array(lua_State *L, luaL_Buffer *b, int values, int slot, int depth)
{
    lua_Integer n = pg_count(L, values);

    if (depth > PG_ARRAY_DEPTH)
        luaL_error(L, "an array has at most %d dimensions", PG_ARRAY_DEPTH);
    luaL_addchar(b, '{');
    for (lua_Integer i = 1; i <= n; i++) {
        if (i > 1)
            luaL_addchar(b, ',');
        if (lua_rawgeti(L, values, i) == LUA_TNIL)
            luaL_error(L, "array element %I is nil: use pg.null", (LUAI_UACINT)i);
        lua_replace(L, slot);
        pg_add_element(L, b, slot, depth);
    }
    luaL_addchar(b, '}');
}

/* ==== parameter lists =========================================================================== */

enum { /* a multiple of a pointer's size, so that one statement's may follow another's */
    PG_PARAM_SIZE = (sizeof(char *) + 2 * sizeof(int) + sizeof(unsigned) + PG_NUMBER_SIZE + sizeof(char *) - 1) /
                    sizeof(char *) * sizeof(char *)
};

/* One block of n times PG_PARAM_SIZE: the arrays that libpq wants, and room for the numbers' text. */
static void pg_place_params(struct pg_params *p, int n, char *block)
{
    p->n = n;
    p->bad = 0;
    p->values = (const char **)(void *)block;
    p->lengths = (int *)(void *)(block + (size_t)n * sizeof(char *));
    p->formats = p->lengths + n;
    p->types = (unsigned *)(p->formats + n);
    p->numbers = (char(*)[PG_NUMBER_SIZE])(p->types + n);
}

static int pg_bind_bytes(struct pg_params *p, int i, const char *s, size_t len, int binary)
{
    if (!binary && memchr(s, '\0', len) != NULL && p->bad == 0)
        p->bad = i + 1;
    if (len > 0x3fffffff) /* the server refuses values of a gigabyte */
        return 0;
    p->values[i] = s;
    p->lengths[i] = (int)len;
    p->formats[i] = binary;
    p->types[i] = binary ? PG_BYTEA : 0;
    return 1;
}

/* The value on the top of the stack becomes parameter i. It stays anchored by the table it came from. */
static int pg_bind_one(lua_State *L, struct pg_params *p, int i)
{
    const struct pg_value *v;
    const char *s;
    size_t len;

    switch (lua_type(L, -1)) {
    case LUA_TSTRING:
        s = lua_tolstring(L, -1, &len);
        return pg_bind_bytes(p, i, s, len, 0);
    case LUA_TNUMBER:
        len = pg_format_number(L, -1, p->numbers[i]);
        return pg_bind_bytes(p, i, p->numbers[i], len, 0);
    case LUA_TBOOLEAN:
        return pg_bind_bytes(p, i, lua_toboolean(L, -1) ? "t" : "f", 1, 0);
    case LUA_TNIL:
        return luaL_error(L, "parameter %d is nil: use pg.null", i + 1);
    default:
        if (pg_is_null(L, -1)) {
            pg_bind_bytes(p, i, "", 0, 0);
            p->values[i] = NULL;
            return 1;
        }
        v = luaL_testudata(L, -1, PG_VALUE_MT);
        if (v == NULL)
            return luaL_error(L, "parameter %d is a %s: use pg.json, pg.array or pg.bytea", i + 1,
                              luaL_typename(L, -1));
        return pg_bind_bytes(p, i, v->bytes, v->len, v->binary);
    }
}

static int pg_count_params(lua_State *L, int idx)
{
    lua_Integer n = pg_count(L, idx);

    luaL_argcheck(L, n <= PG_PARAMS_MAX, idx, "at most 65535 parameters");
    return (int)n;
}

static void pg_bind_params(lua_State *L, struct pg_params *p, int idx)
{
    for (int i = 0; i < p->n; i++) {
        lua_rawgeti(L, idx, i + 1);
        if (!pg_bind_one(L, p, i))
            luaL_error(L, "parameter %d is longer than a value may be (1 GiB)", i + 1);
        lua_pop(L, 1);
    }
}

/* Binds the list at `idx` (a positive index; none and nil are the empty list) and pushes its block. */
static const struct pg_params *pg_bind(lua_State *L, int idx)
{
    static const struct pg_params none;
    struct pg_params *p;
    int n;

    if (lua_isnoneornil(L, idx)) {
        lua_pushnil(L);
        return &none;
    }
    luaL_argexpected(L, lua_istable(L, idx), idx, "table of parameters");
    n = pg_count_params(L, idx);
    p = lua_newuserdatauv(L, sizeof *p + (size_t)n * PG_PARAM_SIZE, 0);
    pg_place_params(p, n, (char *)(p + 1));
    pg_bind_params(L, p, idx);
    return p;
}

#endif
