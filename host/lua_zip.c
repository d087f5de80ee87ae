/*
 * ZIP archives: written the same way every time, read as if an enemy had made them.
 *
 * Owns: the bindings of libzip and zlib to Lua. The rules for names, the strict reading of a directory and the two
 * byte sources are in zip_*.h, included here alone, so that the module builds as one file.
 * Must not know what the archives are for.
 *
 * @module atelier.zip
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <lauxlib.h>
#include <lua.h>
#include <zip.h>
#include <zlib.h>

#include "managed.h"
#include "zip_directory.h"
#include "zip_feed.h"
#include "zip_names.h"
#include "zip_sink.h"

#define DEFLATER_MT "atelier.zip.deflater"
#define PIECE_MT "atelier.zip.piece"
#define WRITER_MT "atelier.zip.writer"
#define READER_MT "atelier.zip.reader"

/* What a reader accepts unless told otherwise. */
enum { DEFAULT_ENTRIES = 10000, DEFAULT_BYTES = 1 << 30, DEFAULT_RATIO = 1000 };
enum { DEFAULT_LEVEL = 6, PIECE_LEVEL = 9, PASSWORD_LONGEST = 1024 };
/* 1980-01-01, the earliest that the format can say; 00:00; a regular file that all may read. */
enum { FIXED_DATE = 0x0021, FIXED_TIME = 0 };
#define FIXED_ATTRIBUTES ((uint32_t)(S_IFREG | 0644) << 16)

/* A zlib stream and its output, kept for the life of the Lua state: making one costs more than a small file. */
struct deflater {
    z_stream stream;
    int ready;
    unsigned char *out;
    size_t room;
};

/* Immutable. The raw deflate stream of some bytes, or the start of one (last = 0). */
struct piece {
    uint64_t size;
    uint32_t crc;
    int last;
    size_t length;
    unsigned char bytes[];
};

enum writer_state { WRITER_OPEN = 0, WRITER_DONE = 1, WRITER_FAILED = 2 };

/* User value 1: the list of strings, pieces and readers whose bytes libzip reads at close. */
struct writer {
    zip_t *archive; /* NULL unless WRITER_OPEN */
    struct sink sink;
    struct name_set names;
    lua_Integer anchors;
    enum writer_state state;
};

/* User value 1: the string that is read, if it is one. */
struct reader {
    zip_t *archive; /* NULL once closed */
    struct directory directory;
    char *password;
};

struct entry_options {
    int store;
    uint32_t level;
    const char *password;
};

static struct piece *check_piece(lua_State *L, int arg)
{
    return luaL_checkudata(L, arg, PIECE_MT);
}

static struct writer *check_writer(lua_State *L)
{
    struct writer *w = luaL_checkudata(L, 1, WRITER_MT);

    if (w->state != WRITER_OPEN || w->archive == NULL)
        luaL_argerror(L, 1, "zip writer is closed");
    return w;
}

static struct reader *check_reader(lua_State *L, int arg)
{
    struct reader *r = luaL_checkudata(L, arg, READER_MT);

    if (r->archive == NULL)
        luaL_argerror(L, arg, "zip reader is closed");
    return r;
}

/* A string without NUL that is not empty. */
static const char *check_text(lua_State *L, int arg)
{
    size_t len;
    const char *s = luaL_checklstring(L, arg, &len);

    luaL_argcheck(L, len > 0, arg, "must not be empty");
    luaL_argcheck(L, strlen(s) == len, arg, "must not hold a NUL");
    return s;
}

/* The option `password`: NULL, or a string that C can pass on. */
static const char *check_password(lua_State *L, int arg)
{
    size_t len;
    const char *s = option_string(L, arg, "password", &len);

    if (s != NULL && (len == 0 || len > PASSWORD_LONGEST || strlen(s) != len))
        luaL_argerror(L, arg, "option 'password' must have 1 to 1024 bytes and no NUL");
    return s;
}

static FILE *check_file(lua_State *L, int arg)
{
    luaL_Stream *s = luaL_checkudata(L, arg, LUA_FILEHANDLE);

    if (s->closef == NULL)
        luaL_argerror(L, arg, "file is closed");
    return s->f;
}

static int fail_fault(lua_State *L, const struct fault *why, const char *operation, const char *object)
{
    char shown[256];
    return fail(L, why->code, "%s: %s: %s", operation, name_printable(object, strlen(object), shown, sizeof shown),
                why->text);
}

/* ==== pieces =================================================================================== */

static int l_deflater_gc(lua_State *L)
{
    struct deflater *d = luaL_checkudata(L, 1, DEFLATER_MT);

    if (d->ready)
        deflateEnd(&d->stream);
    d->ready = 0;
    free(d->out);
    d->out = NULL;
    d->room = 0;
    return 0;
}

static struct deflater *deflater_get(lua_State *L)
{
    static const char key;
    struct deflater *d;

    if (lua_rawgetp(L, LUA_REGISTRYINDEX, &key) == LUA_TNIL) {
        d = lua_newuserdatauv(L, sizeof *d, 0);
        memset(d, 0, sizeof *d);
        luaL_setmetatable(L, DEFLATER_MT);
        lua_pushvalue(L, -1);
        lua_rawsetp(L, LUA_REGISTRYINDEX, &key);
        lua_remove(L, -2);
    }
    d = lua_touserdata(L, -1);
    lua_pop(L, 1); /* the registry keeps it */
    return d;
}

static int deflater_start(struct deflater *d, int level)
{
    if (!d->ready)
        return deflateInit2(&d->stream, level, Z_DEFLATED, -MAX_WBITS, 8, Z_DEFAULT_STRATEGY) == Z_OK ? d->ready = 1, 0
                                                                                                       : -1;
    return deflateReset(&d->stream) == Z_OK && deflateParams(&d->stream, level, Z_DEFAULT_STRATEGY) == Z_OK ? 0 : -1;
}

