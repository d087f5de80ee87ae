/*
 * zip_directory.h: the central directory of an archive that nobody has reason to trust.
 *
 * Owns: a strict reading of end record, directory and local headers, made before libzip sees a byte.
 * Every size is checked before memory is taken for it, no two entries may share bytes, and a local header
 * must agree with the directory. Knows the layout and its numbers; must not know Lua.
 */
#ifndef ATELIER_ZIP_DIRECTORY_H
#define ATELIER_ZIP_DIRECTORY_H

#include "zip_feed.h"
#include "zip_names.h"

enum { END_SIZE = 22, END64_SIZE = 56, LOCATOR_SIZE = 20, CENTRAL_SIZE = 46, LOCAL_SIZE = 30 };
enum { METHOD_STORE = 0, METHOD_DEFLATE = 8, METHOD_AES = 99 };
enum { FLAG_ENCRYPTED = 1, FLAG_DESCRIPTOR = 8, FLAG_UTF8 = 0x800, FLAG_KNOWN = 0x080f };
enum { EXTRA_ZIP64 = 0x0001, EXTRA_AES = 0x9901 };

/* An entry may take this much of the directory on the average; real ones take a tenth. */
enum { RECORD_ROOM = 4096 };

struct limits {
    uint64_t entries, bytes, ratio;
};

struct record {
    const char *name; /* in directory.bytes, without a NUL */
    uint16_t name_length;
    uint16_t method;  /* store or deflate, also of an encrypted entry */
    uint16_t flags;
    uint16_t raw_method;
    uint8_t aes;      /* 0, or the key length in 64-bit steps: 2, 3, 4 */
    uint32_t crc;     /* 0 in AE-2, whose own checksum covers the data */
    uint64_t size, packed;
    uint64_t offset;  /* of the local header */
    uint64_t at;      /* of the record itself */
};

struct directory {
    unsigned char *bytes;
    struct record *records;
    uint64_t *patches; /* see directory_load */
    size_t count, patch_count;
    uint64_t at, length;
};

static uint16_t get16(const unsigned char *p)
{
    return (uint16_t)(p[0] | p[1] << 8);
}

static uint32_t get32(const unsigned char *p)
{
    return get16(p) | (uint32_t)get16(p + 2) << 16;
}

static uint64_t get64(const unsigned char *p)
{
    return get32(p) | (uint64_t)get32(p + 4) << 32;
}

static void directory_free(struct directory *d)
{
    free(d->bytes);
    free(d->records);
    free(d->patches);
    memset(d, 0, sizeof *d);
}

static int directory_read(const struct bytes *b, uint64_t at, void *to, size_t n, struct fault *why)
{
    const int err = bytes_read(b, at, to, n);

    if (err == ERANGE)
        return fault_set(why, BAD_ARCHIVE, "the archive is truncated");
    return err != 0 ? fault_errno(why, err) : 0;
}

static int entry_fault(const struct record *r, struct fault *why, const char *text)
{
    char name[96];
    return fault_set(why, BAD_ARCHIVE, "%s: %s", name_printable(r->name, r->name_length, name, sizeof name), text);
}

/* ==== the end record =========================================================================== */

/*
 * Where the end record stands. Exactly one place in the tail may claim to be it: two would let two
 * programs see two different archives in the same bytes.
 */
static int find_end(const struct bytes *b, uint64_t *end, struct fault *why)
{
    const size_t most = END_SIZE + 0xffff;
    const size_t n = b->length < most ? (size_t)b->length : most;
    unsigned char *tail = malloc(n + 1);
    int found = 0, bad;

    if (tail == NULL)
        return fault_errno(why, ENOMEM);
    bad = directory_read(b, b->length - n, tail, n, why);
    for (size_t i = 0; bad == 0 && i + END_SIZE <= n; i++) {
        if (memcmp(tail + i, "PK\5\6", 4) != 0 || get16(tail + i + 20) != n - i - END_SIZE)
            continue;
        *end = b->length - n + i;
        found++;
    }
    free(tail);
    if (bad == 0 && found != 1)
        bad = fault_set(why, BAD_ARCHIVE, found == 0 ? "no end of a ZIP archive is in it" : "it has two end records");
    return bad;
}

