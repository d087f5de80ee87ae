/*
 * httpd_door.c: who is let in: the listening socket, and what happens when the house is full.
 *
 * Owns: accepting, the line of connections on which nothing is under way, room for who comes. Must not know requests beyond
 * their phase, nor Lua.
 *
 * Nobody waits at the door unheard. When there are as many connections as there may be, the one that has said nothing for the
 * longest time goes for the newcomer. Where all are at work the newcomer is told so, at once, and for the next ones those go
 * whose clients hardly take or send anything. libmicrohttpd would leave newcomers in the queue until somebody goes, health
 * checks too, and spin where descriptors are used up before its first connection.
 */
#include <errno.h>
#include <linux/sockios.h>
#include <malloc.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "httpd_server.h"

#define ACCEPTS_A_TURN 16
#define CANDIDATES 64 /* looked at for one newcomer */
#define PAUSE_MS 100  /* until accepting is tried again where nothing could be had */
#define CROWD 512     /* connections whose memory is worth giving back */
#define LOG_MS 10000  /* between two lines about a full house */

/* ==== the line ================================================================================= */

void door_wait(struct connection *c)
{
    struct door *d = &c->server->door;

    door_leave(c);
    c->older = d->youngest;
    c->younger = NULL;
    if (d->youngest != NULL)
        d->youngest->younger = c;
    else
        d->oldest = c;
    d->youngest = c;
    c->is_in_line = 1;
}

void door_leave(struct connection *c)
{
    struct door *d = &c->server->door;

    if (!c->is_in_line)
        return;
    if (c->older != NULL)
        c->older->younger = c->younger;
    else
        d->oldest = c->younger;
    if (c->younger != NULL)
        c->younger->older = c->older;
    else
        d->youngest = c->older;
    c->is_in_line = 0;
}

/* What it has sent is not read yet, or what was sent to it is not there yet. */
static int is_at_work(const struct connection *c)
{
    int waiting = 0;

    return c->unconfirmed != NULL || ioctl(c->source.fd, FIONREAD, &waiting) != 0 || waiting > 0;
}

/* Ends the connection that has been silent for the longest time; it is gone after libmicrohttpd's next turn. 0: there is none. */
static int make_room(struct server *s, int64_t now)
{
    struct connection *c = s->door.oldest;

    for (int i = 0; c != NULL && i < CANDIDATES; i++, c = c->younger) {
        if (is_at_work(c))
            continue;
        door_leave(c);
        if (c->request != NULL)
            httpd_refuse_bare(c, 408, "timeout", "the request did not come in time");
        shutdown(c->source.fd, SHUT_RDWR);
        c->deadline = now + 5000; /* should it still be there then */
        s->is_due = 1;
        s->door.nended++;
        return 1;
    }
    return 0;
}

/* What the client has of a long response, or -1: it is none, or has not begun. A stream of no known length is none. */
static int64_t taken(const struct connection *c)
{
    const struct request *r = c->request;
    const struct writer *w = &r->writer;
    uint64_t got;
    int left = 0;

    if (r->phase == REQUEST_ANSWER) {
        if (r->length < HTTPD_MEASURED || r->response != NULL)
            return -1;
        got = httpd_acked(c);
        return got > r->begins ? (int64_t)(got - r->begins) : 0;
    }
    if (r->phase != REQUEST_WRITER || w->state != WRITER_SENDING || (w->is_stream && !w->is_measured))
        return -1;
    ioctl(c->source.fd, SIOCOUTQ, &left);
    return left > 0 && (uint64_t)left < w->handed ? (int64_t)w->handed - left : (int64_t)w->handed;
}

/* Slower than `min_rate` after the time that a header block may take. Where nobody waits for its place, it may be. */
static int is_burden(const struct connection *c, int64_t now)
{
    const struct httpd_limits *limits = &c->server->limits;
    const struct request *r = c->request;
    int64_t since, got;

    if (r == NULL) /* all is handed over, and idle_ms runs since then */
        return c->unconfirmed != NULL && now - (c->deadline - limits->idle_ms) >= limits->header_ms;
    if (r->is_shut)
        return 0;
    if (r->phase == REQUEST_BODY)
        return now - r->started / 1000 >= limits->header_ms;
    since = now - r->answered_at;
    if (since < limits->header_ms)
        return 0;
    got = taken(c);
    return got >= 0 && got / limits->min_rate < since / 1000;
}

int door_wants(struct connection *c, int64_t now)
{
    struct door *d = &c->server->door;

    if (d->wanted <= 0 || !is_burden(c, now))
        return 0;
    d->wanted--;
    d->nended++;
    return 1;
}

/* ==== newcomers ================================================================================ */

static void turn_away(struct server *s, int fd)
{
    struct connection c = {.server = s, .source.fd = fd};
    char junk[4096];

    s->door.nturned_away++;
    httpd_refuse_bare(&c, 503, "busy", "too many connections");
    for (int i = 0; i < 16; i++) /* unread, it would cut the answer off */
        if (recv(fd, junk, sizeof junk, MSG_DONTWAIT) < (ssize_t)sizeof junk)
            break;
    close(fd); /* a lingerer may have it still */
}

