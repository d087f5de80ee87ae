/***
What the parts of the crypto module share: OpenSSL's contexts, arguments that are bytes, errors, secrets.

Owns the engine, one per Lua state, and the secret class. Must not know the other parts.
@submodule atelier.crypto
*/
#ifndef ATELIER_CRYPTO_CORE_H
#define ATELIER_CRYPTO_CORE_H

#include <stddef.h>
#include <string.h>

#include <lauxlib.h>
#include <lua.h>
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/evp.h>

#include "managed.h"

#define ENGINE_MT "atelier.crypto.engine"
#define SECRET_MT "atelier.crypto.secret"

/* What is fetched and allocated once per Lua state: fetching for each call costs three times an HMAC. */
struct engine {
    EVP_MD *sha256;
    EVP_CIPHER *gcm;
    EVP_MD_CTX *digest; /* scratch of sha256 only, so that it keeps its state allocated */
    EVP_MD_CTX *sign;   /* scratch of signatures; empty between calls */
    EVP_MAC_CTX *mac;   /* HMAC-SHA256, keyed with zeros between calls */
    EVP_CIPHER_CTX *cipher; /* empty between calls */
};

/* The bytes live in the userdata, which Lua never moves, so a wipe reaches the only copy made here. */
struct secret {
    size_t len;
    int open;
    unsigned char bytes[];
};

struct bytes {
    const unsigned char *p;
    size_t n;
};

/* ==== the engine =============================================================================== */

/* HMAC fills a short key up with zeros, so these stand for the empty key too. */
static const unsigned char zero_key[32];

/* The context outlives the call, and what it derived from the key must not. */
static int hmac_forget(struct engine *e)
{
    return EVP_MAC_init(e->mac, zero_key, sizeof zero_key, NULL) == 1;
}

static int l_engine_close(lua_State *L)
{
    struct engine *e = (struct engine *)luaL_checkudata(L, 1, ENGINE_MT);

    EVP_CIPHER_CTX_free(e->cipher);
    EVP_MAC_CTX_free(e->mac);
    EVP_MD_CTX_free(e->sign);
    EVP_MD_CTX_free(e->digest);
    EVP_CIPHER_free(e->gcm);
    EVP_MD_free(e->sha256);
    memset(e, 0, sizeof *e);
    return 0;
}

static int engine_open_mac(struct engine *e)
{
    char name[] = "SHA256";
    const OSSL_PARAM params[] = {OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, name, 0),
                                 OSSL_PARAM_construct_end()};
    EVP_MAC *mac = EVP_MAC_fetch(NULL, "HMAC", NULL);

    e->mac = mac == NULL ? NULL : EVP_MAC_CTX_new(mac);
    EVP_MAC_free(mac); /* the context keeps its own reference */
    return e->mac != NULL && EVP_MAC_CTX_set_params(e->mac, params) == 1 && hmac_forget(e);
}

static int engine_open(struct engine *e)
{
    e->sha256 = EVP_MD_fetch(NULL, "SHA256", NULL);
    e->gcm = EVP_CIPHER_fetch(NULL, "AES-256-GCM", NULL);
    e->digest = EVP_MD_CTX_new();
    e->sign = EVP_MD_CTX_new();
    e->cipher = EVP_CIPHER_CTX_new();
    return e->sha256 != NULL && e->gcm != NULL && e->digest != NULL && e->sign != NULL && e->cipher != NULL &&
           engine_open_mac(e);
}

static const luaL_Reg engine_meta[] = {
    {"__gc", l_engine_close},
    {NULL, NULL},
};

/* ==== arguments and errors ===================================================================== */

/* Each function has the engine as its first upvalue. Only a finaliser that runs late in lua_close sees it closed. */
static struct engine *check_engine(lua_State *L)
{
    struct engine *e = (struct engine *)lua_touserdata(L, lua_upvalueindex(1));

    if (e->cipher == NULL)
        luaL_error(L, "crypto is closed");
    ERR_clear_error();
    return e;
}

static struct secret *check_secret(lua_State *L, int arg)
{
    struct secret *s = (struct secret *)luaL_checkudata(L, arg, SECRET_MT);

    luaL_argcheck(L, s->open, arg, "secret is closed");
    return s;
}

