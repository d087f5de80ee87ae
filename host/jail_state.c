/*
 * jail_state.c: one run of a script in the child, and the loading of what all runs share.
 *
 * Owns: the run's record (jail_run), the budget hook, the signal handlers, and the rule that a verdict is decided by
 * flags and not by errors: a script can catch an error, so a limit that is hit replies and ends the process from
 * wherever it is noticed. Must not know how a message travels, nor which functions a script may call.
 */
#include "jail_state.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include <lauxlib.h>

#include "jail_alloc.h"

#define HOOK_EVERY 100      /* instructions between two looks; the cost of a hook hardly depends on it */
#define DEEPEST 200         /* frames that are searched for a script's line */
#define SIGNAL_STACK 65536
#define COLLECT_FROM (1024u * 1024) /* bytes, at most: below, a collection costs more than the garbage */

/* Ahead of a call that does not return, the address sanitizer looks for the stack's bounds in a file: not in here. */
#define ENDS_PROCESS __attribute__((no_sanitize_address))

struct jail_run jail_run;

/* ==== where, and what went wrong =============================================================== */

static struct jail_script *find_in(struct jail_scripts *scripts, const char *name, size_t size)
{
    for (size_t i = 0; i < scripts->n; i++) {
        struct jail_script *s = &scripts->list[i];
        if (s->name_size == size && memcmp(s->name, name, size) == 0)
            return s;
    }
    return NULL;
}

struct jail_script *jail_find_script(const char *name, size_t size)
{
    struct jail_script *s = find_in(&jail_run.personal, name, size);
    const struct jail_script *m = &jail_run.script;

    if (s == NULL && m->name_size == size && memcmp(m->name, name, size) == 0)
        s = &jail_run.script;
    return s != NULL ? s : find_in(&jail_run.shared, name, size);
}

/* Chunks are named "=NAME"; a script can name its own chunks, and may name them after itself. */
static int locate_in(lua_State *L, struct jail_fault *fault)
{
    lua_Debug ar;

    for (int level = 0; level < DEEPEST && lua_getstack(L, level, &ar); level++) {
        size_t size;

        if (!lua_getinfo(L, "Sl", &ar) || ar.currentline <= 0 || ar.source[0] != '=')
            continue;
        size = strlen(ar.source + 1);
        if (size > JAIL_MAX_NAME || jail_find_script(ar.source + 1, size) == NULL)
            continue;
        memcpy(fault->script, ar.source + 1, size + 1);
        fault->line = (uint32_t)ar.currentline;
        return 1;
    }
    return 0;
}

void jail_locate(lua_State *L, struct jail_fault *fault)
{
    fault->script[0] = '\0';
    fault->line = 0;
    if (L != NULL && !locate_in(L, fault) && jail_run.main != NULL && L != jail_run.main)
        locate_in(jail_run.main, fault);
}

/*
 * "NAME:LINE: reason" of a known script: place and reason. Lua shortens a long name, so only as much is compared.
 * Returns the length of the place.
 */
static size_t split_place(const struct jail_script *s, const char *message, size_t size, struct jail_fault *fault)
{
    size_t n = s->name_size < LUA_IDSIZE - 1 ? s->name_size : LUA_IDSIZE - 1;
    size_t i = n + 1;
    uint32_t line = 0;

    if (n == 0 || size < n + 4 || memcmp(message, s->name, n) != 0 || message[n] != ':')
        return 0;
    while (i < size && message[i] >= '0' && message[i] <= '9' && line < 100000000)
        line = line * 10 + (uint32_t)(message[i++] - '0');
    if (i == n + 1 || i + 1 >= size || message[i] != ':' || message[i + 1] != ' ')
        return 0;
    memcpy(fault->script, s->name, s->name_size);
    fault->script[s->name_size] = '\0';
    fault->line = line;
    return i + 2;
}

static size_t find_place(const char *message, size_t size, struct jail_fault *fault)
{
    const struct jail_scripts *all[] = {&jail_run.personal, &jail_run.shared};
    size_t n = split_place(&jail_run.script, message, size, fault);

    if (n == 0)
        n = split_place(&jail_run.prelude, message, size, fault);
    for (size_t i = 0; n == 0 && i < 2; i++)
        for (size_t k = 0; n == 0 && k < all[i]->n; k++)
            n = split_place(&all[i]->list[k], message, size, fault);
    return n;
}

