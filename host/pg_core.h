/*
 * pg_core.h: one libpq connection and the one operation that may be under way on it.
 *
 * Owns the state machine: an operation is begun, its bytes are queued by a PQsend… function, and then
 * `pg_step` moves it on whenever the socket is ready, without ever waiting, until it is done. Who waits
 * (a poll loop or the host's event loop) is the caller's affair. Must not know Lua: nothing in here can
 * raise, so no state is ever left halfway.
 */
#ifndef ATELIER_PG_CORE_H
#define ATELIER_PG_CORE_H

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <libpq-fe.h>

#include "managed.h" /* for the count of live handles alone */
#include "pg_cancel.h"

struct lua_State;
struct pg_conn;

enum pg_state {
    PG_CLOSED = 0, /* by the program, or not yet open */
    PG_OPEN,
    PG_LOST        /* by the world: every call fails with code "connection" */
};

enum pg_phase {
    PG_IDLE = 0,
    PG_CONNECT,  /* PQconnectPoll */
    PG_BUSY,     /* statements are sent, results are read */
    PG_FLUSH,    /* COPY data is on its way out */
    PG_COPY_OUT, /* a piece of COPY data is awaited */
    PG_NOTIFY    /* a notification is awaited */
};

#define PG_CANCEL_AGAIN 250 /* ms: a request that comes before its statement has begun does nothing */
#define PG_NOTICES_MAX 100 /* a runaway RAISE NOTICE must not eat the memory */

struct pg_op {
    enum pg_phase phase;
    const char *name;      /* for messages */
    unsigned generation;   /* tells a stale resume from a due one */
    int64_t deadline;      /* monotonic milliseconds */
    int64_t cancel_again;  /* when to repeat a cancel request that had no effect */
    short events;          /* what poll should wait for */
    unsigned char active;  /* begun and not yet ended */
    unsigned char done;    /* nothing more to wait for */
    unsigned char yields;  /* waits in a coroutine */
    unsigned char calling; /* inside a function of the caller's (COPY source or sink) */
    unsigned char expired; /* past its deadline, or given up: a cancel is under way */
    unsigned char pipeline;
    unsigned char keep_last; /* of many results keep only the last one */
    unsigned char refused;   /* a COPY came where none can be served */
    unsigned char share;     /* equal JSON texts in a column share one value */
    unsigned char bare;      /* rows alone are wanted */
    char copy;               /* 'i', 'o' or 0: the COPY that is expected */
    int statement;           /* of a pipeline: the one being answered, from 0 */
    int failed;              /* of a pipeline: the one that failed, or -1 */
    int top;                 /* of the Lua stack, restored on resume */
    /* The binding's continuation, which turns results into values; never called from here. */
    int (*finish)(struct lua_State *L, struct pg_conn *c);
};

struct pg_conn {
    PGconn *pg;
    pid_t owner; /* a forked child must not speak on its parent's connection */
    enum pg_state state;
    int yields;
    int cancel_ms;           /* how long a cancel may take */
    int in_transaction;      /* inside the function of conn:transaction */
    struct pg_op op;
    struct pg_cancel *cancel;
    PGresult **results;
    int n_results, cap_results;
    char *piece;             /* of a COPY out */
    int piece_size;
    PGnotify *notify;        /* the first one that ended a wait */
    PGresult *error;         /* the first failed result of the last operation */
    const char *fail_code;   /* set when the failure is not the server's */
    char fail_text[512];
    int want_notices, n_notices;
    char **notices[PG_NOTICES_MAX];
};

/* ==== what the last operation left ============================================================= */

static void pg_drop_results(struct pg_conn *c)
{
    while (c->n_results > 0)
        PQclear(c->results[--c->n_results]);
    if (c->piece != NULL)
        PQfreemem(c->piece);
    if (c->notify != NULL)
        PQfreemem(c->notify);
    c->piece = NULL;
    c->notify = NULL;
}

static void pg_drop_notices(struct pg_conn *c)
{
    while (c->n_notices > 0)
        free(c->notices[--c->n_notices]);
}

