/***
 * Durable files, written by a few threads: `put` returns at once, `wait` tells how it went.
 *
 * Owns: a folder's descriptor, the threads, and the rule that a file appears under its name whole and synced, or not
 * at all. A sync is mostly waiting, so several in flight share one journal commit of the file system: that is what the
 * threads are for. They touch no Lua state. Knows nothing of keys, templates or storage rules.
 * @module atelier.fs
 */
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "managed.h"

#define POOL_MT "atelier.fs.pool"
#define MAX_THREADS 64
#define MAX_PARTS 16
#define MAX_NAME 1024
#define FILE_MODE 0640
#define DIR_MODE 0750

int luaopen_atelier_fs(lua_State *L);

/* One file to write. The parts point into Lua strings that the pool's user value keeps alive until the job is freed. */
struct job {
    struct job *next;
    lua_Integer ticket;
    char name[MAX_NAME];     /* relative to the pool's folder */
    char source[PATH_MAX];   /* a file to take over, when there are no parts */
    int nparts;
    struct iovec parts[MAX_PARTS];
    atomic_int done;         /* set under the pool's lock, once all else is */
    int err;                 /* an errno, 0 = written and synced */
    const char *step;        /* what failed */
};

struct pool {
    int root;                /* descriptor of the folder, -1 = closed */
    pid_t owner;             /* a forked child has the struct, but none of the threads */
    int nthreads, stopping;
    lua_Integer last_ticket;
    struct job *todo, **todo_end; /* not begun, oldest first */
    struct job *all[256];    /* not yet waited for, by ticket */
    const struct job *awaited; /* whose end the owner sleeps for, or NULL */
    pthread_mutex_t lock;
    pthread_cond_t work, finished;
    pthread_t threads[MAX_THREADS];
};

#define SLOTS (sizeof((struct pool *)0)->all / sizeof(struct job *))

/* ==== one file, in a thread ==================================================================== */

static atomic_ulong temporary_number;

/* Syncs the folder at `fd`, so that the names in it last. */
static int sync_folder(int fd, const char **step)
{
    *step = "sync folder";
    return fsync(fd) == 0 ? 0 : errno;
}

/* Opens folder `name` in `parent`, making it (and the entry in the parent durable) where it is missing. */
static int enter_folder(int parent, const char *name, int *folder, const char **step)
{
    int err, made = 0;

    *step = "open folder";
    *folder = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (*folder < 0 && errno == ENOENT) {
        *step = "make folder";
        if (mkdirat(parent, name, DIR_MODE) == 0)
            made = 1;
        else if (errno != EEXIST) /* another thread or process was first: fine */
            return errno;
        *folder = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    }
    if (*folder < 0)
        return errno;
    err = made ? sync_folder(parent, step) : 0;
    if (err != 0)
        close(*folder);
    return err;
}

/* Opens the folder that is to hold `name`; `*base` is then the part of the name after its last slash. */
static int enter_folders(int root, const char *name, int *folder, const char **base, const char **step)
{
    int at = root;

    for (const char *slash; (slash = strchr(name, '/')) != NULL; name = slash + 1) {
        char part[NAME_MAX + 1];
        int inner, err;

        snprintf(part, sizeof part, "%.*s", (int)(slash - name), name);
        err = enter_folder(at, part, &inner, step);
        if (at != root)
            close(at);
        if (err != 0)
            return err;
        at = inner;
    }
    *base = name;
    *folder = at != root ? at : fcntl(root, F_DUPFD_CLOEXEC, 0);
    return *folder >= 0 ? 0 : errno;
}

static int write_parts(int fd, struct iovec *parts, int n)
{
    while (n > 0) {
        ssize_t written = writev(fd, parts, n);
        if (written < 0 && errno == EINTR)
            continue;
        if (written < 0)
            return errno;
        while (n > 0 && (size_t)written >= parts->iov_len) {
            written -= (ssize_t)parts->iov_len;
            parts++, n--;
        }
        if (n > 0) {
            parts->iov_base = (char *)parts->iov_base + written;
            parts->iov_len -= (size_t)written;
        }
    }
    return 0;
}

/* The source is on another file system: its bytes are copied in the kernel. */
static int copy_source(int fd, const char *source)
{
    int from = open(source, O_RDONLY | O_CLOEXEC | O_NOFOLLOW), err = 0;
    ssize_t n = 1;

    if (from < 0)
        return errno;
    while (n > 0 || (n < 0 && errno == EINTR))
        n = sendfile(fd, from, NULL, 1 << 20);
    if (n < 0)
        err = errno;
    close(from);
    return err;
}

