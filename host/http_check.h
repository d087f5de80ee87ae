/*
 * http_check.h: what a request may be.
 *
 * Owns: reading and checking the request table, header names and values, URLs, and the rules within which
 * libcurl 7.88 signs (SigV4) what it sends: it takes path and query as they are and sorts headers in a way of
 * its own, so all else is refused at the door. Must not know how a request is carried out. Private to
 * lua_http.c.
 */
#ifndef ATELIER_HTTP_CHECK_H
#define ATELIER_HTTP_CHECK_H

#include <ctype.h>
#include <strings.h>

#include "http_transfer.h"

#define MAX_SECONDS 86400.0
#define DEFAULT_MAX_BYTES (64 * 1024 * 1024)

/* What a request table says, checked; strings belong to the table. */
struct request {
    const char *url, *method, *body, *ca_file;
    const char *access_key, *secret_key, *region, *service, *token;
    size_t body_len;
    luaL_Stream *in, *out;
    lua_Integer body_length, max_bytes;
    lua_Number timeout, connect_timeout, stall_timeout;
    int follow, signs, has_sha256, growing;
};

/* ==== checks of a request ====================================================================== */

static int is_token(const char *s, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if (!isalnum((unsigned char)s[i]) && (s[i] == '\0' || strchr("!#$%&'*+-.^_`|~", s[i]) == NULL))
            return 0;
    return len > 0;
}

static int is_unreserved(int c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           (c != 0 && strchr("-._~", c));
}

static int is_label(const char *s)
{
    size_t n = strlen(s);

    return n > 0 && n <= 64 &&
           strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-") == n;
}

/* A string option without NUL, for libcurl. */
static const char *option_text(lua_State *L, int arg, const char *name)
{
    size_t len;
    const char *s = option_string(L, arg, name, &len);

    if (s != NULL && strlen(s) != len)
        luaL_argerror(L, arg, lua_pushfstring(L, "option '%s' contains a NUL", name));
    return s;
}

static lua_Number option_seconds(lua_State *L, int arg, const char *name, lua_Number fallback)
{
    lua_Number s = option_number(L, arg, name, fallback);

    if (!(s >= 0.001 && s <= MAX_SECONDS))
        luaL_argerror(L, arg, lua_pushfstring(L, "option '%s' must be 0.001 to 86400 seconds", name));
    return s;
}

static luaL_Stream *option_file(lua_State *L, int arg, const char *name)
{
    luaL_Stream *f = NULL;

    if (lua_getfield(L, arg, name) != LUA_TNIL) {
        f = luaL_testudata(L, -1, LUA_FILEHANDLE);
        if (f == NULL)
            option_error(L, arg, name, "an open file");
        if (f->closef == NULL)
            luaL_argerror(L, arg, lua_pushfstring(L, "option '%s': the file is closed", name));
    }
    lua_pop(L, 1);
    return f;
}

/* Would libcurl 7.88 sort these two wrongly? It compares "name:value", where ':' is above '-' and the digits.
 */
static int sorts_wrongly(const char *a, const char *b)
{
    size_t n = strlen(a);

    return n < strlen(b) && strncasecmp(a, b, n) == 0 && b[n] < ':';
}

/* A header's name against all others, and against what is sent besides. The table is on top. */
static void check_header_pairs(lua_State *L, int arg, const char *name, int signs)
{
    static const char *const own[] = {"host", "x-amz-date", "x-amz-content-sha256", "x-amz-security-token",
                                      NULL};

    for (lua_pushnil(L); lua_next(L, -4); lua_pop(L, 1)) {
        const char *other = lua_type(L, -2) == LUA_TSTRING ? lua_tostring(L, -2) : "";
        if (other != name && strcasecmp(name, other) == 0)
            luaL_argerror(L, arg, lua_pushfstring(L, "header '%s' is given twice", name));
        if (signs && sorts_wrongly(name, other))
            luaL_argerror(L, arg,
                          lua_pushfstring(L, "headers '%s' and '%s' cannot be signed together", name, other));
    }
    for (int i = 0; signs && own[i] != NULL; i++)
        if (sorts_wrongly(name, own[i]) || sorts_wrongly(own[i], name))
            luaL_argerror(
                L, arg, lua_pushfstring(L, "headers '%s' and '%s' cannot be signed together", name, own[i]));
}

