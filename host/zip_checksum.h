/***
 * The checksum of a file that goes into archives as it is, many times.
 *
 * Owns: reading it once. Must not know archives.
 * @submodule atelier.zip
 */
#ifndef ATELIER_ZIP_CHECKSUM_H
#define ATELIER_ZIP_CHECKSUM_H

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include <zlib.h>

#include "managed.h"

enum { CHECKSUM_CHUNK = 256 * 1024 };

/* 0, or an errno. */
static int checksum_file(FILE *f, unsigned char *buffer, uLong *crc, lua_Integer *size)
{
    size_t got;

    do {
        errno = 0;
        got = fread(buffer, 1, CHECKSUM_CHUNK, f);
        *crc = crc32_z(*crc, buffer, got);
        *size += (lua_Integer)got;
    } while (got == CHECKSUM_CHUNK);
    return ferror(f) ? (errno != 0 ? errno : EIO) : 0;
}

/***
CRC-32 of a file, in constant memory.
@function crc32_file
@tparam string path
@treturn[1] integer checksum
@treturn[1] integer size of the file in bytes
@return[2] nil
@treturn[2] string message
@treturn[2] string code an errno symbol
*/
static int l_crc32_file(lua_State *L)
{
    size_t len;
    const char *path = luaL_checklstring(L, 1, &len);
    unsigned char *buffer;
    uLong crc = crc32_z(0, NULL, 0);
    lua_Integer size = 0;
    FILE *f;
    int err;

    luaL_argcheck(L, len > 0 && strlen(path) == len, 1, "not a path");
    f = fopen(path, "rbe");
    if (f == NULL)
        return fail_errno(L, errno, "crc32_file", path);
    buffer = malloc(CHECKSUM_CHUNK);
    err = buffer == NULL ? ENOMEM : checksum_file(f, buffer, &crc, &size);
    free(buffer);
    fclose(f);
    if (err != 0)
        return fail_errno(L, err, "crc32_file", path);
    lua_pushinteger(L, (lua_Integer)crc);
    lua_pushinteger(L, size);
    return 2;
}

#endif
