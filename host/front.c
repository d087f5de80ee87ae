/*
 * front.c: one epoll, one coroutine per task, and the only place where a coroutine is resumed.
 *
 * Owns: who is told of a descriptor, deadlines, the queue of tasks that may go on, the state of every task
 * (FREE, RUNNING, YIELDED, DEAD), and the script budget: a slice that burns more CPU time than allowed ends its task.
 * Must not know HTTP, nor what its tasks are for.
 *
 * A task that waits has one pending operation. Whatever ends the wait (a descriptor, a deadline, another task) only puts it
 * into the queue; it is resumed from the loop, never from inside another task. A handle is a task and its generation, so
 * whatever comes late finds nobody.
 */
#include "front.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

#include <lauxlib.h>

#include "call.h"
#include "front_budget.h"

#define EVENTS_A_TURN 256
#define POOL_KEEPS 256 /* coroutines kept for the next task */

/* Who is told of a descriptor. `seq` tells events of an earlier owner of the same number. */
struct slot {
    struct source *source;
    uint32_t seq;
    unsigned char known; /* the kernel has (or had) it in our epoll */
};

struct front {
    lua_State *L;
    int epoll;
    struct slot *slots;
    int nslots;
    struct task **heap;
    size_t nheap, heap_size;
    struct task *ready_head, *ready_tail;
    struct task *pool;
    int npool;
    struct task *tasks; /* all that live */
    int ntasks;
    struct task *current;
    int stopping;
    struct front_hooks hooks;
};

int64_t front_now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

lua_State *front_state(const struct front *f)
{
    return f->L;
}

int front_task_count(const struct front *f)
{
    return f->ntasks;
}

/* ==== descriptors ============================================================================== */

static int grow_slots(struct front *f, int fd)
{
    int n = f->nslots > 0 ? f->nslots : 64;
    struct slot *slots;

    while (n <= fd)
        n *= 2;
    if (n == f->nslots)
        return 1;
    slots = realloc(f->slots, (size_t)n * sizeof *slots);
    if (slots == NULL)
        return 0;
    memset(slots + f->nslots, 0, (size_t)(n - f->nslots) * sizeof *slots);
    f->slots = slots;
    f->nslots = n;
    return 1;
}

int front_watch(struct front *f, struct source *source, uint32_t events)
{
    struct slot *slot;
    struct epoll_event e = {.events = events};
    int first;

    if (source->fd < 0)
        return EBADF;
    if (!grow_slots(f, source->fd))
        return ENOMEM;
    slot = &f->slots[source->fd];
    e.data.u64 = (uint64_t)++slot->seq << 32 | (uint32_t)source->fd;
    /* A number that was closed and opened anew is unknown to the kernel: a wrong guess costs one call. */
    first = slot->known ? EPOLL_CTL_MOD : EPOLL_CTL_ADD;
    if (epoll_ctl(f->epoll, first, source->fd, &e) != 0) {
        int other = errno == ENOENT ? EPOLL_CTL_ADD : errno == EEXIST ? EPOLL_CTL_MOD : 0;
        if (other == 0 || epoll_ctl(f->epoll, other, source->fd, &e) != 0) {
            slot->source = NULL;
            return errno;
        }
    }
    slot->known = 1;
    slot->source = source;
    return 0;
}

void front_unwatch(struct front *f, const struct source *source)
{
    if (source->fd >= 0 && source->fd < f->nslots && f->slots[source->fd].source == source)
        f->slots[source->fd].source = NULL;
}

void front_forget(struct front *f, const struct source *source)
{
    front_unwatch(f, source);
    epoll_ctl(f->epoll, EPOLL_CTL_DEL, source->fd, NULL);
}

const struct source *front_watcher(const struct front *f, int fd)
{
    return fd >= 0 && fd < f->nslots ? f->slots[fd].source : NULL;
}

static void dispatch(struct front *f, const struct epoll_event *e)
{
    int fd = (int)(uint32_t)e->data.u64;
    const struct slot *slot = fd < f->nslots ? &f->slots[fd] : NULL;

    if (slot != NULL && slot->source != NULL && slot->seq == (uint32_t)(e->data.u64 >> 32))
        slot->source->ready(slot->source, e->events);
    else { /* a level-triggered leftover would wake the loop forever */
        struct epoll_event none = {.events = EPOLLONESHOT, .data.u64 = e->data.u64};
        if (slot == NULL || slot->source == NULL)
            epoll_ctl(f->epoll, EPOLL_CTL_MOD, fd, &none);
    }
}

/* ==== deadlines: a binary heap ================================================================= */