/* A value that libcurl and the server would bring into the same canonical form. */
static int signs_alike(const char *v, size_t len)
{
    if (len == 0 || v[0] == ' ' || v[len - 1] == ' ' || strstr(v, "  ") != NULL)
        return 0;
    for (size_t i = 0; i < len; i++)
        if ((unsigned char)v[i] < 0x20 || (unsigned char)v[i] > 0x7e)
            return 0;
    return 1;
}

/* The header at stack -2 (name) and -1 (value). */
static void check_header(lua_State *L, int arg, struct request *r)
{
    static const char *const ours[] = {"content-length", "transfer-encoding", "expect", "connection", "te",
                                       "trailer",        "upgrade",           NULL};
    static const char *const signed_ours[] = {"authorization", "host", "x-amz-date", "x-amz-security-token",
                                              NULL};
    size_t len, name_len;
    const char *name, *value;

    if (lua_type(L, -2) != LUA_TSTRING || lua_type(L, -1) != LUA_TSTRING)
        luaL_argerror(L, arg, "header names and values must be strings");
    name = lua_tolstring(L, -2, &name_len);
    value = lua_tolstring(L, -1, &len);
    if (!is_token(name, name_len))
        luaL_argerror(L, arg, "a header name has a character that is not allowed");
    for (size_t i = 0; i < len; i++)
        if ((unsigned char)value[i] == 0x7f || ((unsigned char)value[i] < 0x20 && value[i] != '\t'))
            luaL_argerror(L, arg,
                          lua_pushfstring(L, "header '%s' has a control character in its value", name));
    for (int i = 0; ours[i] != NULL; i++)
        if (strcasecmp(name, ours[i]) == 0)
            luaL_argerror(L, arg, lua_pushfstring(L, "header '%s' is set by the client itself", name));
    for (int i = 0; r->signs && signed_ours[i] != NULL; i++)
        if (strcasecmp(name, signed_ours[i]) == 0)
            luaL_argerror(L, arg, lua_pushfstring(L, "header '%s' is set by the signature", name));
    if (r->signs && !signs_alike(value, len))
        luaL_argerror(L, arg, lua_pushfstring(L, "header '%s' has a value that cannot be signed", name));
    if (strcasecmp(name, "x-amz-content-sha256") == 0)
        r->has_sha256 = 1;
    check_header_pairs(L, arg, name, r->signs);
}

static void check_headers(lua_State *L, int arg, struct request *r)
{
    if (lua_getfield(L, arg, "headers") != LUA_TNIL) {
        if (!lua_istable(L, -1))
            option_error(L, arg, "headers", "a table");
        for (lua_pushnil(L); lua_next(L, -2); lua_pop(L, 1))
            check_header(L, arg, r);
    }
    lua_pop(L, 1);
}

static void check_sigv4(lua_State *L, int arg, struct request *r)
{
    static const char *const names[] = {"access_key", "secret_key", "region", "service", "token", NULL};
    int top = lua_gettop(L) + 1;

    if (lua_getfield(L, arg, "sigv4") != LUA_TNIL) {
        if (!lua_istable(L, top))
            option_error(L, arg, "sigv4", "a table");
        check_options(L, top, names);
        r->signs = 1;
        r->access_key = option_text(L, top, "access_key");
        r->secret_key = option_text(L, top, "secret_key");
        r->region = option_text(L, top, "region");
        r->service = option_text(L, top, "service");
        r->token = option_text(L, top, "token");
        if (r->service == NULL)
            r->service = "s3";
        if (r->access_key == NULL || r->secret_key == NULL || r->region == NULL)
            luaL_argerror(L, arg, "option 'sigv4' needs access_key, secret_key and region");
        if (!is_label(r->region) || !is_label(r->service))
            luaL_argerror(L, arg, "sigv4: region and service are letters, digits and '-'");
        if (r->access_key[0] == '\0' || (r->token != NULL && !signs_alike(r->token, strlen(r->token))))
            luaL_argerror(L, arg, "sigv4: the access key or token cannot be signed");
        luaL_argcheck(L, !r->follow, arg, "a signed request cannot follow redirects");
    }
    lua_pop(L, 1);
}

