/*
 * httpd_server.c: requests, as libmicrohttpd reads them, and short answers, as it writes them.
 *
 * Owns: the daemon, the connections with their deadlines, the phases of a request, draining. Who gets a connection is
 * httpd_door.c's to say. Must not know Lua: it starts
 * handlers and tells their end through `struct httpd_lua`.
 *
 * libmicrohttpd runs on an epoll of its own, which lies in the loop's. A connection whose handler waits is suspended; it is
 * then our watch that sees the client go. Longer responses and refusals in the middle of a request are written by
 * httpd_writer.c on the suspended connection's socket, which is closed after them.
 */
#include "httpd_server.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <linux/sockios.h>
#include <linux/tcp.h> /* glibc's own lacks tcpi_bytes_acked */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#define SWEEP_MS 200
#define POOL_SPARE 16384 /* what libmicrohttpd needs beside the header block: its tables, bodies, its response's head */
#define DRAIN_GRACE_MS 500 /* between cutting everything off and leaving */
#define NEW_CONNECTION_MS 1000 /* how long a new connection may take to say something when draining */

/* ==== small things ============================================================================= */

int httpd_fd(const struct connection *c)
{
    return c->source.fd;
}

void httpd_set_deadline(struct connection *c, int64_t ms)
{
    c->deadline = front_now() + ms;
}