static void heap_put(struct front *f, size_t i, struct task *t)
{
    f->heap[i] = t;
    t->heap = i;
}

static void heap_up(struct front *f, size_t i)
{
    struct task *t = f->heap[i];

    for (; i > 1 && t->deadline < f->heap[i / 2]->deadline; i /= 2)
        heap_put(f, i, f->heap[i / 2]);
    heap_put(f, i, t);
}

static void heap_down(struct front *f, size_t i)
{
    struct task *t = f->heap[i];

    for (;;) {
        size_t child = i * 2;
        if (child > f->nheap)
            break;
        if (child < f->nheap && f->heap[child + 1]->deadline < f->heap[child]->deadline)
            child++;
        if (t->deadline <= f->heap[child]->deadline)
            break;
        heap_put(f, i, f->heap[child]);
        i = child;
    }
    heap_put(f, i, t);
}

static void heap_remove(struct front *f, struct task *t)
{
    size_t i = t->heap;
    struct task *last;

    if (i == 0)
        return;
    t->heap = 0;
    last = f->heap[f->nheap--];
    if (last == t)
        return;
    heap_put(f, i, last);
    heap_up(f, i);
    heap_down(f, last->heap);
}

/* There is room: task_new makes it. */
static void heap_add(struct front *f, struct task *t)
{
    heap_put(f, ++f->nheap, t);
    heap_up(f, f->nheap);
}

/* Room for a deadline of each task, so that beginning to wait cannot fail. */
static int reserve_deadline(struct front *f)
{
    size_t n = f->heap_size > 0 ? f->heap_size * 2 : 64;
    struct task **heap;

    if ((size_t)f->ntasks + 2 < f->heap_size)
        return 1;
    heap = realloc(f->heap, n * sizeof(struct task *));
    if (heap == NULL)
        return 0;
    f->heap = heap;
    f->heap_size = n;
    return 1;
}

/* ==== the pending operation ==================================================================== */

static void enqueue(struct task *t)
{
    struct front *f = t->front;

    t->op = OP_READY;
    t->next = NULL;
    if (f->ready_tail != NULL)
        f->ready_tail->next = t;
    else
        f->ready_head = t;
    f->ready_tail = t;
}

static void drop_sources(struct task *t)
{
    for (int i = 0; i < t->nsources; i++)
        front_unwatch(t->front, &t->sources[i].source);
    t->nsources = 0;
}

/* The wait is over, however: its registrations go, the task comes into the queue. */
static void finish_wait(struct task *t)
{
    t->waited = t->op;
    task_unpend(t);
    enqueue(t);
}

void task_unpend(struct task *t)
{
    if (t->op == OP_READY)
        return; /* it leaves the queue when its turn comes */
    if (t->cleanup != NULL)
        t->cleanup(t);
    t->cleanup = NULL;
    heap_remove(t->front, t);
    t->op = OP_NONE;
}

static void on_task_fd(struct source *source, uint32_t events)
{
    struct task *t = ((struct task_source *)(void *)source)->task;

    t->ready_fd = source->fd;
    t->ready_events = events;
    finish_wait(t);
}

void task_pend(struct task *t, enum task_op op, int64_t deadline)
{
    assert(t->state == TASK_RUNNING && t->op == OP_NONE && "a task has one pending operation");
    t->op = op;
    t->timed_out = t->is_private = 0;
    t->ready_fd = -1;
    t->nargs = 0;
    t->cleanup = op == OP_FDS || op == OP_OBJECT ? drop_sources : NULL;
    t->deadline = deadline;
    if (deadline != FRONT_NEVER)
        heap_add(t->front, t);
}

int task_pend_fd(struct task *t, int fd, uint32_t events)
{
    struct task_source *s = &t->sources[t->nsources];
    int err;

    if (t->nsources == FRONT_FDS_PER_WAIT)
        return E2BIG;
    if (front_watcher(t->front, fd) != NULL)
        return EBUSY;
    s->source.fd = fd;
    s->source.ready = on_task_fd;
    s->task = t;
    err = front_watch(t->front, &s->source, events | EPOLLONESHOT);
    if (err == 0)
        t->nsources++;
    return err;
}

void task_wake(struct task *t, int nargs)
{
    assert(t->op == OP_PARK && "only a parked task is woken");
    finish_wait(t);
    t->nargs = nargs;
}

/* ==== objects that wait: socket(), events(), timeout(), step() ================================= */

struct asked {
    lua_State *co; /* the object is on top of its stack */
    int fd;
    uint32_t events;
    double seconds; /* below zero: no end */
    int done;
};

