/*
 * httpd_server.h: what the parts of the HTTP server share.
 *
 * httpd_door.c lets clients in, httpd_server.c takes requests from libmicrohttpd, httpd_check.c judges their framing,
 * httpd_refusal.c says no, httpd_writer.c writes files and streams itself, lua_httpd.c and the headers that it includes are the face for Lua.
 */
#ifndef ATELIER_HTTPD_SERVER_H
#define ATELIER_HTTPD_SERVER_H

#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <time.h>

#include <lua.h>
#include <microhttpd.h>

#include "front.h"

#define HTTPD_METHOD_MAX 32
#define DOOR_SPARE 64 /* connections above the limit, while others end for them */
#define HTTPD_MEASURED 16384 /* responses from this size: how much of one arrived is looked up when it is cut */
#define HTTPD_SHORT_FILE (64 << 20) /* up to so many bytes libmicrohttpd sends, and keeps the connection */

/* ==== limits =================================================================================== */

struct httpd_limits {
    int64_t header_bytes, header_count, target_bytes, body_bytes;
    int64_t header_ms, body_ms, handler_ms, response_ms, idle_ms, stall_ms, half_close_ms;
    int64_t min_rate; /* bytes a second; a long response may take this much longer */
    int64_t connections, requests; /* at once; on one connection */
    int64_t stream_bytes; /* queued before write() waits */
    int64_t slice_ms;
};

/* ==== a response that the server writes itself ================================================= */

struct piece {
    struct piece *next;
    size_t size, at, framing; /* framing: bytes of it that are no payload */
    char bytes[];
};

enum writer_state {
    WRITER_NONE = 0,
    WRITER_SENDING,
    WRITER_LINGER, /* all handed to the kernel; until the client has it */
    WRITER_DONE
};

struct writer {
    enum writer_state state;
    struct piece *first, *last;
    size_t queued;
    int file;            /* -1: none */
    off_t offset;
    uint64_t file_left;
    uint64_t head_bytes; /* and other framing */
    uint64_t handed;     /* to the kernel, of all */
    int is_stream, is_chunked;
    int is_measured;     /* a stream of a length that was told: `unsaid` of it are still to be written */
    uint64_t unsaid;
    int is_ended;        /* nothing more comes */
    int is_armed;        /* waits for the socket to take more */
    int64_t progress;    /* when the client last took something */
    uint64_t left;       /* while it lingers: what the client had not confirmed when it last took something */
    uint64_t discarded;
};

/* ==== connections and requests ================================================================= */

enum request_phase {
    REQUEST_LINE = 0, /* its first line is there */
    REQUEST_BODY,
    REQUEST_HANDLER,  /* the handler runs or waits */
    REQUEST_ANSWER,   /* libmicrohttpd writes the response */
    REQUEST_WRITER,   /* we write it */
    REQUEST_OVER
};

struct server;
struct request;
struct lingerer;

struct connection {
    struct source source;
    struct server *server;
    struct connection *prev, *next;
    struct connection *older, *younger; /* in the line of those on which nothing is under way */
    int is_in_line;
    struct MHD_Connection *mhd;
    struct request *request;
    int64_t deadline;   /* of what is under way, FRONT_NEVER: none */
    int64_t half_closed; /* when the client said that it will send no more; 0: it did not */
    struct request *unconfirmed; /* their answers are handed over, but not known to have arrived */
    uint64_t seen;      /* confirmed at the last look */
    int64_t progress;   /* when that had grown */
    int64_t served;
    int is_gone;
    int is_told; /* refused on the bare socket */
    char peer[48];
    int peer_port;
};

struct request {
    struct connection *connection;
    struct server *server;
    enum request_phase phase;
    uint64_t id;
    int64_t started; /* microseconds */
    char method[HTTPD_METHOD_MAX];
    int is_head, is_http10;
    char *target;       /* as it came, without its end */
    const char *raw;    /* where it lies in libmicrohttpd's buffer: only to compare addresses */
    size_t target_size;
    char *path;         /* decoded */
    size_t path_size;
    char *query;        /* as it came, or NULL */
    char *body;
    size_t body_size, body_room;
    int64_t body_limit;
    int has_body, is_suspended, in_callback, must_close, is_shut;

    struct task_ref task;
    int is_answered;    /* a response was given */
    int is_late;        /* answered for a handler that took too long */
    int is_writing;     /* the task waits for room in the writer */
    int64_t answered_at;
    struct MHD_Response *response;
    unsigned status;
    uint64_t length;    /* of the response's body */
    uint64_t head_size; /* bytes before it, as libmicrohttpd writes them */
    uint64_t begins;    /* where the response begins, in bytes that the client confirms */
    struct request *next; /* unconfirmed */
    struct writer writer;

    uint64_t sent;
    int is_finished;
    struct request **object; /* the Lua object's pointer to this, or NULL */
};

/* How the Lua side takes part. No function raises. */
struct httpd_lua {
    void (*serve)(struct request *r);   /* start the handler */
    int (*accept)(struct request *r);   /* ask how large a body may be; 0 when answered already */
    void (*complete)(struct request *r); /* over: tell, and free it */
    void (*log)(struct server *s, const char *level, const char *text);
};

struct door {
    struct source source; /* the listener */
    struct connection *oldest, *youngest; /* they wait for their clients to say something */
    int spare;        /* a descriptor to let go of when there is no other; -1: none */
    int64_t open_at;  /* 0: it is open */
    uint64_t nended, nturned_away, told;
    uint64_t heard;   /* of those turned away, at the last sweep */
    int64_t wanted;   /* places that they would have needed since the one before */
    int64_t tell_at;
    int64_t peak;     /* connections, since memory was given back last */
};

