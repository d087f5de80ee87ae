/*
 * far_store.c: a store that is far away: as much of Supabase Storage's REST API as a worker uses, each answer given so
 * many milliseconds after its request has arrived. Usage: far_store MILLISECONDS PORT [FOLDER]; prints its port (0: any).
 *
 * One thread and as little work as possible, since it shares the processors with what is measured. Without FOLDER only
 * the size and the metadata of an object are kept. On SIGUSR1 it is gone: nothing listens, all connections are reset;
 * on SIGUSR2 it is back. GET /keys lists what it has. Must not be lenient where the real one is strict about lengths.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/sendfile.h>
#include <time.h>
#include <unistd.h>

enum { HEAD = 8192, BLOCK = 256 * 1024, EVENTS = 256, SLOTS = 1 << 20 };

struct object {
    char *key;
    char *metadata; /* JSON */
    long long size;
    int number; /* names its file */
};

struct client {
    int fd, dead;
    char head[HEAD + 1];
    size_t have;    /* bytes of the head so far */
    int in_body;
    long long left; /* of the body */
    long long size;
    int file, number;
    double due;
    struct client *next;
};

static struct object *objects[SLOTS];
static struct client *first, *last; /* wait for their answers: the delay is always the same, so in order */
static struct client *open_clients[65536];
static const char *folder;
static double delay;
static int listener = -1, loop, port, files;
static volatile sig_atomic_t wish;
static char block[BLOCK];

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void must(int ok, const char *what)
{
    if (!ok) {
        perror(what);
        exit(1);
    }
}

/* ==== objects ==== */

static struct object **slot_of(const char *key)
{
    uint64_t h = 1469598103934665603u;

    for (const char *p = key; *p != '\0'; p++)
        h = (h ^ (unsigned char)*p) * 1099511628211u;
    for (size_t i = (size_t)(h ^ (h >> 29)) % SLOTS;; i = (i + 1) % SLOTS)
        if (objects[i] == NULL || strcmp(objects[i]->key, key) == 0)
            return &objects[i];
}

static void path_of(char *to, size_t room, int number)
{
    snprintf(to, room, "%s/%d", folder, number);
}

static char *base64_decoded(const char *text)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    char *out = calloc(1, strlen(text) + 4), *to = out;
    unsigned bits = 0, count = 0;

    for (; *text != '\0' && *text != '=' && *text != '\r'; text++) {
        const char *at = strchr(digits, *text);
        if (at == NULL)
            break;
        bits = bits << 6 | (unsigned)(at - digits);
        if ((count += 6) >= 8)
            *to++ = (char)(bits >> (count -= 8) & 255);
    }
    return out;
}

/* ==== answers ==== */

static void send_all(struct client *c, const char *p, size_t n)
{
    while (n > 0 && !c->dead) {
        const ssize_t sent = send(c->fd, p, n, MSG_NOSIGNAL);
        struct pollfd writable = {.fd = c->fd, .events = POLLOUT};

        if (sent > 0) {
            p += sent;
            n -= (size_t)sent;
        } else if (errno == EAGAIN) {
            poll(&writable, 1, 60000);
        } else {
            c->dead = 1;
        }
    }
}

static void answer(struct client *c, int status, const char *extra, const char *body, long long length)
{
    char head[512];
    const int n = snprintf(head, sizeof head, "HTTP/1.1 %d X\r\nContent-Type: application/json\r\n%sContent-Length: %lld\r\n\r\n",
                           status, extra, length);

    send_all(c, head, (size_t)n);
    if (body != NULL)
        send_all(c, body, strlen(body));
}

static void answer_json(struct client *c, int status, const char *body)
{
    answer(c, status, "", body, (long long)strlen(body));
}

static const char *header(const struct client *c, const char *name)
{
    const char *at = strcasestr(c->head, name);

    return at != NULL ? at + strlen(name) : NULL;
}

static void serve_upload(struct client *c, const char *key)
{
    struct object **slot = slot_of(key);
    const char *metadata = header(c, "\r\nx-metadata: ");

    if (*slot != NULL) {
        answer_json(c, 400, "{\"statusCode\":\"409\",\"error\":\"Duplicate\",\"message\":\"The resource already exists\","
                            "\"code\":\"KeyAlreadyExists\"}");
        return;
    }
    *slot = calloc(1, sizeof **slot);
    must(*slot != NULL, "calloc");
    (*slot)->key = strdup(key);
    (*slot)->metadata = base64_decoded(metadata != NULL ? metadata : "e30=");
    (*slot)->size = c->size;
    (*slot)->number = c->number;
    answer_json(c, 200, "{\"Key\":\"stored\",\"Id\":\"stored\"}");
}

