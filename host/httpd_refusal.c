/*
 * httpd_refusal.c: how the server itself says no: always in JSON, and readable for the pages of allowed origins.
 *
 * Owns: the text of refusals, the origins, what becomes of requests that libmicrohttpd refuses before anybody is asked. Must
 * not know Lua, nor what a request is for.
 *
 * libmicrohttpd answers what it cannot read with a page in HTML, and with two heads where the Content-Length is malformed. It
 * queues that page as a program would, through the dynamic linker, which finds our own MHD_queue_response first: there we
 * know the connection, answer ourselves, and let it close.
 * COMPAT: libmicrohttpd 0.9.75. Where it is linked otherwise (statically, or with -Bsymbolic) its own pages go out as before;
 * that is tried when a server starts, and logged.
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "httpd_server.h"

#define LINGER_MS 1000 /* for the client to read a refusal, while it may still send */
#define LINGER_DISCARD (4 << 20)
#define LINGERERS 1024 /* at once, and no more than a quarter of what connections there may be: each has a descriptor */

/* ==== origins ================================================================================== */

static struct {
    char **list;
    size_t n;
} origins;

void httpd_forget_origins(void)
{
    for (size_t i = 0; i < origins.n; i++)
        free(origins.list[i]);
    free(origins.list);
    origins.list = NULL;
    origins.n = 0;
}

int httpd_allow_origin(const char *origin)
{
    char **list = realloc(origins.list, (origins.n + 1) * sizeof *list);

    if (list == NULL)
        return 0;
    origins.list = list;
    list[origins.n] = strdup(origin);
    if (list[origins.n] == NULL)
        return 0;
    origins.n++;
    return 1;
}

/* What the client's origin gets: itself, "*", or NULL. */
static const char *allowed_origin(const struct connection *c)
{
    const char *origin = c->mhd != NULL ? MHD_lookup_connection_value(c->mhd, MHD_HEADER_KIND, "Origin") : NULL;

    for (size_t i = 0; i < origins.n && origin != NULL; i++) {
        if (strcmp(origins.list[i], "*") == 0)
            return "*";
        if (strcmp(origins.list[i], origin) == 0)
            return origins.list[i];
    }
    return NULL;
}

/* ==== the text ================================================================================= */

/* One that does not fit says less, but is whole. */
static int write_body(char *to, size_t room, const char *code, const char *message)
{
    static const char form[] = "{\"code\":\"%s\",\"details\":null,\"hint\":null,\"message\":\"%s\"}";
    int n = snprintf(to, room, form, code, message);

    return n >= 0 && (size_t)n < room ? n : snprintf(to, room, form, "unavailable", "refused");
}

static int write_head(const struct connection *c, char *to, size_t room, unsigned status, int body)
{
    const char *origin = allowed_origin(c), *retry = status == 503 ? "Retry-After: 1\r\n" : "";

    return snprintf(to, room,
                    "HTTP/1.1 %u %s\r\nDate: %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n%s%s%s%s%s"
                    "Connection: close\r\n\r\n",
                    status, httpd_reason(status), httpd_date(c->server), body, retry,
                    origins.n > 0 ? "Vary: Origin\r\n" : "", origin != NULL ? "Access-Control-Allow-Origin: " : "",
                    origin != NULL ? origin : "", origin != NULL ? "\r\n" : "");
}

/*
 * Before the request is read to its end, or to a client that sends no more: our own writer can wait until the client has it,
 * and is not put off by the end of what it reads.
 */
static void refuse_early(struct request *r, unsigned status, const char *body, int size)
{
    char head[1024];
    int n = write_head(r->connection, head, sizeof head, status, size);

    r->is_answered = 1;
    r->answered_at = front_now();
    r->status = status;
    r->length = (uint64_t)size;
    if (n < 0 || n >= (int)sizeof head || !writer_begin(r, head, (size_t)n) ||
        (!r->is_head && !writer_add(r, body, (size_t)size, 0))) {
        httpd_shut(r);
        return;
    }
    writer_end(r);
    writer_pump(r);
}

static struct MHD_Response *make_response(const struct connection *c, const char *body, int size)
{
    struct MHD_Response *response =
        MHD_create_response_from_buffer((size_t)size, (void *)(uintptr_t)body, MHD_RESPMEM_MUST_COPY);
    const char *origin = allowed_origin(c);

    if (response == NULL)
        return NULL;
    if (MHD_add_response_header(response, "Content-Type", "application/json") == MHD_YES &&
        (origins.n == 0 || MHD_add_response_header(response, "Vary", "Origin") == MHD_YES) &&
        (origin == NULL || MHD_add_response_header(response, "Access-Control-Allow-Origin", origin) == MHD_YES))
        return response;
    MHD_destroy_response(response);
    return NULL;
}

