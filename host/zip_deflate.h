/*
 * zip_deflate.h: raw deflate streams that can be made once and joined later.
 *
 * Owns: the zlib stream that is kept between uses, and the layout of a piece. Must not know archives or Lua.
 */
#ifndef ATELIER_ZIP_DEFLATE_H
#define ATELIER_ZIP_DEFLATE_H

#include <stdint.h>
#include <stdlib.h>
#include <zlib.h>

/* A zlib stream and its output, kept for the life of the Lua state: making one costs more than a small file. */
struct deflater {
    z_stream stream;
    int ready;
    unsigned char *out;
    size_t room;
    uint64_t runs; /* counts the uses: `out` is the last one's */
};

/* Immutable. The raw deflate stream of some bytes, or the start of one (last = 0). */
struct piece {
    uint64_t size;
    uint32_t crc;
    int last;
    size_t length;
    unsigned char bytes[];
};

static int deflater_start(struct deflater *d, int level)
{
    if (!d->ready)
        return deflateInit2(&d->stream, level, Z_DEFLATED, -MAX_WBITS, 8, Z_DEFAULT_STRATEGY) == Z_OK ? d->ready = 1, 0
                                                                                                       : -1;
    return deflateReset(&d->stream) == Z_OK && deflateParams(&d->stream, level, Z_DEFAULT_STRATEGY) == Z_OK ? 0 : -1;
}

static int deflater_reserve(struct deflater *d, size_t room)
{
    unsigned char *out = d->room >= room ? d->out : realloc(d->out, room);

    if (out == NULL)
        return -1;
    d->out = out;
    d->room = d->room >= room ? d->room : room;
    return 0;
}

/* Deflates all of `data` into d->out. The length, or -1 when out of memory. zlib counts in unsigned int. */
static int64_t deflater_run(struct deflater *d, const char *data, size_t len, int level, int last)
{
    const size_t chunk_most = 1u << 30;
    size_t done = 0;
    z_stream *z = &d->stream;
    int flush, full;

    if (deflater_start(d, level) < 0 || deflater_reserve(d, deflateBound(z, len) + 64) < 0)
        return -1;
    z->next_in = (Bytef *)(uintptr_t)data;
    do {
        const size_t chunk = len < chunk_most ? len : chunk_most;
        z->avail_in = (uInt)chunk;
        len -= chunk;
        flush = len > 0 ? Z_NO_FLUSH : last ? Z_FINISH : Z_SYNC_FLUSH;
        do {
            if (d->room - done < 64 && deflater_reserve(d, d->room * 2) < 0)
                return -1;
            const size_t space = d->room - done < chunk_most ? d->room - done : chunk_most;
            z->next_out = d->out + done;
            z->avail_out = (uInt)space;
            deflate(z, flush);
            done += space - z->avail_out;
            full = z->avail_out == 0;
        } while (full);
    } while (len > 0);
    return (int64_t)done;
}

static void deflater_free(struct deflater *d)
{
    if (d->ready)
        deflateEnd(&d->stream);
    d->ready = 0;
    free(d->out);
    d->out = NULL;
    d->room = 0;
}

/* A buffer that one huge input made is not held on to. */
static void deflater_trim(struct deflater *d)
{
    const size_t keep = 4u << 20;

    if (d->room <= keep)
        return;
    free(d->out);
    d->out = NULL;
    d->room = 0;
}

#endif