int64_t httpd_microseconds(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

const char *httpd_date(struct server *s)
{
    time_t now = time(NULL);
    struct tm tm;

    if (now != s->date_of || s->date[0] == '\0') {
        gmtime_r(&now, &tm);
        strftime(s->date, sizeof s->date, "%a, %d %b %Y %H:%M:%S GMT", &tm); /* the C locale's names: nobody sets another */
        s->date_of = now;
    }
    return s->date;
}

const char *httpd_reason(unsigned status)
{
    const char *reason = MHD_get_reason_phrase_for(status);
    return reason != NULL ? reason : "Unknown";
}

uint64_t httpd_acked(const struct connection *c)
{
    struct tcp_info info;
    socklen_t size = sizeof info;

    memset(&info, 0, sizeof info);
    return getsockopt(c->source.fd, IPPROTO_TCP, TCP_INFO, &info, &size) == 0 ? info.tcpi_bytes_acked : 0;
}

static void close_both_ways(const struct connection *c)
{
    shutdown(c->source.fd, SHUT_RDWR);
    c->server->is_due = 1;
}

/* ==== the end of a request ===================================================================== */

void httpd_request_free(struct request *r)
{
    writer_free(r);
    if (r->response != NULL)
        MHD_destroy_response(r->response);
    if (r->object != NULL)
        *r->object = NULL;
    free(r->target);
    free(r->path);
    free(r->body);
    free(r);
}

/* Both the response and the handler are over. */
static void settle(struct request *r)
{
    if (r->phase == REQUEST_OVER && r->connection == NULL && task_of(r->task) == NULL)
        r->server->lua->complete(r);
}

/*
 * What the client got of a response that libmicrohttpd wrote; that was handed to the kernel is not enough. Returns whether
 * it is all.
 */
static int account(struct request *r)
{
    uint64_t got;

    if (r->length < HTTPD_MEASURED) {
        r->sent = r->is_finished ? r->length : 0;
        return 1;
    }
    got = httpd_acked(r->connection);
    got = got > r->begins + r->head_size ? got - r->begins - r->head_size : 0;
    r->sent = got < r->length ? got : r->length;
    return r->sent == r->length;
}

static void leave(struct request *r)
{
    r->connection = NULL;
    settle(r);
}

/* Lets those requests go whose answers have arrived; all of them when the connection ends. */
static void confirm(struct connection *c, int is_end)
{
    struct request **at = &c->unconfirmed, *r;

    while ((r = *at) != NULL) {
        r->is_finished = account(r);
        if (r->is_finished || is_end) {
            *at = r->next;
            leave(r);
        } else {
            at = &r->next;
        }
    }
}

static void resume_connection(struct request *r)
{
    if (!r->is_suspended)
        return;
    r->is_suspended = 0;
    MHD_resume_connection(r->connection->mhd);
    r->server->is_due = 1;
}

static void on_completed(void *arg, struct MHD_Connection *mhd, void **slot, enum MHD_RequestTerminationCode how)
{
    struct request *r = *slot;
    struct connection *c;
    int is_known;

    (void)arg;
    (void)mhd;
    *slot = NULL;
    if (r == NULL)
        return;
    c = r->connection;
    r->is_finished |= r->phase == REQUEST_ANSWER && how == MHD_REQUEST_TERMINATED_COMPLETED_OK;
    is_known = r->phase != REQUEST_ANSWER || account(r) || !r->is_finished;
    if (r->writer.state != WRITER_NONE && r->writer.state != WRITER_DONE)
        writer_abort(r);
    r->phase = REQUEST_OVER;
    c->request = NULL;
    c->served++;
    c->server->nin_flight--;
    httpd_set_deadline(c, c->server->limits.idle_ms);
    door_wait(c);
    if (task_of(r->task) != NULL && !r->is_answered)
        task_cancel(r->task.task);
    /* A chunk that is none, behind one that was refused: it is closed while it waits, and would stay for ever. */
    resume_connection(r);
    if (is_known) {
        leave(r);
    } else {
        r->next = c->unconfirmed;
        c->unconfirmed = r;
    }
}

void httpd_handler_ended(struct request *r)
{
    if (r->phase == REQUEST_HANDLER && r->connection != NULL) {
        if (r->is_shut)
            httpd_shut(r);
        else
            httpd_refuse(r, 500, "internal", "the request could not be handled");
    }
    settle(r);
}

/* ==== answers ================================================================================== */

static enum MHD_Result queue_response(struct request *r)
{
    enum MHD_Result ok;
    struct connection *c = r->connection;

    if (r->length >= HTTPD_MEASURED) { /* an earlier response may still be on its way */
        int unconfirmed = 0;
        ioctl(c->source.fd, SIOCOUTQ, &unconfirmed);
        r->begins = httpd_acked(c) + (uint64_t)(unconfirmed > 0 ? unconfirmed : 0);
        c->seen = r->begins;
        c->progress = front_now();
    }
    ok = httpd_queue_response(c->mhd, r->status, r->response);
    MHD_destroy_response(r->response);
    r->response = NULL;
    return ok;
}

void httpd_shut(struct request *r)
{
    r->is_shut = 1;
    r->phase = REQUEST_OVER;
    if (r->connection == NULL)
        return;
    r->connection->deadline = FRONT_NEVER;
    close_both_ways(r->connection);
    if (!r->in_callback) /* otherwise on_request sees it */
        resume_connection(r);
}

int httpd_is_last(const struct request *r)
{
    const char *wish = MHD_lookup_connection_value(r->connection->mhd, MHD_HEADER_KIND, "Connection");

    return r->must_close || r->is_http10 || r->server->is_draining || wish != NULL || r->connection->half_closed != 0 ||
           r->connection->served + 1 >= r->server->limits.requests;
}

void httpd_answer(struct request *r)
{
    const struct server *s = r->server;

    r->is_answered = 1;
    r->answered_at = front_now();
    r->phase = REQUEST_ANSWER;
    if (s->is_draining || r->connection->served + 1 >= s->limits.requests)
        r->must_close = 1;
    if (r->must_close) {
        MHD_add_response_header(r->response, "Connection", "close");
        r->head_size += strlen("Connection: close\r\n");
    }
    httpd_set_deadline(r->connection, s->limits.response_ms + (int64_t)(r->length / (uint64_t)s->limits.min_rate) * 1000);
    if (!r->in_callback)
        resume_connection(r);
}

/* ==== requests come in ========================================================================= */

/*
 * libmicrohttpd would make a record of each parameter of the query, out of the memory that the header block needs too. Where
 * that is not enough it closes the connection, and then goes on with it, into a null pointer: "?a&a&…" of 6 KB ended the
 * process. Nobody asks it for parameters, and ours are kept, so it finds none. COMPAT: as seen in 0.9.75.
 */
static void hide_query(const char *target)
{
    char *mark = (char *)(uintptr_t)strchr(target, '?'); /* in the buffer where the request came in */

    if (mark != NULL)
        mark[1] = '\0';
}

static void *on_target(void *arg, const char *target, struct MHD_Connection *mhd)
{
    struct server *s = arg;
    struct connection *c = MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_SOCKET_CONTEXT)->socket_context;
    struct request *r = c != NULL ? calloc(1, sizeof *r) : NULL;

    if (r == NULL)
        return NULL;
    r->connection = c;
    r->server = s;
    r->id = ++s->next_id;
    r->started = httpd_microseconds();
    r->raw = target;
    r->target_size = strlen(target);
    r->target = strdup(target);
    hide_query(target);
    r->body_limit = s->limits.body_bytes;
    r->writer.file = -1;
    /* Who asks again has read the answer before. Kept until a sweep, its values would be old ones to the collector. */
    confirm(c, 0);
    c->request = r;
    s->nin_flight++;
    if (c->served > 0) /* the first one's deadline began with the connection */
        httpd_set_deadline(c, s->limits.header_ms);
    return r;
}

