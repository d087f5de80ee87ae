/***
SHA-256 of bytes, pieces and files; HMAC and HKDF over it.

Owns the hash class. Must not know the other users of the engine.
@submodule atelier.crypto
*/
#ifndef ATELIER_CRYPTO_HASH_H
#define ATELIER_CRYPTO_HASH_H

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <lauxlib.h>
#include <lua.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>

#include "crypto_core.h"
#include "managed.h"

#define HASH_MT "atelier.crypto.hash"

enum { SHA256_SIZE = 32, HKDF_MAX = 255 * SHA256_SIZE, FILE_CHUNK = 1 << 20 };

struct hash {
    EVP_MD_CTX *ctx; /* NULL: closed */
};

static struct hash *check_hash(lua_State *L, int arg)
{
    struct hash *h = (struct hash *)luaL_checkudata(L, arg, HASH_MT);

    luaL_argcheck(L, h->ctx != NULL, arg, "hash is closed");
    return h;
}

/* ==== SHA-256 ================================================================================== */

static int digest_start(struct engine *e)
{
    return EVP_DigestInit_ex2(e->digest, e->sha256, NULL) == 1;
}

static int digest_finish(struct engine *e, unsigned char out[SHA256_SIZE])
{
    return EVP_DigestFinal_ex(e->digest, out, NULL) == 1;
}

/***
SHA-256 of some bytes.
@function sha256
@tparam string|secret bytes
@treturn[1] string 32 raw bytes
@return[2] nil
@treturn[2] string message
@treturn[2] string code "crypto"
@usage crypto.hex(crypto.sha256("abc"))
*/
static int l_sha256(lua_State *L)
{
    const struct bytes b = check_bytes(L, 1);
    struct engine *e = check_engine(L);
    unsigned char out[SHA256_SIZE];

    if (!digest_start(e) || EVP_DigestUpdate(e->digest, b.p, b.n) != 1 || !digest_finish(e, out))
        return fail_openssl(L, "crypto", "sha256", "digest");
    lua_pushlstring(L, (const char *)out, sizeof out);
    return 1;
}

static void close_file(void *file)
{
    fclose((FILE *)file);
}

/* Opens without waiting: a FIFO that nobody writes to must not hang the caller. */
static FILE *open_for_reading(const char *path)
{
    const int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    FILE *f = fd < 0 ? NULL : fdopen(fd, "rb");

    if (f == NULL && fd >= 0) {
        const int err = errno;
        close(fd);
        errno = err;
    }
    return f;
}

/* Reads up to `want` bytes, fewer only at the end or on an error; then *err is its errno, else 0. */
static size_t read_fully(FILE *f, unsigned char *out, size_t want, int *err)
{
    size_t got = 0;

    *err = 0;
    while (got < want) {
        errno = 0;
        got += fread(out + got, 1, want - got, f);
        if (got == want || !ferror(f))
            break;
        if (errno != EINTR) {
            *err = errno != 0 ? errno : EIO;
            break;
        }
        clearerr(f);
    }
    return got;
}

/* Feeds the rest of a file to the scratch digest. 0, an errno, or -1 when OpenSSL failed. */
static int digest_file(struct engine *e, FILE *f, unsigned char *buffer, lua_Integer *size)
{
    size_t got;
    int err;

    *size = 0;
    do {
        got = read_fully(f, buffer, FILE_CHUNK, &err);
        if (err != 0)
            return err;
        if (EVP_DigestUpdate(e->digest, buffer, got) != 1)
            return -1;
        *size += (lua_Integer)got;
    } while (got == FILE_CHUNK);
    return 0;
}

/***
SHA-256 of a file, in constant memory.
@function sha256_file
@tparam string path
@treturn[1] string 32 raw bytes
@treturn[1] integer size of the file in bytes
@return[2] nil
@treturn[2] string message
@treturn[2] string code an errno symbol such as "ENOENT", or "crypto"
*/
static int l_sha256_file(lua_State *L)
{
    const struct bytes path = check_string(L, 1);
    const char *const name = (const char *)path.p;
    struct managed *file;
    struct managed *buffer;
    unsigned char out[SHA256_SIZE];
    lua_Integer size = 0;
    int err;
    struct engine *e;

    luaL_argcheck(L, strlen(name) == path.n, 1, "must not contain a zero byte");
    e = check_engine(L);
    buffer = managed_new(L, free);
    file = managed_new(L, close_file);
    buffer->p = malloc(FILE_CHUNK);
    if (buffer->p == NULL)
        return fail_errno(L, ENOMEM, "sha256_file", name);
    file->p = open_for_reading(name);
    if (file->p == NULL)
        return fail_errno(L, errno, "sha256_file", name);
    err = digest_start(e) ? digest_file(e, (FILE *)file->p, (unsigned char *)buffer->p, &size) : -1;
    managed_free(file);
    managed_free(buffer);
    if (err > 0)
        return fail_errno(L, err, "sha256_file", name);
    if (err < 0 || !digest_finish(e, out))
        return fail_openssl(L, "crypto", "sha256_file", name);
    lua_pushlstring(L, (const char *)out, sizeof out);
    lua_pushinteger(L, size);
    return 2;
}