static const char missing[] =
    "{\"statusCode\":\"404\",\"error\":\"not_found\",\"message\":\"Object not found\",\"code\":\"NoSuchKey\"}";

static void serve_info(struct client *c, const char *key)
{
    const struct object *o = *slot_of(key);
    char body[1024];

    if (o == NULL) {
        answer_json(c, 400, missing);
        return;
    }
    snprintf(body, sizeof body, "{\"size\":%lld,\"etag\":\"\\\"%d\\\"\",\"metadata\":%s}", o->size, o->number, o->metadata);
    answer_json(c, 200, body);
}

static void serve_bytes(struct client *c, const char *key)
{
    const struct object *o = *slot_of(key);
    const char *range = header(c, "\r\nrange: bytes=");
    long long from = 0, to;
    char extra[256], path[512];
    int fd;

    if (o == NULL || folder == NULL) {
        answer_json(c, 400, missing);
        return;
    }
    to = o->size - 1;
    if (range != NULL)
        sscanf(range, "%lld-%lld", &from, &to);
    to = to < o->size ? to : o->size - 1;
    snprintf(extra, sizeof extra, "ETag: \"%d\"\r\nContent-Range: bytes %lld-%lld/%lld\r\n", o->number, from, to, o->size);
    path_of(path, sizeof path, o->number);
    must((fd = open(path, O_RDONLY)) >= 0, path);
    answer(c, range != NULL ? 206 : 200, extra, NULL, to - from + 1);
    for (off_t at = from; at <= to && !c->dead;) {
        struct pollfd writable = {.fd = c->fd, .events = POLLOUT};

        if (sendfile(c->fd, fd, &at, (size_t)(to - at + 1)) < 0) {
            c->dead = errno != EAGAIN;
            poll(&writable, 1, 60000);
        }
    }
    close(fd);
}

static void serve_keys(struct client *c)
{
    char *text = NULL;
    size_t size = 0;
    FILE *f = open_memstream(&text, &size);

    for (size_t i = 0; i < SLOTS; i++)
        if (objects[i] != NULL)
            fprintf(f, "%s %lld\n", objects[i]->key, objects[i]->size);
    fclose(f);
    answer_json(c, 200, text);
    free(text);
}

static void serve_delete(struct client *c)
{
    answer_json(c, 200, "[]"); /* what is deleted is not what is measured */
}

static void serve(struct client *c)
{
    static const char object[] = "/storage/v1/object/", info[] = "/storage/v1/object/info/";
    char method[16] = "", path[1024] = "";

    sscanf(c->head, "%15s %1023s", method, path);
    if (strcmp(path, "/keys") == 0)
        serve_keys(c);
    else if (strncmp(path, info, sizeof info - 1) == 0)
        serve_info(c, path + sizeof info - 1);
    else if (strncmp(path, object, sizeof object - 1) != 0)
        answer_json(c, 200, "{}"); /* a bucket is made */
    else if (strcmp(method, "POST") == 0)
        serve_upload(c, path + sizeof object - 1);
    else if (strcmp(method, "DELETE") == 0)
        serve_delete(c);
    else
        serve_bytes(c, path + sizeof object - 1);
    c->have = 0;
    c->in_body = 0;
}

/* ==== connections ==== */

static void drop(struct client *c, int reset)
{
    const struct linger hard = {.l_onoff = 1, .l_linger = 0};

    if (reset)
        setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
    open_clients[c->fd] = NULL;
    close(c->fd);
    if (c->file >= 0)
        close(c->file);
    free(c);
}

static void begin_body(struct client *c, size_t head_size)
{
    const char *length = header(c, "\r\ncontent-length: ");
    const size_t extra = c->have - head_size;

    c->in_body = 1;
    c->size = c->left = length != NULL ? atoll(length) : 0;
    if (folder != NULL && strncmp(c->head, "POST /storage/v1/object/ate", 27) == 0) {
        char path[512];

        c->number = ++files;
        path_of(path, sizeof path, c->number);
        must((c->file = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600)) >= 0, path);
        must(write(c->file, c->head + head_size, extra) == (ssize_t)extra, "write");
    }
    c->left -= (long long)extra;
    c->head[head_size] = '\0';
}

/* A request is whole: its answer is due later. What was written of it is on the disk by then. */
static void finish_body(struct client *c)
{
    if (c->file >= 0) {
        must(fdatasync(c->file) == 0, "fdatasync");
        close(c->file);
        c->file = -1;
    }
    c->due = now() + delay;
    c->next = NULL;
    if (first == NULL)
        first = c;
    else
        last->next = c;
    last = c;
}