/* A file that is being written. It has no name yet, so that a crash leaves nothing; `name` is of a dot file, or "". */
struct draft {
    int fd;
    char name[NAME_MAX + 1];
};

/* A dot file of ours, where the file system has no unnamed files. A name that a former process left is passed over. */
static int create_named(int folder, struct draft *draft)
{
    do {
        snprintf(draft->name, sizeof draft->name, ".%ld.%lu.tmp", (long)getpid(),
                 atomic_fetch_add(&temporary_number, 1));
        draft->fd = openat(folder, draft->name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, FILE_MODE);
    } while (draft->fd < 0 && errno == EEXIST);
    return draft->fd >= 0 ? 0 : errno;
}

/* Also a third cheaper in the kernel than a dot file that is renamed: one entry is made, none removed. */
static int create_draft(int folder, struct draft *draft)
{
    draft->name[0] = '\0';
    draft->fd = openat(folder, ".", O_WRONLY | O_TMPFILE | O_CLOEXEC, FILE_MODE);
    if (draft->fd >= 0)
        return 0;
    return errno == EOPNOTSUPP || errno == EISDIR || errno == EINVAL ? create_named(folder, draft) : errno;
}

static int fill(int fd, struct job *job)
{
    int err;

    job->step = "write";
    err = job->source[0] != '\0' ? copy_source(fd, job->source) : write_parts(fd, job->parts, job->nparts);
    if (err != 0)
        return err;
    job->step = "sync";
    return fsync(fd) == 0 ? 0 : errno;
}

/* Gives the synced file its name, unless that is taken. */
static int name_draft(int folder, const struct draft *draft, const char *base, struct job *job)
{
    char path[32];

    job->step = "name";
    if (draft->name[0] != '\0')
        return renameat2(folder, draft->name, folder, base, RENAME_NOREPLACE) == 0 ? 0 : errno;
    snprintf(path, sizeof path, "/proc/self/fd/%d", draft->fd);
    return linkat(AT_FDCWD, path, folder, base, AT_SYMLINK_FOLLOW) == 0 ? 0 : errno;
}