struct server {
    struct httpd_limits limits;
    const struct httpd_lua *lua;
    struct front *front;
    struct MHD_Daemon *daemon;
    struct source daemon_source;
    int listener;   /* our own descriptor; -1 once closed */
    int port;
    int is_due;     /* libmicrohttpd wants a turn */
    int is_draining, is_stopping;
    int64_t drain_until;
    int64_t next_sweep;
    struct connection *connections;
    int64_t nconnections;
    struct door door;
    struct lingerer *lingerers; /* sockets that only wait for their clients to read a refusal */
    int nlingerers;
    uint64_t next_id;
    uint64_t nrequests, nrefused, ncompleted, nin_flight;
    int64_t ntasks; /* handlers, and completions that are told */
    struct task_ref tick;
    int64_t next_tick, tick_ms;
    struct source signals;
    time_t date_of;
    char date[32];
};

/* ==== httpd_door.c ============================================================================= */

/* Begins to accept. 0 or an errno. */
int door_open(struct server *s);
/* Accepts no more, and closes the listener. */
void door_close(struct server *s);
void door_sweep(struct server *s, int64_t now);
/* Whether it wants to be swept though nobody is there. */
int door_is_due(const struct server *s);
/* Nothing is under way on the connection from now on: it is the last to go when room is needed. */
void door_wait(struct connection *c);
/* Something is, or it ends. */
void door_leave(struct connection *c);
/* Whether it is to end because somebody was turned away, and its own client hardly sends or takes anything. */
int door_wants(struct connection *c, int64_t now);

/* ==== httpd_check.c ============================================================================ */

struct refusal {
    unsigned status;
    const char *code, *message;
};

/*
 * Judges the header block: framing (RFC 9112), the target, limits. Fills method, path, query, has_body of the request.
 * Returns NULL when all is well. `content_length`: -1 when not given.
 */
const struct refusal *httpd_check(struct request *r, const char *method, const char *version, int64_t *content_length);

/* Decodes %XX once, in place; '+' too when `plus`. Returns the size, or -1 for what is no UTF-8 or has a NUL. */
ssize_t httpd_decode(char *text, size_t size, int plus);
int httpd_is_token(const char *s, size_t n);
int httpd_is_header_value(const char *s, size_t n);
int httpd_is_utf8(const char *s, size_t n);

/* ==== httpd_server.c =========================================================================== */

struct MHD_Daemon *httpd_start(struct server *s);
void httpd_stop(struct server *s);
void httpd_drain(struct server *s, int64_t ms);
/* Runs libmicrohttpd and the deadlines; called by the loop once a turn. */
void httpd_turn(struct server *s);
int64_t httpd_due(const struct server *s);

/* Whether the connection will end with this request's answer. */
int httpd_is_last(const struct request *r);
/* A response is ready in r->response: it goes out now or as soon as libmicrohttpd may. */
void httpd_answer(struct request *r);
/* The handler's coroutine is over. */
void httpd_handler_ended(struct request *r);
/* The connection goes, whatever was under way on it. */
void httpd_shut(struct request *r);
void httpd_set_deadline(struct connection *c, int64_t ms);
int httpd_fd(const struct connection *c);
void httpd_request_free(struct request *r);
int64_t httpd_microseconds(void);
/* Bytes that the client's side has confirmed. */
uint64_t httpd_acked(const struct connection *c);
const char *httpd_date(struct server *s);
const char *httpd_reason(unsigned status);

void httpd_log_refusal(const struct connection *c, unsigned status, const char *message);

/* ==== httpd_refusal.c ========================================================================== */

/* Answers with a JSON error; where the request is not read to its end, closes the connection after it. */
void httpd_refuse(struct request *r, unsigned status, const char *code, const char *message);
/* The same on the bare socket, which libmicrohttpd is about to close: for what it refuses itself, and for who is too slow. */
void httpd_refuse_bare(struct connection *c, unsigned status, const char *code, const char *message);
void httpd_sweep_lingerers(struct server *s, int64_t now);
/* A response of ours; libmicrohttpd's own name for it is for its pages alone. */
enum MHD_Result httpd_queue_response(struct MHD_Connection *mhd, unsigned status, struct MHD_Response *response);
/* Whether there is what answers are given with; logs what is amiss. 0 with errno set. */
int httpd_can_answer(struct server *s);
/* Whose pages may read refusals; "*" is any. 0 for want of memory. */
int httpd_allow_origin(const char *origin);
void httpd_forget_origins(void);

/* ==== httpd_writer.c =========================================================================== */

/* Begins a response of our own with this head; 0 for want of memory. The rest of the writer is filled by the caller. */
int writer_begin(struct request *r, const char *head, size_t size);
/* Queues bytes of a body; `framing` of them are not payload. 0 for want of memory. */
int writer_add(struct request *r, const char *bytes, size_t size, size_t framing);
/* A piece of a stream, framed. */
int writer_add_chunk(struct request *r, const char *bytes, size_t size);
void writer_end(struct request *r);
/* Sends what the socket takes. */
void writer_pump(struct request *r);
void writer_ready(struct request *r, uint32_t events);
/* Looks at the deadlines of a writer. */
void writer_sweep(struct request *r, int64_t now);
void writer_abort(struct request *r);
void writer_free(struct request *r);

#endif
