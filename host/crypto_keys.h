/***
Ed25519 keys that sign, and public keys that verify, also those of a JWK.

Owns the two key classes; which keys are fit for use is crypto_pkey.h's to say. Must not know tokens.
@submodule atelier.crypto
*/
#ifndef ATELIER_CRYPTO_KEYS_H
#define ATELIER_CRYPTO_KEYS_H

#include <string.h>

#include <lauxlib.h>
#include <lua.h>
#include <openssl/err.h>
#include <openssl/evp.h>

#include "crypto_codec.h"
#include "crypto_core.h"
#include "crypto_pkey.h"
#include "managed.h"

#define SIGNING_KEY_MT "atelier.crypto.signing_key"
#define PUBLIC_KEY_MT "atelier.crypto.public_key"

enum {
    ED25519_SIZE = 32, /* of a seed and of a public key */
    ED25519_SIGNATURE = 64,
};

struct key {
    EVP_PKEY *pkey; /* NULL: closed */
    enum pkey_kind kind;
};

static struct key *check_key(lua_State *L, int arg, const char *mt, const char *closed)
{
    struct key *k = (struct key *)luaL_checkudata(L, arg, mt);

    luaL_argcheck(L, k->pkey != NULL, arg, closed);
    return k;
}

static struct key *check_signing_key(lua_State *L)
{
    return check_key(L, 1, SIGNING_KEY_MT, "signing key is closed");
}

static struct key *check_public_key(lua_State *L)
{
    return check_key(L, 1, PUBLIC_KEY_MT, "public key is closed");
}

/* ==== keys that sign =========================================================================== */

/* Anchored and closed; the caller acquires. */
static struct key *new_key(lua_State *L, const char *mt)
{
    struct key *k = (struct key *)lua_newuserdatauv(L, sizeof *k, 0);

    k->pkey = NULL;
    k->kind = PKEY_REFUSED;
    luaL_setmetatable(L, mt);
    return k;
}

static int key_acquire(struct key *k, EVP_PKEY *pkey, enum pkey_kind kind)
{
    k->pkey = pkey;
    k->kind = kind;
    if (pkey != NULL)
        managed_live++;
    return pkey != NULL;
}

static int key_close(struct key *k)
{
    EVP_PKEY *pkey = k->pkey;

    k->pkey = NULL;
    if (pkey != NULL) {
        EVP_PKEY_free(pkey);
        managed_live--;
    }
    return 0;
}

static int push_raw_public(lua_State *L, const struct key *k, const char *operation)
{
    unsigned char raw[ED25519_SIZE];
    size_t n = sizeof raw;

    if (EVP_PKEY_get_raw_public_key(k->pkey, raw, &n) != 1 || n != sizeof raw)
        return fail_openssl(L, "crypto", operation, "key");
    lua_pushlstring(L, (const char *)raw, n);
    return 1;
}

/***
An Ed25519 key to sign with (RFC 8032).
@function signing_key
@tparam[opt] string|secret seed 32 bytes; absent: a new random key
@treturn[1] signing_key the key
@return[2] nil
@treturn[2] string message
@treturn[2] string code "crypto"
*/
static int l_signing_key(lua_State *L)
{
    struct key *k;
    EVP_PKEY *pkey;

    check_engine(L);
    lua_settop(L, 1);
    k = new_key(L, SIGNING_KEY_MT);
    if (lua_isnil(L, 1)) {
        pkey = EVP_PKEY_Q_keygen(NULL, NULL, "ED25519");
    } else {
        const struct bytes seed = check_sized(L, 1, ED25519_SIZE, "seed must have 32 bytes");
        pkey = EVP_PKEY_new_raw_private_key_ex(NULL, "ED25519", NULL, seed.p, seed.n);
    }
    if (!key_acquire(k, pkey, PKEY_ED25519))
        return fail_openssl(L, "crypto", "signing_key", "key");
    return 1;
}