void jail_note(struct jail_fault *fault, int verdict, const char *message, size_t size)
{
    size_t skip;

    if (fault->verdict != JAIL_OK)
        return;
    fault->verdict = verdict;
    /* An error that passes a coroutine.wrap gets one more place ahead: the innermost is where it happened. */
    while ((skip = find_place(message, size, fault)) > 0) {
        message += skip;
        size -= skip;
    }
    fault->message_size = size < sizeof fault->message ? size : sizeof fault->message;
    memcpy(fault->message, message, fault->message_size);
}

/* A script that Lua does not take. The first decides the verdict; all are told. */
static void note_syntax(const struct jail_script *script, const char *message, size_t size)
{
    struct jail_fault *fault;

    if (jail_run.nfaults == JAIL_MAX_FAULTS)
        return;
    fault = &jail_run.faults[jail_run.nfaults++];
    memset(fault, 0, sizeof *fault);
    memcpy(fault->script, script->name, script->name_size);
    jail_note(fault, JAIL_SYNTAX, message, size);
}

/* ==== the end of a run, from wherever ========================================================== */

ENDS_PROCESS void jail_abort(int verdict, const char *message)
{
    struct jail_fault *fault = &jail_run.fault;

    jail_run.running = 0;
    if (verdict == JAIL_MEMORY && jail_run.pending.line > 0) {
        memcpy(fault->script, jail_run.pending.script, sizeof fault->script);
        fault->line = jail_run.pending.line;
    } else {
        jail_locate(jail_run.current, fault);
    }
    fault->verdict = verdict;
    fault->message_size = strlen(message);
    memcpy(fault->message, message, fault->message_size);
    jail_reply();
    _exit(0);
}

ENDS_PROCESS void jail_charge(lua_State *L, uint64_t instructions)
{
    jail_run.current = L;
    jail_run.instructions += instructions;
    if (jail_run.instructions <= jail_run.limits.instructions || !jail_run.running)
        return;
    if (jail_run.limits.without & JAIL_STICKY)
        luaL_error(L, "the instruction budget is spent");
    jail_abort(JAIL_INSTRUCTIONS, "more instructions than the limit allows");
}

/* The collector is stopped at first: most runs end before they would need it, and it makes a tenth of their time. */
static void start_collector(lua_State *L)
{
    jail_run.collecting = 1;
    lua_gc(L, LUA_GCRESTART);
}

static void hook(lua_State *L, lua_Debug *ar)
{
    if (!jail_run.collecting && (jail_heap.used > COLLECT_FROM || jail_heap.used > jail_heap.cap / 4))
        start_collector(L);
    jail_charge(L, ar->event == LUA_HOOKCOUNT ? HOOK_EVERY : 1);
}

static void memory_pending(void)
{
    if (jail_run.running)
        jail_locate(jail_run.current, &jail_run.pending);
}

static void memory_refused(void)
{
    if (jail_run.running && !(jail_run.limits.without & JAIL_STICKY))
        jail_abort(JAIL_MEMORY, "more memory than the limit allows");
}

/* A thread that is freed must not be looked at by a handler. */
static void block_freed(void *block, size_t size)
{
    char *thread = (char *)jail_run.current;

    if (thread >= (char *)block && thread < (char *)block + size)
        jail_run.current = jail_run.main;
}

/* ==== signals ================================================================================== */

/*
 * Also ends calls into C that no hook interrupts. It is late by no more than the machine is; the parent's timer is the wall.
 * The alarm of the run before may still come when this one has begun: its time is not this one's.
 */
ENDS_PROCESS static void on_alarm(int number)
{
    (void)number;
    if (jail_run.running && jail_now() - jail_run.started >= (int64_t)jail_run.limits.time_us)
        jail_abort(JAIL_TIME, "more time than the limit allows");
}

ENDS_PROCESS static void on_processor_time(int number)
{
    (void)number;
    if (jail_run.running)
        jail_abort(JAIL_TIME, "more processor time than the limit allows");
    _exit(1);
}

/* Damage: tries once to say where. Should that fail too, the signal ends the process, and the parent knows as much. */
ENDS_PROCESS static void on_damage(int number)
{
    if (!jail_run.running)
        _exit(128 + number);
    jail_abort(JAIL_CRASH, number == SIGSEGV || number == SIGBUS ? "the interpreter crashed: invalid memory access"
                                                                 : "the interpreter crashed");
}

static void handle(int number, void (*handler)(int), int flags)
{
    struct sigaction action = {.sa_handler = handler, .sa_flags = flags};

    sigemptyset(&action.sa_mask);
    sigaction(number, &action, NULL);
}