/* No descriptor is left but the one that was kept for this. */
static int answer_without_room(struct server *s)
{
    int fd;

    if (s->door.spare < 0)
        return 0;
    close(s->door.spare);
    fd = accept4(s->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd >= 0)
        turn_away(s, fd);
    s->door.spare = eventfd(0, EFD_CLOEXEC);
    return fd >= 0;
}

static void pause_door(struct server *s, int64_t now)
{
    if (front_watch(s->front, &s->door.source, 0) == 0)
        s->door.open_at = now + PAUSE_MS;
}

/* The kernel looks for a descriptor before it looks for a client. */
static int is_anybody_there(const struct server *s)
{
    struct pollfd p = {.fd = s->listener, .events = POLLIN};

    return poll(&p, 1, 0) == 1;
}

/* Returns whether there may be more. */
static int fail_to_accept(struct server *s, int err)
{
    int64_t now = front_now();

    if (err == EAGAIN || err == EWOULDBLOCK || !is_anybody_there(s))
        return 0;
    if (err == EMFILE || err == ENFILE || err == ENOBUFS || err == ENOMEM) {
        if (make_room(s, now))
            return 0; /* and again in the next turn */
        if ((err == EMFILE || err == ENFILE) && answer_without_room(s))
            return 1;
    } else if (err != EBADF && err != EINVAL && err != ENOTSOCK && err != EOPNOTSUPP && err != EPERM) {
        return 1; /* a client that is gone already, or a fault of the network that was his */
    }
    pause_door(s, now);
    return 0;
}

static void let_in(struct server *s, int fd, const struct sockaddr *from, socklen_t size)
{
    if (s->nconnections >= s->limits.connections &&
        (s->nconnections >= s->limits.connections + DOOR_SPARE || !make_room(s, front_now()))) {
        turn_away(s, fd);
        return;
    }
    if (MHD_add_connection(s->daemon, fd, from, size) == MHD_YES) /* it closes what it does not take */
        s->is_due = 1;
}

static void on_listener(struct source *source, uint32_t events)
{
    struct server *s = (struct server *)((char *)source - offsetof(struct server, door.source));
    struct sockaddr_storage from;
    int more = 1;

    (void)events;
    for (int i = 0; i < ACCEPTS_A_TURN && more && s->listener >= 0; i++) {
        socklen_t size = sizeof from;
        int fd = accept4(s->listener, (struct sockaddr *)&from, &size, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd >= 0)
            let_in(s, fd, (const struct sockaddr *)&from, size);
        else
            more = fail_to_accept(s, errno);
    }
}

/* ==== the door ================================================================================= */

int door_open(struct server *s)
{
    struct door *d = &s->door;
    int err;

    memset(d, 0, sizeof *d);
    d->source.fd = s->listener;
    d->source.ready = on_listener;
    d->spare = eventfd(0, EFD_CLOEXEC);
    err = front_watch(s->front, &d->source, EPOLLIN);
    if (err != 0 && d->spare >= 0)
        close(d->spare);
    return err;
}

/* Others have the socket too: closing ours would leave it in the epoll. */
void door_close(struct server *s)
{
    if (s->listener >= 0) {
        front_forget(s->front, &s->door.source);
        close(s->listener);
    }
    if (s->door.spare >= 0)
        close(s->door.spare);
    s->listener = s->door.spare = -1;
    s->door.open_at = 0;
}

static void tell(struct server *s, int64_t now)
{
    struct door *d = &s->door;
    char text[160];

    if (d->nended + d->nturned_away == d->told || now < d->tell_at)
        return;
    snprintf(text, sizeof text, "full: %lld connections: %llu ended, %llu new ones turned away since the start",
             (long long)s->nconnections, (unsigned long long)d->nended, (unsigned long long)d->nturned_away);
    d->told = d->nended + d->nturned_away;
    d->tell_at = now + LOG_MS;
    s->lua->log(s, "warn", text);
}

/* Each connection had some 34 KiB of libmicrohttpd's, which malloc would keep when they are gone, scattered over its heap. */
static void give_back(struct server *s)
{
    struct door *d = &s->door;

    if (s->nconnections > d->peak)
        d->peak = s->nconnections;
    if (d->peak < CROWD || s->nconnections > d->peak / 4)
        return;
    d->peak = s->nconnections;
#ifdef __GLIBC__
    malloc_trim(0);
#endif
}

int door_is_due(const struct server *s)
{
    return s->door.open_at != 0 || s->door.peak >= CROWD;
}

void door_sweep(struct server *s, int64_t now)
{
    struct door *d = &s->door;

    d->wanted = (int64_t)(d->nturned_away - d->heard);
    d->heard = d->nturned_away;
    if (d->spare < 0 && s->listener >= 0)
        d->spare = eventfd(0, EFD_CLOEXEC);
    if (d->open_at != 0 && now >= d->open_at && s->listener >= 0) {
        d->open_at = 0;
        front_watch(s->front, &d->source, EPOLLIN);
    }
    give_back(s);
    tell(s, now);
}
