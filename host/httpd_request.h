/***
 * httpd_request.h: a request, as Lua sees it, and how Lua answers.
 *
 * The object may outlive the request: a field is then still there, an answer gets "closed". Included by lua_httpd.c alone.
 * @submodule atelier.httpd
 */
#ifndef ATELIER_HTTPD_REQUEST_H
#define ATELIER_HTTPD_REQUEST_H

#include <fcntl.h>
#include <stdlib.h>
#include <strings.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "httpd_lua.h"

#define REQUEST_MT "atelier.httpd.request"
#define FEW_HEADERS 32 /* are noted without asking Lua for memory */

/*
 * The registry holds the box as long as the request is under way, so it needs no finaliser. With one, all that hangs on a
 * request, some fifty values, would outlive a collection: the collector keeps whatever a finaliser may still look at.
 */
struct request_box {
    struct request *r; /* NULL once it is over */
};

static const char objects_key = 0; /* registry: table of the objects of requests that are under way, by address */

/* ==== the object =============================================================================== */

static int on_header_field(lua_State *L, const char *name, size_t name_size, const char *value, size_t size)
{
    char lower[128];

    if (name_size >= sizeof lower)
        return 0;
    for (size_t i = 0; i < name_size; i++)
        lower[i] = (char)(name[i] >= 'A' && name[i] <= 'Z' ? name[i] + 32 : name[i]);
    lua_pushlstring(L, lower, name_size);
    lua_pushvalue(L, -1);
    if (lua_rawget(L, -3) == LUA_TSTRING) { /* a list, in several lines: RFC 9110, 5.3 */
        lua_pushstring(L, strcmp(lua_tostring(L, -2), "cookie") == 0 ? "; " : ", ");
        lua_pushlstring(L, value, size);
        lua_concat(L, 3);
    } else {
        lua_pop(L, 1);
        lua_pushlstring(L, value, size);
    }
    lua_rawset(L, -3);
    return 1;
}

struct header_copy {
    size_t n;
    struct header_note {
        const char *name, *value;
        size_t name_size, size;
    } *items;
};

/*
 * libmicrohttpd must not be left by a Lua error, so its callback only notes addresses, which live as long as the request. White
 * space behind a value is none of it (RFC 9110, 5.5); libmicrohttpd takes off only what is before it.
 */
static enum MHD_Result note_header(void *arg, enum MHD_ValueKind kind, const char *name, size_t name_size,
                                   const char *value, size_t size)
{
    struct header_copy *copy = arg;

    (void)kind;
    while (size > 0 && (value[size - 1] == ' ' || value[size - 1] == '\t'))
        size--;
    copy->items[copy->n].name = name;
    copy->items[copy->n].name_size = name_size;
    copy->items[copy->n].value = value;
    copy->items[copy->n].size = size;
    copy->n++;
    return MHD_YES;
}

static void push_headers(lua_State *L, const struct request *r)
{
    int n = MHD_get_connection_values_n(r->connection->mhd, MHD_HEADER_KIND, NULL, NULL);
    struct header_note few[FEW_HEADERS];
    struct header_copy copy = {0, few};

    if (n > FEW_HEADERS)
        copy.items = lua_newuserdatauv(L, (size_t)n * sizeof *copy.items, 0);
    else
        lua_pushnil(L);
    MHD_get_connection_values_n(r->connection->mhd, MHD_HEADER_KIND, note_header, &copy);
    lua_createtable(L, 0, (int)copy.n);
    for (size_t i = 0; i < copy.n; i++)
        on_header_field(L, copy.items[i].name, copy.items[i].name_size, copy.items[i].value, copy.items[i].size);
    lua_remove(L, -2);
}

static void push_decoded(lua_State *L, const char *text, size_t size)
{
    luaL_Buffer b;
    char *copy = luaL_buffinitsize(L, &b, size);
    ssize_t n;

    memcpy(copy, text, size);
    n = httpd_decode(copy, size, 1);
    luaL_pushresultsize(&b, n > 0 ? (size_t)n : 0); /* httpd_check refused what is malformed */
}

