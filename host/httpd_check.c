/*
 * httpd_check.c: what is refused before anybody reads it.
 *
 * Owns: the framing rules of RFC 9112 that libmicrohttpd leaves open (two Host or Content-Length, Transfer-Encoding beside
 * Content-Length, white space before a colon, bare CR or LF, folded lines, NUL), the request target, and the limits on
 * headers. Must not know Lua.
 *
 * libmicrohttpd reads more than the grammar allows and gives us the pieces, cut at the first NUL. But it leaves them where
 * they came in, so the pieces must tile the header block: each begins where the one before it, with its separators, ends.
 * Whatever was skipped, cut, folded or taken for a line end leaves a gap.
 * COMPAT: the tiling is that of libmicrohttpd 0.9.75 to 0.9.77; drop it where MHD_OPTION_CLIENT_DISCIPLINE_LVL exists.
 */
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "httpd_server.h"

#define HEADER_MAX 1000 /* against overflow only; the limit is an option */

/* ==== characters =============================================================================== */

/* RFC 9110, 5.6.2 */
int httpd_is_token(const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)s[i];
        if (c <= 0x20 || c >= 0x7f || strchr("\"(),/:;<=>?@[\\]{}", c) != NULL)
            return 0;
    }
    return n > 0;
}

int httpd_is_header_value(const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)s[i];
        if ((c < 0x20 && c != '\t') || c == 0x7f)
            return 0;
    }
    return 1;
}

/* The number of bytes that follow `c`, and between which values the first of them lies; -1 for no lead byte. */
static int utf8_tail(unsigned char c, unsigned char *low, unsigned char *high)
{
    *low = 0x80;
    *high = 0xbf;
    if (c < 0x80)
        return 0;
    if (c >= 0xc2 && c <= 0xdf)
        return 1;
    if (c >= 0xe0 && c <= 0xef) {
        *low = c == 0xe0 ? 0xa0 : 0x80;
        *high = c == 0xed ? 0x9f : 0xbf;
        return 2;
    }
    if (c >= 0xf0 && c <= 0xf4) {
        *low = c == 0xf0 ? 0x90 : 0x80;
        *high = c == 0xf4 ? 0x8f : 0xbf;
        return 3;
    }
    return -1;
}

int httpd_is_utf8(const char *s, size_t n)
{
    for (size_t i = 0; i < n;) {
        unsigned char low, high;
        int tail = utf8_tail((unsigned char)s[i++], &low, &high);
        if (tail < 0 || (size_t)tail > n - i)
            return 0;
        for (; tail > 0; tail--, i++) {
            unsigned char c = (unsigned char)s[i];
            if (c < low || c > high)
                return 0;
            low = 0x80;
            high = 0xbf;
        }
    }
    return 1;
}

static int hex_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

ssize_t httpd_decode(char *text, size_t size, int plus)
{
    size_t to = 0;

    for (size_t i = 0; i < size; i++) {
        char c = text[i];
        if (c == '+' && plus) {
            c = ' ';
        } else if (c == '%') {
            int high = i + 2 < size ? hex_value(text[i + 1]) : -1, low = i + 2 < size ? hex_value(text[i + 2]) : -1;
            if (high < 0 || low < 0)
                return -1;
            c = (char)(high * 16 + low);
            i += 2;
        }
        if (c == '\0')
            return -1;
        text[to++] = c;
    }
    return httpd_is_utf8(text, to) ? (ssize_t)to : -1;
}

/* ==== refusals ================================================================================= */

#define REFUSE(status, code, message)                                 \
    do {                                                              \
        static const struct refusal refusal = {status, code, message}; \
        return &refusal;                                              \
    } while (0)

/* ==== headers ================================================================================== */

static const char *const single_headers[] = {
    "Host", "Content-Length", "Transfer-Encoding", "Content-Encoding", "Content-Type", "Authorization", "Expect", "Range",
    "If-Range", "Origin", "User-Agent", "Last-Event-ID", "If-Modified-Since", "If-Unmodified-Since", "Max-Forwards", "From",
    "Referer", "Proxy-Authorization", "Date",
};