void httpd_log_refusal(const struct connection *c, unsigned status, const char *message)
{
    char text[256];

    snprintf(text, sizeof text, "refused: %s port %d: %u: %s", c->peer, c->peer_port, status, message);
    c->server->lua->log(c->server, "info", text);
}

/* The header block is there, nothing of the body is. */
static void begin(struct request *r, const char *method, const char *version)
{
    int64_t length = -1;
    const struct refusal *bad = httpd_check(r, method, version, &length);

    r->server->nrequests++;
    door_leave(r->connection);
    if (bad != NULL) {
        httpd_log_refusal(r->connection, bad->status, bad->message);
        httpd_refuse(r, bad->status, bad->code, bad->message);
        return;
    }
    if (r->has_body && !r->server->lua->accept(r)) {
        if (!r->is_answered)
            httpd_refuse(r, 500, "internal", "the request could not be handled");
        return;
    }
    if (length > r->body_limit) {
        httpd_refuse(r, 413, "too_large", "the body is too large");
        return;
    }
    r->phase = REQUEST_BODY;
    httpd_set_deadline(r->connection, r->server->limits.body_ms);
}

static int grow_body(struct request *r, size_t more)
{
    size_t room = r->body_room > 0 ? r->body_room : 1024;
    char *body;

    while (room < r->body_size + more)
        room *= 2;
    if (room == r->body_room)
        return 1;
    body = realloc(r->body, room);
    if (body == NULL)
        return 0;
    r->body = body;
    r->body_room = room;
    return 1;
}

static void take_body(struct request *r, const char *bytes, size_t size)
{
    if ((int64_t)(r->body_size + size) > r->body_limit)
        httpd_refuse(r, 413, "too_large", "the body is too large");
    else if (!grow_body(r, size))
        httpd_refuse(r, 503, "unavailable", "not enough memory");
    else {
        memcpy(r->body + r->body_size, bytes, size);
        r->body_size += size;
    }
}

static void run_handler(struct request *r)
{
    r->phase = REQUEST_HANDLER;
    httpd_set_deadline(r->connection, r->server->limits.handler_ms);
    r->server->lua->serve(r);
}

