/***
 * An HTTP server and the event loop that it runs in: a coroutine per request.
 *
 * Owns the face for Lua: the listening socket, limits, callbacks, signals, the request object, what a coroutine may wait for.
 * Requests are read by libmicrohttpd (httpd_server.c), judged by httpd_check.c, longer answers written by httpd_writer.c; the
 * loop is front.c. Must not know any route. Needs the host program.
 *
 * A handler is called with a request: `method`, `path` (decoded once, checked), `target` (as it came, from its path on), `query` (first value by
 * name), `repeated` (names that came more than once, or nil), `headers` (names in lower case), `body` (when there is one), `peer`,
 * `peer_port`, `version`, `id`; it may keep fields of its own in it. Any call of atelier.pg on a connection with
 * `yield = true` waits in the loop, as does everything that yields an object with the methods `socket`, `events`, `timeout` and
 * `step`. A slice, from one wait to the next, may use `slice_ms` of CPU time; then the coroutine is ended.
 * @module atelier.httpd
 * @usage local server = assert(httpd.listen { port = 8080 })
 * server:run { handler = function(request) request:respond { body = request.path } end }
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "httpd_request.h"
#include "httpd_tasks.h"

int luaopen_atelier_httpd(lua_State *L);

#define SERVER_MT "atelier.httpd.server"

enum server_state { SERVER_CLOSED = 0, SERVER_LISTENING, SERVER_RUNNING };

struct server_box {
    enum server_state state;
    struct server server;
};

static struct server_box *check_server(lua_State *L)
{
    struct server_box *box = luaL_checkudata(L, 1, SERVER_MT);

    if (box->state == SERVER_CLOSED)
        luaL_argerror(L, 1, "server is closed");
    return box;
}

/* ==== limits =================================================================================== */

struct limit {
    const char *name;
    size_t at;
    int is_seconds;
    lua_Number fallback, least, most;
};

#define LIMIT(name, field, is_seconds, fallback, least, most) \
    {name, offsetof(struct httpd_limits, field), is_seconds, fallback, least, most}

static const struct limit limits[] = {
    LIMIT("header_bytes", header_bytes, 0, 16384, 512, 1 << 20),
    LIMIT("header_count", header_count, 0, 100, 1, 1000),
    LIMIT("target_bytes", target_bytes, 0, 8192, 16, 1 << 20),
    LIMIT("body_bytes", body_bytes, 0, 65536, 0, 1e15),
    LIMIT("header_seconds", header_ms, 1, 10, 0.1, 86400),
    LIMIT("body_seconds", body_ms, 1, 30, 0.1, 86400),
    LIMIT("handler_seconds", handler_ms, 1, 30, 0.1, 86400),
    LIMIT("response_seconds", response_ms, 1, 60, 0.1, 86400),
    LIMIT("idle_seconds", idle_ms, 1, 60, 0.1, 86400),
    LIMIT("stall_seconds", stall_ms, 1, 30, 0.1, 86400),
    LIMIT("half_close_seconds", half_close_ms, 1, 1, 0, 86400),
    LIMIT("min_rate", min_rate, 0, 16384, 1, 1e12),
    LIMIT("connections", connections, 0, 1024, 1, 1e6),
    LIMIT("requests", requests, 0, 1000, 1, 1e15),
    LIMIT("stream_bytes", stream_bytes, 0, 262144, 1, 1 << 30),
    LIMIT("slice_ms", slice_ms, 0, 100, 10, 60000),
};

enum { LIMITS = sizeof limits / sizeof limits[0] };

/* Reads the table at `arg`, which may be nil. */
static void read_limits(lua_State *L, int arg, struct httpd_limits *to)
{
    const char *names[LIMITS + 1] = {NULL};

    for (int i = 0; i < LIMITS; i++)
        names[i] = limits[i].name;
    check_options(L, arg, names);
    for (int i = 0; i < LIMITS; i++) {
        const struct limit *l = &limits[i];
        lua_Number n = option_number(L, arg, l->name, l->fallback);
        if (!(n >= l->least && n <= l->most))
            luaL_argerror(L, 1, lua_pushfstring(L, "limit '%s' must be %f to %f", l->name, l->least, l->most));
        *(int64_t *)(void *)((char *)to + l->at) = (int64_t)(l->is_seconds ? n * 1000 : n);
    }
}

