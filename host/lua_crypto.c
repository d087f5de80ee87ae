/***
Cryptography over OpenSSL 3: hashes, key derivation, AES-256-GCM, signatures and their text forms.

Owns the secrets, hashes and keys that Lua holds, wipes what was secret when it goes, and reports
OpenSSL's first error. Must not know any file format, key ring or token: those are Lua's.

Wherever a function takes bytes it takes a string, and a secret as well unless its result would
show those bytes. Failures of OpenSSL itself return `nil, message, "crypto"`.
@module atelier.crypto
*/
#include <lauxlib.h>
#include <lua.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/rand.h>

#include "crypto_codec.h"
#include "crypto_core.h"
#include "crypto_gcm.h"
#include "crypto_hash.h"
#include "crypto_keys.h"
#include "managed.h"

enum { RANDOM_MAX = 1 << 30 };

/* ==== random =================================================================================== */

/***
Random bytes fit for keys.
@function random
@tparam integer n how many, at most 2^30
@treturn[1] string n bytes
@return[2] nil
@treturn[2] string message
@treturn[2] string code "crypto"
*/
static int l_random(lua_State *L)
{
    const lua_Integer n = luaL_checkinteger(L, 1);
    luaL_Buffer b;
    char *out;

    luaL_argcheck(L, n >= 0 && n <= RANDOM_MAX, 1, "must be between 0 and 2^30");
    check_engine(L);
    out = luaL_buffinitsize(L, &b, (size_t)n);
    if (n > 0 && RAND_bytes((unsigned char *)out, (int)n) != 1)
        return fail_openssl(L, "crypto", "random", "generator");
    luaL_pushresultsize(&b, (size_t)n);
    return 1;
}

/***
A random secret: as random, but the bytes never become a Lua string.
@function random_secret
@tparam integer n how many, at most 2^30
@treturn[1] secret n bytes
@return[2] nil
@treturn[2] string message
@treturn[2] string code "crypto"
*/
static int l_random_secret(lua_State *L)
{
    const lua_Integer n = luaL_checkinteger(L, 1);
    struct secret *s;

    luaL_argcheck(L, n >= 0 && n <= RANDOM_MAX, 1, "must be between 0 and 2^30");
    check_engine(L);
    s = new_secret(L, (size_t)n);
    if (n > 0 && RAND_priv_bytes(s->bytes, (int)n) != 1)
        return fail_openssl(L, "crypto", "random_secret", "generator");
    return 1;
}

/* ==== bytes as text ============================================================================ */

static int fail_text(lua_State *L, const char *operation, const struct text_fault *fault)
{
    return fail(L, "encoding", "%s: character %zu: %s", operation, fault->at + 1, fault->reason);
}

/***
Lower-case hexadecimal digits.
@function hex
@tparam string bytes
@treturn string text
*/
static int l_hex(lua_State *L)
{
    const struct bytes b = check_string(L, 1);
    luaL_Buffer out;

    hex_encode(luaL_buffinitsize(L, &out, b.n * 2), b.p, b.n);
    luaL_pushresultsize(&out, b.n * 2);
    return 1;
}

/***
The bytes that hexadecimal digits of either case stand for.
@function unhex
@tparam string text
@treturn[1] string bytes
@return[2] nil
@treturn[2] string message
@treturn[2] string code "encoding"
*/
static int l_unhex(lua_State *L)
{
    const struct bytes b = check_string(L, 1);
    struct text_fault fault = {NULL, 0};
    luaL_Buffer out;

    if (!hex_decode((unsigned char *)luaL_buffinitsize(L, &out, b.n / 2), b.p, b.n, &fault))
        return fail_text(L, "unhex", &fault);
    luaL_pushresultsize(&out, b.n / 2);
    return 1;
}

static int push_base64(lua_State *L, const struct base64_kind *kind)
{
    const struct bytes b = check_string(L, 1);
    const size_t size = base64_encoded_size(b.n, kind);
    luaL_Buffer out;

    base64_encode(luaL_buffinitsize(L, &out, size), b.p, b.n, kind);
    luaL_pushresultsize(&out, size);
    return 1;
}

static int push_unbase64(lua_State *L, const struct base64_kind *kind, const char *operation)
{
    const struct bytes b = check_string(L, 1);
    struct text_fault fault = {NULL, 0};
    size_t written = 0;
    luaL_Buffer out;
    unsigned char *room = (unsigned char *)luaL_buffinitsize(L, &out, b.n / 4 * 3 + 3);

    if (!base64_decode(room, &written, b.p, b.n, kind, &fault))
        return fail_text(L, operation, &fault);
    luaL_pushresultsize(&out, written);
    return 1;
}

/***
Base64 with padding (RFC 4648 section 4), without line breaks.
@function base64_encode
@tparam string bytes
@treturn string text
*/
static int l_base64_encode(lua_State *L)
{
    return push_base64(L, &base64_plain);
}

/***
The bytes of base64. Strict: padding is needed, white space and stray bits are refused.
@function base64_decode
@tparam string text
@treturn[1] string bytes
@return[2] nil
@treturn[2] string message
@treturn[2] string code "encoding"
*/
static int l_base64_decode(lua_State *L)
{
    return push_unbase64(L, &base64_plain, "base64_decode");
}