/* Leaves libmicrohttpd with a response, or suspended, or with a refusal to go on. */
static enum MHD_Result leave_callback(struct request *r)
{
    if (r->phase == REQUEST_WRITER)
        writer_pump(r);
    r->in_callback = 0;
    if (r->is_shut || r->phase == REQUEST_OVER)
        return MHD_NO;
    if (r->phase == REQUEST_ANSWER)
        return r->response != NULL ? queue_response(r) : MHD_YES;
    /* It calls again for the next chunk even while it is suspended; suspending twice would corrupt its lists. */
    if (r->phase == REQUEST_BODY || r->is_suspended)
        return MHD_YES;
    MHD_suspend_connection(r->connection->mhd);
    r->is_suspended = 1;
    if (r->phase == REQUEST_HANDLER && r->connection->is_gone)
        r->connection->deadline = 0; /* the next sweep finds it */
    return MHD_YES;
}

static enum MHD_Result on_request(void *arg, struct MHD_Connection *mhd, const char *url, const char *method,
                                  const char *version, const char *bytes, size_t *size, void **slot)
{
    struct request *r = *slot;

    (void)arg;
    (void)mhd;
    (void)url; /* decoded and cut by libmicrohttpd: ours is in r->target */
    if (r == NULL)
        return MHD_NO;
    r->in_callback = 1;
    if (r->phase == REQUEST_LINE) {
        begin(r, method, version);
    } else if (*size > 0) {
        if (r->phase == REQUEST_BODY)
            take_body(r, bytes, *size);
        *size = 0;
    } else if (r->phase == REQUEST_BODY) {
        run_handler(r);
    }
    return leave_callback(r);
}

/* ==== connections ============================================================================== */

/* The client is gone, or will not wait: what was under way for it ends. */
static void lose(struct request *r)
{
    struct task *t = task_of(r->task);

    if (r->phase == REQUEST_WRITER) {
        writer_abort(r);
        if (t != NULL)
            task_cancel(t);
        httpd_shut(r);
        return;
    }
    if (r->phase != REQUEST_HANDLER || r->is_shut)
        return;
    r->is_shut = 1;
    r->connection->deadline = FRONT_NEVER;
    if (t != NULL)
        task_cancel(t); /* its end calls httpd_handler_ended */
    else
        httpd_shut(r);
}

static void on_socket(struct source *source, uint32_t events)
{
    struct connection *c = (struct connection *)(void *)source;
    struct request *r = c->request;

    if (events & (EPOLLHUP | EPOLLERR))
        c->is_gone = 1;
    else if ((events & EPOLLRDHUP) && c->half_closed == 0)
        c->half_closed = front_now();
    if (r == NULL)
        return;
    if (r->phase == REQUEST_WRITER && !r->in_callback)
        writer_ready(r, events);
    else if (c->is_gone && r->is_suspended)
        lose(r);
}

static void name_peer(struct connection *c)
{
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(c->mhd, MHD_CONNECTION_INFO_CLIENT_ADDRESS);
    const struct sockaddr *address = info != NULL ? info->client_addr : NULL;

    strcpy(c->peer, "unknown");
    if (address != NULL && address->sa_family == AF_INET) {
        const struct sockaddr_in *in = (const struct sockaddr_in *)(const void *)address;
        inet_ntop(AF_INET, &in->sin_addr, c->peer, sizeof c->peer);
        c->peer_port = ntohs(in->sin_port);
    } else if (address != NULL && address->sa_family == AF_INET6) {
        const struct sockaddr_in6 *in = (const struct sockaddr_in6 *)(const void *)address;
        inet_ntop(AF_INET6, &in->sin6_addr, c->peer, sizeof c->peer);
        c->peer_port = ntohs(in->sin6_port);
    }
}

static struct connection *open_connection(struct server *s, struct MHD_Connection *mhd)
{
    struct connection *c = calloc(1, sizeof *c);

    if (c == NULL)
        return NULL;
    c->server = s;
    c->mhd = mhd;
    c->source.fd = MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_CONNECTION_FD)->connect_fd;
    c->source.ready = on_socket;
    name_peer(c);
    httpd_set_deadline(c, s->limits.header_ms);
    door_wait(c);
    c->next = s->connections;
    if (c->next != NULL)
        c->next->prev = c;
    s->connections = c;
    if (s->nconnections++ == 0)
        s->next_sweep = front_now() + SWEEP_MS;
    front_watch(s->front, &c->source, EPOLLRDHUP | EPOLLET);
    return c;
}