/* Sets `query`, and `repeated` when a name comes more than once; the first value stands. The table of fields is on top. */
static void set_query(lua_State *L, const struct request *r)
{
    int fields = lua_gettop(L), query = fields + 1;
    const char *p = r->query != NULL ? r->query : "";

    lua_newtable(L);
    while (*p != '\0') {
        size_t size = strcspn(p, "&"), name;
        const char *equals = memchr(p, '=', size);
        name = equals != NULL ? (size_t)(equals - p) : size;
        if (size > 0) {
            push_decoded(L, p, name);
            push_decoded(L, p + (name < size ? name + 1 : size), name < size ? size - name - 1 : 0);
            lua_pushvalue(L, -2);
            if (lua_rawget(L, query) == LUA_TNIL) {
                lua_pop(L, 1);
                lua_rawset(L, query);
            } else {
                lua_pop(L, 2);
                luaL_getsubtable(L, fields, "repeated");
                lua_insert(L, -2);
                lua_pushboolean(L, 1);
                lua_rawset(L, -3);
                lua_pop(L, 1);
            }
        }
        p += size + (p[size] == '&');
    }
    lua_setfield(L, fields, "query");
}

static void set_fields(lua_State *L, const struct request *r)
{
    lua_pushstring(L, r->method);
    lua_setfield(L, -2, "method");
    lua_pushlstring(L, r->path, r->path_size);
    lua_setfield(L, -2, "path");
    lua_pushstring(L, r->target);
    lua_setfield(L, -2, "target");
    lua_pushinteger(L, (lua_Integer)r->id);
    lua_setfield(L, -2, "id");
    lua_pushstring(L, r->is_http10 ? "1.0" : "1.1");
    lua_setfield(L, -2, "version");
    lua_pushstring(L, r->connection->peer);
    lua_setfield(L, -2, "peer");
    lua_pushinteger(L, r->connection->peer_port);
    lua_setfield(L, -2, "peer_port");
    push_headers(L, r);
    lua_setfield(L, -2, "headers");
    set_query(L, r);
}

/* Pushes the request's object, which is made at the first call. */
static void push_request(lua_State *L, struct request *r)
{
    struct request_box *box;

    lua_rawgetp(L, LUA_REGISTRYINDEX, &objects_key);
    if (lua_rawgetp(L, -1, r) == LUA_TUSERDATA) {
        lua_remove(L, -2);
        return;
    }
    lua_pop(L, 1);
    box = lua_newuserdatauv(L, sizeof *box, 1);
    box->r = NULL;
    luaL_setmetatable(L, REQUEST_MT);
    lua_createtable(L, 0, 12);
    set_fields(L, r);
    lua_setiuservalue(L, -2, 1);
    lua_pushvalue(L, -1);
    lua_rawsetp(L, -3, r);
    lua_remove(L, -2);
    box->r = r;
    r->object = &box->r;
}

/* The registry gives the object up. Raises nothing: an absent value is set to nil. */
static void forget_request(lua_State *L, struct request *r)
{
    if (!lua_checkstack(L, 3))
        return;
    if (lua_rawgetp(L, LUA_REGISTRYINDEX, &objects_key) == LUA_TTABLE) {
        lua_pushnil(L);
        lua_rawsetp(L, -2, r);
    }
    lua_pop(L, 1);
}

static int l_request_index(lua_State *L)
{
    luaL_checkudata(L, 1, REQUEST_MT);
    lua_pushvalue(L, 2);
    if (lua_rawget(L, lua_upvalueindex(1)) != LUA_TNIL)
        return 1;
    lua_getiuservalue(L, 1, 1);
    lua_pushvalue(L, 2);
    lua_rawget(L, -2);
    return 1;
}

/* A handler may keep what it likes in the object. */
static int l_request_newindex(lua_State *L)
{
    luaL_checkudata(L, 1, REQUEST_MT);
    luaL_argcheck(L, !lua_isnoneornil(L, 2) && lua_rawequal(L, 2, 2), 2, "not a name");
    lua_getiuservalue(L, 1, 1);
    lua_replace(L, 1);
    lua_settop(L, 3);
    lua_rawset(L, 1);
    return 0;
}

/* ==== answers ================================================================================== */

struct answer {
    unsigned status;
    const char *body; /* kept by the options table at 2 */
    size_t size;
    int has_body, has_file, is_stream, has_length;
    size_t head_size; /* of the headers that the program gave */
    int fd;
    off_t offset;
    uint64_t length;
};

static const char *const own_headers[] = {"content-length", "transfer-encoding", "connection", "date", NULL};