static void pg_drop_error(struct pg_conn *c)
{
    PQclear(c->error);
    c->error = NULL;
    c->fail_code = NULL;
    c->fail_text[0] = '\0';
}

/* Copies a library text: one line, without the newline at its end. */
static void pg_set_failure(struct pg_conn *c, const char *code, const char *what, const char *text)
{
    size_t n;

    c->fail_code = code;
    snprintf(c->fail_text, sizeof c->fail_text, "%s%s%s", what, *what && *text ? ": " : "", text);
    n = strlen(c->fail_text);
    while (n > 0 && c->fail_text[n - 1] == '\n')
        c->fail_text[--n] = '\0';
    for (char *p = c->fail_text; (p = strchr(p, '\n')) != NULL;)
        *p = ' ';
}

/* ==== closing ================================================================================== */

/*
 * In a forked child PQfinish would say goodbye in the parent's name and end its session, so there the
 * socket is first replaced by one that goes nowhere.
 */
static void pg_disconnect(struct pg_conn *c)
{
    PGconn *pg = c->pg;

    c->pg = NULL;
    if (pg == NULL)
        return;
    if (c->owner != getpid() && PQsocket(pg) >= 0) {
        int null = open("/dev/null", O_RDWR | O_CLOEXEC);
        if (null >= 0) {
            dup2(null, PQsocket(pg));
            close(null);
        }
    }
    PQfinish(pg);
    managed_live--;
}

static void pg_end(struct pg_conn *c)
{
    c->op.phase = PG_IDLE;
    c->op.active = 0;
    c->op.done = 1;
    c->op.calling = 0;
    c->op.generation++;
    pg_cancel_drop(c->cancel);
    c->cancel = NULL;
}

/* Frees all; harmless when repeated. */
static void pg_close(struct pg_conn *c)
{
    pg_end(c);
    pg_drop_results(c);
    pg_drop_notices(c);
    pg_drop_error(c);
    free(c->results);
    c->results = NULL;
    c->cap_results = 0;
    pg_disconnect(c);
    c->state = PG_CLOSED;
}

/* The connection is of no more use. The operation is done, its failure is recorded. Returns 1. */
static int pg_lose(struct pg_conn *c, const char *code, const char *what, const char *text)
{
    pg_set_failure(c, code, what, text);
    pg_drop_results(c);
    pg_disconnect(c);
    c->state = PG_LOST;
    c->op.phase = PG_IDLE;
    c->op.done = 1;
    return 1;
}

/* Lost by what libpq found out; the server's own last word is the better reason. */
static int pg_broken(struct pg_conn *c)
{
    const char *last = c->error != NULL ? PQresultErrorField(c->error, PG_DIAG_MESSAGE_PRIMARY) : NULL;
    return pg_lose(c, "connection", "connection lost", last != NULL ? last : PQerrorMessage(c->pg));
}

/* ==== reading results ========================================================================== */

enum { PG_MORE = 0, PG_DONE = 1, PG_WAIT = 2 };

static int pg_keep(struct pg_conn *c, PGresult *r)
{
    if (c->op.keep_last)
        pg_drop_results(c);
    if (c->n_results == c->cap_results) {
        int cap = c->cap_results > 0 ? c->cap_results * 2 : 4;
        PGresult **grown = realloc(c->results, (size_t)cap * sizeof *grown);
        if (grown == NULL) {
            PQclear(r);
            return pg_lose(c, "connection", "out of memory", "");
        }
        c->results = grown;
        c->cap_results = cap;
    }
    c->results[c->n_results++] = r;
    return PG_MORE;
}

static void pg_keep_error(struct pg_conn *c, PGresult *r)
{
    if (c->error == NULL) {
        c->error = r;
        c->op.failed = c->op.statement;
    } else {
        PQclear(r);
    }
}

/* Reads COPY data that nobody wants. */
static int pg_discard_copy(struct pg_conn *c)
{
    char *piece;
    int n;

    while ((n = PQgetCopyData(c->pg, &piece, 1)) > 0)
        PQfreemem(piece);
    return n == 0 ? PG_WAIT : PG_MORE;
}

