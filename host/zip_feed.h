/*
 * zip_feed.h: the bytes that libzip reads.
 *
 * Owns: faults (code and text), positioned reading from memory or a file, and the libzip source over
 * either of them, over a file by name, or over an entry of another archive. A feed never moves the
 * position of somebody else's descriptor. Must not know Lua.
 */
#ifndef ATELIER_ZIP_FEED_H
#define ATELIER_ZIP_FEED_H

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zip.h>

/* ==== faults =================================================================================== */

#define BAD_ARCHIVE "bad_archive"

/* What went wrong: a short stable code and the reason in words. */
struct fault {
    const char *code;
    char text[256];
};

__attribute__((format(printf, 3, 4))) static int fault_set(struct fault *f, const char *code, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(f->text, sizeof f->text, fmt, ap);
    va_end(ap);
    f->code = code;
    return -1;
}

static int fault_errno(struct fault *f, int err)
{
    const char *symbol = strerrorname_np(err);
    return fault_set(f, symbol != NULL ? symbol : "EUNKNOWN", "%s", strerror(err));
}

/* libzip's own reason; `code` is for what is neither the system's nor the password's fault. */
static int fault_zip(struct fault *f, zip_error_t *e, const char *code)
{
    const int kind = zip_error_code_zip(e);

    if (kind == ZIP_ER_MEMORY)
        return fault_errno(f, ENOMEM);
    if (zip_error_system_type(e) == ZIP_ET_SYS && zip_error_code_system(e) != 0)
        return fault_errno(f, zip_error_code_system(e));
    if (kind == ZIP_ER_WRONGPASSWD)
        return fault_set(f, "wrong_password", "the password is wrong");
    if (kind == ZIP_ER_NOPASSWD)
        return fault_set(f, "no_password", "the entry is encrypted and no password was given");
    if (kind == ZIP_ER_CRC)
        return fault_set(f, code, "its checksum or authentication code differs");
    if (kind == ZIP_ER_CHANGED)
        return fault_set(f, "changed", "the file changed while it was read");
    return fault_set(f, code, "%s", zip_error_strerror(e));
}

/* ==== bytes at a position ====================================================================== */

struct bytes {
    const char *data; /* in memory, or NULL: then in `fd` from `base` on */
    int fd;
    uint64_t base;
    uint64_t length;
};

/* Reads exactly n bytes. 0, or an errno: ERANGE when the bytes end before, also because a file shrank. */
static int bytes_read(const struct bytes *b, uint64_t at, void *to, size_t n)
{
    char *p = to;

    if (at > b->length || n > b->length - at)
        return ERANGE;
    if (b->data != NULL) {
        memcpy(p, b->data + at, n);
        return 0;
    }
    while (n > 0) {
        const ssize_t got = pread(b->fd, p, n, (off_t)(b->base + at));
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return got < 0 ? errno : ERANGE;
        p += got;
        at += (uint64_t)got;
        n -= (size_t)got;
    }
    return 0;
}

/* ==== the source =============================================================================== */

enum feed_kind { FEED_BYTES, FEED_PATH, FEED_ENTRY };

struct feed {
    enum feed_kind kind;
    struct bytes bytes;      /* FEED_BYTES; while open also FEED_PATH. Its fd belongs to the feed */
    char *path;              /* FEED_PATH: opened when libzip asks, so that many entries need few descriptors */
    dev_t device;
    ino_t inode;
    zip_t *const *archive;   /* FEED_ENTRY: where the reader keeps its handle; NULL in there once closed */
    uint64_t index;
    zip_file_t *entry;
    uint64_t at, length;
    uint64_t budget;         /* bytes that may still be read: bounds what a hostile directory can cost */
    const uint64_t *patches; /* sorted positions whose byte is read as ZIP_CM_DEFLATE, see zip_directory.h */
    size_t patch_count;
    struct zip_stat stat;
    zip_error_t error;
};

/* A feed that owns nothing yet, or NULL when out of memory. */
static struct feed *feed_new(enum feed_kind kind, uint64_t length)
{
    struct feed *f = calloc(1, sizeof *f);

    if (f == NULL)
        return NULL;
    f->kind = kind;
    f->bytes.fd = -1;
    f->bytes.length = f->length = length;
    f->budget = UINT64_MAX;
    zip_error_init(&f->error);
    zip_stat_init(&f->stat);
    f->stat.size = length;
    f->stat.valid = ZIP_STAT_SIZE;
    return f;
}