enum { HOST, CONTENT_LENGTH, TRANSFER_ENCODING, CONTENT_ENCODING, CONTENT_TYPE };
enum { SINGLE = sizeof single_headers / sizeof single_headers[0] };

struct scan {
    const char *expect; /* where the next name must begin */
    int gap, bad_name, bad_value, doubled, count;
    const char *values[SINGLE];
    size_t sizes[SINGLE];
    const char *expectation;
};

static void note_single(struct scan *scan, const char *name, size_t name_size, const char *value, size_t size)
{
    for (int i = 0; i < SINGLE; i++) {
        if (strlen(single_headers[i]) != name_size || strncasecmp(single_headers[i], name, name_size) != 0)
            continue;
        if (scan->values[i] != NULL)
            scan->doubled = 1;
        scan->values[i] = value;
        scan->sizes[i] = size;
        if (strcmp(single_headers[i], "Expect") == 0)
            scan->expectation = value;
        return;
    }
}

static enum MHD_Result on_header(void *arg, enum MHD_ValueKind kind, const char *name, size_t name_size, const char *value,
                                 size_t size)
{
    struct scan *scan = arg;
    const char *p = name + name_size + 1; /* behind the colon */

    (void)kind;
    if (value == NULL || ++scan->count > HEADER_MAX) {
        scan->gap = 1;
        return MHD_NO;
    }
    /* Compared as numbers: a piece that was moved elsewhere lies in another object. */
    if ((uintptr_t)name != (uintptr_t)scan->expect || (uintptr_t)value < (uintptr_t)p ||
        (uintptr_t)value - (uintptr_t)p > HEADER_MAX * HEADER_MAX) {
        scan->gap = 1;
        return MHD_NO;
    }
    for (; p < value; p++)
        scan->gap |= *p != ' ' && *p != '\t';
    scan->expect = value + size + 2; /* CR LF */
    scan->bad_name |= !httpd_is_token(name, name_size);
    scan->bad_value |= !httpd_is_header_value(value, size);
    note_single(scan, name, name_size, value, size);
    return MHD_YES;
}

static int is_host(const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        char c = s[i];
        if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || strchr("-._~:[]%", c) != NULL))
            return 0;
    }
    return 1;
}

static int is_host_value(const char *s, size_t n)
{
    while (n > 0 && (s[n - 1] == ' ' || s[n - 1] == '\t'))
        n--;
    return is_host(s, n);
}

static int read_length(const char *s, size_t n, int64_t *length)
{
    *length = 0;
    for (size_t i = 0; i < n; i++) {
        if (s[i] < '0' || s[i] > '9' || i >= 18)
            return 0;
        *length = *length * 10 + (s[i] - '0');
    }
    return n > 0;
}

/* The value of a Content-Type's charset, or NULL. */
static const char *find_charset(const char *type, size_t size, size_t *n)
{
    static const char name[] = "charset=";
    const char *end = type + size;

    for (const char *p = memchr(type, ';', size); p != NULL; p = memchr(p, ';', (size_t)(end - p))) {
        for (p++; p < end && (*p == ' ' || *p == '\t'); p++)
            continue;
        if ((size_t)(end - p) < sizeof name - 1 || strncasecmp(p, name, sizeof name - 1) != 0)
            continue;
        p += sizeof name - 1;
        p += p < end && *p == '"';
        for (*n = 0; p + *n < end && strchr("\"; \t", p[*n]) == NULL; ++*n)
            continue;
        return p;
    }
    return NULL;
}

/* A body is handed over as it came, and taken for UTF-8: in another form it would be another text. */
static const struct refusal *check_body(const struct scan *scan)
{
    const char *coding = scan->values[CONTENT_ENCODING], *type = scan->values[CONTENT_TYPE], *charset;
    size_t n;

    if (coding != NULL && (scan->sizes[CONTENT_ENCODING] != 8 || strncasecmp(coding, "identity", 8) != 0))
        REFUSE(415, "unsupported_media_type", "a body with a Content-Encoding");
    charset = type != NULL ? find_charset(type, scan->sizes[CONTENT_TYPE], &n) : NULL;
    if (charset != NULL && !(n == 5 && strncasecmp(charset, "utf-8", 5) == 0) &&
        !(n == 8 && strncasecmp(charset, "us-ascii", 8) == 0))
        REFUSE(415, "unsupported_media_type", "a body in a charset other than UTF-8");
    return NULL;
}

