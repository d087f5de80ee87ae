/*
 * jail_wire.h: how the two sides of the jail write and read a message.
 *
 * Owns: the frame (kind, length, body) and the encoding of numbers and strings in a body. Both sides are the same
 * program, so numbers are in the machine's own order. Writing never allocates and reading never goes past the end:
 * a fault is remembered and asked for once, when the message is complete. Must not know what a message means.
 */
#ifndef ATELIER_JAIL_WIRE_H
#define ATELIER_JAIL_WIRE_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct wire_head {
    uint32_t kind;
    uint32_t size; /* of the body */
};

/* ==== writing, into memory of the caller ======================================================= */

struct wire_out {
    char *p;
    size_t n, room;
    int full; /* something did not fit: the message is void */
};

static inline void wire_put(struct wire_out *o, const void *bytes, size_t n)
{
    if (n > o->room - o->n) {
        o->full = 1;
        return;
    }
    if (n > 0)
        memcpy(o->p + o->n, bytes, n);
    o->n += n;
}

static inline void wire_put_u32(struct wire_out *o, uint32_t v)
{
    wire_put(o, &v, sizeof v);
}

static inline void wire_put_u64(struct wire_out *o, uint64_t v)
{
    wire_put(o, &v, sizeof v);
}

static inline void wire_put_text(struct wire_out *o, const char *s, size_t n)
{
    wire_put_u32(o, (uint32_t)n);
    wire_put(o, s, n);
}

/* ==== reading ================================================================================== */

struct wire_in {
    const char *p, *end;
    int bad; /* the body ended too early: what was read since is zero or empty */
};

static inline void wire_get(struct wire_in *in, void *to, size_t n)
{
    if (in->bad || n > (size_t)(in->end - in->p)) {
        in->bad = 1;
        memset(to, 0, n);
        return;
    }
    memcpy(to, in->p, n);
    in->p += n;
}

static inline uint32_t wire_get_u32(struct wire_in *in)
{
    uint32_t v;
    wire_get(in, &v, sizeof v);
    return v;
}

static inline uint64_t wire_get_u64(struct wire_in *in)
{
    uint64_t v;
    wire_get(in, &v, sizeof v);
    return v;
}

/* The text stays in the body; it is not terminated. */
static inline const char *wire_get_text(struct wire_in *in, size_t *n)
{
    const char *s;

    *n = wire_get_u32(in);
    if (in->bad || *n > (size_t)(in->end - in->p)) {
        in->bad = 1;
        *n = 0;
        return "";
    }
    s = in->p;
    in->p += *n;
    return s;
}

#endif