static int deflater_reserve(struct deflater *d, size_t room)
{
    unsigned char *out = d->room >= room ? d->out : realloc(d->out, room);

    if (out == NULL)
        return -1;
    d->out = out;
    d->room = d->room >= room ? d->room : room;
    return 0;
}

/* Deflates all of `data` into d->out. The length, or -1 when out of memory. zlib counts in unsigned int. */
static int64_t deflater_run(struct deflater *d, const char *data, size_t len, int level, int last)
{
    const size_t chunk_most = 1u << 30;
    size_t done = 0;
    z_stream *z = &d->stream;
    int flush, full;

    if (deflater_start(d, level) < 0 || deflater_reserve(d, deflateBound(z, len) + 64) < 0)
        return -1;
    z->next_in = (Bytef *)(uintptr_t)data;
    do {
        const size_t chunk = len < chunk_most ? len : chunk_most;
        z->avail_in = (uInt)chunk;
        len -= chunk;
        flush = len > 0 ? Z_NO_FLUSH : last ? Z_FINISH : Z_SYNC_FLUSH;
        do {
            if (d->room - done < 64 && deflater_reserve(d, d->room * 2) < 0)
                return -1;
            const size_t space = d->room - done < chunk_most ? d->room - done : chunk_most;
            z->next_out = d->out + done;
            z->avail_out = (uInt)space;
            deflate(z, flush);
            done += space - z->avail_out;
            full = z->avail_out == 0;
        } while (full);
    } while (len > 0);
    return (int64_t)done;
}

static struct piece *piece_new(lua_State *L, size_t length)
{
    struct piece *p = lua_newuserdatauv(L, sizeof *p + length, 0);

    p->length = length;
    luaL_setmetatable(L, PIECE_MT);
    return p;
}

/* Pushes the piece made of `data`; NULL, with nothing pushed, when out of memory. */
static struct piece *push_deflated(lua_State *L, const char *data, size_t len, int level, int last)
{
    const size_t keep = 4u << 20; /* a larger buffer is not held on to */
    struct deflater *d = deflater_get(L);
    const int64_t length = len == 0 && !last ? 0 : deflater_run(d, data, len, level, last);
    struct piece *p;

    if (length < 0)
        return NULL;
    p = piece_new(L, (size_t)length);
    if (length > 0)
        memcpy(p->bytes, d->out, (size_t)length);
    p->size = len;
    p->crc = (uint32_t)crc32_z(0, (const Bytef *)data, len);
    p->last = last;
    if (d->room > keep) {
        free(d->out);
        d->out = NULL;
        d->room = 0;
    }
    return p;
}

/***
Deflate some bytes once, to add them to many archives.
@function deflate
@tparam string data
@tparam[opt] table options `level` (1 to 9, default 9); `last` (default true): false ends on a byte boundary
without ending the stream, so that `splice` can put another piece behind
@treturn[1] piece an immutable piece
@return[2] nil
@treturn[2] string message
@treturn[2] string code "ENOMEM"
@usage local head = zip.deflate("return {", {last = false})
*/
static int l_deflate(lua_State *L)
{
    static const char *const names[] = {"level", "last", NULL};
    size_t len;
    const char *data = luaL_checklstring(L, 1, &len);
    lua_Integer level;
    int last;

    check_options(L, 2, names);
    level = option_integer(L, 2, "level", PIECE_LEVEL);
    last = option_boolean(L, 2, "last", 1);
    luaL_argcheck(L, level >= 1 && level <= 9, 2, "option 'level' must be from 1 to 9");
    if (push_deflated(L, data, len, (int)level, last) == NULL)
        return fail_errno(L, ENOMEM, "deflate", "data");
    return 1;
}

/***
Join pieces to one, without deflating anything again. All but the last must have been made with `last = false`.
@function splice
@tparam piece head
@tparam piece tail
@tparam[opt] piece ... more pieces
@treturn piece
@usage writer:add_deflated("main.lua", zip.splice(zip.deflate(head, {last = false}), tail))
*/
static int l_splice(lua_State *L)
{
    const int count = lua_gettop(L) < 2 ? 2 : lua_gettop(L);
    size_t length = 0, at = 0;
    struct piece *whole;

    for (int i = 1; i <= count; i++) {
        const struct piece *p = check_piece(L, i);
        luaL_argcheck(L, i == count || !p->last, i, "the piece ends its stream: make it with last = false");
        length += p->length;
    }
    whole = piece_new(L, length);
    whole->size = 0;
    whole->crc = 0;
    whole->last = 0;
    for (int i = 1; i <= count; i++) {
        const struct piece *p = lua_touserdata(L, i);
        memcpy(whole->bytes + at, p->bytes, p->length);
        at += p->length;
        whole->crc = (uint32_t)crc32_combine(whole->crc, p->crc, (z_off_t)p->size);
        whole->size += p->size;
        whole->last = p->last;
    }
    return 1;
}

/***
How many bytes the piece inflates to.
@function piece:size
@treturn integer
*/
static int l_piece_size(lua_State *L)
{
    lua_pushinteger(L, (lua_Integer)check_piece(L, 1)->size);
    return 1;
}

/***
The CRC-32 of the bytes that the piece inflates to.
@function piece:crc32
@treturn integer
*/
static int l_piece_crc32(lua_State *L)
{
    lua_pushinteger(L, (lua_Integer)check_piece(L, 1)->crc);
    return 1;
}

/***
How many bytes the piece takes in an archive.
@function piece:compressed_size
@treturn integer
*/
static int l_piece_compressed_size(lua_State *L)
{
    lua_pushinteger(L, (lua_Integer)check_piece(L, 1)->length);
    return 1;
}

static int l_piece_tostring(lua_State *L)
{
    const struct piece *p = check_piece(L, 1);

    lua_pushfstring(L, "zip piece: %I bytes in %I%s", (LUAI_UACINT)p->size, (LUAI_UACINT)p->length,
                    p->last ? "" : ", to be continued");
    return 1;
}

