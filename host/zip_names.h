/*
 * zip_names.h: which names an archive entry may have, and which two names may not stand together.
 *
 * Owns: the rules for one name (relative, plain UTF-8, of bounded size) and the set that finds names
 * that would land on the same file, also where the file system folds case. Must not know libzip or Lua.
 */
#ifndef ATELIER_ZIP_NAMES_H
#define ATELIER_ZIP_NAMES_H

#include <locale.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <wctype.h>

/* What common file systems can hold; the depth bounds the folders that one entry can ask for. */
enum { NAME_LONGEST = 1024, NAME_PART_LONGEST = 255, NAME_DEEPEST = 64 };

/* ==== one name ================================================================================= */

/* The code point at *p, which moves behind it; -1 when the bytes are not UTF-8 in its shortest form. */
static int32_t name_code_point(const unsigned char **p, const unsigned char *end)
{
    static const int32_t least[] = {0, 0x80, 0x800, 0x10000};
    int32_t c = *(*p)++;
    int more = c < 0x80 ? 0 : c >= 0xf0 ? 3 : c >= 0xe0 ? 2 : 1;

    if (more == 0)
        return c;
    if (c < 0xc2 || c > 0xf4 || end - *p < more)
        return -1;
    c &= 0x3f >> more;
    for (int i = 0; i < more; i++, (*p)++) {
        if ((**p & 0xc0) != 0x80)
            return -1;
        c = c << 6 | (**p & 0x3f);
    }
    return c < least[more] || c > 0x10ffff || (c >= 0xd800 && c <= 0xdfff) ? -1 : c;
}

static const char *name_text_fault(const char *name, size_t len)
{
    const unsigned char *p = (const unsigned char *)name, *end = p + len;

    while (p < end) {
        const int32_t c = name_code_point(&p, end);
        if (c < 0)
            return "the name is not UTF-8";
        if (c == '\\')
            return "the name has a backslash";
        if (c < 0x20 || (c >= 0x7f && c < 0xa0))
            return "the name has a control character";
    }
    return NULL;
}

static const char *name_part_fault(const char *part, size_t len)
{
    if (len == 0)
        return "the name has an empty part";
    if (len > NAME_PART_LONGEST)
        return "a part of the name is longer than 255 bytes";
    if ((len == 1 && part[0] == '.') || (len == 2 && part[0] == '.' && part[1] == '.'))
        return "the name has a part '.' or '..'";
    return NULL;
}

/* NULL when the name is fit for a regular file below any folder, else the reason why not. */
static const char *name_fault(const char *name, size_t len)
{
    const char *part = name, *end = name + len, *fault;
    int depth = 0;

    if (len == 0)
        return "the name is empty";
    if (len > NAME_LONGEST)
        return "the name is longer than 1024 bytes";
    if (name[0] == '/')
        return "the name is absolute";
    if (len >= 2 && name[1] == ':' && ((name[0] | 0x20) >= 'a' && (name[0] | 0x20) <= 'z'))
        return "the name has a drive letter";
    if ((fault = name_text_fault(name, len)) != NULL)
        return fault;
    for (;;) {
        const char *slash = memchr(part, '/', (size_t)(end - part));
        if ((fault = name_part_fault(part, (size_t)((slash != NULL ? slash : end) - part))) != NULL)
            return fault;
        if (++depth > NAME_DEEPEST)
            return "the name is more than 64 folders deep";
        if (slash == NULL)
            return NULL;
        part = slash + 1;
    }
}

/* A name as a message may show it: hostile bytes never reach a terminal or a log. Cut to fit. */
static const char *name_printable(const char *name, size_t len, char *out, size_t room)
{
    size_t n = 0;

    for (size_t i = 0; i < len && n + 5 < room; i++) {
        const unsigned char c = (unsigned char)name[i];
        if (c < 0x20 || c >= 0x7f)
            n += (size_t)snprintf(out + n, room - n, "\\x%02x", c);
        else
            out[n++] = (char)c;
    }
    out[n] = '\0';
    return out;
}

/* ==== case folding ============================================================================= */

static size_t name_put_utf8(char *out, uint32_t c)
{
    const size_t len = c < 0x80 ? 1 : c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    static const unsigned char lead[] = {0, 0, 0xc0, 0xe0, 0xf0};

    for (size_t i = len; i > 1; i--, c >>= 6)
        out[i - 1] = (char)(0x80 | (c & 0x3f));
    out[0] = (char)(len == 1 ? c : lead[len] | c);
    return len;
}

/* Without it only ASCII folds; it is part of the C library's own package. */
static locale_t name_locale;

/* A module that is unloaded takes along what it made. */
__attribute__((destructor)) static void name_forget_locale(void)
{
    if (name_locale != (locale_t)0)
        freelocale(name_locale);
    name_locale = (locale_t)0;
}

