/***
AES-256-GCM in memory, and from file to file in constant memory.

Owns nothing between calls: the engine's cipher context is empty again after each. Must not know what is sealed.
@submodule atelier.crypto
*/
#ifndef ATELIER_CRYPTO_GCM_H
#define ATELIER_CRYPTO_GCM_H

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/evp.h>

#include "crypto_core.h"
#include "crypto_hash.h"
#include "crypto_relay.h"
#include "managed.h"

enum {
    AES_KEY_SIZE = 32,
    GCM_NONCE_SIZE = 12,
    GCM_TAG_SIZE = 16,
    EVP_CHUNK = 1 << 30, /* EVP counts in int */
};

/* NIST SP 800-38D: beyond this many bytes under one nonce the counter would come round. */
#define GCM_MAX ((INT64_C(1) << 36) - 32)

/* ==== in memory ================================================================================ */

/* The four arguments that sealing and opening have in common; a file takes the place of the text. */
struct gcm_args {
    struct bytes key;
    struct bytes nonce;
    struct bytes aad;
    struct bytes text;
};

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
static int gcm_start(struct engine *e, int seal, const struct gcm_args *a)
{
    return EVP_CipherInit_ex2(e->cipher, e->gcm, a->key.p, a->nonce.p, seal, NULL) == 1 &&
           gcm_update(e->cipher, NULL, a->aad.p, a->aad.n);
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

static struct gcm_args check_gcm_head(lua_State *L)
{
    struct gcm_args a;

    a.key = check_sized(L, 1, AES_KEY_SIZE, "key must have 32 bytes");
    a.nonce = check_sized(L, 2, GCM_NONCE_SIZE, "nonce must have 12 bytes");
    a.aad = opt_bytes(L, 3);
    a.text = (struct bytes){NULL, 0};
    return a;
}

static struct gcm_args check_gcm(lua_State *L)
{
    struct gcm_args a = check_gcm_head(L);

    a.text = check_bytes(L, 4);
    luaL_argcheck(L, a.text.n <= (uint64_t)GCM_MAX, 4, "must have at most 2^36 - 32 bytes");
    return a;
}

static struct bytes check_gcm_tag(lua_State *L, int arg)
{
    return check_sized(L, arg, GCM_TAG_SIZE, "tag must have 16 bytes");
}

static int fail_tampered(lua_State *L, const char *operation)
{
    ERR_clear_error();
    return fail(L, "tampered", "%s: tag: does not fit key, nonce, associated data and ciphertext", operation);
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
    struct gcm_args a = check_gcm(L);
    struct engine *e = check_engine(L);
    unsigned char tag[GCM_TAG_SIZE];
    luaL_Buffer b;
    unsigned char *out = (unsigned char *)luaL_buffinitsize(L, &b, a.text.n);
    int done;

    a = check_gcm(L);
    done = gcm_start(e, 1, &a) && gcm_update(e->cipher, out, a.text.p, a.text.n) && gcm_take_tag(e, tag);
    gcm_end(e);
    if (!done)
        return fail_openssl(L, "crypto", "gcm_seal", "cipher");
    luaL_pushresultsize(&b, a.text.n);
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
    struct gcm_args a = check_gcm(L);
    struct bytes tag = check_gcm_tag(L, 5);
    struct engine *e = check_engine(L);
    luaL_Buffer b;
    unsigned char *out = (unsigned char *)luaL_buffinitsize(L, &b, a.text.n);
    int good = -1;

    a = check_gcm(L);
    tag = check_gcm_tag(L, 5);
    if (gcm_start(e, 0, &a) && gcm_update(e->cipher, out, a.text.p, a.text.n))
        good = gcm_check_tag(e, tag.p);
    gcm_end(e);
    if (good == 1) {
        luaL_pushresultsize(&b, a.text.n);
        return 1;
    }
    OPENSSL_cleanse(out, a.text.n); /* nobody vouches for it, so nobody may find it in the heap */
    return good == 0 ? fail_tampered(L, "gcm_open") : fail_openssl(L, "crypto", "gcm_open", "cipher");
}

/* ==== file to file ============================================================================= */

enum { WRITE_BACK = 8 * FILE_CHUNK };

enum stream_result { STREAM_DONE = 0, STREAM_READ, STREAM_WRITE, STREAM_SHORT, STREAM_LONG, STREAM_MEMORY, STREAM_CRYPTO };

/* A piece of the source: bytes that Lua keeps, or what is next in a file. */
struct part {
    const char *p;
    FILE *f;      /* NULL: bytes */
    int64_t left; /* -1: to the end of the file */
};

struct stream {
    struct managed *list; /* the parts, when they were a list */
    struct part only;     /* else */
    struct part *parts;
    size_t count;
    FILE *dst;          /* NULL: verify only */
    int write_back;     /* the disk begins at once, lest all be left to the fsync at the end */
    int64_t begun;      /* how much it has begun with */
    EVP_MD_CTX *hash;   /* of the ciphertext; NULL: none */
    struct managed *buffer;
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

static int64_t check_stream_length(lua_State *L, int arg)
{
    static const char *const names[] = {"length", "hash", "write_back", NULL};
    const int64_t length = check_options(L, arg, names) ? option_integer(L, arg, "length", INT64_MIN) : INT64_MIN;

    if (length == INT64_MIN)
        return -1;
    luaL_argcheck(L, length >= 0 && length <= GCM_MAX, arg, "option 'length' must be between 0 and 2^36 - 32");
    return length;
}

/* Leaves the hash on the stack, lest it be collected. */
static EVP_MD_CTX *check_stream_hash(lua_State *L, int arg)
{
    const struct hash *h;

    if (lua_isnoneornil(L, arg) || lua_getfield(L, arg, "hash") == LUA_TNIL)
        return NULL;
    h = (const struct hash *)luaL_testudata(L, -1, HASH_MT);
    if (h == NULL)
        option_error(L, arg, "hash", "a hash");
    luaL_argcheck(L, h->ctx != NULL, arg, "hash is closed");
    return h->ctx;
}

/* One element of a list of parts, at the top of the stack: a string, or {file, length}. */
static void check_part(lua_State *L, int arg, struct stream *s, struct part *part)
{
    const int64_t most = GCM_MAX;
    size_t n = 0;

    if (lua_type(L, -1) == LUA_TSTRING) {
        part->p = lua_tolstring(L, -1, &n);
        part->left = (int64_t)n;
    } else {
        const luaL_Stream *file;

        luaL_argcheck(L, lua_istable(L, -1), arg, "parts must be strings or {file, length}");
        lua_rawgeti(L, -1, 1);
        lua_rawgeti(L, -2, 2);
        file = (const luaL_Stream *)luaL_testudata(L, -2, LUA_FILEHANDLE);
        luaL_argcheck(L, file != NULL && file->closef != NULL && lua_isinteger(L, -1) && lua_tointeger(L, -1) >= 0, arg,
                      "parts must be strings or {file, length}");
        part->f = file->f;
        part->left = lua_tointeger(L, -1);
        lua_pop(L, 2);
    }
    luaL_argcheck(L, part->left <= most && s->length <= most - part->left, arg, "must have at most 2^36 - 32 bytes");
    s->length += part->left;
}

/* The table keeps what the parts point to, and no Lua runs before they are read. */
static void check_parts(lua_State *L, int arg, struct stream *s)
{
    s->count = (size_t)lua_rawlen(L, arg);
    s->parts = s->list->p = calloc(s->count + 1, sizeof *s->parts);
    if (s->parts == NULL)
        luaL_error(L, "not enough memory");
    luaL_argcheck(L, s->length < 0, 6, "option 'length' is for a file");
    s->length = 0;
    for (size_t i = 0; i < s->count; i++) {
        lua_rawgeti(L, arg, (lua_Integer)i + 1);
        check_part(L, arg, s, &s->parts[i]);
        lua_pop(L, 1);
    }
}

static void check_source(lua_State *L, int arg, struct stream *s)
{
    if (s->list != NULL) {
        check_parts(L, arg, s);
        return;
    }
    s->only = (struct part){.f = check_file(L, arg), .left = -1};
    s->parts = &s->only;
    s->count = 1;
}

/* Fills the stream in. The buffer comes first, because all else is pointers (see check_string). */
static struct gcm_args check_stream(lua_State *L, struct stream *s, int options)
{
    size_t size = FILE_CHUNK;

    lua_settop(L, options); /* what is pushed below must not pass for an option table */
    s->length = check_stream_length(L, options);
    if (s->length >= 0 && s->length < FILE_CHUNK)
        size = (size_t)s->length + 1; /* a small file does not pay for a whole chunk */
    s->buffer = managed_new(L, free);
    s->buffer->p = malloc(size);
    s->list = s->seal && lua_istable(L, 4) ? managed_new(L, free) : NULL;
    s->hash = check_stream_hash(L, options);
    s->write_back = !lua_isnoneornil(L, options) && option_boolean(L, options, "write_back", 0);
    check_source(L, 4, s);
    s->dst = !s->seal && lua_isnil(L, 5) ? NULL : check_file(L, 5);
    for (size_t i = 0; i < s->count; i++)
        luaL_argcheck(L, s->dst == NULL || s->parts[i].f != s->dst, 5, "must not be the source");
    return check_gcm_head(L);
}

static enum stream_result stream_fail(struct stream *s, enum stream_result result, int err)
{
    s->err = err != 0 ? err : EIO;
    return result;
}

static int stream_hash(const struct stream *s, const unsigned char *p, size_t n)
{
    return s->hash == NULL || EVP_DigestUpdate(s->hash, p, n) == 1;
}

/* Up to so many bytes of the parts in their order. One that ends before its length ends them all. */
static size_t stream_read(struct stream *s, unsigned char *out, size_t want, int *err)
{
    size_t got = 0;

    *err = 0;
    while (got < want && s->count > 0 && *err == 0) {
        struct part *const part = s->parts;
        const size_t n = part->left >= 0 && part->left < (int64_t)(want - got) ? (size_t)part->left : want - got;
        size_t m = n;

        if (part->f != NULL)
            m = read_fully(part->f, out + got, n, err);
        else if (n > 0)
            memcpy(out + got, part->p, n), part->p += n;
        got += m;
        part->left -= part->left >= 0 ? (int64_t)m : 0;
        if (part->left == 0)
            s->parts++, s->count--;
        else if (m < n)
            s->count = 0;
    }
    return got;
}

static enum stream_result stream_write(struct stream *s, const unsigned char *p, size_t n)
{
    errno = 0;
    if (s->dst != NULL && fwrite(p, 1, n, s->dst) != n)
        return stream_fail(s, STREAM_WRITE, errno);
    s->done += (int64_t)n;
    if (s->write_back && s->dst != NULL && s->done - s->begun >= WRITE_BACK) {
        /* Only advice: what fails here fails again at the fsync. 0 bytes: all that is there and not begun. */
        sync_file_range(fileno(s->dst), 0, 0, SYNC_FILE_RANGE_WRITE);
        s->begun = s->done;
    }
    return STREAM_DONE;
}

/* One chunk, transformed in place. The hash sees ciphertext, so it runs after sealing and before opening. */
static enum stream_result stream_chunk(struct engine *e, struct stream *s, unsigned char *p, size_t n)
{
    if (!s->seal && !stream_hash(s, p, n))
        return STREAM_CRYPTO;
    if (!gcm_update(e->cipher, p, p, n))
        return STREAM_CRYPTO;
    if (s->seal && !stream_hash(s, p, n))
        return STREAM_CRYPTO;
    return stream_write(s, p, n);
}

/* Chunks until the length is reached or the source ends. */
static enum stream_result stream_chunks(struct engine *e, struct stream *s)
{
    const int64_t limit = s->length < 0 ? GCM_MAX + 1 : s->length;
    unsigned char *const p = (unsigned char *)s->buffer->p;
    enum stream_result result = STREAM_DONE;
    size_t got = 1;

    while (result == STREAM_DONE && got != 0 && s->done < limit) {
        const int64_t left = limit - s->done;
        int err;

        got = stream_read(s, p, left < FILE_CHUNK ? (size_t)left : FILE_CHUNK, &err);
        if (err != 0)
            return stream_fail(s, STREAM_READ, err);
        if (s->done + (int64_t)got > GCM_MAX)
            return STREAM_LONG;
        result = stream_chunk(e, s, p, got);
    }
    return result == STREAM_DONE && s->done < s->length ? STREAM_SHORT : result;
}

/* The same for what is sealed and long, with a second thread for the hash. */
static enum stream_result stream_relayed(struct engine *e, struct stream *s, struct relay *r)
{
    enum stream_result result = STREAM_DONE;
    size_t got = 1;
    int err = 0;

    while (result == STREAM_DONE && got != 0 && s->done < s->length) {
        const int64_t left = s->length - s->done;
        unsigned char *const p = relay_buffer(r);

        got = stream_read(s, p, left < FILE_CHUNK ? (size_t)left : FILE_CHUNK, &err);
        if (err != 0) {
            result = stream_fail(s, STREAM_READ, err);
        } else if (!gcm_update(e->cipher, p, p, got)) {
            result = STREAM_CRYPTO;
        } else if (got > 0) {
            relay_pass(r, got);
            result = stream_write(s, p, got);
        }
    }
    if (!relay_end(r) && result == STREAM_DONE)
        return STREAM_CRYPTO;
    return result == STREAM_DONE && s->done < s->length ? STREAM_SHORT : result;
}

/* The whole stream but for the tag. The target is flushed, so that a full disk shows here and not at its close. */
static enum stream_result stream_run(struct engine *e, struct stream *s, const struct gcm_args *a)
{
    enum stream_result result;
    struct relay relay;

    if (s->buffer->p == NULL)
        return STREAM_MEMORY;
    if (!gcm_start(e, s->seal, a))
        return STREAM_CRYPTO;
    if (s->seal && s->hash != NULL && s->length >= RELAY_FROM && relay_start(&relay, s->hash))
        result = stream_relayed(e, s, &relay);
    else
        result = stream_chunks(e, s);
    errno = 0;
    if (result == STREAM_DONE && s->dst != NULL && fflush(s->dst) != 0)
        return stream_fail(s, STREAM_WRITE, errno);
    return result;
}

static int stream_report(lua_State *L, const struct stream *s, enum stream_result result, const char *operation)
{
    switch (result) {
    case STREAM_READ:
        return fail_errno(L, s->err, operation, "source");
    case STREAM_WRITE:
        return fail_errno(L, s->err, operation, "target");
    case STREAM_SHORT:
        return fail(L, "truncated", "%s: source: ends after %lld of %lld bytes", operation, (long long)s->done,
                    (long long)s->length);
    case STREAM_LONG:
        return fail(L, "too_large", "%s: source: has more than 2^36 - 32 bytes", operation);
    case STREAM_MEMORY:
        return fail_errno(L, ENOMEM, operation, "buffer");
    case STREAM_CRYPTO:
    case STREAM_DONE:
        break;
    }
    return fail_openssl(L, "crypto", operation, "cipher");
}

/* Empties what the engine and the stream held; the next call is an ordinary one. */
static void stream_end(struct engine *e, const struct stream *s)
{
    gcm_end(e);
    managed_free(s->buffer);
    if (s->list != NULL)
        managed_free(s->list);
}

/***
Encrypts one open file into another with AES-256-GCM, in constant memory, each from where it stands.
After a failure the target and the hash hold something of no use.
@function gcm_seal_file
@tparam string|secret key 32 bytes
@tparam string nonce 12 bytes
@tparam ?string aad associated data
@tparam file|{string|{file,length},...} source open for reading; or what is sealed as one, in this order
@tparam file target open for writing; flushed at the end
@tparam[opt] table options `length`: how many bytes to read of a file (default: to the end); `hash`: a hash that is fed
the ciphertext; `write_back`: the disk is to begin at once, for a target that will be synced
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
    const struct gcm_args a = check_stream(L, &s, 6);
    unsigned char tag[GCM_TAG_SIZE];
    enum stream_result result = stream_run(e, &s, &a);

    if (result == STREAM_DONE && !gcm_take_tag(e, tag))
        result = STREAM_CRYPTO;
    stream_end(e, &s);
    if (result != STREAM_DONE)
        return stream_report(L, &s, result, "gcm_seal_file");
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
    const struct gcm_args a = check_stream(L, &s, 7);
    const struct bytes tag = check_gcm_tag(L, 6);
    const enum stream_result result = stream_run(e, &s, &a);
    const int good = result == STREAM_DONE ? gcm_check_tag(e, tag.p) : -1;

    stream_end(e, &s);
    if (good < 0)
        return stream_report(L, &s, result, "gcm_open_file");
    if (good == 0)
        return fail_tampered(L, "gcm_open_file");
    lua_pushinteger(L, (lua_Integer)s.done);
    return 1;
}

static const luaL_Reg gcm_funcs[] = {
    {"gcm_open", l_gcm_open},
    {"gcm_open_file", l_gcm_open_file},
    {"gcm_seal", l_gcm_seal},
    {"gcm_seal_file", l_gcm_seal_file},
    {NULL, NULL},
};

#endif