/* ==== writer =================================================================================== */

/* Lets go of everything. Writes nothing. */
static void writer_release(struct writer *w, enum writer_state state)
{
    if (w->archive != NULL) {
        zip_discard(w->archive);
        managed_live--;
    }
    w->archive = NULL;
    sink_free(&w->sink);
    name_set_free(&w->names);
    if (w->state == WRITER_OPEN)
        w->state = state;
}

/* After any failure the archive is lost: half an archive must never look like a whole one. */
static int writer_fail(lua_State *L, struct writer *w, const struct fault *why, const char *operation, const char *object)
{
    writer_release(w, WRITER_FAILED);
    lua_pushnil(L);
    lua_setiuservalue(L, 1, 1);
    return fail_fault(L, why, operation, object);
}

/* libzip's own fault on the way out, which is never the archive's. */
static int fault_writing(struct fault *why, zip_t *archive)
{
    return fault_zip(why, zip_get_error(archive), "zip");
}

/***
Start a new archive. The same entries give the same bytes: times and attributes are fixed.
@function writer
@tparam[opt] string path the file to make or replace at close; without it the archive is made in memory
@treturn[1] writer
@return[2] nil
@treturn[2] string message
@treturn[2] string code "ENOMEM"
@usage local w = zip.writer(); w:add("a.txt", "text"); local bytes = assert(w:close())
*/
static int l_writer(lua_State *L)
{
    const char *path = lua_isnoneornil(L, 1) ? NULL : check_text(L, 1);
    struct writer *w = lua_newuserdatauv(L, sizeof *w, 1);
    zip_source_t *source = NULL;

    memset(w, 0, sizeof *w);
    luaL_setmetatable(L, WRITER_MT);
    lua_newtable(L);
    lua_setiuservalue(L, -2, 1);
    zip_error_init(&w->sink.error);
    w->sink.expected = 1024;
    if (path == NULL || (w->sink.path = strdup(path)) != NULL)
        source = zip_source_function_create(sink_call, &w->sink, NULL);
    if (source != NULL && (w->archive = zip_open_from_source(source, ZIP_CREATE | ZIP_TRUNCATE, NULL)) == NULL)
        zip_source_free(source);
    if (w->archive == NULL)
        return fail_errno(L, ENOMEM, "writer", path != NULL ? path : "memory");
    managed_live++;
    return 1;
}

static void check_entry_options(lua_State *L, int arg, struct entry_options *o)
{
    static const char *const names[] = {"method", "level", "password", NULL};
    const char *method;
    lua_Integer level;

    *o = (struct entry_options){0, DEFAULT_LEVEL, NULL};
    if (!check_options(L, arg, names))
        return;
    method = option_string(L, arg, "method", NULL);
    level = option_integer(L, arg, "level", DEFAULT_LEVEL);
    o->password = check_password(L, arg);
    luaL_argcheck(L, level >= 1 && level <= 9, arg, "option 'level' must be from 1 to 9");
    if (method != NULL && strcmp(method, "store") != 0 && strcmp(method, "deflate") != 0)
        luaL_argerror(L, arg, "option 'method' must be 'deflate' or 'store'");
    o->store = method != NULL && strcmp(method, "store") == 0;
    o->level = (uint32_t)level;
}

/* Keeps the value at `index` alive until the writer is closed. */
static void writer_anchor(lua_State *L, struct writer *w, int index)
{
    index = lua_absindex(L, index);
    lua_getiuservalue(L, 1, 1);
    lua_pushvalue(L, index);
    lua_rawseti(L, -2, w->anchors + 1);
    lua_pop(L, 1);
    w->anchors++;
}

static int writer_name(struct writer *w, const char *name, size_t len, struct fault *why)
{
    const char *fault = name_fault(name, len);
    enum name_verdict v;

    if (fault != NULL)
        return fault_set(why, "bad_name", "%s", fault);
    v = name_set_add(&w->names, name, len);
    if (v == NAME_NO_MEMORY)
        return fault_errno(why, ENOMEM);
    return v == NAME_FINE ? 0 : fault_set(why, "bad_name", "%s", name_verdict_text(v));
}

/* Hands the source to libzip, which owns it from here on, and sets all that could differ between two runs. */
static int writer_put(struct writer *w, const char *name, zip_source_t *source, const struct entry_options *o,
                      int32_t method, struct fault *why)
{
    zip_int64_t i;
    zip_uint64_t at;

    if (source == NULL)
        return -1;
    if ((i = zip_file_add(w->archive, name, source, ZIP_FL_ENC_UTF_8)) < 0) {
        zip_source_free(source);
        return fault_writing(why, w->archive);
    }
    at = (zip_uint64_t)i;
    if (zip_file_set_dostime(w->archive, at, FIXED_TIME, FIXED_DATE, 0) < 0 ||
        zip_file_set_external_attributes(w->archive, at, 0, ZIP_OPSYS_UNIX, FIXED_ATTRIBUTES) < 0 ||
        (method != ZIP_CM_DEFAULT && zip_set_file_compression(w->archive, at, method, o->level) < 0) ||
        (o->password != NULL && zip_file_set_encryption(w->archive, at, ZIP_EM_AES_256, o->password) < 0))
        return fault_writing(why, w->archive);
    w->sink.encrypted |= o->password != NULL;
    return 0;
}

/* Bytes that are anchored, already packed or to be stored. */
static int writer_put_bytes(struct writer *w, const char *name, const void *data, size_t len, const struct piece *p,
                            const struct entry_options *o, struct fault *why)
{
    struct feed *f = feed_new(FEED_BYTES, len);

    if (f != NULL) {
        f->bytes.data = data;
        if (p != NULL)
            feed_is_packed(f, p->size, p->crc, ZIP_CM_DEFLATE);
    }
    w->sink.expected += len + 512;
    return writer_put(w, name, feed_source(f, why), o, p != NULL ? ZIP_CM_DEFAULT : ZIP_CM_STORE, why);
}

