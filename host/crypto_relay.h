/*
 * crypto_relay.h: a second thread that hashes and writes what the first one has encrypted.
 *
 * SHA-256 takes longer than AES-GCM, and a write to the page cache as long: one after the other they are a third of
 * what two processors do. Owns: the thread, and the buffers that pass between the two. Must not know Lua.
 */
#ifndef ATELIER_CRYPTO_RELAY_H
#define ATELIER_CRYPTO_RELAY_H

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>

#include "crypto_hash.h"

enum { RELAY_BUFFERS = 3, RELAY_FROM = 8 * FILE_CHUNK, RELAY_WRITE_BACK = 8 * FILE_CHUNK };

enum relay_fault { RELAY_FINE = 0, RELAY_WRITE, RELAY_HASH };

struct relay {
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t moved;
    unsigned char *buffers; /* RELAY_BUFFERS chunks */
    size_t sizes[RELAY_BUFFERS];
    unsigned passed, taken; /* how many chunks so far; a buffer is free when it was taken */
    int ended;
    enum relay_fault fault;
    int err;          /* errno of RELAY_WRITE */
    EVP_MD_CTX *hash; /* NULL: none */
    FILE *dst;
    int write_back;   /* the disk begins at once, lest all be left to the fsync at the end */
    int64_t written, begun;
};

static void relay_fail(struct relay *r, enum relay_fault fault, int err)
{
    r->fault = fault;
    r->err = err != 0 ? err : EIO;
}

static void relay_one(struct relay *r, const unsigned char *p, size_t n)
{
    if (r->hash != NULL && EVP_DigestUpdate(r->hash, p, n) != 1) {
        relay_fail(r, RELAY_HASH, 0);
        return;
    }
    errno = 0;
    if (fwrite(p, 1, n, r->dst) != n) {
        relay_fail(r, RELAY_WRITE, errno);
        return;
    }
    r->written += (int64_t)n;
    if (r->write_back && r->written - r->begun >= RELAY_WRITE_BACK) {
        /* Only advice: what fails here fails again at the fsync. 0 bytes: all that is there and not begun. */
        sync_file_range(fileno(r->dst), 0, 0, SYNC_FILE_RANGE_WRITE);
        r->begun = r->written;
    }
}

/* Takes chunk after chunk; after a failure only so that the first thread does not wait for a buffer. */
static void *relay_run(void *argument)
{
    struct relay *const r = (struct relay *)argument;

    pthread_mutex_lock(&r->lock);
    for (;;) {
        const unsigned slot = r->taken % RELAY_BUFFERS;

        while (r->taken == r->passed && !r->ended)
            pthread_cond_wait(&r->moved, &r->lock);
        if (r->taken == r->passed)
            break;
        pthread_mutex_unlock(&r->lock);
        if (r->fault == RELAY_FINE)
            relay_one(r, r->buffers + (size_t)slot * FILE_CHUNK, r->sizes[slot]);
        pthread_mutex_lock(&r->lock);
        r->taken++;
        pthread_cond_signal(&r->moved);
    }
    pthread_mutex_unlock(&r->lock);
    return NULL;
}

/* 0 when there is no memory or no thread to be had: then one thread does it all. */
static int relay_start(struct relay *r, EVP_MD_CTX *hash, FILE *dst, int write_back)
{
    sigset_t all, before;
    int err;

    memset(r, 0, sizeof *r);
    r->hash = hash;
    r->dst = dst;
    r->write_back = write_back;
    if ((r->buffers = malloc((size_t)RELAY_BUFFERS * FILE_CHUNK)) == NULL)
        return 0;
    pthread_mutex_init(&r->lock, NULL);
    pthread_cond_init(&r->moved, NULL);
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &before); /* signals are the first thread's to see */
    err = pthread_create(&r->thread, NULL, relay_run, r);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (err == 0)
        return 1;
    free(r->buffers);
    return 0;
}

/* A free buffer, of FILE_CHUNK bytes; or NULL after a failure. */
static unsigned char *relay_buffer(struct relay *r)
{
    enum relay_fault fault;

    pthread_mutex_lock(&r->lock);
    while (r->passed - r->taken == RELAY_BUFFERS)
        pthread_cond_wait(&r->moved, &r->lock);
    fault = r->fault;
    pthread_mutex_unlock(&r->lock);
    return fault == RELAY_FINE ? r->buffers + (size_t)(r->passed % RELAY_BUFFERS) * FILE_CHUNK : NULL;
}

/* Hands the buffer that `relay_buffer` gave over. */
static void relay_pass(struct relay *r, size_t n)
{
    pthread_mutex_lock(&r->lock);
    r->sizes[r->passed % RELAY_BUFFERS] = n;
    r->passed++;
    pthread_cond_signal(&r->moved);
    pthread_mutex_unlock(&r->lock);
}

/* Waits until all that was passed is done. After that `fault` and `err` may be read. */
static void relay_end(struct relay *r)
{
    pthread_mutex_lock(&r->lock);
    r->ended = 1;
    pthread_cond_signal(&r->moved);
    pthread_mutex_unlock(&r->lock);
    pthread_join(r->thread, NULL);
    pthread_cond_destroy(&r->moved);
    pthread_mutex_destroy(&r->lock);
    free(r->buffers);
}

#endif
