/***
 * Strict JSON.
 *
 * Owns: decoding (by jansson) and a deterministic encoder of its own. What it decodes it can encode again without
 * loss; what JSON cannot say is refused with the place. Must not know what the values mean.
 *
 * `null` is a light userdata with a NULL address, so that other modules make the same value without this one.
 * Tables that came from a JSON array carry `array_mt`: an empty array stays an array.
 *
 * @module atelier.json
 */
#include <float.h>
#include <locale.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>

#include <jansson.h>

#include "managed.h"

#define JSON_ARRAY_MT "atelier.json.array"

#define MAX_DEPTH 200        /* default of decode, and the limit of encode: what is decoded by default encodes */
#define MAX_DEPTH_OPTION 1000 /* each level costs C stack in push_value */
#define MAX_INDENT 16
#define FIRST_BYTES 1024 /* output up to here needs no allocation but the result */
#define FIRST_KEYS 64

/* ==== decoding ================================================================================= */

static void destroy_root(void *p)
{
    managed_live--;
    json_decref((json_t *)p);
}

/*
 * jansson allows 2048 levels and tells no place when it stops; this finds the first bracket that is too deep.
 * Brackets in strings do not count. Broken text is jansson's business, it comes after this.
 */
static const char *find_too_deep(const char *s, size_t len, lua_Integer max_depth)
{
    lua_Integer depth = 0;

    for (size_t i = 0; i < len; i++) {
        if (s[i] == '[' || s[i] == '{') {
            if (++depth > max_depth)
                return s + i;
        } else if (s[i] == ']' || s[i] == '}') {
            depth--;
        } else if (s[i] == '"') {
            for (i++; i < len && s[i] != '"'; i++)
                if (s[i] == '\\')
                    i++;
        }
    }
    return NULL;
}

/* Columns count characters, as jansson's do. */
static int fail_at(lua_State *L, const char *text, const char *at, const char *reason)
{
    int line = 1, column = 1;

    for (const char *p = text; p < at; p++) {
        column += (*p & 0xc0) != 0x80;
        if (*p == '\n') {
            line++;
            column = 1;
        }
    }
    return fail(L, "json", "decode: %d:%d: %s", line, column, reason);
}

static int fail_decode(lua_State *L, json_error_t *e)
{
    char *near = strstr(e->text, " near '");

    if (json_error_code(e) == json_error_out_of_memory)
        return luaL_error(L, "decode: not enough memory");
    if (near != NULL)
        *near = '\0'; /* what follows quotes the input, which may be a secret */
    return fail(L, "json", "decode: %d:%d: %s", e->line, e->column < 1 ? 1 : e->column, e->text);
}

static void push_value(lua_State *L, json_t *v);