/* A source on the same file system is synced where it is and only gets its name; EXDEV when it is on another. */
static int take_over(int folder, const char *base, struct job *job)
{
    int fd, err;

    job->step = "open source";
    fd = open(job->source, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return errno;
    job->step = "sync source";
    err = fsync(fd) == 0 ? 0 : errno;
    close(fd);
    if (err != 0)
        return err;
    job->step = "name";
    return renameat2(AT_FDCWD, job->source, folder, base, RENAME_NOREPLACE) == 0 ? 0 : errno;
}

static int write_new(int folder, const char *base, struct job *job)
{
    struct draft draft;
    int err;

    job->step = "create";
    err = create_draft(folder, &draft);
    if (err != 0)
        return err;
    err = fill(draft.fd, job);
    if (err == 0)
        err = name_draft(folder, &draft, base, job);
    if (close(draft.fd) != 0 && err == 0)
        err = errno;
    if (err != 0 && draft.name[0] != '\0')
        unlinkat(folder, draft.name, 0);
    return err;
}

static int perform(int root, struct job *job)
{
    const char *base;
    int folder, err, written;

    err = enter_folders(root, job->name, &folder, &base, &job->step);
    if (err != 0)
        return err;
    err = job->source[0] != '\0' ? take_over(folder, base, job) : EXDEV;
    written = err == EXDEV;
    if (written)
        err = write_new(folder, base, job);
    if (err == 0)
        err = sync_folder(folder, &job->step);
    /* Not before: a crash could keep this and lose the new name, and the file would be nowhere. */
    if (err == 0 && written && job->source[0] != '\0')
        unlink(job->source);
    close(folder);
    return err;
}

static void *thread_main(void *arg)
{
    struct pool *pool = arg;

    pthread_mutex_lock(&pool->lock);
    for (;;) {
        struct job *job = pool->todo;
        int err, is_awaited;

        if (job == NULL && pool->stopping)
            break;
        if (job == NULL) {
            pthread_cond_wait(&pool->work, &pool->lock);
            continue;
        }
        pool->todo = job->next;
        if (pool->todo == NULL)
            pool->todo_end = &pool->todo;
        pthread_mutex_unlock(&pool->lock);
        err = perform(pool->root, job);
        pthread_mutex_lock(&pool->lock);
        is_awaited = pool->awaited == job;
        job->err = err;
        atomic_store(&job->done, 1); /* from now on it may be freed */
        if (is_awaited) { /* not under the lock: who wakes would only wait for that */
            pthread_mutex_unlock(&pool->lock);
            pthread_cond_signal(&pool->finished);
            pthread_mutex_lock(&pool->lock);
        }
    }
    pthread_mutex_unlock(&pool->lock);
    return NULL;
}

/* ==== the pool ================================================================================= */

static struct pool *check_pool(lua_State *L, int arg)
{
    struct pool *pool = luaL_checkudata(L, arg, POOL_MT);
    luaL_argcheck(L, pool->root >= 0, arg, "pool is closed");
    luaL_argcheck(L, pool->owner == getpid(), arg, "pool belongs to another process");
    return pool;
}

/* Lets the threads finish what was put and joins them. */
static void pool_stop(struct pool *pool)
{
    pthread_mutex_lock(&pool->lock);
    pool->stopping = 1;
    pthread_cond_broadcast(&pool->work);
    pthread_mutex_unlock(&pool->lock);
    for (int i = 0; i < pool->nthreads; i++)
        pthread_join(pool->threads[i], NULL);
    pthread_cond_destroy(&pool->finished);
    pthread_cond_destroy(&pool->work);
    pthread_mutex_destroy(&pool->lock);
}

/*
 * Frees everything. Idempotent. In a forked child the lock may be held for ever, and the conditions wait for threads
 * that are not there: it leaves them alone, and the files are the parent's to write.
 */
static void pool_close(struct pool *pool)
{
    if (pool->root < 0)
        return;
    if (pool->owner == getpid())
        pool_stop(pool);
    for (size_t i = 0; i < SLOTS; i++)
        free(pool->all[i]);
    close(pool->root);
    pool->root = -1;
    managed_live--;
}

static void pool_init_sync(struct pool *pool)
{
    pthread_condattr_t monotonic;

    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_mutex_init(&pool->lock, NULL);
    pthread_cond_init(&pool->work, NULL);
    pthread_cond_init(&pool->finished, &monotonic);
    pthread_condattr_destroy(&monotonic);
}

/* Starts up to `n` threads; an errno when that is not all. They take no signal: the program waits for those. */
static int pool_start(struct pool *pool, int n)
{
    sigset_t all, before;
    int err = 0;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    while (err == 0 && pool->nthreads < n) {
        err = pthread_create(&pool->threads[pool->nthreads], NULL, thread_main, pool);
        pool->nthreads += err == 0;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return err;
}

/***
 * Opens a folder for durable writing.
 * @function pool
 * @tparam string folder an existing folder
 * @tparam[opt=8] integer threads how many files may be synced at the same time, 1 to 64
 * @treturn[1] pool
 * @return[2] nil
 * @treturn[2] string message
 * @treturn[2] string code: the errno's symbol
 */
static int l_pool(lua_State *L)
{
    size_t len;
    const char *folder = luaL_checklstring(L, 1, &len);
    lua_Integer threads = luaL_optinteger(L, 2, 8);
    struct pool *pool;
    int err;

    luaL_argcheck(L, strlen(folder) == len, 1, "must not contain a NUL");
    luaL_argcheck(L, threads >= 1 && threads <= MAX_THREADS, 2, "must be between 1 and 64 threads");
    pool = lua_newuserdatauv(L, sizeof *pool, 1);
    memset(pool, 0, sizeof *pool);
    pool->root = -1;
    pool->owner = getpid();
    pool->todo_end = &pool->todo;
    luaL_setmetatable(L, POOL_MT);
    lua_newtable(L);
    lua_setiuservalue(L, -2, 1);
    pool->root = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (pool->root < 0)
        return fail_errno(L, errno, "open folder", folder);
    managed_live++;
    pool_init_sync(pool);
    err = pool_start(pool, (int)threads);
    if (pool->nthreads == 0) { /* fewer than asked for is only slower */
        pool_close(pool);
        return fail_errno(L, err, "start thread", folder);
    }
    return 1;
}

/* A name inside the folder: no empty part, no dot file (those are ours), no NUL, nothing that leads out. */
static void check_name(lua_State *L, int arg)
{
    size_t len;
    const char *name = luaL_checklstring(L, arg, &len), *part = name;

    luaL_argcheck(L, len > 0 && len < MAX_NAME && strlen(name) == len, arg, "must have 1 to 1,023 bytes and no NUL");
    for (;;) {
        size_t n = strcspn(part, "/");
        luaL_argcheck(L, n > 0 && n <= NAME_MAX && part[0] != '.', arg,
                      "each part of the name must have 1 to 255 bytes and not begin with a dot");
        if (part[n] == '\0')
            return;
        part += n + 1;
    }
}

/*
 * Fills the job's parts from the array at `arg` and leaves a private copy of the array on the stack: the strings must
 * live even when the caller changes his. Everything is checked before anything is acquired.
 */
static size_t check_parts(lua_State *L, int arg, struct iovec parts[MAX_PARTS])
{
    lua_Unsigned n;

    luaL_checktype(L, arg, LUA_TTABLE);
    n = lua_rawlen(L, arg);
    luaL_argcheck(L, n <= MAX_PARTS, arg, "must have at most 16 parts");
    lua_createtable(L, (int)n, 0);
    for (lua_Unsigned i = 1; i <= n; i++) {
        if (lua_rawgeti(L, arg, (lua_Integer)i) != LUA_TSTRING)
            luaL_argerror(L, arg, "every part must be a string");
        parts[i - 1].iov_base = (void *)(uintptr_t)lua_tolstring(L, -1, &parts[i - 1].iov_len);
        lua_rawseti(L, -2, (lua_Integer)i);
    }
    return (size_t)n;
}

/* The next ticket's slot: a free one, unless none is. A ticket that nobody collects must not hold up the others. */
static size_t pool_find_slot(struct pool *pool)
{
    for (size_t i = 1; i < SLOTS && pool->all[(size_t)(pool->last_ticket + 1) % SLOTS] != NULL; i++)
        pool->last_ticket++;
    return (size_t)(pool->last_ticket + 1) % SLOTS;
}

/* Queues the job and returns its ticket; the slot was seen free. */
static lua_Integer pool_enqueue(struct pool *pool, struct job *job)
{
    job->ticket = ++pool->last_ticket;
    pool->all[(size_t)job->ticket % SLOTS] = job;
    pthread_mutex_lock(&pool->lock);
    *pool->todo_end = job;
    pool->todo_end = &job->next;
    pthread_mutex_unlock(&pool->lock);
    pthread_cond_signal(&pool->work);
    return job->ticket;
}

/***
 * Begins to write one file, making folders as needed. Returns at once. The file appears under its name only when its
 * bytes are synced, and never replaces another.
 * @function pool:put
 * @tparam string name path below the pool's folder; no part begins with a dot
 * @tparam {string,...}|string source the bytes, as up to 16 parts in order; or the path of a file to take over
 *   (moved where it is on the same file system, else copied and removed)
 * @treturn[1] integer ticket, for `wait`
 * @return[2] nil
 * @treturn[2] string message
 * @treturn[2] string code: "busy" when 256 puts wait to be collected
 */
static int l_put(lua_State *L)
{
    struct pool *pool = check_pool(L, 1);
    struct iovec parts[MAX_PARTS];
    const char *source = NULL;
    size_t nparts = 0, slot, len = 0;
    struct job *job;

    check_name(L, 2);
    lua_settop(L, 3);
    if (lua_type(L, 3) == LUA_TSTRING)
        source = lua_tolstring(L, 3, &len), lua_pushvalue(L, 3);
    else
        nparts = check_parts(L, 3, parts);
    luaL_argcheck(L, source == NULL || (len > 0 && len < PATH_MAX && strlen(source) == len), 3, "not a path");
    check_pool(L, 1); /* again, for the last time: what was made above may have run a finaliser that closed it */
    slot = pool_find_slot(pool);
    if (pool->all[slot] != NULL)
        return fail(L, "busy", "put: %s: %d puts wait to be collected", lua_tostring(L, 2), (int)SLOTS);
    lua_getiuservalue(L, 1, 1);
    lua_insert(L, -2);
    lua_rawseti(L, -2, (lua_Integer)slot); /* anchors the strings */
    job = calloc(1, sizeof *job);
    if (job == NULL)
        return fail(L, "ENOMEM", "put: %s: not enough memory", lua_tostring(L, 2));
    snprintf(job->name, sizeof job->name, "%s", lua_tostring(L, 2));
    snprintf(job->source, sizeof job->source, "%s", source != NULL ? source : "");
    job->nparts = (int)nparts;
    memcpy(job->parts, parts, nparts * sizeof *parts);
    lua_pushinteger(L, pool_enqueue(pool, job));
    return 1;
}

static struct timespec deadline_after(lua_Number seconds)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    t.tv_sec += (time_t)seconds;
    t.tv_nsec += (long)((seconds - (lua_Number)(time_t)seconds) * 1e9);
    if (t.tv_nsec >= 1000000000L) {
        t.tv_sec++;
        t.tv_nsec -= 1000000000L;
    }
    return t;
}

/* Waits until the job is done; 0 when the time is over. A mere look costs no system call: workers look after each build. */
static int await(struct pool *pool, const struct job *job, lua_Number seconds)
{
    struct timespec deadline;
    int err = 0;

    if (atomic_load(&job->done) || seconds == 0)
        return atomic_load(&job->done);
    deadline = deadline_after(seconds);
    pthread_mutex_lock(&pool->lock);
    pool->awaited = job;
    while (!atomic_load(&job->done) && err == 0)
        err = pthread_cond_timedwait(&pool->finished, &pool->lock, &deadline);
    pool->awaited = NULL;
    pthread_mutex_unlock(&pool->lock);
    return atomic_load(&job->done);
}

/***
 * Waits for a put. Blocks; never yields. A ticket is collected once.
 * @function pool:wait
 * @tparam integer ticket
 * @tparam[opt=30] number timeout seconds
 * @treturn[1] boolean true: the file is there, synced
 * @return[2] nil: there is no file (with "timeout": not known yet, wait again; when it is the folder that
 *   could not be synced, the file is there but may not last)
 * @treturn[2] string message
 * @treturn[2] string code: "timeout", or the errno's symbol ("EEXIST": the name is taken)
 */
static int l_wait(lua_State *L)
{
    struct pool *pool = check_pool(L, 1);
    lua_Integer ticket = luaL_checkinteger(L, 2);
    lua_Number seconds = luaL_optnumber(L, 3, 30);
    size_t slot = (size_t)ticket % SLOTS;
    struct job *job = pool->all[slot];
    char object[MAX_NAME + 32];
    int err;

    luaL_argcheck(L, ticket > 0 && job != NULL && job->ticket == ticket, 2, "no such ticket, or already collected");
    luaL_argcheck(L, seconds >= 0 && seconds <= 86400, 3, "must be between 0 and 86,400 seconds");
    if (!await(pool, job, seconds))
        return fail(L, "timeout", "put: %s: not synced within %g s", job->name, seconds);
    /* Out of the pool before Lua makes anything: a finaliser may use the pool, or close it. */
    pool->all[slot] = NULL;
    lua_getiuservalue(L, 1, 1);
    lua_pushnil(L);
    lua_rawseti(L, -2, (lua_Integer)slot);
    err = job->err;
    snprintf(object, sizeof object, "%s: %s", job->name, job->step);
    free(job);
    if (err != 0)
        return fail_errno(L, err, "put", object);
    lua_pushboolean(L, 1);
    return 1;
}

/***
 * Finishes what was put, stops the threads, closes the folder. May be called again. In a forked child, which may not
 * use the pool, it only lets go.
 * @function pool:close
 */
static int l_close(lua_State *L)
{
    pool_close(luaL_checkudata(L, 1, POOL_MT));
    return 0;
}

static int l_tostring(lua_State *L)
{
    const struct pool *pool = luaL_checkudata(L, 1, POOL_MT);

    if (pool->root < 0)
        lua_pushliteral(L, "fs.pool: closed");
    else
        lua_pushfstring(L, "fs.pool: %d threads", pool->nthreads);
    return 1;
}

/***
 * How many pools are open.
 * @function live_handles
 * @treturn integer
 */

static const luaL_Reg pool_methods[] = {
    {"put", l_put},
    {"wait", l_wait},
    {"close", l_close},
    {NULL, NULL},
};

static const luaL_Reg pool_meta[] = {
    {"__gc", l_close},
    {"__close", l_close},
    {"__tostring", l_tostring},
    {NULL, NULL},
};

static const luaL_Reg fs_funcs[] = {
    {"pool", l_pool},
    {"live_handles", l_live_handles},
    {NULL, NULL},
};

int luaopen_atelier_fs(lua_State *L)
{
    luaL_checkversion(L);
    luaL_newmetatable(L, POOL_MT);
    luaL_setfuncs(L, pool_meta, 0);
    luaL_newlib(L, pool_methods);
    lua_setfield(L, -2, "__index");
    lua_pop(L, 1);
    luaL_newlib(L, fs_funcs);
    return 1;
}