static void call_method(lua_State *L, const char *name)
{
    lua_getfield(L, 2, name);
    lua_pushvalue(L, 2);
    lua_call(L, 1, 1);
}

/* Runs inside call_lua. */
static int ask_object(lua_State *L)
{
    struct asked *a = lua_touserdata(L, 1);
    const char *events;

    call_method(L, "socket");
    a->fd = lua_type(L, -1) == LUA_TNUMBER ? (int)lua_tointeger(L, -1) : -1;
    call_method(L, "events");
    events = luaL_checkstring(L, -1);
    a->events = (strchr(events, 'r') ? EPOLLIN | EPOLLRDHUP : 0) | (strchr(events, 'w') ? EPOLLOUT : 0);
    call_method(L, "timeout");
    a->seconds = lua_type(L, -1) == LUA_TNUMBER ? lua_tonumber(L, -1) : -1;
    return 0;
}

static int step_object(lua_State *L)
{
    struct asked *a = lua_touserdata(L, 1);

    call_method(L, "step");
    a->done = lua_toboolean(L, -1);
    return 0;
}

static int with_object(lua_State *L)
{
    struct asked *a = lua_touserdata(L, 1);

    luaL_checkstack(a->co, 2, NULL);
    lua_pushvalue(a->co, -1);
    lua_xmove(a->co, L, 1);
    return a->done ? step_object(L) : ask_object(L);
}

static int on_object(struct front *f, struct asked *a)
{
    int top = lua_gettop(f->L), ok;

    if (!lua_checkstack(f->L, 8))
        return 0;
    lua_pushcfunction(f->L, with_object);
    lua_pushlightuserdata(f->L, a);
    budget_begin(f->L);
    ok = call_lua(f->L, 1, 0) == LUA_OK;
    budget_end(f->L);
    lua_settop(f->L, top);
    return ok;
}

/* Whether a value that a coroutine yielded is such an object; raises nothing. */
static int is_object(lua_State *co, int nres)
{
    int type = nres == 1 ? lua_type(co, -1) : LUA_TNIL;

    return (type == LUA_TUSERDATA || type == LUA_TTABLE) && lua_checkstack(co, 4);
}

/* Begins to wait for the object on top of the coroutine's stack, which the resume passes back. */
static int pend_object(struct task *t)
{
    struct asked a = {.co = t->co, .fd = -1};
    int64_t deadline = FRONT_NEVER;

    if (!on_object(t->front, &a))
        return 0;
    if (a.seconds >= 0)
        deadline = front_now() + (a.seconds < 1e9 ? (int64_t)(a.seconds * 1000) + 1 : 1000000000000);
    t->state = TASK_RUNNING;
    task_pend(t, OP_OBJECT, a.fd < 0 ? 0 : deadline);
    t->state = TASK_YIELDED;
    t->nargs = 1;
    /* A descriptor that cannot be watched is tried again soon; a silent hang would be worse. */
    if (a.fd >= 0 && task_pend_fd(t, a.fd, a.events) != 0) {
        heap_remove(t->front, t);
        t->deadline = front_now() + 10;
        heap_add(t->front, t);
    }
    return 1;
}

/* ==== life of a task =========================================================================== */

struct task *task_of(struct task_ref ref)
{
    return ref.task != NULL && ref.task->generation == ref.generation && ref.task->state != TASK_FREE &&
                   ref.task->state != TASK_DEAD
               ? ref.task
               : NULL;
}

struct task_ref task_handle(struct task *t)
{
    return (struct task_ref){t, t->generation};
}

struct task *task_current(const struct front *f, const lua_State *L)
{
    return f != NULL && f->current != NULL && f->current->co == L ? f->current : NULL;
}

/* Runs inside call_lua. */
static int make_thread(lua_State *L)
{
    struct task *t = lua_touserdata(L, 1);

    t->co = lua_newthread(L);
    lua_sethook(t->co, NULL, 0, 0); /* inherited, if whoever called the loop had one */
    t->ref = luaL_ref(L, LUA_REGISTRYINDEX);
    return 0;
}

static int give_thread(struct front *f, struct task *t)
{
    int top = lua_gettop(f->L), ok;

    t->ref = LUA_NOREF;
    if (!lua_checkstack(f->L, 8))
        return 0;
    lua_pushcfunction(f->L, make_thread);
    lua_pushlightuserdata(f->L, t);
    ok = call_lua(f->L, 1, 0) == LUA_OK;
    lua_settop(f->L, top);
    return ok;
}

struct task *task_new(struct front *f)
{
    struct task *t = f->pool;

