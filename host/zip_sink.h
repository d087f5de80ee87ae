/*
 * zip_sink.h: where a new archive goes.
 *
 * Owns: the libzip source that takes an archive's bytes, in memory or in a temporary file beside the target that
 * is renamed over it at the end and leaves nothing behind on failure. Must not know Lua.
 */
#ifndef ATELIER_ZIP_SINK_H
#define ATELIER_ZIP_SINK_H

#include <sys/random.h>

#include "zip_directory.h"

struct sink {
    char *path;      /* NULL: in memory */
    char *temporary; /* while the file exists */
    FILE *file;
    char *buffer;    /* the file's; the C library's own choice is one block */
    char *data;
    uint64_t at, size, room;
    uint64_t expected; /* a guess at the size, to take the memory once */
    int encrypted;     /* some entry is: see sink_clear_checksums */
    zip_error_t error;
};

static int64_t sink_fail(struct sink *s, int kind, int err)
{
    zip_error_set(&s->error, kind, err);
    return -1;
}

enum { SINK_BUFFER = 256 * 1024 };

/* 0, or EOF with errno: what was buffered may have found no room. */
static int sink_close_file(struct sink *s)
{
    const int failed = s->file != NULL ? fclose(s->file) : 0;
    const int err = errno;

    free(s->buffer);
    s->buffer = NULL;
    s->file = NULL;
    errno = err;
    return failed;
}

/* Drops what was written. */
static void sink_rollback(struct sink *s)
{
    sink_close_file(s);
    if (s->temporary != NULL)
        unlink(s->temporary);
    free(s->temporary);
    s->temporary = NULL;
    free(s->data);
    s->data = NULL;
    s->at = s->size = s->room = 0;
}

static void sink_free(struct sink *s)
{
    sink_rollback(s);
    free(s->path);
    s->path = NULL;
    zip_error_fini(&s->error);
}

/* A fresh name in the target's folder, since a rename works within one file system only. */
static char *sink_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    const int folder = slash != NULL ? (int)(slash - path) + 1 : 0;
    uint64_t random;
    char *name;

    if (getrandom(&random, sizeof random, 0) != (ssize_t)sizeof random)
        return NULL;
    return asprintf(&name, "%.*s.%016llx.tmp", folder, path, (unsigned long long)random) < 0 ? NULL : name;
}

static int64_t sink_open_file(struct sink *s)
{
    int fd, err;

    if ((s->temporary = sink_name(s->path)) == NULL)
        return sink_fail(s, ZIP_ER_MEMORY, 0);
    fd = open(s->temporary, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd >= 0 && (s->file = fdopen(fd, "w+")) != NULL) {
        if ((s->buffer = malloc(SINK_BUFFER)) != NULL)
            setvbuf(s->file, s->buffer, _IOFBF, SINK_BUFFER);
        return 0;
    }
    err = errno;
    if (fd >= 0) {
        close(fd);
        unlink(s->temporary);
    }
    free(s->temporary); /* not ours to unlink when it could not be made */
    s->temporary = NULL;
    return sink_fail(s, ZIP_ER_TMPOPEN, err);
}

static int sink_reserve(struct sink *s, uint64_t need)
{
    uint64_t room = s->room < 4096 ? 4096 : s->room;
    char *data;

    if (need <= s->room)
        return 0;
    while (room < need)
        room *= 2;
    if ((data = realloc(s->data, (size_t)room)) == NULL)
        return -1;
    s->data = data;
    s->room = room;
    return 0;
}

static int64_t sink_begin(struct sink *s)
{
    sink_rollback(s);
    if (s->path != NULL)
        return sink_open_file(s);
    return sink_reserve(s, s->expected) < 0 ? sink_fail(s, ZIP_ER_MEMORY, 0) : 0;
}

static int64_t sink_write(struct sink *s, const void *data, uint64_t n)
{
    if (s->path != NULL) {
        if (fwrite(data, 1, (size_t)n, s->file) != n)
            return sink_fail(s, ZIP_ER_WRITE, errno);
    } else {
        if (sink_reserve(s, s->at + n) < 0)
            return sink_fail(s, ZIP_ER_MEMORY, 0);
        memcpy(s->data + s->at, data, (size_t)n);
    }
    s->at += n;
    if (s->at > s->size)
        s->size = s->at;
    return (int64_t)n;
}