/* Anchored and closed; the caller acquires. */
static struct hash *new_hash(lua_State *L)
{
    struct hash *h = (struct hash *)lua_newuserdatauv(L, sizeof *h, 0);

    h->ctx = NULL;
    luaL_setmetatable(L, HASH_MT);
    return h;
}

static int hash_acquire(struct hash *h)
{
    h->ctx = EVP_MD_CTX_new();
    if (h->ctx != NULL)
        managed_live++;
    return h->ctx != NULL;
}

/***
A SHA-256 to be fed piece by piece.
@function hash
@treturn[1] hash a hash of nothing so far
@return[2] nil
@treturn[2] string message
@treturn[2] string code "crypto"
@usage crypto.hash():update("a", "bc"):digest()
*/
static int l_hash(lua_State *L)
{
    const struct engine *e = check_engine(L);
    struct hash *h = new_hash(L);

    if (!hash_acquire(h) || EVP_DigestInit_ex2(h->ctx, e->sha256, NULL) != 1)
        return fail_openssl(L, "crypto", "hash", "digest");
    return 1;
}

/***
Adds bytes, in the order of the arguments. When one of them is refused, none is added.
@function hash:update
@tparam string|secret ... pieces
@treturn[1] hash the same hash
@return[2] nil
@treturn[2] string message
@treturn[2] string code "crypto"
*/
static int l_hash_update(lua_State *L)
{
    const struct hash *h = check_hash(L, 1);
    const int last = lua_gettop(L);

    check_engine(L);
    for (int i = 2; i <= last; i++)
        check_bytes(L, i);
    for (int i = 2; i <= last; i++) {
        const struct bytes b = check_bytes(L, i);

        if (EVP_DigestUpdate(h->ctx, b.p, b.n) != 1)
            return fail_openssl(L, "crypto", "hash:update", "digest");
    }
    lua_settop(L, 1);
    return 1;
}

/***
A second hash that goes on from the same state.
@function hash:copy
@treturn[1] hash the copy
@return[2] nil
@treturn[2] string message
@treturn[2] string code "crypto"
*/
static int l_hash_copy(lua_State *L)
{
    const struct hash *h = check_hash(L, 1);
    struct hash *copy;

    check_engine(L);
    copy = new_hash(L);
    if (!hash_acquire(copy) || EVP_MD_CTX_copy_ex(copy->ctx, h->ctx) != 1)
        return fail_openssl(L, "crypto", "hash:copy", "digest");
    return 1;
}

/***
The SHA-256 of what was added so far. The hash stays usable: more may be added, and digest called again.
@function hash:digest
@treturn[1] string 32 raw bytes
@return[2] nil
@treturn[2] string message
@treturn[2] string code "crypto"
*/
static int l_hash_digest(lua_State *L)
{
    const struct hash *h = check_hash(L, 1);
    struct engine *e = check_engine(L);
    unsigned char out[SHA256_SIZE];

    if (EVP_MD_CTX_copy_ex(e->digest, h->ctx) != 1 || !digest_finish(e, out))
        return fail_openssl(L, "crypto", "hash:digest", "digest");
    lua_pushlstring(L, (const char *)out, sizeof out);
    return 1;
}

/***
Lets the hash go. Closing twice does nothing.
@function hash:close
*/
static int l_hash_close(lua_State *L)
{
    struct hash *h = (struct hash *)luaL_checkudata(L, 1, HASH_MT);
    EVP_MD_CTX *ctx = h->ctx;

    h->ctx = NULL;
    if (ctx != NULL) {
        EVP_MD_CTX_free(ctx);
        managed_live--;
    }
    return 0;
}

static int l_hash_tostring(lua_State *L)
{
    const struct hash *h = (const struct hash *)luaL_checkudata(L, 1, HASH_MT);

    lua_pushstring(L, h->ctx != NULL ? "hash: sha256" : "hash: closed");
    return 1;
}

