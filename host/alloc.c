/*
 * alloc.c: small blocks of the program's own Lua state, from lists of their size.
 *
 * A front spends a quarter of its time in malloc and free otherwise: Lua makes and drops many small blocks, and says
 * their size when it does, so that no block needs a head. What was small once stays with its list until the process
 * ends. Must not know what Lua puts into a block. The jail's states have an allocator of their own, with a cap.
 */
#include "alloc.h"

#include <stdlib.h>
#include <string.h>

#define STEP 16u /* sizes are rounded up to it; also the alignment */
#define SMALL 512u
#define CLASSES (SMALL / STEP + 1)
#define SLAB 65536u

struct free_block {
    struct free_block *next;
};

static struct free_block *free_blocks[CLASSES];
static char *slab;
static size_t slab_left;

static unsigned class_of(size_t size)
{
    return (unsigned)((size + STEP - 1) / STEP);
}

static void *take(size_t size)
{
    unsigned class = class_of(size);
    struct free_block *block;

    if (size > SMALL)
        return malloc(size);
    block = free_blocks[class];
    if (block != NULL) {
        free_blocks[class] = block->next;
        return block;
    }
    if (slab_left < class * STEP) { /* what is left of the old one is less than a block: it is let go */
        slab = malloc(SLAB);
        slab_left = slab != NULL ? SLAB : 0;
        if (slab == NULL)
            return NULL;
    }
    slab_left -= class * STEP;
    return slab + slab_left;
}

static void give_back(void *block, size_t size)
{
    if (size > SMALL) {
        free(block);
    } else {
        struct free_block *f = block;
        f->next = free_blocks[class_of(size)];
        free_blocks[class_of(size)] = f;
    }
}

static void *move(void *block, size_t old_size, size_t new_size)
{
    void *moved;

    if (old_size > SMALL && new_size > SMALL)
        return realloc(block, new_size);
    if (old_size <= SMALL && new_size <= SMALL && class_of(old_size) == class_of(new_size))
        return block;
    moved = take(new_size);
    if (moved == NULL)
        return new_size < old_size ? block : NULL; /* Lua relies on it that a block can be made smaller */
    memcpy(moved, block, old_size < new_size ? old_size : new_size);
    give_back(block, old_size);
    return moved;
}

void *pooled_alloc(void *ud, void *block, size_t old_size, size_t new_size)
{
    (void)ud;
    if (block == NULL) /* the old size is a type's tag then */
        return new_size > 0 ? take(new_size) : NULL;
    if (new_size > 0)
        return move(block, old_size, new_size);
    give_back(block, old_size);
    return NULL;
}
