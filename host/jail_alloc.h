/*
 * jail_alloc.h: the memory of one Lua state that may be dropped whole, with a cap that cannot be caught.
 */
#ifndef ATELIER_JAIL_ALLOC_H
#define ATELIER_JAIL_ALLOC_H

#include <stddef.h>

struct jail_heap {
    size_t used, peak, cap;
    int capped;              /* 0: count only */
    int refused;             /* a request was refused for good */
    const void *pending;     /* the block of a request that was refused once, */
    size_t pending_size;     /* and its size; 0 = none */
    void (*on_pending)(void); /* called at a first refusal: where is the script now? */
    void (*on_refused)(void); /* called when a refusal is final; need not return */
    void (*on_free)(void *block, size_t size);
};

/* Gets the arena. Returns 0 when there is no memory for it. Once in the life of the process. */
int jail_heap_open(void);

/* Prepares for a new state; drops all of the last one and wipes what it wrote. */
void jail_heap_reset(size_t cap, int capped);

/* lua_Alloc. */
void *jail_heap_alloc(void *ud, void *block, size_t old_size, size_t new_size);

/* The one heap of the process. */
extern struct jail_heap jail_heap;

#endif