static void check_header(lua_State *L, const char *name, size_t name_size)
{
    size_t size;
    const char *value = lua_tolstring(L, -1, &size);

    luaL_argcheck(L, value != NULL, 2, lua_pushfstring(L, "header '%s' must be a string", name));
    luaL_argcheck(L, httpd_is_token(name, name_size), 2, lua_pushfstring(L, "'%s' is no header name", name));
    luaL_argcheck(L, httpd_is_header_value(value, size), 2,
                  lua_pushfstring(L, "header '%s' contains a control character", name));
    for (int i = 0; own_headers[i] != NULL; i++)
        luaL_argcheck(L, strcasecmp(own_headers[i], name) != 0, 2,
                      lua_pushfstring(L, "header '%s' is set by the server", name));
}

/*
 * Pushes the headers of the options at 2 as one list {name, value, name, value, …} of strings, all checked. Values may be
 * strings, numbers or lists of them.
 */
static void push_header_list(lua_State *L, struct answer *a)
{
    lua_Integer n = 0;
    int list;

    lua_newtable(L);
    list = lua_gettop(L);
    if (lua_getfield(L, 2, "headers") == LUA_TNIL) {
        lua_settop(L, list);
        return;
    }
    luaL_argcheck(L, lua_istable(L, -1), 2, "option 'headers' must be a table");
    for (lua_pushnil(L); lua_next(L, list + 1) != 0; lua_settop(L, list + 2)) {
        size_t name_size, size;
        const char *name;
        lua_Integer count = lua_istable(L, -1) ? (lua_Integer)lua_rawlen(L, -1) : 1;
        luaL_argcheck(L, lua_type(L, -2) == LUA_TSTRING, 2, "header names must be strings");
        name = lua_tolstring(L, -2, &name_size);
        for (lua_Integer i = 1; i <= count; i++) {
            if (lua_istable(L, list + 3))
                lua_rawgeti(L, list + 3, i);
            else
                lua_pushvalue(L, list + 3);
            check_header(L, name, name_size);
            lua_tolstring(L, -1, &size);
            if (size == 0) { /* says nothing, and libmicrohttpd refuses it */
                lua_pop(L, 1);
                continue;
            }
            a->head_size += name_size + size + 4;
            lua_rawseti(L, list, n + 2);
            lua_pushvalue(L, list + 2);
            lua_rawseti(L, list, n + 1);
            n += 2;
        }
    }
    lua_settop(L, list);
}

static int is_empty_status(unsigned status)
{
    return status == 204 || status == 304;
}

/* What is to be sent, and all that can be wrong with it, but for the file. */
static void check_answer(lua_State *L, struct answer *a)
{
    static const char *const names[] = {"status", "headers", "body", "file", "stream", "length", "close", NULL};
    lua_Integer status, length;

    memset(a, 0, sizeof *a);
    a->fd = -1;
    luaL_checktype(L, 2, LUA_TTABLE);
    check_options(L, 2, names);
    status = option_integer(L, 2, "status", 200);
    luaL_argcheck(L, status >= 200 && status <= 599, 2, "option 'status' must be 200 to 599");
    a->status = (unsigned)status;
    a->body = option_string(L, 2, "body", &a->size);
    a->has_body = a->body != NULL;
    a->has_file = lua_getfield(L, 2, "file") != LUA_TNIL;
    if (a->has_file)
        luaL_checktype(L, -1, LUA_TTABLE);
    lua_pop(L, 1);
    a->is_stream = option_boolean(L, 2, "stream", 0);
    luaL_argcheck(L, a->has_body + a->has_file + a->is_stream <= 1, 2, "one of 'body', 'file' and 'stream' is enough");
    luaL_argcheck(L, !is_empty_status(a->status) || (a->size == 0 && !a->has_file && !a->is_stream), 2,
                  "a response of this status has no body");
    length = option_integer(L, 2, "length", -1);
    a->has_length = length >= 0;
    a->length = length >= 0 ? (uint64_t)length : a->size;
    luaL_argcheck(L, length < 0 || a->is_stream || a->status == 304, 2, "option 'length' is for a stream, or status 304");
    option_boolean(L, 2, "close", 0);
    if (a->body == NULL)
        a->body = "";
}