/* 1 when there may be more to read. */
static int read_head(struct client *c)
{
    const ssize_t n = recv(c->fd, c->head + c->have, HEAD - c->have, 0);
    char *end;

    if (n <= 0)
        return n < 0 && errno == EAGAIN ? 0 : -1;
    c->have += (size_t)n;
    c->head[c->have] = '\0';
    end = strstr(c->head, "\r\n\r\n");
    if (end == NULL)
        return c->have < HEAD ? 1 : -1;
    begin_body(c, (size_t)(end + 4 - c->head));
    return 1;
}

static int read_body(struct client *c)
{
    const size_t want = c->left < BLOCK ? (size_t)c->left : BLOCK;
    const ssize_t n = recv(c->fd, block, want, c->file >= 0 ? 0 : MSG_TRUNC); /* TCP then drops it without a copy */

    if (n <= 0)
        return n < 0 && errno == EAGAIN ? 0 : -1;
    if (c->file >= 0)
        must(write(c->file, block, (size_t)n) == n, "write");
    c->left -= n;
    return 1;
}

static void readable(struct client *c)
{
    int more = 1;

    while (more > 0) {
        more = c->in_body ? read_body(c) : read_head(c);
        if (more >= 0 && c->in_body && c->left <= 0) {
            finish_body(c);
            return;
        }
    }
    if (more < 0)
        drop(c, 0);
}

static void accept_all(void)
{
    const int one = 1;
    int fd;

    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        struct client *c = calloc(1, sizeof *c);
        struct epoll_event e = {.events = EPOLLIN, .data.ptr = c};

        must(c != NULL && fd < 65536, "accept");
        c->fd = fd;
        c->file = -1;
        open_clients[fd] = c;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        must(epoll_ctl(loop, EPOLL_CTL_ADD, fd, &e) == 0, "epoll_ctl");
    }
}

static void come(void)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = NULL};
    socklen_t n = sizeof at;
    const int one = 1;

    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    must(bind(listener, (struct sockaddr *)&at, sizeof at) == 0, "bind");
    must(listen(listener, 1024) == 0 && getsockname(listener, (struct sockaddr *)&at, &n) == 0, "listen");
    port = ntohs(at.sin_port);
    must(epoll_ctl(loop, EPOLL_CTL_ADD, listener, &e) == 0, "epoll_ctl");
}

static void go(void)
{
    close(listener);
    listener = -1;
    first = last = NULL;
    for (size_t i = 0; i < sizeof open_clients / sizeof *open_clients; i++)
        if (open_clients[i] != NULL)
            drop(open_clients[i], 1);
}

static void on_signal(int number)
{
    wish = number;
}

static void answer_due(void)
{
    const double moment = now();

    while (first != NULL && first->due <= moment) {
        struct client *c = first;

        first = c->next;
        serve(c);
        if (c->dead)
            drop(c, 0);
    }
}

/* While a request waits for its answer its connection is not read: a client that goes is noticed later. */
static int is_waiting(const struct client *c)
{
    return c->in_body && c->left <= 0;
}

static void turn(void)
{
    struct epoll_event events[EVENTS];
    const double wait = first != NULL ? first->due - now() : 1;
    const struct timespec limit = {.tv_sec = 0, .tv_nsec = wait <= 0 ? 0 : wait < 0.9 ? (long)(wait * 1e9) : 900000000};
    const int n = epoll_pwait2(loop, events, EVENTS, &limit, NULL);
    const int was = wish;

    for (int i = 0; i < n; i++) {
        struct client *c = events[i].data.ptr;

        if (c == NULL)
            accept_all();
        else if (!is_waiting(c))
            readable(c);
    }
    answer_due();
    if (was == SIGUSR1 && listener >= 0)
        go();
    else if (was == SIGUSR2 && listener < 0)
        come();
}

int main(int argc, char **argv)
{
    if (argc < 3)
        return 2;
    delay = atof(argv[1]) / 1000;
    port = atoi(argv[2]);
    folder = argc > 3 ? argv[3] : NULL;
    signal(SIGPIPE, SIG_IGN);
    signal(SIGUSR1, on_signal);
    signal(SIGUSR2, on_signal);
    must((loop = epoll_create1(EPOLL_CLOEXEC)) >= 0, "epoll_create1");
    come();
    printf("%d\n", port);
    fflush(stdout);
    while (getppid() != 1)
        turn();
    return 0;
}
