/*
 * httpd_writer.c: responses that the server writes itself: files, streams, and refusals in the middle of a request.
 *
 * Owns: what is queued, sendfile, back-pressure, how much of it the client has, and the lingering close. The socket is that
 * of a suspended connection, which libmicrohttpd leaves alone; after the response the connection is closed.
 * Must not know Lua.
 */
#include <errno.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <unistd.h>

#include "httpd_server.h"

#define SENDFILE_BYTES (512 * 1024) /* a call */
#define SENDFILE_CALLS 4            /* a turn and connection, so that others come in between */
#define LINGER_MS 1000 /* for the client to close, once it has all */
#define LINGER_DISCARD (4 * 1024 * 1024) /* what is read and dropped of a body that nobody wants */

/* ==== the queue ================================================================================ */

static int add_piece(struct writer *w, const char *bytes, size_t size, size_t framing)
{
    struct piece *p = malloc(sizeof *p + size);

    if (p == NULL)
        return 0;
    p->next = NULL;
    p->size = size;
    p->at = 0;
    p->framing = framing;
    memcpy(p->bytes, bytes, size);
    if (w->last != NULL)
        w->last->next = p;
    else
        w->first = p;
    w->last = p;
    w->queued += size;
    w->head_bytes += framing;
    return 1;
}