static int set_handlers(uint32_t without)
{
    const stack_t stack = {.ss_sp = malloc(SIGNAL_STACK), .ss_size = SIGNAL_STACK};
    /* Meant for the worker, by a Control-C or whoever ends all of a service: the child ends with its channel. */
    static const int others[] = {SIGTERM, SIGINT, SIGHUP, SIGQUIT};
    sigset_t none;

    if (stack.ss_sp == NULL || sigaltstack(&stack, NULL) < 0)
        return 0;
    for (int number = 1; number < SIGRTMIN; number++)
        if (number != SIGKILL && number != SIGSTOP)
            signal(number, SIG_DFL);
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++)
        signal(others[i], SIG_IGN);
    if (!(without & JAIL_ALARM))
        handle(SIGALRM, on_alarm, SA_ONSTACK | SA_RESTART);
    else
        signal(SIGALRM, SIG_IGN);
    handle(SIGXCPU, on_processor_time, SA_ONSTACK);
    handle(SIGSEGV, on_damage, SA_ONSTACK | SA_RESETHAND);
    handle(SIGBUS, on_damage, SA_ONSTACK | SA_RESETHAND);
    handle(SIGFPE, on_damage, SA_ONSTACK | SA_RESETHAND);
    handle(SIGILL, on_damage, SA_ONSTACK | SA_RESETHAND);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    return 1;
}

static void set_alarm(uint64_t us)
{
    const struct itimerval t = {.it_value = {.tv_sec = (time_t)(us / 1000000), .tv_usec = (suseconds_t)(us % 1000000)}};
    setitimer(ITIMER_REAL, &t, NULL);
}

/* The kernel counts a process's processor time over all its runs, in seconds: the limit moves along. */
static void allow_processor_time(void)
{
    struct timespec used;
    struct rlimit r;
    rlim_t need;

    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used);
    need = (rlim_t)used.tv_sec + (rlim_t)(jail_run.limits.time_us / 1000000) + 2;
    if (getrlimit(RLIMIT_CPU, &r) == 0 && r.rlim_cur != RLIM_INFINITY && r.rlim_cur < need) {
        r.rlim_cur = need < r.rlim_max ? need : r.rlim_max;
        setrlimit(RLIMIT_CPU, &r);
    }
}

/* ==== a state ================================================================================== */

struct piece {
    const char *p;
    size_t n;
};

static const char *next_piece(lua_State *L, void *ud, size_t *n)
{
    struct piece *piece = ud;

    (void)L;
    *n = piece->n;
    piece->n = 0;
    return *n > 0 ? piece->p : NULL;
}

/* As Lua does for files: a byte order mark, and a first line that begins with '#'; line numbers stay right. */
static struct piece skip_head(const char *p, size_t n)
{
    if (n >= 3 && memcmp(p, "\xef\xbb\xbf", 3) == 0) {
        p += 3;
        n -= 3;
    }
    if (n > 0 && *p == '#') {
        while (n > 0 && *p != '\n') {
            p++;
            n--;
        }
    }
    return (struct piece){p, n};
}

int jail_load_script(lua_State *L, struct jail_script *script)
{
    struct piece piece = skip_head(script->text, script->text_size);
    char name[JAIL_MAX_NAME + 2] = "=";
    int status;

    memcpy(name + 1, script->name, script->name_size);
    name[script->name_size + 1] = '\0';
    if (script->code != NULL) {
        piece = (struct piece){script->code, script->code_size};
        return lua_load(L, next_piece, &piece, name, "b");
    }
    status = lua_load(L, next_piece, &piece, name, "t");
    if (status == LUA_ERRSYNTAX) {
        size_t size;
        const char *message = lua_tolstring(L, -1, &size);
        if (!script->parsed)
            note_syntax(script, message, size);
    }
    script->parsed = 1;
    return status;
}

struct line_reader {
    struct piece rest;
    uint32_t given;
};

static const char *next_line(lua_State *L, void *ud, size_t *n)
{
    struct line_reader *reader = ud;
    const char *p = reader->rest.p;
    const char *end = reader->rest.n > 0 ? memchr(p, '\n', reader->rest.n) : NULL;

    (void)L;
    *n = end != NULL ? (size_t)(end - p) + 1 : reader->rest.n;
    reader->rest.p += *n;
    reader->rest.n -= *n;
    reader->given++;
    return *n > 0 ? p : NULL;
}

/* The line at which the parser gives up without saying where: it is read anew, and the last line that is asked for is it. */
static uint32_t line_of_overflow(lua_State *L, const struct jail_script *script)
{
    struct line_reader reader = {.rest = skip_head(script->text, script->text_size)};
    int status = lua_load(L, next_line, &reader, "=", "t");

    lua_pop(L, 1);
    return status == LUA_ERRRUN ? reader.given : 0;
}