/*
 * Where the first line has no form at all libmicrohttpd says nothing. That it closes, while neither the client nor we did (both
 * are an end when read), is how we know.
 */
static void answer_no_request(struct connection *c)
{
    char next;
    ssize_t n;

    if (c->request != NULL || c->served > 0 || c->is_told || c->is_gone || c->half_closed != 0)
        return;
    n = recv(c->source.fd, &next, 1, MSG_PEEK | MSG_DONTWAIT);
    if (n == 0 || (n < 0 && errno != EAGAIN && errno != EWOULDBLOCK))
        return;
    c->mhd = NULL; /* it has no headers any more */
    httpd_log_refusal(c, 400, "no request line");
    httpd_refuse_bare(c, 400, "bad_request", "the request line is malformed");
}

static void close_connection(struct connection *c)
{
    struct server *s = c->server;

    answer_no_request(c);
    front_unwatch(s->front, &c->source);
    if (c->prev != NULL)
        c->prev->next = c->next;
    else
        s->connections = c->next;
    if (c->next != NULL)
        c->next->prev = c->prev;
    s->nconnections--;
    if (c->request != NULL) { /* libmicrohttpd did not tell of its end */
        void *slot = c->request;
        c->request->is_suspended = 0; /* nothing is left to go on */
        on_completed(s, c->mhd, &slot, MHD_REQUEST_TERMINATED_WITH_ERROR);
    }
    door_leave(c);
    confirm(c, 1);
    free(c);
}

static void on_connection(void *arg, struct MHD_Connection *mhd, void **context, enum MHD_ConnectionNotificationCode what)
{
    if (what == MHD_CONNECTION_NOTIFY_STARTED) {
        *context = open_connection(arg, mhd);
    } else if (*context != NULL) {
        close_connection(*context);
        *context = NULL;
    }
}

/* ==== deadlines ================================================================================ */

static void too_late(struct connection *c, int64_t now)
{
    struct request *r = c->request;
    struct task *t;

    c->deadline = now + 5000; /* again, should the connection still be there */
    if (r == NULL || r->phase == REQUEST_ANSWER || r->phase == REQUEST_OVER) {
        close_both_ways(c);
    } else if (r->phase < REQUEST_HANDLER) {
        /* libmicrohttpd writes nothing while it reads; a 100 Continue went out long ago. */
        httpd_refuse_bare(c, 408, "timeout", "the request did not come in time");
        close_both_ways(c);
    } else if (r->phase == REQUEST_HANDLER) {
        t = task_of(r->task);
        r->server->lua->log(r->server, "error", "handler: no answer in time: cancelled");
        r->is_late = 1;
        httpd_refuse(r, 503, "timeout", "the request took too long");
        if (t != NULL)
            task_cancel(t);
    }
}

/* Whether the client has taken nothing of a long answer for too long. */
static int is_stalled(struct connection *c, int64_t now)
{
    uint64_t acked;

    if (c->request == NULL || c->request->phase != REQUEST_ANSWER || c->request->length < HTTPD_MEASURED)
        return 0;
    if (c->request->response != NULL) /* waits for libmicrohttpd's turn: nobody could take anything yet */
        return 0;
    acked = httpd_acked(c);
    if (acked != c->seen) {
        c->seen = acked;
        c->progress = now;
    }
    return now - c->progress >= c->server->limits.stall_ms;
}

/*
 * Whether the client said that it sends no more, and its request is not all there. libmicrohttpd overlooks that now and then
 * where it comes right behind some bytes.
 */
static int is_abandoned(const struct connection *c, int64_t now)
{
    const struct request *r = c->request;
    int unread = 0;

    return c->half_closed != 0 && now - c->half_closed >= SWEEP_MS && c->unconfirmed == NULL &&
           (r == NULL || r->phase < REQUEST_HANDLER) && ioctl(c->source.fd, FIONREAD, &unread) == 0 && unread == 0;
}