void httpd_refuse(struct request *r, unsigned status, const char *code, const char *message)
{
    char body[512];
    int n = write_body(body, sizeof body, code, message);
    struct MHD_Response *response;

    r->server->nrefused++;
    if (r->phase < REQUEST_HANDLER || r->connection->half_closed != 0) {
        refuse_early(r, status, body, n);
        return;
    }
    response = make_response(r->connection, body, n);
    if (response == NULL) {
        httpd_shut(r);
        return;
    }
    if (r->response != NULL)
        MHD_destroy_response(r->response);
    r->response = response;
    r->status = status;
    r->length = r->is_head ? 0 : (uint64_t)n;
    r->head_size = 0;
    httpd_answer(r);
}

/* ==== on the bare socket ======================================================================= */

/* The other end of a connection that libmicrohttpd has closed already. */
struct lingerer {
    struct source source;
    struct server *server;
    struct lingerer *next;
    int64_t until;
    size_t discarded;
};

/* What the client still sends is read and dropped, else closing would cut off what it has not read. */
static void discard(struct lingerer *l)
{
    char junk[16384];

    for (int i = 0; i < 16; i++) {
        ssize_t n = recv(l->source.fd, junk, sizeof junk, MSG_DONTWAIT);
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            return;
        l->discarded += n > 0 ? (size_t)n : 0;
        if (n <= 0 || l->discarded > LINGER_DISCARD) {
            l->until = 0;
            return;
        }
    }
}

static void on_lingerer(struct source *source, uint32_t events)
{
    struct lingerer *l = (struct lingerer *)(void *)source;

    if (events & (EPOLLHUP | EPOLLERR))
        l->until = 0;
    else
        discard(l);
    if (l->until == 0) {
        front_unwatch(l->server->front, source);
        l->server->next_sweep = front_now();
    }
}

void httpd_sweep_lingerers(struct server *s, int64_t now)
{
    struct lingerer **at = &s->lingerers, *l;

    while ((l = *at) != NULL) {
        if (l->until > now) {
            at = &l->next;
            continue;
        }
        *at = l->next;
        front_unwatch(s->front, &l->source);
        close(l->source.fd);
        free(l);
        s->nlingerers--;
    }
}

static void linger(struct server *s, int fd)
{
    int64_t most = s->limits.connections / 4 + 16;
    struct lingerer *l = s->nlingerers < (most < LINGERERS ? most : LINGERERS) ? calloc(1, sizeof *l) : NULL;

    if (l == NULL)
        return;
    l->source.fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    l->source.ready = on_lingerer;
    l->server = s;
    l->until = front_now() + LINGER_MS;
    if (l->source.fd < 0 || front_watch(s->front, &l->source, EPOLLIN | EPOLLRDHUP) != 0) {
        if (l->source.fd >= 0)
            close(l->source.fd);
        free(l);
        return;
    }
    if (s->nlingerers++ == 0 && s->nconnections == 0)
        s->next_sweep = l->until;
    l->next = s->lingerers;
    s->lingerers = l;
}

/*
 * What does not fit into the socket has a client that reads nothing of what it got before: nobody waits for him, and he must
 * not take the part for the whole, so the connection is reset.
 */
static int send_whole(int fd, const char *text, size_t size)
{
    static const struct linger at_once = {.l_onoff = 1, .l_linger = 0};
    ssize_t n;

    do
        n = send(fd, text, size, MSG_DONTWAIT | MSG_NOSIGNAL);
    while (n < 0 && errno == EINTR);
    if (n == (ssize_t)size)
        return 1;
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
    shutdown(fd, SHUT_RD);
    return 0;
}

void httpd_refuse_bare(struct connection *c, unsigned status, const char *code, const char *message)
{
    char text[1536], body[512];
    int size = write_body(body, sizeof body, code, message), n = write_head(c, text, sizeof text, status, size);

    c->server->nrefused++;
    c->is_told = 1;
    if (n < 0 || n + size >= (int)sizeof text) { /* an Origin as long as that */
        shutdown(c->source.fd, SHUT_RDWR);
        return;
    }
    memcpy(text + n, body, (size_t)size);
    if (!send_whole(c->source.fd, text, (size_t)(n + size))) {
        c->is_gone = 1;
        return;
    }
    linger(c->server, c->source.fd);
    shutdown(c->source.fd, SHUT_WR);
}

/* ==== in place of libmicrohttpd's pages ======================================================== */

static const struct {
    unsigned status;
    const char *code, *message;
} pages[] = {
    {400, "bad_request", "the request is malformed"},
    {413, "too_large", "the body, or a part of it, is too large"},
    {414, "target_too_long", "the request target is too long"},
    {431, "headers_too_large", "the header block is too large"},
    {505, "version_not_supported", "only HTTP/1.1 and HTTP/1.0"},
    {0, "unavailable", "the request cannot be read"},
};

typedef enum MHD_Result queue_function(struct MHD_Connection *, unsigned, struct MHD_Response *);

/* libmicrohttpd's own, which ours hides. */
static queue_function *find_queue(void)
{
    static queue_function *found;

    if (found == NULL)
        *(void **)&found = dlsym(RTLD_NEXT, "MHD_queue_response");
    return found;
}

