/*
 * pg_types.h: Postgres text values to Lua values.
 *
 * Owns the table of types: what a column of a given type becomes. Must not know connections: it gets
 * bytes and a type. Everything in here may raise a memory error, so the PGresult must be anchored.
 */
#ifndef ATELIER_PG_TYPES_H
#define ATELIER_PG_TYPES_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <lauxlib.h>
#include <lua.h>

/* Type oids are fixed for ever: src/include/catalog/pg_type.dat. */
enum {
    PG_BOOL = 16, PG_BYTEA = 17, PG_NAME = 19, PG_INT8 = 20, PG_INT2 = 21, PG_INT4 = 23, PG_TEXT = 25,
    PG_OID = 26, PG_JSON = 114, PG_FLOAT4 = 700, PG_FLOAT8 = 701, PG_BPCHAR = 1042, PG_VARCHAR = 1043,
    PG_DATE = 1082, PG_TIMESTAMPTZ = 1184, PG_NUMERIC = 1700, PG_UUID = 2950, PG_JSONB = 3802
};

/* Where a value stands, for the note that is left when its JSON cannot be decoded. */
struct pg_cell {
    int result;        /* stack index of the result table */
    lua_Integer row;
    const char *field;
};

static void pg_push_value(lua_State *L, unsigned oid, const char *s, size_t len, const struct pg_cell *cell);

/* ==== numbers ================================================================================== */

static void pg_push_integer(lua_State *L, const char *s, size_t len)
{
    lua_Unsigned n = 0;
    size_t i = s[0] == '-';

    for (; i < len; i++)
        n = n * 10 + (lua_Unsigned)(s[i] - '0');
    lua_pushinteger(L, (lua_Integer)(s[0] == '-' ? 0u - n : n));
}

/* ==== bytea ==================================================================================== */

static int pg_hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    return (c | 32) - 'a' + 10;
}

/* The older form, for a server or role with bytea_output = escape. */
static void pg_push_escaped(lua_State *L, const char *s, size_t len)
{
    luaL_Buffer b;
    char *to = luaL_buffinitsize(L, &b, len);
    size_t n = 0;

    for (size_t i = 0; i < len; i++) {
        if (s[i] != '\\') {
            to[n++] = s[i];
        } else if (i + 1 < len && s[i + 1] == '\\') {
            to[n++] = '\\';
            i++;
        } else if (i + 3 < len) {
            to[n++] = (char)((s[i + 1] - '0') * 64 + (s[i + 2] - '0') * 8 + (s[i + 3] - '0'));
            i += 3;
        }
    }
    luaL_pushresultsize(&b, n);
}

static void pg_push_bytea(lua_State *L, const char *s, size_t len)
{
    luaL_Buffer b;
    char *to;

    if (len < 2 || s[0] != '\\' || s[1] != 'x') {
        pg_push_escaped(L, s, len);
        return;
    }
    len = (len - 2) / 2;
    to = luaL_buffinitsize(L, &b, len);
    for (size_t i = 0; i < len; i++)
        to[i] = (char)(pg_hex_digit(s[2 + 2 * i]) << 4 | pg_hex_digit(s[3 + 2 * i]));
    luaL_pushresultsize(&b, len);
}

/* ==== timestamptz ============================================================================== */

/* Days since 1970-01-01 in the proleptic Gregorian calendar, by eras of 400 years. */
static long pg_days(long y, int m, int d)
{
    long era, year_of_era, day_of_year;

    y -= m <= 2;
    era = (y >= 0 ? y : y - 399) / 400;
    year_of_era = y - era * 400;
    day_of_year = (153 * (m + (m > 2 ? -3 : 9)) + 2) / 5 + d - 1;
    return era * 146097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719468;
}

static void pg_civil(long days, long *y, int *m, int *d)
{
    long z = days + 719468, era = (z >= 0 ? z : z - 146096) / 146097, doe = z - era * 146097;
    long yoe = (doe - doe / 1460 + doe / 36524 - doe / 146096) / 365;
    long doy = doe - (365 * yoe + yoe / 4 - yoe / 100), mp = (5 * doy + 2) / 153;

    *d = (int)(doy - (153 * mp + 2) / 5 + 1);
    *m = (int)(mp < 10 ? mp + 3 : mp - 9);
    *y = yoe + era * 400 + (*m <= 2);
}

