/***
Cryptography over OpenSSL 3: hashes, key derivation, AES-256-GCM, signatures and their text forms.

Owns the secrets, hashes and keys that Lua holds, wipes what was secret when it goes, and reports
OpenSSL's first error. Must not know any file format, key ring or token: those are Lua's.

Wherever a function takes bytes it takes a string, and a secret as well unless its result would
show those bytes. Failures of OpenSSL itself return `nil, message, "crypto"`.
@module atelier.crypto
*/
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/rand.h>

#include "crypto_pkey.h"
#include "crypto_text.h"
#include "managed.h"

#define ENGINE_MT "atelier.crypto.engine"
#define SECRET_MT "atelier.crypto.secret"
#define HASH_MT "atelier.crypto.hash"
#define SIGNING_KEY_MT "atelier.crypto.signing_key"
#define PUBLIC_KEY_MT "atelier.crypto.public_key"

enum {
    SHA256_SIZE = 32,
    AES_KEY_SIZE = 32,
    GCM_NONCE_SIZE = 12,
    GCM_TAG_SIZE = 16,
    ED25519_SIZE = 32,       /* of a seed and of a public key */
    ED25519_SIGNATURE = 64,
    HKDF_MAX = 255 * SHA256_SIZE,
    STREAM_CHUNK = 1 << 20,
    EVP_CHUNK = 1 << 30,     /* EVP counts in int */
    RANDOM_MAX = 1 << 30,
};

/* NIST SP 800-38D: beyond this many bytes under one nonce the counter would come round. */
#define GCM_MAX ((INT64_C(1) << 36) - 32)

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

struct hash {
    EVP_MD_CTX *ctx; /* NULL: closed */
};

struct key {
    EVP_PKEY *pkey; /* NULL: closed */
    enum pkey_kind kind;
};

struct bytes {
    const unsigned char *p;
    size_t n;
};

/* ==== arguments and errors ===================================================================== */

/* Each function carries the engine as its first upvalue. Only a finaliser that runs late in lua_close sees it closed. */
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

static struct hash *check_hash(lua_State *L, int arg)
{
    struct hash *h = (struct hash *)luaL_checkudata(L, arg, HASH_MT);

    luaL_argcheck(L, h->ctx != NULL, arg, "hash is closed");
    return h;
}

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

static int fail_text(lua_State *L, const char *operation, const struct text_fault *fault)
{
    return fail(L, "encoding", "%s: character %zu: %s", operation, fault->at + 1, fault->reason);
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
    const struct bytes b = check_bytes(L, 1);

    memcpy(new_secret(L, b.n)->bytes, b.p, b.n);
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
        got = read_fully(f, buffer, STREAM_CHUNK, &err);
        if (err != 0)
            return err;
        if (EVP_DigestUpdate(e->digest, buffer, got) != 1)
            return -1;
        *size += (lua_Integer)got;
    } while (got == STREAM_CHUNK);
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
    buffer->p = malloc(STREAM_CHUNK);
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

/* HMAC fills a short key up with zeros, so these 32 stand for the empty key too. */
static const unsigned char zero_key[SHA256_SIZE];

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

/* The context outlives the call, and what it derived from the key must not. */
static int hmac_forget(struct engine *e)
{
    return EVP_MAC_init(e->mac, zero_key, sizeof zero_key, NULL) == 1;
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
    const struct bytes material = check_bytes(L, 1);
    const struct bytes salt = opt_bytes(L, 2);
    const struct bytes info = opt_bytes(L, 3);
    const lua_Integer length = luaL_checkinteger(L, 4);
    struct engine *e = check_engine(L);
    unsigned char prk[SHA256_SIZE];
    struct secret *s;
    int done;

    luaL_argcheck(L, length >= 1 && length <= HKDF_MAX, 4, "must be between 1 and 8160");
    s = new_secret(L, (size_t)length);
    done = hmac(e, salt, &material, 1, prk) && hkdf_expand(e, prk, info, s->bytes, s->len);
    OPENSSL_cleanse(prk, sizeof prk);
    if (!hmac_forget(e) || !done)
        return fail_openssl(L, "crypto", "hkdf_sha256", "mac");
    return 1;
}

/* ==== AES-256-GCM ============================================================================== */

