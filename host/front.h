/*
 * front.h: the event loop of a process and the coroutines that run in it. See front.c.
 *
 * A task is one coroutine. Its handle is a `struct task_ref`: tasks are pooled and never freed while the loop lives, so a
 * stale handle may be looked at, and its generation tells that it is stale.
 */
#ifndef ATELIER_FRONT_H
#define ATELIER_FRONT_H

#include <stddef.h>
#include <stdint.h>

#include <lua.h>

#define FRONT_FDS_PER_WAIT 16 /* descriptors that one task may wait for at once */
#define FRONT_NEVER INT64_MAX

struct front;
struct task;

/* ==== descriptors ============================================================================== */

/* Something that is told when a descriptor is ready; embedded in its owner. */
struct source {
    void (*ready)(struct source *source, uint32_t events);
    int fd;
};

/* Watches source->fd for epoll `events`, replacing what was watched before. Returns 0 or an errno. */
int front_watch(struct front *f, struct source *source, uint32_t events);

/* Stops telling the source. No system call: events that still come find nobody. */
void front_unwatch(struct front *f, const struct source *source);

/* The same for a descriptor that stays open elsewhere: the kernel is told to look no more. */
void front_forget(struct front *f, const struct source *source);

/* Who is told of a descriptor, or NULL. */
const struct source *front_watcher(const struct front *f, int fd);

/* ==== tasks ==================================================================================== */

enum task_state {
    TASK_FREE = 0, /* in the pool */
    TASK_RUNNING,  /* inside lua_resume, or about to start */
    TASK_YIELDED,  /* waits for its one pending operation */
    TASK_DEAD      /* ended; its closing is under way */
};

enum task_end {
    TASK_DONE = 0, /* its function returned */
    TASK_FAILED,   /* it raised; the text has the traceback */
    TASK_TOO_LONG, /* one slice exceeded the script budget */
    TASK_CANCELLED
};

enum task_op {
    OP_NONE = 0,
    OP_READY,  /* in the queue of those to be resumed */
    OP_SLEEP,
    OP_FDS,
    OP_OBJECT, /* an object with socket(), events(), timeout(), step() waits */
    OP_PARK    /* until somebody wakes it */
};

struct task_source {
    struct source source;
    struct task *task;
};

struct task {
    enum task_state state;
    unsigned generation;
    struct front *front;
    lua_State *co;
    int ref; /* keeps co */
    int nargs; /* values on its stack that the next resume passes */

    enum task_op op;
    void (*cleanup)(struct task *t); /* of the pending operation; undoes what it registered */
    struct task_source sources[FRONT_FDS_PER_WAIT];
    int nsources;
    int ready_fd;          /* which descriptor woke it */
    uint32_t ready_events;
    int timed_out;         /* why it was resumed */
    enum task_op waited;   /* the operation that put it into the queue */
    int cancelled;         /* to be ended at the next chance */
    int is_private;        /* OP_PARK: only its owner wakes it */

    int64_t deadline;
    size_t heap;           /* place in the heap of deadlines, from 1; 0: in none */
    struct task *next;     /* in the queue of ready ones, or in the pool */
    struct task *list_prev, *list_next; /* of all that live */

    /* Told once, when the coroutine is over; `text` is NULL unless it failed. Must not raise. */
    void (*on_end)(struct task *t, enum task_end how, const char *text);
    void *owner;
};

struct task_ref {
    struct task *task;
    unsigned generation;
};

/* The task of a handle, or NULL when it is over. */
struct task *task_of(struct task_ref ref);
struct task_ref task_handle(struct task *t);

/*
 * A new task, with an empty stack, or NULL for want of memory. Push a function and its `nargs` arguments on t->co, then call
 * task_start (now; only from the loop itself) or task_queue (in the next turn).
 */
struct task *task_new(struct front *f);
void task_start(struct task *t, int nargs);
void task_queue(struct task *t, int nargs);

/* Gives back a task that was never started. */
void task_drop(struct task *t);

/*
 * Ends a task: its pending operation is cleaned up, the coroutine closed (its __close run), on_end told. Happens in the next
 * turn of the loop, or when the operation of an object is over, since that cannot be left halfway.
 */
void task_cancel(struct task *t);

/* The running task when `L` is its coroutine; NULL inside coroutines of its own, and outside the loop. */
struct task *task_current(const struct front *f, const lua_State *L);

/*
 * Begins the one pending operation of the running task, which the caller then lets yield with lua_yieldk(L, 0, …).
 * `deadline` in front_now milliseconds, or FRONT_NEVER.
 */
void task_pend(struct task *t, enum task_op op, int64_t deadline);

/* Adds a descriptor to the pending OP_FDS. Returns 0, or an errno; then task_unpend. */
int task_pend_fd(struct task *t, int fd, uint32_t events);
void task_unpend(struct task *t);

/* Resumes a parked task with the `nargs` values that the caller pushed on its stack. */
void task_wake(struct task *t, int nargs);

/* ==== the loop ================================================================================= */

struct front_hooks {
    int64_t (*due)(void *arg);  /* when `turn` wants to be called even if nothing happens */
    void (*turn)(void *arg);    /* once a turn, after descriptors, deadlines and tasks */
    void (*report)(void *arg, const char *text); /* a background task failed; the text has its traceback */
    void *arg;
};

/* One loop per process. NULL and errno when it cannot be made. `slice_ms` is CPU time. */
struct front *front_open(lua_State *L, int slice_ms, const struct front_hooks *hooks);
void front_run(struct front *f);
void front_stop(struct front *f);
/* Cancels what lives, waits for nothing. */
void front_close(struct front *f);

lua_State *front_state(const struct front *f);
int64_t front_now(void);
int front_task_count(const struct front *f);

#endif
