/*
 * pg_json.h: columns of a row as the members of a JSON object, without a Lua value for each.
 *
 * Owns that text. A name with dots makes objects within: "job.state" is the member "state" of "job", which is null when
 * the first of its columns is. Must not know connections. All of it may raise, so the PGresult must be anchored.
 */
#ifndef ATELIER_PG_JSON_H
#define ATELIER_PG_JSON_H

#include <string.h>

#include <lauxlib.h>
#include <libpq-fe.h>
#include <lua.h>

#include "pg_types.h"

struct pg_members {
    luaL_Buffer b;
    int is_first;        /* of the object that is open */
    const char *open;    /* its path, "job.error.": the start of a column's name */
    size_t open_len;
    const char *null;    /* the path of an object that is null; its other columns say nothing */
    size_t null_len;
};

static void pg_add_text(luaL_Buffer *b, const char *s, size_t len)
{
    static const char short_forms[] = "btn?fr"; /* of 8 to 13 */
    char escape[8];
    size_t from = 0;

    luaL_addchar(b, '"');
    for (size_t i = 0; i < len; i++) {
        unsigned char c = (unsigned char)s[i];
        if (c >= 0x20 && c != '"' && c != '\\')
            continue;
        luaL_addlstring(b, s + from, i - from);
        from = i + 1;
        if (c >= 0x20)
            snprintf(escape, sizeof escape, "\\%c", c);
        else if (c >= 8 && c <= 13 && c != 11)
            snprintf(escape, sizeof escape, "\\%c", short_forms[c - 8]);
        else
            snprintf(escape, sizeof escape, "\\u%04x", c);
        luaL_addstring(b, escape);
    }
    luaL_addlstring(b, s + from, len - from);
    luaL_addchar(b, '"');
}

static void pg_add_time(luaL_Buffer *b, const char *s, size_t len)
{
    char text[64];
    size_t n = pg_write_timestamp(text, s, len);

    pg_add_text(b, n > 0 ? text : s, n > 0 ? n : len);
}

static void pg_add_json(luaL_Buffer *b, const PGresult *r, int row, int col)
{
    lua_State *L = b->L;
    const char *s = PQgetvalue(r, row, col);
    size_t len = (size_t)PQgetlength(r, row, col);
    unsigned oid = PQftype(r, col);

    if (PQgetisnull(r, row, col)) {
        luaL_addstring(b, "null");
        return;
    }
    switch (oid) {
    case PG_BOOL:
        luaL_addstring(b, s[0] == 't' ? "true" : "false");
        return;
    case PG_FLOAT4:
    case PG_FLOAT8:
        if (s[s[0] == '-'] < '0' || s[s[0] == '-'] > '9')
            luaL_error(L, "column %s: JSON has no number %s", PQfname(r, col), s);
        luaL_addlstring(b, s, len);
        return;
    case PG_INT2:
    case PG_INT4:
    case PG_INT8:
    case PG_OID:
    case PG_JSON:
    case PG_JSONB:
        luaL_addlstring(b, s, len);
        return;
    case PG_TIMESTAMPTZ:
        pg_add_time(b, s, len);
        return;
    default:
        if (oid == PG_BYTEA || pg_element_type(oid) != 0)
            luaL_error(L, "column %s: its type has no form in JSON here", PQfname(r, col));
        pg_add_text(b, s, len);
    }
}

static void pg_add_key(struct pg_members *m, const char *name, size_t len)
{
    if (!m->is_first)
        luaL_addchar(&m->b, ',');
    m->is_first = 0;
    pg_add_text(&m->b, name, len);
    luaL_addchar(&m->b, ':');
}

/* How much of a name, or of a path without its last dot, is the path of the object around it. */
static size_t pg_path(const char *name, size_t len)
{
    while (len > 0 && name[len - 1] != '.')
        len--;
    return len;
}

static void pg_close_objects(struct pg_members *m, const char *name, size_t path)
{
    while (m->open_len > 0 && (path < m->open_len || memcmp(m->open, name, m->open_len) != 0)) {
        luaL_addchar(&m->b, '}');
        m->open_len = pg_path(m->open, m->open_len - 1);
        m->is_first = 0;
    }
}

/* Opens the objects that a column lies in. Returns 0 when one of them is null. */
static int pg_open_objects(struct pg_members *m, const char *name, size_t path, int is_null)
{
    while (m->open_len < path) {
        size_t end = m->open_len;
        while (name[end] != '.')
            end++;
        pg_add_key(m, name + m->open_len, end - m->open_len);
        if (is_null) {
            luaL_addstring(&m->b, "null");
            m->null = name;
            m->null_len = end + 1;
            return 0;
        }
        luaL_addchar(&m->b, '{');
        m->is_first = 1;
        m->open = name;
        m->open_len = end + 1;
    }
    return 1;
}

/* Pushes the columns from `first` on as members: `"a":1,"b":null`, without the braces around them. */
static void pg_push_members(lua_State *L, const PGresult *r, int row, int first)
{
    struct pg_members m = {.is_first = 1};
    int n = PQnfields(r);

    luaL_buffinit(L, &m.b);
    for (int col = first; col < n; col++) {
        const char *name = PQfname(r, col);
        size_t len = strlen(name), path = pg_path(name, len);
        if (m.null_len > 0 && path >= m.null_len && memcmp(name, m.null, m.null_len) == 0)
            continue;
        pg_close_objects(&m, name, path);
        m.open = name; /* the same path, and still there */
        if (!pg_open_objects(&m, name, path, PQgetisnull(r, row, col)))
            continue;
        pg_add_key(&m, name + path, len - path);
        pg_add_json(&m.b, r, row, col);
    }
    pg_close_objects(&m, "", 0);
    luaL_pushresult(&m.b);
}

#endif
