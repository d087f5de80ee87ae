/*
 * zip_writer.h: an archive in the making.
 *
 * Owns: the handle, the names so far, and all that makes two runs give the same bytes. Must not call Lua: the caller
 * keeps alive what entries refer to.
 */
#ifndef ATELIER_ZIP_WRITER_H
#define ATELIER_ZIP_WRITER_H

#include <time.h>

#include "managed.h"
#include "zip_deflate.h"
#include "zip_sink.h"

/* A regular file that all may read. */
#define FIXED_ATTRIBUTES ((uint32_t)(S_IFREG | 0644) << 16)
/* What deflates to less than this part of its size would look like a bomb to a reader. */
enum { BOMB_RATIO = 1000 };

enum writer_state { WRITER_OPEN = 0, WRITER_DONE = 1, WRITER_FAILED = 2 };

/* User value 1: the list of strings, pieces and readers whose bytes libzip reads at close. */
struct writer {
    zip_t *archive; /* NULL unless WRITER_OPEN */
    struct sink sink;
    struct name_set names;
    lua_Integer anchors;
    enum writer_state state;
};

struct entry_options {
    int store;
    uint32_t level;
    const char *password;
};

/* Lets go of everything. Writes nothing. */
static void writer_release(struct writer *w, enum writer_state state)
{
    if (w->archive != NULL) {
        zip_discard(w->archive);
        managed_live--;
    }
    w->archive = NULL;
    sink_free(&w->sink);
    name_set_free(&w->names);
    if (w->state == WRITER_OPEN)
        w->state = state;
}

/* libzip's own fault on the way out, which is never the archive's. */
static int fault_writing(struct fault *why, zip_t *archive)
{
    return fault_zip(why, zip_get_error(archive), "zip");
}

static int writer_name(struct writer *w, const char *name, size_t len, struct fault *why)
{
    const char *fault = name_fault(name, len);
    enum name_verdict v;

    if (fault != NULL)
        return fault_set(why, "bad_name", "%s", fault);
    v = name_set_add(&w->names, name, len);
    if (v == NAME_NO_MEMORY)
        return fault_errno(why, ENOMEM);
    return v == NAME_FINE ? 0 : fault_set(why, "bad_name", "%s", name_verdict_text(v));
}

/*
 * 1980-01-01 00:00, the earliest that the format can say, as local time, which is what libzip turns into the two
 * fields. Worked out once: mktime looks at the time zone's file each time, which took a third of a small archive.
 */
static time_t writer_moment(void)
{
    static time_t moment;
    struct tm tm;

    if (localtime_r(&moment, &tm) != NULL && tm.tm_year == 80 && tm.tm_yday == 0 && tm.tm_hour == 0 &&
        tm.tm_min == 0 && tm.tm_sec == 0)
        return moment;
    memset(&tm, 0, sizeof tm);
    tm.tm_year = 80;
    tm.tm_mday = 1;
    tm.tm_isdst = -1;
    return moment = mktime(&tm);
}

/* Hands the source to libzip, which owns it from here on, and sets all that could differ between two runs. */
static int writer_put(struct writer *w, const char *name, zip_source_t *source, const struct entry_options *o,
                      int32_t method, struct fault *why)
{
    zip_int64_t i;
    zip_uint64_t at;

    if (source == NULL)
        return -1;
    if ((i = zip_file_add(w->archive, name, source, ZIP_FL_ENC_UTF_8)) < 0) {
        zip_source_free(source);
        return fault_writing(why, w->archive);
    }
    at = (zip_uint64_t)i;
    if (zip_file_set_mtime(w->archive, at, writer_moment(), 0) < 0 ||
        zip_file_set_external_attributes(w->archive, at, 0, ZIP_OPSYS_UNIX, FIXED_ATTRIBUTES) < 0 ||
        (method != ZIP_CM_DEFAULT && zip_set_file_compression(w->archive, at, method, o->level) < 0) ||
        (o->password != NULL && zip_file_set_encryption(w->archive, at, ZIP_EM_AES_256, o->password) < 0))
        return fault_writing(why, w->archive);
    w->sink.encrypted |= o->password != NULL;
    return 0;
}

/* Bytes that are anchored, already packed or to be stored. */
static int writer_put_bytes(struct writer *w, const char *name, const void *data, size_t len, const struct piece *p,
                            const struct entry_options *o, struct fault *why)
{
    struct feed *f = feed_new(FEED_BYTES, len);

    if (f != NULL) {
        f->bytes.data = data;
        if (p != NULL)
            feed_is_packed(f, p->size, p->crc, ZIP_CM_DEFLATE);
    }
    w->sink.expected += len + 512;
    return writer_put(w, name, feed_source(f, why), o, p != NULL ? ZIP_CM_DEFAULT : ZIP_CM_STORE, why);
}

/* Would a reader with the default limits take this for a bomb? */
static int piece_is_bomb(const struct piece *p)
{
    return p->size / BOMB_RATIO >= p->length;
}

/* libzip does not write an archive without entries, and would remove the target: so this does. */
static int writer_finish_empty(struct writer *w, struct fault *why)
{
    static const char end[END_SIZE] = "PK\5\6";
    struct sink *s = &w->sink;

    zip_discard(w->archive);
    w->archive = NULL;
    managed_live--;
    if (sink_begin(s) < 0 || sink_write(s, end, sizeof end) < 0 || sink_commit(s) < 0) {
        sink_rollback(s);
        return fault_zip(why, &s->error, "zip");
    }
    return 0;
}

static int writer_finish(struct writer *w, struct fault *why)
{
    if (w->names.count == 0)
        return writer_finish_empty(w, why);
    if (zip_close(w->archive) < 0)
        return fault_writing(why, w->archive); /* the archive is still ours: writer_release discards it */
    w->archive = NULL;
    managed_live--;
    return 0;
}

#endif