static void check_body(lua_State *L, int arg, struct request *r)
{
    int asks = strcmp(r->method, "GET") == 0 || strcmp(r->method, "HEAD") == 0;

    r->body = option_string(L, arg, "body", &r->body_len);
    r->in = option_file(L, arg, "body_file");
    r->out = option_file(L, arg, "response_file");
    r->body_length = option_integer(L, arg, "body_length", -1);
    luaL_argcheck(L, r->body == NULL || r->in == NULL, arg,
                  "options 'body' and 'body_file' exclude each other");
    luaL_argcheck(L, r->body_length >= -1, arg, "option 'body_length' must not be negative");
    luaL_argcheck(L, r->body_length == -1 || r->in != NULL, arg,
                  "option 'body_length' goes with 'body_file'");
    r->growing = option_boolean(L, arg, "body_growing", 0);
    luaL_argcheck(L, !r->growing || r->body_length >= 0, arg, "option 'body_growing' goes with 'body_length'");
    luaL_argcheck(L, !asks || (r->body == NULL && r->in == NULL), arg, "GET and HEAD have no body");
    luaL_argcheck(L, asks || !r->follow, arg, "option 'follow' is for GET and HEAD");
}

/* Reads and checks the table at `arg`; raises for mistakes. */
static void check_request(lua_State *L, int arg, struct request *r)
{
    static const char *const names[] = {"url",           "method",    "headers",
                                        "body",          "body_file", "body_length",
                                        "body_growing",  "response_file", "timeout",
                                        "connect_timeout", "stall_timeout", "max_bytes",
                                        "sigv4",         "ca_file",   "follow",
                                        NULL};

    memset(r, 0, sizeof *r);
    luaL_checktype(L, arg, LUA_TTABLE);
    check_options(L, arg, names);
    r->url = option_text(L, arg, "url");
    luaL_argcheck(L, r->url != NULL, arg, "option 'url' is missing");
    r->method = option_text(L, arg, "method");
    if (r->method == NULL)
        r->method = "GET";
    luaL_argcheck(
        L, strlen(r->method) < 20 && is_token(r->method, strlen(r->method)) && strcmp(r->method, "CONNECT"),
        arg, "option 'method' is not a method");
    r->ca_file = option_text(L, arg, "ca_file");
    r->follow = option_boolean(L, arg, "follow", 0);
    r->timeout = option_seconds(L, arg, "timeout", 30);
    r->connect_timeout = option_seconds(L, arg, "connect_timeout", 10);
    r->stall_timeout = option_seconds(L, arg, "stall_timeout", 30);
    r->max_bytes = option_integer(L, arg, "max_bytes", DEFAULT_MAX_BYTES);
    luaL_argcheck(L, r->max_bytes >= 0, arg, "option 'max_bytes' must not be negative");
    check_body(L, arg, r);
    check_sigv4(L, arg, r);
    check_headers(L, arg, r);
}

/* ==== the URL ================================================================================== */

/* Is s (of n bytes) in the one form that signs alike everywhere? `plain` are characters allowed besides. */
static int is_canonical(const char *s, size_t n, const char *plain)
{
    for (size_t i = 0; i < n; i++) {
        if (s[i] == '%') {
            int c = 0;
            for (int k = 1; k <= 2; k++) {
                const char *hex = "0123456789ABCDEF",
                           *p = i + 2 < n && s[i + k] ? strchr(hex, s[i + k]) : NULL;
                if (p == NULL)
                    return 0;
                c = c * 16 + (int)(p - hex);
            }
            if (c == '/' ? plain[0] == '/' : is_unreserved(c))
                return 0; /* the server would decode it and not encode it again */
            i += 2;
        } else if (!is_unreserved((unsigned char)s[i]) && strchr(plain, s[i]) == NULL) {
            return 0;
        }
    }
    return 1;
}

static const char *path_problem(const char *path)
{
    if (!is_canonical(path, strlen(path), "/"))
        return "the path has characters that cannot be signed";
    for (const char *p = path; (p = strchr(p, '/')) != NULL; p++) {
        size_t n = strcspn(p + 1, "/");
        if ((n == 0 && p[1] != '\0') || (n == 1 && p[1] == '.') || (n == 2 && p[1] == '.' && p[2] == '.'))
            return "a path with empty or dot segments cannot be signed";
    }
    return NULL;
}