/***
Signs a message with pure Ed25519.
@function signing_key:sign
@tparam string|secret message
@treturn[1] string 64 bytes
@return[2] nil
@treturn[2] string message
@treturn[2] string code "crypto"
*/
static int l_signing_key_sign(lua_State *L)
{
    const struct key *k = check_signing_key(L);
    const struct bytes message = check_bytes(L, 2);
    struct engine *e = check_engine(L);
    unsigned char sig[ED25519_SIGNATURE];
    size_t n = sizeof sig;
    const int done = EVP_DigestSignInit(e->sign, NULL, NULL, NULL, k->pkey) == 1 &&
                     EVP_DigestSign(e->sign, sig, &n, message.p, message.n) == 1 && n == sizeof sig;

    EVP_MD_CTX_reset(e->sign);
    if (!done)
        return fail_openssl(L, "crypto", "signing_key:sign", "key");
    lua_pushlstring(L, (const char *)sig, n);
    return 1;
}

/***
The public key.
@function signing_key:public
@treturn[1] string 32 raw bytes
@return[2] nil
@treturn[2] string message
@treturn[2] string code "crypto"
*/
static int l_signing_key_public(lua_State *L)
{
    const struct key *k = check_signing_key(L);

    check_engine(L);
    return push_raw_public(L, k, "signing_key:public");
}

/***
The seed, from which signing_key makes the same key again.
@function signing_key:seed
@treturn[1] secret 32 bytes
@return[2] nil
@treturn[2] string message
@treturn[2] string code "crypto"
*/
static int l_signing_key_seed(lua_State *L)
{
    size_t n = ED25519_SIZE;
    const struct key *k;
    struct secret *s;

    check_signing_key(L);
    check_engine(L);
    s = new_secret(L, n);
    k = check_signing_key(L);
    if (EVP_PKEY_get_raw_private_key(k->pkey, s->bytes, &n) != 1 || n != ED25519_SIZE)
        return fail_openssl(L, "crypto", "signing_key:seed", "key");
    return 1;
}

/***
Wipes the key. Closing twice does nothing.
@function signing_key:close
*/
static int l_signing_key_close(lua_State *L)
{
    return key_close((struct key *)luaL_checkudata(L, 1, SIGNING_KEY_MT));
}

static int l_signing_key_tostring(lua_State *L)
{
    const struct key *k = (const struct key *)luaL_checkudata(L, 1, SIGNING_KEY_MT);

    lua_pushstring(L, k->pkey != NULL ? "signing_key: Ed25519" : "signing_key: closed");
    return 1;
}

/***
Checks an Ed25519 signature (RFC 8032, pure).
@function ed25519_verify
@tparam string public 32 raw bytes
@tparam string|secret message
@tparam string signature any length; one that has not 64 bytes is a bad one
@treturn[1] boolean whether it is good
@return[2] nil
@treturn[2] string message
@treturn[2] string code "crypto"
*/
static int l_ed25519_verify(lua_State *L)
{
    const struct bytes raw = check_sized(L, 1, ED25519_SIZE, "public key must have 32 bytes");
    const struct bytes message = check_bytes(L, 2);
    const struct bytes sig = check_string(L, 3);
    struct engine *e = check_engine(L);
    EVP_PKEY *pkey = pkey_from_ed25519(raw.p);
    const int good = pkey == NULL ? -1
                                  : pkey_verify(e->sign, e->sha256, pkey, PKEY_ED25519, message.p, message.n, sig.p,
                                                sig.n);

    EVP_PKEY_free(pkey);
    if (good < 0)
        return fail_openssl(L, "crypto", "ed25519_verify", "key");
    ERR_clear_error();
    lua_pushboolean(L, good);
    return 1;
}

/* ==== keys that verify ========================================================================= */

/*
 * Decodes the base64url member `name` of the JWK at index 1 into `out`. Raw access: a metamethod could run
 * code. Returns the length, 0 when the member is absent, malformed or longer than `max`.
 */
static size_t jwk_bytes(lua_State *L, const char *name, unsigned char *out, size_t max)
{
    struct text_fault fault = {NULL, 0};
    size_t written = 0;
    size_t n = 0;
    const char *text;

    lua_pushstring(L, name);
    text = lua_rawget(L, 1) == LUA_TSTRING ? lua_tolstring(L, -1, &n) : NULL;
    if (text == NULL || n > base64_encoded_size(max, &base64_url) ||
        !base64_decode(out, &written, (const unsigned char *)text, n, &base64_url, &fault))
        written = 0;
    lua_pop(L, 1);
    return written <= max ? written : 0;
}

/* Whether the member is this text; `absent` is the answer when it is not there. */
static int jwk_is(lua_State *L, const char *name, const char *text, int absent)
{
    int is = absent;

    lua_pushstring(L, name);
    if (lua_rawget(L, 1) != LUA_TNIL) {
        lua_pushstring(L, text);
        is = lua_rawequal(L, -1, -2);
        lua_pop(L, 1);
    }
    lua_pop(L, 1);
    return is;
}