static int64_t sink_seek(struct sink *s, void *data, uint64_t len)
{
    const int64_t to = zip_source_seek_compute_offset(s->at, s->size, data, len, &s->error);

    if (to < 0)
        return -1;
    if (s->path != NULL && (uint64_t)to != s->at && fseeko(s->file, (off_t)to, SEEK_SET) < 0)
        return sink_fail(s, ZIP_ER_SEEK, errno);
    s->at = (uint64_t)to;
    return 0;
}

static int sink_clear(struct sink *s, uint64_t at)
{
    static const char zeros[4];

    if (s->path == NULL)
        memcpy(s->data + at, zeros, sizeof zeros);
    else if (pwrite(fileno(s->file), zeros, sizeof zeros, (off_t)at) != (ssize_t)sizeof zeros)
        return errno;
    return 0;
}

/*
 * libzip marks its AES entries AE-2, but leaves the plaintext's checksum in the headers, which AE-2 forbids since
 * it tells an outsider what a short file holds. So it is cleared before anybody gets the archive.
 */
static int64_t sink_clear_checksums(struct sink *s)
{
    const struct limits none = {UINT64_MAX / RECORD_ROOM / 2, UINT64_MAX, UINT64_MAX};
    const struct bytes b = {s->data, s->file != NULL ? fileno(s->file) : -1, 0, s->size};
    struct directory d = {0};
    struct fault why;
    int err = 0, bad = directory_load(&b, &none, &d, &why);

    for (size_t i = 0; bad == 0 && err == 0 && i < d.count; i++) {
        if (d.records[i].aes == 0)
            continue;
        err = sink_clear(s, d.records[i].at + 16);
        if (err == 0)
            err = sink_clear(s, d.records[i].offset + 14);
    }
    directory_free(&d);
    return bad != 0 ? sink_fail(s, ZIP_ER_INTERNAL, 0) : err != 0 ? sink_fail(s, ZIP_ER_WRITE, err) : 0;
}

static int64_t sink_commit(struct sink *s)
{
    if (s->file != NULL && fflush(s->file) != 0)
        return sink_fail(s, ZIP_ER_WRITE, errno);
    if (s->encrypted && sink_clear_checksums(s) < 0)
        return -1;
    if (s->path == NULL)
        return 0;
    if (sink_close_file(s) != 0)
        return sink_fail(s, ZIP_ER_CLOSE, errno);
    if (rename(s->temporary, s->path) < 0)
        return sink_fail(s, ZIP_ER_RENAME, errno);
    free(s->temporary);
    s->temporary = NULL;
    return 0;
}

/* For libzip the target does not exist yet: whatever stands there is replaced as a whole. */
static int64_t sink_supports(void)
{
    return ZIP_SOURCE_SUPPORTS_WRITABLE | ZIP_SOURCE_MAKE_COMMAND_BITMASK(ZIP_SOURCE_SUPPORTS);
}

/* What libzip calls. Nothing in here can raise or call Lua. The sink outlives the source. */
static zip_int64_t sink_call(void *state, void *data, zip_uint64_t len, zip_source_cmd_t command)
{
    struct sink *s = state;

    switch (command) {
    case ZIP_SOURCE_BEGIN_WRITE:
        return sink_begin(s);
    case ZIP_SOURCE_WRITE:
        return sink_write(s, data, len);
    case ZIP_SOURCE_SEEK_WRITE:
        return sink_seek(s, data, len);
    case ZIP_SOURCE_TELL_WRITE:
        return (zip_int64_t)s->at;
    case ZIP_SOURCE_COMMIT_WRITE:
        return sink_commit(s);
    case ZIP_SOURCE_ROLLBACK_WRITE:
        sink_rollback(s);
        return 0;
    case ZIP_SOURCE_STAT:
        return sink_fail(s, ZIP_ER_READ, ENOENT);
    case ZIP_SOURCE_ERROR:
        return zip_error_to_data(&s->error, data, len);
    case ZIP_SOURCE_CLOSE:
    case ZIP_SOURCE_FREE:
    case ZIP_SOURCE_REMOVE:
        return 0;
    case ZIP_SOURCE_SUPPORTS:
        return sink_supports();
    default:
        return sink_fail(s, ZIP_ER_OPNOTSUPP, 0);
    }
}

#endif
