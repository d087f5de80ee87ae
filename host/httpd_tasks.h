/***
 * httpd_tasks.h: what a coroutine of the loop may wait for, and other tasks' handles.
 *
 * Included by lua_httpd.c alone. Must not know requests.
 * @submodule atelier.httpd
 */
#ifndef ATELIER_HTTPD_TASKS_H
#define ATELIER_HTTPD_TASKS_H

#include <sys/epoll.h>

#include "httpd_lua.h"

#define TASK_MT "atelier.httpd.task"

struct task_box {
    struct task_ref ref;
    unsigned loop;
};

/* The task of a handle, or NULL when it, or its loop, is over. */
static struct task *check_handle(lua_State *L)
{
    const struct task_box *box = luaL_checkudata(L, 1, TASK_MT);

    return loop.front != NULL && box->loop == loop.number ? task_of(box->ref) : NULL;
}

static void push_handle(lua_State *L, struct task *t)
{
    struct task_box *box = lua_newuserdatauv(L, sizeof *box, 0);

    box->ref = task_handle(t);
    box->loop = loop.number;
    luaL_setmetatable(L, TASK_MT);
}

/* ==== waiting ================================================================================== */

static int slept(lua_State *L, int status, lua_KContext context)
{
    (void)status;
    (void)context;
    lua_pushboolean(L, 1);
    return 1;
}

/***
 * Waits, while others run.
 * @function sleep
 * @tparam number seconds
 * @treturn boolean true
 */
static int l_sleep(lua_State *L)
{
    int64_t ms = check_ms(L, 1, luaL_checknumber(L, 1));
    struct task *t = check_task(L, "sleep");

    task_pend(t, OP_SLEEP, front_now() + ms);
    return lua_yieldk(L, 0, 0, slept);
}

static uint32_t check_events(lua_State *L, int arg, const char *events)
{
    luaL_argcheck(L, events != NULL && events[0] != '\0' && strspn(events, "rw") == strlen(events), arg,
                  "events must be 'r', 'w' or 'rw'");
    return (strchr(events, 'r') ? EPOLLIN | EPOLLRDHUP : 0) | (strchr(events, 'w') ? EPOLLOUT : 0);
}

static const char *events_name(uint32_t events)
{
    /* An error or a hang-up is found by whoever reads or writes. */
    if (events & (EPOLLERR | EPOLLHUP))
        return "rw";
    if (events & EPOLLOUT)
        return events & (EPOLLIN | EPOLLRDHUP) ? "rw" : "w";
    return "r";
}

/* `many`: whether a list was given, so that the descriptor is part of the answer. */
static int waited(lua_State *L, int status, lua_KContext many)
{
    const struct task *t = task_current(loop.front, L);

    (void)status;
    if (t->timed_out)
        return fail(L, "timeout", "wait: nothing was ready in time");
    if (many)
        lua_pushinteger(L, t->ready_fd);
    lua_pushstring(L, events_name(t->ready_events));
    return many ? 2 : 1;
}

struct wanted {
    int fd;
    uint32_t events;
};

/* Reads the list at 1 before anything is begun: what it holds may raise. */
static int check_list(lua_State *L, struct wanted items[FRONT_FDS_PER_WAIT])
{
    lua_Integer n = luaL_len(L, 1);

    luaL_argcheck(L, n <= FRONT_FDS_PER_WAIT, 1, "too many descriptors");
    for (lua_Integer i = 1; i <= n; i++) {
        int exact = 0;
        lua_Integer fd;
        luaL_argcheck(L, lua_geti(L, 1, i) == LUA_TTABLE, 1, "a list of {fd, events} is needed");
        lua_getfield(L, -1, "fd");
        fd = lua_tointegerx(L, -1, &exact);
        luaL_argcheck(L, exact && fd >= 0 && fd <= INT32_MAX, 1, "fd must be a descriptor");
        luaL_argcheck(L, lua_getfield(L, -2, "events") == LUA_TSTRING, 1, "events must be a string");
        items[i - 1].fd = (int)fd;
        items[i - 1].events = check_events(L, 1, lua_tostring(L, -1));
        lua_pop(L, 3);
    }
    return (int)n;
}

/***
 * Waits until a descriptor is ready. One task at a time may wait for a descriptor.
 * @function wait
 * @param fd the descriptor, or a list of `{fd = integer, events = string}`, as `fds` of an atelier.http multi gives it
 * @tparam[opt] string events "r", "w" or "rw"; with a list nil
 * @tparam[opt] number timeout in seconds; without one it waits for ever
 * @return[1] which events are there: "r", "w" or "rw"; of a list the descriptor, then its events
 * @return[2] nil
 * @treturn[2] string message
 * @treturn[2] string "timeout", or an errno: "EBUSY" (another task waits for it), "EBADF", "EPERM" (a regular file)
 */