static EVP_PKEY *jwk_rsa(lua_State *L, const char **why)
{
    unsigned char n[PKEY_RSA_MAX_BITS / 8 + 2]; /* the decoder may write two bytes more than it keeps */
    unsigned char exponent[PKEY_EXPONENT_MAX_BITS / 8 + 2];
    const size_t n_len = jwk_bytes(L, "n", n, PKEY_RSA_MAX_BITS / 8);
    const size_t e_len = jwk_bytes(L, "e", exponent, PKEY_EXPONENT_MAX_BITS / 8);

    if (n_len > 0 && e_len > 0)
        return pkey_from_rsa(n, n_len, exponent, e_len);
    *why = "an RSA JWK needs n and e in base64url, of at most 8192 and 64 bits";
    return NULL;
}

static EVP_PKEY *jwk_ec(lua_State *L, const char **why)
{
    unsigned char x[34];
    unsigned char y[34];

    if (!jwk_is(L, "crv", "P-256", 0)) {
        *why = "the only EC curve taken is P-256";
        return NULL;
    }
    if (jwk_bytes(L, "x", x, 32) == 32 && jwk_bytes(L, "y", y, 32) == 32)
        return pkey_from_p256(x, y);
    *why = "an EC JWK needs x and y in base64url, of 32 bytes each";
    return NULL;
}

static EVP_PKEY *jwk_okp(lua_State *L, const char **why)
{
    unsigned char x[34];

    if (!jwk_is(L, "crv", "Ed25519", 0)) {
        *why = "the only OKP curve taken is Ed25519";
        return NULL;
    }
    if (jwk_bytes(L, "x", x, 32) == 32)
        return pkey_from_ed25519(x);
    *why = "an OKP JWK needs x in base64url, of 32 bytes";
    return NULL;
}

static EVP_PKEY *pkey_from_jwk(lua_State *L, const char **why)
{
    if (!jwk_is(L, "use", "sig", 1)) {
        *why = "the JWK is not for signatures";
        return NULL;
    }
    if (jwk_is(L, "kty", "RSA", 0))
        return jwk_rsa(L, why);
    if (jwk_is(L, "kty", "EC", 0))
        return jwk_ec(L, why);
    if (jwk_is(L, "kty", "OKP", 0))
        return jwk_okp(L, why);
    *why = "the kty of a JWK must be RSA, EC or OKP";
    return NULL;
}

static EVP_PKEY *pkey_from_argument(lua_State *L, const char **why)
{
    struct bytes text;

    if (lua_istable(L, 1))
        return pkey_from_jwk(L, why);
    text = check_string(L, 1);
    if (text.n > 0 && text.p[0] == 0x30) /* the tag of an ASN.1 SEQUENCE; no PEM file begins with '0' */
        return pkey_from_der(text.p, text.n, why);
    return pkey_from_pem((const char *)text.p, text.n, why);
}

static int fail_public_key(lua_State *L, const char *why)
{
    if (why == NULL || pkey_starved())
        return fail_openssl(L, pkey_starved() ? "crypto" : "bad_key", "public_key", "key");
    ERR_clear_error();
    return fail(L, "bad_key", "public_key: key: %s", why);
}

/***
A key to verify with: Ed25519, EC on P-256, or RSA of 2048 to 8192 bits.
@function public_key
@tparam string|table key PEM or DER of a SubjectPublicKeyInfo, or a JWK (RFC 7517) as a table; members that are not
needed are passed over
@treturn[1] public_key the key
@return[2] nil
@treturn[2] string message
@treturn[2] string code "bad_key", or "crypto" when memory ran out
*/
static int l_public_key(lua_State *L)
{
    const char *why = NULL;
    struct key *k;
    enum pkey_kind kind;

    if (!lua_istable(L, 1) && lua_type(L, 1) != LUA_TSTRING)
        return luaL_typeerror(L, 1, "string or table");
    check_engine(L);
    lua_settop(L, 1);
    k = new_key(L, PUBLIC_KEY_MT);
    if (!key_acquire(k, pkey_from_argument(L, &why), PKEY_REFUSED))
        return fail_public_key(L, why);
    kind = pkey_classify(k->pkey, &why);
    if (kind != PKEY_REFUSED && lua_istable(L, 1) && !jwk_is(L, "alg", pkey_algorithm(kind), 1)) {
        why = "the JWK names an algorithm that its key does not fit";
        kind = PKEY_REFUSED;
    }
    k->kind = kind;
    if (kind != PKEY_REFUSED)
        return 1;
    key_close(k);
    return fail_public_key(L, why);
}