/* Replaces the fields of a full end record by those of its 64-bit form, when there is one. */
static int read_end64(const struct bytes *b, struct directory *d, uint64_t *end, uint64_t *count, struct fault *why)
{
    unsigned char locator[LOCATOR_SIZE], big[END64_SIZE];
    uint64_t at;

    if (*end < LOCATOR_SIZE + END64_SIZE)
        return 0;
    if (directory_read(b, *end - LOCATOR_SIZE, locator, sizeof locator, why) < 0)
        return -1;
    if (memcmp(locator, "PK\6\7", 4) != 0)
        return 0;
    at = get64(locator + 8);
    if (at != *end - LOCATOR_SIZE - END64_SIZE || get32(locator + 4) != 0 || get32(locator + 16) > 1)
        return fault_set(why, BAD_ARCHIVE, "the 64-bit end record is not where it should be");
    if (directory_read(b, at, big, sizeof big, why) < 0)
        return -1;
    if (memcmp(big, "PK\6\6", 4) != 0 || get64(big + 4) != END64_SIZE - 12 || get32(big + 16) != 0 ||
        get32(big + 20) != 0 || get64(big + 24) != get64(big + 32))
        return fault_set(why, BAD_ARCHIVE, "the 64-bit end record is damaged");
    if ((*count != 0xffff && *count != get64(big + 32)) ||
        (d->length != 0xffffffff && d->length != get64(big + 40)) || (d->at != 0xffffffff && d->at != get64(big + 48)))
        return fault_set(why, BAD_ARCHIVE, "its two end records differ");
    *count = get64(big + 32);
    d->length = get64(big + 40);
    d->at = get64(big + 48);
    *end = at;
    return 0;
}

/* *place is where the end record stands. */
static int read_end(const struct bytes *b, const struct limits *most, struct directory *d, uint64_t *place,
                    struct fault *why)
{
    unsigned char end[END_SIZE];
    uint64_t at = 0, count;

    if (find_end(b, &at, why) < 0 || directory_read(b, at, end, sizeof end, why) < 0)
        return -1;
    *place = at;
    count = get16(end + 10);
    d->length = get32(end + 12);
    d->at = get32(end + 16);
    if (get16(end + 4) != 0 || get16(end + 6) != 0 || get16(end + 8) != count)
        return fault_set(why, BAD_ARCHIVE, "it is a part of an archive in several parts");
    if (read_end64(b, d, &at, &count, why) < 0)
        return -1;
    if (count > most->entries)
        return fault_set(why, BAD_ARCHIVE, "it has %llu entries, the limit is %llu", (unsigned long long)count,
                         (unsigned long long)most->entries);
    if (d->at > at || d->length != at - d->at)
        return fault_set(why, BAD_ARCHIVE, "the central directory is not where the end record says");
    if (d->length / CENTRAL_SIZE < count || d->length > (count + 16) * RECORD_ROOM)
        return fault_set(why, BAD_ARCHIVE, "the size of the central directory does not fit its number of entries");
    d->count = (size_t)count;
    return 0;
}

/* ==== the directory ============================================================================ */

/* The content of the extra field `id`; NULL when it is absent, or with *n = -1 when the list is damaged. */
static const unsigned char *find_extra(const unsigned char *p, size_t len, uint16_t id, int *n)
{
    const unsigned char *found = NULL;

    *n = 0;
    while (len >= 4) {
        const size_t size = get16(p + 2);
        if (size > len - 4 || (get16(p) == id && found != NULL)) {
            *n = -1;
            return NULL;
        }
        if (get16(p) == id) {
            found = p + 4;
            *n = (int)size;
        }
        p += 4 + size;
        len -= 4 + size;
    }
    return found; /* up to 3 stray bytes: some writers align with them */
}