/* Would a reader with the default limits take this for a bomb? */
static int piece_is_bomb(const struct piece *p)
{
    return p->size / DEFAULT_RATIO >= p->length;
}

/***
Add bytes as an entry. What deflates to less than a thousandth is stored, so that a reader's limit lets it pass.
@function writer:add
@tparam string name relative, UTF-8, parts joined by "/"; no two names may meet, also where case does not count
@tparam string data
@tparam[opt] table options `method` ("deflate", the default, or "store"); `level` (1 to 9, default 6); `password`:
encrypts with WinZip AES-256 (AE-2), whose random salt makes each archive differ
@treturn[1] boolean true
@return[2] nil, and the writer is closed
@treturn[2] string message
@treturn[2] string code "bad_name", "ENOMEM", "zip"
*/
static int l_writer_add(lua_State *L)
{
    struct writer *w = check_writer(L);
    size_t name_len, len;
    const char *name = luaL_checklstring(L, 2, &name_len);
    const char *data = luaL_checklstring(L, 3, &len);
    const struct piece *p = NULL;
    struct entry_options o;
    struct fault why;
    int bad = 0;

    check_entry_options(L, 4, &o);
    lua_settop(L, 4);
    if (!o.store && (p = push_deflated(L, data, len, (int)o.level, 1)) == NULL)
        bad = fault_errno(&why, ENOMEM);
    if (p != NULL && piece_is_bomb(p))
        p = NULL;
    writer_anchor(L, w, p != NULL ? 5 : 3);
    if (bad == 0)
        bad = writer_name(w, name, name_len, &why);
    if (bad == 0 && p != NULL)
        bad = writer_put_bytes(w, name, p->bytes, p->length, p, &o, &why);
    else if (bad == 0)
        bad = writer_put_bytes(w, name, data, len, NULL, &o, &why);
    if (bad != 0)
        return writer_fail(L, w, &why, "add", name);
    lua_pushboolean(L, 1);
    return 1;
}

/***
Add a piece as an entry, as it is.
@function writer:add_deflated
@tparam string name see `writer:add`
@tparam piece piece one that ends its stream
@treturn[1] boolean true
@return[2] nil, and the writer is closed
@treturn[2] string message
@treturn[2] string code "bad_name", "ENOMEM", "zip"
*/
static int l_writer_add_deflated(lua_State *L)
{
    static const struct entry_options none = {0, 0, NULL};
    struct writer *w = check_writer(L);
    size_t name_len;
    const char *name = luaL_checklstring(L, 2, &name_len);
    const struct piece *p = check_piece(L, 3);
    struct fault why;

    luaL_argcheck(L, p->last, 3, "the piece does not end its stream: it was made with last = false");
    writer_anchor(L, w, 3);
    if (writer_name(w, name, name_len, &why) < 0 || writer_put_bytes(w, name, p->bytes, p->length, p, &none, &why) < 0)
        return writer_fail(L, w, &why, "add_deflated", name);
    lua_pushboolean(L, 1);
    return 1;
}

static int check_is_regular(int fd, struct stat *st, struct fault *why)
{
    if (fstat(fd, st) < 0)
        return fault_errno(why, errno);
    if (S_ISDIR(st->st_mode))
        return fault_errno(why, EISDIR);
    return S_ISREG(st->st_mode) ? 0 : fault_set(why, "EINVAL", "it is not a regular file");
}

/* A feed that opens the path when libzip wants the bytes, and finds out whether it is still the same file. */
static struct feed *feed_from_path(const char *path, struct fault *why)
{
    const int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    struct stat st;
    struct feed *f = NULL;

    if (fd < 0)
        fault_errno(why, errno);
    else if (check_is_regular(fd, &st, why) == 0) {
        if ((f = feed_new(FEED_PATH, (uint64_t)st.st_size)) == NULL || (f->path = strdup(path)) == NULL) {
            fault_errno(why, ENOMEM);
            free(f);
            f = NULL;
        } else {
            f->device = st.st_dev;
            f->inode = st.st_ino;
        }
    }
    if (fd >= 0)
        close(fd);
    return f;
}

/* A descriptor of our own for an open file; *at is its position. */
static int file_dup(FILE *file, off_t *at, struct stat *st, struct fault *why)
{
    int fd;

    if (fflush(file) != 0 || (*at = ftello(file)) < 0)
        return fault_errno(why, errno);
    if (check_is_regular(fileno(file), st, why) < 0)
        return -1;
    fd = fcntl(fileno(file), F_DUPFD_CLOEXEC, 0);
    return fd < 0 ? fault_errno(why, errno) : fd;
}

static struct feed *feed_from_file(FILE *file, struct fault *why)
{
    struct stat st;
    off_t at = 0;
    const int fd = file_dup(file, &at, &st, why);
    struct feed *f;

    if (fd < 0)
        return NULL;
    if ((f = feed_new(FEED_BYTES, st.st_size > at ? (uint64_t)(st.st_size - at) : 0)) == NULL) {
        close(fd);
        fault_errno(why, ENOMEM);
        return NULL;
    }
    f->bytes.fd = fd;
    f->bytes.base = (uint64_t)at;
    return f;
}

/***
Add a file as an entry. It is read at close, a little at a time, and must not change until then.
@function writer:add_file
@tparam string name see `writer:add`
@tparam string|file source a path, or an open file, which is taken from its present position to its end
@tparam[opt] table options see `writer:add`
@treturn[1] boolean true
@return[2] nil, and the writer is closed
@treturn[2] string message
@treturn[2] string code "bad_name", "zip", or an errno such as "ENOENT"
*/
static int l_writer_add_file(lua_State *L)
{
    struct writer *w = check_writer(L);
    size_t name_len;
    const char *name = luaL_checklstring(L, 2, &name_len);
    const char *path = lua_type(L, 3) == LUA_TSTRING ? check_text(L, 3) : NULL;
    FILE *file = path == NULL ? check_file(L, 3) : NULL;
    struct entry_options o;
    struct feed *f;
    struct fault why;

    check_entry_options(L, 4, &o);
    if (writer_name(w, name, name_len, &why) < 0)
        return writer_fail(L, w, &why, "add_file", name);
    f = path != NULL ? feed_from_path(path, &why) : feed_from_file(file, &why);
    if (f == NULL)
        return writer_fail(L, w, &why, "add_file", path != NULL ? path : name);
    if (writer_put(w, name, feed_source(f, &why), &o, o.store ? ZIP_CM_STORE : ZIP_CM_DEFLATE, &why) < 0)
        return writer_fail(L, w, &why, "add_file", name);
    lua_pushboolean(L, 1);
    return 1;
}