/* Pushes the head of a response that the server writes itself. */
static void push_head(lua_State *L, const struct request *r, const struct answer *a, int list)
{
    lua_Integer n = (lua_Integer)lua_rawlen(L, list);
    luaL_Buffer b;

    luaL_buffinit(L, &b);
    lua_pushfstring(L, "HTTP/1.1 %d %s\r\nDate: %s\r\nConnection: close\r\n", (int)a->status, httpd_reason(a->status),
                    httpd_date(r->server));
    luaL_addvalue(&b);
    for (lua_Integer i = 1; i <= n; i += 2) {
        lua_rawgeti(L, list, i);
        luaL_addvalue(&b);
        luaL_addstring(&b, ": ");
        lua_rawgeti(L, list, i + 1);
        luaL_addvalue(&b);
        luaL_addstring(&b, "\r\n");
    }
    if (is_empty_status(a->status) && !a->has_length) {
        luaL_addstring(&b, ""); /* of a length that nobody named nothing is said: RFC 9110, 8.6 */
    } else if (!a->is_stream || a->has_length) {
        lua_pushfstring(L, "Content-Length: %I\r\n", (LUAI_UACINT)a->length);
        luaL_addvalue(&b);
    } else if (!r->is_http10) {
        luaL_addstring(&b, "Transfer-Encoding: chunked\r\n");
    }
    luaL_addstring(&b, "\r\n");
    luaL_pushresult(&b);
}

static int fail_closed(lua_State *L, const char *name)
{
    return fail(L, "closed", "%s: the client is gone, or the request was cancelled", name);
}

/* Whether the answer has a body on the wire. */
static int is_bare(const struct request *r, const struct answer *a)
{
    return r->is_head || is_empty_status(a->status);
}

/* For HEAD and 304: tells the length of a body that is never asked for. */
static ssize_t never_read(void *arg, uint64_t at, char *to, size_t size)
{
    (void)arg;
    (void)at;
    (void)to;
    (void)size;
    return MHD_CONTENT_READER_END_WITH_ERROR;
}

/* Of what libmicrohttpd adds: the status line, Date, Content-Length and the empty line. */
static uint64_t own_head_size(const struct answer *a)
{
    char text[128];
    int n = snprintf(text, sizeof text, "HTTP/1.1 200 %s\r\nContent-Length: %llu\r\n\r\n", httpd_reason(a->status),
                     (unsigned long long)a->length);

    return (uint64_t)n + sizeof "Date: Sun, 01 Jan 2023 00:00:00 GMT\r\n" - 1;
}

static int begin_own(lua_State *L, struct request *r, const struct answer *a, int list)
{
    const char *head;
    size_t size;

    push_head(L, r, a, list);
    head = lua_tolstring(L, -1, &size);
    if (!writer_begin(r, head, size))
        return fail(L, "memory", "respond: not enough memory");
    r->is_answered = 1;
    r->answered_at = front_now();
    r->status = a->status;
    r->length = is_bare(r, a) ? 0 : a->length;
    return 0;
}

static int begun(lua_State *L, struct request *r)
{
    writer_pump(r);
    lua_pushboolean(L, 1);
    return 1;
}

/* Also where libmicrohttpd would first read that the client sends no more, and then answer nothing. */
static int answer_last(lua_State *L, struct request *r, const struct answer *a, int list)
{
    int n = begin_own(L, r, a, list);

    if (n != 0)
        return n;
    if (!is_bare(r, a) && !writer_add(r, a->body, a->size, 0)) {
        httpd_shut(r);
        return fail(L, "memory", "respond: not enough memory");
    }
    writer_end(r);
    return begun(L, r);
}

/* The list of headers at `list` holds strings only, so that nothing in here raises, and nothing has to be anchored. */
static struct MHD_Response *make_response(lua_State *L, const struct request *r, const struct answer *a, int list)
{
    lua_Integer n = (lua_Integer)lua_rawlen(L, list);
    struct MHD_Response *response;

    if (a->fd >= 0 && !r->is_head)
        response = MHD_create_response_from_fd_at_offset64(a->length, a->fd, (uint64_t)a->offset);
    else if (is_bare(r, a) && a->length != a->size)
        response = MHD_create_response_from_callback(a->length, 4096, never_read, NULL, NULL);
    else
        response = MHD_create_response_from_buffer(a->size, (void *)(uintptr_t)a->body, MHD_RESPMEM_MUST_COPY);
    for (lua_Integer i = 1; i <= n && response != NULL; i += 2) {
        lua_rawgeti(L, list, i);
        lua_rawgeti(L, list, i + 1);
        if (MHD_add_response_header(response, lua_tostring(L, -2), lua_tostring(L, -1)) != MHD_YES) {
            MHD_destroy_response(response);
            response = NULL;
        }
        lua_pop(L, 2);
    }
    return response;
}

