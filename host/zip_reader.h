/*
 * zip_reader.h: an archive that is read.
 *
 * Owns: the handle, the checked directory, and the way of one entry's bytes out, which counts and compares them.
 * Must not call Lua.
 */
#ifndef ATELIER_ZIP_READER_H
#define ATELIER_ZIP_READER_H

#include <zlib.h>

#include "managed.h"
#include "zip_directory.h"

/* User value 1: the string that is read, if it is one. */
struct reader {
    zip_t *archive; /* NULL once closed */
    struct directory directory;
    char *password;
};

static void reader_release(struct reader *r)
{
    if (r->archive != NULL) {
        zip_discard(r->archive);
        managed_live--;
    }
    r->archive = NULL;
    directory_free(&r->directory);
    if (r->password != NULL) {
        explicit_bzero(r->password, strlen(r->password));
        free(r->password);
    }
    r->password = NULL;
}

/* Two readings of one archive must agree, or the checks were made on something else. */
static int reader_agrees(const struct reader *r)
{
    const struct directory *d = &r->directory;
    struct zip_stat st;

    if (zip_get_num_entries(r->archive, 0) != (zip_int64_t)d->count)
        return 0;
    for (size_t i = 0; i < d->count; i++) {
        const struct record *e = d->records + i;
        if (zip_stat_index(r->archive, i, ZIP_FL_ENC_RAW, &st) < 0 || st.size != e->size || st.comp_size != e->packed ||
            strlen(st.name) != e->name_length || memcmp(st.name, e->name, e->name_length) != 0)
            return 0;
    }
    return 1;
}

/* Opens what `b` holds; takes its descriptor over, also on failure. */
static int reader_open(struct reader *r, const struct bytes *b, const struct limits *most, struct fault *why)
{
    struct feed *f = feed_new(FEED_BYTES, b->length);
    zip_source_t *source;
    zip_error_t error;

    if (f == NULL) {
        if (b->fd >= 0)
            close(b->fd);
        return fault_errno(why, ENOMEM);
    }
    f->bytes = *b;
    if ((source = feed_source(f, why)) == NULL)
        return -1;
    if (directory_load(b, most, &r->directory, why) < 0) {
        zip_source_free(source);
        return -1;
    }
    f->patches = r->directory.patches;
    f->patch_count = r->directory.patch_count;
    f->budget = r->directory.length * 2 + 4 * TAIL_SIZE;
    zip_error_init(&error);
    if ((r->archive = zip_open_from_source(source, ZIP_RDONLY, &error)) == NULL) {
        fault_zip(why, &error, BAD_ARCHIVE);
        zip_source_free(source);
    } else {
        managed_live++;
        f->patch_count = 0;
        f->budget = UINT64_MAX;
    }
    zip_error_fini(&error);
    if (r->archive != NULL && !reader_agrees(r))
        return fault_set(why, BAD_ARCHIVE, "it can be read in two ways");
    return r->archive != NULL ? 0 : -1;
}

static int bytes_from_path(struct bytes *b, const char *path, struct fault *why)
{
    struct stat st;

    *b = (struct bytes){NULL, open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK), 0, 0};
    if (b->fd < 0)
        return fault_errno(why, errno);
    if (check_is_regular(b->fd, &st, why) < 0) {
        close(b->fd);
        return -1;
    }
    b->length = (uint64_t)st.st_size;
    return 0;
}

static int bytes_from_file(struct bytes *b, FILE *file, struct fault *why)
{
    struct stat st;
    off_t at;

    *b = (struct bytes){NULL, file_dup(file, &at, &st, why), 0, 0};
    if (b->fd < 0)
        return -1;
    b->length = (uint64_t)st.st_size;
    return 0;
}

static const struct record *reader_find(const struct reader *r, const char *name, size_t len, struct fault *why)
{
    const zip_int64_t i = strlen(name) == len ? zip_name_locate(r->archive, name, ZIP_FL_ENC_RAW) : -1;

    if (i < 0 || (uint64_t)i >= r->directory.count) {
        fault_set(why, "no_entry", "the archive has no such entry");
        return NULL;
    }
    return r->directory.records + i;
}

