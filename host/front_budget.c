/*
 * front_budget.c: the script budget.
 *
 * Owns: a timer on the CPU time of the loop's thread, and the hook that ends a slice. CPU time, so that a machine under load
 * or a slow disk does not end what did nothing wrong, and so that an idle process is never woken. Must not know tasks.
 *
 * The hook is set by the timer's signal only once a slice is over its budget: a hook that always counts would slow every
 * instruction of every handler. It ends the slice by yielding, which no pcall can catch; where Lua cannot yield (inside
 * table.sort and the like) it raises at every instruction until the coroutine is unwound. A coroutine that a script makes
 * itself runs with a counting hook from birth, since a signal cannot find it.
 *
 * What a hook cannot stop is one long call into C (a pattern that backtracks, a huge string.rep). A slice of
 * STUCK_SLICES budgets ends the process: whoever supervises it starts a new one.
 */
#include "front_budget.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <lauxlib.h>

#ifndef sigev_notify_thread_id
#define sigev_notify_thread_id _sigev_un._tid
#endif

#define TICK_MS 10
#define NESTED_COUNT 10000 /* instructions between two looks, inside a script's own coroutine */
#define STUCK_SLICES 200

static struct {
    lua_State *volatile co;     /* whose slice runs; NULL between slices */
    volatile sig_atomic_t ticks; /* of CPU time in this slice */
    volatile sig_atomic_t over;
    int limit; /* ticks */
    int ended; /* the hook made the slice yield */
    int slice_ms;
    timer_t timer;
    struct sigaction before;
    int is_open;
} budget;

/* ==== the hook ================================================================================= */

static void on_count(lua_State *L, lua_Debug *ar)
{
    (void)ar;
    if (!budget.over) {
        if (L == budget.co) /* armed at the very end of an earlier slice */
            lua_sethook(L, NULL, 0, 0);
        return;
    }
    if (lua_isyieldable(L)) {
        if (L == budget.co)
            budget.ended = 1;
        lua_yield(L, 0);
        return;
    }
    lua_sethook(L, on_count, LUA_MASKCOUNT, 1);
    luaL_error(L, "%s", budget_text());
}

static void give_up(void)
{
    static const char text[] = "a script has been stuck inside one call for too long: the process ends\n";
    ssize_t n = write(STDERR_FILENO, text, sizeof text - 1);

    (void)n;
    _exit(70);
}

/* The signal: only flags and lua_sethook, as in the stand-alone interpreter. */
static void on_tick(int signal_number)
{
    lua_State *co = budget.co;

    (void)signal_number;
    if (co == NULL || ++budget.ticks <= budget.limit)
        return;
    budget.over = 1;
    lua_sethook(co, on_count, LUA_MASKCOUNT, 1);
    if (budget.ticks > budget.limit * STUCK_SLICES)
        give_up();
}

/* ==== slices =================================================================================== */

void budget_begin(lua_State *co)
{
    budget.ended = 0;
    budget.over = 0;
    budget.ticks = 0;
    budget.co = co;
}

int budget_end(lua_State *co)
{
    budget.co = NULL;
    if (budget.over)
        lua_sethook(co, NULL, 0, 0);
    return budget.ended;
}

const char *budget_text(void)
{
    static char text[80];

    snprintf(text, sizeof text, "script ran for more than %d ms without waiting", budget.slice_ms);
    return text;
}

int budget_open(int slice_ms)
{
    struct sigaction action;
    struct sigevent event;
    struct itimerspec every = {.it_interval.tv_nsec = TICK_MS * 1000000L, .it_value.tv_nsec = TICK_MS * 1000000L};

    memset(&action, 0, sizeof action);
    memset(&event, 0, sizeof event);
    action.sa_handler = on_tick;
    action.sa_flags = SA_RESTART;
    event.sigev_notify = SIGEV_THREAD_ID;
    event.sigev_signo = SIGVTALRM;
    event.sigev_notify_thread_id = (pid_t)syscall(SYS_gettid);
    budget.slice_ms = slice_ms;
    budget.limit = (slice_ms + TICK_MS - 1) / TICK_MS;
    budget.co = NULL;
    if (sigaction(SIGVTALRM, &action, &budget.before) != 0)
        return 0;
    if (timer_create(CLOCK_THREAD_CPUTIME_ID, &event, &budget.timer) != 0) {
        int err = errno;
        sigaction(SIGVTALRM, &budget.before, NULL);
        errno = err;
        return 0;
    }
    timer_settime(budget.timer, 0, &every, NULL);
    budget.is_open = 1;
    return 1;
}

void budget_close(void)
{
    if (!budget.is_open)
        return;
    budget.is_open = 0;
    timer_delete(budget.timer);
    sigaction(SIGVTALRM, &budget.before, NULL);
}

/* ==== coroutines that scripts make ============================================================= */

static void guard(lua_State *co)
{
    if (co != NULL)
        lua_sethook(co, on_count, LUA_MASKCOUNT, NESTED_COUNT);
}

/* coroutine.create: the original is the upvalue. */
static int guarded_create(lua_State *L)
{
    lua_pushvalue(L, lua_upvalueindex(1));
    lua_insert(L, 1);
    lua_call(L, lua_gettop(L) - 1, 1);
    guard(lua_tothread(L, -1));
    return 1;
}

/* coroutine.wrap gives a C closure whose upvalue is the coroutine. */
static int guarded_wrap(lua_State *L)
{
    lua_pushvalue(L, lua_upvalueindex(1));
    lua_insert(L, 1);
    lua_call(L, lua_gettop(L) - 1, 1);
    if (lua_getupvalue(L, -1, 1) != NULL) {
        guard(lua_tothread(L, -1));
        lua_pop(L, 1);
    }
    return 1;
}

static void replace(lua_State *L, const char *name, lua_CFunction with)
{
    lua_getfield(L, -1, name);
    if (lua_iscfunction(L, -1) && lua_tocfunction(L, -1) != with) {
        lua_pushcclosure(L, with, 1);
        lua_setfield(L, -2, name);
    } else {
        lua_pop(L, 1);
    }
}

void budget_guard_coroutines(lua_State *L)
{
    if (lua_getglobal(L, "coroutine") == LUA_TTABLE) {
        replace(L, "create", guarded_create);
        replace(L, "wrap", guarded_wrap);
    }
    lua_pop(L, 1);
}