/***
Checks a signature. The key decides the algorithm; the name is what a token claims, and a claim that does not
fit is refused whatever the signature.
@function public_key:verify
@tparam string algorithm "EdDSA", "ES256" (signature is r and s, 64 raw bytes) or "RS256" (PKCS #1 v1.5)
@tparam string|secret message
@tparam string signature any length; one of the wrong form is a bad one
@treturn[1] boolean whether it is good
@return[2] nil
@treturn[2] string message
@treturn[2] string code "wrong_algorithm" or "crypto"
*/
static int l_public_key_verify(lua_State *L)
{
    const struct key *k = check_public_key(L);
    const struct bytes name = check_string(L, 2);
    const struct bytes message = check_bytes(L, 3);
    const struct bytes sig = check_string(L, 4);
    const char *const fits = pkey_algorithm(k->kind);
    struct engine *e = check_engine(L);
    int good;

    if (name.n != strlen(fits) || memcmp(name.p, fits, name.n) != 0)
        return fail(L, "wrong_algorithm", "public_key:verify: algorithm: this key verifies %s only", fits);
    good = pkey_verify(e->sign, e->sha256, k->pkey, k->kind, message.p, message.n, sig.p, sig.n);
    if (good < 0)
        return fail_openssl(L, "crypto", "public_key:verify", "key");
    ERR_clear_error();
    lua_pushboolean(L, good);
    return 1;
}

/***
The algorithm that this key verifies.
@function public_key:algorithm
@treturn string "EdDSA", "ES256" or "RS256"
*/
static int l_public_key_algorithm(lua_State *L)
{
    lua_pushstring(L, pkey_algorithm(check_public_key(L)->kind));
    return 1;
}

/***
The raw bytes of an Ed25519 key.
@function public_key:raw
@treturn[1] string 32 bytes
@return[2] nil
@treturn[2] string message
@treturn[2] string code "wrong_algorithm" when it is a key of another kind, or "crypto"
*/
static int l_public_key_raw(lua_State *L)
{
    const struct key *k = check_public_key(L);

    check_engine(L);
    if (k->kind != PKEY_ED25519)
        return fail(L, "wrong_algorithm", "public_key:raw: key: only an Ed25519 key has a raw form");
    return push_raw_public(L, k, "public_key:raw");
}

/***
Lets the key go. Closing twice does nothing.
@function public_key:close
*/
static int l_public_key_close(lua_State *L)
{
    return key_close((struct key *)luaL_checkudata(L, 1, PUBLIC_KEY_MT));
}

static int l_public_key_tostring(lua_State *L)
{
    const struct key *k = (const struct key *)luaL_checkudata(L, 1, PUBLIC_KEY_MT);

    lua_pushfstring(L, "public_key: %s", k->pkey != NULL ? pkey_algorithm(k->kind) : "closed");
    return 1;
}

static const luaL_Reg key_funcs[] = {
    {"ed25519_verify", l_ed25519_verify},
    {"public_key", l_public_key},
    {"signing_key", l_signing_key},
    {NULL, NULL},
};

static const luaL_Reg signing_key_methods[] = {
    {"close", l_signing_key_close},
    {"public", l_signing_key_public},
    {"seed", l_signing_key_seed},
    {"sign", l_signing_key_sign},
    {NULL, NULL},
};

static const luaL_Reg signing_key_meta[] = {
    {"__close", l_signing_key_close},
    {"__gc", l_signing_key_close},
    {"__tostring", l_signing_key_tostring},
    {NULL, NULL},
};

static const luaL_Reg public_key_methods[] = {
    {"algorithm", l_public_key_algorithm},
    {"close", l_public_key_close},
    {"raw", l_public_key_raw},
    {"verify", l_public_key_verify},
    {NULL, NULL},
};

static const luaL_Reg public_key_meta[] = {
    {"__close", l_public_key_close},
    {"__gc", l_public_key_close},
    {"__tostring", l_public_key_tostring},
    {NULL, NULL},
};

#endif