/*
 * Answers through libmicrohttpd, which owns a->fd once the response is made (then r->response is set, or r->is_answered).
 * The list of headers is on top of the stack.
 */
static int answer_with(lua_State *L, struct request *r, const struct answer *a)
{
    int list = lua_gettop(L);

    /* Of a 304 that names no length libmicrohttpd would say 0, or send the end of a body. */
    if (r->connection->half_closed != 0 || (a->status == 304 && !a->has_length))
        return answer_last(L, r, a, list);
    r->response = make_response(L, r, a, list);
    if (r->response == NULL)
        return fail(L, "memory", "respond: not enough memory");
    r->status = a->status;
    r->length = is_bare(r, a) ? 0 : a->length;
    r->head_size = a->head_size + own_head_size(a);
    httpd_answer(r);
    lua_pushboolean(L, 1);
    return 1;
}

/* ==== files ==================================================================================== */

static int open_file(lua_State *L, int file)
{
    luaL_Stream *stream;
    const char *path;
    int fd;

    if (lua_getfield(L, file, "handle") != LUA_TNIL) {
        stream = luaL_checkudata(L, -1, LUA_FILEHANDLE);
        luaL_argcheck(L, stream->closef != NULL, 2, "the file is closed");
        fd = fcntl(fileno(stream->f), F_DUPFD_CLOEXEC, 3);
    } else if (lua_getfield(L, file, "fd") != LUA_TNIL) {
        fd = fcntl((int)luaL_checkinteger(L, -1), F_DUPFD_CLOEXEC, 3);
    } else {
        lua_getfield(L, file, "path");
        luaL_argcheck(L, lua_type(L, -1) == LUA_TSTRING, 2, "option 'file' needs 'path', 'fd' or 'handle'");
        path = lua_tostring(L, -1);
        luaL_argcheck(L, strlen(path) == lua_rawlen(L, -1), 2, "the path contains a NUL byte");
        fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    }
    lua_settop(L, file);
    return fd;
}

static void close_file(void *p)
{
    int *fd = p;

    if (*fd >= 0)
        close(*fd);
    free(fd);
}

/* Reads offset and length, checked against the file's size. Returns 0, or the number of results of a failure. */
static int check_range(lua_State *L, int file, struct answer *a)
{
    lua_Integer offset = option_integer(L, file, "offset", 0), length = option_integer(L, file, "length", -1);
    struct stat st;

    if (fstat(a->fd, &st) != 0)
        return fail_errno(L, errno, "respond", "file");
    if (!S_ISREG(st.st_mode))
        return fail(L, "EINVAL", "respond: file: not a regular file");
    if (length < 0)
        length = st.st_size - offset;
    if (offset < 0 || length < 0 || offset > st.st_size || length > st.st_size - offset)
        return fail(L, "ERANGE", "respond: file: it ends before that");
    a->offset = (off_t)offset;
    a->length = (uint64_t)length;
    return 0;
}

static int is_cached(int fd, off_t at)
{
    char byte;
    struct iovec to = {&byte, 1};

    return preadv2(fd, &to, 1, at, RWF_NOWAIT) == 1;
}

/* What is on the disk alone is asked for at once. To ask for what is in memory would cost 0.1 ms for 10 MB. */
static void read_ahead(const struct answer *a)
{
    if (a->length > 0 && (!is_cached(a->fd, a->offset) || !is_cached(a->fd, a->offset + (off_t)a->length - 1)))
        posix_fadvise(a->fd, a->offset, (off_t)a->length, POSIX_FADV_WILLNEED);
}

/* A file that libmicrohttpd sends, after which the connection goes on. `fd` is given up once it owns that. */
static int answer_short_file(lua_State *L, struct request *r, const struct answer *a, int list, int *fd)
{
    int n;

    lua_pushvalue(L, list);
    n = answer_with(L, r, a);
    if (r->is_answered)
        *fd = -1;
    return n;
}