static const struct record *reader_find(const struct reader *r, const char *name, size_t len, struct fault *why)
{
    const zip_int64_t i = strlen(name) == len ? zip_name_locate(r->archive, name, ZIP_FL_ENC_RAW) : -1;

    if (i < 0 || (uint64_t)i >= r->directory.count) {
        fault_set(why, "no_entry", "the archive has no such entry");
        return NULL;
    }
    return r->directory.records + i;
}

/***
Copy an entry of another archive as it is: nothing is inflated, so nothing is verified. The reader must stay open
until the writer is closed.
@function writer:copy
@tparam reader reader
@tparam string name
@treturn[1] boolean true
@return[2] nil, and the writer is closed
@treturn[2] string message
@treturn[2] string code "no_entry", "encrypted", "bad_name", "ENOMEM", "zip"
*/
static int l_writer_copy(lua_State *L)
{
    static const struct entry_options none = {0, 0, NULL};
    struct writer *w = check_writer(L);
    struct reader *r = check_reader(L, 2);
    size_t len;
    const char *name = luaL_checklstring(L, 3, &len);
    struct fault why;
    const struct record *entry = reader_find(r, name, len, &why);
    struct feed *f;

    if (entry != NULL && entry->aes != 0) {
        fault_set(&why, "encrypted", "an encrypted entry cannot be copied");
        entry = NULL;
    }
    if (entry == NULL)
        return writer_fail(L, w, &why, "copy", name);
    writer_anchor(L, w, 2);
    if (writer_name(w, name, len, &why) < 0)
        return writer_fail(L, w, &why, "copy", name);
    if ((f = feed_new(FEED_ENTRY, entry->packed)) != NULL) {
        f->archive = &r->archive;
        f->index = (uint64_t)(entry - r->directory.records);
        feed_is_packed(f, entry->size, entry->crc, entry->method);
    }
    w->sink.expected += entry->packed + 512;
    if (writer_put(w, name, feed_source(f, &why), &none,
                   entry->method == METHOD_STORE ? ZIP_CM_STORE : ZIP_CM_DEFAULT, &why) < 0)
        return writer_fail(L, w, &why, "copy", name);
    lua_pushboolean(L, 1);
    return 1;
}

/* libzip does not write an archive without entries, and would remove the target: so this does. */
static int writer_finish_empty(struct writer *w, struct fault *why)
{
    static const char end[END_SIZE] = "PK\5\6";
    struct sink *s = &w->sink;

    zip_discard(w->archive);
    w->archive = NULL;
    managed_live--;
    if (sink_begin(s) < 0 || sink_write(s, end, sizeof end) < 0 || sink_commit(s) < 0) {
        sink_rollback(s);
        return fault_zip(why, &s->error, "zip");
    }
    return 0;
}

static int writer_finish(struct writer *w, struct fault *why)
{
    if (w->names.count == 0)
        return writer_finish_empty(w, why);
    if (zip_close(w->archive) < 0)
        return fault_writing(why, w->archive); /* the archive is still ours: writer_release discards it */
    w->archive = NULL;
    managed_live--;
    return 0;
}

/***
Write the archive. To a file: into a temporary file beside it, which then takes its name; a failure leaves
nothing behind and the old file untouched. It is not synced to the disk. A second call does nothing.
@function writer:close
@treturn[1] string|boolean the archive when it is made in memory, else true
@return[2] nil
@treturn[2] string message
@treturn[2] string code "closed" (an earlier call failed), "changed" (a file did), "bad_archive" (a copied entry),
"zip", or an errno such as "ENOSPC"
*/
static int l_writer_close(lua_State *L)
{
    struct writer *w = luaL_checkudata(L, 1, WRITER_MT);
    struct fault why;

    if (w->state == WRITER_FAILED)
        return fail(L, "closed", "close: archive: an earlier call failed or discarded it");
    if (w->state == WRITER_OPEN) {
        char *path = w->sink.path;
        if (writer_finish(w, &why) < 0)
            return lua_pushstring(L, path != NULL ? path : "archive"),
                   writer_fail(L, w, &why, "close", lua_tostring(L, -1));
        w->state = WRITER_DONE;
        lua_pushnil(L);
        lua_setiuservalue(L, 1, 1);
        if (path == NULL) {
            lua_pushlstring(L, w->sink.data, (size_t)w->sink.size);
            writer_release(w, WRITER_DONE);
            return 1;
        }
        writer_release(w, WRITER_DONE);
    }
    lua_pushboolean(L, 1);
    return 1;
}

/***
Give the archive up. Nothing is written; what stands at the path stays. Also what the collector does with a writer
that was never closed.
@function writer:discard
*/
static int l_writer_discard(lua_State *L)
{
    struct writer *w = luaL_checkudata(L, 1, WRITER_MT);

    writer_release(w, WRITER_FAILED);
    return 0;
}

static int l_writer_tostring(lua_State *L)
{
    const struct writer *w = luaL_checkudata(L, 1, WRITER_MT);

    if (w->archive != NULL)
        lua_pushfstring(L, "zip writer: open, %I entries", (LUAI_UACINT)w->names.count);
    else
        lua_pushliteral(L, "zip writer: closed");
    return 1;
}

/* ==== reader =================================================================================== */