static const struct refusal *check_framing(struct request *r, const struct scan *scan, int64_t *length)
{
    const char *coding = scan->values[TRANSFER_ENCODING];

    if (scan->doubled)
        REFUSE(400, "bad_request", "a header that may come once came twice");
    if (scan->values[HOST] == NULL && !r->is_http10)
        REFUSE(400, "bad_request", "the Host header is missing");
    if (scan->values[HOST] != NULL && !is_host_value(scan->values[HOST], scan->sizes[HOST]))
        REFUSE(400, "bad_request", "the Host header is no host");
    if (coding != NULL && (scan->values[CONTENT_LENGTH] != NULL || r->is_http10))
        REFUSE(400, "bad_request", "Transfer-Encoding beside Content-Length, or in HTTP/1.0");
    if (coding != NULL && (scan->sizes[TRANSFER_ENCODING] != 7 || strncasecmp(coding, "chunked", 7) != 0))
        REFUSE(400, "bad_request", "a Transfer-Encoding other than chunked");
    *length = -1;
    if (scan->values[CONTENT_LENGTH] != NULL &&
        !read_length(scan->values[CONTENT_LENGTH], scan->sizes[CONTENT_LENGTH], length))
        REFUSE(400, "bad_request", "the Content-Length is no number");
    r->has_body = coding != NULL || *length > 0;
    if (scan->expectation != NULL && strcasecmp(scan->expectation, "100-continue") != 0)
        REFUSE(417, "expectation_failed", "an expectation other than 100-continue");
    return r->has_body ? check_body(scan) : NULL;
}

static const struct refusal *check_headers(struct request *r, const char *method, const char *version, int64_t *length)
{
    struct scan scan = {.expect = version + strlen(version) + 2};
    const struct httpd_limits *limits = &r->server->limits;
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(r->connection->mhd, MHD_CONNECTION_INFO_REQUEST_HEADER_SIZE);

    MHD_get_connection_values_n(r->connection->mhd, MHD_HEADER_KIND, on_header, &scan);
    if (scan.count > limits->header_count || (info != NULL && (int64_t)info->header_size > limits->header_bytes))
        REFUSE(431, "headers_too_large", "the header block is too large");
    /* An empty line ends the block. */
    if (info == NULL || (uintptr_t)scan.expect + 2 != (uintptr_t)method + info->header_size)
        scan.gap = 1;
    if (scan.gap || scan.bad_name || scan.bad_value)
        REFUSE(400, "bad_request", "the header block is malformed");
    return check_framing(r, &scan, length);
}

/* ==== the request line ========================================================================= */

/* "." and ".." as segments; what they mean depends on who resolves them. */
static int has_dots(const char *path, size_t size)
{
    for (size_t i = 0; i < size;) {
        size_t n = strcspn(path + i, "/");
        if ((n == 1 && path[i] == '.') || (n == 2 && path[i] == '.' && path[i + 1] == '.'))
            return 1;
        i += n + 1;
    }
    return 0;
}

static const struct refusal *check_path(struct request *r)
{
    ssize_t size;

    if (strcmp(r->path, "*") == 0 && strcmp(r->method, "OPTIONS") == 0) {
        r->path_size = 1;
        return NULL;
    }
    if (r->path[0] != '/')
        REFUSE(400, "bad_request", "the target is no path");
    /* A slash that was meant as a character would become a separator. */
    if (strstr(r->path, "%2f") != NULL || strstr(r->path, "%2F") != NULL)
        REFUSE(400, "bad_request", "an encoded slash in the path");
    size = httpd_decode(r->path, strlen(r->path), 0);
    if (size < 0)
        REFUSE(400, "bad_request", "the path is malformed, no UTF-8, or has a NUL byte");
    r->path[size] = '\0';
    r->path_size = (size_t)size;
    for (ssize_t i = 0; i < size; i++) {
        if ((unsigned char)r->path[i] < 0x20 || r->path[i] == 0x7f || r->path[i] == '\\')
            REFUSE(400, "bad_request", "a control character or a backslash in the path");
    }
    if (has_dots(r->path, r->path_size))
        REFUSE(400, "bad_request", "a dot segment in the path");
    return NULL;
}