int writer_begin(struct request *r, const char *head, size_t size)
{
    static const int on = 1;
    struct writer *w = &r->writer;

    if (!add_piece(w, head, size, size))
        return 0;
    w->state = WRITER_SENDING;
    w->progress = front_now();
    r->phase = REQUEST_WRITER;
    r->connection->deadline = FRONT_NEVER; /* writer_sweep keeps its own */
    setsockopt(r->connection->source.fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    return 1;
}

int writer_add(struct request *r, const char *bytes, size_t size, size_t framing)
{
    return size == 0 || add_piece(&r->writer, bytes, size, framing);
}

int writer_add_chunk(struct request *r, const char *bytes, size_t size)
{
    struct writer *w = &r->writer;
    char line[24];
    int n;

    if (size == 0)
        return 1;
    if (w->is_measured)
        w->unsaid -= size;
    if (!w->is_chunked)
        return add_piece(w, bytes, size, 0);
    n = snprintf(line, sizeof line, "%zx\r\n", size);
    return add_piece(w, line, (size_t)n, (size_t)n) && add_piece(w, bytes, size, 0) && add_piece(w, "\r\n", 2, 2);
}

void writer_end(struct request *r)
{
    struct writer *w = &r->writer;

    if (w->is_ended)
        return;
    w->is_ended = 1;
    if (w->is_chunked && !add_piece(w, "0\r\n\r\n", 5, 5))
        w->is_chunked = 0; /* the client sees a stream that was cut, as it was */
}

static void drop_queue(struct writer *w)
{
    while (w->first != NULL) {
        struct piece *p = w->first;
        w->first = p->next;
        free(p);
    }
    w->last = NULL;
    w->queued = 0;
}

void writer_free(struct request *r)
{
    drop_queue(&r->writer);
    if (r->writer.file >= 0)
        close(r->writer.file);
    r->writer.file = -1;
}

/* ==== the account ============================================================================== */

/* Bytes that the client's side has not confirmed. A FIN that we sent counts as one. */
static uint64_t unconfirmed(const struct request *r)
{
    int n = 0;

    if (ioctl(r->connection->source.fd, SIOCOUTQ, &n) != 0 || n < 0)
        return 0;
    return r->writer.state == WRITER_LINGER && n > 0 ? (uint64_t)n - 1 : (uint64_t)n;
}

/*
 * What the client got. Framing is taken off as if it all came first: right for a head before a file, a little low for a
 * stream that was cut.
 */
static void account(struct request *r)
{
    const struct writer *w = &r->writer;
    uint64_t left = unconfirmed(r), got;

    got = w->handed > left ? w->handed - left : 0;
    r->sent = got > w->head_bytes ? got - w->head_bytes : 0;
    if (!w->is_stream && r->sent > r->length)
        r->sent = r->length;
    r->is_finished = w->state == WRITER_LINGER && left == 0;
}

static void finish(struct request *r)
{
    if (r->writer.state == WRITER_DONE)
        return;
    account(r);
    r->writer.state = WRITER_DONE;
    httpd_shut(r);
}

void writer_abort(struct request *r)
{
    struct writer *w = &r->writer;

    if (w->state == WRITER_NONE || w->state == WRITER_DONE)
        return;
    account(r);
    w->state = WRITER_DONE;
    writer_free(r);
}

/* ==== sending ================================================================================== */

static void arm(struct request *r, uint32_t events)
{
    front_watch(r->server->front, &r->connection->source, events);
    r->writer.is_armed = (events & EPOLLOUT) != 0;
}

/* All is handed over. What the client still sends is read and dropped, else closing would cut off what it has not read. */
static void linger(struct request *r)
{
    r->writer.state = WRITER_LINGER;
    shutdown(r->connection->source.fd, SHUT_WR);
    r->writer.left = unconfirmed(r);
    r->writer.progress = front_now();
    arm(r, r->connection->half_closed != 0 ? EPOLLRDHUP | EPOLLET : EPOLLIN | EPOLLRDHUP);
}

static void sent_some(struct writer *w, size_t n)
{
    w->handed += n;
    w->progress = front_now();
}

/* 1: go on, 0: the socket is full, -1: the client is gone. */
static int send_piece(struct request *r)
{
    struct writer *w = &r->writer;
    struct piece *p = w->first;
    int more = p->next != NULL || w->file_left > 0 ? MSG_MORE : 0;
    ssize_t n = send(r->connection->source.fd, p->bytes + p->at, p->size - p->at, MSG_DONTWAIT | MSG_NOSIGNAL | more);

    if (n < 0)
        return errno == EINTR ? 1 : errno == EAGAIN || errno == EWOULDBLOCK ? 0 : -1;
    sent_some(w, (size_t)n);
    p->at += (size_t)n;
    w->queued -= (size_t)n;
    if (p->at == p->size) {
        w->first = p->next;
        if (w->first == NULL)
            w->last = NULL;
        free(p);
    }
    return 1;
}

static int send_file(struct request *r)
{
    struct writer *w = &r->writer;
    size_t want = w->file_left < SENDFILE_BYTES ? (size_t)w->file_left : SENDFILE_BYTES;
    ssize_t n = sendfile(r->connection->source.fd, w->file, &w->offset, want);

    if (n < 0)
        return errno == EINTR ? 1 : errno == EAGAIN ? 0 : -1;
    if (n == 0) /* the file became shorter than was promised */
        return -1;
    sent_some(w, (size_t)n);
    w->file_left -= (uint64_t)n;
    return 1;
}

/* The task that waits in write() goes on when there is room again, or no more point. */
static void wake_writer(struct request *r)
{
    struct task *t = task_of(r->task);

    if (t != NULL && t->op == OP_PARK && t->owner == r && r->is_writing &&
        (r->writer.state != WRITER_SENDING || r->writer.queued <= (size_t)r->server->limits.stream_bytes / 2)) {
        r->is_writing = 0;
        task_wake(t, 0);
    }
}

static void pump(struct request *r)
{
    struct writer *w = &r->writer;
    int went = 1, calls = 0;

    while (went > 0 && w->first != NULL)
        went = send_piece(r);
    while (went > 0 && w->file_left > 0 && calls++ < SENDFILE_CALLS)
        went = send_file(r);
    /* A stream that ends before its length is cut, so that nobody takes it for the whole. */
    if (went < 0 || (w->first == NULL && w->is_ended && w->is_measured && w->unsaid > 0)) {
        writer_abort(r);
        httpd_shut(r);
    } else if (w->first != NULL || w->file_left > 0) {
        if (!w->is_armed)
            arm(r, EPOLLOUT);
    } else if (w->is_ended) {
        linger(r);
    } else if (w->is_armed) {
        arm(r, EPOLLRDHUP | EPOLLET);
    }
}

void writer_pump(struct request *r)
{
    if (r->writer.state == WRITER_SENDING)
        pump(r);
    wake_writer(r);
}

/* Reads what nobody wants. Returns whether the client is done with the connection. */
static int discard(struct request *r)
{
    char junk[16384];
    struct writer *w = &r->writer;

    for (int i = 0; i < 16; i++) {
        ssize_t n = recv(r->connection->source.fd, junk, sizeof junk, MSG_DONTWAIT);
        if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
            return 1;
        if (n < 0)
            return 0;
        w->discarded += (uint64_t)n;
        if (w->discarded > LINGER_DISCARD)
            return 1;
    }
    return 0;
}

/* The client will read no more: nothing of a stream has a reader. A file goes on until the socket says otherwise. */
static void lose_stream(struct request *r)
{
    struct task *t = task_of(r->task);

    writer_abort(r);
    if (t != NULL)
        task_cancel(t);
    httpd_shut(r);
}

void writer_ready(struct request *r, uint32_t events)
{
    struct writer *w = &r->writer;

    if (w->state == WRITER_LINGER) {
        /* Of a client that had said before that it sends no more there is nothing to read: the sweep sees when it has all. */
        if ((events & (EPOLLHUP | EPOLLERR)) || (r->connection->half_closed == 0 && discard(r)))
            finish(r);
    } else if (w->state == WRITER_SENDING) {
        if ((events & (EPOLLHUP | EPOLLERR)) || ((events & EPOLLRDHUP) && w->is_stream && !w->is_measured))
            lose_stream(r);
        else
            writer_pump(r);
    }
}

/* ==== deadlines ================================================================================ */

/* A long response may take as long as the least rate allows, as long as the client takes something now and then. */
static int is_too_slow(const struct request *r, int64_t now)
{
    const struct httpd_limits *limits = &r->server->limits;
    const struct writer *w = &r->writer;
    int64_t since = now - w->progress;

    if (w->first == NULL && w->file_left == 0)
        return 0; /* a stream that has nothing to say */
    if (since >= limits->stall_ms)
        return 1;
    return !w->is_stream &&
           now - r->answered_at >= limits->response_ms + (int64_t)(r->length / (uint64_t)limits->min_rate) * 1000;
}

/* A slow client may take long to read what the kernel holds for it, as long as it takes something now and then. */
static void sweep_linger(struct request *r, int64_t now)
{
    struct writer *w = &r->writer;
    uint64_t left = unconfirmed(r);

    if (left < w->left) {
        w->left = left;
        w->progress = now;
    }
    if (left == 0 ? r->connection->half_closed != 0 || now - w->progress >= LINGER_MS
                  : now - w->progress >= r->server->limits.stall_ms)
        finish(r);
}

void writer_sweep(struct request *r, int64_t now)
{
    struct writer *w = &r->writer;

    if (w->state == WRITER_LINGER) {
        sweep_linger(r, now);
    } else if (w->state == WRITER_SENDING && is_too_slow(r, now)) {
        lose_stream(r);
    }
}