/* `out` NULL: associated data. May work in place. */
static int gcm_update(EVP_CIPHER_CTX *c, unsigned char *out, const unsigned char *in, size_t len)
{
    for (size_t at = 0; at < len;) {
        const int piece = len - at < EVP_CHUNK ? (int)(len - at) : (int)EVP_CHUNK;
        int n = 0;

        if (EVP_CipherUpdate(c, out == NULL ? NULL : out + at, &n, in + at, piece) != 1)
            return 0;
        at += (size_t)piece;
    }
    return 1;
}

/* Ends with gcm_end, come what may: until then the context holds the key. */
static int gcm_start(struct engine *e, int seal, const unsigned char *key, const unsigned char *nonce, struct bytes aad)
{
    return EVP_CipherInit_ex2(e->cipher, e->gcm, key, nonce, seal, NULL) == 1 &&
           gcm_update(e->cipher, NULL, aad.p, aad.n);
}

static int gcm_take_tag(struct engine *e, unsigned char tag[GCM_TAG_SIZE])
{
    unsigned char none[GCM_TAG_SIZE];
    int n = 0;

    return EVP_CipherFinal_ex(e->cipher, none, &n) == 1 &&
           EVP_CIPHER_CTX_ctrl(e->cipher, EVP_CTRL_AEAD_GET_TAG, GCM_TAG_SIZE, tag) == 1;
}

/* 1: the tag fits, 0: it does not, -1: OpenSSL failed. */
static int gcm_check_tag(struct engine *e, const unsigned char tag[GCM_TAG_SIZE])
{
    unsigned char given[GCM_TAG_SIZE];
    unsigned char none[GCM_TAG_SIZE];
    int n = 0;

    memcpy(given, tag, sizeof given);
    if (EVP_CIPHER_CTX_ctrl(e->cipher, EVP_CTRL_AEAD_SET_TAG, GCM_TAG_SIZE, given) != 1)
        return -1;
    return EVP_CipherFinal_ex(e->cipher, none, &n) == 1;
}

static void gcm_end(struct engine *e)
{
    EVP_CIPHER_CTX_reset(e->cipher);
}

static struct bytes check_gcm_key(lua_State *L)
{
    return check_sized(L, 1, AES_KEY_SIZE, "key must have 32 bytes");
}

static struct bytes check_gcm_nonce(lua_State *L)
{
    return check_sized(L, 2, GCM_NONCE_SIZE, "nonce must have 12 bytes");
}

static struct bytes check_gcm_tag(lua_State *L, int arg)
{
    return check_sized(L, arg, GCM_TAG_SIZE, "tag must have 16 bytes");
}

static struct bytes check_gcm_text(lua_State *L, int arg)
{
    const struct bytes b = check_bytes(L, arg);

    luaL_argcheck(L, b.n <= (uint64_t)GCM_MAX, arg, "must have at most 2^36 - 32 bytes");
    return b;
}

/***
Encrypts with AES-256-GCM. A nonce must never serve twice under one key.
@function gcm_seal
@tparam string|secret key 32 bytes
@tparam string nonce 12 bytes
@tparam ?string aad associated data
@tparam string|secret plaintext
@treturn[1] string ciphertext
@treturn[1] string tag 16 bytes
@return[2] nil
@treturn[2] string message
@treturn[2] string code "crypto"
*/
static int l_gcm_seal(lua_State *L)
{
    const struct bytes key = check_gcm_key(L);
    const struct bytes nonce = check_gcm_nonce(L);
    const struct bytes aad = opt_bytes(L, 3);
    const struct bytes text = check_gcm_text(L, 4);
    struct engine *e = check_engine(L);
    unsigned char tag[GCM_TAG_SIZE];
    luaL_Buffer b;
    unsigned char *out = (unsigned char *)luaL_buffinitsize(L, &b, text.n);
    const int done = gcm_start(e, 1, key.p, nonce.p, aad) && gcm_update(e->cipher, out, text.p, text.n) &&
                     gcm_take_tag(e, tag);

    gcm_end(e);
    if (!done)
        return fail_openssl(L, "crypto", "gcm_seal", "cipher");
    luaL_pushresultsize(&b, text.n);
    lua_pushlstring(L, (const char *)tag, sizeof tag);
    return 2;
}