/* Writes the UTC form of a time with an offset; behind a pooler the session's zone may be another's. Returns its length. */
static size_t pg_write_shifted(char text[64], const char *s, size_t len)
{
    char fraction[8] = "";
    long y, seconds;
    int m, d, hh, mm, ss, zh = 0, zm = 0, zs = 0, n = 0;
    const char *zone;

    if (len >= 64)
        return 0;
    memcpy(text, s, len);
    text[len] = '\0';
    if (sscanf(text, "%ld-%d-%d %d:%d:%d%n", &y, &m, &d, &hh, &mm, &ss, &n) < 6)
        return 0;
    zone = text + n;
    if (*zone == '.') {
        size_t digits = strspn(zone + 1, "0123456789") + 1;
        snprintf(fraction, sizeof fraction, "%.*s", (int)digits, zone);
        zone += digits;
    }
    if ((*zone != '+' && *zone != '-') || strchr(zone, ' ') != NULL ||
        sscanf(zone + 1, "%d:%d:%d", &zh, &zm, &zs) < 1)
        return 0;
    seconds = (long)zh * 3600 + zm * 60 + zs;
    seconds = pg_days(y, m, d) * 86400 + hh * 3600 + mm * 60 + ss - (*zone == '-' ? -seconds : seconds);
    n = (int)(seconds % 86400 < 0 ? seconds % 86400 + 86400 : seconds % 86400);
    pg_civil((seconds - n) / 86400, &y, &m, &d);
    return (size_t)snprintf(text, 64, "%04ld-%02d-%02dT%02d:%02d:%02d%sZ", y, m, d, n / 3600, n / 60 % 60, n % 60,
                            fraction);
}

/*
 * "2026-11-22 10:11:12.5+00" to "2026-11-22T10:11:12.5Z". Returns its length, 0 for what stays as it is: infinity and
 * years BC.
 */
static size_t pg_write_timestamp(char text[64], const char *s, size_t len)
{
    if (len <= 13 || len >= 40 || memcmp(s + len - 3, "+00", 3) != 0 || s[10] != ' ')
        return pg_write_shifted(text, s, len);
    memcpy(text, s, len - 3);
    text[10] = 'T';
    text[len - 3] = 'Z';
    return len - 2;
}

static void pg_push_timestamp(lua_State *L, const char *s, size_t len)
{
    char text[64];
    size_t n = pg_write_timestamp(text, s, len);

    lua_pushlstring(L, n > 0 ? text : s, n > 0 ? n : len);
}

/* ==== json ===================================================================================== */

/* Leaves { row, field, message } in result.undecoded. The message is on the top and is popped. */
static void pg_note_undecoded(lua_State *L, const struct pg_cell *cell)
{
    luaL_getsubtable(L, cell->result, "undecoded");
    lua_createtable(L, 0, 3);
    lua_pushinteger(L, cell->row);
    lua_setfield(L, -2, "row");
    lua_pushstring(L, cell->field);
    lua_setfield(L, -2, "field");
    lua_pushvalue(L, -3);
    lua_setfield(L, -2, "message");
    lua_rawseti(L, -2, luaL_len(L, -2) + 1);
    lua_pop(L, 2);
}

/* Pushes a function of atelier.json, which is loaded at first need, or returns 0 and pushes why not. */
static int pg_push_json_function(lua_State *L, const char *name)
{
    static const char key = 0;

    if (lua_rawgetp(L, LUA_REGISTRYINDEX, &key) != LUA_TTABLE) {
        lua_pop(L, 1);
        lua_getglobal(L, "require");
        lua_pushliteral(L, "atelier.json");
        if (lua_pcall(L, 1, 1, 0) != LUA_OK)
            return 0;
        if (!lua_istable(L, -1)) {
            lua_pop(L, 1);
            lua_pushliteral(L, "atelier.json is not a table");
            return 0;
        }
        lua_pushvalue(L, -1);
        lua_rawsetp(L, LUA_REGISTRYINDEX, &key);
    }
    lua_getfield(L, -1, name);
    lua_remove(L, -2);
    return 1;
}

/*
 * A text that the strict decoder refuses (a number beyond a double, too deep) stays text and is noted:
 * one odd row must not spoil the batch that it came in.
 */
static void pg_push_json(lua_State *L, const char *s, size_t len, const struct pg_cell *cell)
{
    if (pg_push_json_function(L, "decode")) {
        lua_pushlstring(L, s, len);
        lua_call(L, 1, 2);
        if (!lua_isnil(L, -2) || lua_isnil(L, -1)) {
            lua_pop(L, 1);
            return;
        }
        lua_remove(L, -2);
    }
    pg_note_undecoded(L, cell);
    lua_pushlstring(L, s, len);
}

/* ==== arrays =================================================================================== */

