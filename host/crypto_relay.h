/*
 * crypto_relay.h: a second thread that hashes what the first one has encrypted, while that one writes it.
 *
 * SHA-256 takes longer than AES-GCM, and a write to the page cache as long: one after the other they are half of what
 * two processors do. Owns: the thread, and the buffers that pass between the two. Must not know Lua.
 */
#ifndef ATELIER_CRYPTO_RELAY_H
#define ATELIER_CRYPTO_RELAY_H

#include <pthread.h>
#include <signal.h>

#include "crypto_hash.h"

enum { RELAY_BUFFERS = 3, RELAY_FROM = 8 * FILE_CHUNK };

struct relay {
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t moved;
    unsigned char *buffers; /* RELAY_BUFFERS chunks */
    size_t sizes[RELAY_BUFFERS];
    unsigned passed, taken; /* how many chunks so far; a buffer is free when it was taken */
    int ended;
    int failed; /* OpenSSL could not hash */
    EVP_MD_CTX *hash;
};

/* Takes chunk after chunk, also after a failure, so that the first thread does not wait for a buffer. */
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
        if (!r->failed && EVP_DigestUpdate(r->hash, r->buffers + (size_t)slot * FILE_CHUNK, r->sizes[slot]) != 1)
            r->failed = 1;
        pthread_mutex_lock(&r->lock);
        r->taken++;
        pthread_cond_signal(&r->moved);
    }
    pthread_mutex_unlock(&r->lock);
    return NULL;
}

/* 0 when there is no memory or no thread to be had: then one thread does it all. */
static int relay_start(struct relay *r, EVP_MD_CTX *hash)
{
    sigset_t all, before;
    int err;

    memset(r, 0, sizeof *r);
    r->hash = hash;
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

/* A free buffer, of FILE_CHUNK bytes. */
static unsigned char *relay_buffer(struct relay *r)
{
    pthread_mutex_lock(&r->lock);
    while (r->passed - r->taken == RELAY_BUFFERS)
        pthread_cond_wait(&r->moved, &r->lock);
    pthread_mutex_unlock(&r->lock);
    return r->buffers + (size_t)(r->passed % RELAY_BUFFERS) * FILE_CHUNK;
}

/* Hands the buffer that `relay_buffer` gave over. It may still be read until the next is asked for. */
static void relay_pass(struct relay *r, size_t n)
{
    pthread_mutex_lock(&r->lock);
    r->sizes[r->passed % RELAY_BUFFERS] = n;
    r->passed++;
    pthread_cond_signal(&r->moved);
    pthread_mutex_unlock(&r->lock);
}

/* Waits until all that was passed is hashed; 0 when it could not be. */
static int relay_end(struct relay *r)
{
    pthread_mutex_lock(&r->lock);
    r->ended = 1;
    pthread_cond_signal(&r->moved);
    pthread_mutex_unlock(&r->lock);
    pthread_join(r->thread, NULL);
    pthread_cond_destroy(&r->moved);
    pthread_mutex_destroy(&r->lock);
    OPENSSL_cleanse(r->buffers, (size_t)RELAY_BUFFERS * FILE_CHUNK);
    free(r->buffers);
    return !r->failed;
}

#endif