/* Up, then down: so that letters with two lower case forms (s and long s) meet. */
static uint32_t name_fold_letter(uint32_t c)
{
    if (c < 0x80)
        return c >= 'A' && c <= 'Z' ? c | 0x20 : c;
    if (name_locale == (locale_t)0)
        name_locale = newlocale(LC_CTYPE_MASK, "C.UTF-8", (locale_t)0);
    if (name_locale == (locale_t)0)
        return c;
    return (uint32_t)towlower_l(towupper_l((wint_t)c, name_locale), name_locale);
}

/* A malloc'd copy of a checked name with case folded, or NULL when out of memory. */
static char *name_fold(const char *name, size_t len)
{
    const unsigned char *p = (const unsigned char *)name, *end = p + len;
    char *folded = malloc(2 * len + 1); /* a folded letter is at most one byte longer than before */
    size_t n = 0;

    if (folded == NULL)
        return NULL;
    while (p < end)
        n += name_put_utf8(folded + n, name_fold_letter((uint32_t)name_code_point(&p, end)));
    folded[n] = '\0';
    return folded;
}

/* ==== the set ================================================================================== */

/* Folded names. Sorted with '/' before all else, so that a file and what lies below it are neighbours. */
struct name_set {
    char **names;
    size_t count, room;
};

enum name_verdict { NAME_FINE = 0, NAME_TWICE, NAME_BELOW_FILE, NAME_NO_MEMORY };

static const char *name_verdict_text(enum name_verdict v)
{
    return v == NAME_TWICE        ? "another entry has the same name, or one that differs only in case"
           : v == NAME_BELOW_FILE ? "the name of a file is also the name of a folder"
                                  : "out of memory";
}

static int name_compare(const char *a, const char *b)
{
    int x, y;

    while (*a != '\0' && *a == *b)
        a++, b++;
    x = *a == '/' ? 1 : (unsigned char)*a;
    y = *b == '/' ? 1 : (unsigned char)*b;
    return x - y;
}

static int name_compare_slots(const void *a, const void *b)
{
    return name_compare(*(char *const *)a, *(char *const *)b);
}

/* May these two stand together? `first` sorts before `second`. */
static enum name_verdict name_pair(const char *first, const char *second)
{
    const size_t len = strlen(first);

    if (strncmp(first, second, len) != 0)
        return NAME_FINE;
    return second[len] == '\0' ? NAME_TWICE : second[len] == '/' ? NAME_BELOW_FILE : NAME_FINE;
}

static void name_set_free(struct name_set *set)
{
    for (size_t i = 0; i < set->count; i++)
        free(set->names[i]);
    free(set->names);
    memset(set, 0, sizeof *set);
}

/* Room for one more name. */
static int name_set_grow(struct name_set *set)
{
    const size_t room = set->room == 0 ? 16 : set->room * 2;
    char **names;

    if (set->count < set->room)
        return 0;
    if ((names = realloc(set->names, room * sizeof *names)) == NULL)
        return -1;
    set->names = names;
    set->room = room;
    return 0;
}

/* Appends without a look; name_set_check then judges all at once. */
static enum name_verdict name_set_append(struct name_set *set, const char *name, size_t len)
{
    char *folded;

    if (name_set_grow(set) < 0 || (folded = name_fold(name, len)) == NULL)
        return NAME_NO_MEMORY;
    set->names[set->count++] = folded;
    return NAME_FINE;
}

/* Sorts; the verdict on the first bad pair, whose second name goes to *culprit. */
static enum name_verdict name_set_check(struct name_set *set, const char **culprit)
{
    if (set->count > 0)
        qsort(set->names, set->count, sizeof *set->names, name_compare_slots);
    for (size_t i = 1; i < set->count; i++) {
        const enum name_verdict v = name_pair(set->names[i - 1], set->names[i]);
        if (v != NAME_FINE) {
            *culprit = set->names[i];
            return v;
        }
    }
    return NAME_FINE;
}

/*
 * Adds one name to a sorted set that holds no bad pair. Looking at both neighbours is enough: whatever
 * stands between a file and a name below it would itself be below that file.
 */
static enum name_verdict name_set_add(struct name_set *set, const char *name, size_t len)
{
    enum name_verdict v = NAME_FINE;
    size_t low = 0, high = set->count;
    char *folded;

    if (name_set_grow(set) < 0 || (folded = name_fold(name, len)) == NULL)
        return NAME_NO_MEMORY;
    while (low < high) {
        const size_t middle = low + (high - low) / 2;
        if (name_compare(set->names[middle], folded) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    if (low > 0)
        v = name_pair(set->names[low - 1], folded);
    if (v == NAME_FINE && low < set->count)
        v = name_pair(folded, set->names[low]);
    if (v != NAME_FINE) {
        free(folded);
        return v;
    }
    memmove(set->names + low + 1, set->names + low, (set->count - low) * sizeof *set->names);
    set->names[low] = folded;
    set->count++;
    return NAME_FINE;
}

#endif
