/***
 * HTTP client.
 *
 * Owns: one request at a time or many at once over libcurl, with limits and timeouts on all of it. Every
 * transfer belongs to a multi handle, which keeps the connections for the next one; `request` uses a hidden
 * one per Lua state. No Lua runs inside a libcurl callback: bodies go from and to C memory and C files. Must
 * not know who is asked or why.
 *
 * Only http and https; certificates are verified; TLS 1.2 at least; HTTP/1.1; no cookies, no .netrc, no proxy
 * (the variables http_proxy and the like are ignored), no decompression. What a forked child inherits it may
 * not use.
 *
 * @module atelier.http
 */
#include <ctype.h>
#include <limits.h>

#include "http_check.h"

#define MULTI_MT "atelier.http.multi"
#define TRANSFER_MT "atelier.http.transfer"
#define HIDDEN_MULTI "atelier.http.hidden"

#define UPLOAD_BUFFER (512 * 1024) /* for large files: with libcurl's own 64 KiB they take an eighth more processor time */

#define EMPTY_SHA256 "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

static struct multi *check_multi(lua_State *L)
{
    struct multi *m = luaL_checkudata(L, 1, MULTI_MT);

    if (m->handle == NULL)
        luaL_error(L, "multi is closed");
    if (m->pid != getpid())
        luaL_error(L, "multi belongs to another process");
    return m;
}

/* ==== making handles =========================================================================== */

static int l_transfer_gc(lua_State *L)
{
    transfer_free(luaL_checkudata(L, 1, TRANSFER_MT));
    return 0;
}

/* Pushes a multi. Its user value is a table of the transfers by id, which keeps them alive. */
static struct multi *new_multi(lua_State *L, lua_Integer connections, int counted)
{
    struct multi *m = lua_newuserdatauv(L, sizeof *m, 1);

    memset(m, 0, sizeof *m);
    m->deadline = -1;
    m->pid = getpid();
    luaL_setmetatable(L, MULTI_MT);
    lua_newtable(L);
    lua_setiuservalue(L, -2, 1);
    m->handle = curl_multi_init();
    if (m->handle == NULL)
        luaL_error(L, "multi: not enough memory");
    m->counted = counted;
    managed_live += counted;
    curl_multi_setopt(m->handle, CURLMOPT_SOCKETFUNCTION, on_socket);
    curl_multi_setopt(m->handle, CURLMOPT_SOCKETDATA, m);
    curl_multi_setopt(m->handle, CURLMOPT_TIMERFUNCTION, on_timer);
    curl_multi_setopt(m->handle, CURLMOPT_TIMERDATA, m);
    curl_multi_setopt(m->handle, CURLMOPT_MAX_HOST_CONNECTIONS, (long)connections);
    curl_multi_setopt(m->handle, CURLMOPT_MAXCONNECTS, (long)connections + 8); /* idle ones kept */
    return m;
}

/* Pushes the multi that `request` uses; a forked child makes its own. */
static struct multi *hidden_multi(lua_State *L)
{
    struct multi *m;

    if (lua_getfield(L, LUA_REGISTRYINDEX, HIDDEN_MULTI) == LUA_TUSERDATA) {
        m = lua_touserdata(L, -1);
        if (m->handle != NULL && m->pid == getpid())
            return m;
    }
    lua_pop(L, 1);
    m = new_multi(L, 32, 0);
    lua_pushvalue(L, -1);
    lua_setfield(L, LUA_REGISTRYINDEX, HIDDEN_MULTI);
    return m;
}

/* ==== setting up libcurl ======================================================================= */

#define SET(option, value)                                                                                   \
    do {                                                                                                     \
        CURLcode set_rc = curl_easy_setopt(t->easy, option, value);                                          \
        if (set_rc != CURLE_OK)                                                                              \
            return set_rc;                                                                                   \
    } while (0)

