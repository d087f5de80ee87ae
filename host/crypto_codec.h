/*
 * crypto_codec.h: bytes written as text and read back: hex, base64, base64url, Crockford base32.
 *
 * Owns the alphabets and the rule that each value has one spelling only: a decoder refuses white space,
 * missing or extra padding, impossible lengths and stray bits, because two spellings of one token are
 * two cache keys for one grant. Knows neither Lua nor OpenSSL. Self-contained, used by one module.
 */
#ifndef ATELIER_CRYPTO_CODEC_H
#define ATELIER_CRYPTO_CODEC_H

#include <stddef.h>

/* Why a text was refused; `at` is the offset of the character to blame. */
struct text_fault {
    const char *reason; /* NULL: none */
    size_t at;
};

/* The two base64 alphabets differ in their last two characters and in padding. */
struct base64_kind {
    const char *alphabet;
    int padded;
};

static const struct base64_kind base64_plain = {
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/", 1};
static const struct base64_kind base64_url = {
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_", 0};

static const char text_strange[] = "this character is not in the alphabet";
static const char text_length[] = "the text has an impossible length";
static const char text_padding[] = "the padding is wrong";
static const char text_bits[] = "the last character carries stray bits";

static int text_refuse(struct text_fault *fault, const char *reason, size_t at)
{
    fault->reason = reason;
    fault->at = at;
    return 0;
}

/* ==== hex ====================================================================================== */

static void hex_encode(char *out, const unsigned char *in, size_t n)
{
    static const char digits[] = "0123456789abcdef";

    for (size_t i = 0; i < n; i++) {
        out[2 * i] = digits[in[i] >> 4];
        out[2 * i + 1] = digits[in[i] & 15];
    }
}

static int hex_value(unsigned char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

/* Writes n / 2 bytes. */
static int hex_decode(unsigned char *out, const unsigned char *in, size_t n, struct text_fault *fault)
{
    if (n % 2 != 0)
        return text_refuse(fault, text_length, n);
    for (size_t i = 0; i < n; i += 2) {
        const int high = hex_value(in[i]);
        const int low = hex_value(in[i + 1]);

        if (high < 0 || low < 0)
            return text_refuse(fault, text_strange, high < 0 ? i : i + 1);
        out[i / 2] = (unsigned char)(high << 4 | low);
    }
    return 1;
}

/* ==== base64 and base64url ===================================================================== */

static size_t base64_encoded_size(size_t n, const struct base64_kind *kind)
{
    const size_t rest = n % 3;

    return n / 3 * 4 + (rest == 0 ? 0 : kind->padded ? 4 : rest + 1);
}

/* Writes base64_encoded_size(n, kind) characters. */
static void base64_encode(char *out, const unsigned char *in, size_t n, const struct base64_kind *kind)
{
    const char *const a = kind->alphabet;
    const size_t rest = n % 3;
    const unsigned char *const end = in + (n - rest);

    for (; in < end; in += 3, out += 4) {
        out[0] = a[in[0] >> 2];
        out[1] = a[(in[0] & 3) << 4 | in[1] >> 4];
        out[2] = a[(in[1] & 15) << 2 | in[2] >> 6];
        out[3] = a[in[2] & 63];
    }
    if (rest == 0)
        return;
    *out++ = a[in[0] >> 2];
    *out++ = a[(in[0] & 3) << 4 | (rest == 2 ? in[1] >> 4 : 0)];
    if (rest == 2)
        *out++ = a[(in[1] & 15) << 2];
    for (size_t i = rest; kind->padded && i < 3; i++)
        *out++ = '=';
}

static int base64_value(unsigned char c, const struct base64_kind *kind)
{
    if (c >= 'A' && c <= 'Z')
        return c - 'A';
    if (c >= 'a' && c <= 'z')
        return c - 'a' + 26;
    if (c >= '0' && c <= '9')
        return c - '0' + 52;
    if (c == (unsigned char)kind->alphabet[62])
        return 62;
    return c == (unsigned char)kind->alphabet[63] ? 63 : -1;
}

/* Takes the padding off: at most two '=', and only where they complete a group of four. */
static int base64_unpad(const unsigned char *in, size_t *n, struct text_fault *fault)
{
    const size_t whole = *n;

    while (*n > 0 && whole - *n < 2 && in[*n - 1] == '=')
        (*n)--;
    return whole % 4 == 0 ? 1 : text_refuse(fault, text_padding, whole);
}

/* Writes at most n / 4 * 3 + 2 bytes; returns whether it could, and in *written how many. */
static int base64_decode(unsigned char *out, size_t *written, const unsigned char *in, size_t n,
                         const struct base64_kind *kind, struct text_fault *fault)
{
    const unsigned char *const first = out;
    unsigned bits = 0;

    if (kind->padded && !base64_unpad(in, &n, fault))
        return 0;
    if (n % 4 == 1)
        return text_refuse(fault, text_length, n);
    for (size_t i = 0; i < n; i++) {
        const int v = base64_value(in[i], kind);

        if (v < 0)
            return text_refuse(fault, text_strange, i);
        bits = (bits << 6 | (unsigned)v) & 0xffff;
        if (i % 4 != 0)
            *out++ = (unsigned char)(bits >> (6 - i % 4 * 2));
    }
    if ((n % 4 == 2 && (bits & 15) != 0) || (n % 4 == 3 && (bits & 3) != 0))
        return text_refuse(fault, text_bits, n - 1);
    *written = (size_t)(out - first);
    return 1;
}

/* ==== base32, Crockford's alphabet ============================================================= */

static size_t base32_encoded_size(size_t n)
{
    return n / 5 * 8 + (n % 5 * 8 + 4) / 5;
}

/* Most significant bit first; the last character is filled up with zero bits. */
static void base32_encode(char *out, const unsigned char *in, size_t n)
{
    static const char alphabet[] = "0123456789ABCDEFGHJKMNPQRSTVWXYZ";
    unsigned bits = 0;
    unsigned held = 0;

    for (size_t i = 0; i < n; i++) {
        bits = (bits << 8 | in[i]) & 0xffff;
        for (held += 8; held >= 5; held -= 5)
            *out++ = alphabet[bits >> (held - 5) & 31];
    }
    if (held > 0)
        *out = alphabet[bits << (5 - held) & 31];
}

/* People misread O, I and L, so these count as 0, 1 and 1; there is no U. */
static int base32_value(unsigned char c)
{
    static const signed char letters[] = {10, 11, 12, 13, 14, 15, 16, 17, 1,  18, 19, 1,  20,
                                          21, 0,  22, 23, 24, 25, 26, -1, 27, 28, 29, 30, 31};

    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'z')
        return letters[c - 'a'];
    return c >= 'A' && c <= 'Z' ? letters[c - 'A'] : -1;
}

/* Dashes are skipped. Writes at most n / 8 * 5 + 4 bytes. */
static int base32_decode(unsigned char *out, size_t *written, const unsigned char *in, size_t n,
                         struct text_fault *fault)
{
    const unsigned char *const first = out;
    unsigned bits = 0;
    unsigned held = 0;

    for (size_t i = 0; i < n; i++) {
        const int v = in[i] == '-' ? 0 : base32_value(in[i]);

        if (v < 0)
            return text_refuse(fault, text_strange, i);
        if (in[i] == '-')
            continue;
        bits = (bits << 5 | (unsigned)v) & 0xffff;
        held += 5;
        if (held >= 8) {
            held -= 8;
            *out++ = (unsigned char)(bits >> held);
        }
    }
    if (held >= 5) /* a whole character that adds no byte */
        return text_refuse(fault, text_length, n);
    if ((bits & ((1u << held) - 1)) != 0)
        return text_refuse(fault, text_bits, n - 1);
    *written = (size_t)(out - first);
    return 1;
}

#endif