static void reader_release(struct reader *r)
{
    if (r->archive != NULL) {
        zip_discard(r->archive);
        managed_live--;
    }
    r->archive = NULL;
    directory_free(&r->directory);
    if (r->password != NULL) {
        explicit_bzero(r->password, strlen(r->password));
        free(r->password);
    }
    r->password = NULL;
}

/* Two readings of one archive must agree, or the checks were made on something else. */
static int reader_agrees(const struct reader *r)
{
    const struct directory *d = &r->directory;
    struct zip_stat st;

    if (zip_get_num_entries(r->archive, 0) != (zip_int64_t)d->count)
        return 0;
    for (size_t i = 0; i < d->count; i++) {
        const struct record *e = d->records + i;
        if (zip_stat_index(r->archive, i, ZIP_FL_ENC_RAW, &st) < 0 || st.size != e->size || st.comp_size != e->packed ||
            strlen(st.name) != e->name_length || memcmp(st.name, e->name, e->name_length) != 0)
            return 0;
    }
    return 1;
}

/* Opens what `b` holds; takes its descriptor over, also on failure. */
static int reader_open(struct reader *r, const struct bytes *b, const struct limits *most, struct fault *why)
{
    struct feed *f = feed_new(FEED_BYTES, b->length);
    zip_source_t *source;
    zip_error_t error;

    if (f == NULL) {
        if (b->fd >= 0)
            close(b->fd);
        return fault_errno(why, ENOMEM);
    }
    f->bytes = *b;
    if ((source = feed_source(f, why)) == NULL)
        return -1;
    if (directory_load(b, most, &r->directory, why) < 0) {
        zip_source_free(source);
        return -1;
    }
    f->patches = r->directory.patches;
    f->patch_count = r->directory.patch_count;
    f->budget = r->directory.length * 2 + 4 * TAIL_SIZE;
    zip_error_init(&error);
    if ((r->archive = zip_open_from_source(source, ZIP_RDONLY, &error)) == NULL) {
        fault_zip(why, &error, BAD_ARCHIVE);
        zip_source_free(source);
    } else {
        managed_live++;
        f->patch_count = 0;
        f->budget = UINT64_MAX;
    }
    zip_error_fini(&error);
    if (r->archive != NULL && !reader_agrees(r))
        return fault_set(why, BAD_ARCHIVE, "it can be read in two ways");
    return r->archive != NULL ? 0 : -1;
}

static int bytes_from_path(struct bytes *b, const char *path, struct fault *why)
{
    struct stat st;

    *b = (struct bytes){NULL, open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK), 0, 0};
    if (b->fd < 0)
        return fault_errno(why, errno);
    if (check_is_regular(b->fd, &st, why) < 0) {
        close(b->fd);
        return -1;
    }
    b->length = (uint64_t)st.st_size;
    return 0;
}

static int bytes_from_file(struct bytes *b, FILE *file, struct fault *why)
{
    struct stat st;
    off_t at;

    *b = (struct bytes){NULL, file_dup(file, &at, &st, why), 0, 0};
    if (b->fd < 0)
        return -1;
    b->length = (uint64_t)st.st_size;
    return 0;
}

static uint64_t check_limit(lua_State *L, const char *name, lua_Integer fallback, lua_Integer most)
{
    const lua_Integer n = option_integer(L, 2, name, fallback);

    if (n < 1 || n > most)
        luaL_argerror(L, 2, lua_pushfstring(L, "option '%s' must be from 1 to %I", name, (LUAI_UACINT)most));
    return (uint64_t)n;
}

/* What is to be read, as `open` got it: one of the three. */
struct origin {
    const char *path, *data;
    size_t length;
    FILE *file;
};

/* Leaves the string or file at index 3. */
static void check_origin(lua_State *L, struct origin *o)
{
    static const char *const names[] = {"data", "file", NULL};

    *o = (struct origin){0};
    if (lua_type(L, 1) != LUA_TTABLE) {
        o->path = check_text(L, 1);
        lua_pushvalue(L, 1);
        return;
    }
    check_options(L, 1, names);
    o->data = option_string(L, 1, "data", &o->length);
    if (o->data != NULL) {
        lua_getfield(L, 1, "file");
        luaL_argcheck(L, lua_isnil(L, -1), 1, "give either 'data' or 'file'");
        lua_pop(L, 1);
        lua_getfield(L, 1, "data");
        return;
    }
    lua_getfield(L, 1, "file");
    luaL_argcheck(L, luaL_testudata(L, -1, LUA_FILEHANDLE) != NULL, 1, "must have 'data', a string, or 'file', a file");
    o->file = check_file(L, 3);
}

static int origin_bytes(const struct origin *o, struct bytes *b, struct fault *why)
{
    if (o->path != NULL)
        return bytes_from_path(b, o->path, why);
    if (o->file != NULL)
        return bytes_from_file(b, o->file, why);
    *b = (struct bytes){o->data, -1, 0, o->length};
    return 0;
}

