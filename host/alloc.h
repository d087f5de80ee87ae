/* alloc.h: the allocator of the program's own Lua state. */
#ifndef ATELIER_ALLOC_H
#define ATELIER_ALLOC_H

#include <stddef.h>

/* As lua_Alloc. For one state, in one thread; `ud` is not used. */
void *pooled_alloc(void *ud, void *block, size_t old_size, size_t new_size);

#endif
