/***
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

#include <lauxlib.h>
#include <lua.h>
#include <zlib.h>

#include "managed.h"
#include "zip_deflate.h"
#include "zip_reader.h"
#include "zip_checksum.h"
#include "zip_writer.h"

#define DEFLATER_MT "atelier.zip.deflater"
#define PIECE_MT "atelier.zip.piece"
#define WRITER_MT "atelier.zip.writer"
#define READER_MT "atelier.zip.reader"

/* What a reader accepts unless told otherwise. */
enum { DEFAULT_ENTRIES = 10000, DEFAULT_BYTES = 1 << 30, DEFAULT_RATIO = 1000 };
enum { DEFAULT_LEVEL = 6, PIECE_LEVEL = 9, PASSWORD_LONGEST = 1024 };

static struct piece *check_piece(lua_State *L, int arg)
{
    return luaL_checkudata(L, arg, PIECE_MT);
}

/*
 * A writer or reader is looked at after the last Lua allocation before its use: an allocation may run finalisers, and
 * one of them may close it.
 */
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

    name_printable(object, strlen(object), shown, sizeof shown);
    return fail(L, why->code, "%s: %s: %s", operation, shown, why->text);
}

/* ==== pieces =================================================================================== */

static int l_deflater_gc(lua_State *L)
{
    struct deflater *d = luaL_checkudata(L, 1, DEFLATER_MT);

    deflater_free(d);
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

static struct piece *piece_new(lua_State *L, size_t length)
{
    struct piece *p = lua_newuserdatauv(L, sizeof *p + length, 0);

    p->length = length;
    luaL_setmetatable(L, PIECE_MT);
    return p;
}

/*
 * Pushes the piece made of `data`; NULL, with nothing pushed, when out of memory. Making the piece may run a finaliser
 * that deflates as well: then the output is that one's, and ours is made again.
 */
static struct piece *push_deflated(lua_State *L, const char *data, size_t len, int level, int last)
{
    struct deflater *d = deflater_get(L);
    const uint64_t run = ++d->runs;
    const int64_t length = len == 0 && !last ? 0 : deflater_run(d, data, len, level, last);
    struct piece *p;

    if (length < 0)
        return NULL;
    p = piece_new(L, (size_t)length);
    if (d->runs != run) {
        lua_pop(L, 1);
        return push_deflated(L, data, len, level, last);
    }
    if (length > 0)
        memcpy(p->bytes, d->out, (size_t)length);
    p->size = len;
    p->crc = (uint32_t)crc32_z(0, (const Bytef *)data, len);
    p->last = last;
    deflater_trim(d);
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

/* After any failure the archive is lost: half an archive must never look like a whole one. */
static int writer_fail(lua_State *L, struct writer *w, const struct fault *why, const char *operation,
                       const char *object)
{
    char shown[256];

    name_printable(object, strlen(object), shown, sizeof shown); /* it may be the writer's own */
    writer_release(w, WRITER_FAILED);
    lua_pushnil(L);
    lua_setiuservalue(L, 1, 1);
    return fail(L, why->code, "%s: %s: %s", operation, shown, why->text);
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
    size_t name_len, len;
    const char *name = luaL_checklstring(L, 2, &name_len);
    const char *data = luaL_checklstring(L, 3, &len);
    struct writer *w;
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
    w = check_writer(L);
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
    size_t name_len;
    const char *name = luaL_checklstring(L, 2, &name_len);
    const struct piece *p = check_piece(L, 3);
    struct writer *w;
    struct fault why;

    luaL_argcheck(L, p->last, 3, "the piece does not end its stream: it was made with last = false");
    w = check_writer(L);
    writer_anchor(L, w, 3);
    if (writer_name(w, name, name_len, &why) < 0 || writer_put_bytes(w, name, p->bytes, p->length, p, &none, &why) < 0)
        return writer_fail(L, w, &why, "add_deflated", name);
    lua_pushboolean(L, 1);
    return 1;
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
    size_t name_len;
    const char *name = luaL_checklstring(L, 2, &name_len);
    const char *path = lua_type(L, 3) == LUA_TSTRING ? check_text(L, 3) : NULL;
    FILE *file = path == NULL ? check_file(L, 3) : NULL;
    struct entry_options o;
    struct writer *w;
    struct feed *f;
    struct fault why;

    check_entry_options(L, 4, &o);
    w = check_writer(L);
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
    size_t len;
    const char *name = luaL_checklstring(L, 3, &len);
    struct writer *w = check_writer(L);
    struct reader *r = check_reader(L, 2);
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
    if (w->state == WRITER_DONE) {
        lua_pushboolean(L, 1);
        return 1;
    }
    if (writer_finish(w, &why) < 0)
        return writer_fail(L, w, &why, "close", w->sink.path != NULL ? w->sink.path : "archive");
    w->state = WRITER_DONE;
    lua_pushnil(L);
    lua_setiuservalue(L, 1, 1);
    if (w->sink.path != NULL)
        lua_pushboolean(L, 1);
    else
        lua_pushlstring(L, w->sink.data, (size_t)w->sink.size);
    writer_release(w, WRITER_DONE);
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

/* Copies the record, and its name first, since the reader may be closed by the time that the table is there. */
static void push_entry(lua_State *L, const struct record *record)
{
    static const char *const keys[] = {"none", "none", "aes-128", "aes-192", "aes-256"};
    const struct record copy = *record, *e = &copy;

    lua_pushlstring(L, e->name, e->name_length);
    lua_createtable(L, 0, 6);
    lua_insert(L, -2);
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
    check_reader(L, 1);
    for (size_t i = 0; i < r->directory.count; i++) {
        push_entry(L, r->directory.records + i);
        lua_rawseti(L, -2, (lua_Integer)i + 1);
        check_reader(L, 1);
    }
    return 1;
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
    size_t len;
    const char *name = luaL_checklstring(L, 2, &len);
    const struct reader *r = check_reader(L, 1);
    struct pump p;
    luaL_Buffer out;
    struct fault why;

    if ((p.entry = reader_find(r, name, len, &why)) == NULL)
        return fail_fault(L, &why, "read", name);
    p.file = NULL;
    p.to = luaL_buffinitsize(L, &out, (size_t)p.entry->size);
    check_reader(L, 1);
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
    size_t len;
    const char *name = luaL_checklstring(L, 2, &len);
    const struct reader *r = check_reader(L, 1);
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
    {"crc32_file", l_crc32_file},
    {"deflate", l_deflate},
    {"splice", l_splice},
    {"live_handles", l_live_handles},
    {NULL, NULL},
};

int luaopen_atelier_zip(lua_State *L);

int luaopen_atelier_zip(lua_State *L)
{
    luaL_checkversion(L);
    managed_class(L, DEFLATER_MT, deflater_meta, NULL);
    managed_class(L, PIECE_MT, piece_meta, piece_methods);
    managed_class(L, WRITER_MT, writer_meta, writer_methods);
    managed_class(L, READER_MT, reader_meta, reader_methods);
    luaL_newlib(L, zip_funcs);
    return 1;
}