/*
 * The pointers that the functions below return are taken after the last Lua allocation of their caller: an
 * allocation may run finalisers, and one that closes a secret in use would leave a key of zeros behind.
 */

/* A string and nothing that merely converts to one: a number here is a mistake. */
static struct bytes check_string(lua_State *L, int arg)
{
    struct bytes b;

    luaL_checktype(L, arg, LUA_TSTRING);
    b.p = (const unsigned char *)lua_tolstring(L, arg, &b.n);
    return b;
}

static struct bytes check_bytes(lua_State *L, int arg)
{
    if (lua_type(L, arg) == LUA_TUSERDATA && luaL_testudata(L, arg, SECRET_MT) != NULL) {
        const struct secret *s = check_secret(L, arg);
        return (struct bytes){s->bytes, s->len};
    }
    if (lua_type(L, arg) != LUA_TSTRING)
        luaL_typeerror(L, arg, "string or secret");
    return check_string(L, arg);
}

static struct bytes check_sized(lua_State *L, int arg, size_t size, const char *message)
{
    const struct bytes b = check_bytes(L, arg);

    luaL_argcheck(L, b.n == size, arg, message);
    return b;
}

static struct bytes opt_bytes(lua_State *L, int arg)
{
    return lua_isnoneornil(L, arg) ? (struct bytes){(const unsigned char *)"", 0} : check_bytes(L, arg);
}

/* The oldest error in OpenSSL's queue is the cause; those above it are its echoes. */
static int fail_openssl(lua_State *L, const char *code, const char *operation, const char *object)
{
    const unsigned long err = ERR_get_error();
    const char *reason = err == 0 ? NULL : ERR_reason_error_string(err);

    ERR_clear_error();
    return fail(L, code, "%s: %s: %s", operation, object, reason != NULL ? reason : "unknown reason");
}


/* ==== secrets ================================================================================== */

static struct secret *new_secret(lua_State *L, size_t len)
{
    struct secret *s = (struct secret *)lua_newuserdatauv(L, sizeof *s + len, 0);

    s->len = len;
    s->open = 1;
    luaL_setmetatable(L, SECRET_MT);
    managed_live++;
    return s;
}

/***
Puts bytes where they are wiped as soon as they are closed or collected. The string given is Lua's and stays in memory
until it is collected: let it go.
@function secret
@tparam string bytes
@treturn secret a secret
*/
static int l_secret(lua_State *L)
{
    const size_t n = check_bytes(L, 1).n;
    struct secret *s = new_secret(L, n);

    memcpy(s->bytes, check_bytes(L, 1).p, n);
    return 1;
}

/***
The bytes of a secret as a string, which nothing will wipe.
@function secret:reveal
@treturn string bytes
*/
static int l_secret_reveal(lua_State *L)
{
    const struct secret *s = check_secret(L, 1);

    lua_pushlstring(L, (const char *)s->bytes, s->len);
    return 1;
}

/***
Wipes the bytes. Closing twice does nothing.
@function secret:close
*/
static int l_secret_close(lua_State *L)
{
    struct secret *s = (struct secret *)luaL_checkudata(L, 1, SECRET_MT);

    if (s->open) {
        OPENSSL_cleanse(s->bytes, s->len);
        s->open = 0;
        managed_live--;
    }
    return 0;
}

static int l_secret_len(lua_State *L)
{
    lua_pushinteger(L, (lua_Integer)check_secret(L, 1)->len);
    return 1;
}

static int l_secret_tostring(lua_State *L)
{
    const struct secret *s = (const struct secret *)luaL_checkudata(L, 1, SECRET_MT);

    if (s->open)
        lua_pushfstring(L, "secret: %I bytes", (LUAI_UACINT)s->len);
    else
        lua_pushliteral(L, "secret: closed");
    return 1;
}

static const luaL_Reg secret_funcs[] = {
    {"secret", l_secret},
    {NULL, NULL},
};

static const luaL_Reg secret_methods[] = {
    {"close", l_secret_close},
    {"reveal", l_secret_reveal},
    {NULL, NULL},
};

static const luaL_Reg secret_meta[] = {
    {"__close", l_secret_close},
    {"__gc", l_secret_close},
    {"__len", l_secret_len},
    {"__tostring", l_secret_tostring},
    {NULL, NULL},
};

#endif
