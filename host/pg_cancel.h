/*
 * pg_cancel.h: cancel requests of atelier.pg that cannot hang.
 *
 * PQcancel opens a second connection and waits for the server without any limit, so a server that is
 * stopped or unreachable would hold its caller for ever. Here it runs in a thread of its own, and the
 * caller waits as long as it likes. Owns that thread's memory. Must not know Lua.
 */
#ifndef ATELIER_PG_CANCEL_H
#define ATELIER_PG_CANCEL_H

#include <dlfcn.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include <libpq-fe.h>

static int64_t pg_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* Shared by the caller and the thread; whoever lets go last frees it. */
struct pg_cancel {
    PGcancel *handle;
    int done_fd;      /* an eventfd, readable once PQcancel has returned */
    atomic_int holders;
    atomic_int sent;  /* the server took the request */
    char error[256];  /* why not, valid once done_fd is readable */
};

static void pg_cancel_drop(struct pg_cancel *k)
{
    if (k == NULL || atomic_fetch_sub(&k->holders, 1) > 1)
        return;
    if (k->handle != NULL)
        PQfreeCancel(k->handle);
    if (k->done_fd >= 0)
        close(k->done_fd);
    free(k);
}

static void *pg_cancel_run(void *arg)
{
    struct pg_cancel *k = arg;
    const uint64_t one = 1;

    atomic_store(&k->sent, PQcancel(k->handle, k->error, (int)sizeof k->error));
    if (write(k->done_fd, &one, sizeof one) < 0) {
        /* an eventfd with room for 2^64-2 takes a 1; nobody could be told otherwise anyway */
    }
    pg_cancel_drop(k);
    return NULL;
}

/* Keeps this code mapped: closing the Lua state unloads a module, and a thread may still be in it. */
static void pg_cancel_pin(void)
{
    static atomic_int pinned;
    static const char anchor = 0;
    Dl_info info;

    if (atomic_exchange(&pinned, 1) == 0 && dladdr(&anchor, &info) != 0 && info.dli_fname != NULL)
        (void)dlopen(info.dli_fname, RTLD_NOW | RTLD_NOLOAD | RTLD_NODELETE);
}

/* Threads must not take the signals that the program waits for. */
static int pg_cancel_spawn(struct pg_cancel *k)
{
    pthread_attr_t attr;
    pthread_t thread;
    sigset_t all, old;
    int err;

    sigfillset(&all);
    if (pthread_attr_init(&attr) != 0)
        return 0;
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attr, 256 * 1024);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    err = pthread_create(&thread, &attr, pg_cancel_run, k);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    pthread_attr_destroy(&attr);
    return err == 0;
}

/* Starts a cancel request for what runs on `pg`; NULL when none can be made. Drop it when done. */
static struct pg_cancel *pg_cancel_start(PGconn *pg)
{
    struct pg_cancel *k = calloc(1, sizeof *k);

    if (k == NULL)
        return NULL;
    pg_cancel_pin();
    atomic_init(&k->holders, 1);
    k->handle = PQgetCancel(pg);
    k->done_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (k->handle != NULL && k->done_fd >= 0) {
        atomic_fetch_add(&k->holders, 1);
        if (pg_cancel_spawn(k))
            return k;
        atomic_fetch_sub(&k->holders, 1);
    }
    pg_cancel_drop(k);
    return NULL;
}

/* Waits up to `ms`, signals or not; returns whether the request has ended, one way or the other. */
static int pg_cancel_wait(const struct pg_cancel *k, int ms)
{
    struct pollfd p = {.fd = k->done_fd, .events = POLLIN};
    const int64_t until = pg_now() + ms;
    int ready;

    do {
        const int64_t left = until - pg_now();
        ready = poll(&p, 1, left > 0 ? (int)left : 0);
    } while (ready < 0 && errno == EINTR);
    return ready == 1;
}

#endif