static int answer_file(lua_State *L, struct request *r, struct answer *a, int list)
{
    static const char *const names[] = {"path", "fd", "handle", "offset", "length", NULL};
    struct managed *m;
    int file, n, *fd;

    lua_getfield(L, 2, "file");
    file = lua_gettop(L);
    check_options(L, file, names);
    m = managed_new(L, close_file);
    lua_insert(L, file);
    file++;
    fd = malloc(sizeof *fd);
    if (fd == NULL)
        return fail(L, "memory", "respond: not enough memory");
    *fd = -1;
    m->p = fd;
    *fd = open_file(L, file);
    if (*fd < 0)
        return fail_errno(L, errno, "respond", "file");
    a->fd = *fd;
    if ((n = check_range(L, file, a)) != 0)
        return n;
    if (r->is_head) {
        lua_pushvalue(L, list);
        return answer_with(L, r, a);
    }
    read_ahead(a);
    /* libmicrohttpd closes a connection before the client has all: whether it got it would not be known. */
    if (a->length > 0 && a->length <= HTTPD_SHORT_FILE && !httpd_is_last(r))
        return answer_short_file(L, r, a, list, fd);
    if ((n = begin_own(L, r, a, list)) != 0)
        return n;
    r->writer.file = a->fd;
    *fd = -1;
    r->writer.offset = a->offset;
    r->writer.file_left = a->length;
    writer_end(r);
    return begun(L, r);
}

static int answer_stream(lua_State *L, struct request *r, const struct answer *a, int list)
{
    int n;

    if (r->is_head && a->has_length) {
        lua_pushvalue(L, list);
        return answer_with(L, r, a);
    }
    if ((n = begin_own(L, r, a, list)) != 0)
        return n;
    r->writer.is_stream = 1;
    r->writer.is_chunked = !r->is_http10 && !r->is_head && !a->has_length;
    r->writer.is_measured = a->has_length && !r->is_head;
    r->writer.unsaid = a->length;
    if (r->is_head || (r->server->is_draining && !a->has_length))
        writer_end(r);
    return begun(L, r);
}

/* ==== methods ================================================================================== */

static struct request *check_request(lua_State *L)
{
    const struct request_box *box = luaL_checkudata(L, 1, REQUEST_MT);

    return box->r;
}

/***
 * Answers. The server adds Date, Content-Length or Transfer-Encoding, and Connection. What is sent after this call returns
 * needs no more of the handler, except for a stream. A large file and a stream end with the connection.
 * @function request:respond
 * @tparam table response `status` (200) · `headers`: name = string, number or list of them (an empty value is left out) · one of `body` (string),
 *   `file` ({`path` or `fd` or `handle` (an open io file), `offset` (0), `length` (to its end)}), `stream` (true: see
 *   `request:write`) · `length`: of a stream, which is cut if it ends with less, or, with status 304, of what is not sent
 *   (a 304 without it ends the connection) ·
 *   `close` (false): end the connection after it
 * @treturn[1] boolean true
 * @return[2] nil
 * @treturn[2] string message
 * @treturn[2] string "closed" (the client is gone), "memory", or of the file: an errno, "ERANGE" when it is shorter. Nothing
 *   was sent then.
 * @usage request:respond { status = 200, headers = { ["Content-Type"] = "text/plain" }, body = "hello" }
 */
static int l_respond(lua_State *L)
{
    struct request *r = check_request(L);
    struct answer a;
    int list;

    check_answer(L, &a);
    lua_settop(L, 2);
    push_header_list(L, &a);
    list = lua_gettop(L);
    if (r != NULL && r->is_answered && !r->is_shut && !r->is_late)
        return luaL_error(L, "request is answered already");
    if (r == NULL || r->phase != REQUEST_HANDLER || r->is_shut || r->connection == NULL)
        return fail_closed(L, "respond");
    if (option_boolean(L, 2, "close", 0))
        r->must_close = 1;
    if (a.is_stream)
        return answer_stream(L, r, &a, list);
    if (a.has_file)
        return answer_file(L, r, &a, list);
    return answer_with(L, r, &a);
}

static int is_streaming(const struct request *r)
{
    return r != NULL && r->connection != NULL && r->phase == REQUEST_WRITER && r->writer.state == WRITER_SENDING;
}

static int written(lua_State *L, int status, lua_KContext context)
{
    const struct request *r = check_request(L);

    (void)status;
    (void)context;
    if (!is_streaming(r))
        return fail_closed(L, "write");
    lua_pushboolean(L, 1);
    return 1;
}