/***
Decrypts with AES-256-GCM. Nothing is returned unless key, nonce, associated data, ciphertext and tag belong together.
@function gcm_open
@tparam string|secret key 32 bytes
@tparam string nonce 12 bytes
@tparam ?string aad associated data
@tparam string ciphertext
@tparam string tag 16 bytes
@treturn[1] string plaintext
@return[2] nil
@treturn[2] string message
@treturn[2] string code "tampered" or "crypto"
*/
static int l_gcm_open(lua_State *L)
{
    const struct bytes key = check_gcm_key(L);
    const struct bytes nonce = check_gcm_nonce(L);
    const struct bytes aad = opt_bytes(L, 3);
    const struct bytes text = check_gcm_text(L, 4);
    const struct bytes tag = check_gcm_tag(L, 5);
    struct engine *e = check_engine(L);
    luaL_Buffer b;
    unsigned char *out = (unsigned char *)luaL_buffinitsize(L, &b, text.n);
    int good = gcm_start(e, 0, key.p, nonce.p, aad) && gcm_update(e->cipher, out, text.p, text.n) ? 1 : -1;

    if (good == 1)
        good = gcm_check_tag(e, tag.p);
    gcm_end(e);
    if (good == 1) {
        luaL_pushresultsize(&b, text.n);
        return 1;
    }
    OPENSSL_cleanse(out, text.n);
    if (good < 0)
        return fail_openssl(L, "crypto", "gcm_open", "cipher");
    ERR_clear_error();
    return fail(L, "tampered", "gcm_open: tag: does not fit key, nonce, associated data and ciphertext");
}

/* ==== AES-256-GCM, file to file ================================================================ */

enum stream_end { STREAM_DONE = 0, STREAM_READ, STREAM_WRITE, STREAM_SHORT, STREAM_LONG, STREAM_CRYPTO };

struct stream {
    FILE *src;
    FILE *dst;          /* NULL: verify only */
    EVP_MD_CTX *hash;   /* of the ciphertext; NULL: none */
    unsigned char *buffer;
    int64_t length;     /* how much to read; -1: to the end */
    int64_t done;
    int seal;
    int err;            /* errno of STREAM_READ and STREAM_WRITE */
};

/* A handle of Lua's io library; a closed one raises. */
static FILE *check_file(lua_State *L, int arg)
{
    const luaL_Stream *s = (const luaL_Stream *)luaL_checkudata(L, arg, LUA_FILEHANDLE);

    luaL_argcheck(L, s->closef != NULL, arg, "file is closed");
    return s->f;
}

/* Reads the options and leaves the hash on the stack, lest it be collected. */
static void check_stream_options(lua_State *L, int arg, struct stream *s)
{
    static const char *const names[] = {"length", "hash", NULL};

    s->length = -1;
    s->hash = NULL;
    if (!check_options(L, arg, names))
        return;
    s->length = option_integer(L, arg, "length", -1);
    if (lua_getfield(L, arg, "length") != LUA_TNIL)
        luaL_argcheck(L, s->length >= 0 && s->length <= GCM_MAX, arg,
                      "option 'length' must be between 0 and 2^36 - 32");
    lua_pop(L, 1);
    if (lua_getfield(L, arg, "hash") == LUA_TNIL)
        return;
    if (luaL_testudata(L, -1, HASH_MT) == NULL)
        option_error(L, arg, "hash", "a hash");
    s->hash = ((const struct hash *)lua_touserdata(L, -1))->ctx;
    luaL_argcheck(L, s->hash != NULL, arg, "hash is closed");
}

static enum stream_end stream_fail(struct stream *s, enum stream_end end, int err)
{
    s->err = err != 0 ? err : EIO;
    return end;
}

/* One chunk, transformed in place. The hash sees ciphertext, so it runs after sealing and before opening. */
static enum stream_end stream_chunk(struct engine *e, struct stream *s, size_t n)
{
    if (s->hash != NULL && !s->seal && EVP_DigestUpdate(s->hash, s->buffer, n) != 1)
        return STREAM_CRYPTO;
    if (!gcm_update(e->cipher, s->buffer, s->buffer, n))
        return STREAM_CRYPTO;
    if (s->hash != NULL && s->seal && EVP_DigestUpdate(s->hash, s->buffer, n) != 1)
        return STREAM_CRYPTO;
    errno = 0;
    if (s->dst != NULL && fwrite(s->buffer, 1, n, s->dst) != n)
        return stream_fail(s, STREAM_WRITE, errno);
    s->done += (int64_t)n;
    return STREAM_DONE;
}

static enum stream_end stream_run(struct engine *e, struct stream *s)
{
    const int64_t limit = s->length < 0 ? GCM_MAX + 1 : s->length;
    enum stream_end end = STREAM_DONE;
    size_t got = 1;