/***
Open an archive that nobody has reason to trust. All of its directory is checked here: safe names that cannot
meet on any file system, regular files only, no shared bytes, sizes within the limits.
@function open
@tparam string|table source a path; `{data = string}`; or `{file = an open file}`, read as a whole wherever it stands
@tparam[opt] table options `entries` (default 10000), `bytes` that all files have together (default 1 GiB), `ratio`
of a file's size to its compressed size (default 1000), `password`
@treturn[1] reader
@return[2] nil
@treturn[2] string message
@treturn[2] string code "bad_archive", or an errno such as "ENOENT"
@usage local r = assert(zip.open({data = bytes})); local text = assert(r:read("main.lua"))
*/
static int l_open(lua_State *L)
{
    static const char *const names[] = {"entries", "bytes", "ratio", "password", NULL};
    struct limits most;
    struct origin origin;
    struct reader *r;
    struct bytes b;
    struct fault why;
    const char *password;

    lua_settop(L, 2);
    check_options(L, 2, names);
    most.entries = check_limit(L, "entries", DEFAULT_ENTRIES, INT32_MAX);
    most.bytes = check_limit(L, "bytes", DEFAULT_BYTES, INT64_MAX);
    most.ratio = check_limit(L, "ratio", DEFAULT_RATIO, INT32_MAX);
    password = check_password(L, 2);
    check_origin(L, &origin);
    r = lua_newuserdatauv(L, sizeof *r, 1);
    memset(r, 0, sizeof *r);
    luaL_setmetatable(L, READER_MT);
    if (origin.data != NULL) {
        lua_pushvalue(L, 3);
        lua_setiuservalue(L, -2, 1);
    }
    if (password != NULL && (r->password = strdup(password)) == NULL)
        return fail_errno(L, ENOMEM, "open", "password");
    if (origin_bytes(&origin, &b, &why) == 0 && reader_open(r, &b, &most, &why) == 0)
        return 1;
    reader_release(r);
    return fail_fault(L, &why, "open", origin.path != NULL ? origin.path : "archive");
}

static void push_entry(lua_State *L, const struct record *e)
{
    static const char *const keys[] = {"none", "none", "aes-128", "aes-192", "aes-256"};

    lua_createtable(L, 0, 6);
    lua_pushlstring(L, e->name, e->name_length);
    lua_setfield(L, -2, "name");
    lua_pushinteger(L, (lua_Integer)e->size);
    lua_setfield(L, -2, "size");
    lua_pushinteger(L, (lua_Integer)e->packed);
    lua_setfield(L, -2, "compressed_size");
    lua_pushinteger(L, (lua_Integer)e->crc);
    lua_setfield(L, -2, "crc32");
    lua_pushstring(L, e->method == METHOD_STORE ? "store" : "deflate");
    lua_setfield(L, -2, "method");
    lua_pushstring(L, keys[e->aes]);
    lua_setfield(L, -2, "encryption");
}