/***
 * Sends a piece of a stream. When the client is slow it waits until there is room again; a task other than the handler's
 * gets "busy" instead, before anything is queued.
 * @function request:write
 * @tparam string chunk
 * @treturn[1] boolean true
 * @return[2] nil
 * @treturn[2] string message
 * @treturn[2] string "closed" (the client is gone, or the server ends its streams), "busy" or "memory"
 */
static int l_write(lua_State *L)
{
    struct request *r = check_request(L);
    size_t size;
    const char *chunk;
    struct task *t;
    int is_full;

    luaL_checktype(L, 2, LUA_TSTRING);
    chunk = lua_tolstring(L, 2, &size);
    if (r != NULL && r->is_answered && !r->writer.is_stream && r->connection != NULL)
        return luaL_error(L, "request is no stream: respond with stream = true first");
    if (r != NULL && !r->is_answered)
        return luaL_error(L, "request is not answered yet");
    if (!is_streaming(r) || (r->writer.is_ended && !r->is_head))
        return fail_closed(L, "write");
    if (r->writer.is_measured && size > r->writer.unsaid)
        return luaL_error(L, "write: more than the length that the response has");
    if (r->is_head)
        size = 0;
    is_full = r->writer.queued >= (size_t)r->server->limits.stream_bytes;
    t = task_current(loop.front, L);
    if (t == NULL || t != task_of(r->task) || !lua_isyieldable(L))
        t = NULL;
    if (is_full && t == NULL)
        return fail(L, "busy", "write: the client has not taken what was written before");
    if (!writer_add_chunk(r, chunk, size))
        return fail(L, "memory", "write: not enough memory");
    writer_pump(r);
    if (t == NULL || !is_streaming(r) || r->writer.queued < (size_t)r->server->limits.stream_bytes)
        return written(L, LUA_OK, 0);
    lua_settop(L, 1);
    task_pend(t, OP_PARK, FRONT_NEVER);
    t->is_private = 1;
    r->is_writing = 1;
    return lua_yieldk(L, 0, 0, written);
}

/***
 * Ends a stream. A handler that returns ends its stream too; one that fails cuts it.
 * @function request:close
 */
static int l_request_close(lua_State *L)
{
    struct request *r = check_request(L);

    if (is_streaming(r) && r->writer.is_stream) {
        writer_end(r);
        writer_pump(r);
    }
    return 0;
}

/***
 * Whose pages may read what the server itself refuses, in this process, instead of those named before.
 * @function allow_origins
 * @tparam {string,...} origins as a browser names them; "*": any
 */
static int l_allow_origins(lua_State *L)
{
    luaL_checktype(L, 1, LUA_TTABLE);
    lua_settop(L, 1);
    for (lua_Integer i = 1; lua_rawgeti(L, 1, i) != LUA_TNIL; i++) {
        size_t size;
        const char *origin = luaL_checklstring(L, -1, &size);
        luaL_argcheck(L, size < 256 && httpd_is_header_value(origin, size), 1, "not an origin");
        lua_pop(L, 1);
    }
    httpd_forget_origins();
    lua_settop(L, 1);
    for (lua_Integer i = 1; lua_rawgeti(L, 1, i) != LUA_TNIL; i++) {
        if (!httpd_allow_origin(lua_tostring(L, -1)))
            return luaL_error(L, "not enough memory");
        lua_pop(L, 1);
    }
    return 0;
}

/***
 * Whether the client still waits for (more of) the answer.
 * @function request:is_open
 * @treturn boolean
 */
static int l_is_open(lua_State *L)
{
    const struct request *r = check_request(L);

    lua_pushboolean(L, r != NULL && r->connection != NULL && !r->is_shut && !r->connection->is_gone);
    return 1;
}

static int l_request_tostring(lua_State *L)
{
    const struct request *r = check_request(L);

    if (r == NULL)
        lua_pushliteral(L, REQUEST_MT ": over");
    else
        lua_pushfstring(L, REQUEST_MT ": %s, %s", r->method, r->is_answered ? "answered" : "open");
    return 1;
}

static const luaL_Reg request_methods[] = {
    {"respond", l_respond},
    {"write", l_write},
    {"close", l_request_close},
    {"is_open", l_is_open},
    {NULL, NULL},
};

static const luaL_Reg request_meta[] = {
    {"__tostring", l_request_tostring},
    {"__newindex", l_request_newindex},
    {NULL, NULL},
};

#endif