static int name_order(const char *a, size_t n, const char *b, size_t m)
{
    int c = memcmp(a, b, n < m ? n : m);

    return c != 0 ? c : n < m ? -1 : n > m;
}

/* name=value pairs, sorted by name, then value. */
static const char *query_problem(const char *query)
{
    const char *last = "", *p = query;
    size_t last_n = 0, last_len = 0;

    while (*p != '\0') {
        size_t len = strcspn(p, "&"), n = strcspn(p, "=&");
        int order = name_order(last, last_n, p, n);
        if (n == 0 || n == len)
            return "each query parameter must be name=value to be signed";
        if (!is_canonical(p, n, "") || !is_canonical(p + n + 1, len - n - 1, ""))
            return "the query has characters that cannot be signed";
        if (order > 0 || (order == 0 && name_order(last + last_n, last_len - last_n, p + n, len - n) > 0))
            return "the query must be sorted to be signed";
        last = p;
        last_n = n;
        last_len = len;
        p += len;
        if (*p == '&' && *++p == '\0')
            return "each query parameter must be name=value to be signed";
    }
    return NULL;
}

/* The text of one part in `out`, "" when it is missing or longer than fits. */
static void url_part(CURLU *u, CURLUPart part, unsigned flags, char *out, size_t size)
{
    char *s = NULL;

    out[0] = '\0';
    if (curl_url_get(u, part, &s, flags) == CURLUE_OK)
        snprintf(out, size, "%s", s);
    curl_free(s);
}

/* Is the path, as parsed, the one that was given? The parser resolves dot segments. */
static int path_is_given(const char *path, const char *given)
{
    size_t n = strcspn(given, "?#");

    return n == 0 || (n == strlen(path) && memcmp(path, given, n) == 0);
}

/* A signed URL must need no change by anybody on the way. Returns what is wrong, or NULL. */
static const char *signing_problem(const struct transfer *t, const char *url)
{
    char *path = NULL, *query = NULL;
    const char *problem = NULL, *given = strstr(url, "://");

    given = given != NULL ? given + 3 + strcspn(given + 3, "/?#") : "";
    curl_url_get(t->url, CURLUPART_PATH, &path, 0);
    curl_url_get(t->url, CURLUPART_QUERY, &query, 0);
    if (strchr(given, '#') != NULL)
        problem = "a fragment cannot be signed";
    else if (strchr(given, '?') != NULL)
        problem = query != NULL && *query != '\0' ? query_problem(query) : "an empty query cannot be signed";
    if (problem == NULL && (path == NULL || !path_is_given(path, given)))
        problem = "a path with dot segments cannot be signed";
    if (problem == NULL)
        problem = path_problem(path);
    curl_free(path);
    curl_free(query);
    return problem;
}

/* Parses the URL and notes what messages may tell of it. Returns what is wrong, or NULL. */
static const char *parse_url(struct transfer *t, const struct request *r)
{
    char scheme[8], host[128], port[8], path[100], user[8];

    if (curl_url_set(t->url, CURLUPART_URL, r->url, 0) != CURLUE_OK)
        return "the URL is not valid";
    url_part(t->url, CURLUPART_SCHEME, 0, scheme, sizeof scheme);
    url_part(t->url, CURLUPART_HOST, 0, host, sizeof host);
    url_part(t->url, CURLUPART_PORT, 0, port, sizeof port);
    url_part(t->url, CURLUPART_PATH, 0, path, sizeof path);
    url_part(t->url, CURLUPART_USER, 0, user, sizeof user);
    snprintf(t->place, sizeof t->place, " %s://%s%s%s%s", scheme, host, port[0] ? ":" : "", port, path);
    if (strcmp(scheme, "http") != 0 && strcmp(scheme, "https") != 0)
        return "only http and https";
    if (r->signs && user[0] != '\0')
        return "a signed request has no user in its URL";
    return r->signs ? signing_problem(t, r->url) : NULL;
}

#endif