    if (!reserve_deadline(f))
        return NULL;
    if (t != NULL) {
        f->pool = t->next;
        f->npool -= t->ref != LUA_NOREF;
    } else if ((t = calloc(1, sizeof *t)) != NULL) {
        t->front = f;
        t->generation = 1;
        t->waited = OP_NONE;
        t->ref = LUA_NOREF;
    } else {
        return NULL;
    }
    if (t->ref == LUA_NOREF && !give_thread(f, t)) {
        t->next = f->pool;
        f->pool = t;
        return NULL;
    }
    t->state = TASK_RUNNING;
    t->op = t->waited = OP_NONE;
    t->cancelled = t->timed_out = t->nargs = 0;
    t->on_end = NULL;
    t->owner = NULL;
    t->list_prev = NULL;
    t->list_next = f->tasks;
    if (f->tasks != NULL)
        f->tasks->list_prev = t;
    f->tasks = t;
    f->ntasks++;
    return t;
}

/*
 * Into the pool. A coroutine that ended by itself comes along, with an empty stack. Any other is not used again: an error that
 * the budget's hook raised leaves a coroutine that no hook can ever stop.
 */
static void retire(struct task *t, int is_sound)
{
    struct front *f = t->front;

    if (t->list_prev != NULL)
        t->list_prev->list_next = t->list_next;
    else
        f->tasks = t->list_next;
    if (t->list_next != NULL)
        t->list_next->list_prev = t->list_prev;
    f->ntasks--;
    t->state = TASK_FREE;
    t->generation++;
    if (!is_sound || f->npool >= POOL_KEEPS) {
        luaL_unref(f->L, LUA_REGISTRYINDEX, t->ref);
        t->ref = LUA_NOREF;
        t->co = NULL;
    } else {
        f->npool++;
    }
    t->next = f->pool;
    f->pool = t;
}

void task_drop(struct task *t)
{
    lua_settop(t->co, 0);
    retire(t, 1);
}

struct trace {
    lua_State *co;
    const char *message; /* NULL: the error object is on top of its stack */
};

/* Runs inside call_lua: the failure of a coroutine as one text. */
static int push_trace(lua_State *L)
{
    const struct trace *t = lua_touserdata(L, 1);
    const char *text = t->message;

    if (text == NULL && lua_checkstack(t->co, 1)) {
        lua_pushvalue(t->co, -1);
        lua_xmove(t->co, L, 1);
        text = luaL_tolstring(L, -1, NULL);
    }
    luaL_traceback(L, t->co, text, 0);
    return 1;
}

/* Leaves the text on the main stack. */
static const char *trace(struct front *f, lua_State *co, const char *message)
{
    struct trace t = {co, message};

    if (!lua_checkstack(f->L, 8))
        return "an error, and no memory to tell it";
    lua_pushcfunction(f->L, push_trace);
    lua_pushlightuserdata(f->L, &t);
    budget_begin(f->L); /* an error object may have a __tostring */
    call_lua(f->L, 1, 1); /* a failure leaves its text in the same place */
    budget_end(f->L);
    return lua_tostring(f->L, -1);
}

/* Runs what the coroutine has still to close, within a budget of its own. */
static void close_coroutine(struct task *t)
{
    struct front *f = t->front;
    struct task *outer = f->current;

    f->current = t;
    budget_begin(t->co);
    lua_resetthread(t->co);
    budget_end(t->co);
    f->current = outer;
    lua_settop(t->co, 0);
}

static void end_task(struct task *t, enum task_end how, const char *message)
{
    struct front *f = t->front;
    int top = lua_gettop(f->L);
    const char *text = NULL;

    if (how == TASK_FAILED || how == TASK_TOO_LONG)
        text = trace(f, t->co, message);
    t->state = TASK_DEAD;
    if (how != TASK_DONE)
        close_coroutine(t);
    lua_settop(t->co, 0);
    if (t->on_end != NULL)
        t->on_end(t, how, text);
    else if (text != NULL)
        f->hooks.report(f->hooks.arg, text);
    lua_settop(f->L, top);
    retire(t, how == TASK_DONE);
}

/* What a coroutine that yielded waits for. */
static void settle(struct task *t, int nres)
{
    t->state = TASK_YIELDED;
    if (t->op != OP_NONE)
        lua_pop(t->co, nres);
    else if (!is_object(t->co, nres) || !pend_object(t))
        end_task(t, TASK_FAILED, "yielded to the loop, which cannot wait for such a value");
}