/* A COPY has begun. If nobody asked for one, it is ended at once and its data goes nowhere. */
static int pg_take_copy(struct pg_conn *c, ExecStatusType status)
{
    if (c->op.pipeline)
        return pg_lose(c, "connection", "connection lost", "COPY is not possible in a pipeline");
    if (!c->op.expired && ((status == PGRES_COPY_IN && c->op.copy == 'i') ||
                           (status == PGRES_COPY_OUT && c->op.copy == 'o')))
        return PG_DONE;
    c->op.refused = !c->op.expired;
    if (status == PGRES_COPY_OUT)
        return pg_discard_copy(c);
    if (PQputCopyEnd(c->pg, "the caller has no data to send") < 0)
        return pg_broken(c);
    PQflush(c->pg);
    return PG_MORE;
}

static int pg_take_result(struct pg_conn *c, PGresult *r)
{
    ExecStatusType status = PQresultStatus(r);

    switch (status) {
    case PGRES_TUPLES_OK:
    case PGRES_COMMAND_OK:
    case PGRES_EMPTY_QUERY:
        return pg_keep(c, r);
    case PGRES_COPY_IN:
    case PGRES_COPY_OUT:
    case PGRES_COPY_BOTH:
        PQclear(r);
        return pg_take_copy(c, status);
    case PGRES_PIPELINE_SYNC:
        PQclear(r);
        PQexitPipelineMode(c->pg);
        c->op.pipeline = 0;
        return PG_DONE;
    case PGRES_PIPELINE_ABORTED:
        PQclear(r);
        return PG_MORE;
    default:
        pg_keep_error(c, r);
        return PG_MORE;
    }
}

/* The end of one statement's results: outside a pipeline that is all. */
static int pg_take_end(struct pg_conn *c)
{
    c->op.statement++;
    return c->op.pipeline ? PG_MORE : PG_DONE;
}

static int pg_collect(struct pg_conn *c)
{
    int more = PG_MORE;

    while (more == PG_MORE && !PQisBusy(c->pg)) {
        PGresult *r = PQgetResult(c->pg);
        more = r == NULL ? pg_take_end(c) : pg_take_result(c, r);
        if (c->pg != NULL && PQstatus(c->pg) == CONNECTION_BAD)
            return pg_broken(c);
    }
    return more == PG_DONE;
}

/* After a failed read: libpq may hold the server's last words, and never waits for more of them. */
static int pg_last_words(struct pg_conn *c)
{
    PGresult *r;

    for (int i = 0; i < 3 && (r = PQgetResult(c->pg)) != NULL; i++) {
        if (PQresultStatus(r) == PGRES_FATAL_ERROR)
            pg_keep_error(c, r);
        else
            PQclear(r);
    }
    return pg_broken(c);
}

/* ==== one step per phase: each returns whether the phase is over ================================ */

/* PQconnectPoll must not be called before the socket is ready for it. */
static int pg_step_connect(struct pg_conn *c)
{
    struct pollfd p = {.fd = PQsocket(c->pg), .events = c->op.events};

    if (poll(&p, 1, 0) == 0)
        return 0;
    switch (PQconnectPoll(c->pg)) {
    case PGRES_POLLING_OK:
        return 1;
    case PGRES_POLLING_READING:
        c->op.events = POLLIN;
        return 0;
    case PGRES_POLLING_WRITING:
        c->op.events = POLLOUT;
        return 0;
    default:
        return pg_lose(c, "connection", "", PQerrorMessage(c->pg));
    }
}

static int pg_step_busy(struct pg_conn *c)
{
    int unsent = PQflush(c->pg);
    int alive = PQconsumeInput(c->pg);

    if (pg_collect(c))
        return 1;
    if (!alive)
        return pg_last_words(c);
    c->op.events = (short)(unsent == 1 ? POLLIN | POLLOUT : POLLIN);
    return 0;
}