    while (end == STREAM_DONE && got != 0 && s->done < limit) {
        const int64_t left = limit - s->done;
        int err;

        got = read_fully(s->src, s->buffer, left < STREAM_CHUNK ? (size_t)left : STREAM_CHUNK, &err);
        if (err != 0)
            return stream_fail(s, STREAM_READ, err);
        if (s->done + (int64_t)got > GCM_MAX)
            return STREAM_LONG;
        end = stream_chunk(e, s, got);
    }
    if (end == STREAM_DONE && s->done < s->length)
        return STREAM_SHORT;
    errno = 0;
    if (end == STREAM_DONE && s->dst != NULL && fflush(s->dst) != 0)
        return stream_fail(s, STREAM_WRITE, errno);
    return end;
}

static int stream_report(lua_State *L, const struct stream *s, enum stream_end end, const char *operation)
{
    switch (end) {
    case STREAM_READ:
        return fail_errno(L, s->err, operation, "source");
    case STREAM_WRITE:
        return fail_errno(L, s->err, operation, "target");
    case STREAM_SHORT:
        return fail(L, "truncated", "%s: source: ends after %lld of %lld bytes", operation, (long long)s->done,
                    (long long)s->length);
    case STREAM_LONG:
        return fail(L, "too_large", "%s: source: has more than 2^36 - 32 bytes", operation);
    case STREAM_CRYPTO:
    case STREAM_DONE:
        break;
    }
    return fail_openssl(L, "crypto", operation, "cipher");
}

/* Small files do not pay for a whole chunk. */
static struct managed *new_stream_buffer(lua_State *L, struct stream *s)
{
    const size_t size = s->length >= 0 && s->length < STREAM_CHUNK ? (size_t)s->length + 1 : STREAM_CHUNK;
    struct managed *m = managed_new(L, free);

    m->p = malloc(size);
    s->buffer = (unsigned char *)m->p;
    return m;
}

/***
Encrypts one open file into another with AES-256-GCM, in constant memory, each from where it stands.
After a failure the target and the hash hold something of no use.
@function gcm_seal_file
@tparam string|secret key 32 bytes
@tparam string nonce 12 bytes
@tparam ?string aad associated data
@tparam file source open for reading
@tparam file target open for writing; flushed at the end
@tparam[opt] table options `length`: how many bytes to read (default: to the end); `hash`: a hash that is fed the
ciphertext
@treturn[1] string tag 16 bytes
@treturn[1] integer how many bytes were read and written
@return[2] nil
@treturn[2] string message
@treturn[2] string code an errno symbol, "truncated", "too_large" or "crypto"
*/
static int l_gcm_seal_file(lua_State *L)
{
    struct stream s = {.seal = 1};
    struct engine *e = check_engine(L);
    unsigned char tag[GCM_TAG_SIZE];
    struct managed *buffer;
    struct bytes key, nonce, aad;
    enum stream_end end = STREAM_CRYPTO;

    check_stream_options(L, 6, &s);
    s.src = check_file(L, 4);
    s.dst = check_file(L, 5);
    luaL_argcheck(L, s.src != s.dst, 5, "must not be the source");
    buffer = new_stream_buffer(L, &s);
    key = check_gcm_key(L);
    nonce = check_gcm_nonce(L);
    aad = opt_bytes(L, 3);
    if (buffer->p == NULL)
        return fail_errno(L, ENOMEM, "gcm_seal_file", "buffer");
    if (gcm_start(e, 1, key.p, nonce.p, aad))
        end = stream_run(e, &s);
    if (end == STREAM_DONE && !gcm_take_tag(e, tag))
        end = STREAM_CRYPTO;
    gcm_end(e);
    managed_free(buffer);
    if (end != STREAM_DONE)
        return stream_report(L, &s, end, "gcm_seal_file");
    lua_pushlstring(L, (const char *)tag, sizeof tag);
    lua_pushinteger(L, (lua_Integer)s.done);
    return 2;
}