/* Sizes and offset that do not fit 32 bits stand in an extra field, in this order. */
static int read_zip64(struct record *r, const unsigned char *extra, size_t len, struct fault *why)
{
    uint64_t *const fields[] = {&r->size, &r->packed, &r->offset};
    int n, used = 0;
    const unsigned char *p = find_extra(extra, len, EXTRA_ZIP64, &n);

    if (n < 0)
        return entry_fault(r, why, "its extra fields are damaged");
    for (size_t i = 0; i < 3; i++) {
        if (*fields[i] != 0xffffffff)
            continue;
        if (p == NULL || n - used < 8)
            return entry_fault(r, why, "its 64-bit size is missing");
        *fields[i] = get64(p + used);
        used += 8;
    }
    return 0;
}

static int read_aes(struct record *r, const unsigned char *extra, size_t len, struct directory *d, struct fault *why)
{
    int n;
    const unsigned char *p = find_extra(extra, len, EXTRA_AES, &n);

    if (r->raw_method != METHOD_AES) {
        if (r->flags & FLAG_ENCRYPTED)
            return entry_fault(r, why, "it is encrypted, but not with AES");
        return n < 0 ? entry_fault(r, why, "its extra fields are damaged") : 0;
    }
    if (!(r->flags & FLAG_ENCRYPTED) || p == NULL || n != 7 || memcmp(p + 2, "AE", 2) != 0 || get16(p) < 1 ||
        get16(p) > 2 || p[4] < 1 || p[4] > 3)
        return entry_fault(r, why, "its AES extra field is damaged");
    r->aes = (uint8_t)(p[4] + 1);
    r->method = get16(p + 5);
    if (r->method != METHOD_DEFLATE)
        d->patches[d->patch_count++] = d->at + (uint64_t)(p + 5 - d->bytes);
    return 0;
}

/* Salt, password check and authentication code stand around the data. */
static uint64_t record_overhead(const struct record *r)
{
    return r->aes == 0 ? 0 : (uint64_t)r->aes * 4 + 2 + 10;
}

static int check_regular(const struct record *r, const unsigned char *p, struct fault *why)
{
    const uint32_t attributes = get32(p + 38), type = attributes >> 16 & S_IFMT;

    if (r->name_length > 0 && r->name[r->name_length - 1] == '/')
        return entry_fault(r, why, "it is a folder, and only regular files may be in it");
    if ((type != 0 && type != S_IFREG) || (attributes & (0x08 | 0x10 | 0x400)) != 0)
        return entry_fault(r, why, "it is not a regular file");
    return 0;
}

static int check_sizes(const struct record *r, const struct directory *d, const struct limits *most, struct fault *why)
{
    const uint64_t overhead = record_overhead(r);
    const uint64_t data = r->packed - overhead;

    if (r->packed < overhead || r->packed > d->at || r->offset > d->at)
        return entry_fault(r, why, "it is larger than the archive");
    if (r->method == METHOD_STORE && data != r->size)
        return entry_fault(r, why, "it is stored, and its two sizes differ");
    if (r->size / most->ratio > data || (r->size / most->ratio == data && r->size % most->ratio != 0))
        return entry_fault(r, why, "its compression ratio is above the limit");
    return 0;
}

/* Reads the record at *used, which moves behind it. */
static int read_record(struct directory *d, uint64_t *used, struct record *r, const struct limits *most,
                       struct fault *why)
{
    const unsigned char *p = d->bytes + *used, *extra;
    const uint64_t left = d->length - *used;
    size_t extra_length;
    const char *fault;