static void push_array(lua_State *L, const json_t *v)
{
    size_t n = json_array_size(v);

    luaL_checkstack(L, 4, "decode");
    lua_createtable(L, n < INT32_MAX ? (int)n : 0, 0);
    luaL_setmetatable(L, JSON_ARRAY_MT);
    for (size_t i = 0; i < n; i++) {
        push_value(L, json_array_get(v, i));
        lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
}

static void push_object(lua_State *L, json_t *v)
{
    size_t n = json_object_size(v);

    luaL_checkstack(L, 4, "decode");
    lua_createtable(L, 0, n < INT32_MAX ? (int)n : 0);
    for (void *i = json_object_iter(v); i != NULL; i = json_object_iter_next(v, i)) {
        lua_pushlstring(L, json_object_iter_key(i), json_object_iter_key_len(i));
        push_value(L, json_object_iter_value(i));
        lua_rawset(L, -3);
    }
}

/* May raise: the caller holds the root in a managed object. Recursion is bounded by find_too_deep. */
static void push_value(lua_State *L, json_t *v)
{
    switch (json_typeof(v)) {
    case JSON_OBJECT:
        push_object(L, v);
        break;
    case JSON_ARRAY:
        push_array(L, v);
        break;
    case JSON_STRING:
        lua_pushlstring(L, json_string_value(v), json_string_length(v));
        break;
    case JSON_INTEGER:
        lua_pushinteger(L, json_integer_value(v));
        break;
    case JSON_REAL:
        lua_pushnumber(L, json_real_value(v));
        break;
    case JSON_TRUE:
    case JSON_FALSE:
        lua_pushboolean(L, json_is_true(v));
        break;
    case JSON_NULL:
        lua_pushlightuserdata(L, NULL);
        break;
    }
}

/***
 * Decodes one JSON text, strictly: duplicate keys, NaN, text after the value, invalid UTF-8, a NUL in a key and
 * numbers out of range are refused. Any value may stand at the top. Integers stay integers.
 * @function decode
 * @tparam string text
 * @tparam[opt] table options `max_depth`: levels of nesting allowed, 1 to 1000 (default 200)
 * @return[1] the value; `null` for null
 * @return[2] nil
 * @treturn[2] string message `decode: line:column: reason`, without the input's bytes
 * @treturn[2] string code `json`
 * @usage local t = assert(json.decode('{"a":[1,2.5,null]}'))
 */
static int l_decode(lua_State *L)
{
    static const char *const names[] = {"max_depth", NULL};
    size_t len;
    const char *text, *at;
    struct managed *root;
    json_error_t e;
    lua_Integer max_depth;

    luaL_checktype(L, 1, LUA_TSTRING);
    text = lua_tolstring(L, 1, &len);
    check_options(L, 2, names);
    max_depth = option_integer(L, 2, "max_depth", MAX_DEPTH);
    luaL_argcheck(L, max_depth >= 1 && max_depth <= MAX_DEPTH_OPTION, 2, "option 'max_depth' must be 1 to 1000");
    /* No JSON text has one, but jansson 2.14 overlooks it behind a number or a word. */
    at = memchr(text, '\0', len);
    if (at != NULL)
        return fail_at(L, text, at, "NUL byte");
    at = find_too_deep(text, len, max_depth);
    if (at != NULL)
        return fail_at(L, text, at, lua_pushfstring(L, "more than %d levels deep", (int)max_depth));
    root = managed_new(L, destroy_root);
    root->p = json_loadb(text, len, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY | JSON_ALLOW_NUL, &e);
    if (root->p == NULL)
        return fail_decode(L, &e);
    managed_live++;
    push_value(L, (json_t *)root->p);
    managed_free(root);
    return 1;
}

/* ==== encoding: state ========================================================================== */

struct key {
    const char *s; /* a string that the table in slot + 2 keeps */
    size_t len;
};

/* The way from the top to the value at hand, for messages and for cycles. Lives on the C stack. */
struct frame {
    const struct frame *up;
    const void *table; /* identity only */
    const char *key;   /* NULL in an array */
    size_t key_len;
    lua_Integer index;
};

/*
 * No luaL_Buffer: that wants its box on top of the stack, where the tables being walked are. Growing memory is
 * userdata in two fixed stack slots, so an error frees it; all places in it are offsets, for it moves. A third slot
 * has a table of the keys in use: growing may run a finaliser, which may take them out of the table being written.
 */
struct encoder {
    lua_State *L;
    char *out;
    size_t len, size;
    struct key *keys; /* a stack of the sorted keys of all open objects */
    size_t key_top, key_size;
    int slot; /* stack index of the output; slot + 1 is that of the keys, slot + 2 of what keeps them */
    int indent;
    int depth;
    char first_out[FIRST_BYTES];
    struct key first_keys[FIRST_KEYS];
};

static int encode_value(struct encoder *e, const struct frame *up);

static void *grow(struct encoder *e, int slot, const void *old, size_t used, size_t size)
{
    void *p = lua_newuserdatauv(e->L, size, 0);

    memcpy(p, old, used);
    lua_replace(e->L, slot);
    return p;
}

/* Room for n more bytes. */
static char *reserve(struct encoder *e, size_t n)
{
    if (n > e->size - e->len) {
        size_t size = e->size;

        if (n > SIZE_MAX / 4 || e->len > SIZE_MAX / 4)
            luaL_error(e->L, "encode: result too large");
        while (size - e->len < n)
            size *= 2;
        e->out = grow(e, e->slot, e->out, e->len, size);
        e->size = size;
    }
    return e->out + e->len;
}

static void put_bytes(struct encoder *e, const char *s, size_t n)
{
    memcpy(reserve(e, n), s, n);
    e->len += n;
}

static void put_byte(struct encoder *e, char c)
{
    *reserve(e, 1) = c;
    e->len++;
}

static void put_newline(struct encoder *e)
{
    size_t n = (size_t)e->indent * (size_t)e->depth;

    if (e->indent == 0)
        return;
    put_byte(e, '\n');
    memset(reserve(e, n), ' ', n);
    e->len += n;
}

/* ==== encoding: messages ======================================================================= */

/* Appends one step of the path; what is not a plain name is quoted, cut and cleaned. */
static void path_step(const struct frame *f, char *out, size_t size, size_t *len)
{
    size_t n = f->key_len < 40 ? f->key_len : 40;
    char name[41];
    int plain = n > 0;

    if (f->key == NULL) {
        *len += (size_t)snprintf(out + *len, size - *len, "[%lld]", (long long)f->index);
        return;
    }
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)f->key[i];
        name[i] = c < 0x20 || c > 0x7e || c == '"' ? '?' : (char)c;
        if (!(c == '_' || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9')))
            plain = 0;
    }
    name[n] = '\0';
    *len += (size_t)snprintf(out + *len, size - *len, plain ? ".%s" : "[\"%s\"]", name);
}

static void path_text(const struct frame *f, char *out, size_t size, size_t *len)
{
    if (f->up != NULL)
        path_text(f->up, out, size, len);
    if (*len + 64 < size)
        path_step(f, out, size, len);
    else if (*len + 4 < size)
        *len += (size_t)snprintf(out + *len, size - *len, "..");
}

/* Leaves the error triple on top of the stack and returns -1, which every encode_ function hands up. */
static int refuse(struct encoder *e, const struct frame *f, const char *reason)
{
    char path[512] = "$";
    size_t len = 1;

    luaL_checkstack(e->L, 4, "encode");
    if (f != NULL)
        path_text(f, path, sizeof path, &len);
    fail(e->L, "json", "encode: %s: %s", path, reason);
    return -1;
}

/* ==== encoding: scalars ======================================================================== */

/* Length of the well-formed UTF-8 sequence at s (RFC 3629, table of section 4), or 0. */
static size_t utf8_sequence(const unsigned char *s, size_t left)
{
    unsigned char c = s[0], lo = 0x80, hi = 0xbf;
    size_t n;

    if (c >= 0xc2 && c <= 0xdf)
        n = 2;
    else if (c >= 0xe0 && c <= 0xef)
        n = 3;
    else if (c >= 0xf0 && c <= 0xf4)
        n = 4;
    else
        return 0;
    if (n > left)
        return 0;
    if (c == 0xe0)
        lo = 0xa0; /* overlong */
    else if (c == 0xed)
        hi = 0x9f; /* surrogates */
    else if (c == 0xf0)
        lo = 0x90; /* overlong */
    else if (c == 0xf4)
        hi = 0x8f; /* above U+10FFFF */
    if (s[1] < lo || s[1] > hi)
        return 0;
    for (size_t i = 2; i < n; i++)
        if ((s[i] & 0xc0) != 0x80)
            return 0;
    return n;
}

static void put_escape(struct encoder *e, unsigned char c)
{
    static const char hex[] = "0123456789abcdef";
    static const char from[] = "\"\\\b\f\n\r\t";
    static const char to[] = "\"\\bfnrt";
    const char *p = c != 0 ? strchr(from, c) : NULL;
    char u[6] = {'\\', 'u', '0', '0', hex[c >> 4], hex[c & 15]};

    if (p == NULL) {
        put_bytes(e, u, sizeof u);
        return;
    }
    put_byte(e, '\\');
    put_byte(e, to[p - from]);
}

/* Writes a quoted string; -1 when it is not UTF-8 (nothing pushed). */
static int put_string(struct encoder *e, const char *s, size_t len)
{
    const unsigned char *u = (const unsigned char *)s;
    size_t from = 0, i = 0;

    put_byte(e, '"');
    while (i < len) {
        if (u[i] >= 0x80) {
            size_t n = utf8_sequence(u + i, len - i);
            if (n == 0)
                return -1;
            i += n;
        } else if (u[i] < 0x20 || u[i] == '"' || u[i] == '\\') {
            put_bytes(e, s + from, i - from);
            put_escape(e, u[i]);
            from = ++i;
        } else {
            i++;
        }
    }
    put_bytes(e, s + from, len - from);
    put_byte(e, '"');
    return 0;
}

static void put_integer(struct encoder *e, lua_Integer n)
{
    e->len += (size_t)snprintf(reserve(e, 24), 24, "%lld", (long long)n);
}

/*
 * The shortest digits that read back as the same float. 15 digits suffice for most numbers a person wrote; below
 * DBL_MIN precision shrinks, there fewer may do. A float keeps its point or exponent: 1.0 must not become 1.
 */
static void put_float(struct encoder *e, double x)
{
    char text[40];
    int digits = fabs(x) < DBL_MIN && x != 0 ? 1 : 15;
    int n = 0;

    for (; digits <= 17; digits++) {
        n = snprintf(text, sizeof text, "%.*g", digits, x);
        if (strtod(text, NULL) == x)
            break;
    }
    for (int i = 0; i < n; i++)
        if (text[i] == localeconv()->decimal_point[0])
            text[i] = '.'; /* another locale's comma, after strtod has read it */
    put_bytes(e, text, (size_t)n);
    if (strpbrk(text, ".e") == NULL)
        put_bytes(e, ".0", 2);
}

/* ==== encoding: tables ========================================================================= */

enum shape { SHAPE_ARRAY, SHAPE_OBJECT };

static int is_marked_array(lua_State *L, int idx)
{
    int same = 0;

    if (lua_getmetatable(L, idx)) {
        luaL_getmetatable(L, JSON_ARRAY_MT);
        same = lua_rawequal(L, -1, -2);
        lua_pop(L, 2);
    }
    return same;
}

/* Pushes the string at stack -2, the key that lua_next is at. */
static void push_key(struct encoder *e)
{
    struct key *key;

    if (e->key_top == e->key_size) {
        e->keys = grow(e, e->slot + 1, e->keys, e->key_top * sizeof *e->keys, e->key_size * 2 * sizeof *e->keys);
        e->key_size *= 2;
    }
    lua_pushvalue(e->L, -2);
    lua_rawseti(e->L, e->slot + 2, (lua_Integer)e->key_top + 1);
    key = &e->keys[e->key_top++];
    key->s = lua_tolstring(e->L, -2, &key->len);
}

/*
 * Looks at every key of the table on top. An object's keys are pushed on the key stack; an array's length goes to
 * *n. Returns a shape, or -1 with *reason.
 */
static int survey(struct encoder *e, int marked, lua_Integer *n, const char **reason)
{
    lua_State *L = e->L;
    lua_Integer count = 0, strings = 0, max = 0, k;

    for (lua_pushnil(L); lua_next(L, -2); lua_pop(L, 1)) {
        if (lua_type(L, -2) == LUA_TSTRING) {
            push_key(e);
            strings++;
        } else if (lua_isinteger(L, -2) && (k = lua_tointeger(L, -2)) >= 1) {
            count++;
            max = k > max ? k : max;
        } else {
            *reason = lua_pushfstring(L, "a key is a %s, or a number below 1 or with a fraction", luaL_typename(L, -2));
            return -1;
        }
    }
    *n = count;
    *reason = count > 0 && strings > 0 ? "string and number keys are mixed"
              : max != count           ? "the array has holes"
              : marked && strings > 0  ? "an array has string keys"
                                       : NULL;
    if (*reason != NULL)
        return -1;
    return marked || count > 0 ? SHAPE_ARRAY : SHAPE_OBJECT;
}

static int encode_array(struct encoder *e, struct frame *f, lua_Integer n)
{
    put_byte(e, '[');
    for (f->index = 1; f->index <= n; f->index++) {
        if (f->index > 1)
            put_byte(e, ',');
        put_newline(e);
        lua_rawgeti(e->L, -1, f->index);
        if (encode_value(e, f) < 0)
            return -1;
        lua_pop(e->L, 1);
    }
    e->depth--;
    if (n > 0)
        put_newline(e);
    put_byte(e, ']');
    return 0;
}

static int compare_keys(const void *a, const void *b)
{
    const struct key *x = a, *y = b;
    int c = memcmp(x->s, y->s, x->len < y->len ? x->len : y->len);

    return c != 0 ? c : x->len < y->len ? -1 : x->len > y->len;
}

static int encode_member(struct encoder *e, struct frame *f)
{
    if (memchr(f->key, '\0', f->key_len) != NULL)
        return refuse(e, f, "a NUL in an object key");
    if (put_string(e, f->key, f->key_len) < 0)
        return refuse(e, f, "a key is not valid UTF-8");
    put_byte(e, ':');
    if (e->indent > 0)
        put_byte(e, ' ');
    lua_pushlstring(e->L, f->key, f->key_len);
    lua_rawget(e->L, -2);
    if (encode_value(e, f) < 0)
        return -1;
    lua_pop(e->L, 1);
    return 0;
}

/* The keys from `base` up to the top of the key stack are this object's. */
static int encode_object(struct encoder *e, struct frame *f, size_t base)
{
    size_t top = e->key_top;

    if (top - base > 1)
        qsort(e->keys + base, top - base, sizeof *e->keys, compare_keys);
    put_byte(e, '{');
    for (size_t i = base; i < top; i++) {
        if (i > base)
            put_byte(e, ',');
        put_newline(e);
        f->key = e->keys[i].s;
        f->key_len = e->keys[i].len;
        if (encode_member(e, f) < 0)
            return -1;
    }
    e->depth--;
    if (top > base)
        put_newline(e);
    put_byte(e, '}');
    e->key_top = base;
    return 0;
}

static int encode_table(struct encoder *e, const struct frame *up)
{
    struct frame f = {.up = up, .table = lua_topointer(e->L, -1)};
    size_t base = e->key_top;
    const char *reason;
    lua_Integer n;
    int shape;

    for (const struct frame *a = up; a != NULL; a = a->up)
        if (a->table == f.table)
            return refuse(e, up, "the table contains itself");
    if (e->depth == MAX_DEPTH)
        return refuse(e, up, "more than 200 levels deep");
    luaL_checkstack(e->L, 6, "encode");
    shape = survey(e, is_marked_array(e->L, -1), &n, &reason);
    if (shape < 0)
        return refuse(e, up, reason);
    e->depth++;
    return shape == SHAPE_ARRAY ? encode_array(e, &f, n) : encode_object(e, &f, base);
}

/* Writes the value on top of the stack, which stays there; -1 with the error triple on top. */
static int encode_value(struct encoder *e, const struct frame *up)
{
    lua_State *L = e->L;
    size_t len;
    const char *s;

    switch (lua_type(L, -1)) {
    case LUA_TTABLE:
        return encode_table(e, up);
    case LUA_TSTRING:
        s = lua_tolstring(L, -1, &len);
        return put_string(e, s, len) < 0 ? refuse(e, up, "a string is not valid UTF-8") : 0;
    case LUA_TBOOLEAN:
        put_bytes(e, lua_toboolean(L, -1) ? "true" : "false", lua_toboolean(L, -1) ? 4 : 5);
        return 0;
    case LUA_TNUMBER:
        if (lua_isinteger(L, -1))
            put_integer(e, lua_tointeger(L, -1));
        else if (isfinite(lua_tonumber(L, -1)))
            put_float(e, lua_tonumber(L, -1));
        else
            return refuse(e, up, "NaN and infinity have no JSON form");
        return 0;
    case LUA_TLIGHTUSERDATA:
        if (lua_touserdata(L, -1) == NULL) {
            put_bytes(e, "null", 4);
            return 0;
        }
        /* fall through */
    default:
        return refuse(e, up, lua_pushfstring(L, "a %s has no JSON form", luaL_typename(L, -1)));
    }
}

/***
 * Encodes a value. The same value always gives the same bytes: keys are sorted bytewise. A table marked by `array`,
 * or with the keys 1..n, n > 0, is an array; any other is an object, so a bare `{}` is `{}`. Metamethods are not
 * used. Integers are exact, floats have the fewest digits that read back the same and keep a point or exponent.
 * @function encode
 * @param value any value; `null` for null
 * @tparam[opt] table options `indent`: spaces for each level, 0 to 16 (default 0: one line, no spaces)
 * @treturn[1] string text
 * @return[2] nil
 * @treturn[2] string message `encode: $.path[1]: reason` for NaN, infinity, strings that are not UTF-8, a NUL in a
 *   key, functions and the like, arrays with holes, mixed keys, cycles, more than 200 levels
 * @treturn[2] string code `json`
 * @usage assert(json.encode({b = json.array({}), a = 1.0}) == '{"a":1.0,"b":[]}')
 */
static int l_encode(lua_State *L)
{
    static const char *const names[] = {"indent", NULL};
    lua_Integer indent;
    struct encoder e;

    luaL_checkany(L, 1);
    check_options(L, 2, names);
    indent = option_integer(L, 2, "indent", 0);
    luaL_argcheck(L, indent >= 0 && indent <= MAX_INDENT, 2, "option 'indent' must be 0 to 16");
    lua_settop(L, 2);
    lua_pushnil(L); /* the slots of grow() */
    lua_pushnil(L);
    lua_newtable(L);
    lua_pushvalue(L, 1);
    e.L = L;
    e.out = e.first_out;
    e.size = sizeof e.first_out;
    e.keys = e.first_keys;
    e.key_size = FIRST_KEYS;
    e.len = e.key_top = 0;
    e.slot = 3;
    e.indent = (int)indent;
    e.depth = 0;
    if (encode_value(&e, NULL) < 0)
        return 3;
    lua_pushlstring(L, e.out, e.len);
    return 1;
}

/* ==== arrays =================================================================================== */

/***
 * Marks a table as an array, so that it is one even when empty.
 * @function array
 * @tparam[opt] table t a new one by default; one with another metatable is refused
 * @treturn table t itself
 */
static int l_array(lua_State *L)
{
    if (lua_isnoneornil(L, 1)) {
        lua_settop(L, 0);
        lua_newtable(L);
    }
    luaL_checktype(L, 1, LUA_TTABLE);
    lua_settop(L, 1);
    if (!is_marked_array(L, 1)) {
        if (lua_getmetatable(L, 1))
            return luaL_argerror(L, 1, "the table has another metatable");
        luaL_setmetatable(L, JSON_ARRAY_MT);
    }
    return 1;
}

/***
 * Tells whether a value is a table marked as an array: by `array`, or by coming from a JSON array.
 * @function is_array
 * @param value
 * @treturn boolean
 */
static int l_is_array(lua_State *L)
{
    luaL_checkany(L, 1);
    lua_pushboolean(L, lua_istable(L, 1) && is_marked_array(L, 1));
    return 1;
}

/***
 * The number of native values held; zero outside of a call.
 * @function live_handles
 * @treturn integer
 */

static const luaL_Reg json_funcs[] = {
    {"decode", l_decode},     {"encode", l_encode},
    {"array", l_array},       {"is_array", l_is_array},
    {"live_handles", l_live_handles},
    {NULL, NULL},
};

int luaopen_atelier_json(lua_State *L);

int luaopen_atelier_json(lua_State *L)
{
    luaL_checkversion(L);
    json_object_seed(0); /* now: a process that gives up its rights later may not read randomness then */
    luaL_newlib(L, json_funcs);
    lua_pushlightuserdata(L, NULL);
    lua_setfield(L, -2, "null");
    if (luaL_newmetatable(L, JSON_ARRAY_MT)) {
        lua_pushliteral(L, "json.array");
        lua_setfield(L, -2, "__name");
    }
    lua_setfield(L, -2, "array_mt");
    return 1;
}