static CURLcode set_user(struct transfer *t)
{
    char *user = NULL, *password = NULL;
    CURLcode rc = CURLE_OK;

    if (curl_url_get(t->url, CURLUPART_USER, &user, CURLU_URLDECODE) == CURLUE_OK) {
        curl_url_get(t->url, CURLUPART_PASSWORD, &password, CURLU_URLDECODE);
        rc = curl_easy_setopt(t->easy, CURLOPT_USERNAME, user);
        if (rc == CURLE_OK && password != NULL)
            rc = curl_easy_setopt(t->easy, CURLOPT_PASSWORD, password);
        curl_url_set(t->url, CURLUPART_USER, NULL, 0); /* so that the result's url lacks them */
        curl_url_set(t->url, CURLUPART_PASSWORD, NULL, 0);
    }
    curl_free(user);
    curl_free(password);
    return rc;
}

static CURLcode set_limits(struct transfer *t, const struct request *r)
{
    long stall = (long)r->stall_timeout;

    SET(CURLOPT_NOSIGNAL, 1L);
    SET(CURLOPT_PROTOCOLS_STR, "http,https");
    SET(CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    SET(CURLOPT_PROXY, "");
    SET(CURLOPT_SSL_VERIFYPEER, 1L);
    SET(CURLOPT_SSL_VERIFYHOST, 2L);
    SET(CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2);
    if (r->ca_file != NULL)
        SET(CURLOPT_CAINFO, r->ca_file);
    SET(CURLOPT_TIMEOUT_MS, (long)(r->timeout * 1000));
    SET(CURLOPT_CONNECTTIMEOUT_MS, (long)(r->connect_timeout * 1000));
    SET(CURLOPT_LOW_SPEED_LIMIT, 1L);
    SET(CURLOPT_LOW_SPEED_TIME, stall < 1 ? 1L : stall);
    SET(CURLOPT_TCP_KEEPALIVE, 1L);
    SET(CURLOPT_BUFFERSIZE, 64L * 1024);    /* below the size from which malloc asks the kernel each time */
    SET(CURLOPT_EXPECT_100_TIMEOUT_MS, 1L); /* a removed Expect would be signed, see sigv4 */
    SET(CURLOPT_FOLLOWLOCATION, (long)r->follow);
    SET(CURLOPT_MAXREDIRS, 5L);
    SET(CURLOPT_REDIR_PROTOCOLS_STR, strncasecmp(r->url, "https:", 6) == 0 ? "https" : "http,https");
    return CURLE_OK;
}

static CURLcode set_method(struct transfer *t, const struct request *r)
{
    if (strcmp(r->method, "HEAD") == 0) {
        SET(CURLOPT_NOBODY, 1L);
    } else if (t->in_size >= 0) {
        SET(CURLOPT_UPLOAD, 1L);
        SET(CURLOPT_INFILESIZE_LARGE, t->in_size);
        SET(CURLOPT_READFUNCTION, on_read);
        SET(CURLOPT_READDATA, t);
        SET(CURLOPT_SEEKFUNCTION, on_seek);
        SET(CURLOPT_SEEKDATA, t);
        SET(CURLOPT_CUSTOMREQUEST, r->method);
        if (t->in != NULL && t->in_size > UPLOAD_BUFFER)
            SET(CURLOPT_UPLOAD_BUFFERSIZE, (long)UPLOAD_BUFFER);
    } else if (strcmp(r->method, "GET") != 0) {
        SET(CURLOPT_CUSTOMREQUEST, r->method);
    }
    return CURLE_OK;
}

static CURLcode set_signature(struct transfer *t, const struct request *r)
{
    char scope[160];

    snprintf(scope, sizeof scope, "aws:amz:%s:%s", r->region, r->service);
    SET(CURLOPT_AWS_SIGV4, scope);
    SET(CURLOPT_USERNAME, r->access_key);
    SET(CURLOPT_PASSWORD, r->secret_key);
    return CURLE_OK;
}

static CURLcode set_up(struct transfer *t, const struct request *r)
{
    CURLcode rc = set_limits(t, r);

    if (rc == CURLE_OK)
        rc = set_method(t, r);
    if (rc == CURLE_OK)
        rc = r->signs ? set_signature(t, r) : set_user(t);
    if (rc != CURLE_OK)
        return rc;
    SET(CURLOPT_CURLU, t->url);
    SET(CURLOPT_HTTPHEADER, t->headers);
    SET(CURLOPT_HEADERFUNCTION, on_header);
    SET(CURLOPT_HEADERDATA, t);
    SET(CURLOPT_WRITEFUNCTION, on_body);
    SET(CURLOPT_WRITEDATA, t);
    SET(CURLOPT_ERRORBUFFER, t->detail);
    SET(CURLOPT_PRIVATE, t);
    return CURLE_OK;
}

static void add_header(lua_State *L, struct transfer *t, const char *line)
{
    struct curl_slist *list = curl_slist_append(t->headers, line);

    if (list == NULL)
        luaL_error(L, "request: not enough memory");
    t->headers = list;
}

static void add_headers(lua_State *L, int arg, struct transfer *t, const struct request *r)
{
    if (lua_getfield(L, arg, "headers") != LUA_TNIL)
        for (lua_pushnil(L); lua_next(L, -2); lua_pop(L, 2)) {
            const char *name = lua_tostring(L, -2), *value = lua_tostring(L, -1);
            /* "Name;" is how libcurl is told of an empty value */
            add_header(L, t, lua_pushfstring(L, value[0] ? "%s: %s" : "%s;", name, value));
        }
    lua_pop(L, 1);
    if (!r->signs) {
        add_header(L, t, "Expect:");
        return;
    }
    if (!r->has_sha256)
        add_header(L, t,
                   t->in_size > 0 ? "x-amz-content-sha256: UNSIGNED-PAYLOAD"
                                  : "x-amz-content-sha256: " EMPTY_SHA256);
    if (r->token != NULL) {
        add_header(L, t, lua_pushfstring(L, "x-amz-security-token: %s", r->token));
        lua_pop(L, 1);
    }
}

/* How much of the file there is to send, from its present position. Returns an errno, or 0. */
static int measure_file(struct transfer *t, const struct request *r)
{
    FILE *f = r->in->f;
    off_t end, at = ftello(f);

    t->in_size = r->body_length;
    t->in_start = at < 0 ? 0 : at;
    if (r->body_length >= 0)
        return 0;
    if (at < 0 || fseeko(f, 0, SEEK_END) != 0)
        return errno;
    end = ftello(f);
    if (end < 0 || fseeko(f, at, SEEK_SET) != 0)
        return errno;
    t->in_size = end > at ? end - at : 0;
    return 0;
}

static int fail_request(lua_State *L, const struct transfer *t, const char *code, const char *reason)
{
    return fail(L, code, "request: %s%s: %s", t->method, t->place, reason);
}

/* Decides what is sent. Returns an errno, or 0. */
static int prepare_body(struct transfer *t, const struct request *r)
{
    static const char *const with_body[] = {"POST", "PUT", "PATCH", NULL};

    t->in_size = -1;
    t->growing = r->growing;
    t->in = r->in;
    t->out = r->out;
    t->body = r->body;
    if (t->out != NULL)
        fseeko(t->out->f, 0,
               SEEK_CUR); /* C wants this between reading and writing; a pipe cannot, and need not */
    if (t->in != NULL)
        return measure_file(t, r);
    if (t->body != NULL)
        t->in_size = (curl_off_t)r->body_len;
    for (int i = 0; t->in_size < 0 && with_body[i] != NULL; i++)
        if (strcmp(r->method, with_body[i]) == 0)
            t->in_size = 0; /* Content-Length: 0 */
    return 0;
}

static void keep(lua_State *L, int arg, const char *name, int slot)
{
    lua_getfield(L, arg, name);
    lua_setiuservalue(L, -2, slot);
}

/* Pushes a transfer made from the table at `arg` and returns it; or pushes the error triple and returns NULL.
 */
static struct transfer *new_transfer(lua_State *L, int arg)
{
    struct request r;
    struct transfer *t;
    const char *problem;
    int err;

    check_request(L, arg, &r);
    t = lua_newuserdatauv(L, sizeof *t, 3);
    memset(t, 0, sizeof *t);
    luaL_setmetatable(L, TRANSFER_MT);
    keep(L, arg, "body", 1);
    keep(L, arg, "body_file", 2);
    keep(L, arg, "response_file", 3);
    t->max_bytes = r.max_bytes;
    snprintf(t->method, sizeof t->method, "%s", r.method);
    t->url = curl_url();
    t->easy = curl_easy_init();
    managed_live += t->easy != NULL;
    if (t->url == NULL || t->easy == NULL)
        luaL_error(L, "request: not enough memory");
    problem = parse_url(t, &r);
    if (problem != NULL)
        return fail_request(L, t, "bad_url", problem), NULL;
    err = prepare_body(t, &r);
    if (err != 0)
        return fail_errno(L, err, "request", "body_file"), NULL;
    add_headers(L, arg, t, &r);
    if (set_up(t, &r) != CURLE_OK)
        luaL_error(L, "request: libcurl refuses an option, or memory is short");
    return t;
}

/* From here the multi drives it; the caller has made sure that Lua keeps it. */
static void start(lua_State *L, struct multi *m, struct transfer *t)
{
    if (curl_multi_add_handle(m->handle, t->easy) != CURLM_OK)
        luaL_error(L, "request: libcurl cannot start it");
    t->multi = m;
    t->next = m->transfers;
    t->link = &m->transfers;
    if (t->next != NULL)
        t->next->link = &t->next;
    m->transfers = t;
}

/* ==== results ================================================================================== */

static const char *error_code(CURLcode rc)
{
    switch (rc) {
    case CURLE_OPERATION_TIMEDOUT:
        return "timeout";
    case CURLE_COULDNT_RESOLVE_HOST:
        return "dns";
    case CURLE_COULDNT_CONNECT:
        return "connect";
    case CURLE_SSL_CONNECT_ERROR:
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_CACERT_BADFILE:
    case CURLE_SSL_CIPHER:
    case CURLE_SSL_CERTPROBLEM:
    case CURLE_SSL_ISSUER_ERROR:
    case CURLE_SSL_ENGINE_INITFAILED:
        return "tls";
    case CURLE_SEND_ERROR:
    case CURLE_RECV_ERROR:
    case CURLE_GOT_NOTHING:
    case CURLE_PARTIAL_FILE:
    case CURLE_SEND_FAIL_REWIND:
        return "aborted";
    case CURLE_TOO_MANY_REDIRECTS:
        return "redirects";
    default:
        return "protocol";
    }
}

static int fail_stopped(lua_State *L, const struct transfer *t)
{
    switch (t->stop) {
    case STOP_TOO_LARGE:
        return fail_request(L, t, "too_large", "the response is larger than allowed");
    case STOP_HEAD:
        return fail_request(L, t, "too_large", "the response's headers are too large");
    case STOP_CUT_HEAD:
        return fail_request(L, t, "aborted", "the connection ended within the response's headers");
    case STOP_SHORT_BODY:
        return fail_request(L, t, "short_body", "the file ends before the announced length");
    case STOP_MEMORY:
        return fail_request(L, t, "memory", "not enough memory for the response");
    default:
        return fail_errno(L, t->err, "request", t->stop == STOP_READ ? "body_file" : "response_file");
    }
}

static int fail_transfer(lua_State *L, struct transfer *t)
{
    const char *text = t->detail[0] != '\0' ? t->detail : curl_easy_strerror(t->result);

    if (t->stop != STOP_NONE)
        return fail_stopped(L, t);
    for (char *p = t->detail; *p != '\0'; p++)
        if ((unsigned char)*p < 0x20 || *p == 0x7f)
            *p = ' '; /* it may quote the server */
    return fail_request(L, t, error_code(t->result), text);
}

/* Adds one header line to the table on top; a repeated name joins its values with ", ". */
static void push_header(lua_State *L, const char *line, size_t len)
{
    const char *colon = memchr(line, ':', len), *value;
    luaL_Buffer name;

    if (colon == NULL || colon == line || line[0] == ' ' || line[0] == '\t')
        return;
    luaL_buffinit(L, &name);
    for (const char *p = line; p < colon; p++)
        luaL_addchar(&name, (char)tolower((unsigned char)*p));
    luaL_pushresult(&name);
    for (value = colon + 1; value < line + len && (*value == ' ' || *value == '\t'); value++)
        ;
    for (len -= (size_t)(value - line); len > 0 && (value[len - 1] == ' ' || value[len - 1] == '\t'); len--)
        ;
    lua_pushvalue(L, -1);
    if (lua_rawget(L, -3) == LUA_TSTRING) {
        lua_pushliteral(L, ", ");
        lua_pushlstring(L, value, len);
        lua_concat(L, 3);
    } else {
        lua_pop(L, 1);
        lua_pushlstring(L, value, len);
    }
    lua_rawset(L, -3);
}

static void push_headers(lua_State *L, const struct transfer *t)
{
    const char *p = t->head, *end = p + t->head_len;

    lua_newtable(L);
    while (p < end) {
        const char *nl = memchr(p, '\n', (size_t)(end - p)), *stop = nl != NULL ? nl : end;
        push_header(L, p, (size_t)(stop - p) - (stop > p && stop[-1] == '\r'));
        p = stop + 1;
    }
}

/* Last checks: the file took it all, and the head was complete (libcurl takes an end inside it for an end).
 */
static void settle(struct transfer *t)
{
    if (t->stop != STOP_NONE || t->result != CURLE_OK)
        return;
    if (!t->head_done)
        stop_with(t, STOP_CUT_HEAD, 0);
    else if (t->out != NULL && t->out->closef == NULL)
        stop_with(t, STOP_WRITE, EBADF);
    else if (t->out != NULL && fflush(t->out->f) != 0)
        stop_with(t, STOP_WRITE, errno);
}

/* Pushes the response table, or the triple; returns how many. */
static int push_result(lua_State *L, struct transfer *t)
{
    long status = 0;
    char *url = NULL;

    settle(t);
    if (t->result != CURLE_OK || t->stop != STOP_NONE)
        return fail_transfer(L, t);
    lua_createtable(L, 0, 6);
    curl_easy_getinfo(t->easy, CURLINFO_RESPONSE_CODE, &status);
    curl_easy_getinfo(t->easy, CURLINFO_EFFECTIVE_URL, &url);
    lua_pushinteger(L, status);
    lua_setfield(L, -2, "status");
    lua_pushstring(L, url);
    lua_setfield(L, -2, "url");
    lua_pushinteger(L, t->received);
    lua_setfield(L, -2, "size");
    if (!goes_to_file(t)) {
        lua_pushlstring(L, t->buf != NULL ? t->buf : "", t->len);
        lua_setfield(L, -2, "body");
    }
    push_headers(L, t);
    lua_setfield(L, -2, "headers");
    return 1;
}

/***
 * Makes one request and waits for its end. A response of any status is a success here.
 *
 * Fields of the request: `url` (http or https) · `method` ("GET") · `headers` (name → value) · `body`
 * (string) or `body_file` (an io file, from its position) with `body_length` (default: to its end), sent with
 * Content-Length; with `body_growing` the file is still being written, and its end is waited for until it has the
 * length, or lost its name · `response_file` (an io file; gets the body of a 2xx response) · `max_bytes` of the
 * response's body (64 MiB, for files too) · in seconds: `timeout` for all of it (30), `connect_timeout` (10),
 * `stall_timeout` without a byte moving (30; whole seconds, and libcurl may take 5 more) · `ca_file` ·
 * `follow` redirects, up to 5, GET and HEAD only, never from https to http (false; the headers go along, but
 * Authorization and Cookie only to the same host) · `sigv4` {access_key, secret_key, region, service = "s3",
 * token}: signs; sends `x-amz-content-sha256` of the headers, else UNSIGNED-PAYLOAD. What libcurl would sign
 * wrongly is refused: the path and query must be percent-encoded in canonical form, the query sorted, and
 * no header's name may be another's beginning, followed by '-' or a digit.
 *
 * The response: `status`, `headers` (names in lower case, repeated ones joined by ", "), `body` (absent when
 * it went to the file), `size` in bytes, `url` (after redirects, without user and password).
 * @function request
 * @tparam table request
 * @treturn[1] table response
 * @return[2] nil
 * @treturn[2] string message without credentials: of the URL only scheme, host, port and path
 * @treturn[2] string code `timeout`, `dns`, `connect`, `tls`, `aborted` (the connection broke), `too_large`,
 *   `short_body`, `protocol`, `redirects`, `bad_url`, `memory`, or an errno symbol of one of the files
 * @usage local r = assert(http.request { url = "http://127.0.0.1:8080/healthz", timeout = 2 })
 */
static int l_request(lua_State *L)
{
    struct multi *m;
    struct transfer *t;
    int n;

    lua_settop(L, 1);
    m = hidden_multi(L);
    t = new_transfer(L, 1);
    if (t == NULL)
        return 3;
    start(L, m, t);
    while (!t->done)
        multi_wait(m, 1000);
    n = push_result(L, t);
    transfer_free(t);
    return n;
}

/* ==== many at once ============================================================================= */

/***
 * Makes a handle for many requests at once; it keeps connections open between them.
 * @function multi
 * @tparam[opt] table options `connections`: at most so many to one host, 1 to 1000 (default 32); the rest
 * waits
 * @treturn multi
 */
static int l_multi(lua_State *L)
{
    static const char *const names[] = {"connections", NULL};
    lua_Integer connections;

    check_options(L, 1, names);
    connections = option_integer(L, 1, "connections", 32);
    luaL_argcheck(L, connections >= 1 && connections <= 1000, 1, "option 'connections' must be 1 to 1000");
    new_multi(L, connections, 1);
    return 1;
}

/***
 * Starts a request; `run` or `step` carries it on. Files must stay open until it is done.
 * @function multi:add
 * @tparam table request as for `request`
 * @treturn[1] integer id
 * @return[2] nil
 * @treturn[2] string message
 * @treturn[2] string code `bad_url`, or an errno symbol of body_file
 */
static int l_add(lua_State *L)
{
    struct multi *m = check_multi(L);
    struct transfer *t;

    lua_settop(L, 2);
    t = new_transfer(L, 2);
    if (t == NULL)
        return 3;
    check_multi(L); /* again: making the transfer may have run a finaliser that closed it */
    t->id = m->last_id + 1;
    lua_getiuservalue(L, 1, 1);
    lua_pushvalue(L, -2);
    lua_rawseti(L, -2, t->id);
    m->last_id = t->id;
    start(L, m, t);
    lua_pushinteger(L, t->id);
    return 1;
}

/* Takes all finished transfers out and pushes the list of their results. */
static int push_completed(lua_State *L, struct multi *m)
{
    struct transfer *t;
    lua_Integer n = 0;

    lua_newtable(L);
    lua_getiuservalue(L, 1, 1);
    while ((t = first_done(m)) != NULL) {
        lua_rawgeti(L, -1, t->id); /* keeps it */
        lua_pushnil(L);
        lua_rawseti(L, -3, t->id);
        transfer_unlink(t); /* making the result may run a finaliser that uses or closes the multi */
        if (push_result(L, t) == 3) {
            lua_createtable(L, 0, 3);
            lua_insert(L, -4);
            lua_setfield(L, -4, "code");
            lua_setfield(L, -3, "error");
            lua_pop(L, 1);
        }
        lua_pushinteger(L, t->id);
        lua_setfield(L, -2, "id");
        lua_rawseti(L, -4, ++n);
        transfer_free(t);
        lua_pop(L, 1);
    }
    lua_pop(L, 1);
    return 1;
}

/***
 * Carries all requests on, until one is done (or all are) or the time is over.
 * @function multi:run
 * @tparam[opt] table options `timeout` in seconds, 0 to 86400 (default 30) · `all`: wait for all (default
 * false)
 * @treturn table list of what is done: responses as of `request`, with `id`; or {id, error = message, code =
 * code}. Empty when nothing was under way or the time is over
 */
static int l_run(lua_State *L)
{
    static const char *const names[] = {"timeout", "all", NULL};
    struct multi *m = check_multi(L);
    lua_Number timeout;
    long long end, left;
    int all, pending;

    check_options(L, 2, names);
    timeout = option_number(L, 2, "timeout", 30);
    all = option_boolean(L, 2, "all", 0);
    luaL_argcheck(L, timeout >= 0 && timeout <= MAX_SECONDS, 2,
                  "option 'timeout' must be 0 to 86400 seconds");
    end = now_ms() + (long long)(timeout * 1000);
    multi_timers(m);
    do {
        pending = 0;
        for (const struct transfer *t = m->transfers; t != NULL; t = t->next)
            pending += !t->done;
        left = end - now_ms();
        if (pending == 0 || (!all && first_done(m) != NULL))
            break;
        multi_wait(m, left > 0 ? left : 0);
    } while (left > 0);
    return push_completed(L, m);
}

/***
 * For an event loop: tells that a file descriptor is ready, or (without arguments) that the `timeout` is
 * over. Never waits.
 * @function multi:step
 * @tparam[opt] integer fd
 * @tparam[opt] string events `r`, `w` or `rw`
 * @treturn table list of what is done, as of `run`
 */
static int l_step(lua_State *L)
{
    struct multi *m = check_multi(L);
    lua_Integer fd = luaL_optinteger(L, 2, -1);
    const char *events = luaL_optstring(L, 3, "rw");
    int mask = (strchr(events, 'r') ? CURL_CSELECT_IN : 0) | (strchr(events, 'w') ? CURL_CSELECT_OUT : 0);

    luaL_argcheck(L, lua_isnoneornil(L, 2) || (fd >= 0 && fd <= INT_MAX), 2, "not a file descriptor");
    luaL_argcheck(L, events[0] != '\0' && strspn(events, "rw") == strlen(events), 3,
                  "must be 'r', 'w' or 'rw'");
    if (fd >= 0)
        multi_action(m, (curl_socket_t)fd, mask);
    else
        multi_action(m, CURL_SOCKET_TIMEOUT, 0);
    multi_resume(m);
    multi_timers(m);
    return push_completed(L, m);
}

/***
 * For an event loop: what to watch. Ask again after each call that carries requests on.
 * @function multi:fds
 * @treturn table list of {fd = integer, events = "r" | "w" | "rw"}
 */
static int l_fds(lua_State *L)
{
    static const char *const events[] = {"", "r", "w", "rw"};
    struct multi *m = check_multi(L);

    lua_newtable(L);
    for (size_t i = 0; i < m->watch_count; i++) {
        const struct pollfd w = m->watches[i]; /* a copy, for a finaliser may close the multi */
        lua_createtable(L, 0, 2);
        lua_pushinteger(L, w.fd);
        lua_setfield(L, -2, "fd");
        lua_pushstring(L, events[(w.events & POLLIN ? 1 : 0) | (w.events & POLLOUT ? 2 : 0)]);
        lua_setfield(L, -2, "events");
        lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
    return 1;
}

/***
 * For an event loop: the time until `step` must be called without arguments.
 * @function multi:timeout
 * @treturn[1] number seconds
 * @treturn[2] nil when there is no such time
 */
static int l_timeout(lua_State *L)
{
    struct multi *m = check_multi(L);
    long long left = m->deadline - now_ms();

    if (multi_is_paused(m) && (m->deadline < 0 || left > GROWTH_MS))
        lua_pushnumber(L, GROWTH_MS / 1000.0);
    else if (m->deadline < 0)
        luaL_pushfail(L);
    else
        lua_pushnumber(L, left > 0 ? (lua_Number)left / 1000 : 0);
    return 1;
}

/***
 * Gives a request up; its connection is closed and it is never reported.
 * @function multi:cancel
 * @tparam integer id
 * @treturn boolean whether there was such a request
 */
static int l_cancel(lua_State *L)
{
    struct multi *m = check_multi(L);
    lua_Integer id = luaL_checkinteger(L, 2);
    struct transfer *t = m->transfers;

    while (t != NULL && t->id != id)
        t = t->next;
    lua_getiuservalue(L, 1, 1);
    lua_pushnil(L);
    lua_rawseti(L, -2, id);
    if (t != NULL)
        transfer_free(t);
    lua_pushboolean(L, t != NULL);
    return 1;
}

/***
 * The number of requests that are not reported yet.
 * @function multi:count
 * @treturn integer
 */
static int l_count(lua_State *L)
{
    lua_Integer n = 0;

    for (const struct transfer *t = check_multi(L)->transfers; t != NULL; t = t->next)
        n++;
    lua_pushinteger(L, n);
    return 1;
}

/***
 * Closes the handle, its requests and its connections. May be called again.
 * @function multi:close
 */
static int l_close(lua_State *L)
{
    struct multi *m = luaL_checkudata(L, 1, MULTI_MT);

    multi_free(m);
    lua_pushnil(L);
    lua_setiuservalue(L, 1, 1);
    return 0;
}

static int l_tostring(lua_State *L)
{
    const struct multi *m = luaL_checkudata(L, 1, MULTI_MT);
    int n = 0;

    for (const struct transfer *t = m->transfers; t != NULL; t = t->next)
        n++;
    if (m->handle == NULL)
        lua_pushliteral(L, "http.multi: closed");
    else
        lua_pushfstring(L, "http.multi: %d under way", n);
    return 1;
}

static int l_multi_gc(lua_State *L)
{
    multi_free(luaL_checkudata(L, 1, MULTI_MT));
    return 0;
}

/***
 * The number of open multis and of transfers under way; the hidden handle of `request` does not count.
 * @function live_handles
 * @treturn integer
 */

static const luaL_Reg multi_methods[] = {
    {"add", l_add},       {"run", l_run},     {"step", l_step},   {"fds", l_fds}, {"timeout", l_timeout},
    {"cancel", l_cancel}, {"count", l_count}, {"close", l_close}, {NULL, NULL},
};

static const luaL_Reg multi_meta[] = {
    {"__gc", l_multi_gc},
    {"__close", l_multi_gc},
    {"__tostring", l_tostring},
    {NULL, NULL},
};

static const luaL_Reg transfer_meta[] = {
    {"__gc", l_transfer_gc},
    {NULL, NULL},
};

static const luaL_Reg http_funcs[] = {
    {"request", l_request},
    {"multi", l_multi},
    {"live_handles", l_live_handles},
    {NULL, NULL},
};

int luaopen_atelier_http(lua_State *L);

int luaopen_atelier_http(lua_State *L)
{
    luaL_checkversion(L);
    if (curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK)
        return luaL_error(L, "http: libcurl cannot start");
    luaL_newmetatable(L, TRANSFER_MT);
    luaL_setfuncs(L, transfer_meta, 0);
    luaL_newmetatable(L, MULTI_MT);
    luaL_setfuncs(L, multi_meta, 0);
    luaL_newlib(L, multi_methods);
    lua_setfield(L, -2, "__index");
    luaL_newlib(L, http_funcs);
    return 1;
}