static void sweep_connection(struct connection *c, int64_t now)
{
    struct request *r = c->request;
    const struct httpd_limits *limits = &c->server->limits;

    confirm(c, 0);
    if (door_wants(c, now)) {
        if (r != NULL && r->phase == REQUEST_WRITER)
            lose(r);
        else
            too_late(c, now);
        return;
    }
    if (r != NULL && r->phase == REQUEST_WRITER) {
        writer_sweep(r, now);
        return;
    }
    if (r != NULL && r->phase == REQUEST_HANDLER && r->is_suspended &&
        (c->is_gone || (c->half_closed != 0 && now - c->half_closed >= limits->half_close_ms)))
        lose(r);
    else if (c->deadline <= now || is_stalled(c, now))
        too_late(c, now);
    else if (is_abandoned(c, now))
        close_both_ways(c);
}

/* Connections come to an end only inside MHD_run, so the list stands still here. */
static void sweep(struct server *s, int64_t now)
{
    struct connection *next;

    door_sweep(s, now);
    for (struct connection *c = s->connections; c != NULL; c = next) {
        next = c->next;
        sweep_connection(c, now);
    }
    httpd_sweep_lingerers(s, now);
    s->next_sweep = now + SWEEP_MS;
}

static int has_sweep(const struct server *s)
{
    return s->nconnections > 0 || s->lingerers != NULL || door_is_due(s);
}

int64_t httpd_due(const struct server *s)
{
    int64_t due = has_sweep(s) ? s->next_sweep : FRONT_NEVER;
    MHD_UNSIGNED_LONG_LONG ms;

    if (s->is_due)
        return 0;
    if (s->is_draining) {
        int64_t step = s->drain_until + (front_now() < s->drain_until ? 0 : DRAIN_GRACE_MS);
        due = step < due ? step : due;
    }
    if (MHD_get_timeout(s->daemon, &ms) == MHD_YES && ms < 60000 && front_now() + (int64_t)ms < due)
        due = front_now() + (int64_t)ms;
    return due;
}

/* ==== draining ================================================================================= */

static void drain_connection(struct connection *c, int64_t now)
{
    struct request *r = c->request;
    struct task *t;
    int waiting = 0;

    if (r == NULL) {
        if (c->unconfirmed != NULL)
            return;
        if (ioctl(c->source.fd, FIONREAD, &waiting) != 0 || waiting > 0)
            return;
        if (c->served > 0)
            close_both_ways(c);
        else if (c->deadline > now + NEW_CONNECTION_MS)
            c->deadline = now + NEW_CONNECTION_MS;
    } else if (r->phase == REQUEST_WRITER && r->writer.is_stream && !r->writer.is_measured && !r->writer.is_ended) {
        writer_end(r); /* what would never end by itself */
        writer_pump(r);
        t = task_of(r->task);
        if (t != NULL)
            task_cancel(t);
    }
}

void httpd_drain(struct server *s, int64_t ms)
{
    int64_t now = front_now();

    if (s->is_draining) {
        if (now + ms < s->drain_until)
            s->drain_until = now + ms;
        return;
    }
    s->is_draining = 1;
    s->drain_until = now + ms;
    door_close(s);
}

/* Returns whether all is done. */
static int drain_turn(struct server *s)
{
    int64_t now = front_now();
    struct connection *next;

    for (struct connection *c = s->connections; c != NULL; c = next) {
        next = c->next;
        drain_connection(c, now);
        if (now >= s->drain_until && c->request != NULL)
            lose(c->request);
        if (now >= s->drain_until)
            close_both_ways(c);
    }
    return (s->nconnections == 0 && s->ntasks == 0) || now >= s->drain_until + DRAIN_GRACE_MS;
}

