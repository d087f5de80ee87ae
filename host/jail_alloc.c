/*
 * jail_alloc.c: the allocator of the jail's Lua states.
 *
 * Owns: the count of every byte, the cap, and the blocks: small ones lie in an arena, the others in a list, so that a
 * state is dropped without lua_close (which would walk structures that a script may have damaged). Must not know what
 * Lua puts into a block.
 */
#include "jail_alloc.h"

#include <malloc.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define ARENA (2u * 1024 * 1024)
#define SMALL 512u
#define STEP 16u /* sizes are rounded up to it; also the alignment */
#define CLASSES (SMALL / STEP + 1)

struct free_block {
    struct free_block *next;
};

/* Ahead of each block outside the arena. Its size is a multiple of STEP. */
struct large {
    struct large *prev, *next;
};

struct jail_heap jail_heap;

static char *arena;
static size_t arena_used;
static struct free_block *free_blocks[CLASSES];
static struct large large_blocks = {&large_blocks, &large_blocks};

int jail_heap_open(void)
{
    arena = mmap(NULL, ARENA, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return arena != MAP_FAILED;
}

/* What one run wrote must not be found by the next, not even through a defect of Lua: it may be somebody else's. */
static void drop_large(void)
{
    while (large_blocks.next != &large_blocks) {
        struct large *b = large_blocks.next;
        b->prev->next = b->next;
        b->next->prev = b->prev;
        explicit_bzero(b, malloc_usable_size(b));
        free(b);
    }
}

void jail_heap_reset(size_t cap, int capped)
{
    drop_large();
    explicit_bzero(arena, arena_used);
    arena_used = 0;
    memset(free_blocks, 0, sizeof free_blocks);
    jail_heap.used = jail_heap.peak = 0;
    jail_heap.cap = cap;
    jail_heap.capped = capped;
    jail_heap.refused = 0;
    jail_heap.pending = NULL;
    jail_heap.pending_size = 0;
}

/* ==== blocks =================================================================================== */

static int in_arena(const void *block)
{
    return (const char *)block >= arena && (const char *)block < arena + ARENA;
}

static unsigned class_of(size_t size)
{
    return (unsigned)((size + STEP - 1) / STEP);
}

static void *take_large(size_t size)
{
    struct large *b = malloc(sizeof *b + size);

    if (b == NULL)
        return NULL;
    b->next = &large_blocks;
    b->prev = large_blocks.prev;
    b->prev->next = b;
    large_blocks.prev = b;
    return b + 1;
}

static void *resize_large(void *block, size_t size)
{
    struct large *b = (struct large *)block - 1;
    struct large *moved = realloc(b, sizeof *b + size);

    if (moved == NULL)
        return NULL;
    moved->prev->next = moved;
    moved->next->prev = moved;
    return moved + 1;
}

static void *take(size_t size)
{
    unsigned class = class_of(size);
    void *block;

    if (size > SMALL)
        return take_large(size);
    if (free_blocks[class] != NULL) {
        block = free_blocks[class];
        free_blocks[class] = free_blocks[class]->next;
        return block;
    }
    if (arena_used + (size_t)class * STEP > ARENA)
        return take_large(size);
    block = arena + arena_used;
    arena_used += (size_t)class * STEP;
    return block;
}

static void give_back(void *block, size_t size)
{
    if (in_arena(block)) {
        struct free_block *f = block;
        unsigned class = class_of(size);
        f->next = free_blocks[class];
        free_blocks[class] = f;
    } else {
        struct large *b = (struct large *)block - 1;
        b->prev->next = b->next;
        b->next->prev = b->prev;
        free(b);
    }
}

static void *resize(void *block, size_t old_size, size_t new_size)
{
    void *moved;

    if (!in_arena(block))
        return resize_large(block, new_size);
    if (class_of(old_size) == class_of(new_size))
        return block;
    moved = take(new_size);
    if (moved == NULL)
        return NULL;
    memcpy(moved, block, old_size < new_size ? old_size : new_size);
    give_back(block, old_size);
    return moved;
}

/* ==== the cap ================================================================================== */

/*
 * Lua answers a refusal with a full collection and one more request for the same; only a refusal of that is final. Where
 * it does not ask again (string buffers), the next request is another one, and shows that the first was final.
 */
static void *refuse(const void *block, size_t size)
{
    if (jail_heap.pending_size != 0) {
        jail_heap.refused = 1;
        jail_heap.on_refused();
    }
    jail_heap.pending = block;
    jail_heap.pending_size = size;
    jail_heap.on_pending();
    return NULL;
}

static void settle(const void *block, size_t size)
{
    if (jail_heap.pending != block || jail_heap.pending_size != size) {
        jail_heap.refused = 1;
        jail_heap.on_refused();
    }
    jail_heap.pending = NULL;
    jail_heap.pending_size = 0;
}

static void account(size_t old_size, size_t new_size)
{
    jail_heap.used += new_size - old_size;
    if (jail_heap.used > jail_heap.peak)
        jail_heap.peak = jail_heap.used;
}

void *jail_heap_alloc(void *ud, void *block, size_t old_size, size_t new_size)
{
    void *got;

    (void)ud;
    if (block == NULL)
        old_size = 0; /* Lua passes a type's tag here */
    if (new_size == 0) {
        if (block != NULL) {
            jail_heap.on_free(block, old_size);
            give_back(block, old_size);
            jail_heap.used -= old_size;
        }
        return NULL;
    }
    if (jail_heap.capped && new_size > old_size && new_size - old_size > jail_heap.cap - jail_heap.used)
        return refuse(block, new_size);
    got = block == NULL ? take(new_size) : resize(block, old_size, new_size);
    if (got == NULL) {
        if (new_size > old_size)
            return refuse(block, new_size);
        got = block; /* Lua relies on it that a block can be made smaller */
    }
    if (jail_heap.pending_size != 0 && new_size > old_size)
        settle(block, new_size);
    account(old_size, new_size);
    return got;
}