/***
Base64url without padding (RFC 7515 section 2).
@function base64url_encode
@tparam string bytes
@treturn string text
*/
static int l_base64url_encode(lua_State *L)
{
    return push_base64(L, &base64_url);
}

/***
The bytes of base64url. Strict: padding, white space and stray bits are refused.
@function base64url_decode
@tparam string text
@treturn[1] string bytes
@return[2] nil
@treturn[2] string message
@treturn[2] string code "encoding"
*/
static int l_base64url_decode(lua_State *L)
{
    return push_unbase64(L, &base64_url, "base64url_decode");
}

/***
Crockford's base32 in upper case, most significant bit first, without dashes or check symbol. A last group that is not
full is filled up with zero bits.
@function base32_encode
@tparam string bytes
@treturn string text
@usage crypto.base32_encode(mac):sub(1, 25) -- its first 125 bits
*/
static int l_base32_encode(lua_State *L)
{
    const struct bytes b = check_string(L, 1);
    const size_t size = base32_encoded_size(b.n);
    luaL_Buffer out;

    base32_encode(luaL_buffinitsize(L, &out, size), b.p, b.n);
    luaL_pushresultsize(&out, size);
    return 1;
}

/***
The bytes of Crockford's base32. Case and dashes do not matter; O counts as 0, I and L as 1. Impossible lengths and
stray bits are refused.
@function base32_decode
@tparam string text
@treturn[1] string bytes
@return[2] nil
@treturn[2] string message
@treturn[2] string code "encoding"
*/
static int l_base32_decode(lua_State *L)
{
    const struct bytes b = check_string(L, 1);
    struct text_fault fault = {NULL, 0};
    size_t written = 0;
    luaL_Buffer out;
    unsigned char *room = (unsigned char *)luaL_buffinitsize(L, &out, b.n / 8 * 5 + 5);

    if (!base32_decode(room, &written, b.p, b.n, &fault))
        return fail_text(L, "base32_decode", &fault);
    luaL_pushresultsize(&out, written);
    return 1;
}

/***
Whether two byte strings are the same, in a time that tells nothing about where they differ (their lengths do show).
@function equal
@tparam string|secret a
@tparam string|secret b
@treturn boolean
*/
static int l_equal(lua_State *L)
{
    const struct bytes a = check_bytes(L, 1);
    const struct bytes b = check_bytes(L, 2);

    lua_pushboolean(L, a.n == b.n && CRYPTO_memcmp(a.p, b.p, a.n) == 0);
    return 1;
}

/***
How many secrets, hashes and keys are not closed yet. For tests.
@function live_handles
@treturn integer
*/

/* ==== the module =============================================================================== */

static const luaL_Reg crypto_funcs[] = {
    {"base32_decode", l_base32_decode},
    {"base32_encode", l_base32_encode},
    {"base64_decode", l_base64_decode},
    {"base64_encode", l_base64_encode},
    {"base64url_decode", l_base64url_decode},
    {"base64url_encode", l_base64url_encode},
    {"equal", l_equal},
    {"hex", l_hex},
    {"live_handles", l_live_handles},
    {"random", l_random},
    {"random_secret", l_random_secret},
    {"unhex", l_unhex},
    {NULL, NULL},
};

/* The engine is at the top of the stack and stays there; each function gets it as its upvalue. */
static void register_class(lua_State *L, const char *mt, const luaL_Reg *meta, const luaL_Reg *methods)
{
    const int engine = lua_gettop(L);

    luaL_newmetatable(L, mt);
    lua_pushvalue(L, engine);
    luaL_setfuncs(L, meta, 1);
    lua_newtable(L);
    lua_pushvalue(L, engine);
    luaL_setfuncs(L, methods, 1);
    lua_setfield(L, -2, "__index");
    lua_pop(L, 1);
}

int luaopen_atelier_crypto(lua_State *L);
int luaopen_atelier_crypto(lua_State *L)
{
    static const luaL_Reg *const parts[] = {crypto_funcs, secret_funcs, hash_funcs, gcm_funcs, key_funcs};
    struct engine *e;

    luaL_checkversion(L);
    e = (struct engine *)lua_newuserdatauv(L, sizeof *e, 0);
    memset(e, 0, sizeof *e);
    luaL_newmetatable(L, ENGINE_MT);
    luaL_setfuncs(L, engine_meta, 0); /* again each time: want of memory may have left it empty */
    lua_setmetatable(L, -2);
    ERR_clear_error();
    if (!engine_open(e)) {
        fail_openssl(L, "crypto", "require", "atelier.crypto");
        lua_pop(L, 1); /* the code; the message is below it */
        return lua_error(L);
    }
    register_class(L, SECRET_MT, secret_meta, secret_methods);
    register_class(L, HASH_MT, hash_meta, hash_methods);
    register_class(L, SIGNING_KEY_MT, signing_key_meta, signing_key_methods);
    register_class(L, PUBLIC_KEY_MT, public_key_meta, public_key_methods);
    lua_newtable(L);
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        lua_pushvalue(L, -2);
        luaL_setfuncs(L, parts[i], 1);
    }
    return 1;
}