/*
 * Where no script runs yet, all that Lua will not load is the text's fault: expressions that are nested too deeply are no
 * syntax error to Lua ("C stack overflow").
 */
static int load_outermost(lua_State *L, struct jail_script *script)
{
    int status = jail_load_script(L, script);

    if (status == LUA_ERRRUN) {
        uint32_t line = line_of_overflow(L, script);
        size_t noted = jail_run.nfaults, size;
        const char *message = lua_tolstring(L, -1, &size);
        note_syntax(script, message != NULL ? message : "", message != NULL ? size : 0);
        if (jail_run.nfaults > noted && jail_run.faults[noted].line == 0)
            jail_run.faults[noted].line = line;
    }
    return status;
}

static void begin(void)
{
    memset(&jail_run.fault, 0, sizeof jail_run.fault);
    memset(&jail_run.pending, 0, sizeof jail_run.pending);
    memset(jail_run.calls, 0, sizeof jail_run.calls);
    jail_run.nfaults = 0;
    jail_run.output_size = 0;
    jail_run.instructions = 0;
    jail_run.main = jail_run.current = NULL;
    jail_heap_reset(jail_run.limits.memory, !(jail_run.limits.without & JAIL_ALLOCATOR));
    jail_run.started = jail_now();
    allow_processor_time();
    jail_run.running = 1;
    if (!(jail_run.limits.without & JAIL_ALARM))
        set_alarm(jail_run.limits.time_us);
    jail_run.main = lua_newstate(jail_heap_alloc, NULL);
    jail_run.current = jail_run.main;
    if (jail_run.main == NULL)
        jail_abort(JAIL_MEMORY, "more memory than the limit allows");
}

/*
 * The message handler of the outermost call: it sees the stack as it was. Runs without hooks, so no script runs here.
 * `load` calls it, too, for errors of the parser that it then returns: the last call is the one that counts, if any.
 */
static int on_error(lua_State *L)
{
    struct jail_fault *fault = &jail_run.fault;
    char text[64];
    size_t size;
    const char *message;

    if (lua_type(L, 1) == LUA_TSTRING) {
        message = lua_tolstring(L, 1, &size);
    } else {
        snprintf(text, sizeof text, "error object is a %s value", luaL_typename(L, 1));
        message = text;
        size = strlen(text);
    }
    memset(fault, 0, sizeof *fault);
    jail_locate(L, fault);
    jail_note(fault, JAIL_ERROR, message, size);
    return 1;
}

/* Decides what the flags and the status say together. A syntax error that was caught by a script is one still. */
static void conclude(int status)
{
    static const char memory[] = "more memory than the limit allows";
    struct jail_fault *fault = &jail_run.fault;

    jail_run.running = 0;
    if (status == LUA_ERRMEM || jail_heap.refused || jail_heap.pending_size != 0) {
        memset(fault, 0, sizeof *fault);
        jail_note(fault, JAIL_MEMORY, memory, sizeof memory - 1);
        memcpy(fault->script, jail_run.pending.script, sizeof fault->script);
        fault->line = jail_run.pending.line;
    } else if (jail_run.nfaults > 0) {
        *fault = jail_run.faults[0];
    } else if (status == LUA_OK) {
        memset(fault, 0, sizeof *fault);
    } else if (status != LUA_ERRRUN || fault->verdict == JAIL_OK) {
        memset(fault, 0, sizeof *fault);
        jail_note(fault, JAIL_ERROR, "error in error handling", 23);
    }
}

static int start_prelude(lua_State *L)
{
    if (jail_run.prelude.text == NULL)
        return 0;
    if (jail_load_script(L, &jail_run.prelude) != LUA_OK)
        return lua_error(L);
    lua_pushvalue(L, lua_upvalueindex(1)); /* what a prelude is given */
    lua_call(L, 1, 0);
    return 1;
}

static int run_protected(lua_State *L)
{
    jail_run.collecting = (jail_run.limits.without & JAIL_HOOK) != 0;
    if (!jail_run.collecting)
        lua_gc(L, LUA_GCSTOP);
    jail_library_open(L); /* leaves what a prelude is given */
    lua_pushcclosure(L, start_prelude, 1);
    if (!(jail_run.limits.without & JAIL_HOOK))
        lua_sethook(L, hook, LUA_MASKCOUNT | LUA_MASKCALL, HOOK_EVERY);
    lua_call(L, 0, 0);
    if (load_outermost(L, &jail_run.script) == LUA_OK)
        lua_call(L, 0, 0);
    else if (jail_run.nfaults == 0)
        lua_error(L);
    /* A sibling that this run had no use for must at least be Lua. */
    for (size_t i = 0; jail_run.check_all && i < jail_run.personal.n; i++) {
        struct jail_script *s = &jail_run.personal.list[i];
        if (!s->parsed && load_outermost(L, s) == LUA_ERRMEM)
            lua_error(L);
        lua_settop(L, 0);
    }
    return 0;
}