/* The one resume point. */
static void resume(struct task *t)
{
    struct front *f = t->front;
    int nres = 0, nargs = t->nargs, status;

    assert(f->current == NULL && "tasks do not nest");
    t->state = TASK_RUNNING;
    t->nargs = 0;
    f->current = t;
    budget_begin(t->co);
    status = lua_resume(t->co, f->L, nargs, &nres);
    f->current = NULL;
    if (budget_end(t->co) && status == LUA_YIELD) {
        if (t->op != OP_NONE)
            task_unpend(t);
        end_task(t, TASK_TOO_LONG, budget_text());
    } else if (status == LUA_YIELD) {
        settle(t, nres);
    } else {
        end_task(t, status == LUA_OK ? TASK_DONE : TASK_FAILED, NULL);
    }
}

void task_start(struct task *t, int nargs)
{
    t->nargs = nargs;
    resume(t);
}

void task_queue(struct task *t, int nargs)
{
    enqueue(t);
    t->nargs = nargs;
    t->state = TASK_YIELDED;
}

void task_cancel(struct task *t)
{
    if (t->cancelled || t->state == TASK_DEAD || t->state == TASK_FREE)
        return;
    t->cancelled = 1;
    if (t->state == TASK_YIELDED && t->op != OP_READY && t->op != OP_OBJECT)
        finish_wait(t);
}

/* A cancelled task whose object is not done yet goes on waiting for it, without running. */
static int must_wait(struct task *t, enum task_op was)
{
    struct asked a = {.co = t->co, .fd = -1, .done = 1};

    if (was != OP_OBJECT || t->nargs != 1)
        return 0;
    return on_object(t->front, &a) && !a.done && pend_object(t);
}

static void run_ready(struct front *f)
{
    struct task *t, *last = f->ready_tail; /* what joins meanwhile is for the next turn */

    while ((t = f->ready_head) != NULL) {
        int is_last = t == last;
        f->ready_head = t->next;
        if (f->ready_head == NULL)
            f->ready_tail = NULL;
        t->op = OP_NONE;
        if (!t->cancelled)
            resume(t);
        else if (!must_wait(t, t->waited))
            end_task(t, TASK_CANCELLED, NULL);
        if (is_last)
            break;
    }
}

/* ==== the loop ================================================================================= */

static int wait_ms(const struct front *f)
{
    int64_t due = f->hooks.due(f->hooks.arg), left;

    if (f->ready_head != NULL)
        return 0;
    if (f->nheap > 0 && f->heap[1]->deadline < due)
        due = f->heap[1]->deadline;
    left = due == FRONT_NEVER ? 60000 : due - front_now();
    return left < 0 ? 0 : left > 60000 ? 60000 : (int)left;
}

static void expire(struct front *f)
{
    int64_t now = front_now();

    while (f->nheap > 0 && f->heap[1]->deadline <= now) {
        struct task *t = f->heap[1];
        t->timed_out = 1;
        finish_wait(t);
    }
}

void front_run(struct front *f)
{
    struct epoll_event events[EVENTS_A_TURN];

    f->stopping = 0;
    while (!f->stopping) {
        int n = epoll_wait(f->epoll, events, EVENTS_A_TURN, wait_ms(f));
        for (int i = 0; i < n; i++)
            dispatch(f, &events[i]);
        expire(f);
        run_ready(f);
        f->hooks.turn(f->hooks.arg);
    }
}

void front_stop(struct front *f)
{
    f->stopping = 1;
}

struct front *front_open(lua_State *L, int slice_ms, const struct front_hooks *hooks)
{
    struct front *f = calloc(1, sizeof *f);

    if (f == NULL)
        return NULL;
    f->L = L;
    f->hooks = *hooks;
    f->epoll = epoll_create1(EPOLL_CLOEXEC);
    if (f->epoll < 0 || !budget_open(slice_ms)) {
        int err = errno;
        if (f->epoll >= 0)
            close(f->epoll);
        free(f);
        errno = err;
        return NULL;
    }
    return f;
}

void front_close(struct front *f)
{
    while (f->tasks != NULL) {
        struct task *t = f->tasks;
        f->ready_head = f->ready_tail = NULL; /* the list of all has them too */
        if (t->op != OP_READY)
            task_unpend(t);
        end_task(t, TASK_CANCELLED, NULL);
    }
    while (f->pool != NULL) {
        struct task *t = f->pool;
        f->pool = t->next;
        luaL_unref(f->L, LUA_REGISTRYINDEX, t->ref);
        free(t);
    }
    budget_close();
    close(f->epoll);
    free(f->heap);
    free(f->slots);
    free(f);
}
