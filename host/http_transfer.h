/*
 * http_transfer.h: transfers and the multi handle that drives them.
 *
 * Owns: the two structs, libcurl's callbacks, the freeing of both, and the loop (wait, act, note what is
 * done). No Lua is called here, so nothing here can raise; that is what lets libcurl call it. Must not know
 * the request tables. Private to lua_http.c, which includes it once.
 */
#ifndef ATELIER_HTTP_TRANSFER_H
#define ATELIER_HTTP_TRANSFER_H

#include <poll.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <curl/curl.h>
#include <lualib.h>

#include "managed.h"

#define MAX_HEAD (256 * 1024)        /* of a response; libcurl itself stops at 100 KiB in one line */
#define GROWTH_MS 5                  /* between two looks at a file that is being written */
#define MAX_ERROR_BODY (1024 * 1024) /* of a refusal, when the wanted body goes to a file */

/* Why a callback of ours stopped a transfer; libcurl only says that it did. */
enum stop {
    STOP_NONE = 0,
    STOP_TOO_LARGE,
    STOP_HEAD,
    STOP_CUT_HEAD,
    STOP_SHORT_BODY,
    STOP_READ,
    STOP_WRITE,
    STOP_MEMORY
};

/* One request under way: a userdata whose three user values keep body, body_file and response_file alive. */
struct transfer {
    CURL *easy;
    CURLU *url;
    struct curl_slist *headers;
    struct multi *multi; /* NULL when in none; a link in its list */
    struct transfer *next, **link;
    lua_Integer id;
    luaL_Stream *in, *out; /* looked at before each use: Lua may close the file meanwhile */
    const char *body;
    curl_off_t in_start, in_size, in_done; /* in_size -1: no body */
    curl_off_t received, max_bytes;
    char *buf, *head;
    size_t len, size, head_len, head_size;
    int head_done;
    int growing, paused; /* the file is being written; it is paused at the file's present end */
    enum stop stop;
    int err;
    int done;
    CURLcode result;
    char method[24];
    char place[256]; /* scheme, host, port, path: the part of the URL that may be told */
    char detail[CURL_ERROR_SIZE];
};

struct multi {
    CURLM *handle;
    pid_t pid;
    struct pollfd *watches;
    size_t watch_count, watch_size;
    long long deadline; /* monotonic ms when libcurl wants to be called; -1 for never */
    struct transfer *transfers;
    lua_Integer last_id;
    int counted; /* in managed_live; the hidden one is not */
};