void httpd_turn(struct server *s)
{
    int64_t now = front_now();
    MHD_UNSIGNED_LONG_LONG ms;

    if (has_sweep(s) && now >= s->next_sweep)
        sweep(s, now);
    if (s->is_due || (MHD_get_timeout(s->daemon, &ms) == MHD_YES && ms == 0)) {
        s->is_due = 0;
        MHD_run(s->daemon);
    }
    if (s->is_stopping || (s->is_draining && drain_turn(s)))
        front_stop(s->front);
}

/* ==== the daemon =============================================================================== */

static void on_daemon(struct source *source, uint32_t events)
{
    struct server *s = (struct server *)((char *)source - offsetof(struct server, daemon_source));

    (void)events;
    s->is_due = 1;
}

__attribute__((format(printf, 2, 0))) static void on_log(void *arg, const char *format, va_list ap)
{
    struct server *s = arg;
    char text[256];

    vsnprintf(text, sizeof text, format, ap);
    if (strncmp(text, "Application reported", 20) == 0)
        return; /* that we end a connection is no news */
    if (strncmp(text, "Error processing request", 24) == 0 || strstr(text, "failed to queue error response") != NULL)
        return; /* told by httpd_refusal.c */
    text[strcspn(text, "\n")] = '\0';
    s->lua->log(s, "debug", text);
}

/* The target is decoded by httpd_check.c, once. */
static size_t keep_as_it_is(void *arg, struct MHD_Connection *mhd, char *text)
{
    (void)arg;
    (void)mhd;
    return strlen(text);
}

struct MHD_Daemon *httpd_start(struct server *s)
{
    int err;

    if (!httpd_can_answer(s))
        return NULL;
    s->daemon = MHD_start_daemon(
        MHD_USE_EPOLL | MHD_USE_NO_LISTEN_SOCKET | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_TURBO | MHD_USE_ERROR_LOG, 0, NULL, NULL,
        on_request, s, MHD_OPTION_EXTERNAL_LOGGER, on_log, s, MHD_OPTION_SIGPIPE_HANDLED_BY_APP, 1,
        MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)s->limits.header_bytes + POOL_SPARE, MHD_OPTION_CONNECTION_LIMIT,
        (unsigned)s->limits.connections + DOOR_SPARE, MHD_OPTION_CONNECTION_TIMEOUT, 0u, MHD_OPTION_NOTIFY_COMPLETED,
        on_completed, s, MHD_OPTION_NOTIFY_CONNECTION, on_connection, s, MHD_OPTION_URI_LOG_CALLBACK, on_target, s,
        MHD_OPTION_UNESCAPE_CALLBACK, keep_as_it_is, s, MHD_OPTION_END);
    if (s->daemon == NULL)
        return NULL;
    s->daemon_source.ready = on_daemon;
    s->daemon_source.fd = MHD_get_daemon_info(s->daemon, MHD_DAEMON_INFO_EPOLL_FD)->epoll_fd;
    err = front_watch(s->front, &s->daemon_source, EPOLLIN);
    if (err == 0)
        err = door_open(s);
    if (err != 0) {
        front_unwatch(s->front, &s->daemon_source);
        MHD_stop_daemon(s->daemon);
        s->daemon = NULL;
        errno = err;
    }
    return s->daemon;
}

/* libmicrohttpd must not be stopped while a connection is suspended. */
void httpd_stop(struct server *s)
{
    s->is_stopping = 1;
    for (struct connection *c = s->connections; c != NULL; c = c->next) {
        if (c->request != NULL && c->request->phase == REQUEST_WRITER)
            writer_abort(c->request);
        if (c->request != NULL)
            httpd_shut(c->request);
        close_both_ways(c);
    }
    for (int i = 0; i < 10 && s->connections != NULL; i++)
        MHD_run(s->daemon);
    httpd_sweep_lingerers(s, FRONT_NEVER);
    front_unwatch(s->front, &s->daemon_source);
    door_close(s);
    MHD_stop_daemon(s->daemon);
    s->daemon = NULL;
}