/* One entry on its way out: to memory of exactly its declared size, or to a file. */
struct pump {
    const struct record *entry;
    zip_file_t *from;
    char *to;
    FILE *file;
    uint64_t written;
    uint32_t crc;
    unsigned char in[32 * 1024], out[32 * 1024];
};

static int pump_read(struct pump *p, struct fault *why)
{
    const zip_int64_t n = zip_fread(p->from, p->in, sizeof p->in);

    if (n < 0)
        return fault_zip(why, zip_file_get_error(p->from), BAD_ARCHIVE);
    return (int)n;
}

static int pump_write(struct pump *p, const unsigned char *data, size_t n, struct fault *why)
{
    if (n > p->entry->size - p->written)
        return fault_set(why, BAD_ARCHIVE, "it holds more bytes than it declares");
    p->crc = (uint32_t)crc32_z(p->crc, data, n);
    if (p->file == NULL)
        memcpy(p->to + p->written, data, n);
    else if (fwrite(data, 1, n, p->file) != n)
        return fault_errno(why, errno);
    p->written += n;
    return 0;
}

static int pump_stored(struct pump *p, struct fault *why)
{
    int n;

    while ((n = pump_read(p, why)) > 0)
        if (pump_write(p, p->in, (size_t)n, why) < 0)
            return -1;
    return n;
}

/* One turn of the inflater: 0 to go on, 1 at the end of the stream, -1 with a fault. */
static int pump_turn(struct pump *p, z_stream *z, struct fault *why)
{
    int rc, n;

    if (z->avail_in == 0) {
        if ((n = pump_read(p, why)) <= 0)
            return n < 0 ? -1 : fault_set(why, BAD_ARCHIVE, "its compressed data end too early");
        z->next_in = p->in;
        z->avail_in = (uInt)n;
    }
    z->next_out = p->out;
    z->avail_out = sizeof p->out;
    rc = inflate(z, Z_NO_FLUSH);
    if (rc != Z_OK && rc != Z_STREAM_END && rc != Z_BUF_ERROR)
        return fault_set(why, rc == Z_MEM_ERROR ? "ENOMEM" : BAD_ARCHIVE, "its compressed data are damaged");
    if (pump_write(p, p->out, sizeof p->out - z->avail_out, why) < 0)
        return -1;
    return rc == Z_STREAM_END;
}

static int pump_deflated(struct pump *p, struct fault *why)
{
    z_stream z;
    int rc;

    memset(&z, 0, sizeof z);
    if (inflateInit2(&z, -MAX_WBITS) != Z_OK)
        return fault_errno(why, ENOMEM);
    while ((rc = pump_turn(p, &z, why)) == 0)
        ;
    if (rc > 0) /* the last read of an encrypted entry is where its authentication code is compared */
        rc = z.avail_in > 0 ? 1 : pump_read(p, why);
    inflateEnd(&z);
    return rc > 0 ? fault_set(why, BAD_ARCHIVE, "it has data behind its end") : rc;
}

/* Never more bytes than declared, and success only with exactly those that the checksum is for. */
static int pump_run(struct pump *p, const struct reader *r, struct fault *why)
{
    const struct record *e = p->entry;
    int bad;

    p->from = zip_fopen_index_encrypted(r->archive, (zip_uint64_t)(e - r->directory.records), ZIP_FL_COMPRESSED,
                                        e->aes != 0 ? r->password : NULL);
    if (p->from == NULL)
        return fault_zip(why, zip_get_error(r->archive), BAD_ARCHIVE);
    p->written = 0;
    p->crc = 0;
    bad = e->method == METHOD_STORE ? pump_stored(p, why) : pump_deflated(p, why);
    zip_fclose(p->from);
    if (bad == 0 && p->written != e->size)
        bad = fault_set(why, BAD_ARCHIVE, "it holds fewer bytes than it declares");
    if (bad == 0 && p->crc != e->crc && !(e->aes != 0 && e->crc == 0))
        bad = fault_set(why, BAD_ARCHIVE, "its checksum or authentication code differs");
    return bad;
}

#endif