static long long now_ms(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (long long)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* ==== libcurl's callbacks: C only ============================================================== */

/* Grows a malloc'ed buffer so that `extra` more bytes fit; 0 when there is no memory. */
static int ensure(char **buf, size_t *size, size_t len, size_t extra)
{
    size_t want = *size == 0 ? 4096 : *size;
    char *p;

    if (extra <= *size - len)
        return 1;
    while (want - len < extra)
        want *= 2;
    p = realloc(*buf, want);
    if (p == NULL)
        return 0;
    *buf = p;
    *size = want;
    return 1;
}

static size_t stop_with(struct transfer *t, enum stop why, int err)
{
    t->stop = why;
    t->err = err;
    return 0;
}

/* A new status line (after 1xx, or a redirect) starts anew; lines after the empty one are trailers, not
 * wanted. */
static size_t on_header(char *data, size_t size, size_t n, void *arg)
{
    struct transfer *t = arg;

    n *= size;
    if (n >= 5 && memcmp(data, "HTTP/", 5) == 0 && t->received == 0 && (t->head_done || t->head_len == 0)) {
        t->head_len = 0;
        t->head_done = 0;
    }
    if (t->head_done)
        return n;
    if (n > MAX_HEAD - t->head_len)
        return stop_with(t, STOP_HEAD, 0);
    if (!ensure(&t->head, &t->head_size, t->head_len, n))
        return stop_with(t, STOP_MEMORY, 0);
    memcpy(t->head + t->head_len, data, n);
    t->head_len += n;
    t->head_done = n <= 2 && data[0] != ' ' && data[0] != '\t';
    return n;
}

static size_t write_file(struct transfer *t, const char *data, size_t n)
{
    if (t->out->closef == NULL)
        return stop_with(t, STOP_WRITE, EBADF);
    errno = 0;
    if (fwrite(data, 1, n, t->out->f) != n)
        return stop_with(t, STOP_WRITE, errno != 0 ? errno : EIO);
    return n;
}

/* Only a success goes to the file: what a server says about a failure is for the caller to read. */
static int goes_to_file(const struct transfer *t)
{
    long status = 0;

    curl_easy_getinfo(t->easy, CURLINFO_RESPONSE_CODE, &status);
    return t->out != NULL && status >= 200 && status <= 299;
}

static size_t on_body(char *data, size_t size, size_t n, void *arg)
{
    struct transfer *t = arg;
    int to_file = goes_to_file(t);
    curl_off_t max = t->max_bytes, announced = -1;

    n *= size;
    if (t->out != NULL && !to_file && max > MAX_ERROR_BODY)
        max = MAX_ERROR_BODY;
    curl_easy_getinfo(t->easy, CURLINFO_CONTENT_LENGTH_DOWNLOAD_T, &announced);
    if ((curl_off_t)n > max - t->received || announced > max)
        return stop_with(t, STOP_TOO_LARGE, 0);
    if (to_file) {
        n = write_file(t, data, n);
    } else {
        if (!ensure(&t->buf, &t->size, t->len, n))
            return stop_with(t, STOP_MEMORY, 0);
        memcpy(t->buf + t->len, data, n);
        t->len += n;
    }
    t->received += (curl_off_t)n;
    return n;
}

/* At the end of a file that another process writes: more will come, unless it was given up and has lost its name. */
static size_t wait_for_growth(struct transfer *t)
{
    struct stat info;

    if (fstat(fileno(t->in->f), &info) != 0) {
        stop_with(t, STOP_READ, errno);
        return CURL_READFUNC_ABORT;
    }
    if (info.st_nlink == 0) {
        stop_with(t, STOP_SHORT_BODY, 0);
        return CURL_READFUNC_ABORT;
    }
    clearerr(t->in->f); /* else its end is remembered */
    t->paused = 1;
    return CURL_READFUNC_PAUSE;
}

static size_t read_file(struct transfer *t, char *data, size_t n)
{
    size_t got;

    if (t->in->closef == NULL) {
        stop_with(t, STOP_READ, EBADF);
        return CURL_READFUNC_ABORT;
    }
    errno = 0;
    got = fread(data, 1, n, t->in->f);
    if (got > 0)
        return got;
    if (t->growing && !ferror(t->in->f))
        return wait_for_growth(t);
    stop_with(t, ferror(t->in->f) ? STOP_READ : STOP_SHORT_BODY, errno);
    return CURL_READFUNC_ABORT;
}

static size_t on_read(char *data, size_t size, size_t n, void *arg)
{
    struct transfer *t = arg;
    curl_off_t left = t->in_size - t->in_done;

    n *= size;
    if ((curl_off_t)n > left)
        n = (size_t)left;
    if (n == 0)
        return 0;
    if (t->in != NULL)
        n = read_file(t, data, n);
    else
        memcpy(data, t->body + t->in_done, n);
    if (n != CURL_READFUNC_ABORT && n != CURL_READFUNC_PAUSE)
        t->in_done += (curl_off_t)n;
    return n;
}

/* libcurl sends again when a kept connection turns out to be dead. */
static int on_seek(void *arg, curl_off_t offset, int origin)
{
    struct transfer *t = arg;

    if (origin != SEEK_SET || offset < 0 || offset > t->in_size)
        return CURL_SEEKFUNC_FAIL;
    if (t->in != NULL &&
        (t->in->closef == NULL || fseeko(t->in->f, (off_t)(t->in_start + offset), SEEK_SET) != 0))
        return CURL_SEEKFUNC_FAIL;
    t->in_done = offset;
    return CURL_SEEKFUNC_OK;
}

static int on_socket(CURL *easy, curl_socket_t fd, int what, void *arg, void *socket_arg)
{
    struct multi *m = arg;
    size_t i = 0;

    (void)easy;
    (void)socket_arg;
    while (i < m->watch_count && m->watches[i].fd != fd)
        i++;
    if (what == CURL_POLL_REMOVE) {
        if (i < m->watch_count)
            m->watches[i] = m->watches[--m->watch_count];
        return 0;
    }
    if (i == m->watch_count) {
        if (i == m->watch_size) {
            size_t size = i == 0 ? 16 : i * 2;
            struct pollfd *p = realloc(m->watches, size * sizeof *p);
            if (p == NULL)
                return -1;
            m->watches = p;
            m->watch_size = size;
        }
        m->watch_count++;
        m->watches[i].fd = fd;
        m->watches[i].revents = 0;
    }
    m->watches[i].events = (short)((what & CURL_POLL_IN ? POLLIN : 0) | (what & CURL_POLL_OUT ? POLLOUT : 0));
    return 0;
}

static int on_timer(CURLM *handle, long ms, void *arg)
{
    struct multi *m = arg;

    (void)handle;
    m->deadline = ms < 0 ? -1 : now_ms() + ms;
    return 0;
}

/* ==== life of a transfer and of a multi ======================================================== */

/* Takes a transfer that libcurl is done with, or that is done for, off its multi's list. */
static void transfer_unlink(struct transfer *t)
{
    if (t->multi == NULL)
        return;
    *t->link = t->next;
    if (t->next != NULL)
        t->next->link = t->link;
    t->multi = NULL;
}

/*
 * Takes the transfer off its multi and frees all that it holds. Harmless when repeated. In a forked child the sockets
 * are the parent's as well: closing them properly would end the parent's TLS sessions. The child forgets them instead.
 */
static void transfer_free(struct transfer *t)
{
    managed_live -= t->easy != NULL;
    if (t->multi != NULL && t->multi->pid != getpid())
        t->easy = NULL;
    else if (t->multi != NULL && !t->done)
        curl_multi_remove_handle(t->multi->handle, t->easy);
    transfer_unlink(t);
    curl_easy_cleanup(t->easy);
    curl_url_cleanup(t->url);
    curl_slist_free_all(t->headers);
    free(t->buf);
    free(t->head);
    t->easy = NULL;
    t->url = NULL;
    t->headers = NULL;
    t->buf = t->head = NULL;
}

/* The same for a multi, with its transfers. */
static void multi_free(struct multi *m)
{
    if (m->handle == NULL)
        return;
    while (m->transfers != NULL)
        transfer_free(m->transfers);
    if (m->pid == getpid())
        curl_multi_cleanup(m->handle);
    free(m->watches);
    m->handle = NULL;
    m->watches = NULL;
    m->watch_count = m->watch_size = 0;
    managed_live -= m->counted;
    m->counted = 0;
}

/* ==== the loop: wait, act, note what is done =================================================== */

/* From here to the end of multi_wait nothing touches Lua. */
static void multi_action(struct multi *m, curl_socket_t fd, int mask)
{
    int running, left;
    CURLMsg *msg;

    curl_multi_socket_action(m->handle, fd, mask, &running);
    while ((msg = curl_multi_info_read(m->handle, &left)) != NULL) {
        struct transfer *t = NULL;
        CURL *easy = msg->easy_handle;
        CURLcode result = msg->data.result;

        if (msg->msg != CURLMSG_DONE)
            continue;
        curl_easy_getinfo(easy, CURLINFO_PRIVATE, &t);
        curl_multi_remove_handle(m->handle, easy); /* `msg` is gone with it */
        t->result = result;
        t->done = 1;
    }
}

static int action_mask(short revents)
{
    return (revents & (POLLIN | POLLHUP) ? CURL_CSELECT_IN : 0) | (revents & POLLOUT ? CURL_CSELECT_OUT : 0) |
           (revents & (POLLERR | POLLNVAL) ? CURL_CSELECT_ERR : 0);
}

/* Each action may change the list, so the search starts over; new entries have nothing to report. */
static void multi_dispatch(struct multi *m)
{
    for (size_t i = 0; i < m->watch_count;) {
        short revents = m->watches[i].revents;
        if (revents == 0) {
            i++;
            continue;
        }
        m->watches[i].revents = 0;
        multi_action(m, m->watches[i].fd, action_mask(revents));
        i = 0;
    }
}

static void multi_timers(struct multi *m)
{
    if (m->deadline >= 0 && now_ms() >= m->deadline) {
        m->deadline = -1;
        multi_action(m, CURL_SOCKET_TIMEOUT, 0);
    }
}

/* Lets those go on that wait for their files to grow. Returns whether there are any. */
static int multi_resume(struct multi *m)
{
    int found = 0;

    for (struct transfer *t = m->transfers; t != NULL; t = t->next)
        if (t->paused && !t->done) {
            t->paused = 0;
            curl_easy_pause(t->easy, CURLPAUSE_CONT);
            found = 1;
        }
    return found;
}

static int multi_is_paused(const struct multi *m)
{
    const struct transfer *t = m->transfers;

    while (t != NULL && (!t->paused || t->done))
        t = t->next;
    return t != NULL;
}

/* Waits at most `ms`, and a second at the longest, so that a timer libcurl forgot cannot hang us. */
static void multi_wait(struct multi *m, long long ms)
{
    long long left = m->deadline < 0 ? ms : m->deadline - now_ms();
    int n;

    left = left > ms ? ms : left;
    if (left > GROWTH_MS && multi_is_paused(m))
        left = GROWTH_MS;
    left = left > 1000 ? 1000 : left < 0 ? 0 : left;
    n = poll(m->watches, (nfds_t)m->watch_count, (int)left);
    if (n > 0)
        multi_dispatch(m);
    else if (left == 1000)
        multi_action(m, CURL_SOCKET_TIMEOUT, 0);
    multi_resume(m);
    multi_timers(m);
}

static struct transfer *first_done(const struct multi *m)
{
    struct transfer *t = m->transfers;

    while (t != NULL && !t->done)
        t = t->next;
    return t;
}

#endif