/* ==== listen =================================================================================== */

union address {
    struct sockaddr any;
    struct sockaddr_in in;
    struct sockaddr_in6 in6;
};

static socklen_t read_address(const char *host, int port, union address *a)
{
    memset(a, 0, sizeof *a);
    if (inet_pton(AF_INET, host, &a->in.sin_addr) == 1) {
        a->in.sin_family = AF_INET;
        a->in.sin_port = htons((uint16_t)port);
        return sizeof a->in;
    }
    if (inet_pton(AF_INET6, host, &a->in6.sin6_addr) != 1)
        return 0;
    a->in6.sin6_family = AF_INET6;
    a->in6.sin6_port = htons((uint16_t)port);
    return sizeof a->in6;
}

/* Returns 0 or an errno; the socket is in *fd either way. */
static int open_listener(const union address *a, socklen_t size, int backlog, int reuse_port, int *fd)
{
    static const int on = 1;

    *fd = socket(a->any.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (*fd < 0)
        return errno;
    setsockopt(*fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (a->any.sa_family == AF_INET6)
        setsockopt(*fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof on);
    if (reuse_port && setsockopt(*fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof on) != 0)
        return errno;
    if (bind(*fd, &a->any, size) != 0 || listen(*fd, backlog) != 0)
        return errno;
    return 0;
}

/* A duplicate of a socket that listens already; the flag that it must not block is shared with the original. */
static int adopt_listener(lua_Integer given, int *fd)
{
    int is_listening = 0;
    socklen_t size = sizeof is_listening;

    if (given < 0 || given > INT32_MAX)
        return EBADF;
    *fd = fcntl((int)given, F_DUPFD_CLOEXEC, 3);
    if (*fd < 0)
        return errno;
    if (getsockopt(*fd, SOL_SOCKET, SO_ACCEPTCONN, &is_listening, &size) != 0)
        return errno;
    if (!is_listening)
        return EINVAL;
    return fcntl(*fd, F_SETFL, fcntl(*fd, F_GETFL) | O_NONBLOCK) != 0 ? errno : 0;
}

static int port_of(int fd)
{
    union address a;
    socklen_t size = sizeof a;

    memset(&a, 0, sizeof a);
    if (getsockname(fd, &a.any, &size) != 0)
        return 0;
    return a.any.sa_family == AF_INET6 ? ntohs(a.in6.sin6_port) : ntohs(a.in.sin_port);
}

static struct server_box *new_server(lua_State *L)
{
    struct server_box *box = lua_newuserdatauv(L, sizeof *box, 0);

    memset(box, 0, sizeof *box);
    box->server.listener = -1;
    luaL_setmetatable(L, SERVER_MT);
    return box;
}

static void close_listener(struct server_box *box)
{
    if (box->server.listener >= 0)
        close(box->server.listener);
    box->server.listener = -1;
}

/***
 * Opens a listening socket. Who connects waits in its queue until `server:run`.
 * @function listen
 * @tparam table options `host` ("127.0.0.1", an address) · `port` (0: any that is free) · or `fd`, a socket that listens already
 *   (duplicated) · `backlog` (511) · `reuse_port` (false) · `limits`: `header_bytes` (16384), `header_count` (100), `target_bytes`
 *   (8192), `body_bytes` (65536), `header_seconds` (10), `body_seconds` (30), `handler_seconds` (30: until it answers),
 *   `response_seconds` (60) and `min_rate` (16384 bytes a second, for longer responses), `stall_seconds` (30: a client that takes
 *   nothing), `idle_seconds` (60), `half_close_seconds` (1: how long a client that closed its side is still answered),
 *   `connections` (1024; one more ends the one that is silent for the longest time; while all are at work it gets 503,
 *   and those go that are slower than `min_rate` after `header_seconds`),
 *   `requests` (1000 a connection), `stream_bytes` (262144 queued before `request:write` waits), `slice_ms` (100)
 * @treturn[1] server
 * @return[2] nil
 * @treturn[2] string message
 * @treturn[2] string an errno, such as "EADDRINUSE", or "address"
 */
static int l_listen(lua_State *L)
{
    static const char *const names[] = {"host", "port", "fd", "backlog", "reuse_port", "limits", NULL};
    const char *host;
    lua_Integer port, fd, backlog;
    int reuse_port, err;
    struct server_box *box;
    union address a;
    socklen_t size = 0;

    luaL_checktype(L, 1, LUA_TTABLE);
    check_options(L, 1, names);
    host = option_string(L, 1, "host", NULL);
    host = host != NULL ? host : "127.0.0.1";
    port = option_integer(L, 1, "port", 0);
    luaL_argcheck(L, port >= 0 && port <= 65535, 1, "option 'port' must be 0 to 65535");
    fd = option_integer(L, 1, "fd", -1);
    backlog = option_integer(L, 1, "backlog", 511);
    luaL_argcheck(L, backlog >= 1 && backlog <= 65535, 1, "option 'backlog' must be 1 to 65535");
    reuse_port = option_boolean(L, 1, "reuse_port", 0);
    lua_settop(L, 1);
    lua_getfield(L, 1, "limits");
    box = new_server(L);
    read_limits(L, 2, &box->server.limits);
    lua_getfield(L, 1, "fd");
    if (!lua_isnil(L, -1)) {
        err = adopt_listener(fd, &box->server.listener);
    } else {
        size = read_address(host, (int)port, &a);
        if (size == 0)
            return fail(L, "address", "listen: %s: not an address", host);
        err = open_listener(&a, size, (int)backlog, reuse_port, &box->server.listener);
    }
    if (err != 0) {
        close_listener(box);
        return fail_errno(L, err, "listen", size == 0 ? "fd" : host);
    }
    box->server.port = port_of(box->server.listener);
    box->state = SERVER_LISTENING;
    managed_live++;
    lua_settop(L, 3);
    return 1;
}

/* ==== how the server calls Lua ================================================================= */

/* The body of a handler's coroutine. */
static int serve(lua_State *L)
{
    struct request *r = lua_touserdata(L, 1);

    lua_settop(L, 0);
    luaL_checkstack(L, 8, NULL);
    push_callback(L, r->server, CALL_HANDLER);
    push_request(L, r);
    if (r->body_size > 0) {
        lua_getiuservalue(L, -1, 1);
        lua_pushlstring(L, r->body, r->body_size);
        lua_setfield(L, -2, "body");
        lua_pop(L, 1);
        free(r->body);
        r->body = NULL;
        r->body_size = r->body_room = 0;
    }
    lua_callk(L, 1, 0, 0, slept);
    return 0;
}

static void on_handler_end(struct task *t, enum task_end how, const char *text)
{
    struct request *r = t->owner;

    r->server->ntasks--;
    if (text != NULL) {
        char line[2048];
        snprintf(line, sizeof line, "handler: %s %s: %s", r->method, r->path, text);
        write_log(r->server, "error", line);
    } else if (how == TASK_DONE && !r->is_answered) {
        write_log(r->server, "error", "handler: returned without an answer");
    }
    if (r->phase == REQUEST_WRITER && r->writer.is_stream && r->connection != NULL) {
        if (how == TASK_DONE || r->writer.is_ended) {
            writer_end(r);
            writer_pump(r);
        } else {
            writer_abort(r);
            httpd_shut(r);
        }
    }
    httpd_handler_ended(r);
}

static void start_handler(struct request *r)
{
    struct task *t = task_new(r->server->front);

    if (t == NULL) {
        httpd_refuse(r, 503, "unavailable", "not enough memory");
        return;
    }
    t->owner = r;
    t->on_end = on_handler_end;
    r->task = task_handle(t);
    r->server->ntasks++;
    lua_pushcfunction(t->co, serve);
    lua_pushlightuserdata(t->co, r);
    task_start(t, 1);
}

/* What the accept hook wants, read by a C function that may raise. */
struct accepting {
    struct request *request;
    lua_Integer limit;
    int is_answered;
};

/* An answer before the body is read: no file, no stream. */
static void answer_early(lua_State *L, struct request *r)
{
    struct answer a;
    const char *head;
    size_t size;

    lua_replace(L, 2);
    lua_settop(L, 2);
    check_answer(L, &a);
    luaL_argcheck(L, !a.has_file && !a.is_stream, 2, "accept: only a body can be sent before the request is read");
    push_header_list(L, &a);
    a.length = a.size;
    push_head(L, r, &a, 3);
    head = lua_tolstring(L, -1, &size);
    r->is_answered = 1;
    r->answered_at = front_now();
    r->status = a.status;
    r->length = r->is_head ? 0 : a.size;
    if (!writer_begin(r, head, size) || (!r->is_head && !writer_add(r, a.body, a.size, 0)))
        httpd_shut(r);
    else
        writer_end(r); /* and httpd_server.c pumps */
}

/* Runs inside call_lua. */
static int call_accept(lua_State *L)
{
    struct accepting *a = lua_touserdata(L, 1);

    luaL_checkstack(L, 12, NULL);
    lua_pushnil(L);
    push_callback(L, a->request->server, CALL_ACCEPT);
    push_request(L, a->request);
    lua_call(L, 1, 1);
    if (lua_isinteger(L, -1) && lua_tointeger(L, -1) >= 0) {
        a->limit = lua_tointeger(L, -1);
    } else if (lua_istable(L, -1)) {
        answer_early(L, a->request);
        a->is_answered = 1;
    } else if (!lua_isnil(L, -1)) {
        return luaL_error(L, "accept: returned a %s, not a number of bytes, a response or nil", luaL_typename(L, -1));
    }
    return 0;
}

static int ask_accept(struct request *r)
{
    struct accepting a = {r, r->body_limit, 0};
    lua_State *L = front_state(r->server->front);
    int top = lua_gettop(L), ok;

    if (!has_callback(r->server, CALL_ACCEPT))
        return 1;
    lua_pushcfunction(L, call_accept);
    lua_pushlightuserdata(L, &a);
    budget_begin(L);
    ok = call_lua(L, 1, 0) == LUA_OK;
    budget_end(L);
    if (!ok)
        write_log(r->server, "error", lua_tostring(L, -1));
    lua_settop(L, top);
    r->body_limit = a.limit;
    return ok && !a.is_answered;
}

static void push_info(lua_State *L, const struct request *r)
{
    lua_createtable(L, 0, 4);
    lua_pushinteger(L, (lua_Integer)r->status);
    lua_setfield(L, -2, "status");
    lua_pushinteger(L, (lua_Integer)r->sent);
    lua_setfield(L, -2, "bytes_sent");
    lua_pushboolean(L, r->is_finished);
    lua_setfield(L, -2, "finished");
    lua_pushnumber(L, (lua_Number)(httpd_microseconds() - r->started) / 1e6);
    lua_setfield(L, -2, "seconds");
}

static void drop_request(struct server *s, struct request *r)
{
    lua_State *L = front_state(s->front);

    if (r->object != NULL)
        forget_request(L, r);
    httpd_request_free(r);
}

/* The body of a completion's coroutine. */
static int tell_completion(lua_State *L)
{
    struct request *r = lua_touserdata(L, 1);

    lua_settop(L, 0);
    push_callback(L, r->server, CALL_COMPLETE);
    push_request(L, r); /* is there already */
    push_info(L, r);
    task_current(loop.front, L)->owner = NULL;
    drop_request(r->server, r);
    lua_callk(L, 2, 0, 0, slept);
    return 0;
}

static void on_completion_end(struct task *t, enum task_end how, const char *text)
{
    struct server *s = loop.server;

    (void)how;
    s->ntasks--;
    if (t->owner != NULL)
        drop_request(s, t->owner);
    if (text != NULL)
        write_log(s, "error", text);
}

static void complete(struct request *r)
{
    struct server *s = r->server;
    struct task *t;

    s->ncompleted++;
    if (r->object == NULL || !has_callback(s, CALL_COMPLETE) || (t = start_background(s, tell_completion, r)) == NULL) {
        drop_request(s, r);
        return;
    }
    t->owner = r;
    t->on_end = on_completion_end;
    s->ntasks++;
}

static const struct httpd_lua for_server = {start_handler, ask_accept, complete, write_log};

/* ==== the loop's hooks ========================================================================= */

static int run_tick(lua_State *L)
{
    const struct server *s = lua_touserdata(L, 1);

    push_callback(L, s, CALL_TICK);
    lua_callk(L, 0, 0, 0, slept);
    return 0;
}

static int run_start(lua_State *L)
{
    const struct server *s = lua_touserdata(L, 1);

    push_callback(L, s, CALL_START);
    lua_callk(L, 0, 0, 0, slept);
    return 0;
}

static int64_t due(void *arg)
{
    const struct server *s = arg;
    int64_t at = httpd_due(s);

    return s->tick_ms > 0 && s->next_tick < at ? s->next_tick : at;
}

static void turn(void *arg)
{
    struct server *s = arg;
    struct task *t;

    if (s->tick_ms > 0 && front_now() >= s->next_tick) {
        s->next_tick = front_now() + s->tick_ms;
        if (task_of(s->tick) == NULL && (t = start_background(s, run_tick, s)) != NULL)
            s->tick = task_handle(t);
    }
    httpd_turn(s);
}

static void report(void *arg, const char *text)
{
    write_log(arg, "error", text);
}

/* ==== signals ================================================================================== */

static const struct {
    const char *name;
    int number;
} signal_names[] = {
    {"HUP", SIGHUP},   {"INT", SIGINT},   {"QUIT", SIGQUIT}, {"TERM", SIGTERM},
    {"USR1", SIGUSR1}, {"USR2", SIGUSR2}, {"CHLD", SIGCHLD}, {NULL, 0},
};

static int run_signal(lua_State *L)
{
    size_t i = (size_t)lua_touserdata(L, 1);

    push_callback(L, loop.server, CALL_SIGNAL);
    lua_pushstring(L, signal_names[i].name);
    lua_callk(L, 1, 0, 0, slept);
    return 0;
}

static void on_signals(struct source *source, uint32_t events)
{
    struct signalfd_siginfo info;

    (void)events;
    while (read(source->fd, &info, sizeof info) == (ssize_t)sizeof info) {
        for (size_t i = 0; signal_names[i].name != NULL; i++) {
            if ((int)info.ssi_signo == signal_names[i].number)
                start_background(loop.server, run_signal, (void *)i);
        }
    }
}

static void check_signals(lua_State *L, int arg, sigset_t *set)
{
    sigemptyset(set);
    if (lua_getfield(L, arg, "signals") != LUA_TNIL) {
        luaL_argcheck(L, lua_istable(L, -1), arg, "option 'signals' must be a list of names");
        for (lua_Integer i = 1; lua_rawgeti(L, -1, i) != LUA_TNIL; i++) {
            const char *name = lua_tostring(L, -1);
            size_t k = 0;
            while (signal_names[k].name != NULL && (name == NULL || strcmp(name, signal_names[k].name) != 0))
                k++;
            luaL_argcheck(L, signal_names[k].name != NULL, arg, "option 'signals': no such signal");
            sigaddset(set, signal_names[k].number);
            lua_pop(L, 1);
        }
        lua_pop(L, 1);
    }
    lua_pop(L, 1);
}

/* ==== run ====================================================================================== */

static const struct {
    const char *name;
    enum callback which;
} callbacks[] = {
    {"handler", CALL_HANDLER}, {"accept", CALL_ACCEPT}, {"on_complete", CALL_COMPLETE}, {"on_tick", CALL_TICK},
    {"on_signal", CALL_SIGNAL}, {"on_log", CALL_LOG},   {"on_start", CALL_START},
};

/* Pushes the table of callbacks that the options at 2 name. */
static void push_callbacks(lua_State *L)
{
    lua_newtable(L);
    for (size_t i = 0; i < sizeof callbacks / sizeof callbacks[0]; i++) {
        int type = lua_getfield(L, 2, callbacks[i].name);
        if (type != LUA_TNIL && type != LUA_TFUNCTION)
            option_error(L, 2, callbacks[i].name, "a function");
        lua_rawseti(L, -2, callbacks[i].which);
    }
    luaL_argcheck(L, lua_rawgeti(L, -1, CALL_HANDLER) == LUA_TFUNCTION, 2, "option 'handler' is missing");
    lua_pop(L, 1);
}

/* Everything of a run that is neither Lua's nor the server's. */
struct running {
    sigset_t signals, before;
    int has_signals;
};

static int start_signals(struct server *s, struct running *run)
{
    s->signals.fd = -1;
    if (!run->has_signals)
        return 0;
    s->signals.fd = signalfd(-1, &run->signals, SFD_NONBLOCK | SFD_CLOEXEC);
    s->signals.ready = on_signals;
    if (s->signals.fd < 0)
        return errno;
    sigprocmask(SIG_BLOCK, &run->signals, &run->before);
    return front_watch(s->front, &s->signals, EPOLLIN);
}

static void stop_signals(struct server *s, const struct running *run)
{
    struct signalfd_siginfo info;

    if (s->signals.fd < 0)
        return;
    /* What came late has no one left to tell, and must not end the process by its default action. */
    while (read(s->signals.fd, &info, sizeof info) == (ssize_t)sizeof info)
        continue;
    close(s->signals.fd);
    sigprocmask(SIG_SETMASK, &run->before, NULL);
}

/* Returns 0 or an errno. Raises nothing: from front_open to front_close no Lua runs unprotected. */
static int run_loop(lua_State *L, struct server *s, struct running *run)
{
    const struct front_hooks hooks = {due, turn, report, s};
    int err = 0;

    s->lua = &for_server;
    s->front = front_open(L, (int)s->limits.slice_ms, &hooks);
    if (s->front == NULL)
        return errno;
    loop.front = s->front;
    loop.server = s;
    loop.number++;
    s->next_tick = front_now() + s->tick_ms;
    err = start_signals(s, run);
    if (err == 0 && httpd_start(s) == NULL)
        err = errno != 0 ? errno : EINVAL;
    if (err == 0) {
        if (has_callback(s, CALL_START))
            start_background(s, run_start, s);
        front_run(s->front);
        httpd_stop(s);
    }
    front_close(s->front);
    stop_signals(s, run);
    s->front = NULL;
    loop.front = NULL;
    loop.server = NULL;
    return err;
}

/***
 * Serves, until `server:drain` is done or `server:stop` is called; then the server is closed. One server at a time runs in a process.
 * All callbacks but `accept` and `on_log` run in coroutines of their own and may wait.
 * @function server:run
 * @tparam table options `handler(request)` ·
 *   `accept(request)`: called before a body is read; returns how many bytes it may have, or a response (as of
 *   `request:respond`, with a body) instead of it, or nil for the default ·
 *   `on_complete(request, info)`: once for each request that a handler saw, when both are over; info has `status`, `bytes_sent` (of the
 *   body, that the client's side has), `finished` (all of it), `seconds` ·
 *   `on_tick()` every `tick` seconds (1), unless it still runs · `on_start()` · `on_signal(name)` for `signals`, a list of "TERM",
 *   "INT", "HUP", "QUIT", "USR1", "USR2", "CHLD" · `on_log(level, text)`: levels "error", "info", "debug"; without it errors go to
 *   standard error
 * @treturn[1] boolean true
 * @return[2] nil
 * @treturn[2] string message
 * @treturn[2] string an errno
 */
static int l_run(lua_State *L)
{
    static const char *const names[] = {"handler", "accept", "on_complete", "on_tick", "tick", "on_start",
                                        "on_signal", "signals", "on_log", NULL};
    struct server_box *box = check_server(L);
    struct running run;
    int err;

    luaL_checktype(L, 2, LUA_TTABLE);
    lua_settop(L, 2);
    check_options(L, 2, names);
    if (loop.front != NULL)
        return luaL_error(L, "run: a server runs already");
    check_signals(L, 2, &run.signals);
    run.has_signals = !lua_isnil(L, (lua_getfield(L, 2, "signals"), -1));
    lua_pop(L, 1);
    push_callbacks(L);
    box->server.tick_ms = check_ms(L, 2, option_number(L, 2, "tick", 1));
    if (lua_rawgeti(L, 3, CALL_TICK) == LUA_TNIL || box->server.tick_ms < 10)
        box->server.tick_ms = lua_isnil(L, -1) ? 0 : 10;
    luaL_argcheck(L, !run.has_signals || lua_rawgeti(L, 3, CALL_SIGNAL) != LUA_TNIL, 2, "option 'on_signal' is missing");
    lua_settop(L, 3);
    luaL_checkstack(L, LUA_MINSTACK * 2, NULL);
    lua_newtable(L);
    lua_rawsetp(L, LUA_REGISTRYINDEX, &objects_key);
    lua_rawsetp(L, LUA_REGISTRYINDEX, &box->server);
    box->state = SERVER_RUNNING;
    err = run_loop(L, &box->server, &run);
    close_listener(box);
    box->state = SERVER_CLOSED;
    managed_live--;
    lua_pushnil(L);
    lua_rawsetp(L, LUA_REGISTRYINDEX, &box->server);
    lua_pushnil(L);
    lua_rawsetp(L, LUA_REGISTRYINDEX, &objects_key);
    if (err != 0)
        return fail_errno(L, err, "run", "event loop");
    lua_pushboolean(L, 1);
    return 1;
}

/* ==== methods ================================================================================== */

/***
 * Takes no more connections, ends idle ones and streams, and lets `server:run` return when all that is under way is done, or
 * after a time. A second call can shorten it.
 * @function server:drain
 * @tparam[opt] number timeout in seconds (30)
 */
static int l_drain(lua_State *L)
{
    struct server_box *box = check_server(L);
    int64_t ms = check_ms(L, 2, luaL_optnumber(L, 2, 30));

    if (box->state != SERVER_RUNNING)
        return luaL_error(L, "drain: the server does not run");
    httpd_drain(&box->server, ms);
    return 0;
}

/***
 * Ends `server:run` after this turn of the loop; what is under way is cut.
 * @function server:stop
 */
static int l_stop(lua_State *L)
{
    struct server_box *box = check_server(L);

    if (box->state != SERVER_RUNNING)
        return luaL_error(L, "stop: the server does not run");
    box->server.is_stopping = 1;
    return 0;
}

/***
 * The port it listens on.
 * @function server:port
 * @treturn integer
 */
static int l_port(lua_State *L)
{
    lua_pushinteger(L, check_server(L)->server.port);
    return 1;
}

/***
 * The listening socket, to hand it to another process.
 * @function server:fd
 * @treturn[1] integer
 * @treturn[2] nil once the server drains
 */
static int l_fd(lua_State *L)
{
    const struct server_box *box = check_server(L);

    if (box->server.listener < 0)
        lua_pushnil(L);
    else
        lua_pushinteger(L, box->server.listener);
    return 1;
}

/***
 * Counters.
 * @function server:stats
 * @treturn table `connections` and `in_flight` (requests) now, `tasks` (coroutines) now; since the start: `requests`, `refused`
 *   (of them, by the server itself), `completed`; `draining`
 */
static int l_stats(lua_State *L)
{
    const struct server_box *box = check_server(L);
    const struct server *s = &box->server;

    lua_createtable(L, 0, 7);
    lua_pushinteger(L, s->nconnections);
    lua_setfield(L, -2, "connections");
    lua_pushinteger(L, (lua_Integer)s->nin_flight);
    lua_setfield(L, -2, "in_flight");
    lua_pushinteger(L, s->front != NULL ? front_task_count(s->front) : 0);
    lua_setfield(L, -2, "tasks");
    lua_pushinteger(L, (lua_Integer)s->nrequests);
    lua_setfield(L, -2, "requests");
    lua_pushinteger(L, (lua_Integer)s->nrefused);
    lua_setfield(L, -2, "refused");
    lua_pushinteger(L, (lua_Integer)s->ncompleted);
    lua_setfield(L, -2, "completed");
    lua_pushboolean(L, s->is_draining);
    lua_setfield(L, -2, "draining");
    return 1;
}

/***
 * Closes a server that does not run. May be called again.
 * @function server:close
 */
static int l_server_close(lua_State *L)
{
    struct server_box *box = luaL_checkudata(L, 1, SERVER_MT);

    if (box->state == SERVER_RUNNING)
        return luaL_error(L, "close: the server runs");
    if (box->state == SERVER_LISTENING)
        managed_live--;
    box->state = SERVER_CLOSED;
    close_listener(box);
    return 0;
}

static int l_server_gc(lua_State *L)
{
    struct server_box *box = luaL_checkudata(L, 1, SERVER_MT);

    if (box->state == SERVER_RUNNING) /* the program ends inside its loop: the kernel closes what is open */
        return 0;
    return l_server_close(L);
}

static int l_server_tostring(lua_State *L)
{
    static const char *const states[] = {"closed", "listening", "running"};
    const struct server_box *box = luaL_checkudata(L, 1, SERVER_MT);

    lua_pushfstring(L, SERVER_MT ": %s, port %d", states[box->state], box->server.port);
    return 1;
}

/***
 * How many servers are open.
 * @function live_handles
 * @treturn integer count
 */

/* ==== tables =================================================================================== */

static const luaL_Reg server_methods[] = {
    {"run", l_run},     {"drain", l_drain}, {"stop", l_stop},          {"port", l_port},
    {"fd", l_fd},       {"stats", l_stats}, {"close", l_server_close}, {NULL, NULL},
};

static const luaL_Reg server_meta[] = {
    {"__gc", l_server_gc},
    {"__close", l_server_close},
    {"__tostring", l_server_tostring},
    {NULL, NULL},
};

static const luaL_Reg httpd_funcs[] = {
    {"listen", l_listen},
    {"sleep", l_sleep},
    {"wait", l_wait},
    {"park", l_park},
    {"now", l_now},
    {"spawn", l_spawn},
    {"current", l_current},
    {"allow_origins", l_allow_origins},
    {"live_handles", l_live_handles},
    {NULL, NULL},
};

static void new_class(lua_State *L, const char *name, const luaL_Reg *meta, const luaL_Reg *methods, lua_CFunction index)
{
    luaL_newmetatable(L, name);
    luaL_setfuncs(L, meta, 0);
    lua_newtable(L);
    luaL_setfuncs(L, methods, 0);
    if (index != NULL)
        lua_pushcclosure(L, index, 1);
    lua_setfield(L, -2, "__index");
    lua_pushboolean(L, 0);
    lua_setfield(L, -2, "__metatable");
    lua_pop(L, 1);
}

int luaopen_atelier_httpd(lua_State *L)
{
    luaL_checkversion(L);
    new_class(L, SERVER_MT, server_meta, server_methods, NULL);
    new_class(L, REQUEST_MT, request_meta, request_methods, l_request_index);
    new_class(L, TASK_MT, task_meta, task_methods, NULL);
    budget_guard_coroutines(L);
    luaL_newlib(L, httpd_funcs);
    return 1;
}