/* ==== HMAC and HKDF ============================================================================ */

/* HMAC-SHA256 over the parts in order. */
static int hmac(struct engine *e, struct bytes key, const struct bytes *parts, size_t count,
                unsigned char out[SHA256_SIZE])
{
    size_t n = 0;

    if (key.n == 0)
        key = (struct bytes){zero_key, sizeof zero_key};
    if (EVP_MAC_init(e->mac, key.p, key.n, NULL) != 1)
        return 0;
    for (size_t i = 0; i < count; i++)
        if (EVP_MAC_update(e->mac, parts[i].p, parts[i].n) != 1)
            return 0;
    return EVP_MAC_final(e->mac, out, &n, SHA256_SIZE) == 1;
}

/***
HMAC-SHA256.
@function hmac_sha256
@tparam string|secret key
@tparam string|secret bytes
@treturn[1] string 32 raw bytes
@return[2] nil
@treturn[2] string message
@treturn[2] string code "crypto"
*/
static int l_hmac_sha256(lua_State *L)
{
    const struct bytes key = check_bytes(L, 1);
    const struct bytes data = check_bytes(L, 2);
    struct engine *e = check_engine(L);
    unsigned char out[SHA256_SIZE];
    const int done = hmac(e, key, &data, 1, out);

    if (!hmac_forget(e) || !done)
        return fail_openssl(L, "crypto", "hmac_sha256", "mac");
    lua_pushlstring(L, (const char *)out, sizeof out);
    return 1;
}

/* RFC 5869 section 2.3: T(i) = HMAC(PRK, T(i-1) | info | i), each block 32 bytes. */
static int hkdf_expand(struct engine *e, const unsigned char prk[SHA256_SIZE], struct bytes info, unsigned char *out,
                       size_t len)
{
    unsigned char block[SHA256_SIZE];
    unsigned char counter = 1;
    struct bytes parts[3] = {{block, 0}, info, {&counter, 1}};
    int done = 1;

    for (size_t at = 0; done && at < len; at += SHA256_SIZE, counter++) {
        done = hmac(e, (struct bytes){prk, SHA256_SIZE}, parts, 3, block);
        parts[0].n = SHA256_SIZE;
        memcpy(out + at, block, len - at < SHA256_SIZE ? len - at : SHA256_SIZE);
    }
    OPENSSL_cleanse(block, sizeof block);
    return done;
}

/***
HKDF-SHA256 (RFC 5869), extract and expand.
@function hkdf_sha256
@tparam string|secret secret
@tparam ?string|secret salt absent or empty: 32 zero bytes
@tparam ?string|secret info
@tparam integer length 1 to 8160
@treturn[1] secret the derived bytes
@return[2] nil
@treturn[2] string message
@treturn[2] string code "crypto"
*/
static int l_hkdf_sha256(lua_State *L)
{
    const lua_Integer length = luaL_checkinteger(L, 4);
    struct engine *e = check_engine(L);
    struct bytes material, salt, info;
    unsigned char prk[SHA256_SIZE];
    struct secret *s;
    int done;

    luaL_argcheck(L, length >= 1 && length <= HKDF_MAX, 4, "must be between 1 and 8160");
    s = new_secret(L, (size_t)length);
    material = check_bytes(L, 1);
    salt = opt_bytes(L, 2);
    info = opt_bytes(L, 3);
    done = hmac(e, salt, &material, 1, prk) && hkdf_expand(e, prk, info, s->bytes, s->len);
    OPENSSL_cleanse(prk, sizeof prk);
    if (!hmac_forget(e) || !done)
        return fail_openssl(L, "crypto", "hkdf_sha256", "mac");
    return 1;
}

static const luaL_Reg hash_funcs[] = {
    {"hash", l_hash},
    {"hkdf_sha256", l_hkdf_sha256},
    {"hmac_sha256", l_hmac_sha256},
    {"sha256", l_sha256},
    {"sha256_file", l_sha256_file},
    {NULL, NULL},
};

static const luaL_Reg hash_methods[] = {
    {"close", l_hash_close},
    {"copy", l_hash_copy},
    {"digest", l_hash_digest},
    {"update", l_hash_update},
    {NULL, NULL},
};

static const luaL_Reg hash_meta[] = {
    {"__close", l_hash_close},
    {"__gc", l_hash_close},
    {"__tostring", l_hash_tostring},
    {NULL, NULL},
};

#endif