/***
The entries in their order, each `{name, size, compressed_size, crc32, method, encryption}`: method "store" or
"deflate"; encryption "none", "aes-128", "aes-192" or "aes-256"; crc32 is 0 where AE-2 has none.
@function reader:entries
@treturn {table,...}
*/
static int l_reader_entries(lua_State *L)
{
    const struct reader *r = check_reader(L, 1);

    lua_createtable(L, (int)r->directory.count, 0);
    for (size_t i = 0; i < r->directory.count; i++) {
        push_entry(L, r->directory.records + i);
        lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
    return 1;
}

/* One entry on its way out: to memory of exactly its declared size, or to a file. */
struct pump {
    const struct record *entry;
    zip_file_t *from;
    char *to;
    FILE *file;
    uint64_t written;
    uint32_t crc;
    unsigned char in[32 * 1024], out[32 * 1024];
};

static int pump_read(struct pump *p, struct fault *why)
{
    const zip_int64_t n = zip_fread(p->from, p->in, sizeof p->in);

    if (n < 0)
        return fault_zip(why, zip_file_get_error(p->from), BAD_ARCHIVE);
    return (int)n;
}

static int pump_write(struct pump *p, const unsigned char *data, size_t n, struct fault *why)
{
    if (n > p->entry->size - p->written)
        return fault_set(why, BAD_ARCHIVE, "it holds more bytes than it declares");
    p->crc = (uint32_t)crc32_z(p->crc, data, n);
    if (p->file == NULL)
        memcpy(p->to + p->written, data, n);
    else if (fwrite(data, 1, n, p->file) != n)
        return fault_errno(why, errno);
    p->written += n;
    return 0;
}

static int pump_stored(struct pump *p, struct fault *why)
{
    int n;

    while ((n = pump_read(p, why)) > 0)
        if (pump_write(p, p->in, (size_t)n, why) < 0)
            return -1;
    return n;
}

/* One turn of the inflater: 0 to go on, 1 at the end of the stream, -1 with a fault. */
static int pump_turn(struct pump *p, z_stream *z, struct fault *why)
{
    int rc, n;

    if (z->avail_in == 0) {
        if ((n = pump_read(p, why)) <= 0)
            return n < 0 ? -1 : fault_set(why, BAD_ARCHIVE, "its compressed data end too early");
        z->next_in = p->in;
        z->avail_in = (uInt)n;
    }
    z->next_out = p->out;
    z->avail_out = sizeof p->out;
    rc = inflate(z, Z_NO_FLUSH);
    if (rc != Z_OK && rc != Z_STREAM_END && rc != Z_BUF_ERROR)
        return fault_set(why, rc == Z_MEM_ERROR ? "ENOMEM" : BAD_ARCHIVE, "its compressed data are damaged");
    if (pump_write(p, p->out, sizeof p->out - z->avail_out, why) < 0)
        return -1;
    return rc == Z_STREAM_END;
}

static int pump_deflated(struct pump *p, struct fault *why)
{
    z_stream z;
    int rc;

    memset(&z, 0, sizeof z);
    if (inflateInit2(&z, -MAX_WBITS) != Z_OK)
        return fault_errno(why, ENOMEM);
    while ((rc = pump_turn(p, &z, why)) == 0)
        ;
    if (rc > 0) /* the last read of an encrypted entry is where its authentication code is compared */
        rc = z.avail_in > 0 ? 1 : pump_read(p, why);
    inflateEnd(&z);
    return rc > 0 ? fault_set(why, BAD_ARCHIVE, "it has data behind its end") : rc;
}

/* Never more bytes than declared, and success only with exactly those that the checksum is for. */
static int pump_run(struct pump *p, const struct reader *r, struct fault *why)
{
    const struct record *e = p->entry;
    int bad;

    p->from = zip_fopen_index_encrypted(r->archive, (zip_uint64_t)(e - r->directory.records), ZIP_FL_COMPRESSED,
                                        e->aes != 0 ? r->password : NULL);
    if (p->from == NULL)
        return fault_zip(why, zip_get_error(r->archive), BAD_ARCHIVE);
    p->written = 0;
    p->crc = 0;
    bad = e->method == METHOD_STORE ? pump_stored(p, why) : pump_deflated(p, why);
    zip_fclose(p->from);
    if (bad == 0 && p->written != e->size)
        bad = fault_set(why, BAD_ARCHIVE, "it holds fewer bytes than it declares");
    if (bad == 0 && p->crc != e->crc && !(e->aes != 0 && e->crc == 0))
        bad = fault_set(why, BAD_ARCHIVE, "its checksum differs");
    return bad;
}

/***
Read an entry. Nothing of it is returned unless all of it is right.
@function reader:read
@tparam string name
@treturn[1] string its bytes
@return[2] nil
@treturn[2] string message
@treturn[2] string code "no_entry", "bad_archive", "wrong_password", "no_password", "ENOMEM"
*/
static int l_reader_read(lua_State *L)
{
    const struct reader *r = check_reader(L, 1);
    size_t len;
    const char *name = luaL_checklstring(L, 2, &len);
    struct pump p;
    luaL_Buffer out;
    struct fault why;

    if ((p.entry = reader_find(r, name, len, &why)) == NULL)
        return fail_fault(L, &why, "read", name);
    p.file = NULL;
    p.to = luaL_buffinitsize(L, &out, (size_t)p.entry->size);
    if (pump_run(&p, r, &why) < 0)
        return fail_fault(L, &why, "read", name);
    luaL_pushresultsize(&out, (size_t)p.entry->size);
    return 1;
}

/***
Write an entry to a file, a little at a time. On failure some of it may have been written.
@function reader:extract
@tparam string name
@tparam file file open for writing, at its present position
@treturn[1] integer bytes written
@return[2] nil
@treturn[2] string message
@treturn[2] string code "no_entry", "bad_archive", "wrong_password", "no_password", or an errno such as "ENOSPC"
*/
static int l_reader_extract(lua_State *L)
{
    const struct reader *r = check_reader(L, 1);
    size_t len;
    const char *name = luaL_checklstring(L, 2, &len);
    struct pump p;
    struct fault why;

    p.file = check_file(L, 3);
    p.to = NULL;
    if ((p.entry = reader_find(r, name, len, &why)) == NULL || pump_run(&p, r, &why) < 0)
        return fail_fault(L, &why, "extract", name);
    if (fflush(p.file) != 0)
        return fail_errno(L, errno, "extract", name);
    lua_pushinteger(L, (lua_Integer)p.written);
    return 1;
}

/***
Close the archive. A second call does nothing.
@function reader:close
*/
static int l_reader_close(lua_State *L)
{
    struct reader *r = luaL_checkudata(L, 1, READER_MT);

    reader_release(r);
    lua_pushnil(L);
    lua_setiuservalue(L, 1, 1);
    return 0;
}

static int l_reader_tostring(lua_State *L)
{
    const struct reader *r = luaL_checkudata(L, 1, READER_MT);

    if (r->archive != NULL)
        lua_pushfstring(L, "zip reader: open, %I entries", (LUAI_UACINT)r->directory.count);
    else
        lua_pushliteral(L, "zip reader: closed");
    return 1;
}

/***
How many writers and readers are open: 0 when nothing leaks.
@function live_handles
@treturn integer
*/

/* ==== the module =============================================================================== */

static const luaL_Reg deflater_meta[] = {
    {"__gc", l_deflater_gc},
    {NULL, NULL},
};

static const luaL_Reg piece_methods[] = {
    {"size", l_piece_size},
    {"crc32", l_piece_crc32},
    {"compressed_size", l_piece_compressed_size},
    {NULL, NULL},
};

static const luaL_Reg piece_meta[] = {
    {"__tostring", l_piece_tostring},
    {NULL, NULL},
};

static const luaL_Reg writer_methods[] = {
    {"add", l_writer_add},
    {"add_file", l_writer_add_file},
    {"add_deflated", l_writer_add_deflated},
    {"copy", l_writer_copy},
    {"close", l_writer_close},
    {"discard", l_writer_discard},
    {NULL, NULL},
};

static const luaL_Reg writer_meta[] = {
    {"__gc", l_writer_discard},
    {"__close", l_writer_discard},
    {"__tostring", l_writer_tostring},
    {NULL, NULL},
};

static const luaL_Reg reader_methods[] = {
    {"entries", l_reader_entries},
    {"read", l_reader_read},
    {"extract", l_reader_extract},
    {"close", l_reader_close},
    {NULL, NULL},
};

static const luaL_Reg reader_meta[] = {
    {"__gc", l_reader_close},
    {"__close", l_reader_close},
    {"__tostring", l_reader_tostring},
    {NULL, NULL},
};

static const luaL_Reg zip_funcs[] = {
    {"writer", l_writer},
    {"open", l_open},
    {"deflate", l_deflate},
    {"splice", l_splice},
    {"live_handles", l_live_handles},
    {NULL, NULL},
};

static void make_class(lua_State *L, const char *name, const luaL_Reg *meta, const luaL_Reg *methods)
{
    luaL_newmetatable(L, name);
    luaL_setfuncs(L, meta, 0);
    if (methods != NULL) {
        lua_newtable(L);
        luaL_setfuncs(L, methods, 0);
        lua_setfield(L, -2, "__index");
    }
    lua_pushboolean(L, 0);
    lua_setfield(L, -2, "__metatable");
    lua_pop(L, 1);
}

int luaopen_atelier_zip(lua_State *L);

int luaopen_atelier_zip(lua_State *L)
{
    luaL_checkversion(L);
    make_class(L, DEFLATER_MT, deflater_meta, NULL);
    make_class(L, PIECE_MT, piece_meta, piece_methods);
    make_class(L, WRITER_MT, writer_meta, writer_methods);
    make_class(L, READER_MT, reader_meta, reader_methods);
    luaL_newlib(L, zip_funcs);
    return 1;
}