static int pg_step_flush(struct pg_conn *c)
{
    int unsent = PQflush(c->pg);

    if (unsent == 0)
        return 1;
    if (unsent < 0 || !PQconsumeInput(c->pg))
        return pg_last_words(c);
    c->op.events = POLLIN | POLLOUT;
    return 0;
}

/* Hands out one piece in c->piece; at the end goes on to read the statement's result. */
static int pg_step_copy_out(struct pg_conn *c)
{
    int n = PQgetCopyData(c->pg, &c->piece, 1);

    if (n == 0) {
        if (!PQconsumeInput(c->pg))
            return pg_last_words(c);
        n = PQgetCopyData(c->pg, &c->piece, 1);
    }
    c->piece_size = n;
    c->op.events = POLLIN;
    if (n >= 0)
        return n > 0;
    c->op.phase = PG_BUSY;
    c->op.copy = 0;
    return pg_step_busy(c);
}

static int pg_step_notify(struct pg_conn *c)
{
    int alive = 1;

    c->op.events = POLLIN;
    if ((c->notify = PQnotifies(c->pg)) == NULL) {
        alive = PQconsumeInput(c->pg);
        c->notify = PQnotifies(c->pg);
    }
    if (c->notify == NULL && !alive)
        return pg_last_words(c);
    return c->notify != NULL;
}

/* ==== deadlines ================================================================================ */

/*
 * Gives an operation up: the server is asked to cancel, and what it still sends is read and dropped, so
 * that the connection stays usable. If no answer comes within cancel_ms, the connection is lost.
 */
static void pg_give_up(struct pg_conn *c)
{
    if (PQtransactionStatus(c->pg) == PQTRANS_ACTIVE || c->op.pipeline)
        c->cancel = pg_cancel_start(c->pg);
    c->op.cancel_again = pg_now() + PG_CANCEL_AGAIN;
    c->op.expired = 1;
    c->op.copy = 0;
    c->op.phase = PG_BUSY;
    c->op.deadline = pg_now() + c->cancel_ms;
}

/* The deadline has passed. Returns whether the operation is over with that. */
static int pg_expire(struct pg_conn *c)
{
    if (c->op.phase == PG_NOTIFY)
        return 1;
    if (c->op.phase == PG_CONNECT)
        return pg_lose(c, "timeout", "", "no connection in time");
    if (c->op.expired)
        return pg_lose(c, "timeout", "", "no answer in time, nor to the cancel request: connection given up");
    pg_give_up(c);
    return 0;
}

/* The request was taken, and still the statement runs: it came too early. */
static void pg_cancel_repeat(struct pg_conn *c)
{
    if (c->cancel == NULL || pg_now() < c->op.cancel_again || !pg_cancel_wait(c->cancel, 0))
        return;
    pg_cancel_drop(c->cancel);
    c->cancel = pg_cancel_start(c->pg);
    c->op.cancel_again = pg_now() + PG_CANCEL_AGAIN;
}

/*
 * A cancel request that is still on its way would hit the next statement, so the operation is not over
 * before the request is. The wait is short: normally it is the request that ended the statement.
 */
static int pg_settle(struct pg_conn *c)
{
    int64_t left = c->op.deadline - pg_now();

    if (c->cancel != NULL && c->pg != NULL && !pg_cancel_wait(c->cancel, left > 0 ? (int)left : 0))
        return pg_lose(c, "timeout", "", "the cancel request got no answer: connection given up");
    pg_cancel_drop(c->cancel);
    c->cancel = NULL;
    return 1;
}

/* ==== the interface ============================================================================ */

static int pg_advance(struct pg_conn *c)
{
    switch (c->op.phase) {
    case PG_CONNECT:
        return pg_step_connect(c);
    case PG_BUSY:
        return pg_step_busy(c);
    case PG_FLUSH:
        return pg_step_flush(c);
    case PG_COPY_OUT:
        return pg_step_copy_out(c);
    case PG_NOTIFY:
        return pg_step_notify(c);
    default:
        return 1;
    }
}