/* These bytes are already deflated, or stored, and libzip copies them without a look. */
static void feed_is_packed(struct feed *f, uint64_t size, uint32_t crc, uint16_t method)
{
    f->stat.size = size;
    f->stat.comp_size = f->length;
    f->stat.crc = crc;
    f->stat.comp_method = method;
    f->stat.encryption_method = ZIP_EM_NONE;
    f->stat.valid |= ZIP_STAT_COMP_SIZE | ZIP_STAT_CRC | ZIP_STAT_COMP_METHOD | ZIP_STAT_ENCRYPTION_METHOD;
}

static void feed_close(struct feed *f)
{
    if (f->kind == FEED_PATH && f->bytes.fd >= 0) {
        close(f->bytes.fd);
        f->bytes.fd = -1;
    }
    if (f->entry != NULL)
        zip_fclose(f->entry);
    f->entry = NULL;
}

static void feed_free(struct feed *f)
{
    feed_close(f);
    if (f->bytes.fd >= 0)
        close(f->bytes.fd);
    free(f->path);
    zip_error_fini(&f->error);
    free(f);
}

static int64_t feed_fail(struct feed *f, int kind, int err)
{
    zip_error_set(&f->error, kind, err);
    return -1;
}

static int64_t feed_open_path(struct feed *f)
{
    struct stat st;

    f->bytes.fd = open(f->path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    if (f->bytes.fd < 0)
        return feed_fail(f, ZIP_ER_OPEN, errno);
    if (fstat(f->bytes.fd, &st) < 0)
        return feed_fail(f, ZIP_ER_OPEN, errno);
    if (st.st_dev != f->device || st.st_ino != f->inode || (uint64_t)st.st_size != f->length)
        return feed_fail(f, ZIP_ER_CHANGED, 0);
    return 0;
}

static int64_t feed_open_entry(struct feed *f)
{
    if (*f->archive == NULL)
        return feed_fail(f, ZIP_ER_ZIPCLOSED, 0);
    f->entry = zip_fopen_index(*f->archive, f->index, ZIP_FL_COMPRESSED);
    if (f->entry == NULL)
        return feed_fail(f, zip_error_code_zip(zip_get_error(*f->archive)), 0);
    return 0;
}

static int64_t feed_open(struct feed *f)
{
    f->at = 0;
    return f->kind == FEED_PATH ? feed_open_path(f) : f->kind == FEED_ENTRY ? feed_open_entry(f) : 0;
}

static void feed_patch(const struct feed *f, unsigned char *data, uint64_t n)
{
    size_t low = 0, high = f->patch_count;

    while (low < high) {
        const size_t middle = low + (high - low) / 2;
        if (f->patches[middle] < f->at)
            low = middle + 1;
        else
            high = middle;
    }
    for (; low < f->patch_count && f->patches[low] - f->at < n; low++)
        data[f->patches[low] - f->at] = ZIP_CM_DEFLATE;
}

static int64_t feed_read_entry(struct feed *f, void *data, uint64_t n)
{
    const zip_int64_t got = zip_fread(f->entry, data, n);

    if (got < 0)
        return feed_fail(f, zip_error_code_zip(zip_file_get_error(f->entry)), 0);
    if (got == 0 && n > 0)
        return feed_fail(f, ZIP_ER_EOF, 0);
    return got;
}

static int64_t feed_read(struct feed *f, void *data, uint64_t n)
{
    int64_t got;
    int err;

    if (n > f->length - f->at)
        n = f->length - f->at;
    if (n == 0)
        return 0;
    if (n > f->budget)
        return feed_fail(f, ZIP_ER_INCONS, 0);
    f->budget -= f->budget == UINT64_MAX ? 0 : n;
    if (f->kind == FEED_ENTRY) {
        if ((got = feed_read_entry(f, data, n)) < 0)
            return -1;
        n = (uint64_t)got;
    } else if ((err = bytes_read(&f->bytes, f->at, data, n)) != 0) {
        return err == ERANGE ? feed_fail(f, ZIP_ER_CHANGED, 0) : feed_fail(f, ZIP_ER_READ, err);
    }
    if (f->patch_count > 0)
        feed_patch(f, data, n);
    f->at += n;
    return (int64_t)n;
}

static int64_t feed_stat(struct feed *f, void *data, uint64_t len)
{
    if (len < sizeof f->stat)
        return feed_fail(f, ZIP_ER_INVAL, 0);
    memcpy(data, &f->stat, sizeof f->stat);
    return (int64_t)sizeof f->stat;
}

static int64_t feed_seek(struct feed *f, void *data, uint64_t len)
{
    const int64_t to = zip_source_seek_compute_offset(f->at, f->length, data, len, &f->error);

    if (to < 0)
        return -1;
    f->at = (uint64_t)to;
    return 0;
}

static int64_t feed_supports(const struct feed *f)
{
    const int64_t reads = ZIP_SOURCE_SUPPORTS_READABLE | ZIP_SOURCE_MAKE_COMMAND_BITMASK(ZIP_SOURCE_SUPPORTS);
    return f->kind == FEED_BYTES ? reads | ZIP_SOURCE_SUPPORTS_SEEKABLE : reads;
}

/* What libzip calls. Nothing in here can raise or call Lua. */
static zip_int64_t feed_call(void *state, void *data, zip_uint64_t len, zip_source_cmd_t command)
{
    struct feed *f = state;

    switch (command) {
    case ZIP_SOURCE_OPEN:
        return feed_open(f);
    case ZIP_SOURCE_READ:
        return feed_read(f, data, len);
    case ZIP_SOURCE_CLOSE:
        feed_close(f);
        return 0;
    case ZIP_SOURCE_STAT:
        return feed_stat(f, data, len);
    case ZIP_SOURCE_SEEK:
        return feed_seek(f, data, len);
    case ZIP_SOURCE_TELL:
        return (zip_int64_t)f->at;
    case ZIP_SOURCE_ERROR:
        return zip_error_to_data(&f->error, data, len);
    case ZIP_SOURCE_FREE:
        feed_free(f);
        return 0;
    case ZIP_SOURCE_SUPPORTS:
        return feed_supports(f);
    default:
        return feed_fail(f, ZIP_ER_OPNOTSUPP, 0);
    }
}

/* The source takes the feed over, also when it fails. `f` may be NULL. */
static zip_source_t *feed_source(struct feed *f, struct fault *why)
{
    zip_source_t *source = NULL;

    if (f != NULL && (source = zip_source_function_create(feed_call, f, NULL)) == NULL)
        feed_free(f);
    if (source == NULL)
        fault_errno(why, ENOMEM);
    return source;
}

/* ==== feeds over files ========================================================================= */

static int check_is_regular(int fd, struct stat *st, struct fault *why)
{
    if (fstat(fd, st) < 0)
        return fault_errno(why, errno);
    if (S_ISDIR(st->st_mode))
        return fault_errno(why, EISDIR);
    return S_ISREG(st->st_mode) ? 0 : fault_set(why, "EINVAL", "it is not a regular file");
}

/* A feed that opens the path when libzip wants the bytes, and finds out whether it is still the same file. */
static struct feed *feed_from_path(const char *path, struct fault *why)
{
    const int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    struct stat st;
    struct feed *f = NULL;

    if (fd < 0)
        fault_errno(why, errno);
    else if (check_is_regular(fd, &st, why) == 0) {
        if ((f = feed_new(FEED_PATH, (uint64_t)st.st_size)) == NULL || (f->path = strdup(path)) == NULL) {
            fault_errno(why, ENOMEM);
            free(f);
            f = NULL;
        } else {
            f->device = st.st_dev;
            f->inode = st.st_ino;
        }
    }
    if (fd >= 0)
        close(fd);
    return f;
}

/* A descriptor of our own for an open file; *at is its position. */
static int file_dup(FILE *file, off_t *at, struct stat *st, struct fault *why)
{
    int fd;

    if (fflush(file) != 0 || (*at = ftello(file)) < 0)
        return fault_errno(why, errno);
    if (check_is_regular(fileno(file), st, why) < 0)
        return -1;
    fd = fcntl(fileno(file), F_DUPFD_CLOEXEC, 0);
    return fd < 0 ? fault_errno(why, errno) : fd;
}

static struct feed *feed_from_file(FILE *file, struct fault *why)
{
    struct stat st;
    off_t at = 0;
    const int fd = file_dup(file, &at, &st, why);
    struct feed *f;

    if (fd < 0)
        return NULL;
    if ((f = feed_new(FEED_BYTES, st.st_size > at ? (uint64_t)(st.st_size - at) : 0)) == NULL) {
        close(fd);
        fault_errno(why, ENOMEM);
        return NULL;
    }
    f->bytes.fd = fd;
    f->bytes.base = (uint64_t)at;
    return f;
}

#endif