enum MHD_Result httpd_queue_response(struct MHD_Connection *mhd, unsigned status, struct MHD_Response *response)
{
    queue_function *queue = find_queue();
    return queue != NULL ? queue(mhd, status, response) : MHD_NO;
}

static int is_reached; /* libmicrohttpd has called ours */

/* Called by libmicrohttpd alone, with a page of its own. That it fails makes it close the connection. */
enum MHD_Result MHD_queue_response(struct MHD_Connection *mhd, unsigned status, struct MHD_Response *page)
{
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    struct connection *c = info != NULL ? info->socket_context : NULL;
    size_t i = 0;

    (void)page;
    is_reached = 1;
    if (c == NULL || (c->request != NULL && c->request->is_answered)) /* one answer is enough */
        return MHD_NO;
    while (pages[i].status != 0 && pages[i].status != status)
        i++;
    if (c->request != NULL)
        c->request->status = status;
    httpd_log_refusal(c, status, pages[i].message);
    httpd_refuse_bare(c, status, pages[i].code, pages[i].message);
    return MHD_NO;
}

/* ==== in place of its cookies =================================================================== */

typedef enum MHD_Result lookup_function(struct MHD_Connection *, enum MHD_ValueKind, const char *, size_t, const char **,
                                        size_t *);

static lookup_function *find_lookup(void)
{
    static lookup_function *found;

    if (found == NULL)
        *(void **)&found = dlsym(RTLD_NEXT, "MHD_lookup_connection_value_n");
    return found;
}

static int is_asked_for_cookies;

/*
 * libmicrohttpd takes cookies apart, for which nobody asks it: a record for each, in the connection's memory. Where that does
 * not hold them it gives the request up, and then goes on in memory that it has just freed. It finds the header here, as it
 * finds its pages above; asked by a program it would be told of none, but ours takes its headers from elsewhere.
 */
enum MHD_Result MHD_lookup_connection_value_n(struct MHD_Connection *mhd, enum MHD_ValueKind kind, const char *key,
                                              size_t key_size, const char **value, size_t *value_size)
{
    static const char cookie[] = "Cookie";
    lookup_function *lookup = find_lookup();

    if (key_size == sizeof cookie - 1 && strncasecmp(key, cookie, key_size) == 0) {
        is_asked_for_cookies = 1;
        return MHD_NO;
    }
    return lookup != NULL ? lookup(mhd, kind, key, key_size, value, value_size) : MHD_NO;
}

/* ==== whether that works ======================================================================= */

static enum MHD_Result ask_nobody(void *arg, struct MHD_Connection *mhd, const char *target, const char *method,
                                  const char *version, const char *body, size_t *size, void **request)
{
    (void)arg, (void)mhd, (void)target, (void)method, (void)version, (void)body, (void)size, (void)request;
    return MHD_NO;
}

static void swallow(void *arg, const char *format, va_list ap)
{
    (void)arg, (void)format, (void)ap;
}

/* Gives libmicrohttpd a malformed request on a socket of its own. 0 where that could not be done. */
static int provoke(void)
{
    static const char malformed[] = "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\n";
    struct sockaddr_in from = {.sin_family = AF_INET};
    int fds[2], is_asked = 0;
    struct MHD_Daemon *daemon =
        MHD_start_daemon(MHD_USE_EPOLL | MHD_USE_NO_LISTEN_SOCKET | MHD_USE_ERROR_LOG, 0, NULL, NULL, ask_nobody, NULL,
                         MHD_OPTION_EXTERNAL_LOGGER, swallow, NULL, MHD_OPTION_SIGPIPE_HANDLED_BY_APP, 1, MHD_OPTION_END);

    if (daemon == NULL)
        return 0;
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds) == 0) {
        is_asked = send(fds[0], malformed, sizeof malformed - 1, MSG_NOSIGNAL) == (ssize_t)sizeof malformed - 1;
        is_asked &= MHD_add_connection(daemon, fds[1], (struct sockaddr *)&from, sizeof from) == MHD_YES; /* closes fds[1] */
        for (int i = 0; i < 10 && is_asked && !is_reached; i++)
            MHD_run(daemon);
        close(fds[0]);
    }
    MHD_stop_daemon(daemon);
    return is_asked;
}

int httpd_can_answer(struct server *s)
{
    int was_provoked;

    if (find_queue() == NULL || find_queue() == MHD_queue_response || find_lookup() == NULL ||
        find_lookup() == MHD_lookup_connection_value_n) {
        s->lua->log(s, "error", "libmicrohttpd's own functions are not found: is it linked statically?");
        errno = ENOSYS;
        return 0;
    }
    was_provoked = !is_reached && provoke();
    if (was_provoked && !is_reached)
        s->lua->log(s, "warn", "libmicrohttpd does not ask for its refusals: requests that it cannot read get pages in HTML");
    if (was_provoked && !is_asked_for_cookies)
        s->lua->log(s, "warn", "libmicrohttpd does not ask for cookies: where there are too many it may end the process");
    return 1;
}