static int call(lua_CFunction f)
{
    lua_State *L = jail_run.main;

    lua_pushcfunction(L, on_error);
    lua_pushcfunction(L, f);
    return lua_pcall(L, 0, 0, 1);
}

void jail_state_run(void)
{
    begin();
    conclude(call(run_protected));
}

void jail_state_drop(void)
{
    jail_run.main = jail_run.current = NULL;
    jail_heap_reset(0, 0);
}

/* ==== what all runs share ====================================================================== */

/* The code of all shared scripts, one after the other; read-only once it is whole. */
struct code {
    char *p;
    size_t n, room;
};

static int add_code(lua_State *L, const void *p, size_t n, void *ud)
{
    struct code *code = ud;

    (void)L;
    if (n > code->room - code->n) {
        size_t room = code->room * 2 + n + 65536;
        char *grown = realloc(code->p, room);
        if (grown == NULL)
            return 1;
        code->p = grown;
        code->room = room;
    }
    memcpy(code->p + code->n, p, n);
    code->n += n;
    return 0;
}

/* Parses in text mode and keeps the dump, which is trusted because we made it. Returns its size, 0: none. */
static size_t compile(lua_State *L, struct jail_script *script, struct code *code)
{
    size_t before = code->n;

    if (load_outermost(L, script) == LUA_ERRMEM)
        lua_error(L);
    if (lua_type(L, -1) == LUA_TFUNCTION && lua_dump(L, add_code, code, 0) != 0)
        luaL_error(L, "not enough memory for the code of all scripts");
    lua_pop(L, 1);
    return code->n - before;
}

static struct code code;

static int load_protected(lua_State *L)
{
    for (size_t i = 0; i < jail_run.shared.n; i++) {
        struct jail_script *s = &jail_run.shared.list[i];
        s->code_size = compile(L, s, &code);
    }
    if (jail_run.prelude.text != NULL)
        jail_run.prelude.code_size = compile(L, &jail_run.prelude, &code);
    return 0;
}

/* Gives each script its part of the code, in memory that a damaged interpreter cannot simply write to. */
static int seal_code(void)
{
    char *p = code.n == 0 ? NULL : mmap(NULL, code.n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (p == MAP_FAILED)
        return 0;
    if (code.n > 0) {
        memcpy(p, code.p, code.n);
        mprotect(p, code.n, PROT_READ);
    }
    free(code.p);
    code.p = NULL;
    for (size_t i = 0; i < jail_run.shared.n; i++) {
        jail_run.shared.list[i].code = p;
        p += jail_run.shared.list[i].code_size;
    }
    if (jail_run.prelude.text != NULL)
        jail_run.prelude.code = p;
    return 1;
}

static int try_prelude(lua_State *L)
{
    jail_library_open(L);
    lua_pushcclosure(L, start_prelude, 1);
    lua_sethook(L, hook, LUA_MASKCOUNT | LUA_MASKCALL, HOOK_EVERY);
    lua_call(L, 0, 0);
    return 0;
}

void jail_state_load(void)
{
    begin();
    conclude(call(load_protected));
    if (jail_run.fault.verdict == JAIL_OK && !seal_code())
        jail_abort(JAIL_MEMORY, "not enough memory for the code of all scripts");
    if (jail_run.fault.verdict != JAIL_OK)
        return;
    jail_run.ncalls = 0;
    begin();
    conclude(call(try_prelude));
}

int jail_state_open(const struct jail_limits *limits)
{
    lua_State *L;
    int ok;

    jail_run.limits = *limits;
    jail_run.output = malloc(limits->output + 1);
    jail_run.faults = calloc(JAIL_MAX_FAULTS, sizeof *jail_run.faults);
    jail_heap.on_pending = memory_pending;
    jail_heap.on_refused = memory_refused;
    jail_heap.on_free = block_freed;
    if (jail_run.output == NULL || jail_run.faults == NULL || !jail_heap_open() || !set_handlers(limits->without))
        return 0;
    jail_heap_reset(0, 0);
    L = lua_newstate(jail_heap_alloc, NULL);
    if (L == NULL)
        return 0;
    lua_pushcfunction(L, jail_library_learn);
    ok = lua_pcall(L, 0, 0, 0) == LUA_OK;
    return ok;
}