static int l_wait(lua_State *L)
{
    struct wanted items[FRONT_FDS_PER_WAIT];
    int is_list = lua_istable(L, 1), n = 1, err = 0;
    int64_t deadline;
    struct task *t;

    if (is_list) {
        n = check_list(L, items);
    } else {
        lua_Integer fd = luaL_checkinteger(L, 1);
        luaL_argcheck(L, fd >= 0 && fd <= INT32_MAX, 1, "not a descriptor");
        items[0].fd = (int)fd;
        items[0].events = check_events(L, 2, luaL_checkstring(L, 2));
    }
    deadline = check_deadline(L, 3);
    luaL_argcheck(L, n > 0 || deadline != FRONT_NEVER, 1, "nothing to wait for");
    t = check_task(L, "wait");
    task_pend(t, OP_FDS, deadline);
    for (int i = 0; i < n && err == 0; i++)
        err = task_pend_fd(t, items[i].fd, items[i].events);
    if (err != 0) {
        task_unpend(t);
        return fail_errno(L, err, "wait", "descriptor");
    }
    return lua_yieldk(L, 0, is_list, waited);
}

static int unparked(lua_State *L, int status, lua_KContext context)
{
    (void)status;
    (void)context;
    if (task_current(loop.front, L)->timed_out)
        return fail(L, "timeout", "park: nobody came in time");
    return lua_gettop(L);
}

/***
 * Waits until another task calls `task:wake`.
 * @function park
 * @tparam[opt] number timeout in seconds; without one it waits for ever
 * @return[1] what was given to `task:wake`
 * @return[2] nil
 * @treturn[2] string message
 * @treturn[2] string "timeout"
 */
static int l_park(lua_State *L)
{
    int64_t deadline = check_deadline(L, 1);
    struct task *t = check_task(L, "park");

    lua_settop(L, 0);
    task_pend(t, OP_PARK, deadline);
    return lua_yieldk(L, 0, 0, unparked);
}

/***
 * The time of a clock that never jumps, with an arbitrary start.
 * @function now
 * @treturn number seconds
 */
static int l_now(lua_State *L)
{
    lua_pushnumber(L, (lua_Number)front_now() / 1000);
    return 1;
}

/* ==== tasks ==================================================================================== */

static struct front *check_loop(lua_State *L, const char *name)
{
    if (loop.front == NULL)
        luaL_error(L, "%s: no server runs", name);
    return loop.front;
}

/***
 * Starts a coroutine in the background, in the next turn of the loop. Its failure is logged.
 * @function spawn
 * @tparam function f
 * @param ... its arguments
 * @treturn[1] task
 * @return[2] nil
 * @treturn[2] string message
 * @treturn[2] string "memory"
 */
static int l_spawn(lua_State *L)
{
    struct front *f = check_loop(L, "spawn");
    int n = lua_gettop(L);
    struct task *t;

    luaL_checktype(L, 1, LUA_TFUNCTION);
    luaL_checkstack(L, n + 4, NULL);
    t = task_new(f);
    if (t == NULL || !lua_checkstack(t->co, n + 1)) {
        if (t != NULL)
            task_drop(t);
        return fail(L, "memory", "spawn: not enough memory");
    }
    for (int i = 1; i <= n; i++)
        lua_pushvalue(L, i);
    lua_xmove(L, t->co, n);
    task_queue(t, n - 1);
    push_handle(L, t); /* should this raise, the task runs all the same */
    return 1;
}

/***
 * The task that calls.
 * @function current
 * @treturn[1] task
 * @treturn[2] nil outside the loop's coroutines
 */
static int l_current(lua_State *L)
{
    struct task *t = task_current(loop.front, L);

    if (t == NULL)
        lua_pushnil(L);
    else
        push_handle(L, t);
    return 1;
}

/***
 * Lets a task that is in `park` go on.
 * @function task:wake
 * @param ... what its `park` returns
 * @treturn boolean whether it was parked; if not, nothing happens
 */
static int l_task_wake(lua_State *L)
{
    struct task *t = check_handle(L);
    int n = lua_gettop(L) - 1;
    int is_parked = t != NULL && t->state == TASK_YIELDED && t->op == OP_PARK && lua_checkstack(t->co, n + 1);

    /* A handler that waits in request:write is parked too, but not for anybody. */
    if (is_parked && t->is_private)
        is_parked = 0;
    if (is_parked) {
        lua_xmove(L, t->co, n);
        task_wake(t, n);
    }
    lua_pushboolean(L, is_parked);
    return 1;
}

/***
 * Ends a task: it does not go on, and what it has `<close>` is closed. While it waits for a database, that is awaited first.
 * @function task:cancel
 * @treturn boolean false when it was over
 */
static int l_task_cancel(lua_State *L)
{
    struct task *t = check_handle(L);

    if (t != NULL)
        task_cancel(t);
    lua_pushboolean(L, t != NULL);
    return 1;
}

/***
 * What a task does.
 * @function task:status
 * @treturn string "running", "waiting", "ready" (about to go on) or "dead"
 */
static int l_task_status(lua_State *L)
{
    const struct task *t = check_handle(L);

    lua_pushstring(L, t == NULL                 ? "dead"
                      : t->state == TASK_RUNNING ? "running"
                      : t->op == OP_READY        ? "ready"
                                                 : "waiting");
    return 1;
}

static int l_task_tostring(lua_State *L)
{
    const struct task *t = check_handle(L);

    lua_pushfstring(L, TASK_MT ": %s", t == NULL ? "dead" : "alive");
    return 1;
}

static const luaL_Reg task_methods[] = {
    {"wake", l_task_wake},
    {"cancel", l_task_cancel},
    {"status", l_task_status},
    {NULL, NULL},
};

static const luaL_Reg task_meta[] = {
    {"__tostring", l_task_tostring},
    {NULL, NULL},
};

#endif