/* The separators are ASCII, so the query is well-formed exactly when its pieces are. */
static const struct refusal *check_query(struct request *r)
{
    char *copy;
    ssize_t size;

    if (r->query == NULL)
        return NULL;
    copy = strdup(r->query);
    if (copy == NULL)
        REFUSE(503, "unavailable", "not enough memory");
    size = httpd_decode(copy, strlen(copy), 1);
    free(copy);
    if (size < 0)
        REFUSE(400, "bad_request", "the query is malformed, no UTF-8, or has a NUL byte");
    return NULL;
}

/*
 * The absolute form, which a client may send to any server (RFC 9112, 3.2.2): what is left is the path. Returns how many bytes
 * go, 0 for another form, -1 for a host that is none.
 */
static ssize_t skip_authority(const char *target)
{
    size_t scheme = strncasecmp(target, "http://", 7) == 0 ? 7 : strncasecmp(target, "https://", 8) == 0 ? 8 : 0;
    size_t host = scheme > 0 ? strcspn(target + scheme, "/?") : 0;

    if (scheme == 0)
        return 0;
    return host > 0 && is_host(target + scheme, host) ? (ssize_t)(scheme + host) : -1;
}

static const struct refusal *check_form(struct request *r)
{
    ssize_t skip = skip_authority(r->target);
    size_t left;

    if (skip < 0)
        REFUSE(400, "bad_request", "the target's host is no host");
    if (skip == 0)
        return NULL;
    left = r->target_size - (size_t)skip; /* the scheme is longer than what may have to be put before the rest */
    if (left == 0 || r->target[skip] != '/') {
        memmove(r->target + 1, r->target + skip, left + 1);
        r->target[0] = left == 0 && strcmp(r->method, "OPTIONS") == 0 ? '*' : '/';
    } else {
        memmove(r->target, r->target + skip, left + 1);
    }
    return NULL;
}

static const struct refusal *check_target(struct request *r)
{
    const struct refusal *bad;
    char *mark;

    if ((int64_t)r->target_size > r->server->limits.target_bytes)
        REFUSE(414, "target_too_long", "the request target is too long");
    for (size_t i = 0; i < r->target_size; i++) {
        unsigned char c = (unsigned char)r->target[i];
        if (c <= 0x20 || c >= 0x7f || c == '#')
            REFUSE(400, "bad_request", "a character in the target that must be percent-encoded");
    }
    bad = check_form(r);
    if (bad != NULL)
        return bad;
    r->path = strdup(r->target);
    if (r->path == NULL)
        REFUSE(503, "unavailable", "not enough memory");
    mark = strchr(r->path, '?');
    if (mark != NULL) {
        *mark = '\0';
        r->query = r->target + (mark - r->path) + 1;
    }
    return NULL;
}

static const struct refusal *check_line(struct request *r, const char *method, const char *version)
{
    size_t n = strlen(method);

    if (n >= sizeof r->method || !httpd_is_token(method, n))
        REFUSE(400, "bad_request", "the method is malformed");
    memcpy(r->method, method, n + 1);
    r->is_head = strcmp(method, "HEAD") == 0;
    if (strcmp(version, "HTTP/1.1") != 0 && strcmp(version, "HTTP/1.0") != 0)
        REFUSE(505, "version_not_supported", "only HTTP/1.1 and HTTP/1.0");
    r->is_http10 = version[7] == '0';
    if (r->target == NULL)
        REFUSE(503, "unavailable", "not enough memory");
    if ((uintptr_t)method + n + 1 != (uintptr_t)r->raw || (uintptr_t)r->raw + r->target_size + 1 != (uintptr_t)version)
        REFUSE(400, "bad_request", "the request line is malformed");
    return NULL;
}

const struct refusal *httpd_check(struct request *r, const char *method, const char *version, int64_t *content_length)
{
    const struct refusal *bad = check_line(r, method, version);

    if (bad == NULL)
        bad = check_headers(r, method, version, content_length);
    if (bad == NULL)
        bad = check_target(r);
    if (bad == NULL)
        bad = check_path(r);
    return bad != NULL ? bad : check_query(r);
}