    if (left < CENTRAL_SIZE || memcmp(p, "PK\1\2", 4) != 0 ||
        left - CENTRAL_SIZE < (uint64_t)get16(p + 28) + get16(p + 30) + get16(p + 32))
        return fault_set(why, BAD_ARCHIVE, "the central directory is damaged");
    *r = (struct record){.flags = get16(p + 8), .method = get16(p + 10), .raw_method = get16(p + 10),
                         .crc = get32(p + 16), .packed = get32(p + 20), .size = get32(p + 24),
                         .name_length = get16(p + 28), .offset = get32(p + 42), .at = d->at + *used,
                         .name = (const char *)p + CENTRAL_SIZE};
    extra = p + CENTRAL_SIZE + r->name_length;
    extra_length = get16(p + 30);
    *used += CENTRAL_SIZE + r->name_length + extra_length + get16(p + 32);
    if (get16(p + 34) != 0)
        return entry_fault(r, why, "it is in another part of the archive");
    if (check_regular(r, p, why) < 0)
        return -1;
    if ((fault = name_fault(r->name, r->name_length)) != NULL)
        return entry_fault(r, why, fault);
    if ((r->flags & ~FLAG_KNOWN) != 0)
        return entry_fault(r, why, "it uses a feature that is not supported");
    if (read_zip64(r, extra, extra_length, why) < 0 || read_aes(r, extra, extra_length, d, why) < 0)
        return -1;
    if (r->method != METHOD_STORE && r->method != METHOD_DEFLATE)
        return entry_fault(r, why, "its compression method is not supported");
    return check_sizes(r, d, most, why);
}

static int read_records(struct directory *d, const struct limits *most, struct fault *why)
{
    uint64_t used = 0, total = 0;

    for (size_t i = 0; i < d->count; i++) {
        struct record *r = d->records + i;
        if (read_record(d, &used, r, most, why) < 0)
            return -1;
        if (r->size > most->bytes || total > most->bytes - r->size)
            return fault_set(why, BAD_ARCHIVE, "its files are larger than %llu bytes together",
                             (unsigned long long)most->bytes);
        total += r->size;
    }
    if (used != d->length)
        return fault_set(why, BAD_ARCHIVE, "the central directory has more in it than its entries");
    return 0;
}

/* ==== names and local headers ================================================================== */

static int check_names(const struct directory *d, struct fault *why)
{
    struct name_set set = {0};
    enum name_verdict v = NAME_FINE;
    const char *culprit = "";
    char name[96];
    int bad = 0;

    for (size_t i = 0; i < d->count && v == NAME_FINE; i++)
        v = name_set_append(&set, d->records[i].name, d->records[i].name_length);
    if (v == NAME_FINE)
        v = name_set_check(&set, &culprit);
    if (v == NAME_NO_MEMORY)
        bad = fault_errno(why, ENOMEM);
    else if (v != NAME_FINE)
        bad = fault_set(why, BAD_ARCHIVE, "%s: %s", name_printable(culprit, strlen(culprit), name, sizeof name),
                        name_verdict_text(v));
    name_set_free(&set);
    return bad;
}

static int compare_offsets(const void *a, const void *b)
{
    const struct record *x = *(const struct record *const *)a, *y = *(const struct record *const *)b;
    return (x->offset > y->offset) - (x->offset < y->offset);
}

static int local_size_differs(uint32_t local, uint64_t central)
{
    return local != central && local != 0xffffffff;
}

/* Compares a local header with its record; *end is where the entry's data end. */
static int check_local(const struct bytes *b, const struct record *r, uint64_t *end, struct fault *why)
{
    unsigned char p[LOCAL_SIZE];
    char name[NAME_LONGEST];

    if (directory_read(b, r->offset, p, sizeof p, why) < 0)
        return -1;
    if (memcmp(p, "PK\3\4", 4) != 0 || get16(p + 26) != r->name_length || get16(p + 8) != r->raw_method ||
        ((get16(p + 6) ^ r->flags) & FLAG_ENCRYPTED) != 0)
        return entry_fault(r, why, "its local header differs from the central directory");
    if (directory_read(b, r->offset + LOCAL_SIZE, name, r->name_length, why) < 0)
        return -1;
    if (memcmp(name, r->name, r->name_length) != 0)
        return entry_fault(r, why, "its local header has another name");
    if (!(get16(p + 6) & FLAG_DESCRIPTOR) &&
        (get32(p + 14) != r->crc || local_size_differs(get32(p + 18), r->packed) ||
         local_size_differs(get32(p + 22), r->size)))
        return entry_fault(r, why, "its local header has another size or checksum");
    *end = r->offset + LOCAL_SIZE + r->name_length + get16(p + 28) + r->packed;
    return 0;
}