/***
Decrypts one open file into another with AES-256-GCM, in constant memory, each from where it stands.
The tag can only be checked at the end, so until this returns successfully the target holds bytes that nobody vouches
for: call it without a target first, or write where nobody looks. After a failure the hash is of no use either.
@function gcm_open_file
@tparam string|secret key 32 bytes
@tparam string nonce 12 bytes
@tparam ?string aad associated data
@tparam file source open for reading
@tparam ?file target open for writing, flushed at the end; nil only verifies
@tparam string tag 16 bytes
@tparam[opt] table options as for gcm_seal_file
@treturn[1] integer how many bytes were read
@return[2] nil
@treturn[2] string message
@treturn[2] string code "tampered", an errno symbol, "truncated", "too_large" or "crypto"
*/
static int l_gcm_open_file(lua_State *L)
{
    struct stream s = {.seal = 0};
    struct engine *e = check_engine(L);
    struct managed *buffer;
    struct bytes key, nonce, aad, tag;
    enum stream_end end = STREAM_CRYPTO;
    int good = -1;

    check_stream_options(L, 7, &s);
    s.src = check_file(L, 4);
    s.dst = lua_isnil(L, 5) ? NULL : check_file(L, 5);
    luaL_argcheck(L, s.src != s.dst, 5, "must not be the source");
    tag = check_gcm_tag(L, 6);
    buffer = new_stream_buffer(L, &s);
    key = check_gcm_key(L);
    nonce = check_gcm_nonce(L);
    aad = opt_bytes(L, 3);
    if (buffer->p == NULL)
        return fail_errno(L, ENOMEM, "gcm_open_file", "buffer");
    if (gcm_start(e, 0, key.p, nonce.p, aad))
        end = stream_run(e, &s);
    if (end == STREAM_DONE)
        good = gcm_check_tag(e, tag.p);
    gcm_end(e);
    managed_free(buffer);
    if (end != STREAM_DONE || good < 0)
        return stream_report(L, &s, end, "gcm_open_file");
    ERR_clear_error();
    if (good == 0)
        return fail(L, "tampered",
                    "gcm_open_file: tag: does not fit key, nonce, associated data and ciphertext");
    lua_pushinteger(L, (lua_Integer)s.done);
    return 1;
}

/* ==== keys ===================================================================================== */

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
    const int given = !lua_isnoneornil(L, 1);
    const struct bytes seed = given ? check_sized(L, 1, ED25519_SIZE, "seed must have 32 bytes") : opt_bytes(L, 1);
    struct key *k;

    check_engine(L);
    k = new_key(L, SIGNING_KEY_MT);
    if (!key_acquire(k,
                     given ? EVP_PKEY_new_raw_private_key_ex(NULL, "ED25519", NULL, seed.p, seed.n)
                           : EVP_PKEY_Q_keygen(NULL, NULL, "ED25519"),
                     PKEY_ED25519))
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
    const struct key *k = check_signing_key(L);
    size_t n = ED25519_SIZE;
    struct secret *s;

    check_engine(L);
    s = new_secret(L, n);
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

/* ==== public keys ============================================================================== */

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
    int is;

    lua_pushstring(L, name);
    if (lua_rawget(L, 1) == LUA_TNIL)
        is = absent;
    else
        is = lua_type(L, -1) == LUA_TSTRING && strcmp(lua_tostring(L, -1), text) == 0;
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
    if (why == NULL)
        return fail_openssl(L, "bad_key", "public_key", "key");
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
@treturn[2] string code "bad_key"
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

/* ==== bytes as text ============================================================================ */

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

static const luaL_Reg crypto_funcs[] = {
    {"base32_decode", l_base32_decode},
    {"base32_encode", l_base32_encode},
    {"base64_decode", l_base64_decode},
    {"base64_encode", l_base64_encode},
    {"base64url_decode", l_base64url_decode},
    {"base64url_encode", l_base64url_encode},
    {"ed25519_verify", l_ed25519_verify},
    {"equal", l_equal},
    {"gcm_open", l_gcm_open},
    {"gcm_open_file", l_gcm_open_file},
    {"gcm_seal", l_gcm_seal},
    {"gcm_seal_file", l_gcm_seal_file},
    {"hash", l_hash},
    {"hex", l_hex},
    {"hkdf_sha256", l_hkdf_sha256},
    {"hmac_sha256", l_hmac_sha256},
    {"live_handles", l_live_handles},
    {"public_key", l_public_key},
    {"random", l_random},
    {"random_secret", l_random_secret},
    {"secret", l_secret},
    {"sha256", l_sha256},
    {"sha256_file", l_sha256_file},
    {"signing_key", l_signing_key},
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
    struct engine *e;

    luaL_checkversion(L);
    e = (struct engine *)lua_newuserdatauv(L, sizeof *e, 0);
    memset(e, 0, sizeof *e);
    if (luaL_newmetatable(L, ENGINE_MT))
        luaL_setfuncs(L, engine_meta, 0);
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
    luaL_newlibtable(L, crypto_funcs);
    lua_rotate(L, -2, 1);
    luaL_setfuncs(L, crypto_funcs, 1);
    return 1;
}