static unsigned pg_element_type(unsigned oid)
{
    switch (oid) {
    case 1000: return PG_BOOL;
    case 1001: return PG_BYTEA;
    case 1003: return PG_NAME;
    case 1005: return PG_INT2;
    case 1007: return PG_INT4;
    case 1009: return PG_TEXT;
    case 1014: return PG_BPCHAR;
    case 1015: return PG_VARCHAR;
    case 1016: return PG_INT8;
    case 1021: return PG_FLOAT4;
    case 1022: return PG_FLOAT8;
    case 1028: return PG_OID;
    case 1182: return PG_DATE;
    case 1185: return PG_TIMESTAMPTZ;
    case 1231: return PG_NUMERIC;
    case 199: return PG_JSON;
    case 2951: return PG_UUID;
    case 3807: return PG_JSONB;
    default: return 0;
    }
}

/* Pushes the text between quotes without its backslashes; *p stands on the first byte inside. */
static void pg_push_quoted(lua_State *L, const char **p, const char *end)
{
    const char *s = *p, *q = s;
    luaL_Buffer b;
    char *to;
    size_t n = 0;

    while (q < end && *q != '"')
        q += *q == '\\' && q + 1 < end ? 2 : 1;
    to = luaL_buffinitsize(L, &b, (size_t)(q - s));
    for (; s < q; s++) {
        if (*s == '\\' && s + 1 < q)
            s++;
        to[n++] = *s;
    }
    luaL_pushresultsize(&b, n);
    *p = q < end ? q + 1 : end;
}

static void pg_push_element(lua_State *L, unsigned oid, const char **p, const char *end, const struct pg_cell *cell)
{
    const char *s = *p;
    size_t len;

    if (s < end && *s == '"') {
        *p = s + 1;
        pg_push_quoted(L, p, end);
        s = lua_tolstring(L, -1, &len);
        pg_push_value(L, oid, s, len, cell);
        lua_remove(L, -2);
        return;
    }
    while (*p < end && **p != ',' && **p != '}')
        (*p)++;
    len = (size_t)(*p - s);
    if (len == 4 && memcmp(s, "NULL", 4) == 0)
        lua_pushlightuserdata(L, NULL);
    else
        pg_push_value(L, oid, s, len, cell);
}

/* *p stands behind the opening brace; leaves it behind the closing one. */
static void pg_push_braces(lua_State *L, unsigned oid, const char **p, const char *end, const struct pg_cell *cell)
{
    lua_Integer n = 0;

    luaL_checkstack(L, 12, "array");
    lua_newtable(L);
    while (*p < end && **p != '}') {
        if (**p == '{') {
            (*p)++;
            pg_push_braces(L, oid, p, end, cell);
        } else {
            pg_push_element(L, oid, p, end, cell);
        }
        lua_rawseti(L, -2, ++n);
        if (*p < end && **p == ',')
            (*p)++;
    }
    if (*p < end)
        (*p)++;
}

static void pg_push_array(lua_State *L, unsigned oid, const char *s, size_t len, const struct pg_cell *cell)
{
    const char *p = memchr(s, '{', len); /* "[2:3]={…}" says where the index begins; Lua begins at 1 */

    if (p == NULL) {
        lua_pushlstring(L, s, len);
        return;
    }
    p++;
    pg_push_braces(L, oid, &p, s + len, cell);
}

/* ==== any value ================================================================================ */

static void pg_push_value(lua_State *L, unsigned oid, const char *s, size_t len, const struct pg_cell *cell)
{
    unsigned element;

    switch (oid) {
    case PG_TEXT:
    case PG_VARCHAR:
    case PG_UUID:
        lua_pushlstring(L, s, len);
        break;
    case PG_INT2:
    case PG_INT4:
    case PG_INT8:
    case PG_OID:
        pg_push_integer(L, s, len);
        break;
    case PG_BOOL:
        lua_pushboolean(L, s[0] == 't');
        break;
    case PG_FLOAT4:
    case PG_FLOAT8:
        lua_pushnumber(L, strtod(s, NULL));
        break;
    case PG_BYTEA:
        pg_push_bytea(L, s, len);
        break;
    case PG_TIMESTAMPTZ:
        pg_push_timestamp(L, s, len);
        break;
    case PG_JSON:
    case PG_JSONB:
        pg_push_json(L, s, len, cell);
        break;
    default:
        element = pg_element_type(oid);
        if (element != 0)
            pg_push_array(L, element, s, len, cell);
        else
            lua_pushlstring(L, s, len);
    }
}

#endif