/* No two entries may share bytes: that is how a small archive holds petabytes. */
static int check_locals(const struct bytes *b, const struct directory *d, struct fault *why)
{
    const struct record **sorted = malloc((d->count + 1) * sizeof *sorted);
    uint64_t end = 0, next;
    int bad = 0;

    if (sorted == NULL)
        return fault_errno(why, ENOMEM);
    for (size_t i = 0; i < d->count; i++)
        sorted[i] = d->records + i;
    qsort(sorted, d->count, sizeof *sorted, compare_offsets);
    for (size_t i = 0; i < d->count && bad == 0; i++) {
        next = i + 1 < d->count ? sorted[i + 1]->offset : d->at;
        bad = check_local(b, sorted[i], &end, why);
        if (bad == 0 && end > next)
            bad = entry_fault(sorted[i], why, "it overlaps with what follows");
    }
    free(sorted);
    return bad;
}

/* ==== the whole ================================================================================ */

/* libzip looks this far back for end records; a little more does no harm. */
enum { TAIL_SIZE = 0x10100 };

static int compare_places(const void *a, const void *b)
{
    const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* Adds every other end record in the tail to the patches: a stored archive has one, and so has a trap. */
static int hide_decoys(const struct bytes *b, struct directory *d, uint64_t end, struct fault *why)
{
    const size_t n = b->length < TAIL_SIZE ? (size_t)b->length : TAIL_SIZE;
    unsigned char *tail = malloc(n + 1);
    uint64_t *patches = realloc(d->patches, (d->patch_count + n / 4 + 1) * sizeof *patches);
    int bad;

    if (patches != NULL)
        d->patches = patches;
    bad = tail == NULL || patches == NULL ? fault_errno(why, ENOMEM) : directory_read(b, b->length - n, tail, n, why);
    for (size_t i = 0; bad == 0 && i + 4 <= n; i++)
        if (memcmp(tail + i, "PK\5\6", 4) == 0 && b->length - n + i != end)
            patches[d->patch_count++] = b->length - n + i;
    free(tail);
    if (bad == 0)
        qsort(d->patches, d->patch_count, sizeof *d->patches, compare_places);
    return bad;
}

/*
 * Reads and checks everything but the data. 0, or -1 with the reason; *d is to be freed either way.
 *
 * `patches` are the places that libzip shall read as ZIP_CM_DEFLATE while it opens the archive. One kind is where
 * an encrypted entry says that it is stored: libzip compares the checksum of such an entry, which AE-2 leaves 0,
 * and would refuse what 7-Zip writes; taken for deflated, its bytes are handed over as they are, and this
 * module knows the true method and does its own checks. The other kind hides end records that are not the end.
 */
static int directory_load(const struct bytes *b, const struct limits *most, struct directory *d, struct fault *why)
{
    uint64_t end = 0;

    if (read_end(b, most, d, &end, why) < 0)
        return -1;
    d->bytes = malloc((size_t)d->length + 1);
    d->records = calloc(d->count + 1, sizeof *d->records);
    d->patches = calloc(d->count + 1, sizeof *d->patches);
    if (d->bytes == NULL || d->records == NULL || d->patches == NULL)
        return fault_errno(why, ENOMEM);
    if (directory_read(b, d->at, d->bytes, (size_t)d->length, why) < 0 || read_records(d, most, why) < 0)
        return -1;
    if (check_names(d, why) < 0 || check_locals(b, d, why) < 0)
        return -1;
    return hide_decoys(b, d, end, why);
}

#endif