/* Moves the operation on as far as it goes without waiting; returns whether it (or its stage) is over. */
static int pg_step(struct pg_conn *c)
{
    if (!c->op.done)
        c->op.done = (unsigned char)pg_advance(c);
    if (!c->op.done && pg_now() >= c->op.deadline)
        c->op.done = (unsigned char)(pg_expire(c) || pg_advance(c));
    if (!c->op.done)
        pg_cancel_repeat(c);
    else if (c->cancel != NULL)
        pg_settle(c);
    return c->op.done;
}

/* When the operation wants to be stepped even though its socket is silent. */
static int64_t pg_due(const struct pg_conn *c)
{
    return c->cancel != NULL && c->op.cancel_again < c->op.deadline ? c->op.cancel_again : c->op.deadline;
}

/*
 * Waits for the socket, at most until the operation is due and at most `limit` ms. Returns 1 when it is
 * ready, 0 when not, -1 when a signal ended a wait for notifications: the program may have to stop.
 */
static int pg_poll(const struct pg_conn *c, int64_t limit)
{
    struct pollfd p = {.fd = -1, .events = POLLIN};
    int64_t until = pg_now() + limit;
    int ready;

    if (c->pg == NULL)
        return 1;
    p.fd = PQsocket(c->pg);
    if (c->op.active && !c->op.done) {
        p.events = c->op.events;
        until = pg_due(c) < until ? pg_due(c) : until;
    }
    do {
        int64_t left = until - pg_now();
        ready = poll(&p, 1, left <= 0 ? 0 : left > 3600000 ? 3600000 : (int)left);
    } while (ready < 0 && errno == EINTR && c->op.phase != PG_NOTIFY);
    return ready < 0 && errno != EINTR ? 1 : ready;
}

/* Opens the next stage of an operation: something has been queued, and the socket is to be waited for. */
static void pg_stage(struct pg_conn *c, enum pg_phase phase, int (*finish)(struct lua_State *, struct pg_conn *))
{
    c->op.phase = phase;
    c->op.finish = finish;
    c->op.done = 0;
    c->op.events = POLLIN;
}

/* Begins an operation. The caller made sure that none is active, and that the connection is open. */
static void pg_begin(struct pg_conn *c, const char *name, int64_t timeout_ms)
{
    unsigned generation = c->op.generation + 1;

    pg_drop_results(c);
    pg_drop_error(c);
    memset(&c->op, 0, sizeof c->op);
    c->op.generation = generation;
    c->op.name = name;
    c->op.failed = -1;
    c->op.active = 1;
    c->op.deadline = pg_now() + timeout_ms;
}

/* Ends an operation whose owner is gone; blocks for cancel_ms at most. */
static void pg_abandon(struct pg_conn *c)
{
    if (c->pg != NULL && c->op.phase == PG_CONNECT)
        pg_lose(c, "closed", "", "given up while connecting");
    if (c->pg != NULL && c->op.phase != PG_NOTIFY && c->op.phase != PG_IDLE) {
        if (!c->op.expired) /* else a cancel request is under way already, which must not hit the next statement */
            pg_give_up(c);
        c->op.done = 0;
        while (!pg_step(c))
            pg_poll(c, c->cancel_ms);
    }
    pg_end(c);
}

/* Undoes a transaction whose owner is gone, lest the next caller's work end in it; blocks for cancel_ms at most. */
static void pg_roll_back(struct pg_conn *c)
{
    c->in_transaction = 0;
    if (c->pg == NULL || PQtransactionStatus(c->pg) == PQTRANS_IDLE)
        return;
    pg_begin(c, "rollback", c->cancel_ms);
    pg_stage(c, PG_BUSY, NULL);
    if (!PQsendQuery(c->pg, "rollback"))
        pg_broken(c);
    while (!pg_step(c))
        pg_poll(c, c->cancel_ms);
    if (c->pg != NULL && PQtransactionStatus(c->pg) != PQTRANS_IDLE)
        pg_lose(c, "connection", "", "an abandoned transaction could not be rolled back");
    pg_end(c);
}

#endif
